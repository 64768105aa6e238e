"""How many successors an action has in a search tree: one, those that the model draws, or a growing number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch as th
from torch import Tensor

from controllers.search.state_pool import leaves
from mbrl_wrappers.checks import within
from mbrl_wrappers.objects import Objects
from mbrl_wrappers.types import Prediction

Kind = Literal["auto", "one", "drawn", "widening"]
Merge = Literal["state", "observation", "never"]

PROBES = 16
"""Copies of a start that are compared to detect a stochastic model and count its successors."""

PROBE_STEPS = 8
"""Steps for which copies are compared, at most to the horizon."""


@dataclass(frozen=True)
class Outcomes:
    r"""How many successors an action may have in a search tree, and which nodes are merged.

    Kinds, per action of a node:

    * ``"one"``: a deterministic model. The successor is predicted once; simulations that come again follow it.
    * ``"drawn"``: every simulation draws anew, and the successor it draws says which child it goes on from. Unbiased;
      for models with few successors.
    * ``"widening"``: draws anew while there are fewer than :math:`k N(s, a)^\alpha` successors, and else follows the
      one furthest behind its share of the draws (progressive widening, Couetoux et al. 2011); for continuous states,
      where no successor is ever drawn twice.
    * ``"auto"``: sixteen copies of each start take each first action and seven more random ones. The kind is ``"one"``
      if the copies never differ, ``"widening"`` if they reach more than half as many successors as there are copies,
      else ``"drawn"``. Set ``"drawn"`` where random events are too rare or too late for the copies to show.

    Attributes:
        kind: see above.
        factor: ``k``.
        power: ``alpha`` in [0, 1].
        merge: which nodes of one depth are merged, so that the tree becomes a graph: those with equal states
            (``"state"``: always correct, needed for tabular models, without effect for copied environments), those with
            equal observations (correct only where observations determine the state), or none.
    """

    kind: Kind = "auto"
    factor: float = 1.0
    power: float = 0.5
    merge: Merge = "state"

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, get_args(Kind)), ("merge", self.merge, get_args(Merge))):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}.")
        within("power", self.power, 0, 1)
        if within("factor", self.factor, 0) == 0:
            raise ValueError("factor must be above 0: an action needs one outcome.")

    def may_grow(self, found: int, visits: int) -> bool:
        """Whether an action with ``found`` outcomes after ``visits`` may have another."""
        return found < self.factor * math.pow(max(1, visits), self.power)


def packed(tensors: list[Tensor]) -> list[bytes]:
    """The bytes of each row of ``(B, ...)`` tensors."""
    parts = [(t + 0 if t.is_floating_point() else t).contiguous().cpu().flatten(1) for t in map(_matrix, tensors)]
    whole = th.cat([part.view(th.uint8) for part in parts], 1) if len(parts) > 1 else parts[0].view(th.uint8)
    data, width = whole.numpy().tobytes(), whole.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor), -1)


def observed(obs: Tensor) -> list[bytes]:
    """What identifies observations ``(B, O)``: their float32 bytes."""
    return packed([obs.float()])


def outcome_keys(state: object, prediction: Prediction, merge: Merge) -> tuple[list[bytes], bool]:
    """What identifies each successor, and whether it does so at a whole depth or only below one action."""
    columns = leaves(state)
    if merge == "observation" or any(isinstance(column, Objects) for column in columns):
        return packed([prediction.next_obs, prediction.terminated]), merge == "observation"
    return packed([*columns, prediction.terminated]), merge == "state"


def kind_of(parting: int) -> Kind:
    """The kind of a model whose copies reach this many different successors."""
    if parting <= 1:
        return "one"
    return "widening" if parting > PROBES // 2 else "drawn"
