"""Random streams of all kinds, and how they are seeded in place."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th

from mbrl_wrappers.comparable import comparable

RandomStream = np.random.Generator | np.random.BitGenerator | np.random.RandomState | random.Random | th.Generator


def stream_state(stream: RandomStream) -> Any:
    """Where a stream is; compare two by ``==``."""
    if isinstance(stream, np.random.Generator):
        stream = stream.bit_generator
    if isinstance(stream, np.random.BitGenerator):
        return comparable(stream.state)
    if isinstance(stream, th.Generator):
        return stream.get_state().numpy().tobytes()
    return comparable(stream.get_state() if isinstance(stream, np.random.RandomState) else stream.getstate())


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
