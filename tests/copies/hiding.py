"""Small environments that keep their state in places where copies lose or share it."""

from __future__ import annotations

import itertools
import random
import weakref
from collections import deque
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces


class Line(gymnasium.Env[Any, Any]):
    """``v' = v + a / 10``, ``x' = x + v' / 10``; shows ``[x, v]``, pays ``-x^2``. Subclasses keep x and v elsewhere."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.build()

    def build(self) -> None:
        pass

    def begin(self) -> None:
        self.x, self.v = 0.5, 0.25

    def move(self, push: float) -> None:
        self.v += push / 10
        self.x += self.v / 10

    def shown(self) -> tuple[float, float]:
        return self.x, self.v

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.begin()
        return self._get_obs(), {}

    def _get_obs(self):
        return np.array(self.shown(), np.float64)

    def step(self, action):
        self.move(float(action[0]))
        return self._get_obs(), float(-(self.shown()[0] ** 2)), False, False, {}


class Arrays(Line):
    """``self.both`` is all of the state, ``self.pos`` and ``self.vel`` are views of its parts."""

    def build(self) -> None:
        self.both: Any = self.memory()
        self.pos, self.vel = self.both[:1], self.both[1:2]

    def memory(self) -> Any:
        return np.zeros(2)

    def begin(self) -> None:
        self.pos[...], self.vel[...] = 0.5, 0.25

    def move(self, push: float) -> None:
        self.vel += push / 10
        self.pos += self.vel / 10

    def shown(self):
        return float(self.both[0]), float(self.both[1])


class ViewOfView(Arrays):
    def memory(self):
        return np.zeros((3, 4))[1][1:3]


class Reversed(Arrays):
    def memory(self):
        return np.zeros(6)[::-2]


class Permuted(Arrays):
    def memory(self):
        return np.zeros((2, 3, 4)).transpose(2, 0, 1).copy(order="K")[1, :, 2]


class Column(Arrays):
    def memory(self):
        return np.zeros((4, 4), order="F")[1, 1:3]


class Field(Arrays):
    def memory(self):
        return np.zeros(2, [("n", np.int32), ("x", np.float64)])["x"]


class OtherType(Arrays):
    def memory(self):
        return np.zeros(16, np.uint8).view(np.float64)


class Objects(Arrays):
    def memory(self):
        return np.zeros(4, object)[1:3]


class Windows(Arrays):
    def memory(self):
        return np.lib.stride_tricks.sliding_window_view(np.zeros(4), 2, writeable=True)[1]


class Bytes(Arrays):
    def memory(self):
        return np.frombuffer(bytearray(16), np.float64)


class FromTensor(Arrays):
    def build(self) -> None:
        self.tensor = th.zeros(3, dtype=th.float64)
        self.both = self.tensor[1:].numpy()
        self.pos, self.vel = self.tensor[1:2].numpy(), self.tensor.numpy()[2:]


class Tensors(Arrays):
    def memory(self):
        return th.zeros(4, dtype=th.float64)[1:3]


class Weights(Line):
    """A view of the parameter of a network."""

    def build(self) -> None:
        self.net = th.nn.Linear(2, 1, dtype=th.float64).requires_grad_(False)
        self.row = self.net.weight[0]

    def begin(self) -> None:
        super().begin()
        self.row[:] = 0.5
        self.net.bias.zero_()

    def move(self, push: float) -> None:
        self.row += push
        super().move(float(self.net(th.tensor([self.x, self.v], dtype=th.float64))))


class Masked(Arrays):
    def memory(self):
        return np.ma.masked_array(np.zeros(3), [False, False, True])


class Matrix(Arrays):
    def build(self) -> None:
        self.both = np.zeros(2)
        self.pos, self.vel = self.both[:1].view(Tagged), self.both[1:].view(Tagged)


class Tagged(np.ndarray):
    """An array of a class of one's own."""


class Views(Arrays):
    """Views in a dict, a deque and an object."""

    def build(self) -> None:
        super().build()
        self.kept = {"pos": deque([self.both[:1]]), "vel": [self.both[1:]]}
        del self.pos, self.vel

    def begin(self) -> None:
        self.both[:] = 0.5, 0.25

    def move(self, push: float) -> None:
        self.kept["vel"][0] += push / 10
        self.kept["pos"][0] += self.kept["vel"][0] / 10


class ReadOnlyView(Line):
    """Moved through the array, shown through a view that cannot be written."""

    def build(self) -> None:
        self.both = np.zeros(2)
        self.window = self.both[:]
        self.window.flags.writeable = False

    def begin(self) -> None:
        self.both[:] = 0.5, 0.25

    def move(self, push: float) -> None:
        self.both[1] += push / 10
        self.both[0] += self.both[1] / 10

    def shown(self):
        return float(self.window[0]), float(self.window[1])


class Lambda(Line):
    """Moves through a function that closes over ``self``."""

    def build(self) -> None:
        self.mover = lambda push: Line.move(self, push)

    def step(self, action):
        self.mover(float(action[0]))
        return self._get_obs(), float(-(self.x**2)), False, False, {}


class Default(Lambda):
    def build(self) -> None:
        self.mover = lambda push, me=self: Line.move(me, push)


class KeywordDefault(Lambda):
    def build(self) -> None:
        self.mover = lambda push, *, me=self: Line.move(me, push)


class Partial(Lambda):
    def build(self) -> None:
        self.mover = partial(Line.move, self)


class PartialOfLambda(Lambda):
    def build(self) -> None:
        self.mover = partial(lambda scale, push: Line.move(self, scale * push), 1.0)


class Bound(Lambda):
    def build(self) -> None:
        self.mover = self.move


class InDict(Lambda):
    def build(self) -> None:
        self.movers = {"a": [lambda push: Line.move(self, push)]}

    def step(self, action):
        self.mover = self.movers["a"][0]
        return super().step(action)


class Weak(Line):
    """A part that knows its owner by a weak reference."""

    def build(self) -> None:
        self.owner = weakref.ref(self)

    def step(self, action):
        me = self.owner()
        me.move(float(action[0]))
        return self._get_obs(), float(-(self.x**2)), False, False, {}


class Nonlocal(Line):
    """Its state is variables that two functions share."""

    def build(self) -> None:
        x = v = 0.0

        def put(new_x, new_v):
            nonlocal x, v
            x, v = new_x, new_v

        self.put, self.get = put, lambda: (x, v)

    def begin(self) -> None:
        self.put(0.5, 0.25)

    def move(self, push: float) -> None:
        x, v = self.get()
        v += push / 10
        self.put(x + v / 10, v)

    def shown(self):
        return self.get()


class Recursive(Line):
    """A function that closes over itself, and one without contents yet."""

    def build(self) -> None:
        def half(times):
            return self.v if times == 0 else half(times - 1)

        self.half = half

    def shown(self):
        return self.x, self.half(3)


class Appending(Line):
    """Its state is the end of a list and of a deque, which only bound methods write."""

    def build(self) -> None:
        self.xs, self.vs = [0.0], deque([0.0], maxlen=3)
        self.add_x, self.add_v, self.set_x = self.xs.append, self.vs.append, self.xs.__setitem__

    def begin(self) -> None:
        self.set_x(-1, 0.5)
        self.add_v(0.25)

    def move(self, push: float) -> None:
        self.add_v(self.vs[-1] + push / 10 + len(self.vs) / 100)
        self.add_x(self.xs[-1] + self.vs[-1] / 10)

    def shown(self):
        return self.xs[-1], self.vs[-1]


class Iterating(Line):
    """Reads pushes from iterators."""

    def build(self) -> None:
        self.extra, self.number = iter([0.1 * k for k in range(500)]), itertools.count()

    def move(self, push: float) -> None:
        super().move(push + next(self.extra) + next(self.number) / 100)


class Nested(Line):
    """An environment in a list in an object, which knows the one around it."""

    def build(self) -> None:
        self.inner = [Lambda()]
        self.inner[0].outer = self  # type: ignore[attr-defined]

    def begin(self) -> None:
        self.inner[0].reset()
        super().begin()

    def move(self, push: float) -> None:
        self.inner[0].step(np.array([push]))
        inner: Any = self.inner[0]
        inner.outer.x, inner.outer.v = inner.x, inner.v


class Slots(Line):
    """Its state is in an object with slots."""

    class Body:
        __slots__ = ("v", "x")

    def build(self) -> None:
        self.body = self.Body()

    def begin(self) -> None:
        self.body.x, self.body.v = np.array([0.5]), 0.25
        self.alias = self.body.x[:]

    def move(self, push: float) -> None:
        self.body.v += push / 10
        self.alias += self.body.v / 10

    def shown(self):
        return float(self.body.x[0]), self.body.v


class Counter(Line):
    """Data under names that other environments give to what they draw with."""

    def build(self) -> None:
        self.clock, self.window, self.surface = 0, (0.0, 1.0), np.zeros(1)

    def move(self, push: float) -> None:
        self.clock += 1
        self.surface += 1
        super().move(push + self.clock / 100 + self.window[1] + self.surface[0])


MOVING: tuple[type[Line], ...] = (
    *(
        Line,
        Arrays,
        ViewOfView,
        Reversed,
        Permuted,
        Column,
        Field,
        OtherType,
        Objects,
        Windows,
        Bytes,
        FromTensor,
        Tensors,
    ),
    *(
        Weights,
        Masked,
        Matrix,
        Views,
        ReadOnlyView,
        Lambda,
        Default,
        KeywordDefault,
        Partial,
        PartialOfLambda,
        Bound,
        InDict,
        Weak,
    ),
    *(Nonlocal, Recursive, Appending, Iterating, Nested, Slots, Counter),
)
"""Environments whose copies go on from where they are."""


class Drawing(Line):
    """Noise from a place that is not ``self.np_random``."""

    def draw(self) -> float:
        return float(np.random.uniform())  # noqa: NPY002

    def move(self, push: float) -> None:
        super().move(push + self.draw())


class DrawingPython(Drawing):
    def draw(self) -> float:
        return random.random()


class DrawingTorch(Drawing):
    def draw(self) -> float:
        return float(th.rand(()))


class DrawingBound(Drawing):
    """Keeps the method of a generator, not the generator."""

    def build(self) -> None:
        self.uniform = np.random.default_rng(5).uniform

    def draw(self) -> float:
        return float(self.uniform())


class DrawingClosed(Drawing):
    def build(self) -> None:
        rng = random.Random(3)
        self.uniform = lambda: rng.random()

    def draw(self) -> float:
        return float(self.uniform())


GLOBAL_DRAWS: tuple[type[Drawing], ...] = (Drawing, DrawingPython, DrawingTorch)
OTHER_DRAWS: tuple[type[Drawing], ...] = (DrawingBound, DrawingClosed)
