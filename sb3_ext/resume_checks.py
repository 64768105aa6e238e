"""Warnings at the start of training of what a run could not be resumed from, or was resumed without."""

from __future__ import annotations

import warnings

from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_ext.buffers import MixedReplayBuffer
from sb3_ext.callback_states import every_callback
from sb3_ext.run_checkpoint import RunCheckpoint


def warn_if_the_model_is_not_saved(callbacks: BaseCallback | None) -> None:
    """Warn where SB3's ``CheckpointCallback`` saves the agent, and nothing saves the model beside it."""
    every = every_callback(callbacks)
    kinds = {kind for kind in (CheckpointCallback, RunCheckpoint) if any(isinstance(each, kind) for each in every)}
    if kinds == {CheckpointCallback}:
        warnings.warn(
            "CheckpointCallback saves the agent and perhaps its replay buffer, but neither the dynamics model nor the "
            "imagined rows, so that the run cannot be resumed from its files. Use RunCheckpoint(folder) beside it or "
            "in its place, or save the model yourself: mbrl_wrappers.save(dyna.dynamics, path).",
            stacklevel=2,
        )


def warn_if_rows_are_missing(agent: OffPolicyAlgorithm, buffer: MixedReplayBuffer) -> None:
    """Warn of an agent that has learned and comes without its replay buffer, as ``load()`` gives it."""
    if not buffer.num_real and (agent._n_updates or agent.num_timesteps):
        warnings.warn(
            f"The agent has made {agent._n_updates} updates and its replay buffer is empty, so the model begins "
            "without the real steps that were taken. Load them with agent.load_replay_buffer(path), or resume the "
            "run with RunCheckpoint(folder).restore(agent, callbacks).",
            stacklevel=2,
        )
