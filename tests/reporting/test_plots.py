"""Properties of the plots: a readable PNG from whatever rows there are, and nothing global is touched."""

from __future__ import annotations

import math
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from jaxft.reporting.comparison_plots import plot_retention
from jaxft.reporting.confusion_plot import plot_confusion
from jaxft.reporting.plot_style import PALETTE, spread
from jaxft.reporting.plots import moving_average, plot_evaluations, plot_rates, plot_training, series, series_styles

pytestmark = pytest.mark.filterwarnings("error")

ROW_PLOTS = [plot_training, plot_evaluations, plot_rates]
ARMS = {
    "start": {"task": 0.5, "retained": 2.31},
    "one_way": {"task": 0.91, "retained": 3.92},
    "bidirectional": {"task": 0.9, "retained": 2.36},
}


def train_row(step, **values):
    return {"step": step, "kind": "train", "time": 0.0, **{name.replace("__", "."): v for name, v in values.items()}}


def evaluation_row(step, **values):
    return train_row(step, **values) | {"kind": "evaluation"}


def run_rows(steps):
    rows = [evaluation_row(0, reviews__accuracy=0.5, retained__loss=2.3)]
    for step in range(1, steps + 1):
        norms = {"task__gradient_norm": 1.0, "replay__gradient_norm": 0.5 + 1 / step, "gradient_norm": 1.2}
        rows.append(train_row(step, task__loss=1 / step, replay__loss=2.3, loss=2.4, learning_rate=5e-5, **norms))
    rows.append(evaluation_row(steps, reviews__accuracy=0.9, retained__loss=2.4))
    return rows


def colours_of(path):
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = matplotlib.image.imread(path)[:, :, :3]
    return set(np.unique((pixels * 255).round().astype(int) @ [1 << 16, 1 << 8, 1]).tolist())


def number(colour):
    return int(colour.removeprefix("#"), 16)


@pytest.mark.parametrize("plot", ROW_PLOTS)
@pytest.mark.parametrize("steps", [1, 5, 300])
def test_plots_of_rows_are_png_files_with_something_on_them(plot, steps, tmp_path):
    path = tmp_path / "plots" / "plot.png"
    assert plot(run_rows(steps), path) == path
    assert len(colours_of(path)) > 20


@pytest.mark.parametrize("plot", ROW_PLOTS)
@pytest.mark.parametrize("rows", [[], [train_row(1)], [train_row(1, tokens_per_second=3.0, task__loss=None)]])
def test_rows_without_anything_to_show_make_no_file(plot, rows, tmp_path):
    assert plot(rows, tmp_path / "plot.png") is None
    assert not (tmp_path / "plot.png").exists()


@pytest.mark.parametrize("plot", ROW_PLOTS)
def test_values_that_are_missing_or_not_finite_are_passed_over(plot, tmp_path):
    rows = run_rows(5)
    for name in ("task.loss", "gradient_norm", "learning_rate", "replay.gradient_norm"):
        rows[2][name] = None
    rows[3]["task.loss"] = math.nan
    rows.append(evaluation_row(6, reviews__accuracy=math.inf))
    assert plot(rows, tmp_path / "plot.png")


def test_a_single_point_is_visible_in_the_colour_of_its_stream(tmp_path):
    path = plot_training([train_row(10, task__loss=0.5)], tmp_path / "one.png")
    pixels = (matplotlib.image.imread(path)[:, :, :3] * 255).round().astype(int) @ [1 << 16, 1 << 8, 1]
    width = pixels.shape[1]
    point = pixels[:, width // 4 : width * 3 // 4]  # the label, of the same colour, is at the right
    assert (point == number(PALETTE[0])).sum() > 20


def test_a_stream_has_the_same_colour_whatever_else_the_rows_hold():
    short = series_styles([train_row(1, task__loss=1.0, replay__loss=1.0)])
    full = series_styles(run_rows(5))
    assert full["task"] == short["task"] and full["replay"] == short["replay"]
    assert len({style["color"] for style in full.values()}) == 4


def test_more_series_than_colours_still_look_different():
    names = [f"stream{index}" for index in range(15)]
    styles = series_styles([train_row(1, **{f"{name}__loss": 1.0 for name in names})])
    assert len({str(style) for style in styles.values()}) == 15


def test_a_single_stream_is_plotted_from_the_loss_of_the_whole(tmp_path):
    assert plot_training([train_row(1, loss=2.0), train_row(2, loss=1.0)], tmp_path / "plot.png")


def test_series_are_sorted_finite_and_of_one_kind():
    rows = [train_row(3, loss=1.0), train_row(1, loss=3.0), train_row(2, loss=math.nan), evaluation_row(9, loss=5.0)]
    steps, values = series(rows, "train", "loss")
    assert steps.tolist() == [1, 3] and values.tolist() == [3.0, 1.0]


def test_moving_average_keeps_constants_and_lags_behind_no_line():
    assert moving_average(np.full(50, 2.0), 3) == pytest.approx(2.0)
    line = np.arange(50.0)
    assert moving_average(line, 3)[3:-3] == pytest.approx(line[3:-3])


def test_labels_are_spread_without_overlap_in_order_and_not_farther_than_needed():
    random = np.random.default_rng(0)
    for _ in range(200):
        wanted = random.uniform(0, 100, random.integers(1, 9)).tolist()
        placed = spread(wanted, 10)
        assert np.diff(sorted(placed)) == pytest.approx(np.maximum(np.diff(sorted(placed)), 10), abs=1e-6)
        assert np.argsort(wanted).tolist() == np.argsort(placed).tolist()
        assert sum(placed) == pytest.approx(sum(wanted))
    assert spread([0, 50, 100], 10) == [0, 50, 100]


def test_retention_shows_every_arm_in_its_colour(tmp_path):
    path = plot_retention(ARMS, tmp_path / "retention.png", "reviews.accuracy", "retained.loss")
    assert {number(PALETTE[0]), number(PALETTE[1])} <= colours_of(path)


def test_retention_leaves_out_what_is_not_finite_and_needs_no_start(tmp_path):
    diverged = {"diverged": {"task": math.nan, "retained": 9.0}, "half": {"task": 0.5}}
    assert plot_retention(diverged, tmp_path / "none.png", "accuracy", "loss") is None
    path = plot_retention(ARMS | diverged, tmp_path / "three.png", "accuracy", "loss")
    assert number(PALETTE[2]) not in colours_of(path)
    arms = {name: arm for name, arm in ARMS.items() if name != "start"}
    assert plot_retention(arms, tmp_path / "no_start.png", "accuracy", "loss")
    assert plot_retention({"start": ARMS["start"], "same": ARMS["start"]}, tmp_path / "same.png", "accuracy", "loss")


def test_names_with_dollar_signs_underscores_and_great_length_are_shown_literally(tmp_path):
    arms = {"cost_$5_$6": ARMS["one_way"], "a^{" * 40 + "$": ARMS["start"]}
    assert plot_retention(arms, tmp_path / "odd.png", r"$\nonsense{$.accuracy", "loss")
    assert plot_confusion([[1, 2], [3, 4]], [r"$\frac{$", "$"], tmp_path / "odd_labels.png")


@pytest.mark.parametrize("size", [1, 2, 20, 61])
def test_confusion_matrices_of_any_size(size, tmp_path):
    matrix = np.eye(size, dtype=int) * 1200
    path = plot_confusion(matrix, [f"a rather long label {index}" for index in range(size)], tmp_path / "c.png")
    assert len(colours_of(path)) > 20
    assert max(matplotlib.image.imread(path).shape) < 2500


def test_confusion_without_examples_makes_no_file_and_an_unseen_label_divides_by_nothing(tmp_path):
    assert plot_confusion([[0, 0], [0, 0]], ["a", "b"], tmp_path / "c.png") is None
    assert plot_confusion(np.zeros((0, 0)), [], tmp_path / "c.png") is None
    assert plot_confusion([[3, 1], [0, 0]], ["a", "b"], tmp_path / "c.png")


def test_importing_and_plotting_leave_pyplot_and_the_settings_alone(tmp_path):
    script = f"""
import sys
import jaxft.reporting.plots, jaxft.reporting.comparison_plots, jaxft.reporting.html_report
import jaxft.reporting.progress, jaxft.reporting.writers
assert not {{"matplotlib", "rich", "jax", "tensorboardX"}} & sys.modules.keys(), "imported too early"
import matplotlib
before = dict(matplotlib.rcParams.copy())
arms = {ARMS!r}
jaxft.reporting.comparison_plots.plot_retention(arms, {str(tmp_path / "r.png")!r}, "accuracy", "loss")
assert "matplotlib.pyplot" not in sys.modules
assert dict(matplotlib.rcParams.copy()) == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env={"PYTHONPATH": ":".join(sys.path)})
