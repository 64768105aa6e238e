"""An average of an off-policy agent's actor over training, beside the unmodified agent."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.seeding import (
    draw_seed,
    fenced_global_streams,
    set_torch_stream_state,
    spawn_seeds,
    torch_generator,
    torch_stream_state,
)
from sb3_ext.averaged_network import NetworkAverage, network_average

Unit = Literal["real_steps", "updates"]
_WEIGHTS = "weights/"


class AveragedActor(BaseCallback):
    r"""Keeps an exponential average of the actor's weights, which acts more steadily than any single actor.

    With many updates per real step the return of the present actor can drop from one evaluation to the next, while the
    average of the recent ones stays. After each real step

    .. math:: \bar\theta \leftarrow \bar\theta + (1 - (1 - 1/n)^k) (\theta - \bar\theta),

    where :math:`\theta` is the actor that took the step, :math:`n` is ``average_steps`` and :math:`k` the real steps
    (or updates) since the last time: 1, or the number of environments. Parameters and batch statistics are averaged,
    integer counters copied. (Polyak and Juditsky 1992 average SGD's iterates; the exponential form is that of
    target networks.) The average starts as a copy of the actor at the start of training.

    The agent's weights and random streams are not changed, so training is bit-identical with and without it. Put this
    callback before those that use it. It has the ``predict`` of an agent, so ``evaluate_policy(averaged, env)``
    evaluates it, and :class:`~sb3_ext.WithAveragedActor` lets ``EvalCallback`` do so.

    Args:
        average_steps: the time constant :math:`n`, in real steps of all environments together, or in updates.
        unit: whether ``real_steps`` or ``updates`` are counted.
        start_steps: up to this real step the average is a copy of the actor.
        seed: of the draws of ``predict(deterministic=False)``.
    """

    def __init__(
        self, average_steps: float = 200, *, unit: Unit = "real_steps", start_steps: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        if unit not in ("real_steps", "updates"):
            raise ValueError(f"unit must be 'real_steps' or 'updates', got {unit!r}.")
        self.average_steps = within("average_steps", average_steps, 1)
        self.unit = unit
        self.start_steps = at_least("start_steps", start_steps, 0)
        self._key_seed, draws_seed = spawn_seeds(seed, 2)
        self._generator = torch_generator(draws_seed)
        self._network: NetworkAverage | None = None
        self._agent: object = None
        self._loaded: Mapping[str, NDArray[Any]] | None = None
        self._counted = 0
        self._resets = 0
        self._applied = False

    # --- SB3's hooks ------------------------------------------------------------------------------------------------

    def _init_callback(self) -> None:
        if self._agent is not self.model:
            self._network = network_average(self.model, self._key_seed)
            self._agent = self.model
            self.restart()
        if self._loaded is not None:
            self._take(self._loaded)
            self._loaded = None

    def _on_training_start(self) -> None:
        if self._applied:
            raise ValueError("The averaged actor is in the agent's place: leave averaged.applied() before learn().")
        if self.unit == "real_steps":  # a second learn() may count real steps from 0 again
            self._counted = self.model.num_timesteps

    def _on_rollout_end(self) -> None:
        self.withdraw()

    def _on_training_end(self) -> None:
        self.withdraw()

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """Restore the agent's own weights before other callbacks run: SB3 calls this before ``on_step``."""
        self.withdraw()

    def _on_step(self) -> bool:
        count, resets = self._count(), self._reset_count()
        elapsed, self._counted = count - self._counted, count
        if self.model.num_timesteps <= self.start_steps or resets != self._resets:
            self._resets = resets
            self.network.move(1.0)
        elif elapsed > 0:
            self.network.move(self.weight(elapsed))
        return True

    # --- the average ------------------------------------------------------------------------------------------------

    @property
    def network(self) -> NetworkAverage:
        """The averaged weights.

        Raises:
            ValueError: before the callback has met an agent.
        """
        if self._network is None:
            raise ValueError("AveragedActor follows no agent yet: pass it to agent.learn(callback=[averaged, ...]).")
        return self._network

    def follows(self, agent: object) -> bool:
        """Whether this is the average of ``agent``."""
        return self._agent is agent

    @property
    def policy(self) -> BasePolicy:
        """A policy of the agent's class that predicts with the average, for whatever takes a policy."""
        return self.network.policy

    def weight(self, elapsed: int) -> float:
        """The weight of an actor that was there for ``elapsed`` real steps or updates: ``1 - (1 - 1/n)^elapsed``."""
        if self.average_steps == 1:
            return 1.0
        return -math.expm1(elapsed * math.log1p(-1.0 / self.average_steps))

    def restart(self) -> None:
        """Begin anew with a copy of the present actor, for instance after weights of the agent were replaced."""
        self.network.move(1.0)
        self._counted, self._resets = self._count(), self._reset_count()

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Actions of the averaged actor, as ``agent.predict`` gives them for the present one.

        Draws come from this callback's own stream. A value agent (DQN, QR-DQN) acts greedily here: its exploration
        belongs to training.

        Args:
            observation: one observation or a batch.
            state: of recurrent policies.
            episode_start: of recurrent policies.
            deterministic: take the mean action in place of a draw.
        """
        policy: Any = self.policy
        with nullcontext() if deterministic else fenced_global_streams(draw_seed(self._generator)):
            if not deterministic and getattr(self.model, "use_sde", False):
                policy.reset_noise()  # gSDE's exploration matrix was drawn for earlier weights
            actions, state = policy.predict(observation, state, episode_start, deterministic)
        return actions, state

    @property
    def in_place(self) -> bool:
        """Whether the average is in the agent's place."""
        return self._applied

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the agent's place inside the ``with`` block; its own weights are back after it.

        No weights are copied. Inside the block, predicting with the agent and saving it use the averaged actor; the
        agent must not train meanwhile. Blocks may be nested.
        """
        if self._applied:
            yield
            return
        self.apply()
        try:
            yield
        finally:
            self.withdraw()

    def apply(self) -> None:
        """Put the average in the agent's place until :meth:`withdraw`; :meth:`applied` always withdraws."""
        if not self._applied:
            self.network.apply()
            self._applied = True

    def withdraw(self) -> None:
        """Give the agent its own weights back, if the average is in their place."""
        if self._applied:
            self.network.withdraw()
            self._applied = False

    # --- files ------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path | io.BufferedIOBase) -> None:
        """Write an ordinary zip of the agent with the averaged actor, which ``SAC.load`` and its like read.

        Everything else in it, such as critics and optimisers, is the agent's own.
        """
        with self.applied():
            self.model.save(path)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Arrays by name from which :meth:`load_state_dict` goes on, e.g. for ``numpy.savez``."""
        own = {
            "counted": np.array(self._counted),
            "resets": np.array(self._resets),
            "stream": torch_stream_state(self._generator).numpy(),
        }
        return {**own, **{_WEIGHTS + name: value for name, value in self.network.arrays().items()}}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore a saved average at the next ``learn()``, and at once if there is an agent already.

        Args:
            state: what :meth:`state_dict` gave, or ``numpy.load`` of it.

        Raises:
            ValueError: if it is of another network; without an agent yet, ``learn()`` raises it.
        """
        missing = [name for name in ("counted", "resets", "stream") if name not in state]
        if missing:
            raise ValueError(f"This is no state of an AveragedActor: it lacks {' and '.join(missing)}.")
        loaded = {name: np.array(state[name]) for name in state}
        if self._network is not None:
            self._take(loaded)
        self._loaded = loaded

    def _take(self, state: Mapping[str, NDArray[Any]]) -> None:
        weights = {name.removeprefix(_WEIGHTS): value for name, value in state.items() if name.startswith(_WEIGHTS)}
        self.network.load(weights)
        self._counted, self._resets = int(state["counted"]), int(state["resets"])
        set_torch_stream_state(self._generator, th.from_numpy(state["stream"]))

    def _count(self) -> int:
        return int(self.model.num_timesteps if self.unit == "real_steps" else cast(Any, self.model)._n_updates)

    def _reset_count(self) -> int:
        """How often SBX has drawn the agent's networks anew (``param_resets``)."""
        return int(getattr(self.model, "reset_idx", 0))
