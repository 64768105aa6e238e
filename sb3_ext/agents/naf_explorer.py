"""A controller that takes over some episodes of an agent, for exploration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mbrl_wrappers.checks import within
from mbrl_wrappers.seeding import numpy_stream_state, set_numpy_stream_state
from mbrl_wrappers.states import StateDict, require_keys


class PredictingController(Protocol):
    """What has Stable-Baselines3's ``predict``, such as ``controllers.MPCPolicy``."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[NDArray[Any], Any]:
        """Environment actions ``(N, *shape)`` and the state of the next call."""
        ...


class ExploringController:
    """Lets ``controller`` act through whole episodes, each with a given probability.

    MBA explores with a controller that iLQG makes from the fitted local linear model (Gu et al. 2016, algorithm 2)::

        model = LocalLinearModel(env.observation_space, env.action_space, reward_fn=..., termination_fn=...)
        agent.explore_with(ExploringController(MPCPolicy(model, ILQR(), horizon=10), 0.1))
        agent.learn(10_000, callback=DynaCallback(model, trainer=LocalLinearTrainer(model)))

    Args:
        controller: what acts, on raw observations.
        probability: share of the episodes that it acts in.
        seed: of the choice of episodes.

    Attributes:
        episodes: in which it has acted so far.

    Raises:
        ValueError: for a probability outside of [0, 1].
    """

    def __init__(self, controller: PredictingController, probability: float = 0.1, *, seed: int = 0) -> None:
        self.controller = controller
        self.probability = within("probability", probability, 0, 1)
        self.episodes = 0
        self._rng = np.random.default_rng(seed)
        self._starts: NDArray[np.bool_] | None = None
        self._acts = np.zeros(0, bool)
        self._state: Any = None

    def replaced(self, obs: NDArray[Any], action: NDArray[Any]) -> NDArray[Any]:
        """``action (N, *shape)`` in environment units, with those of the controller in the episodes that it acts in."""
        if self._starts is None or len(self._starts) != len(obs):
            self._starts, self._acts, self._state = np.ones(len(obs), bool), np.zeros(len(obs), bool), None
        drawn = self._rng.random(len(obs)) < self.probability
        self._acts = np.where(self._starts, drawn, self._acts)
        self.episodes += int((self._starts & drawn).sum())
        if not self._acts.any():
            self._starts[:] = False
            return action
        chosen, self._state = self.controller.predict(obs, self._state, self._starts, deterministic=True)
        self._starts = np.zeros(len(obs), bool)
        rows = self._acts.reshape(-1, *(1,) * (action.ndim - 1))
        return np.where(rows, chosen, action).astype(action.dtype)

    def end_episodes(self, dones: NDArray[Any]) -> None:
        """Say which environments ``(N,)`` begin a new episode next."""
        if self._starts is not None:
            self._starts = self._starts | dones.astype(bool)

    def state_dict(self) -> StateDict:
        """Stream, counts, the episodes that the controller acts in, and what it remembers of them.

        Raises:
            TypeError: for a controller whose state cannot be kept, as that of ``controllers.MPCPolicy`` can.
        """
        if self._state is not None and not hasattr(self.controller, "state_from"):
            raise TypeError(
                f"A run checkpoint cannot keep the state of {type(self.controller).__name__}: explore with an "
                "MPCPolicy, or with a controller that has no state."
            )
        return {
            "stream": numpy_stream_state(self._rng),
            "episodes": self.episodes,
            "starts": None if self._starts is None else self._starts.copy(),
            "acts": self._acts.copy(),
            "controller": None if self._state is None else self._state.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: if it is the state of something else.
        """
        require_keys(state, ("stream", "episodes", "starts", "acts", "controller"), "an ExploringController")
        controller: Any = self.controller
        remembered = None if state["controller"] is None else controller.state_from(state["controller"])
        set_numpy_stream_state(self._rng, state["stream"])
        self.episodes, self._state = state["episodes"], remembered
        self._starts, self._acts = state["starts"], state["acts"]
