"""A whole run of SB3 as nested plain values: agent, replay buffer, callbacks, environment, logger and streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.seeding import global_streams_state, seed_at, set_global_streams_state
from mbrl_wrappers.states import StateDict, require_keys
from sb3_ext.agent_state import agent_state, load_agent_state, load_exploration_state
from sb3_ext.averaged_actor import AveragedActor
from sb3_ext.buffers import MixedReplayBuffer
from sb3_ext.callback_states import callback_state, holds_state, load_callback_state
from sb3_ext.log_state import go_on_in_tensorboard, load_log_state, log_state
from sb3_ext.monitor_files import cut_monitor_files, monitor_file_sizes
from sb3_ext.replay_ring import check_can_be_kept, load_replay_ring, replay_ring
from sb3_ext.vec_env_state import load_vec_env_state, vec_env_state

_PARTS = ("agent", "replay", "callbacks", "env", "files", "logger", "streams")


def run_state(agent: BaseAlgorithm, callbacks: Sequence[BaseCallback], rows_written: int) -> StateDict:
    """Everything that the run goes on from, taken at the start of a rollout.

    Args:
        agent: the agent.
        callbacks: all callbacks but the one that saves.
        rows_written: steps that the replay buffer was given in its whole life; :class:`MixedReplayBuffer` counts its
            own.

    Raises:
        TypeError: for a replay buffer, trainer or model that cannot be kept.
    """
    with _own_weights(callbacks):
        return {
            "agent": agent_state(agent),
            "replay": _replay_state(agent, rows_written),
            "callbacks": {name: callback_state(callback) for name, callback in _named(callbacks).items()},
            "env": None if agent.env is None else vec_env_state(agent.env),
            "files": monitor_file_sizes(agent.env),
            "logger": log_state(agent.logger),
            "streams": global_streams_state(),
        }


def load_run_state(agent: BaseAlgorithm, callbacks: Sequence[BaseCallback], state: Mapping[str, Any]) -> None:
    """Put a run, built as the one that was saved, into a state that :func:`run_state` gave.

    An environment whose state was not exported begins a new episode, with a start that it has not had before.

    Raises:
        ValueError: if it is the state of another run.
    """
    require_keys(state, _PARTS, "a run")
    named, stored = _named(callbacks), state["callbacks"]
    _check_same_callbacks(named, stored)
    for callback in callbacks:
        if getattr(callback, "model", None) is not agent:  # else it was told of the agent before
            callback.init_callback(agent)
    load_agent_state(agent, state["agent"])
    _load_replay_state(agent, state["replay"])
    for name, callback in named.items():
        if name in stored:
            load_callback_state(callback, stored[name])
    assert agent.env is not None
    if state["env"] is not None:
        load_vec_env_state(agent.env, state["env"])
    else:
        agent.env.seed(seed_at(agent.seed or 0, agent.num_timesteps) % 2**31)
        agent._last_obs = None  # learn() resets the environment then
    cut_monitor_files(agent.env, state["files"])
    go_on_in_tensorboard(agent, state["logger"], agent.num_timesteps)


def load_late_state(agent: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """What ``learn()`` changes before the first rollout starts: noise, exploration matrices, log values and streams."""
    load_exploration_state(agent, state["agent"])
    load_log_state(agent.logger, state["logger"])
    set_global_streams_state(state["streams"])


@contextmanager
def _own_weights(callbacks: Sequence[BaseCallback]) -> Iterator[None]:
    """Inside the block the agent has its own weights, and no average in their place."""
    applied = [each for each in callbacks if isinstance(each, AveragedActor) and each.in_place]
    for each in applied:
        each.withdraw()
    try:
        yield
    finally:
        for each in applied:
            each.apply()


def _named(callbacks: Sequence[BaseCallback]) -> dict[str, BaseCallback]:
    """Each callback by its class, and by its number among those of the class."""
    named: dict[str, BaseCallback] = {}
    for callback in callbacks:
        kind = type(callback).__name__
        named[f"{kind} {sum(name.startswith(f'{kind} ') for name in named) + 1}"] = callback
    return named


def _check_same_callbacks(here: Mapping[str, BaseCallback], stored: Mapping[str, Any]) -> None:
    """Callbacks that hold more than a count of calls must be those of the run; others may come and go."""
    new = [name for name, callback in here.items() if name not in stored and holds_state(callback)]
    gone = [name for name in stored if name not in here and (stored[name]["own"] or stored[name]["evaluations"])]
    if new or gone:
        raise ValueError(
            f"The run was saved with the callbacks {sorted(stored)}, and now there are {sorted(here)}: give the same "
            "ones, each built as it was."
        )


def _replay_state(agent: Any, rows_written: int) -> StateDict | None:
    buffer = getattr(agent, "replay_buffer", None)
    if buffer is None:
        return None
    check_can_be_kept(buffer)
    if isinstance(buffer, MixedReplayBuffer):
        return buffer.state_dict()
    assert isinstance(buffer, ReplayBuffer)
    return {"real": replay_ring(buffer, rows_written)}


def _load_replay_state(agent: Any, state: Mapping[str, Any] | None) -> None:
    buffer = getattr(agent, "replay_buffer", None)
    if (buffer is None) != (state is None):
        raise ValueError("One of the run that was saved and this one has a replay buffer, and the other has none.")
    if buffer is None or state is None:
        return
    if isinstance(buffer, MixedReplayBuffer):
        buffer.load_state_dict(state)
    else:
        require_keys(state, ("real",), f"a {type(buffer).__name__}")
        load_replay_ring(buffer, state["real"])
