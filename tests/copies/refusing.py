"""Small environments that no copy can be faithful to, and the words by which the error names what is wrong."""

from __future__ import annotations

import threading
import weakref
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

from tests.copies.hiding import Line

STATE = {"x": 0.0, "v": 0.0}
POSITION = np.zeros(2)
COUNT = 0
RNG = np.random.default_rng(0)
SEEN: list[float] = []


class Body:
    """A part of an environment."""

    x = v = 0.0


BODY = Body()
LIVE: Any = None


class Settings:
    wind = 0.0


class GlobalDict(Line):
    words = "global variable 'STATE'"

    def begin(self) -> None:
        STATE.update(x=0.5, v=0.25)

    def move(self, push: float) -> None:
        STATE["v"] += push / 10
        STATE["x"] += STATE["v"] / 10

    def shown(self):
        return STATE["x"], STATE["v"]


class GlobalArray(Line):
    words = "global variable 'POSITION'"

    def begin(self) -> None:
        POSITION[:] = 0.5, 0.25

    def move(self, push: float) -> None:
        _push(push)

    def shown(self):
        return tuple(POSITION.tolist())


def _push(push: float) -> None:
    POSITION[1] += push / 10
    POSITION[0] += POSITION[1] / 10


class GlobalNumber(Line):
    words = "global variable 'COUNT'"

    def move(self, push: float) -> None:
        global COUNT
        COUNT += 1
        super().move(push + COUNT)


class GlobalStream(Line):
    words = "global variable 'RNG'"

    def move(self, push: float) -> None:
        super().move(push + RNG.random())


class GlobalList(Line):
    words = "global variable 'SEEN'"

    def move(self, push: float) -> None:
        SEEN.append(push)
        super().move(push + len(SEEN))


class ClassNumber(Line):
    words = r"class attribute ClassNumber\.count"
    count = 0

    def move(self, push: float) -> None:
        type(self).count += 1
        super().move(push + self.count)


class ClassArray(Line):
    words = r"class attribute ClassArray\.both"
    both = np.zeros(2)

    def begin(self) -> None:
        self.both[:] = 0.5, 0.25

    def move(self, push: float) -> None:
        self.both[1] += push / 10
        self.both[0] += self.both[1] / 10

    def shown(self):
        return float(self.both[0]), float(self.both[1])


class OtherClass(Line):
    words = r"class attribute Settings\.wind"

    def move(self, push: float) -> None:
        Settings.wind += 0.1
        super().move(push + Settings.wind)


class ClassMethod(Line):
    words = r"class attribute ClassMethod\.total"
    total = 0.0

    @classmethod
    def add(cls, push: float) -> float:
        cls.total += push
        return cls.total

    def move(self, push: float) -> None:
        super().move(self.add(push))


class DefaultList(Line):
    words = r"a default value of DefaultList\.move"

    def move(self, push: float, pushes: list[float] = []) -> None:  # noqa: B006
        pushes.append(push)
        super().move(push + len(pushes))


class StaticDefault(Line):
    words = r"a default value of StaticDefault\.count"

    @staticmethod
    def count(*, seen: dict[str, int] = {"steps": 0}) -> int:  # noqa: B006
        seen["steps"] += 1
        return seen["steps"]

    def move(self, push: float) -> None:
        super().move(push + self.count())


class FunctionAttribute(Line):
    words = r"function attribute _counted\.calls"

    def move(self, push: float) -> None:
        super().move(_counted(push))


def _counted(push: float) -> float:
    _counted.calls += 1  # type: ignore[attr-defined]
    return push + _counted.calls  # type: ignore[attr-defined,no-any-return]


_counted.calls = 0  # type: ignore[attr-defined]


def _decorated(function: Any) -> Any:
    calls = 0

    def counting(self: Any, push: float) -> None:
        nonlocal calls
        calls += 1
        function(self, push + calls)

    return counting


class Decorated(Line):
    words = r"variable 'calls' that _decorated\.<locals>\.counting closes over"

    @_decorated
    def move(self, push: float) -> None:
        Line.move(self, push)


class Weather:
    wind = 0.0

    def blow(self) -> float:
        type(self).wind += 0.5
        return self.wind


WEATHER = Weather()


class ClassOfGlobal(Line):
    words = r"class attribute Weather\.wind"

    def move(self, push: float) -> None:
        super().move(push + WEATHER.blow())


class CachedClosure(Line):
    words = r"attribute 'double', a functools\._lru_cache_wrapper"

    def build(self) -> None:
        self.double = lru_cache(lambda times: times * self.v)

    def move(self, push: float) -> None:
        self.double.cache_clear()
        super().move(push + self.double(2.0))


class Row(Line):
    words = r"attribute 'row', a numpy\.void"

    def build(self) -> None:
        self.rows = np.zeros(2, [("x", float), ("v", float)])
        self.row = self.rows[1]


class GlobalPart(Line):
    """Moves its body through ``self`` and reads it through a global."""

    words = r"GlobalPart\.body as the global variable 'BODY'"

    def build(self) -> None:
        self.body = BODY

    def begin(self) -> None:
        self.body.x, self.body.v = 0.5, 0.25

    def move(self, push: float) -> None:
        self.body.v += push / 10
        self.body.x += self.body.v / 10

    def shown(self):
        return BODY.x, BODY.v


class GlobalEnvironment(Line):
    """What a notebook does: a global ``env``."""

    words = "global variable 'LIVE', which is the live environment"

    def build(self) -> None:
        global LIVE
        LIVE = self
        self.reward = lambda: -(LIVE.x**2)

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, self.reward(), *rest


def class_around_an_environment() -> gymnasium.Env[Any, Any]:
    env = Line()

    class Around(gymnasium.Wrapper[Any, Any, Any, Any]):
        words = "variable 'env' that .*Around.step closes over, which is the live environment"

        def step(self, action):
            obs, _, *rest = self.env.step(action)
            return obs, env.x, *rest

    return Around(env)


def class_around_a_counter() -> gymnasium.Env[Any, Any]:
    count = [0]

    class Counting(Line):
        words = "variable 'count' that .*Counting.move closes over"

        def move(self, push: float) -> None:
            count[0] += 1
            super().move(push + count[0])

    return Counting()


class HalfCopied(Line):
    """A part whose own idea of a copy is to be shared."""

    words = "changes HalfCopied.body.[xv] of the original"

    class Shared(Body):
        def __deepcopy__(self, memo):
            return self

    def build(self) -> None:
        self.body = self.Shared()

    begin, move = GlobalPart.begin, GlobalPart.move

    def shown(self):
        return self.body.x, self.body.v


class Forgetful(Line):
    """A part whose own idea of a copy is to begin anew."""

    words = "a copy answers an action by"

    class Fresh(Body):
        def __deepcopy__(self, memo):
            return type(self)()

    def build(self) -> None:
        self.body = self.Fresh()

    begin, move = GlobalPart.begin, GlobalPart.move

    def shown(self):
        return self.body.x, self.body.v


class Generating(Line):
    words = r"attribute 'pushes', a builtins.generator"

    def build(self) -> None:
        self.pushes = (k / 10 for k in range(100))


class Locked(Line):
    words = r"attribute 'guard', a _thread.lock"

    def build(self) -> None:
        self.guard = threading.Lock()


class Threaded(Line):
    words = r"attribute 'thread', a threading.Thread"

    def build(self) -> None:
        self.thread = threading.Thread(target=print)


class Filed(Line):
    words = r"attribute 'log', a _io.TextIOWrapper"

    def build(self) -> None:
        self.log = open(__file__)  # noqa: SIM115


class ClosedOverAFile(Line):
    words = r"attribute 'write', a builtins.function"

    def build(self) -> None:
        log = open(__file__)  # noqa: SIM115
        self.write = lambda text: log.write(text)


class Memory(Line):
    words = r"attribute 'bytes', a builtins.memoryview"

    def build(self) -> None:
        self.bytes = memoryview(bytearray(8))


class Proxy(Line):
    words = "attribute 'me'"

    def build(self) -> None:
        self.me = weakref.proxy(self)


class TensorOverArray(Line):
    words = r"TensorOverArray\.tensor is a tensor over the memory of the array TensorOverArray\.both"

    def build(self) -> None:
        self.both = np.zeros(2)
        self.tensor = th.from_numpy(self.both)

    def begin(self) -> None:
        self.both[:] = 0.5, 0.25

    def move(self, push: float) -> None:
        self.tensor[1] += push / 10
        self.tensor[0] += self.tensor[1] / 10

    def shown(self):
        return tuple(self.both.tolist())


class SimulatorView(HopperEnv):
    words = "attribute 'angles'.*memory of another object"

    def __init__(self) -> None:
        super().__init__()
        self.angles = self.data.qpos[2:]


REFUSED: tuple[Any, ...] = (
    *(
        GlobalDict,
        GlobalArray,
        GlobalNumber,
        GlobalStream,
        GlobalList,
        ClassNumber,
        ClassArray,
        OtherClass,
        ClassMethod,
    ),
    *(GlobalPart, GlobalEnvironment, class_around_an_environment, class_around_a_counter, HalfCopied, Forgetful),
    *(Generating, Locked, Threaded, Filed, ClosedOverAFile, Memory, Proxy, TensorOverArray, SimulatorView),
)
