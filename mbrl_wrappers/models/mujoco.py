"""The exact dynamics of live MuJoCo environments."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
import torch as th
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from numpy.typing import NDArray
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.models.live_envs import NOT_STORABLE, AnyEnv, bound_envs, check_spaces, match_rows, spaces_of
from mbrl_wrappers.models.mujoco_physics import FormulaPhysics, fits_rollout
from mbrl_wrappers.models.mujoco_shadow import Attributes, ShadowPhysics, Snapshot, blank
from mbrl_wrappers.models.mujoco_tasks import SimulatedStep, step_formula
from mbrl_wrappers.objects import Objects
from mbrl_wrappers.rows import take_rows
from mbrl_wrappers.seeding import draw_seed
from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_observation_space
from mbrl_wrappers.tasks.recognition import is_transparent
from mbrl_wrappers.types import Prediction

Array = NDArray[Any]


class MujocoState(NamedTuple):
    """Everything that the next step depends on.

    Attributes:
        obs: ``(B, O)`` float64.
        physics: ``(B, S)`` float64, MuJoCo's integration state: time, positions, velocities, activations, the warm
            start of the constraint solver, controls, applied forces. NaN once a simulation has failed.
        lagged: ``(B, L)`` float64, what the task reads before a step and MuJoCo computed during the one before.
        source: ``(B,)`` int64, the environment that the row belongs to.
        attributes: ``(B,)`` what steps of a class that is not known may change in the environment itself; else None.
        truncated: ``(B,)`` bool, whether the environment itself has truncated the episode; a ``TimeLimit`` does not
            count.
    """

    obs: Tensor
    physics: Tensor
    lagged: Tensor
    source: Tensor
    attributes: Objects[Attributes | None]
    truncated: Tensor


class MujocoModel:
    r"""The simulator itself as a model: predictions equal the environment's own next step to the last bit.

    ``reset(obs)`` reads the physics of the live environments, because an observation shows only a part of it (neither
    absolute positions, nor clipped velocities, nor the warm start of the constraint solver). So ``obs`` must be their
    current observations: of one environment, or of several in any order and number of repetitions. The live
    environments are only read; physics runs on scratch data. Changes to them (weights, ranges, ``frame_skip``, the
    timestep, ``model``) are followed from the next ``reset`` on.

    Everything is float64, so finite differences of predictions are derivatives. A simulation that fails (MuJoCo warns,
    or resets itself) is NaN from there on and logs nothing. A ``TimeLimit`` is not part of the dynamics. An environment
    that truncates itself is not stepped further: it repeats its observation with reward 0.

    HalfCheetah, Hopper, Walker2d, Swimmer and InvertedPendulum in version 5 take the fast way: physics by
    ``mujoco.rollout`` on all cores, outcomes computed from states, after a check against the own steps of each
    environment. All other environments step in copies of themselves, after a check against whole copies.

    Args:
        env: a Gymnasium ``MujocoEnv``, a list of them with equal spaces, or a vector environment that has them in
            this process as ``envs``. Wrappers that only observe are looked through.
        threads: for ``rollout``; by default as many as this process may use cores.

    Attributes:
        exact: True: planners may trust the best plan they find.
        backend: ``"rollout"``, the fast way, or ``"env"``, copies of the environment.

    Raises:
        TypeError: for other environments, for wrappers that change observations, actions or rewards, and for steps that
            depend on more than physics and attributes: ``ClonedEnvModel`` takes those. For environments that cannot be
            copied.
        ValueError: ``threads`` is below 1.
    """

    exact = True
    not_storable = NOT_STORABLE

    def __init__(self, env: object, *, threads: int | None = None) -> None:
        self.threads = _usable_cores() if threads is None else at_least("threads", threads)
        outer = bound_envs(env, "MujocoModel")
        self._envs = tuple(_look_inside(member) for member in outer)
        self._spaces = spaces_of(self._envs)
        self.observation_space = check_observation_space(outer[0].observation_space)
        self.action_space: AnySpace = outer[0].action_space
        self.codec = ActionCodec(self.action_space)
        self.device = th.device("cpu")
        self._obs_size = int(self.observation_space.shape[0])
        self._build()

    def _build(self) -> None:
        self._shadow = ShadowPhysics(self._envs)
        self._formula = self._fast_physics()
        self.backend: Literal["rollout", "env"] = "env" if self._formula is None else "rollout"
        if self._formula is None:
            shape = self.action_space.shape or ()
            for number in range(len(self._envs)):
                self._shadow.check(number, list(self._trial_actions(1).reshape(5, *shape)), self._obs_size)

    def reset(self, obs: Tensor, *, generator: Generator) -> MujocoState:
        """Start one trajectory per row of ``obs (B, O)`` from the state of the environment that shows it.

        Raises:
            ValueError: no environment shows an observation now, or the spaces of one have changed.
        """
        check_spaces(self._envs, self._spaces)
        if not self._shadow.is_current:
            self._build()
        read = [self._shadow.read(number) for number in range(len(self._envs))]
        source = match_rows(obs, np.stack([shown for shown, _ in read]))
        state = _stack([shown for shown, _ in read], [row for _, row in read], th.arange(len(read)))
        return take_rows(state, source)

    def step(self, state: MujocoState, action: Tensor, *, generator: Generator) -> tuple[MujocoState, Prediction]:
        """Advance every row by one step of the environment with model actions ``(B, A)``."""
        taken = self._to_env(action)
        if self._formula is not None:
            physics, outcome = self._formula.step(state.physics.numpy(), state.source.numpy(), taken)
            following = state._replace(obs=th.from_numpy(outcome.obs), physics=th.from_numpy(physics))
            return following, _prediction(outcome)
        snapshots, outcome = self._roll(state, taken[:, None], generator)
        outcome = SimulatedStep(*(field[:, 0] for field in outcome))
        return _stack(list(outcome.obs), snapshots, state.source), _prediction(outcome)

    def rollout(self, state: MujocoState, actions: Tensor, *, generator: Generator, groups: int = 1) -> Prediction:
        """Predictions ``(B, H, ...)`` of model actions ``(B, H, A)``."""
        taken = self._to_env(actions)
        if self._formula is not None:
            return _prediction(self._formula.rollout(state.physics.numpy(), state.source.numpy(), taken))
        return _prediction(self._roll(state, taken, generator)[1])

    def state_vector(self, state: MujocoState) -> Tensor:
        """``[qpos, qvel, act]`` of each row, ``(B, X)`` float64."""
        return state.physics[:, self._shadow.layout.vector]

    def with_state_vector(self, state: MujocoState, vector: Tensor) -> MujocoState:
        """``state`` at other coordinates ``vector (B, X)``; warm start, lagged quantities and attributes stay."""
        physics = state.physics.clone()
        physics[:, self._shadow.layout.vector] = vector.to(physics.dtype)
        if self._formula is not None:
            return state._replace(obs=th.from_numpy(self._formula.obs(physics.numpy())), physics=physics)
        moved = state._replace(physics=physics)
        changed = (physics != state.physics).any(1).tolist()
        obs = state.obs.numpy().copy()
        for row, (number, snapshot) in enumerate(_rows(moved)):
            if changed[row]:
                obs[row] = self._shadow.observe(number, snapshot)
        return moved._replace(obs=th.from_numpy(obs))

    def _to_env(self, action: Tensor) -> Array:
        """Environment actions, in the precision of the space unless the model action is float64."""
        decoded: Array = self.codec.decode(action.detach()).numpy()
        return decoded if action.dtype == th.float64 else decoded.astype(self.action_space.dtype)

    def _roll(self, state: MujocoState, actions: Array, generator: Generator) -> tuple[list[Snapshot], SimulatedStep]:
        """Every row in its copy of the environment: ``actions (B, H, ...)``."""
        shaped = np.array(actions).reshape(*actions.shape[:2], *(self.action_space.shape or ()))
        outcome, snapshots = blank(shaped.shape[:2], self._obs_size), []
        with self._shadow.noise(0 if self._shadow.known else draw_seed(generator)):
            for row, (number, snapshot) in enumerate(_rows(state)):
                snapshot, steps = self._shadow.roll(number, snapshot, list(shaped[row]), self._obs_size)
                snapshots.append(snapshot)
                outcome.obs[row], outcome.reward[row], outcome.terminated[row] = steps
        return snapshots, outcome

    def _fast_physics(self) -> FormulaPhysics | None:
        """The fast way, if the task is known, the environments are alike and some steps come out equal in every bit."""
        formulas = [step_formula(env) for env in self._envs]
        formula = formulas[0]
        if formula is None or any(other != formula for other in formulas) or not self._shadow.known:
            return None
        if not fits_rollout(self._envs):
            return None
        fast = FormulaPhysics(self._envs, formula, self.threads)
        return fast if all(self._agrees(fast, number) for number in range(len(self._envs))) else None

    def _agrees(self, fast: FormulaPhysics, number: int) -> bool:
        """Whether five steps of two rows, up to their terminations, equal those of a copy of an environment."""
        row = self._shadow.fresh_start(number)
        actions = self._trial_actions(2)
        both, source = row.physics[None].repeat(2, 0), np.full(2, number)
        truths = [self._shadow.roll(number, row, list(taken), self._obs_size)[1] for taken in actions]
        truth = SimulatedStep(*(np.stack(field) for field in zip(*truths, strict=True)))  # (2, 5, ...)
        read = np.logical_or.accumulate(truth.terminated, 1).cumsum(1) <= 1  # nothing is read after a termination
        whole, (_, first) = fast.rollout(both, source, actions), fast.step(both, source, actions[:, 0])
        return all(
            np.array_equal(wanted[read], got[read]) and np.array_equal(wanted[:, 0], got_first)
            for wanted, got, got_first in zip(truth, whole, first, strict=True)
        )

    def _trial_actions(self, rows: int) -> Array:
        """Five random environment actions for each row, ``(B, 5, ...)``."""
        rng = np.random.default_rng(0)
        return self._to_env(th.as_tensor(rng.uniform(-1, 1, (rows, 5, self.codec.size)), dtype=th.float32))


def _usable_cores() -> int:
    """How many cores the scheduler gives this process, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _look_inside(env: AnyEnv) -> Any:
    """The unwrapped environment.

    Raises:
        TypeError: it is none of MuJoCo, or a wrapper changes what it shows, takes or pays.
    """
    inner: Any = env
    while isinstance(inner, gymnasium.Wrapper):
        if not is_transparent(inner):
            raise TypeError(
                f"{type(inner).__name__} may change observations, actions or rewards, which MujocoModel does not "
                "follow: use ClonedEnvModel, which copies wrappers too, or build the environment without this wrapper."
            )
        inner = inner.env
    if not isinstance(inner, MujocoEnv) or not callable(getattr(inner, "_get_obs", None)):
        raise TypeError(
            f"{inner} is no gymnasium.envs.mujoco.MujocoEnv with a _get_obs method: use ClonedEnvModel, which copies "
            "whole environments."
        )
    return inner


def _rows(state: MujocoState) -> list[tuple[int, Snapshot]]:
    """The environment and the snapshot of each row."""
    physics, lagged, truncated = state.physics.numpy(), state.lagged.numpy(), state.truncated.tolist()
    return [
        (number, Snapshot(physics[row], lagged[row], attributes, truncated[row]))
        for row, (number, attributes) in enumerate(zip(state.source.tolist(), state.attributes, strict=True))
    ]


def _stack(obs: list[Array], rows: list[Snapshot], source: Tensor) -> MujocoState:
    return MujocoState(
        th.from_numpy(np.stack(obs)),
        th.from_numpy(np.stack([row.physics for row in rows])),
        th.from_numpy(np.stack([row.lagged for row in rows])),
        source,
        Objects([row.attributes for row in rows]),
        th.tensor([row.truncated for row in rows]),
    )


def _prediction(outcome: SimulatedStep) -> Prediction:
    return Prediction(*(th.from_numpy(field) for field in outcome))
