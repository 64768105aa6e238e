"""Steps of a model in which its weights are constants, while gradients flow through its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch as th
from torch import Generator, Tensor, nn

T = TypeVar("T")


class FrozenWeights:
    """The weights of one model, switched off during its steps and only then.

    They are the parameters of a model that is a module. Others, such as those of a network that only a function in a
    closure knows, are found in the graph of the first step that uses them, which is then computed a second time with
    the same draws. Outside of the calls every weight requires gradients as before, so that a policy may share it.

    Args:
        model: whose weights.
    """

    def __init__(self, model: object) -> None:
        self._weights: list[Tensor] = list(model.parameters()) if isinstance(model, nn.Module) else []

    def call(self, compute: Callable[..., T], *inputs: Any, generator: Generator) -> T:
        """``compute(*inputs, generator=generator)``, differentiable in the inputs alone.

        Args:
            compute: a step of the model, which draws from ``generator`` and changes nothing.
            *inputs: tensors and NamedTuples of tensors. No leaf of the graph: a view where needed.
            generator: source of the step's draws.
        """
        if not th.is_grad_enabled():
            return compute(*inputs, generator=generator)
        draws = generator.get_state()
        with self._switched_off():
            result = compute(*inputs, generator=generator)
        found = _leaves_between(inputs, result)
        if not found:
            return result
        self._weights += found
        generator.set_state(draws)
        with self._switched_off():
            return compute(*inputs, generator=generator)

    @contextmanager
    def _switched_off(self) -> Iterator[None]:
        learned = [weight for weight in self._weights if weight.requires_grad]
        try:
            for weight in learned:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in learned:
                weight.requires_grad_(True)


def _leaves_between(inputs: Any, outputs: Any) -> list[Tensor]:
    """What else than ``inputs`` the graph of ``outputs`` collects gradients for."""
    visited = {tensor.grad_fn for tensor in _tensors(inputs)}
    leaves = [tensor for tensor in _tensors(outputs) if tensor.requires_grad and tensor.is_leaf]
    waiting: list[Any] = [tensor.grad_fn for tensor in _tensors(outputs)]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if following := node.next_functions:
            waiting.extend(function for function, _ in following)
        elif hasattr(node, "variable"):  # a leaf leads nowhere; the question is slow where the answer is no
            leaves.append(node.variable)
    return leaves


def _tensors(rows: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples."""
    if isinstance(rows, Tensor):
        yield rows
    elif isinstance(rows, Sequence):
        for part in rows:
            yield from _tensors(part)
