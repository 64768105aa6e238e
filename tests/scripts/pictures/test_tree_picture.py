from __future__ import annotations

from pathlib import Path

import pytest

from scripts.pictures.tree_picture import draw, tree_lines
from tests.controllers.search.small_tasks import plan, two_step_model


def test_a_picture_shows_actions_and_outcomes_once(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from controllers import MCTS, search_trees

    (tree,) = search_trees(plan(two_step_model(), MCTS(simulations=60, backup="best")))
    lines = tree_lines(tree, 2, 0.0, ("low", "high"), lambda obs: f"{len(obs)} bytes")
    assert len(lines) == 2 * (2 + 4)  # every action forks into its one outcome
    assert sorted(line.text for line in lines if not line.chance) == sorted(
        ["low 4.00", "high 6.00", "low 3.00", "high 4.00", "low 5.00", "high 6.00"]
    )
    assert sum(line.share for line in lines if line.start[0] == 0) == 1.0
    assert max((line for line in lines if not line.chance), key=lambda line: line.share).text == "high 6.00"
    assert len(tree_lines(tree, 1, 0.9, ("low", "high"), str)) <= 2
    draw(lines, "a tree", tmp_path / "tree.png")
    assert (tmp_path / "tree.png").stat().st_size > 5000
