"""The rule of the house: what each room may import, how large a thing may be, and what it must say.

A room is a folder of the package. It imports from the floors below its own: never from its own floor or above, and
never in a circle. An import inside a function, or for types alone, counts like any other.
"""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import pathlib
from collections.abc import Iterator

# Bottom to top. What stands on one floor does not know of the others there.
FLOORS = (
    ("errors",),
    ("extension",),
    ("parallel", "reporting"),
    ("data", "kernels", "checkpoint"),
    ("models",),
    ("objectives", "generation", "finetuning", "huggingface"),
    ("training", "serving"),
    ("evaluation", "compression", "insight", "planning"),
    ("recipe",),
    # What plug-ins register themselves by: it reaches into the rooms that are open to them.
    ("launching", "board", "plugins"),
    ("workflows",),
    ("cli",),
    ("__main__",),
)
# The same within `workflows`.
WORKFLOWS = (
    ("runs",),
    ("weights",),
    ("assembly", "inference"),
    ("prepare", "train", "plan"),
    ("compare", "tune", "compress", "explain", "audit", "improve", "pipeline", "launch", "doctor"),
)
FUNCTION_LINES, MODULE_LINES = 60, 400
JUNK = frozenset({"utils", "util", "utilities", "helpers", "helper", "common", "misc", "shared", "stuff"})


@dataclasses.dataclass(frozen=True)
class Module:
    """A file of the package.

    Attributes:
      parts: of its dotted name; those of the folder for an `__init__.py`.
      path: below the folder that holds the package.
      lines: how many it has.
      tree: what it says.
      is_package: whether it is an `__init__.py`.
    """

    parts: tuple[str, ...]
    path: pathlib.PurePath
    lines: int
    tree: ast.Module
    is_package: bool

    def child_of(self, folder: tuple[str, ...]) -> str:
        """The file or folder just below `folder` that this is or lies in."""
        return self.parts[len(folder)] if len(self.parts) > len(folder) else "__init__"


@dataclasses.dataclass(frozen=True)
class Import:
    """One module's import of another, and the line that it stands on."""

    importer: Module
    imported: Module
    line: int

    @property
    def place(self) -> str:
        """Where it stands, for a message."""
        return f"{self.importer.path}:{self.line}"


def broken_rules(package: pathlib.Path) -> list[str]:
    """Each place where a package breaks the rule, as a line that names the file, what was found and what is allowed."""
    modules = read_modules(package)
    imports = [found for module in modules.values() for found in imports_of(module, modules)]
    found = [*_without_floor(modules), *_upward(imports), *_circles(imports)]
    for module in modules.values():
        found += [*_too_long(module), *_misnamed(module), *_undocumented(module)]
    return list(dict.fromkeys(found))


def read_modules(package: pathlib.Path) -> dict[tuple[str, ...], Module]:
    """All files of a package, by the parts of their names."""
    modules = {}
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package.parent)
        is_package = path.name == "__init__.py"
        parts = path.parts[:-1] if is_package else path.with_suffix("").parts
        text = file.read_text(encoding="utf-8")
        modules[parts] = Module(parts, path, len(text.splitlines()), ast.parse(text), is_package)
    return modules


def imports_of(module: Module, modules: dict[tuple[str, ...], Module]) -> Iterator[Import]:
    """What a module imports of its own package, wherever it does so."""
    for node in ast.walk(module.tree):
        for name in _imported_names(node, module):
            # Of `from a.b import c`, c is a module or something within a.b.
            known = next((name[:stop] for stop in range(len(name), 0, -1) if name[:stop] in modules), None)
            if known is not None and modules[known] is not module:
                yield Import(module, modules[known], node.lineno)


def _imported_names(node: ast.AST, module: Module) -> list[tuple[str, ...]]:
    match node:
        case ast.Import(names=names):
            return [tuple(alias.name.split(".")) for alias in names]
        case ast.ImportFrom(module=source, names=names, level=level):
            above = len(module.parts) - level + module.is_package
            start = module.parts[:above] if level else ()
            base = (*start, *(source.split(".") if source else ()))
            return [(*base, alias.name) for alias in names]
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [tuple(name.split("."))]
    return []


def _floor(name: str, floors: tuple[tuple[str, ...], ...]) -> int | None:
    return next((number for number, floor in enumerate(floors) if name in floor), None)


def _without_floor(modules: dict[tuple[str, ...], Module]) -> Iterator[str]:
    for module in modules.values():
        match module.parts:
            case (_, "workflows", room, *_) if _floor(room, WORKFLOWS) is None:
                yield f"{module.path}: no floor of workflows has a room {room!r}"
            case (_, room, *_) if _floor(room, FLOORS) is None:
                yield f"{module.path}: no floor has a room {room!r}"


def _upward(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        here, there = found.importer.parts[1:], found.imported.parts[1:]
        floors, prefix = FLOORS, ""
        if here[:1] == there[:1] == ("workflows",):
            here, there, floors, prefix = here[1:], there[1:], WORKFLOWS, "workflows/"
        # The package itself holds its version and stands on no floor.
        if not here or not there or here[0] == there[0]:
            continue
        own, other = _floor(here[0], floors), _floor(there[0], floors)
        if own is not None and other is not None and other >= own:
            where = "on the same floor" if other == own else "on a floor above"
            yield f"{found.place}: {prefix}{here[0]} imports {prefix}{there[0]}, which is {where}"


def _circles(imports: list[Import]) -> Iterator[str]:
    """Among the files and folders of each folder, where any circle of files shows as one of its children."""
    files = {found.importer.parts for found in imports}
    for folder in sorted({parts[:depth] for parts in files for depth in range(1, len(parts) + 1)}):
        edges: dict[str, dict[str, Import]] = {}
        for found in imports:
            if found.importer.parts[: len(folder)] == found.imported.parts[: len(folder)] == folder:
                here, there = found.importer.child_of(folder), found.imported.child_of(folder)
                if here != there:
                    edges.setdefault(here, {}).setdefault(there, found)
        for circle in _circles_among(edges):
            steps = ", ".join(f"{edges[a][b].place} imports {b}" for a, b in circle)
            yield f"{'/'.join(folder)}: {' > '.join([a for a, _ in circle])} is a circle ({steps})"


def _circles_among(edges: dict[str, dict[str, Import]]) -> list[list[tuple[str, str]]]:
    """Circles as pairs of neighbours, each from its first name on, until none is left."""
    left, circles = {here: sorted(theirs) for here, theirs in sorted(edges.items())}, []
    while True:
        try:
            graphlib.TopologicalSorter(left).prepare()
        except graphlib.CycleError as error:
            # It goes from what is imported to what imports it, and ends where it begins.
            names = error.args[1][:0:-1]
            first = names.index(min(names))
            names = [*names[first:], *names[:first]]
            circles.append(list(zip(names, [*names[1:], names[0]], strict=True)))
            left[names[0]].remove(names[1])
        else:
            return circles


def _too_long(module: Module) -> Iterator[str]:
    if module.lines > MODULE_LINES:
        yield f"{module.path}: {module.lines} lines, where a module has at most {MODULE_LINES}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                where = f"{module.path}:{node.lineno}: {node.name}"
                yield f"{where} has {lines} lines, where a function has at most {FUNCTION_LINES}"


def _misnamed(module: Module) -> Iterator[str]:
    for part in module.parts:
        if part.strip("_").lower() in JUNK:
            yield f"{module.path}: {part!r} names no concept"


def _undocumented(module: Module) -> Iterator[str]:
    if not ast.get_docstring(module.tree):
        yield f"{module.path}: the module has no docstring"
    for node in module.tree.body:
        is_definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if is_definition and not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"{module.path}:{node.lineno}: public {node.name} has no docstring"
