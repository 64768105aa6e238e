"""Tabular agents that are saved in the middle of an episode go on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.env_util import make_vec_env

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.storage.state_file import read_state, write_state
from sb3_ext import RunCheckpoint
from sb3_ext.agents import DynaQ, DynaQPlus, PrioritizedSweeping
from sb3_ext.agents.prioritized_sweeping import PriorityQueue
from sb3_ext.agents.tabular_agent import TabularAgent
from tests.ordered import by_key

MAZE = "mbrl_wrappers/DynaMaze-v0"
BUILT: dict[str, Any] = {
    "dyna-q": lambda env: DynaQ("TabularPolicy", env, seed=3, planning_steps=5, exploration_fraction=0.8),
    "several outcomes": lambda env: DynaQ("TabularPolicy", env, seed=3, planning_steps=5, outcomes_kept=7),
    "dyna-q+": lambda env: DynaQPlus("TabularPolicy", env, seed=3, planning_steps=5),
    "sweeping": lambda env: PrioritizedSweeping("TabularPolicy", env, seed=3, planning_steps=5),
}


def everything(agent: TabularAgent) -> Any:
    """All that an agent has learned and will do, wall times left out."""
    state = agent.state_dict()
    for episodes in state["agent"]["episodes"].values():
        for episode in episodes or []:
            episode.pop("t", None) if isinstance(episode, dict) else None
    return comparable(by_key({name: state["agent"][name] for name in state["agent"]}))


@pytest.mark.parametrize(("task", "envs"), [(MAZE, 1), ("FrozenLake-v1", 3), ("Taxi-v4", 2)])
@pytest.mark.parametrize("name", BUILT)
def test_learning_goes_on_bit_for_bit(name: str, task: str, envs: int, tmp_path: Path) -> None:
    def built() -> TabularAgent:
        return BUILT[name](make_vec_env(task, envs, seed=1))

    whole = built().learn(301)
    part = built()
    part._total_timesteps = 301
    part.learn(301, callback=lambda found, _: found["self"].num_timesteps < 150)
    write_state(tmp_path / "state", part_state := part.state_dict())
    assert part_state["env"] is not None
    again = built()
    again.load_state_dict(read_state(tmp_path / "state")[0])
    again.learn(301 - again.num_timesteps, reset_num_timesteps=False)
    assert again.num_timesteps == whole.num_timesteps
    # A callback that stops training drops the step under way, so an agent that was never interrupted is stopped alike.
    reference = built()
    reference.learn(301, callback=lambda found, _: found["self"].num_timesteps < 150)
    reference.learn(301 - reference.num_timesteps, reset_num_timesteps=False)
    assert everything(again) == everything(reference)
    draws = [agent.predict(0)[0].tolist() for agent in (again, reference) for _ in range(5)]  # type: ignore[arg-type]
    assert draws[:5] == draws[5:]


class Killed(BaseException):
    """What a kill looks like to the code that it hits."""


@pytest.mark.parametrize("name", ["dyna-q", "sweeping"])
def test_a_run_checkpoint_resumes_them(name: str, tmp_path: Path) -> None:
    def run(folder: Path, killed_at: int | None = None) -> TabularAgent:
        agent = BUILT[name](make_vec_env(MAZE, 2, seed=1))
        checkpoint = RunCheckpoint(folder, every=60)
        done = checkpoint.restore(agent, [checkpoint])

        def killed(*_: object) -> bool:
            if agent.num_timesteps == killed_at:
                raise Killed
            return True

        try:
            agent.learn(300 - done, callback=[checkpoint, ConvertCallback(killed)], reset_num_timesteps=False)
        finally:
            checkpoint.release()
        return agent

    whole = run(tmp_path / "whole")
    for killed_at in (90, 250):
        with pytest.raises(Killed):
            run(tmp_path / "cut", killed_at)
    assert everything(run(tmp_path / "cut")) == everything(whole)


def test_a_queue_pops_what_it_would_have() -> None:
    queue, again = PriorityQueue(), PriorityQueue()
    for number in range(50):
        queue.push(number * 7 % 20, (number * 13 % 11) / 3)
    for _ in range(4):
        queue.pop()
    again.load_state_dict(queue.state_dict())
    for each in (queue, again):
        each.push(99, 2.0)
    assert [again.pop() for _ in range(len(again))] == [queue.pop() for _ in range(len(queue))]


def test_states_of_other_agents_are_refused() -> None:
    agent = DynaQ("TabularPolicy", MAZE, seed=0).learn(20)
    state = agent.state_dict()
    with pytest.raises(ValueError, match="saved with the agent DynaQ"):
        PrioritizedSweeping("TabularPolicy", MAZE).load_state_dict(state)
    with pytest.raises(ValueError, match="planning_steps=50"):
        DynaQ("TabularPolicy", MAZE, planning_steps=3).load_state_dict(state)
    with pytest.raises(ValueError, match="environment"):
        DynaQ("TabularPolicy", "Taxi-v4").load_state_dict(state)
    plus = DynaQPlus("TabularPolicy", MAZE, exploration_bonus=0.1)
    with pytest.raises(ValueError, match=r"exploration_bonus=0\.1"):
        DynaQPlus("TabularPolicy", MAZE).load_state_dict(plus.state_dict())
    with pytest.raises(ValueError, match="lacks"):
        agent.load_state_dict({})


def test_an_environment_that_cannot_be_exported_begins_a_new_episode() -> None:
    def built() -> DynaQ:
        env: Any = gymnasium.make(MAZE)
        env.unwrapped.handle = (number for number in range(3))
        return DynaQ("TabularPolicy", env, seed=0)

    agent = built().learn(33)
    state = agent.state_dict()
    assert state["env"] is None
    again = built()
    again.load_state_dict(state)
    assert again._last_obs is None
    again.learn(20, reset_num_timesteps=False)
    assert again.num_timesteps == 53
