"""The picture of how long texts are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxft.reporting.plot_style import PALETTE, new_figure, plain, save_png, style_axes


def plot_lengths(lengths: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> Path:
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
