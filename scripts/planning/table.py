"""Runs of plan.py as rows of a markdown table: what each planner reached, at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.runs.interval import stratified_bootstrap

HEADS = (
    "task",
    "planner",
    "model",
    "horizon",
    "execute",
    "seeds × episodes",
    "IQM of returns [95 % interval]",
    "mean ± std",
    "steps",
    "sequences per plan",
    "ms per plan",
)


def acted_on_plans(summary: dict[str, Any]) -> bool:
    """Whether a summary is of ``plan.py``: it records episodes, where one of ``train_planner.py`` records trials."""
    return bool(summary.get("planning", {}).get("episodes"))


def plans_table(summaries: Sequence[dict[str, Any]]) -> str:
    """The table of ``summaries``, one row each, in their order."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}", *(row(summary) for summary in summaries)]
    return "\n".join(lines)


def row(summary: dict[str, Any]) -> str:
    """One run as a line of the table."""
    planning, settings = summary["planning"], summary["hyperparameters"]
    episodes = planning["episodes"]
    returns = np.array([episode["total"] for episode in episodes])
    value, low, high = stratified_bootstrap(returns)
    plans, horizon = sum(episode["plans"] for episode in episodes), int(settings.get("horizon", 25))
    particles = int(settings.get("particles", 1))
    seeds = len(planning["seeds"])
    lengths = sorted({episode["length"] for episode in episodes})
    cells = [
        summary["task"],
        summary["arm"],
        planning["model"],
        f"{horizon}",
        f"{int(settings.get('execute', 1))}",
        f"{seeds} × {len(episodes) // seeds}",
        f"**{value:,.1f}** [{low:,.1f}, {high:,.1f}]",
        f"{returns.mean():,.1f} ± {returns.std():,.1f}",
        f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}",
        f"{planning['model_calls'] / (plans * horizon * particles):,.0f}",
        f"{planning['plan_milliseconds']['median']:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"
