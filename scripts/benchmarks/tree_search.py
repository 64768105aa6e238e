"""Simulations per second of tree search on CartPole-v1, in copies of the environment."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gymnasium

from controllers import MCTS, MPCPolicy
from mbrl_wrappers import ClonedEnvModel
from scripts.benchmarks.ratios import Figure, report

SIMULATIONS, HORIZON = 200, 50
BATCHES = (1, 8)


def tree_search_figures(seconds: float) -> Iterator[Figure]:
    """Plans from the start of an episode, one random rollout per simulation, alone and several together."""
    for batch in BATCHES:
        rates, shares = cart_pole(batch, seconds)
        name = f"MCTS on CartPole-v1, {SIMULATIONS} simulations, batch {batch}"
        yield report(name, 1, rates, "simulations per second")
        yield report(f"{name}, model", 1, shares, "of a plan's time")


def cart_pole(batch: int, seconds: float) -> tuple[list[float], list[float]]:
    """Simulations per second and the model's share of the time, of at least seven plans."""
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    policy = MPCPolicy(ClonedEnvModel(env), MCTS(simulations=SIMULATIONS, batch=batch), horizon=HORIZON)
    policy.predict(obs)
    rates: list[float] = []
    shares: list[float] = []
    end = time.perf_counter() + seconds
    while len(rates) < 7 or time.perf_counter() < end:
        policy.predict(obs)
        assert policy.last_plan is not None
        plan = policy.last_plan.report
        rates.append(SIMULATIONS / plan.seconds)
        shares.append(plan.model_seconds / plan.seconds)
    return rates, shares
