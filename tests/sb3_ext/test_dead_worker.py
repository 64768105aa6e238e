"""An environment in a process that is killed ends the run with an error, at once, and what was saved stays."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv

from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from tests.sb3_ext.dyna_agents import make_agent, oracle_env, small_callback


class KillWorker(BaseCallback):
    """Saves at one step, and kills a worker process at a later one."""

    def __init__(self, checkpoints: RunCheckpoints, worker: int) -> None:
        super().__init__()
        self.checkpoints, self.worker = checkpoints, worker

    def _on_step(self) -> bool:
        if self.num_timesteps == 20:
            self.checkpoints.save(20, {"steps": self.num_timesteps})
        if self.num_timesteps == 30:
            os.kill(self.worker, signal.SIGKILL)
        return True


@pytest.mark.slow
def test_a_killed_worker_is_an_error_and_no_wait(tmp_path: Path) -> None:
    env = SubprocVecEnv([oracle_env] * 2)  # not forked: a forked worker keeps the pipes of the others open
    agent = make_agent(SAC, env)
    callbacks = [small_callback(oracle_env()), KillWorker(RunCheckpoints(tmp_path), env.processes[1].pid or 0)]
    with pytest.raises((EOFError, ConnectionError)):
        agent.learn(1000, callback=callbacks)
    for process in env.processes:
        process.kill()
        process.join()
    for remote in env.remotes:
        remote.close()
    assert agent.num_timesteps <= 40
    assert agent.replay_buffer.size() >= 14
    found = RunCheckpoints(tmp_path).load()
    assert found is not None
    assert found.state == {"steps": 20}
