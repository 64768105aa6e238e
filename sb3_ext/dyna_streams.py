"""The independent random streams of a Dyna callback."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mbrl_wrappers.seeding import spawn_seeds


class DynaStreams(NamedTuple):
    """Seeds of model, trainer and rollouts, and the stream that starts are drawn from."""

    model_seed: int
    trainer_seed: int
    starts: np.random.Generator
    rollout_seed: int

    @classmethod
    def spawned(cls, seed: int) -> DynaStreams:
        """All from one seed."""
        model, trainer, starts, rollouts = spawn_seeds(seed, 4)
        return cls(model, trainer, np.random.default_rng(starts), rollouts)
