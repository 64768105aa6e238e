"""Keeps the raw last observation of an episode where ``VecNormalize`` would clip it."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

UNCLIPPED = "unclipped_terminal_observation"
"""Entry of an ``info`` with the last observation of an episode in raw units."""


class _KeepsTerminalObservations(VecEnv):
    """Mixin for the vector environment inside ``VecNormalize``: copies terminal observations before normalisation."""

    def step_wait(self) -> Any:
        """Step, and keep each ``terminal_observation`` under a second name."""
        obs, rewards, dones, infos = super().step_wait()  # type: ignore[safe-super]
        for info in infos:
            if info.get("terminal_observation") is not None:
                info[UNCLIPPED] = info["terminal_observation"]
        return obs, rewards, dones, infos


def keep_terminal_observations(normalizer: VecNormalize | None) -> None:
    """Make the environments inside ``normalizer`` also return terminal observations in raw units.

    ``VecNormalize`` normalises and clips the last observation of an episode in place, and SB3 undoes the
    normalisation for its replay buffer and cannot undo the clipping. A failure far outside of the usual range is
    stored as one of 10 standard deviations then, and a model would learn that. The class of the vector environment is
    extended, since another wrapper around it would not fit the wrappers of evaluation environments.
    """
    if normalizer is None or not normalizer.norm_obs or isinstance(normalizer.venv, _KeepsTerminalObservations):
        return
    kind = type(normalizer.venv)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    normalizer.venv.__class__ = type(kind.__name__, (_KeepsTerminalObservations, kind), names)


def drop_unclipped(infos: list[dict[str, Any]], normalizer: VecNormalize | None) -> None:
    """Leave the raw terminal observations in ``infos`` only where those of ``normalizer`` were clipped.

    Elsewhere SB3's own number is right up to rounding, and the replay buffer keeps it to the bit.
    """
    if normalizer is None:
        return
    limit = np.float32(normalizer.clip_obs)
    for info in infos:
        if UNCLIPPED in info and (np.abs(info["terminal_observation"]) < limit).all():
            del info[UNCLIPPED]
