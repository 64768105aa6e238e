"""Libraries that only some features need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module``, or say which extra of mbrl-wrappers brings it.

    Args:
        module: dotted name, such as ``"matplotlib.pyplot"``.
        extra: the group in ``pip install 'mbrl-wrappers[extra]'``.

    Raises:
        ImportError: if the library is missing. An error inside an installed library is passed on as it is.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"This feature needs {package}, which is not installed: pip install 'mbrl-wrappers[{extra}]'",
            name=package,
        ) from error
