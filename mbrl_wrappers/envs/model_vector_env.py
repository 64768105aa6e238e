"""A model as a Gymnasium vector environment: one batched prediction per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mbrl_wrappers.envs.branches import BranchStep
from mbrl_wrappers.envs.imagined import ImaginedEnv, checked_options
from mbrl_wrappers.envs.starts import Starts
from mbrl_wrappers.seeding import numpy_stream_state, set_numpy_stream_state
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import DynamicsModel, Limits

StepResult = tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class ModelVectorEnv(ImaginedEnv, VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """``num_envs`` imagined episodes side by side, as :class:`ModelEnv` defines them.

    With a deterministic model, row ``i`` seeded with ``seed`` goes exactly the way of a ``ModelEnv`` seeded with
    ``seed + i``. A row's path does not depend on when the others end.

    The autoreset modes are Gymnasium's. ``SAME_STEP``: the step that ends an episode returns the next episode's first
    observation, and the last one of the old is in ``info["final_obs"]``. ``NEXT_STEP``: the end is returned as it is,
    and the next step ignores the action and returns the new start with reward 0. ``DISABLED``: end rows must be
    restarted with ``reset(options={"reset_mask": mask})``.

    ``info["invalid"]`` marks the rows whose prediction is outside the limits or not finite (in ``info["final_info"]``
    for ``SAME_STEP``).

    Args:
        model: as for :class:`ModelEnv`, and so ``starts``, ``horizon`` and ``limits``; its spaces are the single ones.
        starts: where the episodes begin.
        num_envs: ``N``, at least 1.
        horizon: steps until truncation, at least 1.
        limits: the range that predictions must lie in.
        autoreset_mode: an ``AutoresetMode`` or its value, such as ``"NextStep"``.

    Raises:
        TypeError: as for :class:`ModelEnv`.
        ValueError: as there, and for an unknown mode.
    """

    def __init__(
        self,
        model: DynamicsModel[Any],
        starts: Starts,
        num_envs: int,
        horizon: int,
        *,
        limits: Limits | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self._imagine(model, starts, num_envs, horizon, limits)
        self.num_envs = self._branches.num_rows
        self.single_observation_space = self._branches.observation_space
        self.single_action_space = self._branches.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {"render_modes": [], "is_model": True, "autoreset_mode": self.autoreset_mode}
        self._rngs = []
        self._ended = np.zeros(self.num_envs, bool)  # (N,) over, and not yet restarted

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start all episodes, or those of a mask.

        Args:
            seed: row ``i`` gets ``seed + i``; or one seed per row, ``None`` for rows whose stream goes on.
            options: ``"obs"``: ``(R, O)`` start observations; ``"state"``: a model state of ``R`` rows, with ``"obs"``
                if it has no such field; ``"reset_mask"``: ``(N,)`` bool, the ``R`` rows to start (default all).

        Returns:
            ``(N, O)`` observations of all rows, and an empty info.
        """
        options = checked_options(options, {"obs", "state", "reset_mask"})
        mask = self._checked_mask(options.get("reset_mask"))
        self._seed_rows(seed)
        self._branches.restart(mask, obs=options.get("obs"), state=options.get("state"))
        self._ended &= ~mask
        return self._branches.obs, {}

    def step(self, actions: NDArray[Any]) -> StepResult:
        """Advance every row by one predicted step with actions ``(N, ...)`` in environment units.

        Raises:
            ResetNeeded: before the first reset; with ``DISABLED``, also while a row's episode is over.
            ValueError: for actions of the wrong shape, not finite, or not existing.
        """
        if not self._branches.started:
            raise ResetNeeded("The episodes were never started: call reset() first.")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise ResetNeeded(
                f"The episodes of rows {np.flatnonzero(self._ended).tolist()} are over: restart them with "
                "reset(options={'reset_mask': mask}), or choose another autoreset_mode."
            )
        # Only NEXT_STEP gets here with rows that are over: they sit this step out and start anew.
        over = self._ended
        result = self._branches.step(self._gate(actions, self.num_envs), idle=over)
        self._branches.restart(over)
        self._ended = result.terminated | result.truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos = self._final_infos(result)
            self._branches.restart(self._ended)
            self._ended = np.zeros(self.num_envs, bool)
        else:
            infos = _flagged("invalid", result.invalid)
        return self._branches.obs, result.reward.astype(np.float64), result.terminated, result.truncated, infos

    def state_dict(self) -> StateDict:
        """Where each episode is, and the random streams."""
        return {
            "branches": self._branches.state_dict(),
            "ended": self._ended.copy(),
            "np_random": numpy_stream_state(self.np_random),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the model's own is loaded apart from it.

        Raises:
            ValueError: if it is the state of another environment.
        """
        require_keys(state, ("branches", "ended", "np_random"), "a ModelVectorEnv")
        self._branches.load_state_dict(state["branches"])
        self._rngs, self._ended = self._branches.rngs, state["ended"].copy()
        set_numpy_stream_state(self.np_random, state["np_random"])

    def _final_infos(self, result: BranchStep) -> dict[str, Any]:
        """Last observations and infos of the rows that ended, as Gymnasium's vector environments lay them out."""
        ended = self._ended
        if not ended.any():
            return {}
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final_obs[row] = result.obs[row]
        return {
            "final_obs": final_obs,
            "_final_obs": ended.copy(),
            "final_info": _flagged("invalid", result.invalid),
            "_final_info": ended.copy(),
        }

    def _seed_rows(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None or isinstance(seed, int | np.integer):
            super().reset(seed=None if seed is None else int(seed))
            seeds = [None if seed is None else int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"Expected one seed per row, {self.num_envs}, got {len(seeds)}.")
        if not self._rngs:
            self._rngs = self.np_random.spawn(self.num_envs)
        self._reseed(seeds)

    def _checked_mask(self, mask: object) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, bool)
        array = np.asarray(mask)
        if array.shape != (self.num_envs,) or array.dtype != np.bool_ or not array.any():
            raise ValueError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with at least one True, "
                f"got shape {array.shape} and dtype {array.dtype}."
            )
        if not self._branches.started and not array.all():
            raise ResetNeeded("Start all rows once with reset() before restarting some with a reset_mask.")
        return array


def _flagged(key: str, rows: NDArray[np.bool_]) -> dict[str, Any]:
    """The info of rows ``(N,)`` bool that carry ``key = True`` and of others that lack it."""
    return {key: rows.copy(), f"_{key}": rows.copy()} if rows.any() else {}
