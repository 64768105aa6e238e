"""Real environments seen through a filter, with one filter call for all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from mbrl_wrappers.latent.belief_env import SENSORS, SENSORS_BEFORE, check_sensors
from mbrl_wrappers.latent.belief_tracker import BeliefTracker, FilteringModel
from mbrl_wrappers.states import StateDict, require_keys


class BeliefVecEnv(VecEnvWrapper):
    """Shows the features of a latent model's beliefs in place of the sensor readings of ``venv``.

    The vector form of :class:`~mbrl_wrappers.latent.BeliefObservation`, to which the same applies. Where a row ends,
    ``infos[i]["terminal_observation"]`` is the belief that the old episode ended with; then the row's belief begins
    anew. Rows do not depend on each other.

    Args:
        venv: real environments whose observations are the sensor readings, not normalised.
        model: filters them.
        seed: of the draws of the filter until ``seed()``.

    Attributes:
        interruptions: how often ``reset()`` broke off episodes under way.

    Raises:
        TypeError: for a model that filters nothing.
        ValueError: if ``venv`` has other spaces than the model was built for.
    """

    def __init__(self, venv: VecEnv, model: FilteringModel[Any], *, seed: int | None = None) -> None:
        self.tracker = BeliefTracker(model, venv.num_envs, seed=seed)
        check_sensors(venv.observation_space, venv.action_space, model)
        self.model = model
        self.interruptions = 0
        self._actions: NDArray[Any] | None = None
        self._sensors: NDArray[Any] | None = None
        super().__init__(venv, observation_space=model.observation_space)

    def seed(self, seed: int | None = None) -> Any:
        """Seed the environments and the draws of the filter."""
        if seed is not None:
            self.tracker.seed(seed)
        return self.venv.seed(seed)

    def for_evaluation(self, venv: VecEnv, *, seed: int | None = None) -> BeliefVecEnv:
        """The same model over other environments, with beliefs of its own.

        Raises:
            ValueError: if ``venv`` holds the environments of this one.
        """
        if share_environments(venv, self):
            raise ValueError(
                "Evaluation in the environments that an agent trains in would end its episodes: make others."
            )
        return BeliefVecEnv(venv, self.model, seed=seed)

    def current(self) -> NDArray[np.float32]:
        """The features ``(N, F)`` of the present beliefs, under the weights that the model has now."""
        return self.tracker.features()

    def reset(self) -> NDArray[np.float32]:
        """Start all rows."""
        self.interruptions += self._actions is not None
        self._sensors = np.array(self.venv.reset())
        self.tracker.begin(np.ones(self.num_envs, bool), self._sensors)
        return self.current()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for the filter and pass them on."""
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Filter what the sensors read, the ends of episodes with their old belief; then restart those rows."""
        assert self._actions is not None, "step_async() comes first"
        assert self._sensors is not None, "reset() comes first"
        shown, rewards, dones, infos = self.venv.step_wait()
        shown = np.array(shown)
        ends = shown.copy()
        for row in np.flatnonzero(dones):
            ends[row] = infos[row]["terminal_observation"]
        self.tracker.follow(self._actions, ends)
        features = self.current()
        for index, info in enumerate(infos):
            info[SENSORS_BEFORE], info[SENSORS] = self._sensors[index].copy(), ends[index].copy()
            if dones[index]:
                info["terminal_observation"] = features[index].copy()
        self._sensors = shown
        if dones.any():
            self.tracker.begin(np.asarray(dones, bool), shown)
            features = self.current()
        return features, rewards, dones, infos

    def state_dict(self) -> StateDict:
        """The beliefs and what the sensors read last; the environments and the model have states of their own."""
        return {
            "tracker": self.tracker.state_dict(),
            "actions": None if self._actions is None else self._actions.copy(),
            "sensors": None if self._sensors is None else self._sensors.copy(),
            "interruptions": self.interruptions,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: if it is the state of something else; nothing is changed then.
        """
        require_keys(state, ("tracker", "actions", "sensors", "interruptions"), "a BeliefVecEnv")
        self.tracker.load_state_dict(state["tracker"])
        self._actions, self._sensors = state["actions"], state["sensors"]
        self.interruptions = int(state["interruptions"])


def share_environments(one: VecEnv, other: VecEnv) -> bool:
    """Whether stepping ``one`` would step an environment of ``other``."""
    mine, theirs = ({id(env.unwrapped) for env in getattr(each.unwrapped, "envs", ())} for each in (one, other))
    return one.unwrapped is other.unwrapped or bool(mine & theirs)
