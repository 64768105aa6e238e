"""Noise for action sequences: white, coloured along time, or smooth through knots."""

from __future__ import annotations

import math

import numpy as np
import torch as th
from scipy.interpolate import CubicSpline
from torch import Generator, Tensor


def coloured_noise(shape: tuple[int, ...], exponent: float, *, generator: Generator) -> Tensor:
    r"""Unit-variance Gaussian noise with power spectrum :math:`f^{-\beta}` along the next-to-last dimension.

    Independent Gaussian Fourier coefficients are scaled by :math:`f^{-\beta/2}` and transformed back (Timmer and König
    1995), as iCEM draws its action sequences (Pinneri et al. 2020, section 3.1). The constant component gets the scale
    of the lowest frequency. The result is divided by its exact deviation, so that every entry has variance one.

    Args:
        shape: ``(..., H, A)``; the sequences along ``H`` are independent of each other.
        exponent: :math:`\beta \ge 0`; 0 is white, 2 is Brownian.
        generator: source of the draws; its device is the result's.
    """
    length = shape[-2]
    if exponent == 0 or length == 1:
        return th.randn(shape, generator=generator, device=generator.device)
    frequency = th.fft.rfftfreq(length, device=generator.device)
    frequency[0] = frequency[1]
    scale = frequency.pow(-exponent / 2)
    drawn = th.randn(2, *shape[:-2], shape[-1], len(scale), generator=generator, device=generator.device) * scale
    real, imaginary = drawn[0], drawn[1]
    # The constant and, for even lengths, the highest component are real: they carry the power of both parts.
    single = [0, -1] if length % 2 == 0 else [0]
    real[..., single] *= math.sqrt(2)
    imaginary[..., single] = 0
    power = 4 * scale.square().sum() - 2 * scale[single].square().sum()
    noise = th.fft.irfft(th.complex(real, imaginary), n=length, dim=-1) * (length / power.sqrt())
    sequences: Tensor = noise.transpose(-1, -2)
    return sequences


def knot_matrix(length: int, knots: int) -> Tensor:
    """``(H, knots)``: the cubic spline through values at evenly spaced knots, which is linear in these values.

    Two knots give a line, one a constant.
    """
    if knots == 1:
        return th.ones(length, 1)
    places = np.linspace(0, 1, knots)
    basis = np.eye(knots)
    times = np.linspace(0, 1, length)
    if knots == 2:
        values = np.stack([1 - times, times], 1)
    else:
        values = CubicSpline(places, basis, axis=0, bc_type="natural" if knots < 4 else "not-a-knot")(times)
    return th.as_tensor(values, dtype=th.float32)
