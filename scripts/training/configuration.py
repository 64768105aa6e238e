"""Hyperparameters from one YAML file per algorithm, with command-line replacements.

A file maps environment ids to entries; its ``default`` entry is merged under each of them. An entry holds the
agent's keyword arguments, a few keys of ours (:data:`RUN_KEYS`) and a ``model`` block (:data:`MODEL_KEYS`) that is
used only when a model is trained; its ``agent`` replaces arguments of the agent then.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.runs.env_id import registered_id

try:
    import yaml
except ModuleNotFoundError as error:
    raise ImportError(
        "The settings of scripts/ are YAML, and PyYAML is not installed: pip install 'mbrl-wrappers[zoo]'", name="yaml"
    ) from error

HYPERPARAMS_FOLDER = Path(__file__).resolve().parents[1] / "hyperparams"
RUN_KEYS = ("n_timesteps", "policy", "env_wrapper", "env_kwargs", "noise_type", "noise_std")
MODEL_KEYS = ("real_ratio", "synthetic_size", "agent", "dyna", "starts", "imagination", "fit", "ensemble")


class _Loader(yaml.SafeLoader):
    """The safe loader, which also reads ``1e-3`` as a number (YAML 1.1 wants ``1.0e-3``)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """Read YAML without ever building an object that is not plain data."""
    return yaml.load(text, Loader=_Loader)


@dataclass
class RunConfiguration:
    """One merged entry.

    Attributes:
        agent: keyword arguments of the agent.
        model: the ``model`` block, with the keys of :data:`MODEL_KEYS`.
        run: the keys of :data:`RUN_KEYS`.
    """

    agent: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    def as_entry(self) -> dict[str, Any]:
        """Back to the layout of the YAML file."""
        return {**self.run, **self.agent, **({"model": self.model} if self.model else {})}


def parse_assignments(words: Iterable[str]) -> dict[str, Any]:
    """Read ``key:value`` words; values are YAML, so ``a:1 b:true c:[64,64] d:relu`` keep their types.

    Raises:
        ValueError: if a word has no colon or its value is no YAML.
    """
    parsed: dict[str, Any] = {}
    for word in words:
        key, colon, value = word.partition(":")
        if not colon or not key:
            raise ValueError(f"expected key:value, got {word!r}; for example learning_rate:3e-4.")
        try:
            parsed[key] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise ValueError(f"the value of {key!r} is not YAML ({value!r}): {error}") from error
    return parsed


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``; dictionaries are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(assignments: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested dictionaries and move model keys under ``model``.

    ``{"dyna.rollouts_per_step": 100}`` becomes ``{"model": {"dyna": {"rollouts_per_step": 100}}}``.
    """
    result: dict[str, Any] = {}
    for dotted, value in assignments.items():
        parts = dotted.split(".")
        if parts[0] in MODEL_KEYS:
            parts = ["model", *parts]
        for part in reversed(parts):
            value = {part: value}
        result = merge(result, value)
    return result


def unknown_key_message(key: str, allowed: Iterable[str], where: str) -> str:
    """A sentence that names the key, the place and the nearest allowed key."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else f" Allowed: {', '.join(allowed)}."
    return f"Unknown key {key!r} in {where}.{hint}"


def check_keys(entry: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    """Refuse keys that nothing reads.

    Raises:
        ValueError: for the first unknown key, with the nearest allowed one.
    """
    allowed = list(allowed)
    for key in entry:
        if key not in allowed:
            raise ValueError(unknown_key_message(str(key), allowed, where))


def read_entry(path: Path, env_id: str) -> dict[str, Any]:
    """The entry for ``env_id``: the file's ``default`` with the environment's own entry laid on it.

    Entries are named by the registered id: ``Id-v0`` also for ``module:Id-v0``.

    Raises:
        ValueError: if the file is missing or is not a mapping of mappings.
    """
    try:
        document = parse_yaml(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"There is no hyperparameter file {path}; name another with --conf-file.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    document = document or {}
    if not isinstance(document, Mapping) or not all(isinstance(entry or {}, Mapping) for entry in document.values()):
        raise ValueError(f"{path} must map environment ids (or 'default') to hyperparameters.")
    return merge(document.get("default") or {}, document.get(registered_id(env_id)) or {})


def _with_model_agent(entry: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """``entry`` with what was ``given`` for the agent laid on its ``model.agent`` too: a flag wins over the file."""
    model = entry.get("model")
    over = model.get("agent") if isinstance(model, Mapping) else None
    if not isinstance(over, Mapping):
        return entry
    return merge(entry, {"model": {"agent": merge(over, {key: given[key] for key in over if key in given})}})


def load_configuration(
    path: Path,
    env_id: str,
    agent_keys: Iterable[str],
    overrides: Mapping[str, Any] | None = None,
) -> RunConfiguration:
    """Read, merge and check one entry.

    Args:
        path: the YAML file.
        env_id: which entry.
        agent_keys: keyword arguments the agent takes.
        overrides: ``--hyperparams``, with dotted keys.

    Raises:
        ValueError: for an unknown key, naming the nearest known one.
        TypeError: if the model block is no mapping.
    """
    given = nested(overrides or {})
    entry = merge(_with_model_agent(read_entry(path, env_id), given), given)
    model = entry.pop("model", None) or {}
    agent_keys = list(agent_keys)
    where = f"{path.name} ({env_id}) or --hyperparams"
    check_keys(entry, [*agent_keys, *RUN_KEYS, "model", *MODEL_KEYS], where)
    if not isinstance(model, Mapping):
        raise TypeError(f"'model' in {where} must be a mapping with the keys {', '.join(MODEL_KEYS)}.")
    check_keys(model, MODEL_KEYS, f"the model block of {where}")
    for key in MODEL_KEYS:
        if key in entry:
            raise ValueError(f"{key!r} in {where} belongs inside the 'model' block.")
    run = {key: entry.pop(key) for key in RUN_KEYS if key in entry}
    return RunConfiguration(agent=entry, model=dict(model), run=run)
