"""Random streams: generators that are passed along, and a fence around the global ones.

Nothing in this library draws from the global streams of numpy and torch. Stable-Baselines3 does, so code
that calls an SB3 policy inside a rollout runs behind :func:`fenced_global_streams`, and an agent's own draws come
out the same whether or not a model works beside it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th

from mbrl_wrappers.comparable import comparable


def torch_generator(seed: int | np.random.Generator, device: th.device | str = "cpu") -> th.Generator:
    """A torch generator from a seed, or seeded by one draw of a numpy generator."""
    value = int(seed.integers(2**62)) if isinstance(seed, np.random.Generator) else int(seed)
    return th.Generator(device=device).manual_seed(value)


def fresh_seed() -> int:
    """A seed from the operating system, for whoever gave none."""
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> 2)


def spawn_seeds(seed: int, count: int) -> list[int]:
    """``count`` independent seeds from one (numpy's ``SeedSequence``)."""
    return [int(child.generate_state(1, np.uint64)[0] >> 2) for child in np.random.SeedSequence(seed).spawn(count)]


def seed_at(seed: int, *place: int) -> int:
    """The seed at ``place`` of an endless independent sequence (or table, or ...), without those before it.

    All numbers count in their order: equal ones do not cancel, as they would under xor.
    """
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 2)


def draw_seed(generator: th.Generator) -> int:
    """One integer drawn from ``generator``, to seed something that takes an int."""
    return int(th.randint(2**31 - 1, (), generator=generator, device=generator.device))


@contextmanager
def fenced_global_streams(seed: int | None) -> Iterator[None]:
    """Seed the global streams of torch, numpy and ``random`` inside the block; restore them on the way out.

    With None the block starts from the states that the streams are in.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with th.random.fork_rng():
        if seed is not None:
            th.random.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def global_stream_states() -> tuple[Any, ...]:
    """The states of the global streams of torch, numpy and ``random``, to tell whether something drew from them."""
    states = th.random.get_rng_state().numpy(), np.random.get_state(), random.getstate()
    return tuple(comparable(state) for state in states)
