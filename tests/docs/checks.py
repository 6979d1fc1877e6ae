"""What is checked of code that a page shows: Python, recipes, commands, names, paths and links."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import io
import json
import pathlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from pages import ROOT, Block, Page

from jaxft.cli import main
from jaxft.errors import JaxftError
from jaxft.recipe import library
from jaxft.recipe.decoding import decode
from jaxft.recipe.plugins import load_plugins
from jaxft.recipe.reading import Document, override, parse_document, read_document
from jaxft.recipe.schema import Recipe
from jaxft.workflows.compare.trials import check_comparison


class WrongDocumentation(AssertionError):
    """A page says what is not so."""


def look_up(text: str, place: str, names: dict[str, Any]) -> None:
    """Checks Python that is not run: its imports are made, and what it names and calls of them is there.

    Args:
      text: the code.
      place: where it stands.
      names: known before; imports are added.
    """
    tree = ast.parse(text, place)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), place, "exec"), names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _named(node, names, place)
        if isinstance(node, ast.Call):
            called = _named(node.func, names, place)
            if called is not None:
                try:
                    inspect.signature(called).bind(*node.args, **{one.arg: one.value for one in node.keywords})
                except TypeError as error:
                    raise WrongDocumentation(f"{place}: {ast.unparse(node)}: {error}") from None


def _named(node: ast.expr, names: dict[str, Any], place: str) -> Any:
    """What a name with attributes stands for; None for what would have to run first."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not isinstance(node, ast.Attribute) or (owner := _named(node.value, names, place)) is None:
        return None
    if not hasattr(owner, node.attr):
        raise WrongDocumentation(f"{place}: {ast.unparse(node)}: there is no {node.attr}")
    return getattr(owner, node.attr)


def check_recipe(block: Block, base: Document) -> None:
    """Decodes a recipe, or a part of one that is put into `base`.

    A part has keys of a recipe, keys of a stream, or names of streams with theirs.
    """
    value = parse_document(block.text, block.place).value
    if not {"name", "model", "streams"} <= value.keys():
        first = next(iter(base.value["streams"].values()))
        if not value.keys() & Recipe.__dataclass_fields__.keys():
            parts = {"part": value} if value.keys() & {"source", "objective"} else value
            value = {"streams": {name: _kept(first, part) | part for name, part in parts.items()}}
        streams = {**base.value["streams"], **value.get("streams", {})}
        value = base.value | value | {"streams": streams}
    # Plug-ins lie in the working directory.
    document = load_plugins(Document(block.place, value, {}))
    recipe = decode(document, Recipe)
    if recipe.compare is not None:
        check_comparison(recipe, document)


def _kept(stream: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Of a stream, what a part of one leaves as it is."""
    sizes = {"batch_size", "share"}
    return {key: value for key, value in stream.items() if not (key in sizes and sizes & part.keys())}


def check_command(words: list[str], place: str) -> None:
    """Parses a command's words as the command line does, and applies what it overrides to a recipe of jaxft."""
    try:
        options = main._parsed(words)
    except SystemExit:
        raise WrongDocumentation(f"{place}: jaxft {' '.join(words)}: the command line refuses it") from None
    if getattr(options, "recipe", None) in library.names():
        library.load_recipe(options.recipe, options.overrides)


def wrong_codes(page: Page) -> Iterator[str]:
    """Code within lines that names what is not there: verbs, extras, paths, Python's names, keys of a recipe."""
    for code in page.codes:
        problem = None
        if match := re.fullmatch(r"(?:\.|jaxft)?\[([\w-]+)\]", code):
            problem = None if match[1] in _extras() else "no such extra"
        elif code.startswith("jaxft "):
            problem = _verb_problem(code.split()[1:])
        elif match := re.match(r"python (\S+\.py)(.*)", code):
            problem = _script_problem(ROOT / match[1], match[2])
        elif re.match(r"(?:jaxft|tests|configs|docs|launch)/[\w./-]+$", code):
            problem = None if (ROOT / code).exists() else "no such file"
        elif match := re.match(r"(jaxft(?:\.\w+)+)", code):
            problem = _name_problem(match[1])
        elif re.match(r"[a-z_.]+=\S", code):
            problem = _override_problem(code.split())
        elif re.match(r"[a-z_]+: \S", code):
            problem = _key_problem(code)
        if problem:
            yield f"{page.path.name}: `{code}`: {problem}"


def _extras() -> dict[str, list[str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def _verb_problem(words: list[str]) -> str | None:
    nested = words[:1] in (["data"], ["tokenizer"], ["recipes"])
    verb = words[: 2 if nested else 1]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main.run([*verb, "--help"])
        except SystemExit as error:
            return f"no verb {' '.join(verb)}" if error.code else None
    return "it has no help"


def _script_problem(path: pathlib.Path, options: str) -> str | None:
    if not path.is_file():
        return "no such file"
    text = path.read_text(encoding="utf-8")
    unknown = [option for option in re.findall(r"--[\w-]+", options) if f'"{option}"' not in text]
    return f"{path.name} has no {unknown[0]}" if unknown else None


def _name_problem(name: str) -> str | None:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        return str(error)
    return None


def _override_problem(words: list[str]) -> str | None:
    """Whether some recipe of jaxft takes these overrides."""
    for name in library.names():
        try:
            library.load_recipe(name, words)
        except JaxftError:
            continue
        return None
    return "no recipe takes this"


def _key_problem(code: str) -> str | None:
    """Whether some section of a recipe has these keys with such values."""
    value = parse_document(f"{{{code}}}", code).value
    if "..." in str(value) or any(isinstance(one, str) and one.isupper() for one in value.values()):
        return None  # told in general
    for base in _one_of_each_objective():
        for before, section in _SECTIONS:
            keys = [f"{section}{key}={json.dumps(one)}" for key, one in value.items()]
            try:
                decode(override(base, [*before, *keys]), Recipe)
            except JaxftError:
                continue
            return None
    return "no section of a recipe takes this"


# Of the recipes below: what else must be said for some keys to mean something, and what stands before a key.
_SECTIONS = (
    ((), ""),
    ((), "streams."),
    ((), "streams.replay."),
    (("streams.replay.batch_size=null",), "streams.replay."),
    (("streams.replay.source={text: any.txt}",), "streams.replay.source."),
    ((), "streams.replay.objective."),
    (("streams.replay.objective={kind: instruction, messages: messages}",), "streams.replay.objective."),
    ((), "evaluation.held_out."),
    ((), "finetuning."),
    (("finetuning.averaging.kind=uniform",), "finetuning.averaging."),
    (("tokenizer={train: {}}",), "tokenizer.train."),
    ((), "training."),
)


@functools.cache
def _one_of_each_objective() -> tuple[Document, ...]:
    """Recipes whose streams `task` and `replay` both have the objective that a recipe of jaxft has first."""
    found = {}
    for name in library.names():
        document = read_document(library.path_of(name))
        stream = next(iter(document.value["streams"].values()))
        parts = {
            "streams": {"task": stream, "replay": stream},
            "evaluation": {"held_out": {"source": {"text": "any.txt"}, "objective": stream["objective"]}},
            "compare": None,
        }
        found.setdefault(stream["objective"]["kind"], Document(name, document.value | parts, {}))
    return tuple(found.values())


def wrong_links(page: Page) -> Iterator[str]:
    """Links to files that are not there, or to headings that their page has not."""
    for link in page.links:
        target, _, heading = link.partition("#")
        path = (page.path.parent / target) if target else page.path
        if "://" in link:
            continue
        if not path.exists():
            yield f"{page.path.name}: {link}: no such file"
        elif heading and heading not in _headings(path):
            yield f"{page.path.name}: {link}: no such heading"


def _headings(path: pathlib.Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
