"""Pictures of a comparison: what each way of fine-tuning gained on the task, against what it kept or forgot."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxft.reporting.plot_style import INK, MUTED, NEUTRAL, PALETTE, new_figure, plain, save_png, spread, style_axes
from jaxft.reporting.tables import format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_START = "start"
_LOWER_IS_BETTER = ("loss", "perplexity", "error")
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


def _reach(interval: tuple[float, float, float]) -> list[list[float]] | None:
    """Lengths of error bars, or None where an end is infinite."""
    mean, low, high = interval
    return None if math.isinf(low) or math.isinf(high) else [[mean - low], [high - mean]]


def _show_all(axes: Axes, arms: Sequence[ArmPoint], bound: float) -> None:
    """Limits by the means, the bound and the other learning rates; long error bars may leave the picture."""
    for limit, values in (
        (axes.set_xlim, [bound, 0.0, *(x for arm in arms for x in (arm.forgetting[0], *(o[0] for o in arm.others)))]),
        (axes.set_ylim, [y for arm in arms for y in (arm.task[0], *(o[1] for o in arm.others))]),
    ):
        low, high = min(values), max(values)
        room = 0.12 * (high - low) or 0.05 * (abs(high) or 1.0)
        limit(low - room, high + room * (2.2 if limit == axes.set_xlim else 1.0))


def _name(figure: Figure, axes: Axes, arms: Sequence[ArmPoint]) -> None:
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


def plot_retention(
    arms: Mapping[str, Mapping[str, float]], path: str | os.PathLike[str], task_metric: str, retained_metric: str
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
