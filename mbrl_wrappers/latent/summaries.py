r"""Summaries of a sequence: what the posterior of the state at one time is told of observations and actions.

The input at time :math:`t` holds the embedded observation :math:`o_t`, the action before it :math:`a_{t-1}` and two
flags: whether an episode begins with it, and whether the known history begins with it in the middle of an episode. No
summary at time :math:`t` sees :math:`a_t`.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch as th
from torch import Generator, Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from mbrl_wrappers.nets.seeded_layers import seeded_gru, seeded_linear


class InputLayout(NamedTuple):
    """Where things are in an input: first the embedded observation, then the two flags, then the action before.

    Attributes:
        embedding: entries of the embedded observation.
        action: entries of a model action.
    """

    embedding: int
    action: int

    @property
    def width(self) -> int:
        """Entries of an input, ``I``."""
        return self.embedding + 2 + self.action

    def sequence(self, embedding: Tensor, action: Tensor, first: Tensor) -> Tensor:
        """Inputs ``(B, T, I)`` of embedded observations ``(B, T, E)`` and the actions between them ``(B, T - 1, A)``.

        Args:
            embedding: of the observations.
            action: ``action[:, t]`` is taken at observation ``t`` and enters the input at ``t + 1``.
            first: ``(B,)`` bool, whether an episode begins with the first observation; else a known history does.
        """
        begins = th.stack([first, ~first], -1).to(embedding)
        rest = embedding.new_zeros(*embedding.shape[:2], 2 + self.action)
        flags, before = rest.split((2, self.action), -1)
        flags[:, 0] = begins
        before[:, 1:] = action
        return th.cat([embedding, rest], -1)

    def following(self, embedding: Tensor, action: Tensor, first: Tensor) -> Tensor:
        """Inputs ``(B, I)`` of observations ``(B, E)`` after ``action (B, A)``; ``first (B,)`` rows follow nothing."""
        begins = first.to(embedding)[:, None]
        flags = th.cat([begins, th.zeros_like(begins)], 1)
        return th.cat([embedding, flags, th.where(first[:, None], 0.0, action.to(embedding))], 1)

    def begun(self, inputs: Tensor) -> Tensor:
        """``inputs (B, I)`` as those with which a known history begins in the middle of an episode."""
        rest = inputs.new_zeros(len(inputs), 2 + self.action)
        rest[:, 1] = 1.0
        return th.cat([inputs[:, : self.embedding], rest], 1)


class SequenceSummary(Protocol):
    """A summary of whole sequences, and its form that goes on observation by observation."""

    @property
    def size(self) -> int:
        """Entries of the summary at one time."""
        ...

    @property
    def memory_size(self) -> int:
        """Entries of what :meth:`advance` keeps, ``M``; a memory of zeros has seen nothing."""
        ...

    def __call__(self, inputs: Tensor, length: Tensor) -> Tensor:
        """Summaries ``(B, T, size)`` of ``inputs (B, T, I)``, of which each row has ``length (B,)``."""
        ...

    def advance(self, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The next memory ``(B, M)`` and the summary ``(B, size)`` after one more input ``(B, I)``."""
        ...


class FrameSummary(nn.Module):
    """The newest input alone.

    Args:
        width: how many of its first entries are shown.
    """

    memory_size = 0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.size = width

    def forward(self, inputs: Tensor, length: Tensor) -> Tensor:
        """``(B, T, I)`` to ``(B, T, size)``."""
        return inputs[..., : self.size]

    def advance(self, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The memory stays empty."""
        return memory, inputs[..., : self.size]


class RecurrentSummary(nn.Module):
    """The state of a GRU that has read all inputs so far.

    Args:
        width: entries of an input.
        size: entries of the state.
        generator: source of the initial weights.
    """

    def __init__(self, width: int, size: int, *, generator: Generator) -> None:
        super().__init__()
        self.size = self.memory_size = size
        self.gru = seeded_gru(width, size, generator=generator)

    def forward(self, inputs: Tensor, length: Tensor) -> Tensor:
        """``(B, T, I)`` to ``(B, T, size)``."""
        states: Tensor = self.gru(inputs)[0]
        return states

    def advance(self, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the GRU."""
        state = self.gru(inputs[:, None], memory[None].contiguous())[1][0]
        return state, state


class BackwardSummary(nn.Module):
    """The state of a GRU that has read all inputs from the end back to this one.

    Its :meth:`advance` reads the newest input alone, after which nothing is known yet.

    Args:
        width: entries of an input.
        size: entries of the state.
        generator: source of the initial weights.
    """

    memory_size = 0

    def __init__(self, width: int, size: int, *, generator: Generator) -> None:
        super().__init__()
        self.size = size
        self.gru = seeded_gru(width, size, generator=generator)

    def forward(self, inputs: Tensor, length: Tensor) -> Tensor:
        """``(B, T, I)`` to ``(B, T, size)``; padding plays no part."""
        return _reversed(self.gru(_reversed(inputs, length))[0], length)

    def advance(self, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The summary when ``inputs`` is the last one."""
        return memory, self.gru(inputs[:, None])[1][0]


class TwoWaySummary(nn.Module):
    """A forward and a backward summary side by side.

    Args:
        width: entries of an input.
        size: entries of each of the two.
        generator: source of the initial weights.
    """

    def __init__(self, width: int, size: int, *, generator: Generator) -> None:
        super().__init__()
        self.past = RecurrentSummary(width, size, generator=generator)
        self.future = BackwardSummary(width, size, generator=generator)
        self.size, self.memory_size = 2 * size, size

    def forward(self, inputs: Tensor, length: Tensor) -> Tensor:
        """``(B, T, I)`` to ``(B, T, size)``."""
        return th.cat([self.past(inputs, length), self.future(inputs, length)], -1)

    def advance(self, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The past goes on; the future ends with the newest input."""
        memory, past = self.past.advance(memory, inputs)
        return memory, th.cat([past, self.future.advance(memory, inputs)[1]], -1)


class AttentionSummary(nn.Module):
    r"""A causal transformer (Vaswani et al. 2017): position :math:`t` attends to positions :math:`\le t`.

    Two blocks of attention and a perceptron, normalised before each, with sinusoidal positions counted from the
    beginning of the known history. It looks back on ``context`` inputs: :meth:`advance` keeps so many, and after that
    goes on as a history that begins in the middle of an episode.

    Args:
        layout: of an input.
        size: entries of the summary, a multiple of 4.
        context: inputs kept.
        generator: source of the initial weights.

    Raises:
        ValueError: for a size that four heads cannot share.
    """

    NUM_HEADS, NUM_BLOCKS = 4, 2

    def __init__(self, layout: InputLayout, size: int, context: int, *, generator: Generator) -> None:
        super().__init__()
        if size % self.NUM_HEADS:
            raise ValueError(f"memory_size={size} must be a multiple of {self.NUM_HEADS} for a transformer.")
        self.size, self.window = size, InputWindow(layout, context)
        self.memory_size = self.window.memory_size

        def linear(a: int, b: int) -> nn.Linear:
            return seeded_linear(a, b, generator=generator)

        self.embed = linear(layout.width, size)
        blocks = range(self.NUM_BLOCKS)
        self.mix_in = nn.ModuleList(linear(size, 3 * size) for _ in blocks)
        self.mix_out = nn.ModuleList(linear(size, size) for _ in blocks)
        self.widen = nn.ModuleList(linear(size, 2 * size) for _ in blocks)
        self.narrow = nn.ModuleList(linear(2 * size, size) for _ in blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2 * self.NUM_BLOCKS + 1))
        self.register_buffer("positions", _sinusoids(context, size), persistent=False)

    positions: Tensor

    def forward(self, inputs: Tensor, length: Tensor) -> Tensor:
        """``(B, T, I)`` to ``(B, T, size)``.

        Raises:
            ValueError: for sequences longer than the context.
        """
        batch, steps, _ = inputs.shape
        if steps > self.window.context:
            raise ValueError(
                f"The transformer looks back on context={self.window.context} observations, and the sequence has "
                f"{steps}: raise LatentOptions.context, or train on shorter windows."
            )
        x = self.embed(inputs) + self.positions[:steps]
        for block in range(self.NUM_BLOCKS):
            heads = self.mix_in[block](self.norms[2 * block](x))
            query, key, value = (
                part.reshape(batch, steps, self.NUM_HEADS, -1).transpose(1, 2) for part in heads.chunk(3, -1)
            )
            mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.mix_out[block](mixed.transpose(1, 2).reshape(batch, steps, self.size))
            x = x + self.narrow[block](silu(self.widen[block](self.norms[2 * block + 1](x))))
        summary: Tensor = self.norms[-1](x)
        return summary

    def advance(self, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The kept inputs are read anew with the newest one behind them."""
        memory = self.window.append(memory, inputs)
        kept, length = self.window.read(memory)
        each = th.arange(len(kept), device=kept.device)
        return memory, self(kept, length)[each, length - 1]


class InputWindow:
    """The newest inputs of each row in a flat memory ``(B, M)``: ``context`` inputs, oldest first, and their count.

    Once more inputs came than fit, the oldest kept one is the beginning of a known history.

    Args:
        layout: of an input.
        context: inputs kept.
    """

    def __init__(self, layout: InputLayout, context: int) -> None:
        self.layout, self.context = layout, context
        self.memory_size = layout.width * context + 1

    def append(self, memory: Tensor, inputs: Tensor) -> Tensor:
        """The memory with ``inputs (B, I)`` added."""
        rows = memory[:, :-1].reshape(-1, self.context, self.layout.width)
        count = memory[:, -1].long()
        full = (count == self.context)[:, None, None]
        rows = th.where(full, rows.roll(-1, 1), rows)
        each = th.arange(len(rows), device=rows.device)
        rows = rows.index_put((each, count.clamp(max=self.context - 1)), inputs)
        oldest = th.where(full[:, 0], self.layout.begun(rows[:, 0]), rows[:, 0])
        rows = th.cat([oldest[:, None], rows[:, 1:]], 1)
        count = (count + 1).clamp(max=self.context)
        return th.cat([rows.flatten(1), count[:, None].to(rows)], 1)

    def read(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The kept inputs ``(B, T, I)``, oldest first and padded at the end, and how many each row has ``(B,)``."""
        count = memory[:, -1].long()
        rows = memory[:, :-1].reshape(-1, self.context, self.layout.width)
        return rows[:, : int(count.max())], count


def _reversed(rows: Tensor, length: Tensor) -> Tensor:
    """The first ``length (B,)`` entries of ``rows (B, T, ...)`` in reverse order; padding stays in its place."""
    time = th.arange(rows.shape[1], device=rows.device)
    backward = length[:, None] - 1 - time
    order = th.where(backward >= 0, backward, time)
    return rows.gather(1, order[..., None].expand_as(rows))


def _sinusoids(steps: int, size: int) -> Tensor:
    """Positions ``(steps, size)`` of Vaswani et al. 2017, section 3.5."""
    rate = th.exp(-math.log(10_000.0) * th.arange(0, size, 2) / size)
    angle = th.arange(steps)[:, None] * rate
    return th.stack([angle.sin(), angle.cos()], -1).flatten(1)
