"""Environment ids as Gymnasium reads them: ``[module:][namespace/]Name-v0``, where the module is imported first."""

from __future__ import annotations


def registered_id(env_id: str) -> str:
    """The id without the module that registers it: what the task is called, whoever brings it."""
    return env_id.rpartition(":")[2]


def safe_name(env_id: str) -> str:
    """An environment id as a file name."""
    return registered_id(env_id).replace("/", "-")
