"""What every command line checks before a folder is made."""

from __future__ import annotations

import argparse

import torch as th

from mbrl_wrappers.optional import require
from mbrl_wrappers.storage.checkpoint import resolve_device
from scripts.training.environments import check_env_id

LIBRARIES = {"tensorboard": ("tensorboard",), "progress": ("tqdm", "rich"), "plots": ("matplotlib",)}
"""What each extra that a flag may need consists of."""


def positive(word: str) -> int:
    """The ``type`` of a flag that counts something.

    Raises:
        argparse.ArgumentTypeError: for anything but a whole number from 1.
    """
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {word!r}")
    return int(word)


def check_flags(env_id: str, device: str, **needed: bool) -> None:
    """Refuse an environment or device that does not exist, and flags whose library is missing.

    Args:
        env_id: of the task.
        device: of torch.
        **needed: whether each extra of :data:`LIBRARIES` is asked for.

    Raises:
        ValueError: with what to change.
        ImportError: naming the extra to install.
    """
    check_env_id(env_id)
    check_device(device)
    for extra, asked in needed.items():
        for library in LIBRARIES[extra] if asked else ():
            require(library, extra=extra)


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or cannot use.

    Raises:
        ValueError: with what torch says of it.
    """
    try:
        th.zeros(1, device=resolve_device(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {device} cannot be used here ({reason}); take auto, cpu or cuda.") from error
