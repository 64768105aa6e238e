"""How much the members of an ensemble disagree about one step, from their Gaussian predictions."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch as th
from torch import Tensor

RESOLUTION = 1e-6
"""Width to which an observation is told apart, where entropies are counted from (standardised units)."""


class MemberGaussians(NamedTuple):
    """What each member predicts of one step: ``mean (E, B, D)`` and ``variance (E, B, D)``, diagonal."""

    mean: Tensor
    variance: Tensor


@runtime_checkable
class GaussianMembers(Protocol):
    """A model whose members can be asked one by one."""

    def member_gaussians(self, obs: Tensor, action: Tensor) -> MemberGaussians:
        """The prediction of every member in use for ``obs (B, O)`` and model actions ``(B, A)``.

        Units are standardised; dimensions that never change are left out, and so is a reward that is known.
        """
        ...


def bhattacharyya(members: MemberGaussians) -> Tensor:
    r"""Mean Bhattacharyya distance over all pairs of members, ``(B,)``.

    .. math:: \frac{2}{E(E-1)} \sum_{i<j} \sum_d \Big[\frac{(\mu_{id} - \mu_{jd})^2}{4 (v_{id} + v_{jd})}
              + \frac12 \ln \frac{v_{id} + v_{jd}}{2 \sqrt{v_{id} v_{jd}}}\Big]

    For diagonal Gaussians this is the geometric Jensen-Shannon divergence with skew 1/2 that gates the branches of
    MACURA (Frauenknecht et al. 2024, "Trust the model where it trusts itself", section 4). It is 0 where all members
    agree, and the same in any units. A single member agrees with itself.
    """
    mean, variance = members
    first, second = th.triu_indices(len(mean), len(mean), offset=1)
    if not len(first):
        return mean.new_zeros(mean.shape[1])
    total = variance[first] + variance[second]
    apart = (mean[first] - mean[second]).square() / (4 * total)
    spread = 0.5 * (total / 2).log() - 0.25 * (variance[first].log() + variance[second].log())
    return (apart + spread).sum(-1).mean(0)


def mixture_std(members: MemberGaussians) -> Tensor:
    r"""Standard deviation of the mixture of all members, mean over dimensions, ``(B,)``.

    .. math:: \frac1D \sum_d \sqrt{\frac1E \sum_e \big(v_{ed} + (\mu_{ed} - \bar\mu_d)^2\big)}

    It holds both the noise that the members predict and their disagreement, in standardised units.
    """
    mean, variance = members
    if not mean.shape[-1]:
        return mean.new_zeros(mean.shape[1])
    return (variance + (mean - mean.mean(0)).square()).mean(0).sqrt().mean(-1)


class Fused(NamedTuple):
    """The members as one estimate and its error: all ``(B, D)``.

    Attributes:
        mean: of the noise that the members agree on, the precision-weighted mean.
        variance: of that noise, the harmonic mean of the members' variances.
        gain: share of the spread that is noise and no error of the model, in (0, 1].
    """

    mean: Tensor
    variance: Tensor
    gain: Tensor


def fuse(members: MemberGaussians) -> Fused:
    r"""Split the members' spread into noise and model error (Infoprop, Frauenknecht et al. 2025, section 4).

    .. math:: v_f = \Big(\frac1E \sum_e \frac{1}{v_e}\Big)^{-1}, \quad
              \mu_f = v_f\,\frac1E \sum_e \frac{\mu_e}{v_e}, \quad
              K = \frac{v_f}{v_f + \frac1E \sum_e (\mu_e - \mu_f)^2}
    """
    mean, variance = members
    precision = 1 / variance
    fused_variance = 1 / precision.mean(0)
    fused_mean = fused_variance * (mean * precision).mean(0)
    error = (mean - fused_mean).square().mean(0)
    return Fused(fused_mean, fused_variance, fused_variance / (fused_variance + error))


def information_loss(fused: Fused, resolution: float = RESOLUTION) -> Tensor:
    r"""Bits that one step of a rollout loses, per dimension ``(B, D)`` (Infoprop, section 4).

    .. math:: \max\big(0,\ \tfrac12 \log_2(2 \pi e\,(1 - K)\,v_f) - \log_2 \delta\big)

    It is the entropy of the next state given what a member says of it, counted from the resolution :math:`\delta`.
    Members that agree exactly lose nothing.
    """
    lost = (1 - fused.gain) * fused.variance
    bits = 0.5 * (2 * math.pi * math.e * lost).log2() - math.log2(resolution)
    return bits.clamp(min=0)
