"""Episodes cut out of flat transitions, and windows drawn from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.latent.sequences import SequenceBatch
from mbrl_wrappers.types import Transitions


class Episodes(NamedTuple):
    """Runs of consecutive rows, none of which crosses the end of an episode or the pointer of a ring.

    Attributes:
        rows: all rows.
        begin: ``(n,)`` int64, the first row of each run.
        steps: ``(n,)`` int64, how many rows each run has.
        first: ``(n,)`` bool, whether an episode begins with the run; the oldest run of a full ring begins in the middle
            of one.
        number: ``(n,)`` int64, which stays the same from fit to fit: the row id of the first row.
    """

    rows: Transitions
    begin: Tensor
    steps: Tensor
    first: Tensor
    number: Tensor

    @property
    def num_steps(self) -> int:
        """Rows in all runs together."""
        return int(self.steps.sum())

    @classmethod
    def of(cls, rows: Transitions, row_ids: Tensor | None = None) -> Episodes:
        """Cut ``rows`` wherever ``last`` is set, and wherever one row does not begin where the one before it led.

        Args:
            rows: in the order of time, environment after environment.
            row_ids: ``(B,)`` int64, the number of each row in order of collection, as stores and buffers tell it.
                Without it every run is taken for the beginning of an episode.

        Raises:
            ValueError: for no rows, and for rows that are not in the order of time.
        """
        count = rows.num_rows
        if not count:
            raise ValueError("There are no transitions to cut sequences from.")
        follows = (rows.next_obs[:-1] == rows.obs[1:]).all(1)
        inside = ~rows.last[:-1]
        if inside.sum() >= 2 and (inside & ~follows).sum() > inside.sum() / 2:
            raise ValueError(
                f"Of {int(inside.sum())} rows inside of episodes, {int((inside & ~follows).sum())} do not begin where "
                "the row before them led. Sequences need rows in the order of time: pass all rows of a store or buffer "
                "(transitions(), real_transitions()), not a shuffled sample."
            )
        ends = th.cat([~(inside & follows), follows.new_ones(1)]).nonzero().squeeze(1)
        begin = th.cat([ends.new_zeros(1), ends[:-1] + 1])
        first = th.ones_like(begin, dtype=th.bool)
        number = begin
        if row_ids is not None:
            ids = row_ids.to(begin.device)
            number = ids[begin]
            # Of an environment the ids rise; where they fall, the next environment's oldest row begins. It begins an
            # episode only if it is that environment's very first row, whose id is the number of the environment.
            oldest = th.cat([begin.new_ones(1, dtype=th.bool), ids[1:] < ids[:-1]])
            first = ~oldest[begin] | (number == (oldest.long().cumsum(0) - 1)[begin])
        return cls(rows, begin, ends - begin + 1, first, number)

    def take(self, index: Tensor) -> Episodes:
        """The runs ``index``, of the same rows."""
        return Episodes(self.rows, *(column[index] for column in self[1:]))

    def split(self, ratio: float, *, seed: int) -> tuple[Episodes, Episodes]:
        """Training runs and runs held out: whole episodes, the same from fit to fit as they become more.

        A run is held out when its own draw, of one seeded stream, is below ``ratio``. At least one run goes to each
        side. Where few runs differ much in length, so that more than half of all rows would be held out (and more than
        ``ratio``), the two sides change places. A single run is divided in time, its last part is held out.
        """
        if len(self.begin) == 1:
            kept = min(max(round((1 - ratio) * int(self.steps)), 1), int(self.steps) - 1)
            if kept < 1:
                raise ValueError("One transition is too little to learn from and hold some out.")
            early = self._replace(steps=th.full_like(self.steps, kept))
            late = self._replace(
                begin=self.begin + kept,
                steps=self.steps - kept,
                first=th.zeros_like(self.first),
                number=self.number + kept,
            )
            return early, late
        numbers = self.number.cpu().numpy()
        draws = np.random.default_rng(seed).random(int(numbers.max()) + 1)[numbers]
        held = draws < ratio
        held[draws.argmin()] = True
        held[draws.argmax()] = False
        steps = self.steps.cpu().numpy()
        if steps[held].sum() > max(ratio, 0.5) * steps.sum():
            held = ~held
        mask = th.as_tensor(held, device=self.begin.device)
        return self.take((~mask).nonzero().squeeze(1)), self.take(mask.nonzero().squeeze(1))

    def draw(self, batch: int, steps: int, *, generator: Generator) -> SequenceBatch:
        """Windows in which every row is equally often, with replacement.

        A window may begin before its run or end after it, and is then cut and padded: otherwise the first and the last
        row of a long run would be in one of its windows and every other row in ``steps``, and with the last ones the
        terminations that there are to learn.

        Args:
            batch: ``B`` windows.
            steps: of each, ``T - 1``, fewer where a window is cut.
            generator: on the CPU.
        """
        at_least("steps", steps)
        places = self.steps + steps - 1
        bounds = places.cumsum(0)
        place = th.randint(int(bounds[-1]), (batch,), generator=generator).to(bounds.device)
        run = th.searchsorted(bounds, place, right=True)
        return self.window(run, place - (bounds - places)[run] - (steps - 1), steps)

    def cover(self, steps: int, most: int) -> SequenceBatch:
        """Consecutive windows that cover every run, at most ``most``, evenly spaced among all."""
        runs = [(run, offset) for run, n in enumerate(self.steps.tolist()) for offset in range(0, n, steps)]
        chosen = np.linspace(0, len(runs) - 1, min(most, len(runs))).round().astype(int)
        index = th.tensor([runs[i] for i in chosen], device=self.begin.device)
        return self.window(index[:, 0], index[:, 1], steps)

    def window(self, run: Tensor, offset: Tensor, steps: int) -> SequenceBatch:
        """The windows of ``steps`` that begin ``offset (B,)`` rows into the runs ``run (B,)``, padded at the end.

        Of a window that begins before its run (``offset`` is negative then) what lies in the run is left.
        """
        end = th.minimum(offset + steps, self.steps[run])
        offset = offset.clamp(min=0)
        count = end - offset
        time = th.arange(steps, device=run.device)
        index = (self.begin[run] + offset)[:, None] + th.minimum(time, count[:, None] - 1)
        rows = self.rows
        return SequenceBatch(
            obs=th.cat([rows.obs[index[:, :1]], rows.next_obs[index]], 1),
            action=rows.action[index],
            reward=rows.reward[index],
            terminated=rows.terminated[index],
            first=self.first[run] & (offset == 0),
            length=count + 1,
        )
