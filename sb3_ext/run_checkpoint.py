"""Saves a whole run while it goes on, and lets it be resumed as if nothing had happened."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.states import Stateful
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from sb3_ext.callback_states import every_callback
from sb3_ext.run_description import check_description, run_description
from sb3_ext.run_state import load_late_state, load_run_state, run_state
from sb3_ext.vec_env_state import why_vec_not_exportable

Callbacks = BaseCallback | Sequence[BaseCallback] | None


class RunCheckpoint(BaseCallback):
    """Saves the run every ``every`` real steps, so that it can be killed at any instant and resumed.

    A checkpoint has everything the run goes on from: the agent with its optimisers, the replay buffer with its
    imagined rows, each callback's state (model, trainer and schedule among them), the environment where its state can
    be exported, what was logged and not yet written, and every random stream. Nothing in it is a pickle. A run that is
    interrupted and resumed ends bit for bit as one that was not (on the CPU, with the same libraries)::

        checkpoint = RunCheckpoint("run", every=1000)
        callbacks = [DynaCallback(), checkpoint]
        done = checkpoint.restore(agent, callbacks)  # 0 for a new folder
        agent.learn(20_000 - done, callback=callbacks, reset_num_timesteps=not done)

    Build agent, environments and callbacks as at the start of the run; ``restore`` then takes them to the newest
    checkpoint that is whole. It saves at the start of a rollout, after the agent's updates: with a ``train_freq`` of an
    episode, that is at the end of one. An environment whose state cannot be exported begins a new episode when the run
    is resumed, and a warning says so at the start.

    Args:
        folder: of this run alone; made when missing.
        every: real steps between checkpoints.
        keep: how many to keep.
        verbose: 1 prints each checkpoint.

    Attributes:
        seconds: wall time spent saving.
        saved_at: real steps of the newest checkpoint; None before the first.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 1000, keep: int = 3, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.checkpoints = RunCheckpoints(folder, keep=keep)
        self.every = at_least("every", every)
        self.seconds = 0.0
        self.saved_at: int | None = None
        self._held: ExitStack | None = None
        self._others: list[BaseCallback] | None = None
        self._also: dict[str, Stateful] = {}
        self._late: Mapping[str, Any] | None = None
        self._restored_to: BaseAlgorithm | None = None
        self._rows_before = self._calls_before = self._tried_at = 0
        self._buffer: Any = None

    def restore(self, agent: BaseAlgorithm, callbacks: Callbacks, *, also: Mapping[str, Stateful] | None = None) -> int:
        """Take ``agent`` and ``callbacks`` to the newest checkpoint; the real steps that it has.

        Args:
            agent: built as at the start of the run.
            callbacks: all that ``learn()`` will be given, this one among them or not.
            also: whatever else of the run holds state, by name.

        Returns:
            The real steps taken until the checkpoint, 0 if there is none. Pass the others to ``learn()``, with
            ``reset_num_timesteps=False`` if there is one.

        Raises:
            ValueError: if the checkpoint is of another run, all are damaged, or another process writes to the folder.
            TypeError: for a part whose state cannot be kept.
        """
        self.hold()
        self._others, self._also = self._without_self(callbacks), dict(also or {})
        self._restored_to = agent
        found = self.checkpoints.load()
        if found is None:
            return 0
        check_description(agent, found.about)
        load_run_state(agent, self._others, found.state["run"])
        if set(found.state["also"]) != set(self._also):
            raise ValueError(
                f"The run was saved with {sorted(found.state['also'])} beside it, not {sorted(self._also)}."
            )
        for name, part in self._also.items():
            part.load_state_dict(found.state["also"][name])
        self._late = found.state["run"]
        self._rows_before = found.state["rows_written"]
        self.n_calls = self._calls_before = found.state["calls"]
        self._buffer = getattr(agent, "replay_buffer", None)
        self.seconds, self.saved_at = found.state["seconds"], found.step
        if self.verbose >= 1:
            print(f"[checkpoint] the run goes on at step {found.step}")
        return agent.num_timesteps

    def hold(self) -> None:
        """Be the only writer of the folder until :meth:`release` or the end of ``learn()``.

        Raises:
            ValueError: if another process is.
        """
        if self._held is None:
            held = ExitStack()
            held.enter_context(self.checkpoints.lock())
            self._held = held

    def release(self) -> None:
        """Let others write to the folder, for instance after an exception in ``learn()``."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def save(self) -> Path:
        """Save now, at the start of a rollout and nowhere else."""
        assert self._others is not None
        started = time.perf_counter()
        step, rows = self.model.num_timesteps, self._rows_written()
        state = {
            "run": run_state(self.model, self._others, rows),
            "also": {name: part.state_dict() for name, part in self._also.items()},
            "rows_written": rows,
            "calls": self.n_calls,
            "seconds": self.seconds,
        }
        path = self.checkpoints.save(step, state, about=run_description(self.model))
        self._rows_before, self._calls_before, self.saved_at = rows, self.n_calls, step
        self.seconds += time.perf_counter() - started
        if self.verbose >= 1:
            print(f"[checkpoint] step {step}: {path}")
        return path

    def save_or_warn(self) -> bool:
        """Save now, or say why the disk does not take it, so that the run can go on; whether it was saved."""
        try:
            self.save()
        except OSError as error:
            warnings.warn(f"{error.strerror or error}. The run goes on without.", stacklevel=2)
            return False
        return True

    # --- SB3's hooks ------------------------------------------------------------------------------------------------

    def _on_training_start(self) -> None:
        if isinstance(self.parent, EventCallback):
            raise ValueError(
                f"RunCheckpoint is a child of {type(self.parent).__name__}, which never forwards the start of a "
                "rollout: pass it to learn() directly or in a list."
            )
        self.hold()
        if self._restored_to is not self.model:
            if self.checkpoints.steps():
                raise ValueError(
                    f"{self.checkpoints.folder} has checkpoints of a run at steps {self.checkpoints.steps()}: call "
                    "restore(agent, callbacks) before learn() to go on with it, or give this run another folder."
                )
            self._others = self._without_self(self.locals.get("callback"))
            self._restored_to = self.model
        if self._late is not None and self.model.num_timesteps != self.saved_at:
            raise ValueError(
                f"The run was restored to step {self.saved_at} and learn() begins at {self.model.num_timesteps}: pass "
                "reset_num_timesteps=False."
            )
        buffer = getattr(self.model, "replay_buffer", None)
        if buffer is not self._buffer:
            self._begin_with(buffer)
        self._tried_at = self.model.num_timesteps
        self._try()

    def _on_rollout_start(self) -> None:
        if self._late is not None:
            load_late_state(self.model, self._late)
            self._late = None
        elif self.model.num_timesteps // self.every > self._tried_at // self.every:
            self._tried_at = self.model.num_timesteps
            self.save_or_warn()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.release()

    # --- what is in it ----------------------------------------------------------------------------------------------

    def _without_self(self, callbacks: Any) -> list[BaseCallback]:
        return [callback for callback in every_callback(callbacks) if callback is not self]

    def _try(self) -> None:
        """Find out at the start of the run what cannot be kept."""
        assert self._others is not None
        run_state(self.model, self._others, self._rows_written())
        assert self.model.env is not None
        why = why_vec_not_exportable(self.model.env)
        if why:
            warnings.warn(
                f"The state of the environment cannot be exported ({why.rstrip('.')}), so a run that is resumed begins "
                "a new episode where it was in the middle of one.",
                stacklevel=2,
            )

    def _begin_with(self, buffer: ReplayBuffer | None) -> None:
        """Count the rows of a buffer that was given from elsewhere, none of which is in an earlier checkpoint."""
        if self._buffer is not None:
            self.release()
            self.checkpoints = RunCheckpoints(self.checkpoints.folder, keep=self.checkpoints.keep)
            self.hold()
        self._buffer, self._calls_before = buffer, self.n_calls
        self._rows_before = 0 if buffer is None else buffer.pos + buffer.buffer_size * buffer.full

    def _rows_written(self) -> int:
        """Steps that the replay buffer was given: as many as there were calls, and as its position says."""
        agent = self.model
        if not isinstance(agent, OffPolicyAlgorithm) or agent.replay_buffer is None:
            return 0
        buffer = agent.replay_buffer
        rows = self._rows_before + self.n_calls - self._calls_before
        return rows + (buffer.pos - rows) % buffer.buffer_size
