"""The random stream of what an agent draws inside a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.seeding import set_torch_stream_state, torch_generator, torch_stream_state
from mbrl_wrappers.states import StateDict, require_keys


class ModelDraws:
    """A stream on the device where the model computes, which is known only when there is a model.

    Args:
        seed: of the stream.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._device: th.device | None = None
        self._generator: Generator | None = None
        self._loaded: Tensor | None = None

    def on(self, device: th.device) -> Generator:
        """The stream on ``device``: it begins at the first call, and anew on another device."""
        if self._generator is None or self._device != device:
            self._generator, self._device = torch_generator(self._seed, device), device
            if self._loaded is not None:
                set_torch_stream_state(self._generator, self._loaded)
                self._loaded = None
        return self._generator

    def state_dict(self) -> StateDict:
        """Seed and position of the stream."""
        stream = self._loaded if self._generator is None else torch_stream_state(self._generator)
        return {"seed": self._seed, "stream": stream}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, on the device that is asked for next.

        Raises:
            ValueError: if it is the state of something else.
        """
        require_keys(state, ("seed", "stream"), "the draws inside a model")
        self._seed, self._loaded = state["seed"], state["stream"]
        self._device = self._generator = None
