"""Beliefs of several running episodes, which follow what sensors show: the state behind filtered environments."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Generic, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.rows import map_tensors, put_rows, take_rows, tensors_of, with_tensors
from mbrl_wrappers.seeding import fresh_seed, seed_at, torch_generator
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import LatentModel, S

BoolArray = NDArray[np.bool_]

_FOLLOW, _ANEW, _BEGIN = 0, 1, 2
"""Streams of the draws at one step; a step may begin episodes more than once, each time with the next stream."""


MAX_REPLAYED = 1000
"""Readings of an episode that are kept to infer its belief anew; of a longer one they are the newest."""


class FilteringModel(LatentModel[S], Protocol[S]):
    """A latent model that says what its sensors are and shows its belief as features."""

    @property
    def sensor_space(self) -> spaces.Box:
        """What the environment shows."""
        ...

    def features(self, state: S) -> Tensor:
        """What an agent is shown of a belief, ``(B, F)``: a row of the model's ``observation_space``."""
        ...


class BeliefTracker(Generic[S]):
    """The beliefs of ``N`` episodes under way, one row each.

    No row depends on where another one ends or begins: draws come from streams that are seeded anew at each step and
    are made for all rows, whoever needs them.

    What the sensors showed since the beginning of each episode is kept, up to the newest :data:`MAX_REPLAYED` readings.
    When the weights of the model have changed since a belief was computed, the belief is inferred anew from all of it
    before it is used, so that no belief mixes the coordinates of two models.

    Args:
        model: filters sensor readings.
        num_rows: ``N``.
        seed: of the draws of the filter; fresh by default.

    Attributes:
        times_inferred_anew: how often the weights had changed under an episode.

    Raises:
        TypeError: for a model that filters nothing.
    """

    def __init__(self, model: FilteringModel[S], num_rows: int, *, seed: int | None = None) -> None:
        for needed in ("initial", "observe", "features", "sensor_space"):
            if not hasattr(model, needed):
                raise TypeError(
                    f"A belief needs a latent model, and {type(model).__name__} has no {needed!r}: take a "
                    "LatentStateSpaceModel, or wrap the environment in nothing where its observations show the state."
                )
        self.model = model
        self.num_rows = at_least("num_envs", num_rows)
        self.codec = ActionCodec(model.action_space)
        self.times_inferred_anew = 0
        self._belief: S | None = None
        self._sensors = [_kept([]) for _ in range(num_rows)]  # of each row's episode, (O,) each
        self._actions = [_kept([], between=True) for _ in range(num_rows)]  # between them, (A,) each
        self.seed(fresh_seed() if seed is None else seed)

    def seed(self, seed: int) -> None:
        """Seed the draws of the filter."""
        self._seed, self._steps, self._begins = seed, 0, 0

    def begin(self, rows: BoolArray, sensors: NDArray[Any]) -> None:
        """Start episodes in the ``rows (N,)`` with the readings ``sensors (N, O)``; other rows stay as they are."""
        chosen = np.flatnonzero(rows)
        if not len(chosen):
            return
        seen = self._readings(sensors)
        for row in chosen:
            self._sensors[row], self._actions[row] = _kept([seen[row]]), _kept([], between=True)
        nothing = th.zeros(self.num_rows, self.codec.size, device=self.model.device)
        everywhere = th.ones(self.num_rows, dtype=th.bool, device=self.model.device)
        fresh = self._observed(self.model.initial(self.num_rows), nothing, seen, everywhere, _BEGIN + self._begins)
        self._begins += 1
        if self._belief is None or len(chosen) == self.num_rows:
            self._belief, self._version = fresh, weights_version(self.model)
        else:
            self._keep_up()
            index = th.as_tensor(chosen, device=self.model.device)
            self._belief = put_rows(self._belief, index, take_rows(fresh, index))

    def follow(self, actions: NDArray[Any], sensors: NDArray[Any]) -> None:
        """Every row took one of the environment ``actions (N, ...)`` and then read ``sensors (N, O)``."""
        assert self._belief is not None, "begin() comes first"
        self._keep_up()
        taken, seen = self.codec.from_env(actions).to(self.model.device), self._readings(sensors)
        nowhere = th.zeros(self.num_rows, dtype=th.bool, device=self.model.device)
        self._belief = self._observed(self._belief, taken, seen, nowhere, _FOLLOW)
        self._steps, self._begins = self._steps + 1, 0
        for row in range(self.num_rows):
            self._sensors[row].append(seen[row])
            self._actions[row].append(taken[row])

    def features(self) -> NDArray[np.float32]:
        """What an agent is shown of the beliefs, ``(N, F)``, a fresh array."""
        self._keep_up()
        assert self._belief is not None, "begin() comes first"
        with th.no_grad():
            shown: NDArray[np.float32] = self.model.features(self._belief).float().cpu().numpy()
        return shown.copy()

    @property
    def sensors(self) -> NDArray[Any]:
        """The newest readings ``(N, O)``."""
        newest: NDArray[Any] = th.stack([seen[-1] for seen in self._sensors]).cpu().numpy()
        return newest

    @property
    def belief(self) -> S:
        """The model states, one row each."""
        self._keep_up()
        assert self._belief is not None, "begin() comes first"
        return self._belief

    def state_dict(self) -> StateDict:
        """The beliefs, the episodes so far and the place of the draws; the model has a state of its own."""
        begun = self._belief is not None
        return {
            "seed": self._seed,
            "steps": self._steps,
            "begins": self._begins,
            "times_inferred_anew": self.times_inferred_anew,
            "belief": [tensor.cpu().clone() for tensor in tensors_of(self._belief)] if begun else None,
            "of_these_weights": begun and self._version == weights_version(self.model),
            "sensors": [th.stack(list(row)).cpu() if row else None for row in self._sensors],
            "actions": [th.stack(list(row)).cpu() if row else None for row in self._actions],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, once the model has the weights that it had then.

        Raises:
            ValueError: if it is the state of other beliefs; nothing is changed then.
        """
        places = ("seed", "steps", "begins", "times_inferred_anew")
        require_keys(state, (*places, "belief", "of_these_weights", "sensors", "actions"), "a BeliefTracker")
        if len(state["sensors"]) != self.num_rows:
            raise ValueError(f"The state is of {len(state['sensors'])} beliefs, and here are {self.num_rows}.")
        belief = None
        if state["belief"] is not None:
            belief = with_tensors(self.model.initial(self.num_rows), state["belief"])
        self._belief, self._version = belief, weights_version(self.model) if state["of_these_weights"] else -1
        self._seed, self._steps, self._begins, self.times_inferred_anew = (int(state[name]) for name in places)
        self._sensors, self._actions = (
            [_kept([] if row is None else list(row.to(self.model.device)), between=between) for row in state[name]]
            for name, between in (("sensors", False), ("actions", True))
        )

    def _readings(self, sensors: NDArray[Any]) -> Tensor:
        # A copy: environments may write every observation into one array.
        dtype = th.float64 if self.model.sensor_space.dtype == np.float64 else th.float32
        return th.tensor(np.asarray(sensors), dtype=dtype, device=self.model.device)

    def _observed(self, belief: S, action: Tensor, sensors: Tensor, first: Tensor, *draws: int) -> S:
        generator = torch_generator(seed_at(self._seed, self._steps, *draws), self.model.device)
        return self.model.observe(belief, action, sensors, first, generator=generator)

    def _keep_up(self) -> None:
        """Infer the beliefs anew from their episodes so far if the weights have changed since."""
        if self._belief is None or self._version == weights_version(self.model):
            return
        self.times_inferred_anew += 1
        length = th.tensor([len(seen) for seen in self._sensors], device=self.model.device)
        belief = map_tensors(th.clone, self.model.initial(self.num_rows))
        nothing = th.zeros(self.codec.size, device=self.model.device)
        for time in range(int(length.max())):
            # All rows together, so that each has its own draws: those whose episode is shorter keep their belief.
            seen = th.stack([readings[min(time, len(readings) - 1)] for readings in self._sensors])
            action = th.stack([taken[time - 1] if 0 < time <= len(taken) else nothing for taken in self._actions])
            first = th.full((self.num_rows,), time == 0, device=self.model.device)
            moved = self._observed(belief, action, seen, first, _ANEW, time)
            rows = (length > time).nonzero().squeeze(1)
            belief = put_rows(belief, rows, take_rows(moved, rows))
        self._belief, self._version = belief, weights_version(self.model)


def _kept(rows: list[Tensor], *, between: bool = False) -> deque[Tensor]:
    """``rows`` of an episode in a memory of the newest readings, or of what lies ``between`` them."""
    return deque(rows, maxlen=MAX_REPLAYED - between)


def weights_version(model: object) -> int:
    """A number that grows whenever a weight of ``model`` is written to; 0 for a model without weights."""
    if not isinstance(model, th.nn.Module):
        return 0
    return sum(tensor._version for tensor in (*model.parameters(), *model.buffers()))
