"""A corpus that every CPython carries: English from the documentation of its own standard library.

It lets a first run start without a download. The text is read by parsing sources, never by importing them:
docstrings of the standard library and the topics of ``help()`` (``pydoc_data.topics``). Two corpora come of it:

- ``documentation``, for language modelling: one document per module (its docstrings in source order) and
  one per topic; rows ``{"text", "module"}``;
- ``packages``, for classification: one docstring per row, labelled with the package it stands in;
  rows ``{"text", "package"}``.

Both have a held-out part that no training part of either corpus contains: see :func:`_heldout_shares`.
The texts depend on the Python version, and on what the system ships of its standard library.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import sysconfig
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from inspect import cleandoc
from pathlib import Path
from typing import Literal, NamedTuple

from jaxft.errors import DataError

Corpus = Literal["documentation", "packages"]
Split = Literal["all", "train", "heldout"]

PACKAGES = (
    "asyncio", "email", "encodings", "http", "importlib", "logging",
    "multiprocessing", "tkinter", "unittest", "urllib", "xml",
)  # fmt: skip
MINIMUM_CHARACTERS = 40
DOCUMENTATION_HELDOUT = 0.10
PACKAGES_HELDOUT = 0.20
# In characters. Some topics quote one another and make up 180,000 together: held out, they would be most of that part.
LARGEST_HELDOUT_GROUP = 20_000

_SKIPPED_DIRECTORIES = frozenset({
    "site-packages", "dist-packages", "test", "tests", "idlelib",
    "lib2to3", "turtledemo", "pydoc_data", "ensurepip", "__pycache__",
})  # fmt: skip
_TOPICS = Path("pydoc_data") / "topics.py"
# Part of the cache's key: raise it when what is extracted, or how it is split, changes.
_EXTRACTION = 2


@dataclass(frozen=True)
class Passage:
    """One docstring, or one topic of ``help()``.

    Attributes:
      module: dotted name of the module; ``topics.<name>`` for a topic.
      text: the text with its indentation removed.
    """

    module: str
    text: str

    @cached_property
    def normalized(self) -> str:
        """The text with every run of whitespace made one space."""
        return _normalize(self.text)

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The parts that blank lines separate, normalized likewise."""
        return tuple(_normalize(part) for part in re.split(r"\n\s*\n", self.text))


def _normalize(text: str) -> str:
    return " ".join(text.split())


class EmbeddedRow(NamedTuple):
    """A row of a corpus, and the part of it that the row belongs to."""

    corpus: Corpus
    split: Literal["train", "heldout"]
    values: dict[str, str]


def embedded_rows(corpus: Corpus, split: Split, cache: Path | None = None) -> Iterator[dict[str, str]]:
    """The rows of one corpus.

    Args:
      corpus: ``documentation`` (columns ``text, module``) or ``packages`` (columns ``text, package``).
      split: ``train``, ``heldout``, or ``all`` (the rows of ``train``, then those of ``heldout``).
      cache: directory that keeps the extracted rows (the first extraction takes some 10 s); None keeps nothing.

    Raises:
      DataError: this Python ships no sources of its standard library.
    """
    wanted = ("train", "heldout") if split == "all" else (split,)
    rows = _cached_rows(Path(sysconfig.get_paths()["stdlib"]), cache)
    return (row.values for part in wanted for row in rows if row.corpus == corpus and row.split == part)


def extract_rows(standard_library: Path) -> list[EmbeddedRow]:
    """All rows of both corpora, extracted from the sources below a directory; deterministic.

    Raises:
      DataError: no docstring was found there.
    """
    docstrings = list(_docstrings(standard_library))
    if not docstrings:
        raise DataError(
            f"the embedded corpus is made of Python's own documentation, but {standard_library} holds no Python "
            "sources; use a source of another kind (jsonl, csv, tsv, text)"
        )
    topics = list(_topics(standard_library))
    share_of = _heldout_shares(docstrings + topics)
    labelled = _labelled_texts(docstrings)
    return _documentation_rows(docstrings, topics, share_of, labelled) + _package_rows(labelled, share_of)


# Reading the standard library.


def _docstrings(standard_library: Path) -> Iterator[Passage]:
    """Every docstring of every module, module by module in order of its path, in source order within it."""
    for path in _source_files(standard_library):
        tree = _parse(path)
        if tree is None:
            continue
        parts = path.relative_to(standard_library).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        for text in _docstrings_of(tree):
            yield Passage(module, text)


def _source_files(standard_library: Path) -> list[Path]:
    found = []
    for directory, directories, files in os.walk(standard_library):
        directories[:] = [name for name in directories if name.isidentifier() and name not in _SKIPPED_DIRECTORIES]
        found += [Path(directory, name) for name in files if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(standard_library).parts)


def _parse(path: Path) -> ast.Module | None:
    """The syntax tree of a file; None for one that can't be read or parsed (some are broken on purpose)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _docstrings_of(tree: ast.Module) -> Iterator[str]:
    """Non-empty docstrings of the module, its classes and functions, in source order."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    for node in nodes:
        text = (ast.get_docstring(node) or "").strip()
        if text and _is_writable(text):
            yield text


def _topics(standard_library: Path) -> Iterator[Passage]:
    """The topics of ``help()``, from the dictionary in ``pydoc_data/topics.py``; none where that is absent."""
    tree = _parse(standard_library / _TOPICS)
    for statement in tree.body if tree else ():
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for name, text in ast.literal_eval(statement.value).items():
                if _is_writable(text):
                    yield Passage(f"topics.{name}", cleandoc(text).strip())


def _is_writable(text: str) -> bool:
    """Whether a text can be written as UTF-8 and holds no NUL: a docstring is free to hold a lone surrogate."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


# Splitting.


def _heldout_shares(passages: Iterable[Passage]) -> dict[str, float]:
    """A stable number in [0, 1) for each normalized text: below a corpus's held-out fraction means held out.

    Texts that share a paragraph of at least MINIMUM_CHARACTERS form a group, and a group has one number, the hash
    of one of its texts. So equal texts stay together wherever they stand, and no such paragraph (nor a whole text of
    that length) of a held-out text stands inside one that is trained on. Always trained on (1.0) are shorter texts
    ("Close the socket."), which stand inside many others, and groups above LARGEST_HELDOUT_GROUP.
    """
    paragraphs_of = {passage.normalized: passage.paragraphs for passage in passages}
    texts = sorted(text for text in paragraphs_of if len(text) >= MINIMUM_CHARACTERS)
    group_of = _groups({text: paragraphs_of[text] for text in texts})
    sizes: Counter[str] = Counter()
    for text, group in group_of.items():
        sizes[group] += len(text)
    shares = {group: _unit_hash(group) if size <= LARGEST_HELDOUT_GROUP else 1.0 for group, size in sizes.items()}
    return {text: shares[group_of[text]] if text in group_of else 1.0 for text in paragraphs_of}


def _unit_hash(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _groups(paragraphs_of: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """A representative text for each text, the same for two texts if one contains the other or a paragraph of it.

    A paragraph can stand only where its first MINIMUM_CHARACTERS do, so one dictionary look-up per position of
    the text finds all that may stand there. Shorter paragraphs don't count.
    """
    owner_by_prefix: dict[str, dict[str, str]] = {}
    for text, paragraphs in paragraphs_of.items():
        for part in (text, *paragraphs):
            if len(part) >= MINIMUM_CHARACTERS:
                owner_by_prefix.setdefault(part[:MINIMUM_CHARACTERS], {}).setdefault(part, text)
    parent = {text: text for text in paragraphs_of}

    def root(text: str) -> str:
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for text in paragraphs_of:
        for start in range(len(text) - MINIMUM_CHARACTERS + 1):
            for part, owner in owner_by_prefix.get(text[start : start + MINIMUM_CHARACTERS], {}).items():
                if text.startswith(part, start):
                    first, second = sorted((root(text), root(owner)))
                    parent[second] = first
    return {text: root(text) for text in paragraphs_of}


# The two corpora.


def _labelled_texts(docstrings: list[Passage]) -> dict[str, str]:
    """Package of each normalized text that is long enough and stands in exactly one of PACKAGES."""
    packages_of: dict[str, set[str]] = {}
    for passage in docstrings:
        package = passage.module.partition(".")[0]
        if package in PACKAGES and len(passage.normalized) >= MINIMUM_CHARACTERS:
            packages_of.setdefault(passage.normalized, set()).add(package)
    # A text that two packages share has no right label, so it is left out rather than given to the first.
    return {text: next(iter(packages)) for text, packages in packages_of.items() if len(packages) == 1}


def _package_rows(labelled: dict[str, str], share_of: dict[str, float]) -> list[EmbeddedRow]:
    return [
        EmbeddedRow(
            "packages", "heldout" if share_of[text] < PACKAGES_HELDOUT else "train", {"text": text, "package": package}
        )
        # In an order that has nothing to do with the packages, so that the first so many rows are a fair sample.
        for text, package in sorted(labelled.items(), key=lambda item: hashlib.sha256(item[0].encode()).hexdigest())
    ]


def _documentation_rows(
    docstrings: list[Passage], topics: list[Passage], share_of: dict[str, float], labelled: dict[str, str]
) -> list[EmbeddedRow]:
    """A module gives up to two documents: of its docstrings that are trained on, and of those held out."""
    # All of a group goes where its held-out rows of the other corpus go.
    heldout_groups = {share_of[text] for text in labelled if share_of[text] < PACKAGES_HELDOUT}
    documents: dict[tuple[str, Literal["train", "heldout"]], list[str]] = {}
    for passage in docstrings + topics:
        share = share_of[passage.normalized]
        heldout = share < DOCUMENTATION_HELDOUT or share in heldout_groups
        documents.setdefault((passage.module, "heldout" if heldout else "train"), []).append(passage.text)
    return [
        EmbeddedRow("documentation", split, {"text": "\n\n".join(texts), "module": module})
        for (module, split), texts in documents.items()
    ]


# The cache: a line with the checksum of the rest, then one JSON array per row.


def _cached_rows(standard_library: Path, cache: Path | None) -> list[EmbeddedRow]:
    if cache is None:
        return extract_rows(standard_library)
    path = cache / f"embedded-{_cache_key(standard_library)}.jsonl"
    rows = _read_cache(path)
    if rows is None:
        rows = extract_rows(standard_library)
        _write_cache(path, rows)
    return rows


def _cache_key(standard_library: Path) -> str:
    """A hash of the Python version and of every source's path, size and time of change."""
    digest = hashlib.sha256(f"{_EXTRACTION} {sys.version} {standard_library}".encode())
    for path in [*_source_files(standard_library), standard_library / _TOPICS]:
        status = path.stat() if path.exists() else None
        digest.update(repr((str(path), status and (status.st_size, status.st_mtime_ns))).encode())
    return digest.hexdigest()[:20]


def _read_cache(path: Path) -> list[EmbeddedRow] | None:
    """The rows of a cache file; None where it is missing, unreadable or damaged."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if checksum.decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
        return None
    return [EmbeddedRow(*json.loads(line)) for line in body.splitlines()]


def _write_cache(path: Path, rows: list[EmbeddedRow]) -> None:
    """Writes a file beside its place, then renames it. A cache that can't be written costs time, nothing else."""
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    except OSError:
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
