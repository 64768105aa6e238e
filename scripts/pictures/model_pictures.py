"""Pictures of a learned model beside the real environment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mbrl_wrappers.optional import require
from scripts.pictures.learning_curves import COLOURS
from scripts.pictures.open_loop import Comparison, HorizonErrors

require("matplotlib", extra="plots").use("Agg")
plt: Any = require("matplotlib.pyplot", extra="plots")

MAX_PANELS = 24
MAX_ERROR = 4.0  # standard deviations; larger errors are cut off, since they would flatten the rest of the picture


def panel_grid(panels: int, width: float = 3.1, height: float = 2.3) -> tuple[Any, list[Any]]:
    """A figure and its ``panels``, which share the horizontal axis."""
    columns = min(4, math.ceil(1.3 * math.sqrt(panels)))
    rows = -(-panels // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, sharex=True)
    flat = list(axes.flat)
    for spare in flat[panels:]:
        spare.set_visible(False)
    for index, panel in enumerate(flat[:panels]):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
        panel.ticklabel_format(axis="y", useOffset=False)
        panel.tick_params(labelsize=8, labelbottom=index + columns >= panels)
    return figure, flat[:panels]


def _quantile_band(axes: Any, errors: Tensor, colour: str, label: str) -> None:
    """Median and central 80 % of ``errors (H, starts)``."""
    steps = np.arange(1, len(errors) + 1)
    low, median, high = np.quantile(errors.numpy(), [0.1, 0.5, 0.9], axis=1)
    axes.plot(steps, median, color=colour, lw=1.6, label=label)
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)


def plot_horizon_errors(errors: HorizonErrors, names: Sequence[str], path: Path, title: str) -> None:
    """Error against horizon, all dimensions together and one by one, with "nothing changes" as baseline.

    Args:
        errors: in standard deviations.
        names: of the observation dimensions.
        path: PNG file to write.
        title: above the picture.
    """
    shown = min(len(names), MAX_PANELS - 1)
    figure, panels = panel_grid(shown + 1)
    _quantile_band(panels[0], errors.persistence.flatten(1), "0.5", "nothing changes")
    _quantile_band(panels[0], errors.model.flatten(1), COLOURS[0], "model")
    panels[0].set_title("all dimensions", fontsize=9)
    panels[0].legend(frameon=False, fontsize=8)
    for index, axes in enumerate(panels[1:]):
        _quantile_band(axes, errors.persistence[:, :, index], "0.5", "nothing changes")
        _quantile_band(axes, errors.model[:, :, index], COLOURS[0], "model")
        axes.set_title(names[index], fontsize=9)
    for axes in panels:
        axes.set_ylim(0, min(axes.get_ylim()[1], MAX_ERROR))
    figure.supxlabel("steps ahead, without seeing the real observation", fontsize=9)
    figure.supylabel("absolute error / standard deviation", fontsize=9)
    count = errors.model.shape[1]
    figure.suptitle(f"{title}: median and central 80 % of {count} start{'s' * (count != 1)}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=140)
    plt.close(figure)


def plot_comparison(comparison: Comparison, names: Sequence[str], path: Path, title: str) -> None:
    """Real (black) and imagined (coloured) trajectories per observation dimension, and the reward last.

    The vertical range is the real trajectory's with room around it, so that one stray member hides nothing.

    Args:
        comparison: what to draw.
        names: of the observation dimensions.
        path: PNG file to write.
        title: above the picture.
    """
    shown = min(len(names), MAX_PANELS - 1)
    figure, panels = panel_grid(shown + 1)
    steps = np.arange(len(comparison.real_obs))
    for index, axes in enumerate(panels):
        if index < shown:
            real, imagined, x = comparison.real_obs[:, index], comparison.obs[:, :, index], steps
        else:
            real, imagined, x = comparison.real_reward, comparison.reward, steps[1:]
        for member, values in enumerate(imagined):
            axes.plot(x, values, color=COLOURS[member % len(COLOURS)], lw=1.0, alpha=0.9)
        axes.plot(x, real, color="black", lw=1.8)
        low, high = float(real.min()), float(real.max())
        room = 0.5 * max(high - low, 0.2 * max(abs(low), abs(high)), 1e-3)
        axes.set_ylim(low - room, high + room)
        axes.set_title(names[index] if index < shown else "reward", fontsize=9)
    figure.supxlabel("steps since the model last saw the real observation", fontsize=9)
    figure.suptitle(f"{title}: real in black, one colour per ensemble member (same actions)", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=140)
    plt.close(figure)
