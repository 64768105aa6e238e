"""Fitting models to real transitions."""

from mbrl_wrappers.training.sequence_trainer import SequenceFitConfig, SequenceTrainer
from mbrl_wrappers.training.trainer import FitConfig, Trainer

__all__ = ["FitConfig", "SequenceFitConfig", "SequenceTrainer", "Trainer"]
