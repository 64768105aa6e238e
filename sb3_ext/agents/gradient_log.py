"""Logs the health of gradients to SB3's logger."""

from __future__ import annotations

import math

from stable_baselines3.common.logger import Logger

from mbrl_wrappers.gradient_health import GradientHealth


def record_health(logger: Logger, health: GradientHealth) -> None:
    """Record ``health`` under ``gradient/``, one entry per number and horizon; what is not a number is left out."""
    names = [name for name in GradientHealth._fields if name != "horizons"]
    for place, horizon in enumerate(health.horizons):
        for name in names:
            value = getattr(health, name)[place]
            if not math.isnan(value):
                logger.record(f"gradient/{name}_h{horizon}", value, exclude="stdout")
