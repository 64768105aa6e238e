"""Differentiable actors against SB3's own draws and log-probabilities on the same noise."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Generator, Tensor

from mbrl_wrappers import branched_rollout, unroll
from sb3_ext import ActorPolicy
from tests.oracle import HIGH, LOW, DiscreteOracleEnv, OracleEnv, oracle_model

OBS = th.tensor([[0.3, -0.2, 0.1], [-0.9, 0.4, 0.0], [0.05, 0.6, -1.5], [2.0, -3.0, 1.0]])


def make(name: str, env: Any = None, **kwargs: Any) -> BaseAlgorithm:
    """A tiny agent, with an actor that acts away from zero and in which no two standard deviations are equal."""
    cls: Any = {"SAC": SAC, "TD3": TD3, "DDPG": DDPG, "PPO": PPO, "A2C": A2C}.get(name)
    if cls is None:
        cls = getattr(pytest.importorskip("sb3_contrib"), name)
    off_policy = {"buffer_size": 10} if name in ("SAC", "TD3", "DDPG", "TQC", "CrossQ") else {}
    settings = {"policy_kwargs": {"net_arch": [8]}, "seed": 3, "device": "cpu"} | off_policy | kwargs
    agent: BaseAlgorithm = cls("MlpPolicy", OracleEnv() if env is None else env, **settings)
    generator = Generator().manual_seed(5)
    with th.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.3 * th.randn(parameter.shape, generator=generator))
    return agent


def noise(seed: int = 0) -> Tensor:
    return th.randn(len(OBS), 2, generator=Generator().manual_seed(seed))


def sample(agent: BaseAlgorithm, obs: Tensor = OBS, seed: int = 0, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    return ActorPolicy(agent, **kwargs).sample(obs, generator=Generator().manual_seed(seed))


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """SB3's distributions draw what ``noise()`` says."""
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, dtype, device: noise())


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ"])
def test_squashed_actors_draw_what_sb3_draws_with_its_gradients(name: str) -> None:
    agent = make(name)
    actor: Any = agent.policy.actor
    agent.policy.set_training_mode(False)
    weights = [weight for weight in actor.parameters() if weight.requires_grad]
    found, wanted = sample(agent), actor.action_log_prob(OBS)
    assert found[1] is not None
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours is not None
        th.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        gradients = [th.autograd.grad(side.sum(), weights, retain_graph=True) for side in (ours, theirs)]
        for mine, other in zip(*gradients, strict=True):
            th.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
        assert any(bool((gradient != 0).any()) for gradient in gradients[0])


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("name", ["PPO", "A2C", "TRPO"])
def test_on_policy_actors_draw_what_sb3_draws_and_scale_what_the_environment_gets(name: str) -> None:
    agent = make(name)
    raw, _, log_prob = agent.policy(OBS)  # environment units, not clipped yet
    action, ours = sample(agent)
    assert ours is not None
    th.testing.assert_close(ours, log_prob, rtol=1e-5, atol=1e-5)
    th.testing.assert_close(ours, agent.policy.evaluate_actions(OBS, raw)[1], rtol=1e-5, atol=1e-5)  # type: ignore[operator]
    clipped = np.clip(raw.detach().numpy(), LOW, HIGH)
    assert (clipped != raw.detach().numpy()).any()
    assert (clipped == raw.detach().numpy()).any()
    wanted = 2 * (clipped - LOW) / (HIGH - LOW) - 1
    np.testing.assert_allclose(action.detach().numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(ActorPolicy(agent).codec.to_env(action), clipped, atol=1e-5)
    # A clipped entry has no gradient, and any other that of the scaling, 2 / (high - low).
    bias: Any = agent.policy.action_net.bias
    for row in range(len(OBS)):
        for entry in range(2):
            (slope,) = th.autograd.grad(action[row, entry], bias, retain_graph=True)
            inside = bool(LOW[entry] < raw[row, entry] < HIGH[entry])
            assert slope[entry].item() == pytest.approx(2 / (HIGH - LOW)[entry] if inside else 0.0, rel=1e-6)


@pytest.mark.parametrize(("name", "noise_std"), [("TD3", 0.0), ("DDPG", 0.0), ("TD3", 0.4), ("DDPG", 0.4)])
def test_deterministic_actors_take_noise_of_their_own_and_have_no_log_probability(name: str, noise_std: float) -> None:
    agent = make(name)
    action, log_prob = sample(agent, noise_std=noise_std)
    assert log_prob is None
    with th.no_grad():
        wanted = (agent.policy.actor(OBS) + noise_std * noise()).clamp(-1, 1)  # type: ignore[operator]
    th.testing.assert_close(action.detach(), wanted)
    assert action.requires_grad
    np.testing.assert_allclose(
        ActorPolicy(agent).codec.to_env(sample(agent)[0]),
        agent.predict(OBS.numpy(), deterministic=True)[0],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SAC", {}),
        ("SAC", {"use_expln": True}),
        ("TQC", {}),
        ("PPO", {}),
        ("PPO", {"full_std": False}),
        ("PPO", {"squash_output": True}),
        ("A2C", {"use_expln": True}),
    ],
)
def test_with_state_dependent_exploration_the_log_probability_is_sb3s_own(name: str, options: dict[str, Any]) -> None:
    agent = make(name, use_sde=True, policy_kwargs={"net_arch": [8], **options})
    policy: Any = agent.policy
    action, log_prob = sample(agent)
    assert log_prob is not None
    if name in ("SAC", "TQC"):
        mean, log_std, extra = policy.actor.get_action_dist_params(OBS)
        wanted = policy.actor.action_dist.proba_distribution(mean, log_std, **extra).log_prob(action)
        squashed = th.tanh(mean + policy.actor.action_dist.distribution.stddev * noise())
        th.testing.assert_close(action, squashed, rtol=1e-5, atol=1e-5)
    else:
        distribution = policy.get_distribution(OBS).distribution
        raw = distribution.mean + distribution.stddev * noise()
        drawn = th.tanh(raw) if policy.squash_output else raw
        wanted = policy.get_distribution(OBS).log_prob(drawn)
        in_env_units = drawn.detach().numpy().clip(LOW, HIGH)
        np.testing.assert_allclose(
            action.detach().numpy(),
            drawn.detach().numpy() if policy.squash_output else 2 * (in_env_units - LOW) / (HIGH - LOW) - 1,
            atol=1e-5,
        )
        if not policy.squash_output:
            weights = [*policy.mlp_extractor.policy_net.parameters(), policy.log_std]
            gradients = [
                th.autograd.grad(side.sum(), weights, retain_graph=True, allow_unused=True)
                for side in (log_prob, wanted)
            ]
            for ours, theirs in zip(*gradients, strict=True):
                # The features get none from the spread where SB3 does not learn it.
                zero = th.zeros(())
                th.testing.assert_close(
                    (zero if ours is None else ours).sum(), (zero if theirs is None else theirs).sum()
                )
    # SB3 inverts the tanh, which float32 does exactly only away from its edges.
    rows = (action.abs() < 0.99).all(1) if policy.squash_output else th.ones(len(OBS), dtype=th.bool)
    assert rows.any()
    th.testing.assert_close(log_prob[rows], wanted[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["SAC", "TD3", "PPO"])
def test_observations_are_normalised_as_the_agent_sees_them(name: str) -> None:
    agent, other = make(name, VecNormalize(DummyVecEnv([OracleEnv]))), make(name)
    normalizer = agent.get_vec_normalize_env()
    assert normalizer is not None
    rms: Any = normalizer.obs_rms
    rms.mean, rms.var, rms.count = np.array([0.5, -1.0, 2.0]), np.array([4.0, 0.01, 1.0]), 100.0
    other.policy.load_state_dict(agent.policy.state_dict())
    raw = OBS.clone().requires_grad_()
    shown = th.as_tensor(normalizer.normalize_obs(OBS.numpy())).float()
    assert (shown.abs() == normalizer.clip_obs).any()  # clipping counts
    action, _ = sample(agent, raw)
    th.testing.assert_close(action, sample(other, shown)[0], rtol=1e-4, atol=1e-5)
    action.sum().backward()  # type: ignore[no-untyped-call]
    assert raw.grad is not None
    assert raw.grad.abs().sum() > 0
    np.testing.assert_array_equal(rms.mean, [0.5, -1.0, 2.0])
    assert rms.count == 100.0


@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ", "TD3", "DDPG", "PPO", "A2C"])
def test_the_agent_and_the_global_streams_stay_as_they_were(name: str) -> None:
    agent = make(name)
    agent.policy.set_training_mode(True)
    weights = {key: value.clone() for key, value in agent.policy.state_dict().items()}
    stream = th.get_rng_state()
    first, second, other = (sample(agent, seed=seed, noise_std=0.1)[0] for seed in (1, 1, 2))
    assert first.equal(second)
    assert not first.equal(other)
    assert th.get_rng_state().equal(stream)
    assert all(value.equal(weights[key]) for key, value in agent.policy.state_dict().items())
    assert agent.policy.training


@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ", "TD3", "DDPG", "PPO", "A2C"])
def test_an_actor_is_improved_by_its_gradient_through_the_exact_model(name: str) -> None:
    agent, model = make(name), oracle_model(OracleEnv())
    policy, starts = ActorPolicy(agent), OBS[:3] * 0.3
    weights = [weight for weight in agent.policy.parameters() if weight.requires_grad]

    def expected() -> Tensor:
        return unroll(model, policy, starts, 4, generator=Generator().manual_seed(0)).reward.sum()

    before = expected()
    gradients = th.autograd.grad(before, weights, allow_unused=True)
    with th.no_grad():
        norm = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
        assert norm > 0
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight += 1e-3 * gradient
        # To first order the value rises by the step times the squared norm of the gradient.
        assert (expected() - before).item() == pytest.approx(1e-3 * norm, rel=0.05)


def test_it_acts_in_branched_rollouts_too_with_the_draws_of_unroll() -> None:
    agent, model = make("SAC"), oracle_model(OracleEnv())
    starts = OBS[:3] * 0.1
    rows = branched_rollout(model, ActorPolicy(agent), starts, 3, generator=Generator().manual_seed(2)).transitions
    assert not rows.action.requires_grad
    found = unroll(model, ActorPolicy(agent), starts, 3, generator=Generator().manual_seed(2))
    assert found.alive.all()
    th.testing.assert_close(rows.action, found.action.detach().flatten(0, 1))


class Ordinal(gymnasium.Env[Any, Any]):
    """Actions that are whole numbers in a Box."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Box(0, 5, (2,), np.int32)


@pytest.mark.parametrize("make_agent", [lambda: DQN("MlpPolicy", DiscreteOracleEnv(), buffer_size=10, device="cpu")])
def test_value_agents_are_refused(make_agent: Any) -> None:
    with pytest.raises(TypeError, match="DQN acts in Discrete.* where an action has no derivative"):
        ActorPolicy(make_agent())


def test_actions_without_a_derivative_are_refused() -> None:
    with pytest.raises(TypeError, match="PPO acts in Discrete"):
        ActorPolicy(make("PPO", DiscreteOracleEnv()))
    with pytest.raises(TypeError, match=r"PPO acts in Box\(0, 5, \(2,\), int32\)"):
        ActorPolicy(make("PPO", Ordinal()))


def test_recurrent_agents_are_refused() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    agent = contrib.RecurrentPPO("MlpLstmPolicy", OracleEnv(), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(TypeError, match="RecurrentPPO is recurrent"):
        ActorPolicy(agent)


def test_sbx_agents_are_refused() -> None:
    sbx = pytest.importorskip("sbx")
    with pytest.raises(TypeError, match="SAC of SBX computes in JAX"):
        ActorPolicy(sbx.SAC("MlpPolicy", OracleEnv(), buffer_size=10))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="noise_std"):
        ActorPolicy(make("TD3"), noise_std=-0.1)
    with pytest.raises(ValueError, match=r"observes \(3,\), and the model predicts \(4,\)"):
        sample(make("SAC"), th.zeros(2, 4))


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("SAC", {}), ("TQC", {}), ("CrossQ", {}), ("PPO", {}), ("A2C", {}), ("PPO", {"use_sde": True})],
)
def test_a_scored_draw_is_the_same_action_with_the_score_of_sb3(name: str, kwargs: dict[str, Any]) -> None:
    agent = make(name, **kwargs)
    policy: Any = ActorPolicy(agent)
    moving, _ = sample(agent)
    action, log_prob = policy.sample_scored(OBS, generator=Generator().manual_seed(0))
    assert action.equal(moving.detach())
    assert not action.requires_grad
    agent.policy.set_training_mode(False)
    _, with_path = sample(agent)
    th.testing.assert_close(log_prob, with_path, rtol=1e-5, atol=1e-5)
    weights = [weight for weight in agent.policy.parameters() if weight.requires_grad]
    found = th.autograd.grad(log_prob.sum(), weights, allow_unused=True)
    wanted = th.autograd.grad(_density(agent, _drawn(agent)), weights, allow_unused=True)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            th.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert any(part is not None and part.abs().sum() > 0 for part in found)


def _parameters_of_the_normal(agent: BaseAlgorithm) -> tuple[th.Tensor, th.Tensor]:
    """Mean and deviation of the actor's normal before it is squashed or clipped, as SB3 computes them."""
    policy: Any = agent.policy
    if hasattr(policy, "actor"):
        mean, log_std, _ = policy.actor.get_action_dist_params(OBS)
        return mean, log_std.exp()
    distribution = policy.get_distribution(OBS).distribution
    return distribution.mean, distribution.stddev


@th.no_grad()
def _drawn(agent: BaseAlgorithm) -> Tensor:
    mean, std = _parameters_of_the_normal(agent)
    return mean + std * noise()


def _density(agent: BaseAlgorithm, drawn: Tensor) -> Tensor:
    """Its logarithm at ``drawn``, which stays where it is when the parameters move."""
    mean, std = _parameters_of_the_normal(agent)
    return th.distributions.Normal(mean, std).log_prob(drawn).sum()


@pytest.mark.parametrize("name", ["TD3", "DDPG"])
def test_deterministic_actors_have_no_score(name: str) -> None:
    policy = ActorPolicy(make(name), noise_std=0.1)
    with pytest.raises(TypeError, match=f"{name} acts deterministically.*take the pathwise one"):
        policy.sample_scored(OBS, generator=Generator().manual_seed(0))
