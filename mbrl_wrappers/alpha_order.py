"""One gradient from two estimators: the likelihood ratio keeps the pathwise one from leading astray."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mbrl_wrappers.checks import within


class AlphaOrder(NamedTuple):
    """Both estimates as one.

    Attributes:
        gradient: ``(P,)``.
        alpha: share of the pathwise gradient, in [0, 1].
        radius: how far the likelihood-ratio mean may be from the true gradient, at the confidence asked for.
        gap: distance between the two means.
    """

    gradient: Tensor
    alpha: float
    radius: float
    gap: float


def alpha_order(likelihood_ratio: Tensor, pathwise: Tensor, *, confidence: float = 0.95) -> AlphaOrder:
    r"""Combine the two estimators so that a wrong pathwise one cannot lead far astray.

    .. math:: g = \alpha\, \bar g_{PW} + (1 - \alpha)\, \bar g_{LR}, \quad
              \alpha = \min\Big(\frac{v_{LR}}{v_{LR} + v_{PW}},\ \frac{\varepsilon}{\|\bar g_{PW} - \bar g_{LR}\|}\Big)

    The first entry has the least variance, where :math:`v` are the variances of the means (their traces). Alone it is
    fooled by a pathwise gradient that is wrong and does not vary: that of a step function is zero everywhere. The
    second keeps :math:`g` within :math:`\varepsilon` of the likelihood-ratio mean, which is unbiased and, with
    probability ``confidence``, within :math:`\varepsilon = \sqrt{v_{LR} / (1 - confidence)}` of the true gradient
    (Chebyshev, in any number of dimensions). So :math:`\|g - \nabla J\| \le 2 \varepsilon`, and
    :math:`\varepsilon` falls with the number of samples. It is the alpha-order batched gradient of Suh et al. 2022, "Do
    differentiable simulators give better policy gradients?", section 5, with accuracy
    :math:`\gamma = 2 \varepsilon`, so that nothing depends on the unit of reward.

    Args:
        likelihood_ratio: ``(N, P)`` independent unbiased gradients, ``N >= 2``.
        pathwise: ``(M, P)`` independent pathwise ones, ``M >= 2``. Where their mean is not finite, alpha is 0.
        confidence: of the bound, in [0, 1).

    Raises:
        ValueError: for shapes that do not fit, too few gradients, or a confidence out of range.
    """
    if likelihood_ratio.ndim != 2 or pathwise.shape[1:] != likelihood_ratio.shape[1:]:
        raise ValueError(
            f"Both must have shape (N, P) with one P, got {tuple(likelihood_ratio.shape)} and {tuple(pathwise.shape)}."
        )
    if min(len(likelihood_ratio), len(pathwise)) < 2:
        raise ValueError("A variance needs at least two gradients of each estimator: use more groups.")
    if within("confidence", confidence, 0, 1) == 1:
        raise ValueError("confidence must be below 1: nothing is certain after finitely many samples.")
    means = likelihood_ratio.mean(0), pathwise.mean(0)
    variances = [float(found.var(0).sum()) / len(found) for found in (likelihood_ratio, pathwise)]
    radius = (variances[0] / (1 - confidence)) ** 0.5
    gap = float((means[1] - means[0]).norm())
    if not bool(means[1].isfinite().all()):
        return AlphaOrder(means[0], 0.0, radius, gap)
    total = sum(variances)
    least = variances[0] / total if total > 0 else 0.0
    alpha = least if least * gap <= radius else radius / gap
    return AlphaOrder(alpha * means[1] + (1 - alpha) * means[0], alpha, radius, gap)
