"""Where things are in the observation of a MuJoCo task."""

from __future__ import annotations

from typing import Any, NamedTuple


class ObservationLayout(NamedTuple):
    """The observation of a MuJoCo task: ``[qpos, qvel, further blocks, velocity]``.

    Attributes:
        obs_size: ``O``.
        hidden: how many leading coordinates of ``qpos`` the observation leaves out.
        velocity: the index that ForwardVelocityObservation appended, or None.
    """

    obs_size: int
    hidden: int
    velocity: int | None

    @classmethod
    def of(cls, env: Any, coordinates: int, velocity: int | None) -> ObservationLayout:
        """Read it from the live ``env``, whose robot's place is its first ``coordinates`` entries of ``qpos``."""
        obs_size = int(env.observation_space.shape[0]) if velocity is None else velocity + 1
        excluded = env._exclude_current_positions_from_observation or velocity is not None
        return cls(obs_size, coordinates if excluded else 0, velocity)

    def block(self, env: Any, name: str) -> tuple[int, int]:
        """``(start, stop)`` of a block of ``env.observation_structure``; empty when it is not included."""
        start = 0
        for key, size in env.observation_structure.items():
            if key == "skipped_qpos":
                continue
            length = int(env.model.nq) - self.hidden if key == "qpos" else int(size)
            if key == name:
                return start, start + length
            start += length
        return start, start
