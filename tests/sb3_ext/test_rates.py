"""Each preset runs its five processes at the rates that it states: every call is counted."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any, get_args

import pytest
from stable_baselines3 import SAC, TD3

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer
from sb3_ext import DynaCallback, DynaConfig, MixedReplayBuffer
from sb3_ext.agent_rates import AgentRates, FiveRates
from sb3_ext.agents import MVESAC, NAF, DoubleHorizon
from sb3_ext.dyna_config import Preset
from tests.oracle import oracle_model
from tests.sb3_ext.dyna_agents import make_agent, oracle_env

PRESETS = ["sac", "mbpo", "mba", "mve"]
AGENTS: dict[str, Any] = {"sac": SAC, "mbpo": SAC, "mba": NAF, "mve": MVESAC, "double-horizon": DoubleHorizon}
STARTS = 20
pytestmark = pytest.mark.filterwarnings("ignore:The learned termination", "ignore:The model was never fitted")


class CountingTrainer:
    """Counts fits of a model that needs none, and reports what another fit has."""

    def __init__(self, model: Any, counts: Counter[str]) -> None:
        self.model, self.counts = model, counts
        env = oracle_env()
        ensemble = EnsembleDynamics(env.observation_space, env.action_space, num_members=1, num_elites=1, hidden=(2,))
        self._other = Trainer(ensemble, FitConfig(max_epochs=1))

    def fit(self, transitions: Any, **kwargs: Any) -> Any:
        self.counts["fits"] += 1
        return self._other.fit(transitions, **kwargs)


def counted(name: str, steps: int, monkeypatch: pytest.MonkeyPatch, *, update: bool) -> Counter[str]:
    """Calls of each process in ``steps`` real steps after the first :data:`STARTS`; updates are not run if told so."""
    config = DynaConfig.preset(name)  # type: ignore[arg-type]
    assert config.agent is not None
    counts: Counter[str] = Counter()
    cls, env = AGENTS[name], oracle_env()
    module = importlib.import_module(next(base for base in cls.__mro__ if "train" in vars(base)).__module__)
    original = module.polyak_update

    def polyak(*args: Any) -> None:
        counts["polyak"] += 1
        original(*args)

    monkeypatch.setattr(module, "polyak_update", polyak)
    agent = make_agent(
        cls,
        env,
        learning_starts=STARTS,
        buffer_size=5000,
        policy_kwargs={"net_arch": [2]},
        **config.agent.arguments(cls),
    )
    sample, step, train = agent.replay_buffer.sample, agent.env.step_wait, agent.train
    agent.env.step_wait = lambda: (counts.update(collected=1), step())[1]
    agent.replay_buffer.sample = lambda *args, **kwargs: (counts.update(regressions=1), sample(*args, **kwargs))[1]

    def counting_train(gradient_steps: int, batch_size: int) -> None:
        counts["updates"] += gradient_steps
        if update:
            train(gradient_steps, batch_size)

    agent.train = counting_train
    model = oracle_model(env)
    callback = DynaCallback(model, config, trainer=CountingTrainer(model, counts))
    synthetic = agent.replay_buffer.synthetic
    add = synthetic.add_batch

    def counting_add(transitions: Any, *args: Any) -> None:
        counts.update(rounds=1, imagined=transitions.num_rows)
        add(transitions, *args)

    synthetic.add_batch = counting_add
    agent.learn(STARTS + steps, callback=callback)
    return counts


@pytest.mark.parametrize("name", PRESETS)
def test_collecting_regression_and_target_updates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = DynaConfig.preset(name).rates()  # type: ignore[arg-type]
    counts = counted(name, 10, monkeypatch, update=True)
    assert counts["collected"] == (STARTS + 10) * rates.collected
    assert counts["regressions"] == 10 * rates.regressions
    # SAC averages critics and then their running statistics.
    networks = 1 if AGENTS[name] is NAF else 2
    assert counts["polyak"] == networks * 10 * rates.target_updates


@pytest.mark.parametrize("name", get_args(Preset))
def test_model_fits_and_rollouts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DynaConfig.preset(name)  # type: ignore[arg-type]
    counts = counted(name, 1230, monkeypatch, update=False)  # the first fit comes at 250 real rows
    assert counts["updates"] == 1230 * config.rates().regressions
    periods = 1000 * config.rates().fits
    assert counts["fits"] == (periods + 1 if periods else 0)
    imagines = name in ("mbpo", "mba")
    assert counts["rounds"] == ((1000 // config.rollout_freq) + 1 if imagines else 0)
    # The first round stands for one period; branches end early where the task fails.
    most = (1000 + config.rollout_freq) * config.rates().imagined_steps
    assert 0.5 * most < counts["imagined"] <= most if imagines else not counts["imagined"]


def test_the_presets_as_they_stand_in_the_documents() -> None:
    table = {name: DynaConfig.preset(name).rates() for name in get_args(Preset)}
    assert table == {
        "sac": FiveRates(1, 1, 1, 0, 0),
        "mbpo": FiveRates(1, 20, 20, 1 / 250, 400),
        "mba": FiveRates(1, 11, 11, 1 / 500, 10),
        "mve": FiveRates(1, 4, 4, 1 / 250, 0),
        "double-horizon": FiveRates(1, 2, 2, 1 / 250, 0),
    }
    assert DynaConfig.preset("mba").rates(20_001)[3:] == (0, 0)
    slow = DynaConfig(agent=AgentRates(train_freq=4, gradient_steps=8, target_update_interval=2))
    assert slow.rates()[:3] == (1, 1, 2)


def test_imagination_is_switched_off_and_its_rows_fade() -> None:
    env = oracle_env()
    config = DynaConfig(
        model_train_freq=20, rollout_freq=10, rollouts_per_step=3, retain_steps=20, min_real_rows=20, until=60
    )
    agent = make_agent(SAC, env)
    model, counts = oracle_model(env), Counter[str]()
    callback = DynaCallback(model, config, trainer=CountingTrainer(model, counts))
    agent.learn(60, callback=callback)
    assert counts["fits"] == 3
    assert len(agent.replay_buffer.synthetic) > 0
    agent.learn(40, callback=callback, reset_num_timesteps=False)
    assert counts["fits"] == 3
    assert not len(agent.replay_buffer.synthetic)


def test_a_schedule_that_the_agent_does_not_keep_is_refused() -> None:
    config = DynaConfig.preset("mbpo")
    assert config.agent is not None
    with pytest.raises(ValueError, match=r"says gradient_steps=20 and the agent has 1: .*arguments\(SAC\)"):
        make_agent(SAC, oracle_env()).learn(1, callback=DynaCallback(oracle_model(oracle_env()), config))
    with pytest.raises(ValueError, match="says real_ratio=1.0 and the agent has 0.05"):
        make_agent(SAC, oracle_env()).learn(
            1, callback=DynaCallback(oracle_model(oracle_env()), DynaConfig.preset("sac"))
        )
    with pytest.raises(ValueError, match="TD3 updates its targets with every update"):
        AgentRates(target_update_interval=2).arguments(TD3)
    assert AgentRates().arguments(TD3)["replay_buffer_class"] is MixedReplayBuffer
    with pytest.raises(ValueError, match="A preset is one of"):
        DynaConfig.preset("mbop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not part of this schedule"):
        DynaConfig().rates()
    with pytest.raises(TypeError, match="agent must be AgentRates"):
        DynaConfig(agent={"gradient_steps": 1})  # type: ignore[arg-type]
    for wrong, sentence in (
        (DynaConfig(until=10), "leave until at None"),
        (DynaConfig(model_train_freq=0), "without a model"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make_agent(MVESAC, oracle_env()).learn(1, callback=DynaCallback(oracle_model(oracle_env()), wrong))
