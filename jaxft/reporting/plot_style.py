"""The look that all plots share: palette, axes, labels and how a figure becomes a PNG file.

Figures are made without pyplot and without changing matplotlib's global settings, so a program that draws its own
plots around a training run is left alone.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2933"
MUTED = "#6b7785"
GRID = "#e6e9ed"
NEUTRAL = "#9aa5b1"

# Okabe and Ito (2008), "Color Universal Design", in an order that keeps neighbours apart; its yellow and its black
# are left out, since one is lost on white and the other is the colour of text.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))

_DOTS_PER_INCH = 160
_LABEL_GAP = 13.0


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the series at `index`; past the end of the palette the dashes tell series apart."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": _DASHES[index // len(PALETTE) % len(_DASHES)],
    }


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of `width` by `height` inches that arranges its own margins."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.06, hspace=0.08)
    return Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout=layout, facecolor="white")


def style_axes(axes: Axes, title: str, x_label: str = "", y_label: str = "") -> None:
    """Gives axes their title on the left, a light grid and no box."""
    axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(plain(x_label), fontsize=9, color=MUTED)
    axes.set_ylabel(plain(y_label), fontsize=9, color=MUTED)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=8.5, labelcolor=MUTED, pad=5)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#c5ccd3")


def style_steps(axes: Axes) -> None:
    """Makes the x axis count training steps: whole numbers with thousands separators."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def choose_scale(axes: Axes, values: Iterable[float], ratio: float = 30.0) -> None:
    """Makes the y axis logarithmic, with plain numbers on it, where positive values span more than `ratio`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) / min(finite) <= ratio:
        return
    axes.set_yscale("log")
    decades = math.log10(max(finite) / min(finite))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if decades < 3 else (1.0,), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def plain(text: str, limit: int = 60) -> str:
    """`text` as matplotlib shows it literally, shortened to `limit` characters; a dollar sign starts no formula."""
    shortened = text if len(text) <= limit else text[: limit - 1] + "…"
    return shortened.replace("$", r"\$")


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Moves positions apart until neighbours are at least `gap` apart, each as little as it takes.

    Neighbours that are too close become one group, which is centred on the mean of where its members wanted to be.

    Returns:
      The new positions in the order of the old ones.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    groups: list[list[float]] = []  # each group: the wanted positions of its members, lowest first
    for index in order:
        groups.append([positions[index]])
        while len(groups) > 1 and _group_start(groups[-1], gap) - _group_end(groups[-2], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    placed = [_group_start(group, gap) + gap * place for group in groups for place in range(len(group))]
    result = [0.0] * len(positions)
    for index, position in zip(order, placed, strict=True):
        result[index] = position
    return result


def _group_start(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _group_end(group: Sequence[float], gap: float) -> float:
    return _group_start(group, gap) + gap * (len(group) - 1)


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Writes the name of each series to the right of the axes, at the height where it ends, without overlap.

    Call it after everything else is drawn, since it reads the final scale of the y axis.

    Args:
      axes: the axes of the series.
      ends: for each series its name, its last y value and its colour.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    points_per_pixel = 72 / figure.dpi
    heights = [axes.transData.transform((0, value))[1] * points_per_pixel for _, value, _ in ends]
    for (name, value, colour), height, placed in zip(ends, heights, spread(heights, _LABEL_GAP), strict=True):
        axes.annotate(
            plain(name, limit=32),
            xy=(1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(8, placed - height),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )


def save_png(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes the figure as a PNG file, making parent directories, and returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Labels in scripts that the default font lacks show as boxes; the reader sees that without a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format="png", metadata={"Software": None})
    return path
