"""The learned model of one run: built from the ``model`` block, timed, recorded and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

import mbrl_wrappers
from mbrl_wrappers import (
    EnsembleDynamics,
    EnsembleOptions,
    FitConfig,
    FitReport,
    GateConfig,
    RolloutLength,
    Trainer,
    Transitions,
    UniformStarts,
)
from mbrl_wrappers.seeding import spawn_seeds
from mbrl_wrappers.states import StateDict
from sb3_ext import DynaConfig
from sb3_ext.default_model import DEFAULT_FIT, build_default_dynamics
from scripts.runs.run_folder import MODEL_FILE
from scripts.training.configuration import check_keys
from scripts.training.phases import PhaseClock

if TYPE_CHECKING:
    from sb3_ext.imagination import ImaginationConfig

MAX_STARTS = 1000


class RecordingTrainer(Trainer[EnsembleDynamics]):
    """A trainer that counts its time and keeps a line per fit.

    Args:
        model: what is fitted.
        config: how.
        clock: counts the time.
        seed: of holdout and batches.
        anew: begin each fit with a new optimiser and the same stream, so that nothing but the model's weights goes from
            fit to fit, and a run that was interrupted goes on with the same numbers.
    """

    def __init__(
        self, model: EnsembleDynamics, config: FitConfig, clock: PhaseClock, *, seed: int, anew: bool = False
    ) -> None:
        super().__init__(model, config, seed=seed)
        self._clock, self._seed, self._anew = clock, seed, anew
        self.history: list[dict[str, float]] = []

    def state_dict(self) -> StateDict:
        """As the base class, and the line of each fit."""
        return {**super().state_dict(), "history": [dict(row) for row in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, without the fits that came after it."""
        super().load_state_dict({name: value for name, value in state.items() if name != "history"})
        self.history[:] = [dict(row) for row in state["history"]]

    def fit(self, transitions: Transitions, **kwargs: Any) -> FitReport:
        """Fit as the base class does."""
        trainer = Trainer(self.model, self.config, seed=self._seed) if self._anew else super()
        with self._clock.measure("model_fit"):
            report = trainer.fit(transitions, **kwargs)
        self.history.append(
            {
                "rows": report.train_rows + report.holdout_rows,
                "epochs": report.epochs,
                "gradient_steps": report.gradient_steps,
                "seconds": round(report.seconds, 3),
                "r2_mean": report.r2_mean,
                "r2_min": report.r2_min,
                "coverage_90": report.coverage_90_mean,
            }
        )
        return report


class LearnedModel:
    """Model and trainer of a run.

    The reward and the termination of the task are used where they are known, and learned otherwise.

    Args:
        block: the configuration's ``model`` block.
        vec_env: the live real environments.
        clock: counts the fitting.
        seed: of weights, holdout and batches.
        device: where the model computes.
        anew: see :class:`RecordingTrainer`.

    Raises:
        ValueError: for an unknown key of ``ensemble`` or ``fit``, or a value out of range.
    """

    def __init__(
        self,
        block: Mapping[str, Any],
        vec_env: VecEnv,
        clock: PhaseClock,
        *,
        seed: int,
        device: str = "auto",
        anew: bool = False,
    ) -> None:
        model_seed, trainer_seed = spawn_seeds(seed, 2)
        ensemble = ensemble_arguments(block.get("ensemble") or {})
        built = build_default_dynamics(vec_env, seed=model_seed, device=device, **ensemble)
        self.dynamics, self.notes = built.dynamics, built.notes
        config = fit_config(block.get("fit") or {})
        self.trainer = RecordingTrainer(self.dynamics, config, clock, seed=trainer_seed, anew=anew)

    def record(self) -> dict[str, Any]:
        """What ``summary.json`` says of the model."""
        return {
            "reward": "known" if self.dynamics.reward_fn is not None else "learned",
            "termination": "known" if self.dynamics.termination_fn is not None else "learned",
            "notes": list(self.notes),
            "fit_config": asdict(self.trainer.config),
            "parameters": sum(parameter.numel() for parameter in self.dynamics.parameters()),
            "fits": len(self.trainer.history),
            "history": self.trainer.history,
        }

    def save(self, folder: Path, transitions: Transitions) -> None:
        """Write ``dynamics.safetensors`` with the starts of real episodes, so that it runs as an environment."""
        mbrl_wrappers.save(self.dynamics, folder / MODEL_FILE, starts=episode_starts(transitions))


def episode_starts(transitions: Transitions) -> np.ndarray[Any, Any]:
    """The first observation of each episode, ``(n, O)``, the newest :data:`MAX_STARTS` of them."""
    last = transitions.last.cpu().numpy()
    first = np.concatenate([[True], last[:-1]])
    starts: np.ndarray[Any, Any] = transitions.obs.cpu().numpy()[first][-MAX_STARTS:]
    return starts


def dataclass_arguments(cls: type, block: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``block`` checked against the fields of a dataclass, lists turned into tuples.

    Raises:
        ValueError: for a key that is no field.
    """
    check_keys(block, [field.name for field in fields(cls)], f"the {where} block")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in block.items()}


def ensemble_arguments(block: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the ensemble.

    Raises:
        ValueError: for an unknown key.
    """
    allowed = ("num_members", "num_elites", "hidden", "propagation", "options")
    check_keys(block, allowed, "the ensemble block")
    arguments = dict(block)
    if "options" in arguments:
        arguments["options"] = EnsembleOptions(
            **dataclass_arguments(EnsembleOptions, arguments["options"] or {}, "ensemble.options")
        )
    return arguments


def check_model_block(block: Mapping[str, Any]) -> None:
    """Find mistakes in a ``model`` block before anything is started.

    Raises:
        ValueError: for an unknown key or an impossible number.
    """
    ensemble_arguments(block.get("ensemble") or {})
    fit_config(block.get("fit") or {})
    dyna_config(block.get("dyna") or {})
    branch_starts(block.get("starts"))
    if block.get("imagination"):
        imagination_config(block["imagination"], 1)


def fit_config(block: Mapping[str, Any]) -> FitConfig:
    """``FitConfig`` from YAML; what it leaves open is as in the library's default.

    Raises:
        ValueError: for an unknown key or an impossible number.
    """
    return replace(DEFAULT_FIT, **dataclass_arguments(FitConfig, block, "fit"))


def dyna_config(block: Mapping[str, Any]) -> DynaConfig:
    """``DynaConfig`` from YAML; a rollout length of four numbers is ``[start_step, end_step, start, end]``.

    Raises:
        ValueError: for an unknown key or an impossible number.
    """
    arguments = dataclass_arguments(DynaConfig, block, "dyna")
    length = arguments.get("rollout_length")
    if isinstance(length, tuple):
        if len(length) != 4:
            raise ValueError(f"rollout_length is a number or [start_step, end_step, start, end], got {list(length)}.")
        arguments["rollout_length"] = RolloutLength(*length)
    if arguments.get("gate") is not None:
        if not isinstance(arguments["gate"], Mapping):
            raise ValueError(f"gate takes settings such as {{quantile: 1.0}}, got {arguments['gate']!r}.")
        arguments["gate"] = GateConfig(**dataclass_arguments(GateConfig, arguments["gate"], "dyna.gate"))
    return DynaConfig(**arguments)


def branch_starts(block: object) -> UniformStarts | None:
    """Where branches begin, from YAML: ``low`` and ``high``; None for the replay buffer.

    Raises:
        ValueError: for an unknown or missing key, or edges that do not make a box.
    """
    if block is None:
        return None
    if isinstance(block, Mapping):
        check_keys(block, ("low", "high"), "the starts block")
    if not isinstance(block, Mapping) or len(block) < 2:
        raise ValueError(f"The starts block needs both low and high, a list of numbers each, got {block!r}.")
    return UniformStarts(block["low"], block["high"])


def imagination_config(block: Mapping[str, Any], eval_freq: int) -> ImaginationConfig:
    """``ImaginationConfig`` from YAML; evaluation is the caller's own.

    Raises:
        ValueError: for an unknown key or an impossible number.
    """
    from sb3_ext.imagination import ImaginationConfig  # on-policy agents only

    arguments = dataclass_arguments(ImaginationConfig, block, "imagination")
    return ImaginationConfig(**{"eval_freq": eval_freq, **arguments})
