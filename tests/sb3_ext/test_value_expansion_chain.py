"""STEVE's chain of 100 states: a model that is sometimes wrong misleads MVE for good, and STEVE only for a while."""

from __future__ import annotations

import pytest
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.unroll import Unrolled
from sb3_ext.agents.value_expansion_targets import mve, steve

STATES, HORIZON, MEMBERS, CRITICS = 100, 5, 8, 8
WRONG = 0.1
"""How often the model jumps anywhere in place of one state ahead."""


def outcome(following: Tensor) -> tuple[Tensor, Tensor]:
    """Each step costs 1, and the one out of the chain ends it with 100: state ``s`` is worth ``s + 1``."""
    over = following >= STATES
    return th.where(over, 100.0, -1.0), over


def imagined(starts: Tensor, generator: Generator) -> Unrolled:
    """``HORIZON`` steps of the wrong model from ``starts (n,)``."""
    states, alive, rewards, ends = [starts], [starts >= 0], [], []
    for _ in range(HORIZON):
        wrong = th.rand(starts.shape, generator=generator) < WRONG
        anywhere = th.randint(STATES, starts.shape, generator=generator)
        following = th.where(wrong, anywhere, states[-1] + 1)
        reward, over = outcome(following)
        rewards.append(th.where(alive[-1], reward, 0.0))
        ends.append(over & alive[-1])
        alive.append(alive[-1] & ~over)
        states.append(following.clamp(max=STATES - 1))
    obs = th.stack(states)[..., None].float()
    no_action = obs.new_zeros(HORIZON, len(starts), 0)
    return Unrolled(obs, no_action, th.stack(rewards), th.stack(alive), th.stack(ends), None)


def error_after(updates: int, rule: str) -> float:
    """The mean squared error of eight tables of values after so many updates on ten states each."""
    generator = Generator().manual_seed(0)
    values = th.rand(CRITICS, STATES, generator=generator) * STATES
    for _ in range(updates):
        state = th.randint(STATES, (10,), generator=generator)
        reward, over = outcome(state + 1)
        members = MEMBERS if rule == "steve" else 1
        unrolled = imagined((state + 1).clamp(max=STATES - 1).repeat_interleave(members), generator)
        along = values[:, unrolled.obs[..., 0].long()]
        if rule == "steve":
            found = steve(unrolled, along, members=members, discount=1.0, alpha=0.0)
        else:
            found = mve(unrolled, along.mean(0), discount=1.0, alpha=0.0, every_step=False)
        target = reward + th.where(over, 0.0, found.value)
        values[:, state] += 0.3 * (target - values[:, state])
    return float((values - th.arange(1.0, STATES + 1)).square().mean())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_wrong_model_misleads_mve_for_good_and_steve_for_a_while() -> None:
    assert error_after(10_000, "mve") > 500
    assert error_after(10_000, "steve") < 1
