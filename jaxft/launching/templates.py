"""The templates in `launch/`, and how values are written into scripts and YAML so that they stay values."""

from __future__ import annotations

import base64
import json
import pathlib
import re
import shlex
import textwrap
from collections.abc import Iterable
from typing import Any

import jinja2

# Not allowed in YAML as they are, or taken for ends of lines.
_UNWRITABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def directory() -> pathlib.Path:
    """Where the templates lie: inside the installed package, or beside it in a checkout."""
    package = pathlib.Path(__file__).parent.parent
    installed = package / "launch"
    return installed if installed.is_dir() else package.parent / "launch"


def render(name: str, **values: Any) -> str:
    """A template with its values in it.

    Args:
      name: of its file.
      values: what it speaks of; all of them must be there.
    """
    loader = jinja2.FileSystemLoader(directory())
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    environment.filters |= {"shell": shell, "yaml": as_yaml, "base64": as_base64}
    return environment.get_template(name).render(**values)


def shell(words: str | Iterable[str]) -> str:
    """A word, or several, as bash reads them again."""
    return _word(words) if isinstance(words, str) else " ".join(map(_word, words))


def _word(word: str) -> str:
    if not _CONTROL.search(word):
        return shlex.quote(word)
    # On one line, so that it also fits into a block of YAML.
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", escaped) + "'"


def as_yaml(value: Any) -> str:
    """A value in YAML, on one line."""
    return _UNWRITABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def as_base64(text: str) -> str:
    """A text in letters that mean nothing to a shell."""
    return "\n".join(textwrap.wrap(base64.b64encode(text.encode()).decode(), 76))
