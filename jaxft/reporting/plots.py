"""Pictures of a run, drawn from the rows of its metrics file, and of what several runs gained and kept."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxft.reporting.plot_style import (
    INK,
    MUTED,
    NEUTRAL,
    PALETTE,
    choose_scale,
    label_ends,
    line_style,
    new_figure,
    plain,
    save_png,
    spread,
    style_axes,
    style_steps,
)
from jaxft.reporting.tables import format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
PathLike = str | os.PathLike[str]

_FEW_POINTS = 40
_START = "start"
_LOWER_IS_BETTER = ("loss", "perplexity", "error")


def series(rows: Rows, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one metric, in the order of the steps.

    Args:
      rows: rows of a metrics file.
      kind: `train` or `evaluation`.
      name: the metric, such as `task.loss`.
    """
    points = [(row["step"], row[name]) for row in rows if row["kind"] == kind and row.get(name) is not None]
    points = sorted((step, value) for step, value in points if math.isfinite(value))
    return np.array([step for step, _ in points]), np.array([value for _, value in points], dtype=float)


def metric_names(rows: Rows, kind: str) -> list[str]:
    """Names of all metrics that have at least one finite value in rows of `kind`, in the order they appear."""
    names = dict.fromkeys(name for row in rows if row["kind"] == kind for name in row)
    return [name for name in names if name not in ("step", "kind", "time") and series(rows, kind, name)[0].size]


def series_styles(rows: Rows) -> dict[str, dict[str, object]]:
    """One colour for each stream and each evaluation, the same in all plots of a run."""
    streams = [_owner(name) for name in metric_names(rows, "train") if "." in name]
    evaluations = [_owner(name) for name in metric_names(rows, "evaluation")]
    return {name: line_style(index) for index, name in enumerate(dict.fromkeys(streams + evaluations))}


def _owner(metric: str) -> str:
    return metric.rpartition(".")[0] or metric


def plot_training(rows: Rows, path: PathLike) -> Path | None:
    """Loss of each stream over the steps, with the losses of the evaluations as markers.

    Args:
      rows: rows of a metrics file.
      path: the PNG file to write.

    Returns:
      The path, or None where no row holds a loss.
    """
    losses = [("train", name) for name in _loss_names(rows, "train")]
    losses += [("evaluation", name) for name in _loss_names(rows, "evaluation")]
    if not losses:
        return None
    styles = series_styles(rows)
    figure = new_figure(8.4, 4.4)
    axes = figure.subplots()
    ends, drawn = [], []
    for kind, name in losses:
        steps, values = series(rows, kind, name)
        style = styles.get(_owner(name), {"color": INK})
        draw = _draw_noisy if kind == "train" else _draw_markers
        shown = draw(axes, steps, values, style)
        ends.append((name, shown[-1], style["color"]))
        drawn += shown.tolist()
    style_axes(axes, "Loss", "step")
    style_steps(axes)
    choose_scale(axes, drawn)
    label_ends(axes, ends)
    return save_png(figure, path)


def _loss_names(rows: Rows, kind: str) -> list[str]:
    """The losses of streams or evaluations, or the loss of the whole where there is no other."""
    names = metric_names(rows, kind)
    return [name for name in names if name.endswith(".loss")] or [name for name in names if name == "loss"]


def _draw_noisy(axes: Axes, steps: np.ndarray, values: np.ndarray, style: Mapping[str, Any]) -> np.ndarray:
    """Draws a curve; a long one faintly, with its moving average on top. Returns the values that stand out."""
    if len(values) <= _FEW_POINTS:
        axes.plot(steps, values, **style, linewidth=1.8, marker="o", markersize=4)
        return values
    smooth = moving_average(values, half_width=max(len(values) // 50, 2))
    axes.plot(steps, values, color=style["color"], linewidth=0.9, alpha=0.28)
    axes.plot(steps, smooth, **style, linewidth=2)
    return smooth


def _draw_markers(axes: Axes, steps: np.ndarray, values: np.ndarray, style: Mapping[str, Any]) -> np.ndarray:
    axes.plot(steps, values, color=style["color"], linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.6)
    axes.plot(steps, values, "D", color=style["color"], markersize=6, markeredgecolor="white", zorder=5)
    return values


def moving_average(values: np.ndarray, half_width: int) -> np.ndarray:
    """Mean over a centred window of up to `2 * half_width + 1` values, cut off at both ends; it lags behind nothing."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    positions = np.arange(len(values))
    first = np.maximum(positions - half_width, 0)
    past = np.minimum(positions + half_width + 1, len(values))
    return (sums[past] - sums[first]) / (past - first)


def plot_evaluations(rows: Rows, path: PathLike) -> Path | None:
    """Every metric of every evaluation over the steps, one small panel a metric.

    The dotted line in a panel is where the metric started; the number is where it ended.

    Args:
      rows: rows of a metrics file.
      path: the PNG file to write.

    Returns:
      The path, or None where no row is of an evaluation.
    """
    names = metric_names(rows, "evaluation")
    if not names:
        return None
    styles = series_styles(rows)
    columns = min(len(names), 3)
    height = -(-len(names) // columns)
    figure = new_figure(max(2.9 * columns, 4.2), 2.5 * height + 0.2)
    panels = list(figure.subplots(height, columns, squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        _draw_evaluation(axes, name, *series(rows, "evaluation", name), styles[_owner(name)])
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return save_png(figure, path)


def _draw_evaluation(axes: Axes, name: str, steps: np.ndarray, values: np.ndarray, style: Mapping[str, Any]) -> None:
    if len(values) > 1:
        axes.axhline(values[0], color=NEUTRAL, linewidth=1, linestyle=(0, (1, 2)))
    axes.plot(steps, values, **style, linewidth=1.8, marker="o" if len(values) <= _FEW_POINTS else None, markersize=4)
    axes.plot(steps[-1], values[-1], "o", color=style["color"], markersize=6)
    style_axes(axes, "", "step")
    axes.set_title(plain(name, limit=30), loc="left", fontsize=9.5, fontweight="bold", color=INK, pad=8)
    axes.set_title(format_value(values[-1]), loc="right", fontsize=9.5, color=style["color"], pad=8)
    style_steps(axes)
    axes.margins(x=0.06, y=0.15)


def plot_rates(rows: Rows, path: PathLike) -> Path | None:
    """The learning rate and, below it, the gradient norm of each stream and of the whole.

    Args:
      rows: rows of a metrics file.
      path: the PNG file to write.

    Returns:
      The path, or None where no training row holds either.
    """
    names = metric_names(rows, "train")
    norms = [name for name in names if name.endswith(".gradient_norm")]
    if "gradient_norm" in names and len(norms) != 1:  # the norm of a single stream is the norm of the whole
        norms.insert(0, "gradient_norm")
    has_rate = "learning_rate" in names
    if not has_rate and not norms:
        return None
    panels = has_rate + bool(norms)
    figure = new_figure(8.4, 1.0 + 2.2 * panels)
    column = list(figure.subplots(panels, 1, squeeze=False, sharex=True).flat)
    if has_rate:
        _draw_learning_rate(column[0], rows)
    if norms:
        _draw_gradient_norms(column[-1], rows, norms)
    column[-1].set_xlabel("step", fontsize=9, color=MUTED)
    return save_png(figure, path)


def _draw_learning_rate(axes: Axes, rows: Rows) -> None:
    from matplotlib.ticker import FuncFormatter

    steps, rates = series(rows, "train", "learning_rate")
    marker = "o" if len(steps) <= _FEW_POINTS else None
    axes.plot(steps, rates, color=INK, linewidth=1.8, marker=marker, markersize=4, clip_on=False)
    style_axes(axes, "Learning rate")
    style_steps(axes)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: format_value(rate) if rate < 1e-3 else f"{rate:g}"))


def _draw_gradient_norms(axes: Axes, rows: Rows, names: Sequence[str]) -> None:
    styles = series_styles(rows)
    ends, drawn = [], []
    for name in names:
        steps, values = series(rows, "train", name)
        style = styles.get(_owner(name), {}) if "." in name else {"color": INK, "linestyle": "-"}
        shown = _draw_noisy(axes, steps, values, style)
        ends.append((_owner(name) if "." in name else "all", shown[-1], style["color"]))
        drawn += shown.tolist()
    style_axes(axes, "Gradient norm")
    style_steps(axes)
    choose_scale(axes, drawn, ratio=10)
    label_ends(axes, ends)


def plot_retention(
    arms: Mapping[str, Mapping[str, float]], path: PathLike, task_metric: str, retained_metric: str
) -> Path | None:
    """What each arm of a comparison gained on the task against what it kept of its pretraining.

    Args:
      arms: for each arm its values under the keys `task` and `retained`; an arm named `start` is the model before
        training, from which arrows lead to the others. Arms with a value that is not finite are left out.
      path: the PNG file to write.
      task_metric: the name of the metric of the task, for its axis.
      retained_metric: the name of the loss on pretraining data, for its axis.

    Returns:
      The path, or None where no arm has both values.
    """
    finite = {name: arm for name, arm in arms.items() if all(_is_finite(arm.get(key)) for key in ("task", "retained"))}
    if not finite:
        return None
    colours = _arm_colours(finite)
    figure = new_figure(9.6, 4.6)
    panels = figure.subplot_mosaic([["map", "task"], ["map", "retained"]], width_ratios=[1.75, 1])
    for key, metric in (("task", task_metric), ("retained", retained_metric)):
        _draw_bars(panels[key], {name: arm[key] for name, arm in finite.items()}, colours, metric)
    _draw_retention_map(figure, panels["map"], finite, colours, (task_metric, retained_metric))
    return save_png(figure, path)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _arm_colours(arms: Mapping[str, Any]) -> dict[str, str]:
    trained = [name for name in arms if name != _START]
    return {_START: NEUTRAL} | {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(trained)}


def _draw_retention_map(
    figure: Figure,
    axes: Axes,
    arms: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    metrics: tuple[str, str],
) -> None:
    for name, arm in arms.items():
        point = (arm["retained"], arm["task"])
        axes.plot(*point, "o", color=colours[name], markersize=10, markeredgecolor="white", zorder=4)
        if _START in arms and name != _START:
            axes.annotate(
                "",
                xy=point,
                xytext=(arms[_START]["retained"], arms[_START]["task"]),
                arrowprops={"arrowstyle": "-|>", "color": colours[name], "linewidth": 1.6, "shrinkA": 7, "shrinkB": 7},
            )
    task_metric, retained_metric = metrics
    style_axes(
        axes,
        "Gained on the task, kept from pretraining",
        f"← lower is better: {retained_metric} on pretraining data",
        f"{task_metric} ({_better(task_metric)})",
    )
    axes.margins(x=0.28, y=0.16)
    _label_arms(figure, axes, arms, colours)


def _label_arms(
    figure: Figure, axes: Axes, arms: Mapping[str, Mapping[str, float]], colours: Mapping[str, str]
) -> None:
    """Writes the name of each arm beside its point, on the side where it is less in the way."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    to_points = axes.transData + figure.dpi_scale_trans.inverted()
    places = {name: 72 * to_points.transform((arm["retained"], arm["task"])) for name, arm in arms.items()}
    middle = 72 * (axes.transAxes + figure.dpi_scale_trans.inverted()).transform((0.5, 0.5))[0]
    goes_left = {name: place[0] < middle or _is_crowded(place, places.values()) for name, place in places.items()}
    for on_the_left in (True, False):
        names = [name for name in arms if goes_left[name] == on_the_left]
        heights = [places[name][1] for name in names]
        for name, height, placed in zip(names, heights, spread(heights, 15), strict=True):
            axes.annotate(
                plain(name, limit=24),
                xy=(arms[name]["retained"], arms[name]["task"]),
                xytext=(-11 if on_the_left else 11, placed - height),
                textcoords="offset points",
                ha="right" if on_the_left else "left",
                va="center",
                fontsize=9.5,
                fontweight="bold",
                color=MUTED if name == _START else colours[name],
                path_effects=[withStroke(linewidth=3, foreground="white")],
                zorder=6,
            )


def _is_crowded(place: np.ndarray, others: Iterable[np.ndarray]) -> bool:
    """Whether another point lies where a label to the right of this one would be; all in points of 1/72 inch."""
    return any(0 < other[0] - place[0] < 90 and abs(other[1] - place[1]) < 20 for other in others)


def _better(metric: str) -> str:
    return "lower is better" if metric.replace(".", " ").split()[-1] in _LOWER_IS_BETTER else "higher is better"


def _draw_bars(axes: Axes, values: Mapping[str, float], colours: Mapping[str, str], metric: str) -> None:
    places = range(len(values))
    bars = axes.barh(places, list(values.values()), height=0.62, color=[colours[name] for name in values])
    axes.bar_label(bars, [format_value(value) for value in values.values()], padding=4, fontsize=8.5, color=INK)
    style_axes(axes, "")
    axes.set_title(plain(f"{metric}, {_better(metric)}", limit=44), loc="left", fontsize=9, color=INK, pad=6)
    axes.grid(False)
    axes.set_yticks(places, [plain(name, limit=18) for name in values], color=INK)
    axes.set_ylim(max(len(values), 4) - 0.5, -0.5)  # the first arm on top, and two bars no fatter than four
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.22)


def plot_lengths(lengths: Mapping[str, np.ndarray], path: PathLike) -> Path:
    """Histograms of the lengths of texts, one above the other, on a logarithmic axis where they differ much.

    Args:
      lengths: int `(records,)`, in tokens, by the name of the source.
      path: where to write, a PNG.

    Returns:
      The path.
    """
    figure = new_figure(8.0, 0.6 + 1.9 * len(lengths))
    all_axes = figure.subplots(len(lengths), 1, sharex=True, squeeze=False)[:, 0]
    longest = max(int(values.max()) for values in lengths.values())
    logarithmic = longest > 20 * max(1.0, float(np.median(np.concatenate(list(lengths.values())))))
    bins = np.geomspace(1, longest + 1, 50) if logarithmic else np.linspace(0, longest + 1, 50)
    for index, (axes, (name, values)) in enumerate(zip(all_axes, lengths.items(), strict=True)):
        axes.hist(values, bins, color=PALETTE[index % len(PALETTE)])
        last = index == len(lengths) - 1
        style_axes(axes, f"{plain(name)}: {len(values):,} texts", "tokens" if last else "", "texts")
        if logarithmic:
            axes.set_xscale("log")
    return save_png(figure, path)


def plot_confusion(
    matrix: Sequence[Sequence[float]] | np.ndarray, labels: Sequence[str], path: PathLike
) -> Path | None:
    """A confusion matrix, shaded by the share of each true label's examples.

    Args:
      matrix: counts, [true label, predicted label].
      labels: the name of each label.
      path: the PNG file to write.

    Returns:
      The path, or None where the matrix holds no example.
    """
    counts = np.asarray(matrix, dtype=float)
    if counts.size == 0 or not counts.sum():
        return None
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    side = min(max(0.52 * len(labels), 2.6), 9.0)
    figure = new_figure(side + 1.9, side + 1.5)
    axes = figure.subplots()
    axes.imshow(shares, cmap=_shades(), vmin=0, vmax=1)
    style_axes(axes, "Confusion matrix", "predicted label (shade: share of the true label)", "true label")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    _name_labels(axes, labels)
    if len(labels) <= 20:
        _write_counts(axes, counts, shares)
    return save_png(figure, path)


def _shades():
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shares", ["#f5f7f9", "#9ecae1", PALETTE[0], "#00355a"])


def _name_labels(axes: Axes, labels: Sequence[str]) -> None:
    every = max(-(-len(labels) // 40), 1)  # more than about 40 names do not fit along a side
    shown = list(range(0, len(labels), every))
    names = [plain(labels[place], limit=18) for place in shown]
    upright = max(map(len, names)) <= 5 and len(names) <= 20
    axes.set_yticks(shown, names, color=INK)
    turned = {} if upright else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(shown, names, color=INK, **turned)
    edges = np.arange(len(labels) + 1) - 0.5
    if len(labels) <= 40:
        axes.set_xticks(edges, minor=True)
        axes.set_yticks(edges, minor=True)
        axes.grid(True, which="minor", color="white", linewidth=1.5)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.5 else INK
        text = format_value(_whole(counts[row, column]))
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)


def _whole(count: float) -> float | int:
    return int(count) if count.is_integer() else count
