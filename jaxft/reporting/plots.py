"""Pictures of a run, drawn from the rows of its metrics file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxft.reporting.plot_style import (
    INK,
    MUTED,
    NEUTRAL,
    choose_scale,
    label_ends,
    line_style,
    new_figure,
    plain,
    save_png,
    style_axes,
    style_steps,
)
from jaxft.reporting.tables import format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
PathLike = str | os.PathLike[str]

_FEW_POINTS = 40


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


def series_styles(rows: Rows) -> dict[str, dict[str, Any]]:
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
