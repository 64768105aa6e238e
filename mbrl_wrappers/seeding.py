"""Random streams: generators that are passed along, and a fence around the global ones.

Nothing in this library draws from the global streams of numpy and torch. Stable-Baselines3 does, so code
that calls an SB3 policy inside a rollout runs behind :func:`fenced_global_streams`, and an agent's own draws come
out the same whether or not a model works beside it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.states import StateDict


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


def numpy_stream_state(generator: np.random.Generator | np.random.RandomState) -> StateDict:
    """The state of a numpy generator as plain values."""
    if isinstance(generator, np.random.RandomState):
        state: StateDict = _plain(generator.get_state(legacy=False))
        return state
    state = _plain(generator.bit_generator.state)
    return state


def set_numpy_stream_state(generator: np.random.Generator | np.random.RandomState, state: Mapping[str, Any]) -> None:
    """Put a numpy generator into a state that :func:`numpy_stream_state` gave.

    Raises:
        ValueError: if the state is of another kind of generator.
    """
    try:
        if isinstance(generator, np.random.RandomState):
            generator.set_state(_arrays(state))
        else:
            generator.bit_generator.state = _arrays(state)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"This is no state of the random stream {type(generator).__name__}: {error}.") from error


def torch_stream_state(generator: th.Generator) -> th.Tensor:
    """The state of a torch generator."""
    return generator.get_state().clone()


def set_torch_stream_state(generator: th.Generator, state: th.Tensor) -> None:
    """Put a torch generator into a state that :func:`torch_stream_state` gave.

    Raises:
        ValueError: if the state is of another kind of generator.
    """
    try:
        generator.set_state(state.to("cpu", th.uint8))
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(f"This is no state of a torch generator on {generator.device}: {error}.") from error


def global_streams_state() -> StateDict:
    """The states of the global streams of Python, numpy and torch, which SB3 draws from."""
    version, numbers, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)
    state: StateDict = {
        "python": {"version": version, "numbers": np.array(numbers, dtype=np.int64), "gauss": gauss},
        "numpy": _plain(legacy),
        "torch": th.random.get_rng_state().clone(),
    }
    if th.cuda.is_available():
        state["cuda"] = list(th.cuda.get_rng_state_all())
    return state


def set_global_streams_state(state: Mapping[str, Any]) -> None:
    """Put the global streams into the states that :func:`global_streams_state` gave.

    Raises:
        ValueError: if one of the states is none.
    """
    try:
        python = state["python"]
        random.setstate((python["version"], tuple(int(number) for number in python["numbers"]), python["gauss"]))
        np.random.set_state(_arrays(state["numpy"]))
        th.random.set_rng_state(state["torch"].to("cpu", th.uint8))
        if "cuda" in state and th.cuda.is_available():
            th.cuda.set_rng_state_all(state["cuda"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"This is no state of the global random streams: {error}.") from error


def _plain(value: Any) -> Any:
    """Arrays of integers as int64 or left as they are, numpy scalars as numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == np.uint32:
        return value.astype(np.int64)
    if isinstance(value, np.ndarray):
        return value.copy()
    return value.item() if isinstance(value, np.generic) else value


def _arrays(value: Any) -> Any:
    """The inverse of :func:`_plain`, as numpy wants it."""
    if isinstance(value, Mapping):
        return {key: _arrays(item) for key, item in value.items()}
    return value.astype(np.uint32) if isinstance(value, np.ndarray) and value.dtype == np.int64 else value
