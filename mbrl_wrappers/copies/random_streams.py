"""Random streams of all kinds, and how they are seeded in place."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th

RandomStream = np.random.Generator | np.random.BitGenerator | np.random.RandomState | random.Random | th.Generator


def stream_state(stream: RandomStream) -> object:
    """Where a stream is; compare two by ``==``."""
    if isinstance(stream, np.random.Generator):
        stream = stream.bit_generator
    if isinstance(stream, np.random.BitGenerator):
        return _comparable(stream.state)
    if isinstance(stream, th.Generator):
        return stream.get_state().numpy().tobytes()
    return (
        _comparable(stream.get_state(legacy=False)) if isinstance(stream, np.random.RandomState) else stream.getstate()
    )


def _comparable(state: Any) -> object:
    """The state of a numpy stream with bytes for arrays."""
    if isinstance(state, dict):
        return {name: _comparable(value) for name, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


def reseed(stream: RandomStream, seeds: np.random.Generator | None) -> None:
    """Seed ``stream`` by a draw of ``seeds``, in place; None leaves it as it is."""
    if seeds is None or stream is seeds:
        return
    if isinstance(stream, np.random.Generator):
        stream = stream.bit_generator
    if isinstance(stream, np.random.BitGenerator):
        kind: Any = type(stream)
        stream.state = kind(int(seeds.integers(2**62))).state
    elif isinstance(stream, th.Generator):
        stream.manual_seed(int(seeds.integers(2**62)))
    else:
        stream.seed(int(seeds.integers(2**32)))
