"""The protocol of agents whose update itself uses a model."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mbrl_wrappers.types import DynamicsModel


@runtime_checkable
class ModelUser(Protocol):
    """An agent that computes with the model in its own update, in place of reading imagined rows from its buffer.

    :class:`~sb3_ext.DynaCallback` builds and fits the model as for any other agent, hands it over, and leaves the
    buffer's synthetic part empty. The model is no part of the agent: its file does not hold it.
    """

    def check_model(self, dynamics: DynamicsModel[Any], starts: Tensor) -> None:
        """Called when training starts, before the model was fitted.

        Args:
            dynamics: the model that the agent will be given.
            starts: ``(N, O)`` observations in raw units that the agent is about to act in.

        Raises:
            TypeError: if the agent cannot train with such a model, with a sentence that names what can.
        """
        ...

    def use_model(self, dynamics: DynamicsModel[Any]) -> None:
        """Called after each fit, before the agent trains; for a model that needs no fit, when a fit would be due."""
        ...
