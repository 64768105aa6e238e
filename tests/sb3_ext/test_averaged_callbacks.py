"""The averaged actor in the place of the agent: evaluated, branching, acting, and gone again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext import ActWithAverage, AveragedActor, WithAveragedActor
from tests.sb3_ext.averaged_agents import (
    Recorder,
    acting_arrays,
    averaged_arrays,
    build,
    env_of,
    fill,
)
from tests.sb3_ext.dyna_agents import oracle_env, small_callback


def test_evaluation_of_the_average(tmp_path: Path) -> None:
    agent, averaged = build("SAC"), AveragedActor(30)
    raw = EvalCallback(DummyVecEnv([env_of("SAC")]), n_eval_episodes=2, eval_freq=20, verbose=0)
    of_average = EvalCallback(
        DummyVecEnv([env_of("SAC")]), n_eval_episodes=2, eval_freq=20, best_model_save_path=str(tmp_path), verbose=0
    )
    agent.learn(60, callback=[averaged, raw, WithAveragedActor(averaged, of_average)])
    env = DummyVecEnv([env_of("SAC")])
    env.seed(0)
    mean, _ = evaluate_policy(averaged, env, n_eval_episodes=2)
    env.seed(0)
    with averaged.applied():
        assert evaluate_policy(agent, env, n_eval_episodes=2)[0] == mean
    env.seed(0)
    assert evaluate_policy(agent, env, n_eval_episodes=2)[0] != mean
    assert of_average.last_mean_reward != raw.last_mean_reward
    assert (tmp_path / "best_model.zip").is_file()


def test_another_callback_meets_the_average_and_the_agent_gets_its_own_back() -> None:
    seen: dict[str, list[np.ndarray]] = {"inside": [], "outside": []}

    class Look(BaseCallback):
        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            seen[self.key].append(acting_arrays(self.model)["mu.bias"])

    agent, averaged = build("SAC"), AveragedActor(30)
    agent.learn(40, callback=[averaged, WithAveragedActor(averaged, Look("inside")), Look("outside")])
    assert len(seen["inside"]) == len(seen["outside"]) == 40
    assert (seen["inside"][-1] != seen["outside"][-1]).all()
    names = list(averaged.network.arrays())
    np.testing.assert_array_equal(seen["inside"][-1], averaged_arrays(averaged)[names.index("mu.bias")])


def test_the_average_can_branch_in_the_model() -> None:
    from sb3_ext import MixedReplayBuffer

    agent, averaged = build("SAC", replay_buffer_class=MixedReplayBuffer), AveragedActor(30)
    dyna = small_callback(oracle_env())
    agent.learn(60, callback=[averaged, WithAveragedActor(averaged, dyna)])
    assert len(agent.replay_buffer.synthetic) > 0


def test_a_callback_without_its_average_is_refused() -> None:
    averaged = AveragedActor()
    with pytest.raises(ValueError, match=r"learn\(callback=\[averaged, ..., WithAveragedActor"):
        build("SAC").learn(5, callback=WithAveragedActor(averaged, Recorder()))
    with pytest.raises(ValueError, match="follows no agent yet"):
        averaged.predict(np.zeros(3, np.float32))


@pytest.mark.parametrize(("n_envs", "train_freq"), [(1, 1), (2, 1), (2, 3), (1, (1, "episode"))], ids=str)
def test_the_average_acts_and_everyone_else_meets_the_agents_own_actor(n_envs: int, train_freq: Any) -> None:
    class Check(BaseCallback):
        """Between the first callback and the last: what acted, and what is in the agent."""

        def __init__(self) -> None:
            super().__init__()
            self.last_obs: Any = None
            self.next_action: Any = None
            self.checked = 0

        def _on_rollout_start(self) -> None:
            self.last_obs = self.model._last_obs
            self.next_action = averaged.predict(self.last_obs, deterministic=True)[0]

        def _on_step(self) -> bool:
            np.testing.assert_allclose(self.locals["actions"], self.next_action, atol=1e-6)
            self.checked += 1
            fill(self.model, float(self.num_timesteps))  # as if it had learned
            self.next_action = averaged.predict(self.locals["new_obs"], deterministic=True)[0]
            return True

        def _on_rollout_end(self) -> None:
            assert self.model.policy.actor.mu[0].weight.min() == self.num_timesteps

    agent = build("TD3", n_envs=n_envs, learning_starts=0, train_freq=train_freq, gradient_steps=0)
    averaged, check, recorder = AveragedActor(1000), Check(), Recorder()
    expected = acting_arrays(agent)["mu.0.weight"].astype(np.float64)
    agent.learn(30 * n_envs, callback=[averaged, check, recorder, ActWithAverage(averaged)])
    assert check.checked == len(recorder.actors) >= 30
    weight = 1 - (1 - 1 / 1000) ** n_envs
    own = expected.copy()
    for actor in recorder.actors:
        expected = expected + weight * (own - expected)  # Check sets the weights after the average has seen them
        own = actor["mu.0.weight"]
    np.testing.assert_allclose(averaged.network.arrays()["mu.0.weight"], expected, rtol=1e-5)
    np.testing.assert_array_equal(acting_arrays(agent)["mu.0.weight"], own)


@pytest.mark.parametrize("name", ["SAC", "sbx.SAC"])
def test_a_run_that_is_stopped_gives_the_agent_its_own_actor_back(name: str) -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            fill(self.model, 7.0)
            return self.num_timesteps < 4

    agent, averaged = build(name, learning_starts=1000), AveragedActor()
    agent.learn(10, callback=[averaged, Stop(), ActWithAverage(averaged)])
    assert agent.num_timesteps == 4
    assert all((value == 7.0).all() for value in acting_arrays(agent).values())
