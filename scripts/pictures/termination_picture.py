"""How well a learned termination is predicted: precision and recall at every threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th
from torch import Tensor

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.optional import require
from scripts.pictures.learning_curves import COLOURS
from scripts.pictures.open_loop import Episode

require("matplotlib", extra="plots").use("Agg")
plt: Any = require("matplotlib.pyplot", extra="plots")


@dataclass(frozen=True)
class TerminationScores:
    """Precision and recall of the elites' predictions for real steps.

    Attributes:
        threshold: ``(n,)`` probabilities, rising.
        precision: ``(n,)`` share of the steps predicted to terminate that do; NaN where none is predicted.
        recall: ``(n,)`` share of the steps that terminate which are predicted; NaN where none terminates.
        base_rate: share of the steps that terminate.
        events: how many do.
        model_threshold: the probability above which the model predicts a termination.
    """

    threshold: Tensor
    precision: Tensor
    recall: Tensor
    base_rate: float
    events: int
    model_threshold: float


@th.no_grad()
def termination_scores(model: EnsembleDynamics, episodes: Sequence[Episode]) -> TerminationScores:
    """Score a model with a learned termination on real episodes, every elite on every step."""
    obs = th.cat([episode.obs[:-1] for episode in episodes])
    true = th.cat([(th.arange(len(e.reward)) == len(e.reward) - 1) & e.terminated for e in episodes])
    inputs = model.inputs(model.as_weights(obs), model.as_weights(th.cat([episode.action for episode in episodes])))
    logit = model.elite_outputs(inputs).logit
    assert logit is not None, "the termination is learned"
    probability = logit.sigmoid().cpu()
    threshold = th.linspace(0, 1, 201)[:-1]
    fired = probability[:, :, None] > threshold  # (M, B, n)
    hits = (fired & true[:, None]).sum((0, 1)).double()
    return TerminationScores(
        threshold,
        hits / fired.sum((0, 1)),
        hits / (len(probability) * int(true.sum())),
        float(true.double().mean()),
        int(true.sum()),
        float(model.termination_threshold.sigmoid()),
    )


def plot_termination(scores: TerminationScores, path: Path, title: str) -> None:
    """Precision and recall against the threshold, with the base rate and the threshold that the model uses.

    Args:
        scores: what to draw.
        path: PNG file to write.
        title: above the picture.
    """
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot(scores.threshold, scores.precision, color=COLOURS[0], label="precision")
    axes.plot(scores.threshold, scores.recall, color=COLOURS[1], label="recall")
    axes.axhline(scores.base_rate, color="0.5", ls=":", label=f"base rate {scores.base_rate:.2%}")
    axes.axvline(scores.model_threshold, color="0.2", ls="--", lw=1, label="threshold of the model")
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="threshold on the predicted probability", ylabel="share")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(f"{title}\nlearned termination, {scores.events} of the real steps terminate", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=140)
    plt.close(figure)
