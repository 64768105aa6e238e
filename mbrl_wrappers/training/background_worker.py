"""The process beside the agent that fits a copy of the model: messages of JSON and safetensors, and nothing pickled."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch as th
from safetensors.torch import load, save
from torch import Tensor

from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.training.trainer import FitConfig, Trainer
from mbrl_wrappers.types import Transitions

ROW_IDS = "row_ids"
WEIGHTS, ROWS = "weights.", "rows."
"""Prefixes of the names of tensors in a message."""


class FitMessage(NamedTuple):
    """One message in either direction: ``head`` is JSON."""

    head: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix``, without it."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


def send(connection: Connection, head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Send one message."""
    connection.send_bytes(json.dumps(head).encode())
    # Copies, since safetensors refuses tensors that share memory.
    copies = {name: tensor.detach().cpu().clone(memory_format=th.contiguous_format) for name, tensor in tensors.items()}
    connection.send_bytes(save(copies))


def receive(connection: Connection) -> FitMessage:
    """Wait for one message.

    Raises:
        EOFError: if the other side is gone.
    """
    head = json.loads(connection.recv_bytes())
    return FitMessage(head, load(connection.recv_bytes()))


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` of a dataclass from JSON, whose lists were tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def serve(connection: Connection) -> None:
    """Fit whenever asked, until the other side is gone. The optimiser's moments stay here from fit to fit."""
    first = receive(connection)
    th.set_num_threads(first.head["threads"])
    model = _copy(first)
    trainer = Trainer(model, FitConfig(**with_tuples(first.head["fit"])), seed=first.head["seed"])
    while True:
        try:
            request = receive(connection)
        except EOFError:
            return
        model.load_state_dict(request.part(WEIGHTS))
        rows = request.part(ROWS)
        ids = rows.pop(ROW_IDS, None)
        try:
            steps = request.head["max_gradient_steps"]
            report = trainer.fit(Transitions(**rows), max_gradient_steps=steps, row_ids=ids)
        except (ValueError, TypeError, RuntimeError) as error:
            send(connection, {"error": str(error), "type": type(error).__name__}, {})
        else:
            send(connection, {"report": asdict(report)}, model.state_dict())


def _copy(first: FitMessage) -> EnsembleDynamics:
    """The model that the first message describes; functions that are known need not be known here."""
    described = first.head["model"]

    def never_called(*_: Tensor) -> Tensor:
        raise AssertionError("a fit computes no known reward or termination")

    return EnsembleDynamics.from_checkpoint(
        described,
        first.part(WEIGHTS),
        device="cpu",
        reward_fn=None if described["reward"] is None else never_called,
        termination_fn=None if described["termination"] is None else never_called,
    )


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
