"""Targets and objectives of the double-horizon agent against SAC's own and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from mbrl_wrappers import EnsembleDynamics, unroll
from mbrl_wrappers.unroll import Unrolled
from sb3_ext import ActorPolicy
from sb3_ext.agents.double_horizon_losses import Segment, critic_loss, real_segment
from tests.oracle import OracleEnv, oracle_model

OBS = th.tensor([[0.3, -0.2, 0.1], [-0.9, 0.4, 0.0], [0.05, 0.6, -1.5], [0.2, -0.3, 1.0]])
ALPHA = 0.25
GAMMA = 0.9


def small_sac(**kwargs: Any) -> SAC:
    arguments: dict[str, Any] = {"buffer_size": 10, "seed": 3, "device": "cpu", "ent_coef": ALPHA, "gamma": GAMMA}
    agent = SAC("MlpPolicy", OracleEnv(), policy_kwargs={"net_arch": [8], "n_critics": 1}, **(arguments | kwargs))
    generator = th.Generator().manual_seed(5)
    with th.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.3 * th.randn(parameter.shape, generator=generator))
    return agent


class Recorded:
    """A replay buffer that always draws the same rows."""

    def __init__(self, terminated: Tensor) -> None:
        generator = th.Generator().manual_seed(1)
        rows = len(OBS)
        self.rows = ReplayBufferSamples(
            observations=OBS,
            actions=th.rand(rows, 2, generator=generator) * 2 - 1,
            next_observations=OBS + 0.1 * th.randn(rows, 3, generator=generator),
            dones=terminated.float()[:, None],
            rewards=th.randn(rows, 1, generator=generator),
        )

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        return self.rows


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> tuple[SAC, Recorded, dict[str, float]]:
    """SAC after an update that moved nothing, what it saw, and what it logged; all its draws are those of seed 0."""
    agent, recorded = small_sac(learning_rate=0.0), Recorded(th.tensor([False, True, False, True]))
    noise = th.randn(len(OBS), 2, generator=th.Generator().manual_seed(0))
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, dtype, device: noise)
    agent.replay_buffer = recorded  # type: ignore[assignment]
    agent.critic_target.load_state_dict(agent.critic.state_dict())
    logged: dict[str, float] = {}
    monkeypatch.setattr(SAC, "logger", property(lambda self: Logged(logged)))
    agent.train(1, len(OBS))
    return agent, recorded, logged


class Logged:
    def __init__(self, values: dict[str, float]) -> None:
        self.values = values

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        self.values[key] = float(value)


def ended(agent: SAC, unrolled: Unrolled) -> Segment:
    action, log_prob = ActorPolicy(agent).sample(unrolled.obs[-1], generator=th.Generator().manual_seed(0))
    assert log_prob is not None
    return Segment(unrolled, action, log_prob)


def test_without_steps_the_actor_loss_is_that_of_sac(trained: tuple[SAC, Recorded, dict[str, float]]) -> None:
    agent, recorded, logged = trained
    start = recorded.rows.observations
    policy = ActorPolicy(agent)
    unrolled = unroll(oracle_model(OracleEnv()), policy, start, 0, generator=th.Generator())
    segment = ended(agent, unrolled)
    value = agent.critic(start, segment.last_action)[0].squeeze(1)
    loss = -segment.objective(value, th.tensor(ALPHA), GAMMA).mean()
    assert loss.item() == pytest.approx(logged["train/actor_loss"], rel=1e-5)
    assert segment.first_log_prob is segment.last_log_prob


def test_with_one_step_the_target_is_that_of_sac(trained: tuple[SAC, Recorded, dict[str, float]]) -> None:
    agent, recorded, logged = trained
    rows = recorded.rows
    steps = real_segment(
        rows.observations, rows.actions, rows.rewards.flatten(), rows.next_observations, rows.dones.flatten()
    )
    with th.no_grad():
        segment = ended(agent, steps)
        value = agent.critic_target(rows.next_observations, segment.last_action)[0].squeeze(1)
        targets = segment.targets(value, th.tensor(ALPHA), GAMMA)
        by_hand = rows.rewards.flatten() + GAMMA * (1 - rows.dones.flatten()) * (value - ALPHA * segment.last_log_prob)
        th.testing.assert_close(targets, by_hand)
        found = critic_loss(agent.critic(rows.observations, rows.actions)[0].T, targets, steps.valid[0])
    assert 0.5 * found.item() == pytest.approx(logged["train/critic_loss"], rel=1e-5)


def hand_made(alive: list[list[bool]], terminated: list[list[bool]], reward: list[list[float]]) -> Segment:
    steps, rows = len(reward), len(reward[0])
    log_prob = th.tensor([[1.0] * rows, [2.0] * rows])[:steps]
    valid = th.tensor(alive)[1:] | th.tensor(terminated)
    unrolled = Unrolled(
        obs=th.zeros(steps + 1, rows, 1),
        action=th.zeros(steps, rows, 1),
        reward=th.tensor(reward),
        alive=th.tensor(alive),
        terminated=th.tensor(terminated),
        log_prob=th.where(valid, log_prob, 0.0),
    )
    return Segment(unrolled, th.zeros(rows, 1), th.full((rows,), 4.0))


def test_two_steps_with_terminations_by_hand() -> None:
    # Rows: goes on; terminates in the second step; in the first; the second step is not valid; nor is the first.
    segment = hand_made(
        alive=[[True] * 5, [True, True, False, True, False], [True, False, False, False, False]],
        terminated=[[False, False, True, False, False], [False, True, False, False, False]],
        reward=[[10.0, 10.0, 10.0, 10.0, 0.0], [20.0, 20.0, 0.0, 0.0, 0.0]],
    )
    value = th.tensor([100.0, 200.0, 300.0, 400.0, 500.0])
    end = value - 0.25 * 4.0
    second = 20.0 - 0.25 * 2.0
    targets = [
        10 + 0.9 * second + 0.81 * end[0],
        10 + 0.9 * second,
        10.0,
        10 + 0.9 * end[3],
        end[4],
    ]
    found = segment.targets(value, th.tensor(ALPHA), GAMMA)
    assert found.tolist() == pytest.approx([float(target) for target in targets])
    first = th.tensor([0.25, 0.25, 0.25, 0.25, 0.0])  # the first action's own cost is the actor's, not the target's
    objective = segment.objective(value, th.tensor(ALPHA), GAMMA)
    assert objective.tolist() == pytest.approx((found - first).tolist())
    assert segment.first_log_prob.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_rows_without_a_valid_step_teach_the_critics_nothing() -> None:
    values, targets = th.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), th.tensor([0.0, 1e9, 1.0])
    valid = th.tensor([True, False, True])
    assert critic_loss(values, targets, valid).item() == pytest.approx(((1 + 4) + (0 + 1)) / 2)
    assert critic_loss(values, targets, th.zeros(3, dtype=th.bool)).item() == 0


def unrolled_by_hand(agent: SAC, model: EnsembleDynamics, horizon: int, generator: th.Generator) -> Tensor:
    """The soft objective of :class:`Segment` computed step by step, with the model's weights learning as usual."""
    policy, state, obs = ActorPolicy(agent), model.reset(OBS, generator=generator), OBS
    total, alive = th.zeros(len(OBS)), th.ones(len(OBS))
    for step in range(horizon):
        action, log_prob = policy.sample(obs, generator=generator)
        assert log_prob is not None
        state, prediction = model.step(state, action, generator=generator)
        total = total + GAMMA**step * alive * (prediction.reward - ALPHA * log_prob)
        obs, alive = prediction.next_obs, alive * (~prediction.terminated).float()
    action, log_prob = policy.sample(obs, generator=generator)
    return total + GAMMA**horizon * alive * (agent.critic(obs, action)[0].squeeze(1) - ALPHA * log_prob)


def test_constant_model_weights_leave_the_actor_gradient_as_it_is() -> None:
    agent, env = small_sac(), OracleEnv()
    model = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=2, hidden=(16,), device="cpu",
        termination_fn=lambda obs, action, next_obs: next_obs[:, 0] > 0.2, seed=4,
    )  # fmt: skip
    weights = [weight for weight in agent.actor.parameters() if weight.requires_grad]
    generator = th.Generator().manual_seed(7)
    wanted = unrolled_by_hand(agent, model, 3, generator)
    generator.manual_seed(7)
    unrolled = unroll(model, ActorPolicy(agent), OBS, 3, generator=generator)
    assert unrolled.terminated.any()
    assert unrolled.alive[-1].any()
    action, log_prob = ActorPolicy(agent).sample(unrolled.obs[-1], generator=generator)
    assert log_prob is not None
    value = agent.critic(unrolled.obs[-1], action)[0].squeeze(1)
    found = Segment(unrolled, action, log_prob).objective(value, th.tensor(ALPHA), GAMMA)
    th.testing.assert_close(found, wanted)
    for ours, slow in zip(
        th.autograd.grad(found.mean(), weights), th.autograd.grad(wanted.mean(), weights), strict=True
    ):
        th.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-6)
    assert all(weight.grad is None for weight in model.parameters())
