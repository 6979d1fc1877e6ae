"""Tables of names: ours, and those that plug-ins add."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from jaxft.errors import RecipeError
from jaxft.extension.loading import Plugin, added_by

Entry = TypeVar("Entry")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class OpenTable(Mapping[str, Entry]):
    """What there is of a kind of thing, by name: ours first, then what plug-ins have added.

    Attributes:
      what: what its entries are, for messages: `objective`, say.
    """

    def __init__(self, what: str, own: Mapping[str, Entry]):
        self.what, self._own = what, dict(own)
        self._added: dict[str, tuple[Entry, Plugin]] = {}

    def __getitem__(self, name: str) -> Entry:
        return self._own[name] if name in self._own else self._added[name][0]

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._added

    def __len__(self) -> int:
        return len(self._own) + len(self._added)

    def add(self, name: str, entry: Entry, module: str) -> None:
        """Adds an entry of a plug-in.

        Args:
          name: what recipes call it.
          entry: the entry.
          module: where it was defined.

        Raises:
          RecipeError: the name is taken, or is none.
        """
        if not _NAME.fullmatch(name):
            raise RecipeError(f"{self.what} {name!r}: a name begins with a letter and has letters, digits, - and _")
        if name in self:
            of = "jaxft's own" if name in self._own else f"that of plug-in {self._added[name][1].reference}"
            raise RecipeError(f"{self.what} {name!r}: this name is {of}; choose another one")
        self._added[name] = entry, added_by(module, lambda: self._added.pop(name))

    def plugin(self, name: str) -> Plugin | None:
        """The plug-in that a name is of; None where it is ours, or there is none."""
        return self._added[name][1] if name in self._added else None

    def added(self) -> dict[str, Entry]:
        """What plug-ins have added."""
        return {name: entry for name, (entry, _) in self._added.items()}
