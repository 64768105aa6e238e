"""Values of the leaves of a search tree, by rollouts or by a value function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch as th
from torch import Tensor

from controllers.problem import PlanningProblem
from controllers.search.counted_model import CountedModel
from mbrl_wrappers.checks import at_least
from mbrl_wrappers.rows import take_rows
from mbrl_wrappers.types import RolloutPolicy

S = TypeVar("S")


@dataclass(frozen=True)
class Rollouts:
    """Settings of the rollouts that continue from a leaf to the horizon.

    Attributes:
        count: rollouts averaged per leaf. With 0 the value is the problem's terminal value, or 0 where it has none.
            None means 0 if the problem has a terminal value, else 1.
        policy: acts in them, for example :class:`sb3_ext.AgentPolicy`; uniformly random when None.
    """

    count: int | None = None
    policy: RolloutPolicy | None = None

    def __post_init__(self) -> None:
        if self.count is not None:
            at_least("count", self.count, 0)


class LeafValues(Generic[S]):
    r"""Values of states that simulations have reached.

    .. math:: V(s_d) = \frac{1}{R} \sum_{i=1}^R \Big[\sum_{t=d}^{\min(T_i, H) - 1} \gamma^{t-d} r_t
              + \gamma^{H-d} V_{end}(s_H) [T_i > H]\Big]

    for ``R`` rollouts of a policy that end at the horizon or a termination; ``V_end`` is the problem's terminal value.
    Without rollouts it is :math:`V_{end}(s_d)` itself, or 0 where there is none.

    Args:
        problem: gives discount, terminal reward and terminal value.
        model: what rollouts run in.
        rollouts: ``R`` and the policy.
    """

    def __init__(self, problem: PlanningProblem[S], model: CountedModel[S], rollouts: Rollouts) -> None:
        self.problem, self.model, self.policy = problem, model, rollouts.policy
        self.rollouts = int(problem.terminal_value is None) if rollouts.count is None else rollouts.count
        self.eye = th.eye(problem.codec.size, device=problem.device)

    def __call__(self, state: S, obs: Tensor, depth: list[int]) -> list[float]:
        """Values of ``B`` rows of ``state`` that show ``obs (B, O)`` at ``depth``; NaN where all rollouts failed."""
        left = self.problem.horizon - th.as_tensor(depth)
        if not self.rollouts:
            return self._end_values(obs).tolist()
        value = th.zeros(len(left), dtype=th.float64)
        value[left == 0] = self._end_values(obs[(left == 0).to(obs.device)])
        open_ended = left.nonzero().squeeze(1)
        if len(open_ended):
            rows = open_ended.repeat_interleave(self.rollouts)
            place = rows.to(obs.device)
            returns = self._returns(take_rows(state, place), obs[place], left[rows])
            value[open_ended] = returns.view(-1, self.rollouts).nanmean(1)
        return value.tolist()

    def _end_values(self, obs: Tensor) -> Tensor:
        """The problem's terminal value ``(B,)`` float64 on the CPU, 0 without one."""
        return self.problem.end_values(obs.float()).detach().double().cpu()

    def _random(self, *shape: int) -> Tensor:
        """Uniformly drawn model actions ``(*shape, A)``."""
        drawn = th.randint(len(self.eye), shape, generator=self.model.generator, device=self.eye.device)
        return self.eye[drawn]

    def _returns(self, state: S, obs: Tensor, left: Tensor) -> Tensor:
        """The return of one rollout of ``left (B,)`` steps per row, ``(B,)`` float64, NaN where it failed."""
        if self.policy is None and self.model.rolls_whole:
            return self._whole_returns(state, left)
        total = th.zeros(len(left), dtype=th.float64)
        rows, weight = th.arange(len(left)), 1.0
        for step in range(1, int(left.max()) + 1):
            action = self._random(len(rows)) if self.policy is None else self._chosen(obs)
            state, prediction = self.model.step(state, action)
            valid, ended = self.model.valid(prediction).cpu(), prediction.terminated.cpu()
            gain = prediction.reward.double().cpu() + self.problem.terminal_reward * ended
            total[rows] += weight * th.where(valid, gain, th.nan)
            weight *= self.problem.discount
            going = valid & ~ended
            arrived = going & (left[rows] == step)
            if self.problem.terminal_value is not None and arrived.any():
                total[rows[arrived]] += weight * self._end_values(prediction.next_obs[arrived.to(obs.device)])
            keep = (going & ~arrived).nonzero().squeeze(1)
            if not len(keep):
                break
            obs = prediction.next_obs
            if len(keep) < len(rows):
                rows, place = rows[keep], keep.to(obs.device)
                state, obs = take_rows(state, place), obs[place]
        return total

    def _whole_returns(self, state: S, left: Tensor) -> Tensor:
        """The same for a model that rolls whole sequences, under random actions."""
        longest = int(left.max())
        whole = self.model.roll(state, self._random(len(left), longest))
        before = th.arange(longest)[None] < left[:, None]  # (B, T) steps inside the horizon
        ended = whole.terminated.cpu() & before
        alive = before & (ended.cumsum(1) - ended.long() == 0)  # up to and with the first termination
        gain = whole.reward.double().cpu() + self.problem.terminal_reward * ended
        gain = th.where(self.model.valid(whole).cpu(), gain, th.nan)
        weight = self.problem.discount ** th.arange(longest, dtype=th.float64)
        total = (th.where(alive, gain, 0.0) * weight).sum(1)
        arrived = (~ended.any(1)).nonzero().squeeze(1)
        if self.problem.terminal_value is not None and len(arrived):
            last = whole.next_obs[arrived.to(whole.next_obs.device), (left[arrived] - 1).to(whole.next_obs.device)]
            total[arrived] += self.problem.discount ** left[arrived].double() * self._end_values(last)
        return total

    def _chosen(self, obs: Tensor) -> Tensor:
        """What the rollout policy does, as model actions ``(B, A)``."""
        assert self.policy is not None
        action = self.policy(obs.float(), generator=self.model.generator)
        wanted = (len(obs), len(self.eye))
        if action.shape != wanted:
            raise ValueError(f"The rollout policy must return model actions {wanted}, got {tuple(action.shape)}.")
        return self.eye[action.argmax(1).to(self.eye.device)]
