"""What is held out, what members see of the rest, and which rows are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import (
    EnsembleDynamics,
    FitConfig,
    Trainer,
    Transitions,
)
from mbrl_wrappers.training.dataset import bootstrap_rows, shuffled_batches, split_holdout
from sb3_ext import MixedReplayBuffer
from tests.oracle import OracleEnv
from tests.training.fits import BOX, make_model, oracle_rows


def test_holdout_is_random_capped_seeded_and_never_all_rows() -> None:
    split = split_holdout(th.arange(1000), 0.2, 5000, seed=0)
    assert 160 < len(split.holdout) < 240
    assert not set(split.holdout.tolist()) & set(split.train.tolist())
    assert len(set(split.holdout.tolist()) | set(split.train.tolist())) == 1000
    assert 400 < float(split.holdout.double().mean()) < 600  # not the newest fifth
    assert len(split_holdout(th.arange(100_000), 0.2, 5000, seed=0).holdout) == 5000
    assert split_holdout(th.arange(1000), 0.2, 5000, seed=1).holdout.tolist() != split.holdout.tolist()
    for ratio in (0.001, 0.999):
        tiny = split_holdout(th.arange(10), ratio, 5000, seed=0)
        assert len(tiny.holdout) >= 1
        assert len(tiny.train) >= 1


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("capacity", [10_000, 900])
def test_a_row_that_was_held_out_is_never_learned_from_later(n_envs: int, capacity: int) -> None:
    buffer = MixedReplayBuffer(capacity, BOX, OracleEnv().action_space, device="cpu", n_envs=n_envs)
    learned: set[float] = set()
    stamp = 0.0
    for _ in range(4):
        for _ in range(600 // n_envs):
            reward = stamp + np.arange(n_envs)
            stamp += n_envs
            zero = np.zeros((n_envs, 3))
            buffer.add(zero, zero, np.zeros((n_envs, 2)), reward, np.zeros(n_envs), [{}] * n_envs)
        rows = buffer.real_transitions()
        assert rows.reward.tolist() == buffer.row_ids().tolist()  # the stamp is the order of collection
        split = split_holdout(buffer.row_ids(), 0.2, 5000, seed=0)
        assert not learned & set(rows.reward[split.holdout].tolist())
        learned |= set(rows.reward[split.train].tolist())


def test_bootstrap_is_drawn_once_and_only_its_order_changes_between_epochs() -> None:
    train = th.arange(50, 150)
    rows = bootstrap_rows(train, 3, generator=th.Generator().manual_seed(0))
    assert rows.shape == (3, 100)
    assert all(0.55 < len(set(member.tolist())) / 100 < 0.72 for member in rows)  # 1 - 1/e of them are distinct
    g = th.Generator().manual_seed(1)
    first = th.cat(list(shuffled_batches(rows, 32, generator=g)), 1)
    second = th.cat(list(shuffled_batches(rows, 32, generator=g)), 1)
    assert not th.equal(first, second)
    assert th.equal(first.sort(1).values, rows.sort(1).values)
    assert th.equal(second.sort(1).values, rows.sort(1).values)
    assert th.equal(bootstrap_rows(train, 2, generator=g, resample=False), train.expand(2, 100))


def test_bad_rows_are_named() -> None:
    rows = oracle_rows(50)
    rows.next_obs[13, 1] = th.nan
    with pytest.raises(ValueError, match="Transition 13 has a non-finite next_obs"):
        Trainer(make_model()).fit(rows)
    rows = oracle_rows(50)
    rows.obs[4, 0], rows.next_obs[4, 0] = -3e38, 3e38
    with pytest.raises(ValueError, match="Transition 4 has a non-finite change"):
        Trainer(make_model()).fit(rows)
    with pytest.raises(ValueError, match="at least 10"):
        Trainer(make_model()).fit(oracle_rows(9))


def test_a_ring_never_trains_on_what_it_held_out() -> None:
    trained: set[int] = set()
    held: set[int] = set()
    for end in range(2000, 20_001, 1000):
        ids = th.arange(end - 2000, end)
        split = split_holdout(ids, 0.2, 150, seed=0)
        train, holdout = set(ids[split.train].tolist()), set(ids[split.holdout].tolist())
        assert not holdout & trained
        assert not train & held
        assert 50 < len(holdout) <= 150
        assert len(train) > 1600
        trained, held = trained | train, held | holdout


@pytest.mark.parametrize("capacity", [10_000_000, 3000])
def test_held_out_rows_stay_so_as_rows_arrive_in_any_number(capacity: int) -> None:
    rng, end = np.random.default_rng(0), 10
    trained: set[int] = set()
    held: set[int] = set()
    for _ in range(60):
        ids = th.arange(max(end - capacity, 0), end)[th.as_tensor(rng.permutation(min(end, capacity)))]
        split = split_holdout(ids, 0.2, 400, seed=3)
        train, holdout = set(ids[split.train].tolist()), set(ids[split.holdout].tolist())
        assert 1 <= len(holdout) <= 400
        assert not holdout & trained
        assert not train & held
        trained, held = trained | train, held | holdout
        end += int(rng.integers(1, 400))


def float64(rows: Transitions) -> Transitions:
    return Transitions(*(column.double() if column.is_floating_point() else column.int() for column in rows))


def test_other_dtypes_are_cast() -> None:
    rows = oracle_rows(100)
    config = FitConfig(max_gradient_steps=5)
    plain, cast = make_model(), make_model()
    report = Trainer(plain, config).fit(rows)
    assert replace(Trainer(cast, config).fit(float64(rows)), seconds=0) == replace(report, seconds=0)
    assert Trainer(make_model(), config).fit(rows, row_ids=th.arange(100, dtype=th.int32)).train_rows > 50


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: rows._replace(reward=rows.reward[:, None]), ValueError, r"reward must have shape \(50,\)"),
        (lambda rows: rows._replace(terminated=rows.terminated[:, None]), ValueError, r"terminated must have shape"),
        (lambda rows: rows._replace(last=rows.last[:-1]), ValueError, r"last must have shape \(50,\)"),
        (lambda rows: rows._replace(obs=rows.obs[:, :2]), ValueError, r"obs must have shape \(50, 3\).*\(50, 2\)"),
        (lambda rows: rows._replace(next_obs=rows.obs[:, :2]), ValueError, r"next_obs must have shape \(50, 3\)"),
        (lambda rows: rows._replace(action=rows.action[:, :1]), ValueError, r"action must have shape \(50, 2\)"),
        (lambda rows: rows._replace(action=rows.action[:, 0]), ValueError, r"action must have shape \(50, 2\)"),
        (lambda rows: rows._replace(reward=rows.reward[:-1]), ValueError, r"reward must have shape \(50,\)"),
        (
            lambda rows: Transitions(*(c.numpy() for c in rows)),
            TypeError,
            "obs must be a torch tensor.*TransitionStore",
        ),
        (lambda rows: rows._replace(reward=rows.reward.tolist()), TypeError, "reward must be a torch tensor, got list"),
        (lambda rows: rows._replace(action=3 * rows.action), ValueError, "outside of the model actions.*from_env"),
        (lambda rows: rows._replace(reward=rows.reward.double() * 1e300), ValueError, "non-finite reward"),
    ],
)
def test_columns_that_a_model_cannot_learn_from_are_named(change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Trainer(make_model()).fit(change(oracle_rows(50)))


@pytest.mark.parametrize(
    "row_ids", [th.arange(30), th.arange(50)[:, None], th.arange(50) - 1, th.arange(50.0), th.ones(50, dtype=th.bool)]
)
def test_row_ids_of_other_rows_are_refused(row_ids: th.Tensor) -> None:
    with pytest.raises(ValueError, match="row_ids must be 50 whole numbers"):
        Trainer(make_model()).fit(oracle_rows(50), row_ids=row_ids)


def test_raw_choices_of_a_discrete_space_are_refused() -> None:
    model = EnsembleDynamics(BOX, spaces.Discrete(2), hidden=(8,), device="cpu")
    rows = oracle_rows(50)
    with pytest.raises(ValueError, match="outside of the model actions"):
        Trainer(model).fit(rows._replace(action=th.tensor([[0.0, 2.0]]).repeat(50, 1)))


def test_members_take_the_rows_in_orders_of_their_own() -> None:
    rows = th.arange(40).expand(3, 40)
    orders = th.cat(list(shuffled_batches(rows, 16, generator=th.Generator().manual_seed(0))), 1)
    assert [batch.shape[1] for batch in shuffled_batches(rows, 16, generator=th.Generator())] == [16, 16, 8]
    assert not th.equal(orders[0], orders[1])
    assert not th.equal(orders[1], orders[2])


def test_the_holdout_is_its_formula() -> None:
    for seed in range(40):
        draws = np.random.default_rng(seed).random(400).tolist()
        kept = [i for i in range(400) if draws[i] < max(min(0.2, 12 / (i + 1)), 0.05)]
        kept = sorted({*kept, min(range(10), key=draws.__getitem__)}, key=draws.__getitem__)
        split = split_holdout(th.arange(400), 0.2, 12, seed=seed)
        assert split.holdout.tolist() == sorted(kept[:12])
        assert split.train.tolist() == [i for i in range(400) if i not in kept]
