"""The config of a source: what the ``source:`` mapping of a recipe becomes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, NewType, cast, get_args

from jaxft.data.embedded import Corpus, Split
from jaxft.data.sources.added import SOURCES, AddedSource, name_of
from jaxft.data.sources.compression import SUFFIXES
from jaxft.errors import InvalidField

Documents = Literal["paragraphs", "lines", "file"]
# Of the data's own, so it may be any text.
Column = NewType("Column", str)
Scalar = str | int | float | bool

PATH_FORMATS = ("jsonl", "csv", "tsv", "parquet", "text", "conll", "squad", "images", "arrays")
NAMED_FORMATS = ("tfds", "hf", "embedded")
FORMATS = (*PATH_FORMATS, *NAMED_FORMATS)
_OF_SUFFIX = {
    ".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".conll": "conll", ".json": "squad",
    ".npz": "arrays",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Where rows come from. Exactly one of FORMATS, or a source that a plug-in adds, is given.

    Files may lie anywhere: paths may be URLs that fsspec knows (``gs://``, ``s3://``) and hold the wildcards
    ``* ? [] **``. Files of text may be compressed (``.gz``, ``.xz``, ``.zst``).

    Attributes:
      jsonl: files with one JSON object per line.
      csv: comma-separated files with a header line, quoted as in RFC 4180; every value is a string.
      tsv: tab-separated files with a header line; quotation marks are ordinary characters, as in GLUE's files.
      parquet: Parquet files.
      text: plain text, whose rows are ``{"text": ...}``.
      conll: a token with its tags per line, sentences between blank lines; rows ``{"tokens", "tags"}``.
      squad: question answering in SQuAD's JSON; rows ``{"id", "title", "context", "question", "answers"}``.
      images: folders whose subfolders are labels; rows ``{"image": path, "label": name}``.
      arrays: NumPy's ``.npz`` with ``images`` and ``labels``; rows ``{"image": array, "label": number}``.
      tfds: prepared data of TensorFlow Datasets, ``name``, ``name/config`` or ``name/config:version``, in the directory
        ``$TFDS_DATA_DIR``.
      hf: a directory that Hugging Face's ``datasets`` saved, or the id of a dataset on its hub.
      embedded: a corpus that comes with Python, see :mod:`jaxft.data.embedded`.
      added: a source of a plug-in, which a recipe has under its own name, see :mod:`jaxft.data.sources.added`.
      config_name: which configuration of a dataset on the hub.
      split: which part: of `tfds` and `hf` as their libraries write it (``train``, ``train[:10%]``), of `embedded`
        ``all`` (what None means), ``train`` or ``heldout``.
      documents: what is one document of a text file: a paragraph (between blank lines), a line that isn't blank,
        or the whole file.
      columns: the columns that rows have, by the name that they then have: ``{text: review_body}``; None: all, as
        they are called.
      filter: keep the rows whose columns, called as the source calls them, have these values, or one of them:
        ``{language: [en, de]}``. Values of CSV and TSV are compared as text.
      exclude: leave out the rows in which one of these columns has this value, or one of them: the rest of a `filter`
        on one column.
      shuffle: seed of a random order; None: the order of the source.
      limit: read only the first so many good rows, after `filter`, `exclude` and `shuffle`; None reads all.

    Raises:
      InvalidField: none or several formats, an unknown value, or an option beside a format it says nothing about.
    """

    jsonl: tuple[str, ...] | None = None
    csv: tuple[str, ...] | None = None
    tsv: tuple[str, ...] | None = None
    parquet: tuple[str, ...] | None = None
    text: tuple[str, ...] | None = None
    conll: tuple[str, ...] | None = None
    squad: tuple[str, ...] | None = None
    images: tuple[str, ...] | None = None
    arrays: tuple[str, ...] | None = None
    tfds: str | None = None
    hf: str | None = None
    embedded: Corpus | None = None
    added: AddedSource | None = dataclasses.field(default=None, metadata={"keys": lambda: SOURCES})
    config_name: str | None = None
    split: str | None = None
    documents: Documents = "paragraphs"
    columns: dict[Column, str] | None = None
    filter: dict[Column, tuple[Scalar, ...]] | None = None
    exclude: dict[Column, tuple[Scalar, ...]] | None = None
    shuffle: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in FORMATS if getattr(self, name) is not None]
        given += [] if self.added is None else [name_of(self.added)]
        if len(given) != 1:
            known, found = ", ".join((*FORMATS, *SOURCES)), " and ".join(given) or "none"
            raise InvalidField(given[1] if given else FORMATS[0], f"give exactly one of {known}; found {found}")
        _check_format(self)
        _check_split(self)
        _check_options(self)
        for name in ("filter", "exclude"):
            if (given := getattr(self, name)) is not None:
                # One value means a list of one, as in a recipe.
                values = {column: value if isinstance(value, tuple) else (value,) for column, value in given.items()}
                object.__setattr__(self, name, values)
                _check_values(name, values)

    @property
    def format(self) -> str:
        """The format that is given: one of FORMATS, or the name of a source that a plug-in adds."""
        if self.added is not None:
            return name_of(self.added)
        return next(name for name in FORMATS if getattr(self, name) is not None)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths as written; none for a format of NAMED_FORMATS."""
        return getattr(self, self.format) if self.format in PATH_FORMATS else ()

    @property
    def embedded_part(self) -> tuple[Corpus, Split]:
        """Of the format `embedded`, the corpus and its part."""
        assert self.embedded is not None
        return self.embedded, cast(Split, self.split or "all")  # as was checked

    @property
    def names_folders(self) -> bool:
        """Whether the paths are folders instead of files."""
        return self.format == "images"


def source_of_file(name: str) -> SourceConfig:
    """The source that a file or a folder of images is by its name, perhaps compressed; plain text where none fits.

    ``.json`` is taken for SQuAD's.
    """
    path = Path(name)
    suffix = path.with_suffix("").suffix if path.suffix in SUFFIXES else path.suffix
    given: dict[str, Any] = {"images" if path.is_dir() else _OF_SUFFIX.get(suffix, "text"): (name,)}
    return SourceConfig(**given)


def _check_format(config: SourceConfig) -> None:
    if config.format in PATH_FORMATS and not (config.paths and all(config.paths)):
        raise InvalidField(config.format, "give at least one path, and no empty one")
    if config.format in ("tfds", "hf") and not getattr(config, config.format).strip():
        raise InvalidField(config.format, "give a name")
    for field, allowed in (("embedded", (None, *get_args(Corpus))), ("documents", get_args(Documents))):
        if getattr(config, field) not in allowed:
            choices = ", ".join(filter(None, allowed))
            raise InvalidField(field, f"expected one of {choices}; found {getattr(config, field)!r}")


def _check_split(config: SourceConfig) -> None:
    if config.split is None:
        if config.format == "tfds":
            raise InvalidField("split", "a dataset of tfds needs a split, such as train or train[:10%]")
    elif config.format in PATH_FORMATS:
        raise InvalidField("split", f"only tfds, hf and embedded are split; {config.format} is given file by file")
    elif config.format == "embedded" and config.split not in get_args(Split):
        raise InvalidField("split", f"expected one of {', '.join(get_args(Split))}; found {config.split!r}")
    elif not config.split.strip():
        raise InvalidField("split", "give a name")


def _check_options(config: SourceConfig) -> None:
    if config.config_name is not None and config.format != "hf":
        raise InvalidField("config_name", f"is the configuration of a dataset of hf; {config.format} has none")
    if config.documents != "paragraphs" and config.format != "text":
        raise InvalidField("documents", f"says how text files are cut; {config.format} has rows already")
    if config.columns is not None:
        if not config.columns:
            raise InvalidField("columns", "give at least one column, as in {text: review_body}")
        for new, old in config.columns.items():
            if not new or not old:
                raise InvalidField("columns", f"a column must have a name; found {new!r}: {old!r}")
    if config.shuffle is not None and config.shuffle < 0:
        raise InvalidField("shuffle", f"expected a seed, 0 or more; found {config.shuffle}")
    if config.limit is not None and config.limit < 1:
        raise InvalidField("limit", f"expected at least 1 row; found {config.limit}")


def _check_values(name: str, values: dict[Column, tuple[Scalar, ...]]) -> None:
    if not values:
        raise InvalidField(name, "give at least one column, as in {language: en}")
    for column, allowed in values.items():
        if not allowed:
            raise InvalidField(f"{name}.{column}", "give at least one value")
