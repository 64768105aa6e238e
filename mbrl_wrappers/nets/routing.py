"""Which ensemble member each row goes through, and the order that puts the rows of a member side by side."""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Generator, Tensor


class Routing(NamedTuple):
    """An order of ``B`` rows in which each member's rows are consecutive.

    There may be more places than rows, ``P >= B``: a place that is left over holds row 0 once more, and what comes of
    it is not read.

    Attributes:
        order: ``(P,)`` int64, the row at each place.
        place: ``(B,)`` int64, the place of each row.
        segments: ``(member, places)`` from the first place to the last.
    """

    order: Tensor
    place: Tensor
    segments: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, member: Tensor, num_members: int) -> Routing:
        """Rows whose members ``(B,)`` are given."""
        # Small integers sort faster than int64; a stable order keeps runs repeatable.
        order = th.argsort(member.to(th.uint8) if num_members < 256 else member, stable=True)
        place = th.empty_like(order).scatter_(0, order, th.arange(len(order), device=order.device))
        counts = th.bincount(member, minlength=num_members).tolist()
        return cls(order, place, tuple((index, count) for index, count in enumerate(counts) if count))

    @classmethod
    def balanced(cls, rows: int, members: Tensor, *, generator: Generator) -> tuple[Routing, Tensor]:
        """Deal ``rows`` out to ``members (M,)`` at random, and return each row's member too.

        Each member has the same number of places, and each row comes to any of them with the same probability,
        however few rows there are. Nothing needs to be sorted.
        """
        each = -(-rows // len(members))
        place = th.randperm(each * len(members), generator=generator, device=members.device)[:rows]
        order = th.zeros(each * len(members), dtype=th.int64, device=members.device)
        order.scatter_(0, place, th.arange(rows, device=members.device))
        segments = tuple((member, each) for member in members.tolist() if each)
        return cls(order, place, segments), members.repeat_interleave(each).index_select(0, place)

    def members_by_place(self, device: th.device) -> Tensor:
        """The member at each place, ``(P,)`` int64."""
        members, counts = th.tensor(self.segments, dtype=th.int64, device=device).reshape(-1, 2).unbind(1)
        return members.repeat_interleave(counts)

    def restore(self, outputs: Tensor) -> Tensor:
        """From what came of each place, ``(P, ...)``, to what came of each row, ``(B, ...)``."""
        # The network returns columns that are consecutive in memory.
        return outputs.t().index_select(-1, self.place).t()

    def repeated(self, groups: int) -> Routing:
        """The routing of ``groups`` consecutive blocks of rows, each routed like this one."""
        if groups == 1:
            return self
        group = th.arange(groups, device=self.order.device)
        return Routing(
            (self.order[:, None] + len(self.place) * group).flatten(),
            (self.place * groups + group[:, None]).flatten(),
            tuple((member, count * groups) for member, count in self.segments),
        )
