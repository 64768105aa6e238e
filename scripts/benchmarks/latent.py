"""Latent models at the size of a velocity-masked pendulum: training, filtering, and re-inference beside an agent.

The operations that training is compared to the roofline by are all matrix products of forward and backward pass, as
torch counts them; everything else, from drawing windows to the optimiser, counts as time only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.utils.flop_counter import FlopCounterMode

from mbrl_wrappers.latent import BeliefTracker, LatentOptions, LatentStateSpaceModel
from mbrl_wrappers.tasks import MaskedObservation
from mbrl_wrappers.training.sequence_trainer import SequenceFitConfig, SequenceTrainer
from mbrl_wrappers.training.sequence_windows import Episodes
from sb3_ext.latent import BeliefReplayBuffer, BeliefVecEnv
from scripts.benchmarks.ratios import Figure, measure, report

GRU: dict[str, Any] = {"posterior": "factorised filter"}
RSSM: dict[str, Any] = {"posterior": "filter", "summary": "none", "recurrent_size": 32}
WINDOW, BATCH = 15, 32  # as in scripts/hyperparams/latent.yml
FILTERED = (1, 64)
AGENT_WINDOW, AGENT_BATCH = 8, 256
COLLECTED = 1_000


def latent_figures(seconds: float) -> list[Figure]:
    """Windows per second and their share of the roofline, milliseconds of a filter step, share of an agent's update."""
    figures = []
    for name, options in (("GRU", GRU), ("RSSM", RSSM)):
        step, flops = training(options)
        figures.append(measure(f"{name}, training, {BATCH} windows of {WINDOW}", 1, step, flops, seconds=seconds))
        rates = [BATCH / value for value in timed(step, seconds)]
        figures.append(report(f"{name}, training, windows of {WINDOW}", 1, rates, "windows/s"))
    for rows in FILTERED:
        milliseconds = [1000 * value for value in timed(filtering(rows), seconds)]
        figures.append(report(f"filter step, environments: {rows}", 1, milliseconds, "ms"))
    figures.append(report(f"re-inference, {AGENT_BATCH} x {AGENT_WINDOW}", 1, shares(seconds), "of an update of SAC"))
    return figures


def masked_pendulum() -> gymnasium.Env[Any, Any]:
    """A pendulum that shows no velocity."""
    return MaskedObservation(gymnasium.make("Pendulum-v1"), [0, 1])


def pendulum_model(options: dict[str, Any]) -> LatentStateSpaceModel:
    """A model of it in the form that agents see."""
    env = masked_pendulum()
    sizes: dict[str, Any] = {"latent_size": 4, "memory_size": 32, "hidden": (64, 64), "encoder_hidden": (64,)}
    return LatentStateSpaceModel(
        env.observation_space,
        env.action_space,
        options=LatentOptions(**{**sizes, **options}),
        form="belief",
        device="cpu",
    )


def filled_agent(model: LatentStateSpaceModel) -> SAC:
    """SAC that has collected random steps on the model's beliefs, and has not learned."""
    agent = SAC(
        "MlpPolicy",
        BeliefVecEnv(DummyVecEnv([masked_pendulum]), model, seed=0),
        learning_starts=COLLECTED + 1,
        buffer_size=COLLECTED,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [64, 64]},
        replay_buffer_class=BeliefReplayBuffer,
        replay_buffer_kwargs={"window": AGENT_WINDOW, "real_ratio": 1.0},
    )
    agent.set_logger(Logger(None, []))
    return agent.learn(COLLECTED)


def training(options: dict[str, Any]) -> tuple[Callable[[], object], float]:
    """One step of the optimiser, drawing the windows included, and its matrix products in FLOPs."""
    model = pendulum_model(options)
    buffer: Any = filled_agent(model).replay_buffer
    rows = buffer.real_transitions()
    model.set_statistics(rows)
    trainer, episodes = SequenceTrainer(model, SequenceFitConfig(window=WINDOW, batch_size=BATCH)), Episodes.of(rows)
    with FlopCounterMode(display=False) as counter:
        trainer.gradient_step(episodes)
    return lambda: trainer.gradient_step(episodes), float(counter.get_total_flops())


def filtering(rows: int) -> Callable[[], object]:
    """One step of the filter behind environments, from numpy to numpy."""
    model = pendulum_model(GRU)
    tracker, rng = BeliefTracker(model, rows, seed=0), np.random.default_rng(0)
    sensors, actions = (rng.uniform(-1, 1, (rows, width)).astype(np.float32) for width in (2, 1))
    tracker.begin(np.ones(rows, bool), sensors)

    def step() -> object:
        tracker.follow(actions, sensors)
        return tracker.features()

    return step


def shares(seconds: float) -> list[float]:
    """The part of each update of SAC that is spent inferring the features of its batch anew."""
    model = pendulum_model(GRU)
    agent = filled_agent(model)
    buffer: Any = agent.replay_buffer
    buffer.use_model(model)
    inferred = buffer._inferred
    spent: list[float] = []

    def counted(*args: Any) -> Any:
        started = time.perf_counter()
        result = inferred(*args)
        spent.append(time.perf_counter() - started)
        return result

    buffer._inferred = counted
    totals = timed(lambda: agent.train(gradient_steps=1, batch_size=AGENT_BATCH), seconds)
    return [part / total for part, total in zip(spent[-len(totals) :], totals, strict=True)]


def timed(work: Callable[[], object], seconds: float) -> list[float]:
    """How long each call of ``work`` takes, until so many ``seconds`` have passed, at least seven."""
    work(), work()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 7 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found
