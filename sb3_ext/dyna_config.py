"""The rates of learning and using a model beside an off-policy agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from mbrl_wrappers.branch_gate import GateConfig
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.schedules import RolloutLength
from sb3_ext.agent_rates import AgentRates, FiveRates

Preset = Literal["sac", "mbpo", "mba", "mve", "double-horizon"]
"""Algorithms whose rates :meth:`DynaConfig.preset` knows."""

FEWEST_REAL_ROWS = 10
"""Real rows that a fit needs at least, since it holds some out."""


@dataclass(frozen=True)
class DynaConfig:
    """The rates of model learning and model use, in real environment steps (all environments together).

    Collecting, target update and Q regression keep SB3's own settings: ``train_freq``, ``target_update_interval`` and
    ``gradient_steps``; the share of real rows is the buffer's ``real_ratio``. A schedule of all five processes states
    these too, in ``agent``: it builds the agent, and one with other rates is refused::

        config = DynaConfig.preset("mbpo")
        agent = SAC("MlpPolicy", env, **config.agent.arguments(SAC))
        agent.learn(20_000, callback=DynaCallback(config=config))

    A fit or a round of rollouts that is due waits until the agent has collected its ``train_freq``. A round starts
    ``rollouts_per_step`` branches for each real step since the last round, or for ``rollout_freq`` steps if these are
    more, so its size follows the steps that were taken.

    Attributes:
        model_train_freq: steps between fits; 0 for none.
        rollout_freq: steps between rounds of rollouts; 0 for none.
        rollouts_per_step: branches started per real step.
        rollout_length: steps per branch as a function of real steps, or a constant.
        retain_steps: age in real steps at which imagined rows are removed, however many there are; at least
            ``rollout_freq``.
        min_real_rows: real transitions before the first fit, at least 10; never before the agent's
            ``learning_starts``.
        first_fit_gradient_steps: cap of the first fit, in place of the trainer's.
        policy_noise_std: exploration noise of deterministic actors in the model.
        gate: ends branches where the members of the model disagree; None believes every prediction inside the limits.
        until: real steps after which the model is neither fitted nor rolled out, so that batches are all real once the
            last imagined rows are ``retain_steps`` old (MBA switches imagination off); None never ends.
        max_staleness: lets fits run in a process beside the agent, which goes on with the model that it has for so many
            real steps at most before it waits; rollouts wait for the first fit. 0 gives the results of fits in
            sequence, which is what None means.
        agent: rates of the agent's own processes; None leaves them to the agent.
    """

    model_train_freq: int = 250
    rollout_freq: int = 250
    rollouts_per_step: int = 400
    rollout_length: RolloutLength | int = field(default_factory=lambda: RolloutLength.constant(1))
    retain_steps: int = 1000
    min_real_rows: int = 250
    first_fit_gradient_steps: int | None = 2500
    policy_noise_std: float = 0.1
    gate: GateConfig | None = None
    until: int | None = None
    max_staleness: int | None = None
    agent: AgentRates | None = None

    def __post_init__(self) -> None:
        for name in ("model_train_freq", "rollout_freq"):
            at_least(name, getattr(self, name), 0)
        for name in ("rollouts_per_step", "retain_steps"):
            at_least(name, getattr(self, name))
        if self.agent is not None and not isinstance(self.agent, AgentRates):
            raise TypeError(f"agent must be AgentRates(gradient_steps=...), got {type(self.agent).__name__}.")
        if self.max_staleness is not None:
            at_least("max_staleness", self.max_staleness, 0)
        if self.until is not None:
            at_least("until", self.until)
        at_least("min_real_rows", self.min_real_rows, FEWEST_REAL_ROWS)
        if self.retain_steps < self.rollout_freq:
            raise ValueError(
                f"retain_steps must be at least rollout_freq ({self.rollout_freq}), got {self.retain_steps}: imagined "
                "rows would be gone before the next round makes new ones."
            )
        if not isinstance(self.rollout_length, RolloutLength):
            at_least("rollout_length", self.rollout_length)
        if self.first_fit_gradient_steps is not None:
            at_least("first_fit_gradient_steps", self.first_fit_gradient_steps)
        within("policy_noise_std", self.policy_noise_std, 0)
        if self.gate is not None and not isinstance(self.gate, GateConfig):
            raise TypeError(f"gate must be a GateConfig or None, got {type(self.gate).__name__}.")

    def length(self, real_steps: int) -> int:
        """The branch length after ``real_steps``."""
        length = self.rollout_length
        return length(real_steps) if isinstance(length, RolloutLength) else length

    @property
    def longest(self) -> int:
        """The branch length that is reached in the end."""
        length = self.rollout_length
        return length.end_length if isinstance(length, RolloutLength) else length

    def uses_model(self, real_steps: int) -> bool:
        """Whether the model is still fitted and rolled out after ``real_steps``."""
        return self.until is None or real_steps <= self.until

    def rates(self, real_steps: int = 0) -> FiveRates:
        """The five rates per real step after ``real_steps``, as far as this schedule states them.

        Raises:
            ValueError: without ``agent``, whose three rates are then the agent's own business.
        """
        if self.agent is None:
            raise ValueError("The agent's rates are not part of this schedule: DynaConfig(agent=AgentRates(...)).")
        regressions = self.agent.gradient_steps / self.agent.train_freq
        used = self.uses_model(real_steps)
        imagined = self.rollouts_per_step * self.length(real_steps) if self.rollout_freq and used else 0
        return FiveRates(
            collected=1.0,
            target_updates=regressions / self.agent.target_update_interval,
            regressions=regressions,
            fits=1 / self.model_train_freq if self.model_train_freq and used else 0.0,
            imagined_steps=float(imagined),
        )

    @classmethod
    def preset(cls, name: Preset) -> DynaConfig:
        """The five rates of a published algorithm; ``docs/rates.md`` has them side by side.

        ``"sac"`` has no model. ``"mbpo"`` is Janner et al. 2019, ``"mba"`` algorithm 2 of Gu et al. 2016 with ``I = 1``
        and ``l = 10``. The agents of ``"mve"`` (and STEVE) and of ``"double-horizon"`` imagine inside their own update,
        so there are no rounds of rollouts.

        Raises:
            ValueError: for an unknown name.
        """
        if name not in get_args(Preset):
            raise ValueError(f"A preset is one of {get_args(Preset)}, got {name!r}.")
        real = AgentRates(real_ratio=1.0)
        if name == "sac":
            return cls(model_train_freq=0, rollout_freq=0, agent=real)
        if name == "mbpo":
            return cls(agent=AgentRates(gradient_steps=20))
        if name == "mba":
            return cls(
                model_train_freq=500,
                rollout_freq=100,
                rollouts_per_step=1,
                rollout_length=10,
                retain_steps=500,
                until=20_000,
                agent=AgentRates(gradient_steps=11, real_ratio=1 / 11),
            )
        return cls(rollout_freq=0, agent=AgentRates(gradient_steps=4 if name == "mve" else 2, real_ratio=1.0))
