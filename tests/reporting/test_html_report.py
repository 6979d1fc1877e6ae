"""Properties of the HTML report: one file, nothing from outside, and no text that becomes markup."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from jaxft.reporting.confusion_plot import plot_confusion
from jaxft.reporting.html_report import Figure, Report, Section, Table, Tile, render, write_report

EVIL = "<script>alert(1)</script>&\"'<img src=x onerror=y>"
VOID = {"meta", "img"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.attributes, self.text = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


@pytest.fixture
def image(tmp_path):
    return plot_confusion([[3, 1], [1, 3]], ["a", "b"], tmp_path / "image.png")


def full_report(image, text):
    table = Table(text, (text, "accuracy"), ((text, 0.912345), ("b", None)), text)
    section = Section(text, f"{text}\n\nsecond", (table,), (Figure(text, image, text),), text)
    return Report(text, text, (text, "and so on"), (Tile(text, text, text), Tile("loss", 2.3456)), (section,))


def test_every_text_stays_text(image):
    outline = Outline(render(full_report(image, EVIL)))
    assert "script" not in outline.tags
    assert outline.tags.count("img") == 1
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    # title, h1, subtitle, summary, tile (3), section, text, table (4), figure (2; alt is an attribute), code
    assert sum(EVIL in text for text in outline.text) == 16
    assert ("alt", EVIL) in outline.attributes


def test_nothing_is_loaded_from_outside_and_nothing_runs(image):
    page = render(full_report(image, "plain"))
    assert "http://" not in page and "https://" not in page
    assert "<script" not in page and "<link" not in page and "@import" not in page and "url(" not in page
    sources = [value for name, value in Outline(page).attributes if name in ("src", "href")]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)


def test_the_image_inside_is_the_image_given(image):
    encoded = re.search(r'data:image/png;base64,([^"]+)"', render(full_report(image, "plain"))).group(1)
    assert base64.b64decode(encoded) == image.read_bytes()


def test_numbers_are_formatted_and_stand_on_the_right(image):
    page = render(full_report(image, "plain"))
    assert '<th class="number">accuracy</th>' in page
    assert '<td class="number">0.9123</td>' in page
    assert '<td class="number">–</td>' in page
    assert "<td>plain</td>" in page
    assert "2.346" in page


def test_empty_parts_leave_nothing_behind():
    page = render(Report("run", "", (), (), (Section("empty", tables=(Table("", ("a",), ()),)),)))
    outline = Outline(page)
    assert not {"details", "img", "figcaption", "h3"} & set(outline.tags)
    assert '<p class="subtitle">' not in page and '<div class="tiles">' not in page


def test_code_is_folded_away_and_kept_as_it_is():
    code = "model:\n  preset: encoder-small\n\n  # a < b\n"
    outline = Outline(render(Report("run", "", (), (), (Section("Recipe", code=code),))))
    assert code in outline.text
    assert ("open", None) not in outline.attributes and "details" in outline.tags


def test_a_figure_that_is_no_png_and_a_row_of_another_length_are_refused(tmp_path):
    other = tmp_path / "image.png"
    other.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="not a PNG"):
        render(Report("run", "", (), (), (Section("s", figures=(Figure("f", other),)),)))
    with pytest.raises(ValueError):
        render(Report("run", "", (), (), (Section("s", tables=(Table("t", ("a", "b"), ((1,),)),)),)))


def test_writing_replaces_the_old_report_or_leaves_it(image, tmp_path):
    path = tmp_path / "deep" / "report.html"
    report = full_report(image, "plain")
    write_report(report, path)
    assert path.read_text(encoding="utf-8") == render(report)
    missing = Report("new", "", (), (), (Section("s", figures=(Figure("f", tmp_path / "missing.png"),)),))
    with pytest.raises(FileNotFoundError):
        write_report(missing, path)
    assert path.read_text(encoding="utf-8") == render(report)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
