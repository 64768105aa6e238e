"""Any environment that can be copied, as a model of itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Generator, Tensor

from mbrl_wrappers.copies.copy_trial import check_copies
from mbrl_wrappers.copies.env_copies import copy_env
from mbrl_wrappers.models.live_envs import NOT_STORABLE, AnyEnv, bound_envs, check_spaces, match_rows, spaces_of
from mbrl_wrappers.models.shown_observation import observation_reader
from mbrl_wrappers.objects import Objects
from mbrl_wrappers.seeding import fenced_global_streams
from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_observation_space
from mbrl_wrappers.types import Prediction

Array = NDArray[Any]


class ClonedState(NamedTuple):
    """Snapshots of environments.

    Attributes:
        obs: ``(B, O)``.
        clones: ``(B,)`` environments that nobody steps: a step copies them first. Rows may share one.
        terminated: ``(B,)`` bool, whether the episode has terminated.
        truncated: ``(B,)`` bool, whether the environment itself has truncated it; a ``TimeLimit`` does not count.
    """

    obs: Tensor
    clones: Objects[AnyEnv]
    terminated: Tensor
    truncated: Tensor


class ClonedEnvModel:
    """A live environment, copied and stepped: an exact model of anything that can be copied.

    ``reset(obs)`` copies the live environments, which are only read; a step copies the row's snapshot and steps the
    copy; ``rollout`` copies each row once. Wrappers are copied too. What draws, films, checks or logs is left out
    (renderers, windows, ``RecordVideo``, ``HumanRendering``, ``Monitor`` and the like). A ``TimeLimit`` does not end a
    copy. A row that terminated, or that the environment itself truncated, is not stepped again: it repeats its
    observation with reward 0, and only the former is ``terminated``.

    Copies are tried out at construction: copies of a copy are stepped side by side, and the live environment is
    compared before and after (:func:`~mbrl_wrappers.copies.copy_trial.check_copies`).

    Discrete observations (FrozenLake, Taxi, CliffWalking) are one-hot rows; ``encode`` makes them, and ``reset`` also
    takes the numbers themselves.

    Copies take a fraction of the time of ``copy.deepcopy``, as they share what no step changes; those of MuJoCo tasks
    are slow all the same, and ``MujocoModel`` is for these.

    ``obs`` must be the current observations, of one environment or of several in any order and number of repetitions.
    This is checked where the observation can be recomputed from the environment (classic control, toy text, anything
    with ``_get_obs``; tried out at construction). Elsewhere rows are taken as one block per environment, in order.

    Args:
        env: a Gymnasium environment, a list of them with equal spaces, or a vector environment that has them in this
            process as ``envs``.
        reseed: give every copy that is stepped new random streams, drawn from the ``generator``, so that no plan sees
            the noise that the live environment is going to draw. With False a plan sees it, and in a random environment
            its predicted return is too high. Global streams (numpy, torch, ``random``) are treated alike and restored.

    Attributes:
        exact: True: planners may trust the best plan they find.
        checks_observations: whether ``reset`` can tell which environment shows an observation.

    Raises:
        TypeError: the environment cannot be copied, its copies share something with it that steps change, or its spaces
            are not supported.
    """

    exact = True
    not_storable = NOT_STORABLE

    def __init__(self, env: object, *, reseed: bool = True) -> None:
        self._envs = bound_envs(env, "ClonedEnvModel")
        self._spaces, self._reseed = spaces_of(self._envs), reseed
        self._shown_space: AnySpace = self._envs[0].observation_space
        self.observation_space = _model_space(self._shown_space)
        self.action_space: AnySpace = self._envs[0].action_space
        self.codec = ActionCodec(self.action_space)
        self.device = th.device("cpu")
        self._dtype = th.float64 if self.observation_space.dtype == np.float64 else th.float32
        self._draws_globally = any([check_copies(member) for member in self._envs])
        with fenced_global_streams(None):
            self._read: Callable[[AnyEnv], Any] | None = observation_reader(self._envs[0])
        self.checks_observations = self._read is not None

    @property
    def num_envs(self) -> int:
        """How many environments it is bound to."""
        return len(self._envs)

    def of_envs(self, numbers: Tensor) -> ClonedEnvModel:
        """The same model of the environments ``numbers`` (int64) alone, in this order."""
        model = copy.copy(self)
        model._envs = tuple(self._envs[number] for number in numbers.tolist())
        model._spaces = spaces_of(model._envs)
        return model

    def encode(self, observation: Any) -> Tensor:
        """Observations of the environments ``(B, ...)`` as rows ``(B, O)``: one-hot if they are numbers of states."""
        given = th.as_tensor(np.asarray(observation) if not isinstance(observation, Tensor) else observation)
        space = self._shown_space
        if isinstance(space, spaces.Discrete) and (given.ndim == 1 or given.shape[1:] == (1,) != (int(space.n),)):
            return th.nn.functional.one_hot(given.reshape(-1).long() - int(space.start), int(space.n)).to(self._dtype)
        return given if given.dtype in (th.float32, th.float64) else given.to(self._dtype)

    def reset(self, obs: Tensor, *, generator: Generator) -> ClonedState:
        """Start one trajectory per row of ``obs (B, O)`` from a copy of the environment that shows it.

        Raises:
            ValueError: no environment shows an observation now, or the spaces of one have changed.
        """
        check_spaces(self._envs, self._spaces)
        obs, source = self._matched(self.encode(obs))
        seeds = self._seeds(len(self._envs), generator)
        clones = [copy_env(member, seed) for member, seed in zip(self._envs, seeds, strict=True)]
        none = th.zeros(len(obs), dtype=th.bool)
        return ClonedState(obs, Objects(clones)[source], none, none)

    def step(self, state: ClonedState, action: Tensor, *, generator: Generator) -> tuple[ClonedState, Prediction]:
        """Advance every row with model actions ``(B, A)``; each sees random draws of its own."""
        return self.step_shared(state, action, generator=generator, groups=1)

    def step_shared(
        self, state: ClonedState, action: Tensor, *, generator: Generator, groups: int
    ) -> tuple[ClonedState, Prediction]:
        """Like ``step``, with rows as ``groups`` equal blocks: row ``i`` of every block sees the same random draws."""
        rows = len(action)
        if rows % groups:
            raise ValueError(f"{rows} rows are not {groups} equal blocks.")
        seeds = self._seeds(rows // groups, generator) * groups
        over = (state.terminated | state.truncated).tolist()
        clones = [
            clone if done else copy_env(clone, seed)
            for clone, done, seed in zip(state.clones, over, seeds, strict=True)
        ]
        prediction, truncated = self._roll(clones, seeds, state, action[:, None])
        prediction = Prediction(*(field[:, 0] for field in prediction))
        return ClonedState(prediction.next_obs, Objects(clones), prediction.terminated, truncated), prediction

    def rollout(self, state: ClonedState, actions: Tensor, *, generator: Generator, groups: int = 1) -> Prediction:
        """Predictions ``(B, H, ...)`` of model actions ``(B, H, A)``; the ``groups`` equal blocks share their draws."""
        if len(actions) % groups:
            raise ValueError(f"{len(actions)} rows are not {groups} equal blocks.")
        seeds = self._seeds(len(actions) // groups, generator) * groups
        clones = (copy_env(clone, seed) for clone, seed in zip(state.clones, seeds, strict=True))
        return self._roll(clones, seeds, state, actions)[0]

    def _roll(
        self, clones: Iterable[AnyEnv], seeds: list[int | None], state: ClonedState, actions: Tensor
    ) -> tuple[Prediction, Tensor]:
        """Step every clone through its row of ``actions (B, H, A)``, unless and until its episode ends.

        Returns the predictions and which rows ``(B,)`` the environment has truncated.
        """
        rows, horizon = actions.shape[:2]
        taken = np.array(self.codec.to_env(actions.flatten(0, 1)))  # an environment may change its action in place
        next_obs = state.obs[:, None].expand(-1, horizon, -1).numpy().copy()  # (B, H, O)
        reward, terminated = np.zeros((rows, horizon)), np.zeros((rows, horizon), bool)
        terminated[:] = state.terminated[:, None].numpy()
        truncated = state.truncated.clone()
        over = (state.terminated | state.truncated).tolist()
        discrete = isinstance(self.action_space, spaces.Discrete)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what an environment has to say, the live one says
            for row, clone in enumerate(clones):
                if over[row]:
                    continue
                with fenced_global_streams(seeds[row]) if self._draws_globally else nullcontext():
                    for t in range(horizon):
                        action = taken[row * horizon + t]
                        shown, reward[row, t], done, cut, _ = clone.step(int(action) if discrete else action)
                        self._show(next_obs[row, t], shown)
                        if done or cut:
                            next_obs[row, t + 1 :], terminated[row, t:] = next_obs[row, t], done
                            truncated[row] = not done
                            break
        return Prediction(th.from_numpy(next_obs), th.from_numpy(reward), th.from_numpy(terminated)), truncated

    def _show(self, row: Array, shown: Any) -> None:
        """Write what an environment shows into ``row (O,)``."""
        if isinstance(self._shown_space, spaces.Discrete):
            row[:] = 0
            row[int(shown) - int(self._shown_space.start)] = 1
        else:
            row[:] = shown

    def _seeds(self, count: int, generator: Generator) -> list[int | None]:
        if not self._reseed:
            return [None] * count
        return list(th.randint(2**62, (count,), generator=generator).tolist())

    def _matched(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """``obs (B, O)`` in all digits that the environments show, and which of them each row belongs to, ``(B,)``."""
        count, size = len(self._envs), self.observation_space.shape[0]
        if self._read is not None:
            shown = np.stack([self._shown(member, self._read) for member in self._envs])
            source = match_rows(obs, shown)
            return th.from_numpy(shown)[source], source
        if obs.ndim != 2 or obs.shape[1] != size or len(obs) % count:
            raise ValueError(
                f"Observations of shape (B, {size}) are needed, one block of rows for each of the {count} "
                f"environments, got {tuple(obs.shape)}."
            )
        return obs.to(self._dtype), th.arange(count).repeat_interleave(len(obs) // count)

    def _shown(self, member: AnyEnv, read: Callable[[AnyEnv], Any]) -> Array:
        """The current observation of a live environment, ``(O,)``."""
        try:
            row = self.encode(np.asarray(read(member))[None])[0].to(self._dtype)
        except Exception:  # what an environment lacks before its first reset is up to its author
            row = th.empty(())
        if row.shape != self.observation_space.shape:
            raise ValueError(f"{member} has no observation to start from: call its reset() first.")
        shown: Array = row.numpy()
        return shown


def _model_space(space: AnySpace) -> spaces.Box:
    """The space of the model's observations; one-hot rows for Discrete."""
    if isinstance(space, spaces.Discrete):
        return spaces.Box(0.0, 1.0, (int(space.n),), np.float32)
    return check_observation_space(space)
