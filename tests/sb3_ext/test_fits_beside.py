"""Fits beside the agent: the order of the sequential run when nothing may be stale, and bounded staleness otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch as th
from stable_baselines3 import SAC

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer
from mbrl_wrappers.training import BackgroundTrainer
from sb3_ext import DynaCallback
from sb3_ext.agents import MVESAC
from tests.sb3_ext.dyna_agents import SMALL, make_agent, oracle_env, weights

pytestmark = [pytest.mark.filterwarnings("ignore:The learned termination"), pytest.mark.timeout(300)]
FIT = FitConfig(max_epochs=2, batch_size=16)


def ensemble() -> EnsembleDynamics:
    env = oracle_env()
    return EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(8,), device="cpu"
    )


def parameters(model: EnsembleDynamics) -> th.Tensor:
    return th.cat([value.flatten().double() for value in model.state_dict().values()])


def test_with_nothing_stale_the_run_equals_the_sequential_one() -> None:
    def run(trainer: type[Any], **config: Any) -> tuple[th.Tensor, th.Tensor]:
        agent, model = make_agent(SAC, oracle_env()), ensemble()
        callback = DynaCallback(model, replace(SMALL, **config), trainer=trainer(model, FIT, seed=3), seed=4)
        agent.learn(60, callback=callback)
        assert callback._fits == 3
        return weights(agent), parameters(model)

    sequential, beside = run(Trainer), run(BackgroundTrainer, max_staleness=0)
    assert th.equal(sequential[0], beside[0])
    assert th.equal(sequential[1], beside[1])


class SlowTrainer:
    """A trainer whose fits are over when it is told, or waited for."""

    def __init__(self, model: EnsembleDynamics) -> None:
        self.model, self.replaced, self.fitting = model, 0, False
        self.rows: list[int] = []
        self.joins = 0
        self.done = False

    def start(self, transitions: Any, **kwargs: Any) -> None:
        assert not self.fitting
        self.rows.append(transitions.num_rows)
        self.fitting, self.done, self._given = True, False, (transitions, kwargs)

    def poll(self) -> Any:
        return self._finish() if self.done else None

    def join(self) -> Any:
        self.joins += 1
        return self._finish()

    def _finish(self) -> Any:
        self.fitting = False
        return Trainer(self.model, FIT).fit(self._given[0], max_gradient_steps=1)

    fit: Any = None


@pytest.mark.parametrize("cls", [SAC, MVESAC])
def test_staleness_is_bounded_and_logged_and_nothing_is_imagined_before_the_first_fit(cls: type[Any]) -> None:
    agent, trainer = make_agent(cls, oracle_env()), SlowTrainer(ensemble())
    callback = DynaCallback(trainer.model, replace(SMALL, max_staleness=15), trainer=trainer)  # type: ignore[arg-type]
    seen: list[tuple[int, int, bool]] = []
    original = callback._on_rollout_end

    def watched() -> None:
        original()
        imagined = len(agent.replay_buffer.synthetic) > 0 or getattr(agent, "dynamics", None) is not None
        seen.append((agent.num_timesteps, callback._fits, imagined))

    callback._on_rollout_end = watched  # type: ignore[method-assign]
    agent.learn(90, callback=callback)
    begun = [steps for steps, fits, _ in seen if fits == 0]
    assert max(begun) == 34  # started at step 20, waited for at 35
    assert [imagined for _, fits, imagined in seen if fits == 0] == [False] * len(begun)
    assert all(imagined for steps, fits, imagined in seen if fits > 0)
    assert trainer.rows == [20, 40, 60, 80]
    assert trainer.joins == callback._fits == 4  # the last one at the end of training
    assert agent.logger.name_to_value["model/staleness"] == 10
    assert agent.logger.name_to_value["model/fitters_replaced"] == 0


def test_a_fit_that_is_over_is_taken_at_the_next_step() -> None:
    agent, trainer = make_agent(SAC, oracle_env()), SlowTrainer(ensemble())
    callback = DynaCallback(trainer.model, replace(SMALL, max_staleness=1000), trainer=trainer)  # type: ignore[arg-type]
    poll = trainer.poll

    def after_two() -> Any:
        trainer.done = agent.num_timesteps % 20 == 2
        return poll()

    trainer.poll = after_two  # type: ignore[method-assign]
    agent.learn(45, callback=callback)
    assert (callback._fits, trainer.joins) == (2, 0)
    assert agent.logger.name_to_value["model/staleness"] == 2


def test_a_trainer_that_cannot_start_fits_is_refused() -> None:
    model = ensemble()
    callback = DynaCallback(model, replace(SMALL, max_staleness=5), trainer=Trainer(model))
    with pytest.raises(ValueError, match=r"trainer=BackgroundTrainer\(model\)"):
        make_agent(SAC, oracle_env()).learn(1, callback=callback)
