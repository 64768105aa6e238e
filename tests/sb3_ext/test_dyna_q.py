"""Tabular agents behind Stable-Baselines3's interface."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers import TabularModel
from mbrl_wrappers.models.value_iteration import policy_value
from mbrl_wrappers.tasks import TabularObservation
from sb3_ext.agents import DynaQ, DynaQPlus, PrioritizedSweeping, TabularPolicy
from sb3_ext.agents.tabular_agent import TabularAgent
from tests.sb3_ext.test_tabular_planning import Chain

MAZE = "mbrl_wrappers/DynaMaze-v0"
AGENTS: list[type[TabularAgent]] = [DynaQ, DynaQPlus, PrioritizedSweeping]
every_agent = pytest.mark.parametrize("agent_class", AGENTS)


class Counting(BaseCallback):
    """How often each hook was called, and what ``_on_step`` saw."""

    def __init__(self, stop_after: int = 10**9) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.stop_after = stop_after
        self.episodes: list[int] = []

    def _on_training_start(self) -> None:
        self.calls["training_start"] += 1
        assert self.locals["total_timesteps"] > 0

    def _on_rollout_start(self) -> None:
        self.calls["rollout_start"] += 1

    def _on_step(self) -> bool:
        self.calls["step"] += 1
        assert {"new_obs", "rewards", "dones", "infos", "actions"} <= self.locals.keys()
        self.episodes += [info["episode"]["l"] for info in self.locals["infos"] if "episode" in info]
        return self.n_calls < self.stop_after

    def _on_rollout_end(self) -> None:
        self.calls["rollout_end"] += 1

    def _on_training_end(self) -> None:
        self.calls["training_end"] += 1


def tables(agent: TabularAgent) -> dict[str, th.Tensor]:
    return {"q": agent.policy.q_table, **dict(agent.memory.named_buffers())}


def assert_equal(first: TabularAgent, second: TabularAgent) -> None:
    for name, table in tables(first).items():
        assert th.equal(table, tables(second)[name]), name


@every_agent
def test_it_learns_the_maze_and_evaluate_policy_says_so(agent_class: type[TabularAgent]) -> None:
    agent = agent_class("TabularPolicy", MAZE, seed=0)
    callback = Counting()
    agent.learn(3000, callback=callback)
    assert callback.episodes[0] > 50
    env = gymnasium.make(MAZE)
    rewards, lengths = evaluate_policy(agent, env, 3, return_episode_rewards=True, warn=False)
    assert rewards == [1.0] * 3
    assert 14 <= max(lengths) <= 24  # type: ignore[operator]


@every_agent
@pytest.mark.filterwarnings("ignore:.*this environment is stochastic")
def test_seeds_are_exact(agent_class: type[TabularAgent]) -> None:
    first, second, third = (agent_class("TabularPolicy", "FrozenLake-v1", seed=seed) for seed in (3, 3, 4))
    for agent in (first, second, third):
        agent.learn(700)
    assert_equal(first, second)
    assert not th.equal(first.memory.tries, third.memory.tries)


@every_agent
@pytest.mark.parametrize("kept", [1, 4])
def test_saved_loaded_and_trained_on_it_does_what_it_would_have_done(
    agent_class: type[TabularAgent], kept: int, tmp_path: Path
) -> None:
    agent = agent_class("TabularPolicy", MAZE, seed=0, outcomes_kept=kept, planning_steps=7)
    agent.learn(900)
    agent.save(tmp_path / "agent")
    loaded = agent_class.load(tmp_path / "agent", env=gymnasium.make(MAZE))
    assert_equal(agent, loaded)
    assert loaded.num_timesteps == 900
    env = agent.get_env()
    assert env is not None
    agent.set_env(env)  # starts anew, as the loaded one must
    for each in (agent, loaded):
        each.learn(900, reset_num_timesteps=False)
    assert_equal(agent, loaded)
    assert loaded.num_timesteps == 1800
    assert loaded.num_planning_updates == agent.num_planning_updates > 0


def test_a_loaded_agent_needs_no_environment_to_act(tmp_path: Path) -> None:
    agent = DynaQ("TabularPolicy", MAZE, seed=0).learn(2000)
    agent.save(tmp_path / "agent")
    loaded = DynaQ.load(tmp_path / "agent")
    states = np.arange(54)
    np.testing.assert_array_equal(*(each.predict(states, deterministic=True)[0] for each in (agent, loaded)))
    agent.policy.save(tmp_path / "policy")
    policy = TabularPolicy.load(tmp_path / "policy")
    assert th.equal(policy.q_table, agent.policy.q_table)


def test_hooks_are_called_as_with_a_rollout_of_one() -> None:
    callback = Counting()
    DynaQ("TabularPolicy", MAZE, seed=0).learn(100, callback=callback)
    each = {"rollout_start": 100, "step": 100, "rollout_end": 100, "training_start": 1, "training_end": 1}
    assert callback.calls == each


def test_a_callback_stops_it() -> None:
    callback = Counting(stop_after=10)
    agent = DynaQ("TabularPolicy", MAZE, seed=0).learn(100, callback=callback)
    assert agent.num_timesteps == 10
    assert callback.calls["rollout_end"] == 9
    assert agent.memory.size[1] == 9  # the tenth was seen and not learned from, as in SB3


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_sb3s_own_callbacks_work(tmp_path: Path) -> None:
    evaluation = EvalCallback(
        make_vec_env(MAZE), n_eval_episodes=2, eval_freq=1500, best_model_save_path=str(tmp_path), verbose=0
    )
    checkpoint = CheckpointCallback(1000, str(tmp_path), "maze")
    agent = DynaQ("TabularPolicy", MAZE, seed=0)
    agent.learn(3000, callback=[evaluation, checkpoint], progress_bar=True)
    assert evaluation.best_mean_reward == 1.0
    assert {path.name for path in tmp_path.glob("*.zip")} >= {"maze_1000_steps.zip", "best_model.zip"}


def test_the_log_has_sb3s_keys(tmp_path: Path) -> None:
    agent = DynaQ("TabularPolicy", MAZE, seed=0, planning_steps=5)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(4000, log_interval=5)
    agent.logger.close()
    header, *lines = (tmp_path / "progress.csv").read_text().splitlines()
    row = dict(zip(header.split(","), lines[-1].split(","), strict=True))
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "train/learning_rate", "train/td_error"} <= set(
        row
    )
    assert int(row["time/episodes"]) % 5 == 0
    assert int(row["train/planning_updates"]) == 5 * int(row["train/n_updates"])
    assert float(row["rollout/exploration_rate"]) == 0.1
    assert len(lines) == int(row["time/episodes"]) // 5


def test_epsilon_falls_as_in_dqn() -> None:
    numbers = {"exploration_fraction": 0.4, "exploration_initial_eps": 0.9, "exploration_final_eps": 0.2}
    rates: dict[str, list[float]] = {}
    for name, agent in {
        "ours": DynaQ("TabularPolicy", "FrozenLake-v1", seed=0, planning_steps=0, **numbers),
        "DQN": DQN("MlpPolicy", "FrozenLake-v1", seed=0, learning_starts=1000, train_freq=1, **numbers),  # type: ignore[arg-type]
    }.items():
        seen: list[float] = []
        agent.learn(50, callback=lambda a, b, seen=seen, agent=agent: seen.append(agent.exploration_rate) or True)
        rates[name] = [*seen[1:], agent.exploration_rate]
    assert rates["ours"] == rates["DQN"]
    assert rates["ours"][-1] == 0.2


def test_schedules_of_the_learning_rate_are_followed() -> None:
    agent = DynaQ("TabularPolicy", MAZE, learning_rate=lambda progress: 0.5 * progress, seed=0)
    seen: list[float] = []
    agent.learn(10, callback=lambda *_: seen.append(agent._step_size) or True)
    assert seen == pytest.approx([0.5 * (1 - step / 10) for step in range(10)])


def test_numbers_may_begin_anywhere() -> None:
    agent = DynaQ("TabularPolicy", Chain(), seed=0, learning_rate=0.5).learn(200)
    actions, _ = agent.predict(np.array([10, 11, 12]), deterministic=True)
    assert actions.tolist() == [6, 6, 6]
    with pytest.raises(ValueError, match="lies outside"):
        agent.predict(np.array([9]))


def test_exploring_predictions_toss_a_coin_for_each_row_and_leave_training_alone() -> None:
    agent, undisturbed = (
        DynaQ("TabularPolicy", MAZE, seed=0, exploration_initial_eps=0.4, exploration_final_eps=0.4).learn(2000)
        for _ in range(2)
    )
    greedy, _ = agent.predict(np.full(4000, 18), deterministic=True)
    assert len(set(greedy.tolist())) == 1
    mixed, _ = agent.predict(np.full(4000, 18))
    assert np.mean(mixed != greedy) == pytest.approx(0.3, abs=0.03)
    single, _ = agent.predict(np.int64(18))  # type: ignore[arg-type]
    assert single.shape == ()
    for each in (agent, undisturbed):
        each.learn(100, reset_num_timesteps=False)
    assert_equal(agent, undisturbed)


def test_several_environments_are_learned_from_in_turn() -> None:
    agent = DynaQ("TabularPolicy", make_vec_env(MAZE, 3), seed=0, planning_steps=10)
    callback = Counting()
    agent.learn(3000, callback=callback)
    assert callback.calls["step"] == 1000
    assert agent.memory.size[1] == agent._n_updates == 3000
    assert agent.num_planning_updates == 30_000
    assert evaluate_policy(agent, gymnasium.make(MAZE), 2, warn=False)[0] == 1.0


def test_chance_is_noticed_and_planned_for() -> None:
    true = TabularModel.from_env(gymnasium.make("FrozenLake-v1")).mdp()
    numbers = {"gamma": 0.99, "exploration_initial_eps": 1.0, "exploration_fraction": 0.8, "planning_steps": 10}
    careless, careful = (
        DynaQ("TabularPolicy", "FrozenLake-v1", seed=0, outcomes_kept=kept, **numbers) for kept in (1, 50)
    )
    with pytest.warns(UserWarning, match="stochastic.*outcomes_kept=50"):
        careless.learn(6000)
    careful.learn(6000)
    earned = [policy_value(true, agent.policy.q_table.numpy().argmax(1), 100)[0] for agent in (careless, careful)]
    assert earned[0] < 0.3
    assert earned[1] > 0.5


def test_optimism_is_an_initial_value() -> None:
    agent = DynaQ("TabularPolicy", MAZE, policy_kwargs={"initial_value": 2.0}, planning_steps=0, seed=0)
    assert (agent.policy.q_table == 2).all()


def test_a_box_behind_the_discretiser_is_welcome() -> None:
    env = TabularObservation(gymnasium.make("MountainCar-v0"), 8)
    assert DynaQ("TabularPolicy", env, seed=0).learn(300).memory.size[1] == 300


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Box(0, 1, (2,)), spaces.Discrete(2), "mbrl_wrappers.tasks.TabularObservation"),
        (spaces.Discrete(2), spaces.Box(0, 1, (2,)), "take SAC, TD3 or PPO"),
        (spaces.MultiDiscrete([2, 2]), spaces.Discrete(2), "gymnasium.ObservationWrapper"),
        (spaces.Discrete(2), spaces.MultiDiscrete([2, 2]), "gymnasium.ActionWrapper"),
    ],
)
@every_agent
def test_other_spaces_are_refused_with_advice(
    agent_class: type[TabularAgent], observation: Any, action: Any, words: str
) -> None:
    env = Chain()
    env.observation_space, env.action_space = observation, action
    with pytest.raises(TypeError, match=f"{agent_class.__name__} needs.*{words}"):
        agent_class("TabularPolicy", env)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"planning_steps": -1}, "planning_steps must be an integer of at least 0"),
        ({"gamma": 1.5}, "gamma must be"),
        ({"exploration_fraction": 0}, "exploration_fraction must be"),
        ({"exploration_final_eps": 2}, "exploration_final_eps must be"),
        ({"outcomes_kept": 0}, "outcomes_kept must be"),
        ({"outcomes_kept": 10**6}, "keep fewer"),
        ({"device": "cuda"}, "device must be 'cpu'"),
        ({"policy": "MlpPolicy"}, "MlpPolicy unknown"),
    ],
)
def test_impossible_numbers_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DynaQ(**{"policy": "TabularPolicy", "env": MAZE, **arguments})


def test_other_wrong_uses_are_refused() -> None:
    with pytest.raises(ValueError, match="planning_steps must be an integer of at least 1"):
        PrioritizedSweeping("TabularPolicy", MAZE, planning_steps=0)
    with pytest.raises(ValueError, match="exploration_bonus must be"):
        DynaQPlus("TabularPolicy", MAZE, exploration_bonus=-1)
    normalised = VecNormalize(DummyVecEnv([Chain]), norm_obs=False)
    with pytest.raises(TypeError, match="leave VecNormalize out"):
        DynaQ("TabularPolicy", normalised)
    agent = DynaQ("TabularPolicy", Chain())
    with pytest.raises(TypeError, match="leave VecNormalize out"):
        agent.set_env(normalised)
