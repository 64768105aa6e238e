"""Features inferred anew from windows of sensor readings, so that stored experience never shows an older model's."""

from __future__ import annotations

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.latent.model import LatentStateSpaceModel
from mbrl_wrappers.latent.network import Inferred
from mbrl_wrappers.latent.sequences import SequenceBatch
from mbrl_wrappers.latent.state import LatentState
from mbrl_wrappers.latent.summaries import RecurrentSummary, TwoWaySummary


@th.no_grad()
def window_features(
    model: LatentStateSpaceModel, windows: SequenceBatch, *, generator: Generator
) -> tuple[Tensor, Tensor]:
    """The features before and after the last step of each window, ``(B, F)`` each.

    They are those of a filter that read the window and nothing before it: where an episode begins with the window,
    exactly what :class:`~mbrl_wrappers.latent.BeliefObservation` shows there, up to the draws of the filter. A filter
    that begins in the middle of an episode needs some readings to find its way, which is what the window is for (Lee et
    al. 2020, SLAC, which infers from 8 readings).

    Args:
        model: in the form whose features are wanted.
        windows: at least two observations each, on the device of the model.
        generator: source of the draws.
    """
    inputs = model.layout.sequence(model.embed(windows.obs), windows.action, windows.first)
    shape = (*windows.obs.shape[:2], model.options.latent_size)
    noise = th.randn(shape, generator=generator, device=model.device)
    inferred = model.infer_inputs(inputs, windows.first, windows.length, noise)
    after = _features_at(model, inputs, inferred, windows.length - 1)
    if model.options.posterior in ("smoother", "factorised smoother"):
        # Before the last step its outcome was not known: a smoother must not read it.
        earlier = inputs[:, :-1], windows.first, windows.length - 1, noise[:, :-1]
        inferred = model.infer_inputs(*earlier)
    return _features_at(model, inputs, inferred, windows.length - 2), after


def _features_at(model: LatentStateSpaceModel, inputs: Tensor, inferred: Inferred, index: Tensor) -> Tensor:
    """The features at the times ``index (B,)`` of each window."""
    each = th.arange(len(index), device=index.device), index
    sample = inferred.sample[each]
    mean, std = inferred.posterior.at(*each)
    if model.options.deterministic:
        mean, std = sample, th.zeros_like(std)
    memory = sample.new_zeros(len(sample), model.posterior.memory_size)
    summary = model.posterior.summary
    if model.form == "belief" and isinstance(summary, TwoWaySummary):
        memory = summary.past(inputs, index)[each]
    elif model.form == "belief" and isinstance(summary, RecurrentSummary):
        memory = summary(inputs, index)[each]
    return model.features(LatentState(inferred.recurrent[each], sample, mean, std, memory))
