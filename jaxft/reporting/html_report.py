"""One HTML file about a run that needs nothing else: no scripts, no network, images inside."""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from jaxft.reporting.atomic import write_atomically
from jaxft.reporting.html_style import STYLE
from jaxft.reporting.tables import Cell, format_value, numeric_columns

# Plots have 160 dots an inch; shown at 100 an inch their letters are about as large as those of the page.
_SHOWN_SIZE = 100 / 160

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Says to the browser what the file promises to the reader: nothing is loaded and nothing runs.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Tile:
    """One number that matters, shown large.

    Attributes:
      label: what it is.
      value: the number or a short text.
      note: a few words under it, such as what it was before.
    """

    label: str
    value: Cell
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose columns of numbers stand on the right; every row is as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A PNG file to put into the report."""

    title: str
    path: str | os.PathLike[str]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading.

    Attributes:
      title: the heading.
      text: paragraphs, with an empty line between them.
      tables: shown after the text.
      figures: shown after the tables.
      code: text to show as it is, such as a recipe; folded away until the reader opens it.
    """

    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Report:
    """All that a report says. Every text is plain text; nothing in it is read as HTML.

    Attributes:
      title: the name of the run.
      subtitle: one line about it: model, data, when.
      summary: the conclusion, one string a paragraph.
      tiles: the numbers that matter, shown before everything else.
      sections: the rest.
    """

    title: str
    subtitle: str
    summary: tuple[str, ...]
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Renders the report and puts it at `path` in one step, making parent directories.

    Raises:
      OSError: an image cannot be read or the file cannot be written.
      ValueError: see `render`.
    """
    write_atomically(path, render(report).encode())


def render(report: Report) -> str:
    """The report as one HTML document.

    Raises:
      OSError: an image cannot be read.
      ValueError: a figure is not a PNG file, or a row of a table is not as long as its header.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(report.title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            *_header(report),
            *_tiles(report.tiles),
            *(line for section in report.sections for line in _section(section)),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _header(report: Report) -> list[str]:
    lines = ["<header>", f"<h1>{escape(report.title)}</h1>"]
    if report.subtitle:
        lines.append(f'<p class="subtitle">{escape(report.subtitle)}</p>')
    lines.append("</header>")
    if report.summary:
        lines += ['<div class="summary">', *_paragraphs(report.summary), "</div>"]
    return lines


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [f"<p>{escape(text.strip())}</p>" for text in texts if text.strip()]


def _tiles(tiles: Sequence[Tile]) -> list[str]:
    if not tiles:
        return []
    return ['<div class="tiles">', *map(_tile, tiles), "</div>"]


def _tile(tile: Tile) -> str:
    note = f'<span class="note">{escape(tile.note)}</span>' if tile.note else ""
    value = escape(format_value(tile.value))
    return (
        f'<div class="tile"><span class="label">{escape(tile.label)}</span>'
        f'<span class="value">{value}</span>{note}</div>'
    )


def _section(section: Section) -> list[str]:
    lines = ["<section>", f"<h2>{escape(section.title)}</h2>", *_paragraphs(section.text.split("\n\n"))]
    for table in section.tables:
        lines += _table(table)
    for figure in section.figures:
        lines += _figure(figure)
    if section.code:
        lines.append(f"<details><summary>Show</summary><pre>{escape(section.code)}</pre></details>")
    lines.append("</section>")
    return lines


def _table(table: Table) -> list[str]:
    to_the_right = numeric_columns(table.rows) or (False,) * len(table.header)
    heads = "".join(_cell("th", name, right) for name, right in zip(table.header, to_the_right, strict=True))
    rows = [
        "<tr>" + "".join(_cell("td", cell, right) for cell, right in zip(row, to_the_right, strict=True)) + "</tr>"
        for row in table.rows
    ]
    return [
        "<figure>",
        *([f"<h3>{escape(table.title)}</h3>"] if table.title else []),
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>',
        *rows,
        "</tbody></table></div>",
        *_caption(table.caption),
        "</figure>",
    ]


def _cell(tag: str, cell: Cell, right: bool) -> str:
    attribute = ' class="number"' if right else ""
    return f"<{tag}{attribute}>{escape(format_value(cell))}</{tag}>"


def _figure(figure: Figure) -> list[str]:
    content = Path(figure.path).read_bytes()
    if not content.startswith(_PNG_SIGNATURE):
        raise ValueError(f"{figure.path}: not a PNG file")
    # Known sizes keep the page from jumping while it loads.
    width, height = (round(side * _SHOWN_SIZE) for side in struct.unpack(">II", content[16:24]))
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return [
        "<figure>",
        *([f"<h3>{escape(figure.title)}</h3>"] if figure.title else []),
        f'<img src="{source}" width="{width}" height="{height}" alt="{escape(figure.caption or figure.title)}">',
        *_caption(figure.caption),
        "</figure>",
    ]


def _caption(text: str) -> list[str]:
    return [f"<figcaption>{escape(text)}</figcaption>"] if text else []
