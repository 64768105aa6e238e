"""A model as a Stable-Baselines3 ``VecEnv``: one batched prediction per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from mbrl_wrappers.envs.branches import Branches
from mbrl_wrappers.envs.imagined import ImaginedEnv, checked_options
from mbrl_wrappers.envs.starts import Starts
from mbrl_wrappers.seeding import numpy_stream_state, set_numpy_stream_state
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import DynamicsModel, Limits
from sb3_ext.plain_values import plain


def check_counts_from_zero(space: spaces.Space[Any]) -> None:
    """Raise a ``ValueError`` for a Discrete space that does not start at 0, because SB3's agents ignore ``start``."""
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise ValueError(
            f"The actions of {space} begin at {space.start}, and Stable-Baselines3's agents count from 0: each of "
            f"their actions would be taken for another one. Wrap the environment before a model is made for it: "
            f"gymnasium.wrappers.TransformAction(env, lambda action: action + {space.start}, Discrete({space.n}))."
        )


class BranchRow:
    """One row of a :class:`ModelVecEnv`, as ``get_attr``, ``set_attr`` and ``env_method`` see it.

    The model, the spaces and the horizon are shared by all rows.
    """

    render_mode = None
    spec = None

    def __init__(self, branches: Branches, index: int) -> None:
        self._branches = branches
        self.index = index
        self.model = branches.model
        self.observation_space = branches.observation_space
        self.action_space = branches.action_space
        self.metadata: dict[str, Any] = {"render_modes": [], "is_model": True}

    @property
    def horizon(self) -> int:
        """Steps until truncation; setting it on any row sets it for all."""
        return self._branches.horizon

    @horizon.setter
    def horizon(self, value: int) -> None:
        self._branches.horizon = value

    @property
    def elapsed(self) -> int:
        """Steps since this row's start."""
        return int(self._branches.elapsed[self.index])

    @property
    def observation(self) -> NDArray[Any]:
        """The row's current observation, ``(O,)``."""
        obs: NDArray[Any] = self._branches.obs[self.index]
        return obs


class ModelVecEnv(ImaginedEnv, VecEnv):
    """``num_envs`` imagined episodes for any SB3 agent, as :class:`mbrl_wrappers.envs.ModelEnv` defines them.

    A row that ends is restarted in the same step; ``infos[i]["terminal_observation"]`` holds where it ended, and
    ``infos[i]["TimeLimit.truncated"]`` tells the end of the horizon (which SB3 bootstraps) from a predicted failure
    (which it does not). A prediction outside the limits, or not finite, ends its row as a truncation with
    ``infos[i]["invalid"] = True``.

    ``seed()`` and ``set_options({"obs": obs (O,)})`` (or a list of one dict per row; ``"state"`` takes a model state of
    one row) count for the next ``reset()``. SB3 bootstraps truncated rows one at a time in Python, so tens to hundreds
    of rows are sensible. Returns are predictions: judge an agent on the real environment.

    Args:
        model: as for :class:`mbrl_wrappers.envs.ModelEnv`, and so ``starts``, ``horizon`` and ``limits``.
        starts: where the episodes begin.
        num_envs: rows, at least 1.
        horizon: steps until truncation, at least 1.
        limits: the range that predictions must lie in.

    Raises:
        TypeError: as for :class:`mbrl_wrappers.envs.ModelEnv`.
        ValueError: as there, and for Discrete actions that do not count from 0, as the actions of SB3's agents do.
    """

    def __init__(
        self,
        model: DynamicsModel[Any],
        starts: Starts,
        num_envs: int,
        horizon: int,
        *,
        limits: Limits | None = None,
    ) -> None:
        self._imagine(model, starts, num_envs, horizon, limits)
        check_counts_from_zero(self._branches.action_space)
        # The base class asks the rows for their render mode.
        self._rows = [BranchRow(self._branches, index) for index in range(self._branches.num_rows)]
        super().__init__(len(self._rows), self._branches.observation_space, self._branches.action_space)
        self.metadata: dict[str, Any] = {"render_modes": [], "is_model": True}
        self._rngs = np.random.default_rng().spawn(self.num_envs)
        self._actions: NDArray[Any] | None = None

    def reset(self) -> NDArray[Any]:
        """Start all rows, with the seeds and options given since the last reset; ``(N, O)`` observations."""
        options = [checked_options(row, {"obs", "state"}) for row in self._options]
        self._reseed(self._seeds)
        given = [None if row.get("obs") is None else np.asarray(row["obs"]) for row in options]
        free = np.array([obs is None for obs in given])
        drawn = iter(self._branches.draw_starts(np.flatnonzero(free)) if free.any() else ())
        starts = [next(drawn) if obs is None else obs for obs in given]
        self._branches.restart(obs=np.stack(starts))
        for index, row in enumerate(options):
            if "state" in row:
                obs = None if given[index] is None else starts[index][None]
                self._branches.restart(np.arange(self.num_envs) == index, obs=obs, state=row["state"])
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return self._branches.obs

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions ``(N, ...)``, in environment units, for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Advance every row; restart those that ended.

        Returns:
            ``(N, O)`` observations, ``(N,)`` float32 rewards, ``(N,)`` bool dones and one info per row, all fresh.
        """
        if not self._branches.started or self._actions is None:
            raise RuntimeError("Call reset(), then step(actions).")
        result = self._branches.step(self._gate(self._actions, self.num_envs))
        self._actions = None
        dones = result.terminated | result.truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(cut)} for cut in result.truncated]
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = result.obs[index].copy()
            if result.invalid[index]:
                infos[index]["invalid"] = True
            self.reset_infos[index] = {}
        self._branches.restart(dones)
        return self._branches.obs, result.reward, dones, infos

    def state_dict(self) -> StateDict:
        """Where each episode is, the random streams, and the seeds that the next reset will use."""
        return {
            "branches": self._branches.state_dict(),
            "rngs": [numpy_stream_state(rng) for rng in self._rngs],
            "seeds": [plain(seed) for seed in self._seeds],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the model's own is loaded apart from it.

        Raises:
            ValueError: if it is the state of another environment.
        """
        require_keys(state, ("branches", "rngs", "seeds"), "a ModelVecEnv")
        if len(state["rngs"]) != self.num_envs:
            raise ValueError(f"The state is of {len(state['rngs'])} episodes side by side, not {self.num_envs}.")
        self._branches.load_state_dict(state["branches"])
        self._rngs = self._branches.rngs or [np.random.default_rng(0) for _ in range(self.num_envs)]
        for rng, stream in zip(self._rngs, state["rngs"], strict=True):
            set_numpy_stream_state(rng, stream)
        self._seeds = list(state["seeds"])

    def close(self) -> None:
        """Nothing to release."""

    def get_images(self) -> Sequence[None]:
        """No row has a picture."""
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each chosen :class:`BranchRow`."""
        return [getattr(row, attr_name) for row in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute on each chosen :class:`BranchRow`; ``horizon`` is shared by all rows."""
        for row in self._chosen(indices):
            setattr(row, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> Any:
        """Call a method of each chosen :class:`BranchRow`."""
        return [getattr(row, method_name)(*method_args, **method_kwargs) for row in self._chosen(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """No row is wrapped in anything: wrap the whole in ``VecMonitor`` or ``VecNormalize``."""
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: VecEnvIndices) -> list[BranchRow]:
        return [self._rows[index] for index in self._get_indices(indices)]
