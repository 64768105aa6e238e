"""A model as one ordinary Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from mbrl_wrappers.envs.imagined import ImaginedEnv, checked_options
from mbrl_wrappers.envs.starts import Starts
from mbrl_wrappers.seeding import numpy_stream_state, set_numpy_stream_state
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import DynamicsModel, Limits


class ModelEnv(ImaginedEnv, gymnasium.Env[NDArray[Any], Any]):
    """Episodes imagined by a model, ``horizon`` steps long unless the model predicts a failure.

    A predicted failure is a termination. The end of the horizon is a truncation, and so is a prediction that is not
    finite or leaves the limits: the last valid observation is then repeated, with reward 0 and
    ``info["invalid"] = True`` (the key is absent otherwise), and :attr:`num_invalid` counts it.

    ``reset(seed=...)`` fixes starts and model noise. ``reset(options={"obs": obs})`` starts at ``obs (O,)``;
    ``options={"state": state}`` continues from a model state of one row, and needs ``"obs"`` too if the state has no
    ``obs`` field.

    Returns are predictions, not results: ``metadata["is_model"]`` is ``True``, so that evaluation code can tell.

    Args:
        model: predicts the steps; gives the spaces, in environment units.
        starts: a function ``(n, rng) -> (n, O)``, observations ``(M, O)``, or a buffer with ``sample_observations``.
        horizon: steps until truncation, at least 1. Gymnasium's checker wants 2 or more.
        limits: the range that predictions must lie in; by default the model's ``limits``, if any.
        render_mode: only ``None``, a model has no picture.

    Raises:
        TypeError: for spaces or starts that are not supported, and for a render mode: code that always asks for
            pictures, as Stable-Baselines3's ``make_vec_env`` does, takes this error as the sign to go on without.
        ValueError: for a horizon below 1, or starts of the wrong shape.
    """

    metadata: dict[str, Any] = {"render_modes": [], "is_model": True}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self,
        model: DynamicsModel[Any],
        starts: Starts,
        horizon: int,
        *,
        limits: Limits | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            raise TypeError(f"A model cannot be rendered: render_mode must be None, got {render_mode!r}.")
        self._imagine(model, starts, 1, horizon, limits)
        self.observation_space = self._branches.observation_space
        self.action_space = self._branches.action_space
        self.render_mode = None
        self._needs_reset = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode; see the class for ``options``."""
        super().reset(seed=seed)
        options = checked_options(options, {"obs", "state"})
        self._branches.use_streams([self.np_random])
        obs = options.get("obs")
        self._branches.restart(obs=None if obs is None else np.asarray(obs)[None], state=options.get("state"))
        self._needs_reset = False
        return self._branches.obs[0], {}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Advance by one predicted step with an action in environment units.

        Raises:
            ResetNeeded: before the first reset and after the end of an episode.
            ValueError: for an action of the wrong shape, not finite, or not existing.
        """
        if self._needs_reset:
            raise ResetNeeded("The episode is over or was never started: call reset() first.")
        result = self._branches.step(self._gate(np.asarray(action)[None], 1))
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        self._needs_reset = terminated or truncated
        info = {"invalid": True} if result.invalid[0] else {}
        return result.obs[0], float(result.reward[0]), terminated, truncated, info

    def state_dict(self) -> StateDict:
        """Where the episode is, and the random streams."""
        return {
            "branches": self._branches.state_dict(),
            "needs_reset": self._needs_reset,
            "np_random": numpy_stream_state(self.np_random),
            "np_random_seed": self.np_random_seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the model's own is loaded apart from it.

        Raises:
            ValueError: if it is the state of another environment.
        """
        require_keys(state, ("branches", "needs_reset", "np_random", "np_random_seed"), "a ModelEnv")
        self._branches.load_state_dict(state["branches"])
        self._needs_reset, self._np_random_seed = bool(state["needs_reset"]), state["np_random_seed"]
        stream = np.random.default_rng(0)
        set_numpy_stream_state(stream, state["np_random"])
        self._np_random = self._branches.rngs[0] if self._branches.rngs else stream
