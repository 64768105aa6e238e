"""A replay buffer that mixes real transitions with imagined ones inside every batch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from mbrl_wrappers.available_memory import check_memory
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.columns import LARGEST, EndWatch
from mbrl_wrappers.precision import observation_dtype
from mbrl_wrappers.replay import row_numbers
from mbrl_wrappers.seeding import (
    fresh_seed,
    numpy_stream_state,
    seed_at,
    set_numpy_stream_state,
    set_torch_stream_state,
    torch_generator,
    torch_stream_state,
)
from mbrl_wrappers.spaces import ActionCodec, check_action_space, check_observation_space
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import Transitions
from sb3_ext.replay_ring import load_replay_ring, replay_ring
from sb3_ext.synthetic import SyntheticBuffer
from sb3_ext.terminal_observations import UNCLIPPED

FEWEST_SYNTHETIC = 250
"""Stored synthetic rows from which batches of any size are mixed; equals the default ``min_real_rows``."""


class MixedReplayBuffer(ReplayBuffer):
    """SB3's ``ReplayBuffer`` plus a synthetic part that :class:`~sb3_ext.DynaCallback` fills.

    A batch of ``b`` holds ``round(real_ratio * b)`` real rows, at least one while the ratio is positive, and synthetic
    rows for the rest, shuffled (SBX cuts one large batch into minibatches). Batches are all real until as many
    synthetic rows are stored as a batch takes (250 are always enough), so that a few rows cannot fill it. Such
    batches, and those with ``real_ratio=1``, are bit-identical to SB3's: SB3's own code draws every real row.

    Pass it as ``replay_buffer_class`` and the keyword arguments below through ``replay_buffer_kwargs``.

    Args:
        buffer_size: real transitions kept, as in SB3.
        observation_space: one-dimensional float Box.
        action_space: Box or Discrete.
        *args: what else SB3 passes to its replay buffers.
        real_ratio: share of real rows in each batch, in [0, 1] (MBPO uses 0.05).
        synthetic_size: imagined rows kept at most, whatever the callback asks for.
        seed: source of the synthetic draws; by default it follows from the seed of the agent.
        **kwargs: what else SB3 passes to its replay buffers.

    Raises:
        TypeError: for observations or actions that models cannot use (Dict, images, MultiDiscrete ...).
        ValueError: for ``optimize_memory_usage``, numbers out of range, or a buffer that is more than all memory.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        real_ratio: float = 0.05,
        synthetic_size: int = 1_000_000,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        obs_size = check_observation_space(observation_space).shape[0]
        self.codec = ActionCodec(check_action_space(action_space))
        if kwargs.get("optimize_memory_usage"):
            raise ValueError(
                "optimize_memory_usage=True keeps no next observations at episode ends, which the model learns from: "
                "leave it False, and lower buffer_size if memory is short."
            )
        if not kwargs.get("handle_timeout_termination", True):
            raise ValueError(
                "handle_timeout_termination=False hides whether an episode failed or ran out of time, and the model "
                "would learn to terminate at the time limit: leave it True."
            )
        within("real_ratio", real_ratio, 0, 1)
        at_least("synthetic_size", synthetic_size)
        row_bytes = 2 * np.dtype(observation_space.dtype).itemsize * obs_size + 4 * self.codec.size + 12
        check_memory(row_bytes * buffer_size, f"A buffer of {buffer_size:,} transitions", "lower buffer_size")
        super().__init__(buffer_size, observation_space, action_space, *args, **kwargs)
        self.real_ratio = real_ratio
        self.synthetic_size = synthetic_size
        self.seed = _seed_of_agent(action_space) if seed is None else seed
        self.synthetic = SyntheticBuffer(obs_size, self.codec, synthetic_size)
        self._steps_added = 0
        self._ends = EndWatch(obs_size)
        self._doubts_told: set[str] = set()
        self._rng = np.random.default_rng(self.seed)
        self._shuffle = torch_generator(self._rng)

    # --- real data --------------------------------------------------------------------------------------------------

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of every environment.

        Warns once when an episode seems to be stored with the first observation of the next one as its end, and once
        when ``VecNormalize`` has clipped that end: the model would learn a step that the environment never makes.

        Raises:
            ValueError: for a number that is not finite, which is named; nothing is stored then.
        """
        for name, value in (
            ("observation", obs),
            ("next observation", next_obs),
            ("action", action),
            ("reward", reward),
        ):
            finite = np.abs(value) <= LARGEST  # rewards are stored in float32; false for NaN
            if not finite.all():
                where = np.argwhere(~np.atleast_1d(finite))[0].tolist()
                raise ValueError(
                    f"The {name} of environment step {self._steps_added} is not finite at index {where} (environment "
                    "first). Mend the environment or wrap it: a model fitted to such a row would be lost."
                )
        self._check_last_successors(obs)
        super().add(obs, self._true_successors(next_obs, infos), action, reward, done, infos)
        self._steps_added += 1

    def _true_successors(self, next_obs: NDArray[Any], infos: list[dict[str, Any]]) -> NDArray[Any]:
        """``next_obs (N, O)`` with the terminal observations that ``VecNormalize`` has clipped put back."""
        rows = np.array(next_obs).reshape(self.n_envs, *self.obs_shape)
        for row, info in zip(rows, infos, strict=True):
            if UNCLIPPED in info:
                row[:] = info[UNCLIPPED]
            elif info.get("terminal_observation") is not None:
                normalized = np.asarray(info["terminal_observation"])
                # Of VecNormalize nothing else is seen here; its clip_obs is 10 unless the user says otherwise.
                if (np.abs(normalized) == 10).any() and not np.array_equal(normalized, row):
                    self._warn_once(
                        "clipped",
                        "VecNormalize has clipped the last observation of an episode at 10 standard deviations, and "
                        "the replay buffer stores it like that. DynaCallback puts the true one in its place; without "
                        "it raise VecNormalize's clip_obs.",
                    )
        return rows

    def _check_last_successors(self, obs: NDArray[Any]) -> None:
        """Warn if the step before ended an episode and is stored with this ``obs (N, O)`` as its successor."""
        if not self._steps_added:
            return
        newest = (self.pos - 1) % self.buffer_size
        stored, now = self.next_observations[newest], np.asarray(obs).reshape(self.n_envs, *self.obs_shape)
        # VecNormalize and its inverse change the last digits of a terminal observation.
        following = np.where(np.isclose(stored, now, rtol=1e-5, atol=1e-6), stored, now)
        if self._ends.any_lost(self.observations[newest], stored, self.dones[newest].astype(bool), following):
            self._warn_once(
                "successor",
                "The last step of an episode is stored with the first observation of the next one as its successor, "
                "so the model learns a jump from one to the other. Either infos lack 'terminal_observation', or the "
                "environment writes every observation into one array: return a copy of it from reset() and step().",
            )

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._doubts_told:
            self._doubts_told.add(what)
            warnings.warn(text, stacklevel=3)

    @property
    def real_steps(self) -> int:
        """Real steps ever added, over all environments; the age of synthetic rows is measured in them."""
        return self._steps_added * self.n_envs

    @property
    def num_real(self) -> int:
        """Real transitions stored, over all environments."""
        return self.size() * self.n_envs

    def real_transitions(self) -> Transitions:
        """All real rows in raw units, environment after environment, each in time order.

        ``terminated`` excludes time limits. ``last`` is set at every episode end and at the newest row of each
        environment, where the sequence breaks off, and wherever one row does not continue the row before it.
        Observations are float32, or float64 where float32 would lose their changes.
        """
        order = np.arange(self.size())
        if self.full:
            order = (order + self.pos) % self.buffer_size

        def column(array: NDArray[Any]) -> th.Tensor:
            rows = array[order].swapaxes(0, 1)  # (N, T, ...)
            return th.as_tensor(np.ascontiguousarray(rows.reshape(-1, *rows.shape[2:])))

        before, after = self.recorded_observations()
        # A row whose successor is not the next row's observation ends its sequence too: learn() starts with a reset.
        breaks = (after[order[:-1]] != before[order[1:]]).any(-1)
        last = self.dones[order].astype(bool)
        last[:-1] |= breaks
        last[-1:] = True
        exact = observation_dtype(before[order], after[order]) is np.float64
        obs, next_obs = column(before), column(after)
        return Transitions(
            obs=obs if exact else obs.float(),
            action=self._model_actions(column(self.actions)),
            reward=column(self.rewards),
            next_obs=next_obs if exact else next_obs.float(),
            terminated=column(self.dones * (1.0 - self.timeouts)).bool(),
            last=th.as_tensor(last.T.reshape(-1)),
        )

    def recorded_observations(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """What the environment showed before and after each step, ``(size, N, O)`` each, in storage order."""
        return self.observations, self.next_observations

    def row_ids(self) -> th.Tensor:
        """The number of each row of :meth:`real_transitions` in order of collection, ``(B,)`` int64."""
        return row_numbers(self._steps_added, self.size(), self.n_envs)

    def _model_actions(self, stored: th.Tensor) -> th.Tensor:
        # SB3 has scaled Box actions already; Discrete ones are stored as they were sent to the environment.
        return self.codec.encode(stored) if isinstance(self.action_space, spaces.Discrete) else stored.float()

    def sample_observations(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """``n`` observations ``(n, O)`` in raw units, uniform over every stored step of every environment."""
        if not self.size():
            raise ValueError("The replay buffer is empty: there is no state to branch from yet.")
        step = rng.integers(self.size(), size=n)
        env = rng.integers(self.n_envs, size=n)
        observations: NDArray[Any] = self.observations[step, env]
        return observations

    # --- mixing -----------------------------------------------------------------------------------------------------

    def real_rows(self, batch_size: int) -> int:
        """How many rows of a batch are real."""
        if self.real_ratio == 0.0:
            return 0
        return min(max(round(self.real_ratio * batch_size), 1), batch_size)

    def fewest_synthetic(self, batch_size: int) -> int:
        """How many synthetic rows must be stored before a batch takes any.

        As many as the batch takes, at most :data:`FEWEST_SYNTHETIC`: SBX draws the batches of many updates as one.
        """
        return max(min(batch_size - self.real_rows(batch_size), FEWEST_SYNTHETIC), 1)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """A shuffled batch of real and synthetic rows, normalised by ``env`` if there is one."""
        num_real = self.real_rows(batch_size)
        if num_real == batch_size or len(self.synthetic) < self.fewest_synthetic(batch_size):
            return super().sample(batch_size, env=env)
        imagined = self._synthetic_samples(batch_size - num_real, env)
        if num_real == 0:
            return imagined
        real = super().sample(num_real, env=env)
        order = th.randperm(batch_size, generator=self._shuffle).to(self.device)
        pairs = zip(real[:5], imagined[:5], strict=True)
        return ReplayBufferSamples(*(th.cat([a, b])[order] for a, b in pairs))

    def _synthetic_samples(self, count: int, env: VecNormalize | None) -> ReplayBufferSamples:
        rows = self.synthetic.take(self._rng.integers(len(self.synthetic), size=count))
        data = (
            self._normalize_obs(rows.obs, env),
            rows.action,
            self._normalize_obs(rows.next_obs, env),
            rows.terminated,
            self._normalize_reward(rows.reward, env),
        )
        return ReplayBufferSamples(*(self.to_torch(column, copy=False) for column in data))  # type: ignore[arg-type]

    def reserve_synthetic(self, rows: int) -> int:
        """Set how many synthetic rows are kept, up to ``synthetic_size``; returns the bytes they will take."""
        capacity = min(max(rows, 1), self.synthetic_size)
        size = capacity * self.synthetic.row_bytes
        if size > 2**30:
            warnings.warn(
                f"The synthetic buffer will take {size / 2**30:.1f} GiB for {capacity:,} imagined transitions. "
                "Lower replay_buffer_kwargs=dict(synthetic_size=...) if that is too much.",
                stacklevel=2,
            )
        self.synthetic.set_capacity(capacity)
        return size

    # --- persistence ------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget real and synthetic rows."""
        super().reset()
        self._steps_added = 0
        self.synthetic.clear()

    def state_dict(self) -> StateDict:
        """Both parts, their random streams, and what was warned of; views of the buffer, to be written at once."""
        return {
            "real": replay_ring(self, self._steps_added),
            "synthetic": self.synthetic.state_dict(),
            "rows_stream": numpy_stream_state(self._rng),
            "shuffle_stream": torch_stream_state(self._shuffle),
            "ends": self._ends.state_dict(),
            "doubts_told": sorted(self._doubts_told),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``: what is drawn and added next is what would have been.

        Raises:
            ValueError: if it is the state of a buffer of another task or size.
        """
        names = ("real", "synthetic", "rows_stream", "shuffle_stream", "ends", "doubts_told")
        require_keys(state, names, "a MixedReplayBuffer")
        load_replay_ring(self, state["real"])
        self._steps_added = state["real"].written
        self.synthetic.load_state_dict(state["synthetic"])
        set_numpy_stream_state(self._rng, state["rows_stream"])
        set_torch_stream_state(self._shuffle, state["shuffle_stream"])
        self._ends.load_state_dict(state["ends"])
        self._doubts_told = set(state["doubts_told"])

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle: everything except the synthetic rows, which the model can regenerate."""
        state = self.__dict__.copy()
        state["synthetic"] = SyntheticBuffer(self.synthetic.obs_size, self.codec, self.synthetic.capacity)
        state["_shuffle"] = self._shuffle.get_state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shuffle = th.Generator()
        self._shuffle.set_state(state["_shuffle"])


def _seed_of_agent(action_space: spaces.Space[Any]) -> int:
    """A seed that follows from the agent's, which SB3 does not hand to its buffers.

    SB3 seeds the action space with it just before it builds the buffer. The stream of the space is copied, so what it
    draws later stays the same. Without a seed of the agent this is a fresh one.
    """
    stream: np.random.Generator | None = action_space._np_random
    return fresh_seed() if stream is None else seed_at(int(copy.deepcopy(stream).integers(2**62)), 1)
