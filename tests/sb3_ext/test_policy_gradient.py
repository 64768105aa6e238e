"""ModelPolicyGradient and SVG: SAC's identity, updates by each estimator, files, refusals, broken models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from mbrl_wrappers import EnsembleDynamics, FitConfig, FunctionModel, Trainer
from mbrl_wrappers.gradient_estimators import pathwise
from mbrl_wrappers.seeding import fenced_global_streams
from sb3_ext import ActorPolicy, DynaCallback, DynaConfig
from sb3_ext.agents import SVG, ModelPolicyGradient
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model, oracle_step
from tests.sb3_ext.dyna_agents import oracle_env, small_callback, weights
from tests.sb3_ext.resumed_runs import RARE, Built, differences, run

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 16,
    "policy_kwargs": {"net_arch": [16]},
    "seed": 0,
    "device": "cpu",
    "buffer_size": 1000,
}
ESTIMATORS = ["likelihood_ratio", "pathwise", "mixed"]
ORACLE_RATES = DynaConfig(model_train_freq=10, rollout_freq=10, min_real_rows=20)


def agent(cls: type[Any] = ModelPolicyGradient, env: Any = None, **kwargs: Any) -> Any:
    return cls("MlpPolicy", oracle_env() if env is None else env, **(SMALL | kwargs))


def in_numpy(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The oracle's dynamics out of torch's sight."""
    found = oracle_step(th.from_numpy(obs.numpy()), th.from_numpy(action.numpy()))
    return found[0], found[1], found[2]


def numpy_model() -> FunctionModel:
    env = OracleEnv()
    return FunctionModel(env.observation_space, env.action_space, in_numpy)


@pytest.mark.parametrize("cls", [SVG, ModelPolicyGradient])
@pytest.mark.parametrize("kwargs", [{}, {"ent_coef": 0.2}, {"gradient_steps": 2, "target_update_interval": 2}])
def test_without_imagined_steps_it_is_sac_to_the_last_bit(cls: type[Any], kwargs: dict[str, Any]) -> None:
    plain, ours = agent(SAC, **kwargs).learn(45), agent(cls, horizon=0, **kwargs).learn(45)
    assert ours._n_updates == plain._n_updates > 0
    for name, value in plain.get_parameters().items():
        th.testing.assert_close(ours.get_parameters()[name], value, rtol=0, atol=0)


def test_the_loss_of_svg_is_minus_the_imagined_return_with_its_own_critic() -> None:
    """Two exact steps by hand: ``r_0 + g r_1 + g^2 min Q`` less the price of each action's log-probability."""
    svg, model = agent(SVG, ent_coef=0.3), oracle_model(OracleEnv())
    starts = th.tensor([[0.1, 0.2, 0.0], [-0.3, 0.1, 0.4], [0.99, 0.9, 0.0]])
    draws = th.Generator().manual_seed(4)
    found = pathwise(model, ActorPolicy(svg), starts, svg._objective(0.3), generator=draws)
    policy, again = ActorPolicy(svg), th.Generator().manual_seed(4)
    obs, wanted, alive = starts, th.zeros(3), th.ones(3)
    for step in range(2):
        action, log_prob = policy.sample(obs, generator=again)
        assert log_prob is not None
        following, reward, ended = oracle_step(obs, model.codec.decode(action))
        wanted = wanted + svg.gamma**step * alive * (reward - 0.3 * log_prob)
        alive = alive * (~ended).float()
        obs = following
    # Rows that terminated have no value, and repeat their last observation in the meantime.
    last, log_prob = policy.sample(found.unrolled.obs[found.unrolled.alive.sum(0) - 1, th.arange(3)], generator=again)
    assert log_prob is not None
    shown = found.unrolled.obs[found.unrolled.alive.sum(0) - 1, th.arange(3)]
    value = th.cat(svg.critic(shown, last), 1).amin(1) - 0.3 * log_prob
    wanted = wanted + svg.gamma**2 * alive * value
    assert alive.tolist() == [1, 1, 0]
    th.testing.assert_close(found.rows, wanted)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("terminal_value", [True, False])
def test_it_learns_beside_a_fitted_model_and_logs(estimator: str, terminal_value: bool) -> None:
    env = oracle_env()
    ours = agent(env=env, estimator=estimator, horizon=3, terminal_value=terminal_value, probe_freq=10)
    dyna = small_callback(env)
    before = weights(ours)
    critic = [weight.clone() for weight in ours.critic.parameters()]
    ours.learn(30, callback=dyna)
    assert ours._n_updates == 10
    assert ours.skipped_updates == 0
    assert not weights(ours).equal(before)
    assert any(not weight.equal(old) for weight, old in zip(ours.critic.parameters(), critic, strict=True)) == (
        terminal_value
    )
    assert len(ours.replay_buffer.synthetic) == 0
    logged = ours.logger.name_to_value
    assert {"gradient/norm", "gradient/valid_fraction", "train/actor_loss", "train/ent_coef"} <= set(logged)
    assert {f"gradient/{name}_h{h}" for name in ("pathwise_variance", "log_growth") for h in (1, 3)} <= set(logged)
    assert ("train/critic_loss" in logged) == terminal_value
    assert ("gradient/alpha" in logged) == (estimator == "mixed")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_updates_in_the_exact_model_raise_the_true_return(estimator: str) -> None:
    """Six steps of the oracle, no critic: the real environment pays far more than to the first policy."""
    ours = agent(
        estimator=estimator,
        horizon=6,
        terminal_value=False,
        ent_coef=0.0,
        batch_size=64,
        learning_rate=1e-2,
        probe_freq=0,
    )
    ours.use_model(oracle_model(OracleEnv()))
    ours.learning_starts = 100
    ours.learn(100)
    before = true_return(ours)
    ours.train(25, 64)
    assert true_return(ours) > before + 0.2 * (6.0 - before)  # the reward is at most 1 a step


def true_return(ours: Any) -> float:
    """Of six steps of the real environment, the mean over fixed starts."""
    env, total = OracleEnv(), 0.0
    starts = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3)).astype(np.float32)
    for start in starts:
        env.reset()
        env.set_obs(start)
        obs = start
        for _ in range(6):
            obs, reward, terminated, _, _ = env.step(ours.predict(obs, deterministic=True)[0])
            total += reward
            if terminated:
                break
    return total / len(starts)


def test_a_seed_repeats_a_run_and_the_models_draws_are_its_own() -> None:
    def run(seed: int) -> th.Tensor:
        env = oracle_env()
        return weights(agent(env=env, horizon=2, seed=seed, probe_freq=0).learn(40, callback=small_callback(env)))

    first = run(0)
    assert first.equal(run(0))
    assert not first.equal(run(1))


@pytest.mark.parametrize("cls", [SVG, ModelPolicyGradient])
def test_it_goes_on_from_a_file_that_holds_no_model(cls: type[Any], tmp_path: Path) -> None:
    env = oracle_env()
    ours, dyna = agent(cls, env, horizon=2), small_callback(env)
    ours.learn(40, callback=dyna)
    ours.save(tmp_path / "agent.zip")
    ours.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = cls.load(tmp_path / "agent.zip", env=env, device="cpu")
    assert loaded.dynamics is None
    assert (loaded.horizon, loaded.estimator, loaded.gradient_seed) == (2, "pathwise", ours.gradient_seed)
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    with pytest.raises(ValueError, match="has no model: pass callback=DynaCallback"):
        loaded.learn(5, reset_num_timesteps=False)
    assert dyna.dynamics is not None
    for one in (ours, loaded):
        one.use_model(dyna.dynamics)
        one.set_logger(ours.logger)
        with fenced_global_streams(1):
            one.train(3, 16)
    assert weights(loaded).equal(weights(ours))
    loaded.learn(15, callback=small_callback(env), reset_num_timesteps=False)
    assert loaded._n_updates > ours._n_updates


def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Killed between two fits: the agent goes on in the model as it was, with the draws that come next."""

    def build() -> Built:
        env = make_vec_env("Pendulum-v1", seed=0)
        model = EnsembleDynamics(
            env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(8,), device="cpu"
        )
        dyna = DynaCallback(model, RARE, trainer=Trainer(model, FitConfig(max_gradient_steps=8)))
        return Built(agent(SVG, env, horizon=2, probe_freq=0, learning_starts=45), [dyna])

    whole, killed = run(tmp_path / "whole", build, 90), run(tmp_path / "killed", build, 90, (67,))
    assert killed.restored_to == [0, 50]
    assert list(differences(whole.state, killed.state)) == []


def test_a_run_without_a_seed_keeps_the_seed_of_its_draws() -> None:
    first, second = agent(SVG, seed=None), agent(SVG, seed=None)
    first.skipped_updates = 4
    assert first.gradient_seed != second.gradient_seed
    second.load_own_state(first.own_state())
    assert (second.gradient_seed, second.skipped_updates) == (first.gradient_seed, 4)


def test_a_model_without_gradients_is_refused_before_a_step_is_taken() -> None:
    for cls, kwargs in ((SVG, {}), (ModelPolicyGradient, {}), (ModelPolicyGradient, {"estimator": "mixed"})):
        ours = agent(cls, **kwargs)
        with pytest.raises(TypeError, match=r"works with this one: .*estimator='likelihood_ratio'"):
            ours.learn(30, callback=DynaCallback(numpy_model(), ORACLE_RATES))
        assert ours.num_timesteps == 0


def test_the_likelihood_ratio_learns_in_a_model_of_numpy() -> None:
    ours = agent(estimator="likelihood_ratio", horizon=3, probe_freq=5)
    before = weights(ours)
    ours.learn(40, callback=DynaCallback(numpy_model(), ORACLE_RATES))
    assert ours._n_updates == 20
    assert not weights(ours).equal(before)
    assert "gradient/pathwise_variance_h3" not in ours.logger.name_to_value


def test_a_broken_model_leaves_the_agent_whole() -> None:
    """Every prediction NaN: nothing is imagined, and what is left of the return is the critic at the real states."""
    env = OracleEnv()

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (obs + action[:, :1]) * th.nan, action[:, 0], obs[:, 0] > 9

    broken = FunctionModel(env.observation_space, env.action_space, step)
    for estimator in ESTIMATORS:
        ours = agent(estimator=estimator, horizon=3, probe_freq=0)
        ours.learn(25, callback=DynaCallback(broken, ORACLE_RATES))
        assert all(weight.isfinite().all() for weight in ours.policy.state_dict().values())
        assert ours.logger.name_to_value["gradient/valid_fraction"] == 0


def test_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    ours = agent(horizon=1)
    log: Any = {"gradient/norm": []}
    before = weights(ours)
    ours._update_actor(th.full((sum(w.numel() for w in ours.actor.parameters()),), th.nan), log)
    assert ours.skipped_updates == 1
    assert log == {"gradient/norm": []}
    assert weights(ours).equal(before)


def test_the_gradient_is_clipped_to_its_length() -> None:
    ours = agent(horizon=1, max_grad_norm=0.5)
    count = sum(weight.numel() for weight in ours.actor.parameters())
    ours._update_actor(th.ones(count), {"gradient/norm": []})  # type: ignore[arg-type]
    clipped = th.cat([weight.grad.flatten() for weight in ours.actor.parameters()])
    th.testing.assert_close(clipped, th.full((count,), 0.5 / count**0.5))


def test_normalised_observations_and_rewards() -> None:
    """The model is in raw units, the critic in those of VecNormalize: the return is in raw ones."""
    env = VecNormalize(DummyVecEnv([oracle_env]))
    ours = agent(env=env, horizon=2, ent_coef=0.1)
    ours.learn(40, callback=small_callback(oracle_env()))
    assert ours._n_updates == 20
    rms: Any = env.ret_rms
    scale = float(np.sqrt(rms.var + env.epsilon))
    assert scale != pytest.approx(1, abs=1e-3)
    objective = ours._objective(0.1)
    obs = th.tensor([[0.1, -0.2, 0.3]])
    assert objective.entropy_coef == pytest.approx(0.1 * scale)
    action, log_prob = ActorPolicy(ours).sample(obs, generator=th.Generator().manual_seed(0))
    shown = th.as_tensor(env.normalize_obs(obs.numpy())).float()
    wanted = scale * (th.cat(ours.critic(shown, action), 1).amin(1) - 0.1 * log_prob)
    assert objective.value is not None
    th.testing.assert_close(objective.value(obs, generator=th.Generator().manual_seed(0)), wanted)


def test_it_waits_for_the_first_fit() -> None:
    env = oracle_env()
    ours = agent(env=env, horizon=2, learning_starts=10)
    config = DynaConfig(model_train_freq=20, rollout_freq=10, rollouts_per_step=3, retain_steps=20, min_real_rows=30)
    ours.learn(34, callback=small_callback(env, config))
    assert ours._n_updates == 5  # after steps 30 to 34


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="estimator must be one of"):
        agent(estimator="reinforce")
    with pytest.raises(ValueError, match="horizon must be an integer of at least 1"):
        agent(horizon=0, terminal_value=False)
    with pytest.raises(ValueError, match="lam < 1 leans on the critic"):
        agent(lam=0.9, terminal_value=False)
    with pytest.raises(ValueError, match="batch_size must be a multiple of 8, got 20"):
        agent(estimator="mixed", batch_size=20)
    with pytest.raises(ValueError, match="for another estimator take ModelPolicyGradient"):
        agent(SVG, estimator="mixed")
    with pytest.raises(ValueError, match="ModelPolicyGradient has no model"):
        agent().learn(30)
    with pytest.raises(AssertionError, match="only supports"):
        agent(env=TimeLimit(DiscreteOracleEnv(), 12))


def test_the_log_goes_by_the_name_of_the_agent(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    agent(SVG, horizon=0, tensorboard_log=str(tmp_path)).learn(3)
    assert (tmp_path / "SVG_1").is_dir()
