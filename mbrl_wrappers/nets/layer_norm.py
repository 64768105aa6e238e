"""Layer normalisation of feature-major batches."""

from __future__ import annotations

import torch as th
from torch import Tensor

EPSILON = 1e-5


def normalize_features(x: Tensor, features: int) -> Tensor:
    r"""``x`` with mean 0 and variance 1 over the axis ``features`` (Ba et al. 2016, "Layer normalization", equation 3).

    .. math:: \frac{x - \bar x}{\sqrt{\mathrm{Var}(x) + \varepsilon}}
    """
    variance, mean = th.var_mean(x, features, correction=0, keepdim=True)
    return (x - mean) * (variance + EPSILON).rsqrt()


def normalize_features_(x: Tensor, features: int) -> None:
    """The same in place, without a graph."""
    variance, mean = th.var_mean(x, features, correction=0, keepdim=True)
    x.sub_(mean).mul_(variance.add_(EPSILON).rsqrt_())
