"""Features inferred anew from windows of sensor readings, so that stored experience never shows an older model's."""

from __future__ import annotations

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.latent.model import LatentStateSpaceModel
from mbrl_wrappers.latent.sequences import SequenceBatch
from mbrl_wrappers.latent.state import LatentState


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
    length = windows.length
    if model.options.posterior not in ("smoother", "factorised smoother"):
        before, after = _features(model, inputs, windows.first, length, noise, (length - 2, length - 1))
        return before, after
    # Before the last step its outcome was not known: a smoother must not read it.
    (after,) = _features(model, inputs, windows.first, length, noise, (length - 1,))
    (before,) = _features(model, inputs[:, :-1], windows.first, length - 1, noise[:, :-1], (length - 2,))
    return before, after


def _features(
    model: LatentStateSpaceModel,
    inputs: Tensor,
    first: Tensor,
    length: Tensor,
    noise: Tensor,
    times: tuple[Tensor, ...],
) -> list[Tensor]:
    """The features ``(B, F)`` at each of ``times``, ``(B,)`` each, of windows of ``length (B,)``."""
    posterior, size = model.posterior, model.posterior.memory_size
    in_turn = posterior.autoregressive or model.options.recurrent_size > 0
    inferred = model.infer_inputs(inputs, first, length, noise) if in_turn else None
    shows_memory = model.form == "belief" and size > 0
    summary = posterior.summary(inputs, length) if shows_memory or not in_turn else None
    rows, found = th.arange(len(length), device=length.device), []
    for time in times:
        at = rows, time
        if inferred is not None:
            gaussian, sample, recurrent = inferred.posterior.at(*at), inferred.sample[at], inferred.recurrent[at]
        else:  # what comes before plays no part, so that one time is enough
            assert summary is not None
            gaussian = posterior(summary[at], summary[at])
            sample = model.draw(gaussian, noise[at])
            recurrent = sample.new_zeros(len(sample), 0)
        # A GRU's memory is its summary; of two it is that of the past, which comes first.
        kept = summary[at][:, :size] if shows_memory and summary is not None else sample.new_zeros(len(sample), size)
        mean, std = (sample, th.zeros_like(sample)) if model.options.deterministic else gaussian
        found.append(model.features(LatentState(recurrent, sample, mean, std, kept)))
    return found
