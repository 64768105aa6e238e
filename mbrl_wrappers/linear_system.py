r"""Linear systems with Gaussian noise and quadratic cost (LQG), where the best controller is known.

.. math:: x_{t+1} = A x_t + B u_t + w_t, \quad o_t = C x_t + v_t, \quad
          r_t = -(x_t^\top Q x_t + u_t^\top R u_t), \quad w_t \sim \mathcal{N}(0, W),\; v_t \sim \mathcal{N}(0, V)

and :math:`x_1 \sim \mathcal{N}(0, \Sigma)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class LinearSystem:
    """The matrices of the module's formulas; ``X`` states, ``U`` controls and ``O`` sensors.

    Attributes:
        drift: ``A (X, X)``.
        control: ``B (X, U)``.
        sensor: ``C (O, X)``.
        process_noise: ``W (X, X)``.
        sensor_noise: ``V (O, O)``.
        first: covariance of the first state, ``(X, X)``.
        state_cost: ``Q (X, X)``.
        control_cost: ``R (U, U)``.
        steps: of an episode.

    Raises:
        ValueError: for matrices whose shapes do not go together.
    """

    drift: Matrix
    control: Matrix
    sensor: Matrix
    process_noise: Matrix
    sensor_noise: Matrix
    first: Matrix
    state_cost: Matrix
    control_cost: Matrix
    steps: int = 100

    def __post_init__(self) -> None:
        x, u, o = len(self.drift), self.control.shape[-1], len(self.sensor)
        square, wanted = (x, x), {"control": (x, u), "sensor": (o, x), "sensor_noise": (o, o), "control_cost": (u, u)}
        wanted |= {name: square for name in ("drift", "process_noise", "first", "state_cost")}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {getattr(self, name).shape}.")

    def control_gains(self) -> Matrix:
        r"""The best controls :math:`u_t = -K_t \hat{x}_t`, ``(steps, U, X)``, by the Riccati recursion from the end.

        They are best for the state itself and, by the separation principle, for the Kalman filter's mean of it.
        """
        value, gains = np.zeros_like(self.state_cost), []
        for _ in range(self.steps):
            gain = np.linalg.solve(
                self.control_cost + self.control.T @ value @ self.control, self.control.T @ value @ self.drift
            )
            gains.append(gain)
            value = self.state_cost + self.drift.T @ value @ (self.drift - self.control @ gain)
        return np.stack(gains[::-1])

    def expected_return(self, *, observed: bool) -> float:
        """The return that the best controller expects.

        Args:
            observed: whether it is shown the state; else it has the sensors and the Kalman filter.
        """
        value, gains = np.zeros_like(self.state_cost), self.control_gains()
        values = [value]
        for gain in gains[::-1]:
            value = self.state_cost + self.drift.T @ value @ (self.drift - self.control @ gain)
            values.append(value)
        values.reverse()  # values[t] is the cost to go at time t
        cost = np.trace(values[0] @ self.first) + sum(np.trace(v @ self.process_noise) for v in values[1:])
        if observed:
            return -float(cost)
        # What the error of the estimate adds: at each time the control is off by K times the error.
        for covariance, gain, following in zip(self.filter_covariances(), gains, values[1:], strict=True):
            curvature = self.control_cost + self.control.T @ following @ self.control
            cost += np.trace(gain.T @ curvature @ gain @ covariance)
        return -float(cost)

    def filter_covariances(self) -> Matrix:
        """Covariance of the Kalman filter's error after the reading of each time, ``(steps, X, X)``."""
        predicted, after = self.first, []
        for _ in range(self.steps):
            innovation = self.sensor @ predicted @ self.sensor.T + self.sensor_noise
            gain = np.linalg.solve(innovation, self.sensor @ predicted).T
            after.append(predicted - gain @ self.sensor @ predicted)
            predicted = self.drift @ after[-1] @ self.drift.T + self.process_noise
        return np.stack(after)


NOISY_POSITION = LinearSystem(
    drift=np.array([[1.0, 0.1], [0.0, 0.95]]),
    control=np.array([[0.0], [0.1]]),
    sensor=np.array([[1.0, 0.0]]),
    process_noise=np.diag([1e-4, 4e-3]),
    sensor_noise=np.array([[0.04]]),
    first=np.eye(2),
    state_cost=np.diag([1.0, 0.1]),
    control_cost=np.array([[0.1]]),
)
"""A mass whose position is shown with noise and whose velocity is not shown: the state is worth 5.5 of return."""
