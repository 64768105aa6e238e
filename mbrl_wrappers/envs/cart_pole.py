"""Balancing a pole with a force of any size: Gymnasium's CartPole with a continuous action."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

ENV_ID = "mbrl_wrappers/ContinuousCartPole-v0"
MAX_STEPS = 200


class ContinuousCartPole(CartPoleEnv):
    """CartPole (Barto, Sutton and Anderson 1983) whose action in [-1, 1] is the force as a share of ``force_mag``.

    Dynamics, observation ``(cart position, its velocity, pole angle, its velocity)``, starts and the end of an episode
    (the pole beyond 12 degrees or the cart beyond 2.4 units) are Gymnasium's; actions of -1 and 1 are its 0 and 1. Each
    step pays 1, the one that falls included, and ``gymnasium.make`` cuts an episode after 200 steps: the small task by
    which planners with learned models are judged (PETS, Chua et al. 2018).

    Args:
        force_mag: force of the action 1, in newtons.
        render_mode: as in CartPole-v1.

    Raises:
        ValueError: ``force_mag`` is not positive.
    """

    def __init__(self, force_mag: float = 10.0, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        if not 0 < force_mag < math.inf:
            raise ValueError(f"force_mag must be positive and finite, got {force_mag}.")
        self.force_mag = float(force_mag)
        self.action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), dtype=np.float32)

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Advance by one step of 0.02 seconds (explicit Euler); actions outside of the space are clipped."""
        assert self.state is not None, "call reset() before step()"
        x, speed, angle, spin = self.state
        force = self.force_mag * float(np.clip(np.asarray(action, np.float64).reshape(1)[0], -1.0, 1.0))
        sine, cosine = np.sin(angle), np.cos(angle)
        push = (force + self.polemass_length * np.square(spin) * sine) / self.total_mass
        lever = self.length * (4.0 / 3.0 - self.masspole * np.square(cosine) / self.total_mass)
        spin_change = (self.gravity * sine - cosine * push) / lever
        speed_change = push - self.polemass_length * spin_change * cosine / self.total_mass
        rates = np.array((speed, speed_change, spin, spin_change), dtype=np.float64)
        self.state = np.array((x, speed, angle, spin), dtype=np.float64) + self.tau * rates
        fallen = abs(self.state[0]) > self.x_threshold or abs(self.state[2]) > self.theta_threshold_radians
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        return self.state.astype(np.float32), 1.0, bool(fallen), False, {}
