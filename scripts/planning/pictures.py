"""A picture of one plan: the candidates of its last iteration coloured by score, the elites, their mean, the plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Tensor

from controllers import MPCPolicy
from mbrl_wrappers.optional import require
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.types import SequenceModel
from scripts.pictures.model_pictures import panel_grid

require("matplotlib", extra="plots").use("Agg")
plt: Any = require("matplotlib.pyplot", extra="plots")

MAX_PANELS = 12
MAX_CANDIDATES = 200
ELITE_SHARE = 0.1
BAR_INCHES = 1.0


@th.no_grad()
def predicted_observations(policy: MPCPolicy[Any], actions: Tensor) -> NDArray[Any]:
    """Where action sequences ``(P, H, A)`` lead in the policy's model from where it last planned, ``(P, H + 1, O)``.

    NaN from the first predicted termination on. A model bound to a live environment must still be at that state.
    """
    problem = policy.last_problem
    assert problem is not None, "there is a plan"
    generator = torch_generator(0, problem.device)
    start = problem.start if isinstance(problem.start, Tensor) else problem.start.obs
    start = start[:1]
    count, horizon = actions.shape[:2]
    state = problem.model.reset(start.repeat(count, 1), generator=generator)
    if isinstance(problem.model, SequenceModel):
        whole = problem.model.rollout(state, actions, generator=generator)
        steps, ended = list(whole.next_obs.unbind(1)), list(whole.terminated.unbind(1))
    else:
        steps, ended = [], []
        for t in range(horizon):
            state, prediction = problem.model.step(state, actions[:, t], generator=generator)
            steps.append(prediction.next_obs)
            ended.append(prediction.terminated)
    over = th.stack([th.zeros_like(ended[0]), th.zeros_like(ended[0]), *ended[:-1]], 1).cummax(1).values
    path = th.stack([start.expand(count, -1).to(steps[0]), *steps], 1)
    return th.where(over[:, :, None], th.nan, path).cpu().numpy()


def plot_candidates(policy: MPCPolicy[Any], names: Sequence[str], path: Path, title: str) -> None:
    """Draw the latest plan of ``policy``: predicted observations over the horizon, and the actions.

    Dark lines are poor, bright ones good; elites are thicker, their mean is red, the plan black. A planner without
    elites gets the best tenth in their place.

    Args:
        policy: right after planning, before the environment is stepped.
        names: of the observation dimensions.
        path: PNG file to write; its folder is made.
        title: above the picture.
    """
    plan = policy.last_plan
    assert plan is not None, "there is a plan"
    scores = plan.scores[0]
    order = scores.nan_to_num(nan=-th.inf).argsort(descending=True)
    num_elites = _num_elites(policy.planner, len(order))
    elites = plan.candidates[0][order[:num_elites]]
    ranks = drawn_ranks(len(order), num_elites)
    drawn = order[ranks]
    candidates, drawn_scores = plan.candidates[0][drawn], scores[drawn].cpu().numpy()
    sequences = th.cat([candidates, elites.mean(0, keepdim=True), plan.actions[:1]])
    observations, actions = predicted_observations(policy, sequences), sequences.cpu().numpy()
    num_actions = min(actions.shape[2], MAX_PANELS // 3)
    shown = _liveliest(observations[:-2], MAX_PANELS - num_actions)
    figure, panels = panel_grid(len(shown) + num_actions)
    finite = drawn_scores[np.isfinite(drawn_scores)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    colours = plt.get_cmap("viridis")((np.nan_to_num(drawn_scores, neginf=low) - low) / max(high - low, 1e-12))
    for index, axes in enumerate(panels):
        if index < len(shown):
            lines, label = observations[:, :, shown[index]], names[shown[index]]
        else:
            lines, label = actions[:, :, index - len(shown)], f"model action {index - len(shown)}"
        steps = np.arange(lines.shape[1])
        for rank, line, colour in zip(ranks, lines[:-2], colours, strict=True):
            elite = rank < num_elites
            axes.plot(steps, line, color=colour, lw=1.2 if elite else 0.5, alpha=0.9 if elite else 0.5)
        axes.plot(steps, lines[-2], color="#D55E00", lw=2.0, label="mean of elites")
        axes.plot(steps, lines[-1], color="black", lw=1.6, ls="--", label="plan")
        axes.set_title(label, fontsize=9)
    panels[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("steps ahead, in the model", fontsize=9)
    figure.suptitle(f"{title}: {len(drawn)} of {len(order)} candidates by score", fontsize=10)
    scale = plt.cm.ScalarMappable(plt.Normalize(low, high), "viridis")
    bar = 1 - BAR_INCHES / figure.get_figwidth()  # numbers take as much room beside few panels as beside many
    figure.tight_layout(rect=(0, 0, bar, 1))
    axes = figure.add_axes((bar + 0.005, 0.2, 0.15 / figure.get_figwidth(), 0.6))
    figure.colorbar(scale, cax=axes).set_label("score", fontsize=9)
    axes.tick_params(labelsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _num_elites(planner: object, candidates: int) -> int:
    """How many candidates the planner goes by, else a tenth of them."""
    count = getattr(planner, "num_elites", None) or round(ELITE_SHARE * candidates)
    return int(min(max(1, count), candidates))


def drawn_ranks(candidates: int, elites: int) -> NDArray[np.int64]:
    """The ranks that are drawn, poorest first: all elites, and an even sample of the others where they are many."""
    room = max(MAX_CANDIDATES - elites, 0)
    others = np.linspace(elites, candidates - 1, min(room, candidates - elites))
    return np.concatenate([np.arange(elites), others.round().astype(np.int64)])[::-1].copy()


def _liveliest(observations: NDArray[Any], count: int) -> list[int]:
    """The dimensions of ``(P, T, O)`` that candidates differ most in, relative to how much they move, in order."""
    known = np.ma.masked_invalid(observations)
    moved = np.ma.filled(known.std((0, 1)), 0.0)
    differ = np.ma.filled(known.std(0), 0.0).max(0) / np.where(moved > 0, moved, 1)
    return sorted(np.argsort(-differ, kind="stable")[:count].tolist())
