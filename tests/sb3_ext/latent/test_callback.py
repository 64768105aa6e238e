"""A latent model beside an agent: what is fitted when, what the agent sees after it, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers.latent import BeliefObservation
from sb3_ext import MixedReplayBuffer
from sb3_ext.latent import BeliefReplayBuffer, BeliefVecEnv
from tests.sb3_ext.latent.belief_agents import masked, small_agent, small_callback, small_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:The posterior has collapsed"),
    pytest.mark.filterwarnings("ignore:The learned decoder_std"),
]


def weights(agent: SAC) -> list[th.Tensor]:
    return [weight.detach().clone() for weight in agent.policy.parameters()]


def test_without_model_data_the_agent_learns_bit_for_bit_as_with_real_rows_only() -> None:
    learned = []
    for imagine, ratio in ((False, 0.5), (True, 1.0)):
        model = small_model()
        agent = small_agent(model, real_ratio=ratio)
        agent.learn(60, callback=small_callback(model, imagine=imagine))
        learned.append(weights(agent))
    assert all(th.equal(a, b) for a, b in zip(*learned, strict=True))
    model = small_model()
    agent = small_agent(model)
    agent.learn(60, callback=small_callback(model))
    assert not all(th.equal(a, b) for a, b in zip(weights(agent), learned[0], strict=True))


@pytest.mark.parametrize("single", [True, False], ids=["row by row", "vector"])
def test_after_a_fit_the_agent_acts_on_the_new_model_s_belief(single: bool) -> None:
    model = small_model()
    env: Any = DummyVecEnv([lambda: BeliefObservation(masked()(), model, seed=1)])
    env = env if single else BeliefVecEnv(DummyVecEnv([masked()]), model, seed=1)
    agent = small_agent(model, env=env)
    seen: list[tuple[bool, bool]] = []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                holder: Any = env.envs[0] if single else env
                now = np.atleast_2d(holder.current())
                seen.append((np.array_equal(agent._last_obs, now), bool(holder.tracker.times_inferred_anew)))

        def _on_step(self) -> bool:
            return True

    callback = small_callback(model)
    agent.learn(45, callback=[callback, Watch()])
    assert callback._fits == 2
    assert all(same for same, _ in seen)
    assert seen[-1][1]


def test_imagined_rows_of_former_weights_are_forgotten_and_made_anew() -> None:
    model = small_model()
    agent = small_agent(model)
    callback = small_callback(model, rollout_freq=40, retain_steps=1000)
    made: list[int | None] = []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            buffer = agent.replay_buffer
            assert isinstance(buffer, MixedReplayBuffer)
            if self.num_timesteps in (41, 61):
                made.append(buffer.synthetic.oldest)

        def _on_step(self) -> bool:
            return True

    agent.learn(70, callback=[callback, Watch()])
    assert made == [40, 60]


def test_the_log_has_the_bound_and_its_terms() -> None:
    model = small_model()
    agent = small_agent(model, n_envs=2)
    callback = small_callback(model)
    agent.learn(46, callback=callback)
    names = callback.logger.name_to_value
    assert {"model/bound", "model/kl", "model/closed_r2_obs0", "model/open_r2_reward", "dyna/synthetic_rows"} <= set(
        names
    )


def test_an_evaluation_in_the_training_environment_is_refused() -> None:
    model = small_model()
    agent = small_agent(model)
    shared = EvalCallback(agent.env, eval_freq=10, n_eval_episodes=1, warn=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="own environment and belief"):
        agent.learn(30, callback=[small_callback(model), shared])

    class Evaluates(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 7:
                evaluate_policy(self.model, self.training_env, n_eval_episodes=1, warn=False)
            return True

    agent = small_agent(model, steps=10)
    with pytest.raises(ValueError, match="own environment and belief"):
        agent.learn(30, callback=[small_callback(model), Evaluates()])
    apart = agent.env.for_evaluation(DummyVecEnv([masked(10)]))  # type: ignore[union-attr]
    agent = small_agent(model)
    agent.learn(45, callback=[small_callback(model), EvalCallback(apart, eval_freq=10, n_eval_episodes=1, warn=False)])


def test_a_time_limit_around_the_filter_is_no_interruption() -> None:
    model = small_model()
    env = DummyVecEnv([lambda: gym.wrappers.TimeLimit(BeliefObservation(masked()(), model, seed=1), 7)])
    agent = small_agent(model, env=env)
    agent.learn(30, callback=small_callback(model, imagine=False))
    buffer = agent.replay_buffer
    assert isinstance(buffer, BeliefReplayBuffer)
    assert buffer.timeouts[:21, 0].nonzero()[0].tolist() == [6, 13, 20]


def test_pieces_that_do_not_fit_are_refused() -> None:
    model, other = small_model(), small_model()
    with pytest.raises(ValueError, match="the same object"):
        small_agent(model).learn(1, callback=small_callback(other))
    with pytest.raises(TypeError, match="replay_buffer_class=BeliefReplayBuffer"):
        SAC("MlpPolicy", BeliefVecEnv(DummyVecEnv([masked()]), model), device="cpu").learn(
            1, callback=small_callback(model)
        )
    normalized = VecNormalize(BeliefVecEnv(DummyVecEnv([masked()]), model))
    agent = SAC("MlpPolicy", normalized, replay_buffer_class=BeliefReplayBuffer, device="cpu")
    with pytest.raises(ValueError, match="VecNormalize"):
        agent.learn(1, callback=small_callback(model))
    plain: Any = SAC("MlpPolicy", DummyVecEnv([masked()]), replay_buffer_class=BeliefReplayBuffer, device="cpu")
    with pytest.raises(ValueError, match="does not see beliefs"):
        plain.learn(1, callback=small_callback(model))


def test_an_agent_is_saved_without_the_model_and_goes_on_with_it(tmp_path: Any) -> None:
    model = small_model()
    agent = small_agent(model)
    agent.learn(30, callback=small_callback(model))
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "rows")
    loaded = SAC.load(tmp_path / "agent", env=agent.env, device="cpu")
    assert isinstance(loaded.replay_buffer, BeliefReplayBuffer)
    assert loaded.replay_buffer.window == 4
    loaded.load_replay_buffer(tmp_path / "rows")
    loaded.learn(30, callback=small_callback(model))
