"""Nested values as they come out of files, to compare those that went through one with those that did not."""

from __future__ import annotations

from typing import Any


def by_key(value: Any) -> Any:
    """``value`` with the keys of every dictionary in order."""
    if isinstance(value, dict):
        return {key: by_key(value[key]) for key in sorted(value)}
    return [by_key(item) for item in value] if isinstance(value, list) else value
