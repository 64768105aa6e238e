"""Which ensemble member each row goes through, and the order that puts the rows of a member side by side."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch as th
from torch import Generator, Tensor


class Routing(NamedTuple):
    """A permutation of ``B`` rows after which each member's rows are consecutive.

    Attributes:
        order: ``(B,)`` int64, the row at each place.
        place: ``(B,)`` int64, the place of each row: the inverse of ``order``.
        segments: ``(member, rows)`` from the first place to the last.
    """

    order: Tensor
    place: Tensor
    segments: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, member: Tensor, num_members: int) -> Routing:
        """Rows whose members ``(B,)`` are given."""
        # Small integers sort faster than int64; a stable order keeps runs repeatable.
        order = th.argsort(member.to(th.uint8) if num_members < 256 else member, stable=True)
        counts = th.bincount(member, minlength=num_members).tolist()
        return cls(order, _inverse(order), tuple((index, count) for index, count in enumerate(counts) if count))

    @classmethod
    def balanced(cls, rows: int, members: Tensor, *, generator: Generator) -> tuple[Routing, Tensor]:
        """Deal ``rows`` out to ``members (M,)`` at random in parts of equal size, and return each row's member too.

        Parts differ by a row at most. Which members get the larger ones is drawn as well, so that each row goes
        through each member with the same probability, however few rows there are. Nothing needs to be sorted.
        """
        place = th.randperm(rows, generator=generator, device=members.device)
        first = int(th.randint(len(members), (), generator=generator, device=members.device))
        members = members.roll(first)
        sizes = [
            stop - start for start, stop in pairwise(rows * part // len(members) for part in range(len(members) + 1))
        ]
        segments = tuple((index, size) for index, size in zip(members.tolist(), sizes, strict=True) if size)
        member = members.repeat_interleave(th.tensor(sizes, device=members.device), output_size=rows)[place]
        return cls(_inverse(place), place, segments), member

    def restore(self, rows: Tensor) -> Tensor:
        """``rows (B, ...)`` that are in the order of the places, in the order they were in before."""
        # Columns first in memory is how the network returns them.
        return rows.t().index_select(1, self.place).t()

    def repeated(self, groups: int) -> Routing:
        """The routing of ``groups`` consecutive blocks of rows, each routed like this one."""
        if groups == 1:
            return self
        rows, group = len(self.order), th.arange(groups, device=self.order.device)
        return Routing(
            (self.order[:, None] + rows * group).flatten(),
            (self.place * groups + group[:, None]).flatten(),
            tuple((member, count * groups) for member, count in self.segments),
        )


def _inverse(permutation: Tensor) -> Tensor:
    places = th.arange(len(permutation), device=permutation.device)
    return th.empty_like(permutation).scatter_(0, permutation, places)
