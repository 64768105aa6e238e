"""A replay buffer of raw sensor readings, whose batches show what the present model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from mbrl_wrappers.available_memory import check_memory
from mbrl_wrappers.checks import at_least
from mbrl_wrappers.latent.belief_env import SENSORS, SENSORS_BEFORE
from mbrl_wrappers.latent.model import LatentStateSpaceModel
from mbrl_wrappers.latent.sequences import SequenceBatch
from mbrl_wrappers.latent.window_features import window_features
from mbrl_wrappers.seeding import (
    numpy_stream_state,
    seed_at,
    set_numpy_stream_state,
    set_torch_stream_state,
    torch_generator,
    torch_stream_state,
)
from mbrl_wrappers.states import Ring, StateDict, require_keys
from sb3_ext.buffers import MixedReplayBuffer


class BeliefReplayBuffer(MixedReplayBuffer):
    """A :class:`~sb3_ext.MixedReplayBuffer` for agents that see beliefs: every batch infers its features anew.

    It stores the raw sensor readings that :class:`~mbrl_wrappers.latent.BeliefObservation` and
    :class:`~sb3_ext.latent.BeliefVecEnv` put into their infos. A real row of a batch is made of the last ``window``
    steps of its episode: the present model filters them, and the row shows what the filter says before and after the
    last one. So no update mixes features of different weights, as it would if features were stored (Lee et al. 2020,
    SLAC). Which rows are drawn does not depend on the model.

    Args:
        *args: as for :class:`~sb3_ext.MixedReplayBuffer`.
        window: steps that are filtered for each row, fewer where the episode or the memory begins later.
        **kwargs: as for :class:`~sb3_ext.MixedReplayBuffer`.

    Raises:
        TypeError: as there.
        ValueError: as there, and for a window below 1.
    """

    def __init__(self, *args: Any, window: int = 8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.window = at_least("window", window)
        self._latent: LatentStateSpaceModel | None = None
        self._sensors: NDArray[Any] | None = None  # (size, N, O), and what they were before the step:
        self._sensors_before: NDArray[Any] | None = None
        self._age = np.zeros((self.buffer_size, self.n_envs), np.int64)  # steps of the episode before this one
        self._draws = torch_generator(seed_at(self.seed, 2))
        self._envs = np.random.default_rng(seed_at(self.seed, 3))

    def use_model(self, model: LatentStateSpaceModel) -> None:
        """Infer features with ``model``, whatever weights it has when a batch is drawn.

        Raises:
            ValueError: if its features are not what the agent sees, or its transformer cannot look back so far.
        """
        if model.observation_space != self.observation_space:
            raise ValueError(
                f"The agent sees {self.observation_space}, and the features of the model are "
                f"{model.observation_space}: give the environment's wrapper and the callback the same model in the "
                "same form."
            )
        if model.posterior.keeps_inputs and self.window >= model.options.context:
            raise ValueError(
                f"A window of {self.window} steps has {self.window + 1} readings, and the posterior looks back on "
                f"context={model.options.context}: lower replay_buffer_kwargs=dict(window=...)."
            )
        self._latent = model

    # --- what is stored ---------------------------------------------------------------------------------------------

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of every environment with its sensor readings.

        Raises:
            ValueError: for infos without sensor readings, readings that are more than all memory, and for a number that
                is not finite; nothing is stored then.
        """
        if any(SENSORS not in info or SENSORS_BEFORE not in info for info in infos):
            raise ValueError(
                "The infos hold no sensor readings, from which features would be inferred: wrap the environment in "
                "BeliefObservation or BeliefVecEnv, without wrappers around it that change infos."
            )
        before, after = (_readings([info[key] for info in infos]) for key in _KEYS)
        if self._sensors is None:
            size = 2 * before.nbytes * self.buffer_size
            check_memory(size, f"{self.buffer_size:,} sensor readings of {before[0].size} entries", "lower buffer_size")
        place, newest = self.pos, (self.pos - 1) % self.buffer_size
        super().add(obs, next_obs, action, reward, done, infos)
        if self._sensors is None or self._sensors_before is None:
            self._sensors, self._sensors_before = (
                np.zeros((self.buffer_size, *before.shape), before.dtype) for _ in range(2)
            )
        goes_on = np.zeros(self.n_envs, bool)
        if self._steps_added > 1:
            goes_on = ~self.dones[newest].astype(bool) & (self._sensors[newest] == before).all(-1)
        self._age[place] = np.where(goes_on, self._age[newest] + 1, 0)
        self._sensors_before[place], self._sensors[place] = before, after

    def recorded_observations(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The raw sensor readings before and after each step, ``(size, N, O)`` each."""
        if self._sensors is None or self._sensors_before is None:
            raise ValueError("The replay buffer is empty: there are no sensor readings yet.")
        return self._sensors_before, self._sensors

    # --- what is inferred -------------------------------------------------------------------------------------------

    def windows(self, step: NDArray[np.int64], env: NDArray[np.int64]) -> SequenceBatch:
        """The windows that end with the stored steps ``step (B,)`` of the environments ``env (B,)``."""
        before, after = self.recorded_observations()
        oldest = self.pos if self.full else 0
        back = np.minimum(np.minimum(self._age[step, env], (step - oldest) % self.buffer_size), self.window - 1)
        time = np.minimum(np.arange(self.window), back[:, None])
        index = (step[:, None] - back[:, None] + time) % self.buffer_size, env[:, None]
        obs = np.concatenate([before[index[0][:, :1], index[1]], after[index]], 1)

        def tensor(array: NDArray[Any]) -> th.Tensor:
            return th.from_numpy(np.ascontiguousarray(array))

        actions = self._model_actions(tensor(self.actions[index].reshape(-1, self.action_dim)))
        return SequenceBatch(
            obs=tensor(obs),
            action=actions.reshape(len(step), self.window, -1),
            reward=tensor(self.rewards[index]),
            terminated=tensor((self.dones * (1.0 - self.timeouts))[index] > 0),
            first=tensor(self._age[step, env] == back),
            length=tensor(back + 2),
        )

    def _inferred(
        self, step: NDArray[np.int64], env: NDArray[np.int64], draws: th.Generator
    ) -> tuple[th.Tensor, th.Tensor]:
        """Features ``(B, F)`` before and after stored steps."""
        if self._latent is None:
            raise ValueError(
                "This buffer has no model to infer features with: pass LatentDynaCallback to learn(), or call "
                "replay_buffer.use_model(model)."
            )
        windows = self.windows(step, env).to(self._latent.device)
        return window_features(self._latent, windows, generator=draws)

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> ReplayBufferSamples:
        """The rows ``batch_inds (B,)``, each of an environment drawn uniformly, with features of now."""
        env_indices = self._envs.integers(self.n_envs, size=len(batch_inds))
        before, after = self._inferred(batch_inds, env_indices, self._draws)
        done = self.dones[batch_inds, env_indices] * (1 - self.timeouts[batch_inds, env_indices])
        return ReplayBufferSamples(
            before.to(self.device),
            self.to_torch(self.actions[batch_inds, env_indices]),
            after.to(self.device),
            self.to_torch(done.reshape(-1, 1)),
            self.to_torch(self._normalize_reward(self.rewards[batch_inds, env_indices].reshape(-1, 1), env)),
        )

    def sample_observations(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """``n`` features ``(n, F)`` inferred anew before steps drawn uniformly: where imagined branches begin."""
        if not self.size():
            raise ValueError("The replay buffer is empty: there is no state to branch from yet.")
        step, env = rng.integers(self.size(), size=n), rng.integers(self.n_envs, size=n)
        features: NDArray[Any] = self._inferred(step, env, torch_generator(rng))[0].cpu().numpy()
        return features

    # --- persistence ------------------------------------------------------------------------------------------------

    def state_dict(self) -> StateDict:
        """That of a :class:`~sb3_ext.MixedReplayBuffer`, the sensor readings, and the streams of the inference."""
        readings = None
        if self._sensors is not None:
            before, after = self.recorded_observations()
            columns = {"before": before, "after": after, "age": self._age}
            filled = {name: column[: self.size()] for name, column in columns.items()}
            readings = Ring(filled, self._steps_added, self.buffer_size)
        return {
            "mixed": super().state_dict(),
            "sensors": readings,
            "envs_stream": numpy_stream_state(self._envs),
            "draws_stream": torch_stream_state(self._draws),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``: what is drawn and added next is what would have been, with the same model.

        Raises:
            ValueError: if it is the state of a buffer of another task or size.
        """
        require_keys(state, ("mixed", "sensors", "envs_stream", "draws_stream"), "a BeliefReplayBuffer")
        readings = state["sensors"]
        if readings is not None:
            columns, count = readings.columns, readings.filled
            if columns["age"].shape != (count, self.n_envs) or columns["before"].shape != columns["after"].shape:
                raise ValueError("The stored sensor readings are those of a buffer of another size.")
        super().load_state_dict(state["mixed"])
        set_numpy_stream_state(self._envs, state["envs_stream"])
        set_torch_stream_state(self._draws, state["draws_stream"])
        self._sensors = self._sensors_before = None
        if readings is None:
            return
        shape = (self.buffer_size, *columns["before"].shape[1:])
        self._sensors_before, self._sensors = (np.zeros(shape, columns["before"].dtype) for _ in range(2))
        for name, array in (("before", self._sensors_before), ("after", self._sensors), ("age", self._age)):
            array[:count] = columns[name]

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle: everything except imagined rows and the model, which has a file of its own."""
        return {**super().__getstate__(), "_latent": None, "_draws": self._draws.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._draws = th.Generator()
        self._draws.set_state(state["_draws"])


_KEYS = (SENSORS_BEFORE, SENSORS)


def _readings(rows: list[Any]) -> NDArray[Any]:
    """Sensor readings ``(N, O)``: float64 stays so, since float32 loses changes far from zero."""
    stacked = np.stack(rows)
    return stacked if stacked.dtype == np.float64 else stacked.astype(np.float32)
