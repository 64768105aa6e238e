"""Save any registered model to one file without pickle, and load it by name.

A class joins with a decorator and two methods:

    @register_model("my-model")
    class MyModel:
        def to_checkpoint(self) -> tuple[dict[str, JSON], dict[str, Tensor]]: ...

        @classmethod
        def from_checkpoint(cls, config, tensors, *, device, reward_fn=None) -> MyModel: ...

Keyword arguments beyond ``device`` are what :func:`load` may override: functions that a file cannot hold.
"""

from __future__ import annotations

import inspect
import json
import os
import warnings
from collections.abc import Callable
from reprlib import repr as brief
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Tensor

from mbrl_wrappers.storage.allocation import allocation_limit
from mbrl_wrappers.storage.file_format import (
    FORMAT_VERSION,
    SUFFIX,
    CheckpointError,
    Manifest,
    TensorRecord,
    read,
    read_header,
    read_versions,
    with_suffix,
    write,
)
from mbrl_wrappers.storage.space_json import space_from_json, space_to_json
from mbrl_wrappers.storage.stored_functions import (
    FunctionNeeded,
    describe_function,
    is_registered,
    register_function,
    restore_function,
)

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

__all__ = [
    "FORMAT_VERSION",
    "JSON",
    "SUFFIX",
    "CheckpointError",
    "FunctionNeeded",
    "Manifest",
    "Storable",
    "TensorRecord",
    "describe_function",
    "is_registered",
    "load",
    "load_starts",
    "read_manifest",
    "register_function",
    "register_model",
    "resolve_device",
    "restore_function",
    "save",
    "space_from_json",
    "space_to_json",
]

JSON: TypeAlias = Any
"""Anything strict JSON can say. (A recursive alias would be exact and ask for a cast at every read.)"""

_MODEL_PREFIX = "model."
_STARTS = "starts"


class Storable(Protocol):
    """What :func:`register_model` asks of a class."""

    def to_checkpoint(self) -> tuple[dict[str, JSON], dict[str, Tensor]]:
        """The configuration as strict JSON, and every tensor that is needed to predict the same again."""
        ...

    @classmethod
    def from_checkpoint(cls, config: dict[str, JSON], tensors: dict[str, Tensor], *, device: th.device) -> Self:
        """Rebuild the model on ``device`` from what :meth:`to_checkpoint` gave; ``tensors`` are on the CPU."""
        ...


M = TypeVar("M", bound=Storable)

_CLASSES: dict[str, type[Storable]] = {}


def register_model(kind: str) -> Callable[[type[M]], type[M]]:
    """Class decorator that makes a model storable; ``kind`` names its class inside files, for good.

    Raises:
        ValueError: if another class has registered ``kind``.
    """

    def register(cls: type[M]) -> type[M]:
        known = _CLASSES.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            taken_by = f"{known.__module__}.{known.__qualname__}"
            raise ValueError(f"The model kind {kind!r} is taken by {taken_by}: choose another.")
        _CLASSES[kind] = cls
        return cls

    return register


def save(model: Storable, path: str | os.PathLike[str], *, starts: NDArray[Any] | Tensor | None = None) -> Path:
    """Write ``model`` to one file; a file already there is replaced in one step and survives a kill until then.

    Args:
        model: an instance of a registered class.
        path: where to; ``.safetensors`` is appended when missing, folders are created.
        starts: ``(n, O)`` observations to start from, so that the model runs by name as an environment.

    Returns:
        The path written.

    Raises:
        TypeError: if the class of the model is not registered or says why it cannot be stored (``not_storable``), or
            if its configuration is not strict JSON.
        ValueError: if ``starts`` do not fit the model, or the file would be larger than one may be.
        IsADirectoryError: if ``path`` is a folder.
    """
    kinds = [kind for kind, cls in _CLASSES.items() if cls is type(model)]
    refusal = getattr(model, "not_storable", None)
    if refusal is not None:
        raise TypeError(f"{type(model).__name__} cannot be saved: {refusal}.")
    if not kinds:
        raise TypeError(
            f"{type(model).__name__} cannot be saved: its class is not registered. Put @register_model('a-name') "
            f"above it and give it to_checkpoint and from_checkpoint. Registered kinds: {_known_kinds()}."
        )
    target = with_suffix(path)
    config, tensors = model.to_checkpoint()
    stored = {_MODEL_PREFIX + name: tensor for name, tensor in tensors.items()}
    if starts is not None:
        stored[_STARTS] = _check_starts(model, starts)
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"The configuration of {type(model).__name__} is not strict JSON: {error}.") from error
    write(target, kinds[0], config, stored)
    return target


def load(path: str | os.PathLike[str], *, device: th.device | str = "auto", **overrides: Any) -> Any:
    """Rebuild the model in a file; on the same device and versions it predicts bit for bit what the saved one did.

    Nothing in the file is executed, whoever wrote it.

    Args:
        path: the file; ``.safetensors`` may be left out.
        device: where to compute; ``"auto"`` takes a GPU if there is one.
        overrides: functions to use in place of those saved, such as ``reward_fn``, if the model's class takes them.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if ``path`` is a folder.
        CheckpointError: if the file is truncated, corrupt, too new, of an unknown kind, or describes no model.
        FunctionNeeded: if a function that the file only names must be among ``overrides``.
        TypeError: if the class of the model does not take one of ``overrides``.
    """
    manifest, tensors = read(with_suffix(path))
    if manifest.kind not in _CLASSES:
        raise CheckpointError(
            f"{path} holds a model of kind {brief(manifest.kind)}, which is not registered here: import the module "
            f"that defines it before loading. Registered kinds: {_known_kinds()}."
        )
    cls = _CLASSES[manifest.kind]
    accepted = inspect.signature(cls.from_checkpoint).parameters.keys() - {"config", "tensors", "device"}
    if not overrides.keys() <= accepted:
        raise TypeError(
            f"A model of kind {manifest.kind!r} does not take {sorted(overrides.keys() - accepted)}; "
            f"it takes {sorted(accepted) or 'no overrides'}."
        )
    _warn_of_other_physics(path, manifest)
    prefix = len(_MODEL_PREFIX)
    mine = {name[prefix:]: tensor for name, tensor in tensors.items() if name.startswith(_MODEL_PREFIX)}
    where = resolve_device(device)
    th.empty(0, device=where)  # torch's own error for a device that is not there, which is not a fault of the file
    try:
        with allocation_limit(sum(tensor.numel() for tensor in mine.values()), len(mine)):
            return cls.from_checkpoint(manifest.config, mine, device=where, **overrides)
    except FunctionNeeded:
        raise
    except Exception as error:
        # The configuration comes from the file, so any error that it causes is a fault of the file.
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise CheckpointError(f"{path} cannot be rebuilt: {shorten(said[:2000], 600)}") from error


def load_starts(path: str | os.PathLike[str]) -> NDArray[Any] | None:
    """The start observations ``(n, O)`` saved with the model, or ``None``."""
    starts = read(with_suffix(path))[1].get(_STARTS)
    return None if starts is None else np.asarray(starts.numpy())


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """What a model file says of itself, without reading its tensors."""
    return read_header(with_suffix(path))


def resolve_device(device: th.device | str) -> th.device:
    """``"auto"`` is a GPU if there is one, else the CPU; anything else names itself."""
    if device == "auto":
        return th.device("cuda" if th.cuda.is_available() else "cpu")
    return th.device(device)


def _known_kinds() -> str:
    return ", ".join(sorted(_CLASSES)) or "none"


def _check_starts(model: Storable, starts: NDArray[Any] | Tensor) -> Tensor:
    rows = th.as_tensor(starts)
    size = getattr(getattr(model, "observation_space", None), "shape", rows.shape[1:])
    if rows.ndim != 2 or len(rows) == 0 or tuple(rows.shape[1:]) != tuple(size):
        wanted = f"(n, {size[0]})" if size else "(n, O)"
        raise ValueError(f"Starts must be observations of shape {wanted}; these are of shape {tuple(rows.shape)}.")
    if not (rows.is_floating_point() and bool(rows.isfinite().all())):
        raise ValueError("Starts must be finite floating-point observations.")
    return rows


def _warn_of_other_physics(path: str | os.PathLike[str], manifest: Manifest) -> None:
    """Warn if another version of the simulator, whose physics may differ, was installed when the file was saved."""
    for name, now in read_versions("gymnasium", "mujoco").items():
        then = manifest.versions.get(name, now)
        if then.split(".")[:2] != now.split(".")[:2]:
            warnings.warn(
                f"{path} was saved with {name} {then} and {now} is installed: "
                "check that the model still agrees with the environment.",
                stacklevel=3,
            )
