"""What environments may give to tabular agents; all else is refused before anything is learned from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from sb3_ext.agents import DynaQ, DynaQPlus, PrioritizedSweeping, TabularPolicy
from sb3_ext.agents.tabular_agent import TabularAgent

every_agent = pytest.mark.parametrize("agent_class", [DynaQ, DynaQPlus, PrioritizedSweeping])


class Corridor(gymnasium.Env[Any, Any]):
    """Five cells; action 0 goes left, 1 right, and the last cell pays 1 and ends. One step may say something else."""

    def __init__(
        self, start: int = 0, action_start: int = 0, *, at: int = -1, reward: Any = None, observation: Any = None
    ) -> None:
        self.observation_space = spaces.Discrete(5, start=start)
        self.action_space = spaces.Discrete(2, start=action_start)
        self.at, self.reward, self.observation = at, reward, observation
        self.steps = 0

    def _seen(self) -> Any:
        wrong = self.observation is not None and self.steps == self.at
        return self.observation if wrong else self.place + int(self.observation_space.start)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.steps += 1
        self.place = max(self.place + (1 if action - self.action_space.start else -1), 0)
        over = self.place == 4
        wrong = self.reward is not None and self.steps == self.at
        return self._seen(), self.reward if wrong else float(over), over, False, {}


def everything(agent: TabularAgent) -> dict[str, th.Tensor]:
    named = {"q": agent.policy.q_table, **dict(agent.memory.named_buffers())}
    return {name: table.clone() for name, table in named.items()}


@every_agent
@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf"), 1e39])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_reward_that_is_not_finite_is_refused_before_it_is_learned(
    agent_class: type[TabularAgent], reward: float
) -> None:
    """1e39 is infinite in float32, in which SB3 hands rewards on."""
    agent, short = (agent_class("TabularPolicy", Corridor(at=7, reward=reward), seed=0) for _ in range(2))
    with pytest.raises(ValueError, match=r"^Environment 0, step 7: the reward is (nan|inf|-inf)\. .*finite"):
        agent.learn(100)
    short.learn(6)
    for name, table in everything(short).items():
        assert th.equal(table, everything(agent)[name]), name


@every_agent
def test_nothing_of_a_step_is_learned_if_one_environment_is_wrong(agent_class: type[TabularAgent]) -> None:
    envs = DummyVecEnv([Corridor, lambda: Corridor(at=3, reward=float("nan"))])
    agent = agent_class("TabularPolicy", envs, seed=0)
    with pytest.raises(ValueError, match=r"^Environment 1, step 6: the reward is nan"):
        agent.learn(100)
    assert agent.memory.size[1] == 4
    assert agent.policy.q_table.isfinite().all()


@every_agent
@pytest.mark.parametrize(("start", "wrong"), [(0, -1), (0, 5), (1, 0), (1, 6), (-3, -4), (-3, 2)])
@pytest.mark.parametrize("at", [0, 3])
def test_a_state_outside_of_the_space_is_refused(
    agent_class: type[TabularAgent], start: int, wrong: int, at: int
) -> None:
    agent = agent_class("TabularPolicy", Corridor(start, at=at, observation=wrong), seed=0)
    words = rf"^Environment 0, step {at}: observation {wrong} lies outside .* numbered {start} to {start + 4}\.$"
    with pytest.raises(ValueError, match=words):
        agent.learn(100)
    assert agent.memory.size[1] == max(at - 1, 0)


class Rewritten(VecEnvWrapper):
    """Changes what a VecEnv gives in a step."""

    def __init__(self, venv: DummyVecEnv, change: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        super().__init__(venv)
        self.change = change

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        obs, infos = self.change(obs, infos)
        return obs, rewards, dones, infos


def ended(**last: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Infos with another last observation, or with none."""

    def change(obs: Any, infos: Any) -> tuple[Any, Any]:
        rest = [{key: value for key, value in info.items() if key != "terminal_observation"} for info in infos]
        return obs, [{**info, **last} for info in rest]

    return change


@every_agent
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda obs, infos: (obs + 0.5, infos), "observation must hold whole numbers, got float64"),
        (lambda obs, infos: (obs.astype(np.float32), infos), "observation must hold whole numbers, got float32"),
        (lambda obs, infos: (obs[:, None], infos), r"must be one number of Discrete\(5\)"),
        (ended(), "has no 'terminal_observation'"),
        (ended(terminal_observation=5), "observation 5 lies outside"),
        (ended(terminal_observation=3.9), "observation must hold whole numbers"),
        (ended(terminal_observation=np.array([4])), r"must be one number of Discrete\(5\)"),
        (ended(terminal_observation=None), "observation must hold whole numbers"),
    ],
)
def test_an_observation_that_is_no_number_is_refused(agent_class: type[TabularAgent], change: Any, words: str) -> None:
    agent = agent_class("TabularPolicy", Rewritten(DummyVecEnv([Corridor]), change), seed=0)
    with pytest.raises(ValueError, match=rf"^Environment 0, step \d+.*{words}"):
        agent.learn(500)


@every_agent
@pytest.mark.parametrize(("start", "action_start"), [(1, 0), (0, 1), (1, 1), (-2, 7), (10**12, -5)])
@pytest.mark.parametrize("count", [1, 3])
def test_where_numbers_begin_changes_nothing(
    agent_class: type[TabularAgent], start: int, action_start: int, count: int, tmp_path: Path
) -> None:
    plain, agent = (
        agent_class("TabularPolicy", DummyVecEnv([lambda s=s, a=a: Corridor(s, a) for _ in range(count)]), seed=1)
        for s, a in ((0, 0), (start, action_start))
    )
    for each in (plain, agent):
        each.learn(300)
    agent.save(tmp_path / "agent")
    loaded = agent_class.load(tmp_path / "agent")
    for other in (agent, loaded):
        for name, table in everything(plain).items():
            assert th.equal(table, everything(other)[name]), name
    states = np.arange(5)
    for deterministic in (True, False):
        expected, actions = (
            each.predict(states + begin, deterministic=deterministic)[0]
            for each, begin in ((plain, 0), (loaded if deterministic else agent, start))
        )
        np.testing.assert_array_equal(actions, expected + action_start)
    rows, shifted = plain.known_transitions(), agent.known_transitions()
    np.testing.assert_array_equal(shifted.state, rows.state + start)
    np.testing.assert_array_equal(shifted.action, rows.action + action_start)
    np.testing.assert_array_equal(shifted.next_state, rows.next_state + start)
    with pytest.raises(ValueError, match="another|spaces"):
        agent.set_env(DummyVecEnv([lambda: Corridor(start + 1, action_start)] * count))


@pytest.mark.parametrize(
    "wrong", [np.array(1.5), np.array([0.0, 1.0]), np.array([5]), np.array([-1]), np.array([True])]
)
def test_a_prediction_is_for_numbers_of_the_space(wrong: Any) -> None:
    agent = DynaQ("TabularPolicy", Corridor(), seed=0)
    for deterministic in (True, False):
        with pytest.raises(ValueError, match="Observation"):
            agent.predict(wrong, deterministic=deterministic)
    policy = TabularPolicy(spaces.Discrete(5), spaces.Discrete(2))
    with pytest.raises(ValueError, match="Observation"):
        policy.predict(wrong)


@every_agent
@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -0.1])
def test_a_step_size_that_makes_no_sense_is_refused(agent_class: type[TabularAgent], rate: float) -> None:
    for given in (rate, lambda progress: rate if progress < 0.5 else 0.1):
        agent = agent_class("TabularPolicy", Corridor(), learning_rate=given, seed=0)
        with pytest.raises(ValueError, match="learning_rate must be finite and at least 0"):
            agent.learn(100)
        assert agent.policy.q_table.isfinite().all()


@every_agent
def test_all_agents_take_the_same_arguments(agent_class: type[TabularAgent]) -> None:
    numbers = {
        "exploration_fraction": 0.3,
        "exploration_initial_eps": 0.8,
        "exploration_final_eps": 0.2,
        "outcomes_kept": 3,
    }
    agent = agent_class("TabularPolicy", Corridor(), learning_rate=0.25, gamma=0.7, planning_steps=4, **numbers)
    assert {name: getattr(agent, name) for name in numbers} == numbers
    assert (agent.learning_rate, agent.gamma, agent.planning_steps) == (0.25, 0.7, 4)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        agent_class("TabularPolicy", Corridor(), colour="red")  # type: ignore[call-arg]
