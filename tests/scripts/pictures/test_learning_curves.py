"""Learning curves, and published marks beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.pictures import learning_curves
from scripts.pictures.learning_curves import COLOURS, LINES, aggregate_curve, draw_task, plot_returns, plt, read_marks
from scripts.runs.reading import find_runs, group_runs
from tests.scripts.runs_on_disk import write_run


def test_curve_ends_where_the_shortest_run_ends(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [[0.0], [10.0], [20.0]], seed=0)
    write_run(tmp_path / "b", [[4.0], [6.0]], seed=1, steps=[150, 250])
    steps, (value, low, high) = aggregate_curve(find_runs([tmp_path]))
    np.testing.assert_array_equal(steps, [150, 200, 250])
    np.testing.assert_allclose(value, [4.5, 7.5, 10.5])
    np.testing.assert_allclose(low, [4.0, 5.0, 6.0])
    np.testing.assert_allclose(high, [5.0, 10.0, 15.0])


def test_marks(tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    path.write_text("# where from\ntask,label,step,value,error\nHopper-v5,paper,100,5,1.5\nHopper-v5,other,200,6,\n")
    marks = read_marks(path)
    assert [(mark.label, mark.step, mark.value, mark.error) for mark in marks] == [
        ("paper", 100.0, 5.0, 1.5),
        ("other", 200.0, 6.0, 0.0),
    ]
    path.write_text("task,step\nHopper-v5,1\n")
    with pytest.raises(ValueError, match="needs the columns"):
        read_marks(path)


def test_shipped_marks_can_be_read() -> None:
    marks = read_marks(Path(learning_curves.__file__).parents[1] / "marks" / "gym_v4.csv")
    assert {mark.task for mark in marks} == {"Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5"}
    assert [mark.value for mark in marks if mark.task == "Hopper-v5" and mark.step == 125_000] == [3331.0, 2792.0]


def test_picture_is_written(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", [[seed], [2.0]], seed=seed)
    write_run(tmp_path / "b", [[1.0], [1.0]], task="Ant-v5")
    plot_returns(group_runs(find_runs([tmp_path])), tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_equal_curves_do_not_hide_each_other(tmp_path: Path) -> None:
    """As many arms as there are colours, all with the same returns: each is seen in its colour."""
    arms = [f"arm{index}" for index in range(len(COLOURS))]
    for arm in arms:
        write_run(tmp_path / arm, [[1.0], [2.0], [3.0]], arm=arm)
    figure, axes = plt.subplots(dpi=200)
    draw_task(axes, "Hopper-v5", group_runs(find_runs([tmp_path]))["Hopper-v5"])
    axes.get_legend().remove()  # which shows every colour, whatever the curves do
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].reshape(-1, 3).astype(int)
    plt.close(figure)
    for colour in COLOURS:
        wanted = [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(1) <= 8).sum() > 50, colour
    assert len(LINES) == len(COLOURS)
