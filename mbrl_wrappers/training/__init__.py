"""Fitting models to real transitions."""

from mbrl_wrappers.training.trainer import FitConfig, Trainer

__all__ = ["FitConfig", "Trainer"]
