"""Agents from Stable-Baselines3's zips, without running what a file says.

A zip holds the tensors of networks and optimisers, which torch reads without running anything, and pickled settings,
which can run any code when they are read. Here the agent is built anew from arguments and only the tensors are taken.
"""

from __future__ import annotations

import copy
import io
import pickletools
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

A = TypeVar("A", bound=BaseAlgorithm)

_VARIABLES = "pytorch_variables"
_OTHER_MEMBERS = frozenset(("data", "_stable_baselines3_version", "system_info.txt"))
_GLOBALS = frozenset(
    (
        "collections OrderedDict",
        *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
        *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")),
    )
)


def load_agent(
    path: str | Path,
    env: VecEnv,
    cls: type[A],
    *,
    trust: bool = False,
    device: th.device | str = "auto",
    **arguments: Any,
) -> A:
    """The agent in an SB3 zip, ready to act in ``env`` and to be trained on.

    Without ``trust`` the agent is built from ``arguments``, and the file gives what it learned: weights, target
    networks, optimisers and the entropy coefficient. Counters, schedules and other settings are those of a new agent.

    Args:
        path: the zip.
        env: gives the spaces.
        cls: the agent's class, such as ``SAC``.
        trust: read the whole file as ``SAC.load`` does, pickles included. They can run any code: say so only for files
            that you or people you trust made.
        device: torch device.
        arguments: of ``cls``, needed without ``trust``: what shapes the networks (``policy``, ``policy_kwargs``,
            ``use_sde``) and the entropy coefficient as in training. ``policy`` is ``"MlpPolicy"`` unless given.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, is no agent, keeps its weights in a pickle as SBX does, or holds an agent
            of other spaces or networks.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no agent file {path}.")
    if trust:
        return cls.load(path, env=env, device=device)
    # A copy: SB3 writes into the policy_kwargs that it is given.
    agent = cls(**{"policy": "MlpPolicy", **copy.deepcopy(arguments)}, env=env, device=device)
    modules, variables = agent._get_torch_save_params()
    if not modules:
        raise ValueError(
            f"{path} is a file of {cls.__module__}.{cls.__name__}, which pickles its weights: reading it can run code. "
            "If you made it, or trust who did, load it with trust=True."
        )
    _check_archive(path, {f"{name}.pth" for name in (*modules, _VARIABLES)})
    try:
        _, params, values = load_from_zip_file(path, load_data=False, device=device)
    except Exception as error:  # whatever torch says of bytes that are no tensors
        raise ValueError(f"{path} is corrupt: torch cannot read its tensors ({error!s:.200}).") from error
    try:
        _check_parameters(agent, params)
        agent.set_parameters(params, exact_match=True, device=device)
        _set_variables(agent, variables, values or {})
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not fit this {cls.__name__}: {error!s:.300}. Give the spaces, policy_kwargs, use_sde and "
            "ent_coef it was trained with."
        ) from error
    if agent.use_sde:
        agent.policy.reset_noise()  # type: ignore[operator]
    return agent


def _check_archive(path: Path, expected: set[str]) -> None:
    """Check names, sizes and checksums in the zip, and that its tensors are described by tensor types alone.

    Raises:
        ValueError: if one of them is not what SB3 writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive)
            if min((member.header_offset for member in archive.infolist()), default=0) > 0:
                raise zipfile.BadZipFile("its end is missing, and one of its parts is a zip, too")
            names = set(archive.namelist()) - _OTHER_MEMBERS
            if names != expected:
                raise ValueError(
                    f"it has the parts {', '.join(sorted(names))} in place of {', '.join(sorted(expected))}"
                )
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} differs")
            for name in sorted(names):
                with zipfile.ZipFile(io.BytesIO(archive.read(name))) as tensors:
                    _check_members(tensors)
                    _check_described(tensors)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is truncated, corrupt or no agent file ({error}).") from error
    except (ValueError, KeyError, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is corrupt or was not written by SB3: {error!s:.300}.") from error


def _check_members(archive: zipfile.ZipFile) -> None:
    """Check that members are stored as they are, so that none takes more memory than the file has bytes."""
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename[:100]!r} is compressed, which SB3's files are not")
    if len(set(archive.namelist())) != len(archive.namelist()):
        raise ValueError("it has two parts of one name")


def _check_described(archive: zipfile.ZipFile) -> None:
    """Check that torch's description of tensors names tensor types and nothing else; it is read, not run."""
    (description,) = [name for name in archive.namelist() if name.endswith("/data.pkl")] or [""]
    for operation, argument, _ in pickletools.genops(archive.read(description)):
        name = operation.name
        if name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "STACK_GLOBAL") or (
            name == "GLOBAL" and argument not in _GLOBALS
        ):
            raise ValueError(f"its tensors are described with {name} {argument!s:.100}")


def _check_parameters(agent: BaseAlgorithm, params: Mapping[str, Any]) -> None:
    """Compare names, types and shapes with the agent's own before anything is copied.

    Raises:
        ValueError: if they differ.
    """
    for part, values in params.items():
        own = recursive_getattr(agent, part)
        if isinstance(own, nn.Module):
            wanted = {name: tuple(tensor.shape) for name, tensor in own.state_dict().items()}
            found = {name: tuple(tensor.shape) for name, tensor in values.items()}
            if differing := sorted(
                name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
            ):
                name = differing[0]
                raise ValueError(f"{name} has the shape {found.get(name)} in the file and {wanted.get(name)} here")
        else:
            shapes = [tuple(weight.shape) for group in own.param_groups for weight in group["params"]]
            for number, state in values["state"].items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and tuple(value.shape) not in ((), shapes[number]):
                        raise ValueError(
                            f"{name} of weight {number} has the shape {tuple(value.shape)} in the optimiser"
                        )


def _set_variables(agent: BaseAlgorithm, names: list[str], values: Mapping[str, Any]) -> None:
    """Take the tensors that are neither a network's nor an optimiser's: SAC's entropy coefficient."""
    if set(values) != set(names):
        raise ValueError(f"it has the variables {sorted(values)} in place of {sorted(names)}")
    for name in names:
        own, value = getattr(agent, name), values[name]
        if own.shape != value.shape:
            raise ValueError(f"{name} has the shape {tuple(value.shape)} in the file and {tuple(own.shape)} here")
        own.data.copy_(value.data)
