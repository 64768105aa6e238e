"""Fitting models to real transitions."""

from mbrl_wrappers.training.background import BackgroundTrainer
from mbrl_wrappers.training.local_linear_trainer import LocalLinearConfig, LocalLinearTrainer
from mbrl_wrappers.training.sequence_trainer import SequenceFitConfig, SequenceTrainer
from mbrl_wrappers.training.trainer import FitConfig, Trainer

__all__ = [
    "BackgroundTrainer",
    "FitConfig",
    "LocalLinearConfig",
    "LocalLinearTrainer",
    "SequenceFitConfig",
    "SequenceTrainer",
    "Trainer",
]
