"""What a run is about: by it a run refuses the checkpoints of another one, and names settings that have changed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers.storage.space_json import space_to_json

_SETTINGS = (
    *("learning_rate", "gamma", "tau", "batch_size", "learning_starts", "gradient_steps", "n_steps", "n_epochs"),
    *("ent_coef", "target_entropy", "policy_delay", "target_policy_noise", "target_noise_clip", "max_grad_norm"),
    *("target_update_interval", "use_sde", "sde_sample_freq", "gae_lambda", "vf_coef", "normalize_advantage"),
    *("exploration_fraction", "exploration_initial_eps", "exploration_final_eps", "horizon", "estimator", "config"),
)


def run_description(agent: BaseAlgorithm) -> dict[str, Any]:
    """What the run of ``agent`` is about, as strict JSON."""
    specs = [] if agent.env is None else agent.env.get_attr("spec")
    spec = specs[0] if specs else None
    return {
        "agent": type(agent).__name__,
        "env": None if spec is None else spec.id,
        "env_kwargs": {} if spec is None else _plain(spec.kwargs),
        "num_envs": agent.n_envs,
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
        "settings": _plain({name: getattr(agent, name) for name in _SETTINGS if hasattr(agent, name)}),
    }


def check_description(agent: BaseAlgorithm, saved: Mapping[str, Any]) -> None:
    """Compare a run with what a checkpoint says of the one that was saved; a setting that has changed is a warning.

    Raises:
        ValueError: if the checkpoint is of another agent, task or number of environments.
    """
    here = run_description(agent)
    settings = here.pop("settings")
    for name, value in here.items():
        if saved.get(name) != value:
            raise ValueError(
                f"The checkpoint is of another run: its {name} is {saved.get(name)!r}, and this one's {value!r}. Build "
                "the run as it was, or give this one another folder."
            )
    before = saved.get("settings", {})
    changed = [
        f"{name} was {before.get(name)!r} and is {settings.get(name)!r}"
        for name in sorted({*before, *settings})
        if before.get(name) != settings.get(name)
    ]
    if changed:
        warnings.warn(
            f"The run goes on with other settings than it was saved with: {', '.join(changed)}. It does not end as the "
            "run that was saved would have.",
            stacklevel=2,
        )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that JSON has; how a picture is drawn changes no number."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if is_dataclass(value) and not isinstance(value, type):
            found[name] = _plain(asdict(value))
        elif isinstance(value, bool | str | None) and name != "render_mode":
            found[name] = value
        elif isinstance(value, int | float) and math.isfinite(value):
            found[name] = int(value) if isinstance(value, int) else float(value)
    return found
