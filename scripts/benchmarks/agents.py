"""Updates of agents at Hopper's size: milliseconds, the time in matrix products, and the share of the roofline.

Useful FLOPs are those of all matrix products of an update, forward and backward, as torch counts them. The rollouts
that an agent makes between its updates are counted and timed with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer
from mbrl_wrappers.tasks import task_functions
from sb3_ext import MixedReplayBuffer
from sb3_ext.agents import MVESAC, NAF, STEVESAC, SVG, DoubleHorizon, ModelPolicyGradient
from scripts.benchmarks.ratios import ROOFLINE_SIZE, Figure, paired_seconds, report, roofline

UPDATES, BATCH, ROWS = 20, 256, 600
"""Updates of one timing: as many as the double-horizon agent makes per distribution rollout."""

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")

AGENTS: dict[str, Callable[[Any], Any]] = {
    "SAC": lambda env: SAC("MlpPolicy", env, replay_buffer_class=MixedReplayBuffer, device="cpu", seed=0),
    "NAF": lambda env: NAF("MlpPolicy", env, replay_buffer_class=MixedReplayBuffer, device="cpu", seed=0),
    "MVESAC, 3 steps": lambda env: MVESAC("MlpPolicy", env, device="cpu", seed=0),
    "STEVESAC, 3 steps, 4 members": lambda env: STEVESAC("MlpPolicy", env, device="cpu", seed=0),
    "SVG, 2 steps": lambda env: SVG("MlpPolicy", env, probe_freq=0, device="cpu", seed=0),
    "likelihood ratio, 5 steps": lambda env: ModelPolicyGradient(
        "MlpPolicy", env, estimator="likelihood_ratio", probe_freq=0, device="cpu", seed=0
    ),
    "DoubleHorizon, 5 steps": lambda env: DoubleHorizon("MlpPolicy", env, device="cpu", seed=0),
}


def agent_figures(seconds: float) -> list[Figure]:
    """Three figures for each agent, on one thread, batches of 256 rows."""
    env = gymnasium.make("Hopper-v5")
    model = EnsembleDynamics(
        env.observation_space,
        env.action_space,
        num_members=5,
        hidden=(200, 200, 200),
        termination_fn=task_functions(env).termination_fn,
        device="cpu",
    )
    figures: list[Figure] = []
    trainer = Trainer(model, FitConfig(max_gradient_steps=50))
    for name, build in AGENTS.items():
        agent = build(env)
        agent.set_logger(configure(None, []))
        fill(agent)
        if hasattr(agent, "use_model"):
            trainer.fit(agent.replay_buffer.real_transitions())
            agent.use_model(model)
        figures.extend(update_figures(name, lambda agent=agent: agent.train(UPDATES, BATCH), seconds))
    return figures


def fill(agent: Any) -> None:
    """Put steps of a random policy into the replay buffer of ``agent``."""
    env = gymnasium.make("Hopper-v5")
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(ROWS):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        agent.replay_buffer.add(
            obs[None],
            following[None],
            agent.policy.scale_action(action)[None],
            np.array([reward]),
            np.array([terminated]),
            [{"TimeLimit.truncated": truncated}],
        )
        obs = env.reset()[0] if terminated or truncated else following


def update_figures(name: str, updates: Callable[[], object], seconds: float) -> list[Figure]:
    """Milliseconds of an update, its share in matrix products, and its share of the roofline."""
    with CountedProducts() as counter:
        updates()
    pairs = paired_seconds(updates, roofline(), seconds)
    rate = counter.flops / (2.0 * ROOFLINE_SIZE**3)
    return [
        report(f"{name}, an update", 1, [1000 * ours / UPDATES for ours, _ in pairs], "ms"),
        report(f"{name}, matrix products", 1, [share_in_products(updates) for _ in range(3)], "of an update's time"),
        report(f"{name}, an update", 1, [rate * peak / ours for ours, peak in pairs], "of the roofline"),
    ]


class CountedProducts(TorchDispatchMode):
    """Counts the FLOPs of matrix products; torch's own counter follows modules too, and fails under ``no_grad``."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` and add what it costs."""
        given = kwargs or {}
        result = func(*args, **given)
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **given, out_val=result)
        return result


def share_in_products(updates: Callable[[], object]) -> float:
    """The part of the operators' time that matrix products take."""
    with profile(use_kineto=False) as found:
        updates()
    spent = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    return sum(spent.get(name, 0.0) for name in PRODUCTS) / sum(spent.values())
