"""What no copy can be faithful to is refused when the model is built, and nothing has moved."""

from __future__ import annotations

import logging
import os
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th

from mbrl_wrappers import ClonedEnvModel
from mbrl_wrappers.copies.object_graph import contents, walk
from tests.copies import refusing
from tests.copies.hiding import Line
from tests.copies.refusing import REFUSED
from tests.models.simulators import generator

NAMES = ("STATE", "POSITION", "COUNT", "RNG", "SEEN", "BODY", "Settings", "_counted", "Weather")


def everything(env: Any) -> list[tuple[str, object]]:
    """The environment and whatever the module of these environments has, as values."""
    outside = [(name, getattr(refusing, name)) for name in NAMES]
    outside += [(name, value) for name, value in vars(refusing.Weather).items() if not name.startswith("__")]
    attributes = [(name, value) for name, value in vars(type(env)).items() if not name.startswith("__")]
    return [(name, contents(value)) for name, value in walk([("env", env), *outside, *attributes])]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
@pytest.mark.parametrize("begun", [True, False])
def test_what_copies_would_share_or_lose_is_refused_by_name_and_nothing_moves(make, begun):
    env = make()
    if begun:
        env.reset(seed=0)
        env.step(np.zeros(env.action_space.shape, np.float32))
    before = everything(env)
    with pytest.raises(TypeError, match=rf"cannot be copied: .*{env.words}"):
        ClonedEnvModel(env)
    assert everything(env) == before


def test_an_environment_of_several_that_cannot_be_copied_is_refused():
    envs = [Line(), refusing.ClassNumber()]
    with pytest.raises(TypeError, match="ClassNumber.count"):
        ClonedEnvModel(envs)


TABLE = [0.1, 0.2]
CACHE: dict[float, float] = {}
LOADED: list[float] | None = None
env: Any = None  # the name that scripts give to the live environment; Wrapped has an attribute of this name


class Wrapped(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Uses constants, caches and loggers outside of it, which is no fault."""

    scale = {"push": 2.0}  # noqa: RUF012

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.logger = logging.getLogger("tests.wrapped")

    def step(self, action):
        global LOADED
        if LOADED is None:
            LOADED = [1.0]
        self.logger.debug("a step")
        key = float(action[0])
        CACHE.setdefault(key, TABLE[0] * self.scale["push"] * LOADED[0])
        return self.env.step(action + CACHE[key])


def test_constants_caches_loggers_and_names_of_attributes_are_no_reason_to_refuse():
    global env
    env = Wrapped(Line())
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    state = model.reset(th.as_tensor(obs)[None], generator=generator())
    _, one = model.step(state, th.tensor([[0.5]]), generator=generator())
    assert one.next_obs[0].tolist() == env.step(np.array([0.5], np.float32))[0].tolist()
    env = None


class Unpredictable(Line):
    """Draws from the system, which nobody can repeat."""

    def move(self, push: float) -> None:
        super().move(push + int.from_bytes(os.urandom(4), "big") / 2**32)


class Demanding(Line):
    """Cannot be reset without options."""

    def reset(self, *, seed=None, options=None):
        if options is None:
            raise ValueError("options are needed")
        return super().reset(seed=seed)


class Picky(Line):
    """Refuses most actions."""

    def step(self, action):
        if abs(action[0]) > 1e-9:
            raise ValueError("too large")
        return super().step(action)


@pytest.mark.parametrize("kind", [Unpredictable, Demanding, Picky])
def test_environments_that_cannot_be_tried_out_are_taken_as_they_are(kind):
    made = kind()
    obs, _ = made.reset(seed=0, options={})
    model = ClonedEnvModel(made)
    state = model.reset(th.as_tensor(obs)[None], generator=generator())
    _, one = model.step(state, th.zeros(1, 1), generator=generator())
    assert one.next_obs.isfinite().all()
    assert made._get_obs().tolist() == obs.tolist()


def test_spaces_that_change_after_the_model_was_built_are_an_error():
    made = Line()
    obs, _ = made.reset(seed=0)
    model = ClonedEnvModel(made)
    made.action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)
    with pytest.raises(ValueError, match="spaces of .* have changed"):
        model.reset(th.as_tensor(obs)[None], generator=generator())
