"""Pages of Markdown as tests read them: fenced blocks with what is said of each, code within lines, and links."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A comment in the line before a block says how a test treats it:
#   <!-- not run: REASON -->  Python that cannot run here; its imports, names and calls are looked up all the same
#   <!-- run -->              commands, which are else parsed alone
#   <!-- file: NAME -->       a file, for the blocks after it
_NOTE = re.compile(r"<!-- (?:(?P<run>run)|not run: (?P<reason>.+)|file: (?P<file>\S+)) -->")
_FENCE = re.compile(r"^```(\S*)$")
_IN_LINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
      place: `FILE:LINE` of its first line.
      language: the word after the fence.
      text: what stands in it.
      runs: whether its commands are run.
      reason: why it is not run; empty where it is, or would be.
      file: what it is written to; empty for no file.
    """

    place: str
    language: str
    text: str
    runs: bool = False
    reason: str = ""
    file: str = ""


@dataclasses.dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
      path: of its file.
      blocks: fenced ones, in order.
      prose: its text without them; lines keep their numbers.
    """

    path: pathlib.Path
    blocks: tuple[Block, ...]
    prose: str

    @property
    def codes(self) -> list[str]:
        """Code within lines, each once."""
        return list(dict.fromkeys(" ".join(found.split("\n")) for found in _IN_LINE.findall(self.prose)))

    @property
    def links(self) -> list[str]:
        """Targets of its links, each once."""
        return list(dict.fromkeys(_LINK.findall(self.prose)))


def read_page(path: pathlib.Path) -> Page:
    """A page, from its file."""
    lines, prose, blocks = path.read_text(encoding="utf-8").splitlines(), [], []
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            prose.append(lines[number])
            number += 1
            continue
        stop = lines.index("```", number + 1)
        note = _NOTE.fullmatch(lines[number - 1]) if number else None
        said = {} if note is None else note.groupdict(default="")
        if note is not None:
            prose[-1] = ""
        blocks.append(
            Block(
                f"{path.name}:{number + 2}",
                fence[1],
                "".join(f"{line}\n" for line in lines[number + 1 : stop]),
                bool(said.get("run")),
                said.get("reason", ""),
                said.get("file", ""),
            )
        )
        prose += [""] * (stop + 1 - number)
        number = stop + 1
    return Page(path, tuple(blocks), "\n".join(prose))


def commands(block: Block) -> list[list[str]]:
    """The words of each command of jaxft in a block of a shell, without `jaxft`.

    In a block of a console, commands stand behind `$ ` and the rest is what they print.
    """
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    found = []
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        # Of `echo TEXT | jaxft chat MODEL > FILE` the part between the signs.
        for is_sign, words in itertools.groupby(lexer, lambda word: not word.strip("|&;<>")):
            part = list(words)
            if not is_sign and part[0] == "jaxft":
                found.append(part[1:])
    return found
