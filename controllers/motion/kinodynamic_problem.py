"""Motion problems in a model: from an observed start to a goal given in coordinates of the model's state."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
import torch as th
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from controllers.motion.space import Points, Region, Validity, is_valid, refuse_invalid
from controllers.validity import limits_from
from mbrl_wrappers.precision import model_dtype
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.types import DynamicsModel, Limits, Prediction, VectorStateModel

S = TypeVar("S")


class KinodynamicProblem(Region, Generic[S]):
    """From a start to a goal by the actions of a model, without leaving the bounds or touching an obstacle.

    Coordinates are those of the model's state where it offers them (:class:`~mbrl_wrappers.types.VectorStateModel`),
    else its observations. A state in which the model predicts a termination counts as an obstacle, and so does an
    observation that is not finite or outside of the model's ``limits``, where it has them. Between two steps the path
    is assumed straight, and checked at the resolution.

    Args:
        model: any dynamics model; of a stochastic one a plan sees one outcome of each action.
        start: observation ``(O,)``, cast to the precision of the model's observations.
        goal: ``(D,)`` coordinates; NaN where any value will do, say for a speed.
        low: ``(D,)`` lower bounds of the coordinates, of the search and of validity.
        high: ``(D,)`` upper bounds.
        valid: see :class:`~controllers.motion.space.Region`; it gets coordinates ``(B, D)``.
        weights: see :class:`~controllers.motion.space.Region`; they say how much a difference in speed counts against
            one in place.
        resolution: see :class:`~controllers.motion.space.Region`.

    Attributes:
        codec: of the model's actions.

    Raises:
        ValueError: for a start, goal or bounds of another size than the model's, for a goal in an obstacle, and for
            actions without bounds, which cannot be drawn evenly.
        TypeError: for an action space that cannot be planned in.
    """

    def __init__(
        self,
        model: DynamicsModel[S],
        start: ArrayLike | Tensor,
        goal: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
        valid: Validity | None = None,
        *,
        weights: ArrayLike | None = None,
        resolution: float | None = None,
    ) -> None:
        super().__init__(low, high, valid, weights=weights, resolution=resolution)
        self.model = model
        self.codec = ActionCodec(model.action_space)
        if not all(bool(edge.isfinite().all()) for edge in self.codec.bounds):
            raise ValueError(
                f"Actions are drawn evenly from their bounds, and {model.action_space} has none: wrap the environment "
                "in gymnasium.wrappers.RescaleAction or give the model a bounded Box."
            )
        self.start = self._checked_start(start)
        self.goal, self.is_free = self._checked_goal(goal)

    def _checked_start(self, start: ArrayLike | Tensor) -> Tensor:
        size = self.model.observation_space.shape
        obs = th.as_tensor(start if isinstance(start, Tensor) else np.asarray(start, np.float64))
        obs = obs.to(model_dtype(self.model))
        if obs.shape != size or not obs.isfinite().all():
            raise ValueError(f"start must be one finite observation of the model, shape {size}, got {start!r}.")
        return obs[None].to(self.model.device)

    def _checked_goal(self, goal: ArrayLike) -> tuple[Points, NDArray[np.bool_]]:
        """The goal, and which of its coordinates are free, ``(D,)`` each."""
        array = np.array(goal, np.float64)
        free = np.isnan(array)
        if array.shape != self.low.shape or free.all():
            raise ValueError(
                f"goal must have the {self.dimensions} coordinates of the bounds, not all NaN; got {goal!r}."
            )
        fixed = array[~free]
        if not ((fixed >= self.low[~free]) & (fixed <= self.high[~free])).all():
            raise ValueError(f"goal {array} lies outside the bounds {self.low} to {self.high}: widen them or move it.")
        if not free.any() and not is_valid(self, array[None])[0]:
            raise ValueError(f"goal {array} is not valid: it lies in an obstacle, so it cannot be reached. Move it.")
        return array, free

    def begin(self, generator: Generator) -> S:
        """The model's state at the start, one row.

        Raises:
            ValueError: if it has other coordinates than the bounds, or is not valid.
        """
        state = self.model.reset(self.start, generator=generator)
        place = self.coordinates(state, self.start)[0]
        if len(place) != self.dimensions:
            raise ValueError(
                f"The bounds have {self.dimensions} coordinates and the state of {type(self.model).__name__} has "
                f"{len(place)}: low, high, goal and weights need one number for each."
            )
        refuse_invalid(self, "start", place)
        return state

    def coordinates(self, state: S, obs: Tensor) -> Points:
        """The coordinates ``(B, D)`` of rows with observations ``obs (B, O)``."""
        vector = self.model.state_vector(state) if isinstance(self.model, VectorStateModel) else obs
        place: Points = vector.detach().cpu().numpy().astype(np.float64)
        return place

    def is_over(self, prediction: Prediction) -> NDArray[np.bool_]:
        """Which rows ``(B,)`` a plan may not go on from: terminated, not finite, or outside of the model's limits."""
        limits = limits_from(self.model, self.start) or Limits.none(self.start.shape[1])
        over: NDArray[np.bool_] = (prediction.terminated.bool() | ~limits.contains(prediction.next_obs)).cpu().numpy()
        return over

    def gaps(self, places: Points) -> Points:
        """Distances ``(...,)`` of coordinates ``(..., D)`` to the goal; its free ones do not count."""
        apart = np.where(self.is_free, 0.0, (places - np.where(self.is_free, 0.0, self.goal)) * self.weights)
        distances: Points = np.linalg.norm(apart, axis=-1)
        return distances
