"""Pictures of a comparison: what each way of fine-tuning gained against what it forgot."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxft.reporting.plot_style import INK, MUTED, NEUTRAL, PALETTE, new_figure, plain, save_png, spread, style_axes

_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


@dataclass(frozen=True)
class ArmPoint:
    """An arm in the picture.

    Attributes:
      name: shown beside it.
      forgetting: mean, low and high end of its interval; the ends may be infinite.
      task: likewise.
      others: means `(forgetting, task)` at learning rates that were not chosen.
    """

    name: str
    forgetting: tuple[float, float, float]
    task: tuple[float, float, float]
    others: tuple[tuple[float, float], ...] = ()


def plot_frontier(
    arms: Sequence[ArmPoint],
    frontier: Sequence[str],
    bound: float,
    labels: tuple[str, str],
    path: str | os.PathLike[str],
) -> Path:
    """Each arm with its intervals, the arms that none beats joined by a line, and the bound on forgetting.

    Args:
      arms: in the order of the legend.
      frontier: names of the arms that none beats in both, in the order of the line.
      bound: largest forgetting that is fine.
      labels: of the two axes, forgetting first.
      path: the PNG file to write.
    """
    figure = new_figure(9.6, 5.4)
    axes = figure.subplots()
    places = {arm.name: (arm.forgetting[0], arm.task[0]) for arm in arms}
    axes.axvspan(-1e9, bound, color="#e8f3ec", zorder=0)
    axes.axvline(bound, color="#5b8f6f", linewidth=1, zorder=1)
    line = [places[name] for name in frontier]
    axes.plot([x for x, _ in line], [y for _, y in line], color=NEUTRAL, linewidth=1.4, zorder=2)
    for number, arm in enumerate(arms):
        colour, marker = PALETTE[number % len(PALETTE)], _MARKERS[number // len(PALETTE) % len(_MARKERS)]
        for x, y in arm.others:
            axes.plot(x, y, marker, color=colour, alpha=0.35, markersize=5, zorder=3)
        axes.errorbar(
            *places[arm.name],
            xerr=_reach(arm.forgetting),
            yerr=_reach(arm.task),
            fmt=marker,
            color=colour,
            markersize=9,
            markeredgecolor="white",
            elinewidth=1.2,
            alpha=0.95,
            capsize=2.5,
            zorder=4,
        )
    _show_all(axes, arms, bound)
    style_axes(axes, "Gained on the task, forgotten of pretraining", f"← less is better: {labels[0]}", labels[1])
    axes.text(
        bound,
        axes.get_ylim()[0],
        " bound ",
        ha="left",
        va="bottom",
        fontsize=8.5,
        color="#3f6f52",
        rotation=90,
        zorder=1,
    )
    _name(figure, axes, arms)
    return save_png(figure, path)


def _reach(interval: tuple[float, float, float]):
    """Lengths of error bars, or None where an end is infinite."""
    mean, low, high = interval
    return None if math.isinf(low) or math.isinf(high) else [[mean - low], [high - mean]]


def _show_all(axes, arms: Sequence[ArmPoint], bound: float) -> None:
    """Limits by the means, the bound and the other learning rates; long error bars may leave the picture."""
    for limit, values in (
        (axes.set_xlim, [bound, 0.0, *(x for arm in arms for x in (arm.forgetting[0], *(o[0] for o in arm.others)))]),
        (axes.set_ylim, [y for arm in arms for y in (arm.task[0], *(o[1] for o in arm.others))]),
    ):
        low, high = min(values), max(values)
        room = 0.12 * (high - low) or 0.05 * (abs(high) or 1.0)
        limit(low - room, high + room * (2.2 if limit == axes.set_xlim else 1.0))


def _name(figure, axes, arms: Sequence[ArmPoint]) -> None:
    """Names on the right of the points, moved apart where they would overlap."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    to_points = axes.transData + figure.dpi_scale_trans.inverted()
    heights = [72 * to_points.transform((arm.forgetting[0], arm.task[0]))[1] for arm in arms]
    for number, (arm, height, placed) in enumerate(zip(arms, heights, spread(heights, 13), strict=True)):
        axes.annotate(
            plain(arm.name, limit=34),
            xy=(arm.forgetting[0], arm.task[0]),
            xytext=(12, placed - height),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=9,
            color=PALETTE[number % len(PALETTE)],
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=6,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5} if abs(placed - height) > 8 else None,
        )
    axes.tick_params(colors=INK)
