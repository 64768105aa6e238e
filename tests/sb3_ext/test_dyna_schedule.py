"""When the callback fits and rolls out, and how much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers import EnsembleDynamics, FitConfig, FunctionModel, RolloutLength, Trainer
from sb3_ext import DynaCallback, DynaConfig
from tests.sb3_ext.dyna_agents import SMALL, make_agent, oracle_env, small_callback


def test_rollout_length_follows_its_schedule_in_real_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("sb3_ext.callbacks.branched_rollout", _recording(seen))
    config = DynaConfig(
        model_train_freq=20,
        rollout_freq=20,
        rollouts_per_step=2,
        rollout_length=RolloutLength(20, 60, 1, 3),
        min_real_rows=20,
    )
    agent = make_agent(SAC, oracle_env())
    agent.learn(80, callback=small_callback(oracle_env(), config))
    assert seen == [(40, 1), (40, 2), (40, 3), (40, 3)]


def _recording(seen: list[tuple[int, int]]) -> Any:
    from mbrl_wrappers.rollout import branched_rollout

    def record(model: Any, policy: Any, starts: th.Tensor, length: int, **kwargs: Any) -> Any:
        seen.append((len(starts), length))
        return branched_rollout(model, policy, starts, length, **kwargs)

    return record


def test_episode_training_and_two_environments_trigger_on_crossed_thresholds() -> None:
    agent = make_agent(SAC, DummyVecEnv([oracle_env] * 3), train_freq=5, gradient_steps=-1)
    callback = small_callback(
        oracle_env(), DynaConfig(model_train_freq=40, rollout_freq=20, rollouts_per_step=2, min_real_rows=20)
    )
    agent.learn(120, callback=callback)  # rollouts end at 15, 30, 45 ... : fits at 30, 75, 120
    assert callback._fits == 3


def test_a_second_learn_goes_on_with_the_schedule() -> None:
    agent = make_agent(SAC, oracle_env())
    callback = small_callback(oracle_env())
    agent.learn(20, callback=callback)
    for _ in range(15):
        agent.learn(4, callback=callback, reset_num_timesteps=False)
    assert agent.num_timesteps == 80
    assert callback._fits == 4  # at 20, 40, 60 and 80


def test_nothing_is_fitted_before_learning_starts() -> None:
    agent = make_agent(SAC, oracle_env(), learning_starts=50)
    callback = small_callback(oracle_env())
    with pytest.warns(UserWarning, match="learning_starts"):
        agent.learn(49, callback=callback)
    assert callback._fits == 0
    agent.learn(2, callback=callback, reset_num_timesteps=False)
    assert callback._fits == 1


def test_the_first_fit_has_a_cap_of_its_own() -> None:
    caps = []

    class Spy(Trainer):
        def fit(self, *args: Any, **kwargs: Any) -> Any:
            caps.append(kwargs["max_gradient_steps"])
            return super().fit(*args, **kwargs)

    env = oracle_env()
    dynamics = EnsembleDynamics(env.observation_space, env.action_space, hidden=(8,), device="cpu")
    config = replace(SMALL, first_fit_gradient_steps=9)
    callback = DynaCallback(dynamics, config, trainer=Spy(dynamics, FitConfig(max_gradient_steps=2)))
    make_agent(SAC, env).learn(60, callback=callback)
    assert caps == [9, None, None]


def test_a_ring_that_is_too_small_takes_fewer_branches_and_not_only_their_ends() -> None:
    agent = make_agent(SAC, oracle_env(), batch_size=8, replay_buffer_kwargs={"synthetic_size": 12})
    config = replace(SMALL, rollouts_per_step=100, rollout_length=3)
    agent.learn(20, callback=small_callback(oracle_env(), config))
    synthetic = agent.replay_buffer.synthetic
    assert synthetic.capacity == 12
    rows = synthetic.take(np.arange(len(synthetic))).obs
    real = {tuple(row) for row in agent.replay_buffer.real_transitions().obs.tolist()}
    assert sum(tuple(row) in real for row in rows.tolist()) == 4


def test_the_capacity_follows_the_branch_length() -> None:
    agent = make_agent(SAC, oracle_env())
    agent.learn(30, callback=small_callback(oracle_env(), replace(SMALL, rollout_length=4)))
    assert agent.replay_buffer.synthetic.capacity == 3 * 20 * 4


def ending_at_once(obs: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    return obs, obs[:, 0], th.ones(len(obs), dtype=th.bool)


class Ages(BaseCallback):
    """Counts the imagined rows by their age in real steps, each time that the agent is about to train."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[int, int]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.replay_buffer  # type: ignore[attr-defined]
        synthetic = buffer.synthetic
        ages = buffer.real_steps - synthetic._made_at[: len(synthetic)]
        self.seen.append(
            {int(age): int(count) for age, count in zip(*np.unique(ages, return_counts=True), strict=True)}
        )


@pytest.mark.parametrize("n_envs", [1, 2])
def test_imagined_rows_of_branches_that_end_early_live_no_longer(n_envs: int) -> None:
    """Branches of up to five steps that end after one: the buffer has room for five times as many rows."""
    env = oracle_env()
    agent = make_agent(SAC, DummyVecEnv([oracle_env] * n_envs), gradient_steps=0)
    model = FunctionModel(env.observation_space, env.action_space, ending_at_once)
    ages = Ages()
    agent.learn(200, callback=[DynaCallback(model, replace(SMALL, rollout_length=5)), ages])
    assert agent.replay_buffer.synthetic.capacity == 3 * 20 * 5
    assert ages.seen[-1] == {0: 30, 10: 30}
    assert max(max(seen, default=0) for seen in ages.seen) == 20 - n_envs


def test_rounds_follow_the_real_steps_where_training_waits_for_an_episode() -> None:
    """Episodes of 12 steps, a round due every 4 and 2 branches for each step: 24 at a time, the first round too."""
    seen: list[tuple[int, int]] = []
    env = oracle_env()
    agent = make_agent(SAC, env, train_freq=(1, "episode"), gradient_steps=0, learning_starts=0)
    config = DynaConfig(rollout_freq=4, rollouts_per_step=2, retain_steps=24, min_real_rows=10)
    ages = Ages()
    model = FunctionModel(env.observation_space, env.action_space, ending_at_once)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb3_ext.callbacks.branched_rollout", _recording(seen))
        agent.learn(60, callback=[DynaCallback(model, config), ages])
    lengths = [len(episode) for episode in _episodes(agent.replay_buffer)]
    assert [branches for branches, _ in seen] == [2 * length for length in lengths]
    for seen_ages in ages.seen:
        assert max(seen_ages) < 24


def _episodes(buffer: Any) -> list[list[int]]:
    ends = (buffer.real_transitions().last.nonzero()[:, 0] + 1).tolist()
    return [list(range(first, end)) for first, end in zip([0, *ends[:-1]], ends, strict=True)]


def test_uneven_rounds_lose_no_row_before_its_time() -> None:
    """Rounds of 15 steps of three environments fit the retained 20 steps not evenly: both are kept whole."""
    agent = make_agent(SAC, DummyVecEnv([oracle_env] * 3), train_freq=5, gradient_steps=0)
    env, ages = oracle_env(), Ages()
    model = FunctionModel(env.observation_space, env.action_space, ending_at_once)
    agent.learn(120, callback=[DynaCallback(model, SMALL), ages])
    assert ages.seen[-1] == {0: 45, 15: 45}


def test_a_count_of_steps_that_begins_anew_makes_no_row_live_longer() -> None:
    agent = make_agent(SAC, oracle_env(), gradient_steps=0, learning_starts=10)
    env, ages = oracle_env(), Ages()
    callback = DynaCallback(FunctionModel(env.observation_space, env.action_space, ending_at_once), SMALL)
    agent.learn(95, callback=[callback, ages])
    agent.learn(60, callback=[callback, ages])  # num_timesteps is 0 again
    assert all(max(seen, default=0) < 20 for seen in ages.seen)
    assert ages.seen[-1] == {0: 30, 10: 30}


def spied(env: Any) -> tuple[DynaCallback, list[dict[str, Any]]]:
    """A callback, and what its trainer is called with."""
    calls: list[dict[str, Any]] = []

    class Spy(Trainer[EnsembleDynamics]):
        def fit(self, transitions: Any, **kwargs: Any) -> Any:
            calls.append({"transitions": transitions, **kwargs})
            return super().fit(transitions, **kwargs)

    dynamics = EnsembleDynamics(env.observation_space, env.action_space, hidden=(8,), device="cpu")
    return DynaCallback(dynamics, SMALL, trainer=Spy(dynamics, FitConfig(max_gradient_steps=2))), calls


def test_rows_keep_their_numbers_when_the_replay_buffer_is_full() -> None:
    env = oracle_env()
    callback, calls = spied(env)
    make_agent(SAC, env, buffer_size=30, gradient_steps=0).learn(60, callback=callback)
    assert [call["row_ids"].tolist() for call in calls] == [[*range(20)], [*range(10, 40)], [*range(30, 60)]]


def test_a_second_agent_does_not_wait_for_the_schedule_of_the_first() -> None:
    env = oracle_env()
    callback, calls = spied(env)
    make_agent(SAC, env, gradient_steps=0).learn(55, callback=callback)
    second = make_agent(SAC, env, gradient_steps=0, seed=1)
    second.learn(25, callback=callback)
    assert [len(call["row_ids"]) for call in calls] == [20, 40, 20]
    assert calls[-1]["transitions"].obs.equal(second.replay_buffer.real_transitions().obs[:20])


def test_an_agent_that_comes_back_does_not_wait_for_the_schedule_of_another() -> None:
    env = oracle_env()
    callback, calls = spied(env)
    first, second = (make_agent(SAC, env, gradient_steps=0, seed=seed) for seed in (0, 1))
    first.learn(20, callback=callback)
    second.learn(20, callback=callback)
    first.learn(1, callback=callback, reset_num_timesteps=False)
    assert [len(call["row_ids"]) for call in calls] == [20, 20, 21]
    assert calls[-1]["transitions"].obs.equal(first.replay_buffer.real_transitions().obs)
