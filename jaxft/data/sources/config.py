"""The config of a source: what the ``source:`` mapping of a recipe becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxft.data.embedded import Corpus, Split
from jaxft.errors import InvalidField

Documents = Literal["paragraphs", "lines", "file"]
FILE_FORMATS = ("jsonl", "csv", "tsv", "text")
FORMATS = (*FILE_FORMATS, "embedded")


@dataclass(frozen=True)
class SourceConfig:
    """Where rows come from. Exactly one of ``jsonl, csv, tsv, text, embedded`` is given.

    Attributes:
      jsonl: files with one JSON object per line. Paths may hold the wildcards ``* ? [] **``.
      csv: comma-separated files with a header line, quoted as in RFC 4180; every value is a string.
      tsv: tab-separated files with a header line; quotation marks are ordinary characters, as in GLUE's files.
      text: plain text, whose rows are ``{"text": ...}``.
      embedded: a corpus that comes with Python, see :mod:`jaxft.data.embedded`.
      split: which part of the embedded corpus.
      documents: what is one document of a text file: a paragraph (between blank lines), a line that isn't blank,
        or the whole file.
      limit: read only the first so many rows; None reads all.

    Raises:
      InvalidField: none or several formats, an unknown value, or an option beside a format it says nothing about.
    """

    jsonl: tuple[str, ...] | None = None
    csv: tuple[str, ...] | None = None
    tsv: tuple[str, ...] | None = None
    text: tuple[str, ...] | None = None
    embedded: Corpus | None = None
    split: Split = "all"
    documents: Documents = "paragraphs"
    limit: int | None = None

    def __post_init__(self):
        given = [name for name in FORMATS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise InvalidField(
                given[1] if given else FORMATS[0], f"give exactly one of {', '.join(FORMATS)}; found {found}"
            )
        if given[0] != "embedded" and not (self.paths and all(self.paths)):
            raise InvalidField(given[0], "give at least one path, and no empty one")
        for field, allowed in (("embedded", (None, *get_args(Corpus))), ("split", get_args(Split)),
                               ("documents", get_args(Documents))):  # fmt: skip
            if getattr(self, field) not in allowed:
                choices = ", ".join(filter(None, allowed))
                raise InvalidField(field, f"expected one of {choices}; found {getattr(self, field)!r}")
        if self.split != "all" and self.embedded is None:
            raise InvalidField("split", f"only an embedded corpus is split; {given[0]} files are given one by one")
        if self.documents != "paragraphs" and self.text is None:
            raise InvalidField("documents", f"says how text files are cut; {given[0]} has rows already")
        if self.limit is not None and self.limit < 1:
            raise InvalidField("limit", f"expected at least 1 row; found {self.limit}")

    @property
    def format(self) -> str:
        """The format that is given: one of FORMATS."""
        return next(name for name in FORMATS if getattr(self, name) is not None)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths as written; none for the embedded corpus."""
        return () if self.embedded is not None else getattr(self, self.format)
