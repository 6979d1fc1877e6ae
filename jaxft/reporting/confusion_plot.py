"""The picture of a confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxft.reporting.plot_style import INK, PALETTE, new_figure, plain, save_png, style_axes
from jaxft.reporting.tables import format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap


def plot_confusion(
    matrix: Sequence[Sequence[float]] | np.ndarray, labels: Sequence[str], path: str | os.PathLike[str]
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


def _shades() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shares", ["#f5f7f9", "#9ecae1", PALETTE[0], "#00355a"])


def _name_labels(axes: Axes, labels: Sequence[str]) -> None:
    every = max(-(-len(labels) // 40), 1)  # more than about 40 names do not fit along a side
    shown = list(range(0, len(labels), every))
    names = [plain(labels[place], limit=18) for place in shown]
    upright = max(map(len, names)) <= 5 and len(names) <= 20
    axes.set_yticks(shown, names, color=INK)
    turned: dict[str, Any] = {} if upright else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
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
