"""The package keeps the rule of the house, and the rule sees what breaks it."""

from __future__ import annotations

import pathlib

import pytest
from rule import FLOORS, FUNCTION_LINES, MODULE_LINES, WORKFLOWS, broken_rules, imports_of, read_modules

import jaxft

PACKAGE = pathlib.Path(jaxft.__file__).parent

# A house that keeps the rule, with everything near to breaking it that is allowed.
HOUSE = {
    "__init__.py": "from made.parallel.mesh import Mesh\n",
    "errors.py": "",
    "parallel/__init__.py": "",
    "parallel/mesh.py": 'from made.errors import Error\n\n\nclass Mesh:\n    """A mesh."""\n\n    def f(self): ...\n',
    "reporting/__init__.py": "",
    "reporting/tables.py": "import json\n\n\ndef _aligned(): ...\n",
    "data/__init__.py": "from made.data.store import Store\n",
    "data/store.py": 'from ..parallel import mesh\n\n\nclass Store:\n    """A store."""\n',
    "data/sources/__init__.py": "",
    "data/sources/rows.py": "from made.data.store import Store\n",
    "models/__init__.py": "",
    "models/model.py": "from made import data\nfrom made.errors import Error\n",
    "recipe/__init__.py": "",
    "recipe/schema.py": "import made.models.model\n",
    "workflows/__init__.py": "",
    "workflows/runs/__init__.py": "",
    "workflows/runs/directory.py": "import made\n",
    "workflows/weights/__init__.py": "",
    "workflows/weights/loading.py": "from made.workflows.runs import directory\n",
    "workflows/assembly/__init__.py": "",
    "workflows/assembly/assemble.py": "from made.workflows.weights.loading import load\n",
    "workflows/inference/__init__.py": "",
    "workflows/inference/chat.py": "",
    "workflows/launch.py": "from made.workflows.assembly import assemble\nfrom made.recipe.schema import Recipe\n",
    "cli/__init__.py": "",
    "cli/main.py": "from made.workflows.launch import launch\n",
    "__main__.py": "from made.cli.main import main\n",
}

LONGEST = '"""Of a function that is just short enough."""\n\n\ndef _long():\n' + "    pass\n" * (FUNCTION_LINES - 1)


def built(directory: pathlib.Path, changes: dict[str, str]) -> pathlib.Path:
    """The house with files changed or added; each has a docstring unless it brings its own."""
    package = directory / "made"
    for name, text in (HOUSE | changes).items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.startswith(('"""', "#")) else f'"""Something."""\n{text}')
    return package


def test_the_package_keeps_the_rule():
    found = broken_rules(PACKAGE)
    assert not found, "\n" + "\n".join(found)


def test_the_rule_sees_the_whole_package():
    """It would find nothing in a package that it cannot read."""
    modules = read_modules(PACKAGE)
    assert len(modules) == len(list(PACKAGE.rglob("*.py"))) > 300
    imported = {
        (one.importer.path.name, one.imported.path.name) for m in modules.values() for one in imports_of(m, modules)
    }
    assert {("step.py", "balance.py"), ("main.py", "errors.py"), ("train.py", "run_directory.py")} <= imported


def test_every_room_has_one_floor():
    for floors in (FLOORS, WORKFLOWS):
        rooms = [room for floor in floors for room in floor]
        assert len(rooms) == len(set(rooms))


def test_a_house_that_keeps_the_rule_has_no_faults(tmp_path):
    longest = {"models/layers.py": LONGEST + "\n" * (MODULE_LINES - len(LONGEST.splitlines()))}
    assert broken_rules(built(tmp_path, longest)) == []


# Ways to say that data imports models: lines of data/store.py, the last one of which does.
FORMS = {
    "from a module": "from made.models.model import Model",
    "from the package": "from made import models",
    "by another name": "import made.models.model as own",
    "from two floors up": "from ..models.model import Model",
    "the room itself, from two floors up": "from .. import models",
    "in a function": "def _f():\n    from made.models import model",
    "for types alone": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from made.models.model import Model",
    "by its name as a text": "import importlib\n\nown = importlib.import_module('made.models.model')",
    "if it can be": "try:\n    pass\nexcept ImportError:\n    import made.models",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_import_counts(tmp_path, form):
    found = broken_rules(built(tmp_path, {"data/store.py": FORMS[form]}))
    line = len(FORMS[form].splitlines()) + 1
    assert f"made/data/store.py:{line}: data imports models, which is on a floor above" in found
    # What else is said is of the circle that it closes.
    assert all(" is a circle (" in line for line in found[1:])


UPWARD = [
    ("data/sources/rows.py", "from made.models import model", "data imports models, which is on a floor above"),
    ("data/sources/__init__.py", "from ...models import model", "data imports models, which is on a floor above"),
    ("reporting/tables.py", "from made.parallel import mesh", "reporting imports parallel, which is on the same floor"),
    ("errors.py", "from made.reporting import tables", "errors imports reporting, which is on a floor above"),
    ("models/model.py", "from made.recipe.schema import Recipe", "models imports recipe, which is on a floor above"),
    ("recipe/schema.py", "from made.workflows import launch", "recipe imports workflows, which is on a floor above"),
    ("cli/main.py", "from made import __main__", "cli imports __main__, which is on a floor above"),
    (
        "workflows/weights/loading.py",
        "from made.workflows.assembly.assemble import assemble",
        "workflows/weights imports workflows/assembly, which is on a floor above",
    ),
    (
        "workflows/assembly/assemble.py",
        "from made.workflows.inference.chat import chat",
        "workflows/assembly imports workflows/inference, which is on the same floor",
    ),
    (
        "workflows/runs/directory.py",
        "from .. import launch",
        "workflows/runs imports workflows/launch, which is on a floor above",
    ),
]


@pytest.mark.parametrize(("name", "text", "told"), UPWARD)
def test_an_import_that_is_not_of_a_floor_below_is_named(tmp_path, name, text, told):
    found = broken_rules(built(tmp_path, {name: text}))
    assert f"made/{name}:2: {told}" in found
    assert all(" is a circle (" in line for line in found[1:])


CIRCLES = {
    "two files": (
        {"data/a.py": "from made.data import b", "data/b.py": "from made.data.a import f"},
        "made/data: a > b is a circle (made/data/a.py:2 imports b, made/data/b.py:2 imports a)",
    ),
    "three files, one in a function, one for types": (
        {
            "data/b.py": "from made.data import c",
            "data/c.py": "def _f():\n    from made.data import a",
            "data/a.py": FORMS["for types alone"].replace("models.model", "data.b"),
        },
        "a > b > c is a circle (made/data/a.py:5 imports b, made/data/b.py:2 imports c, made/data/c.py:3 imports a)",
    ),
    "a file and a folder, by way of different files": (
        {
            "data/pack.py": "from made.data.sources import one",
            "data/sources/one.py": "",
            "data/sources/two.py": "from .. import pack",
        },
        "made/data: pack > sources is a circle "
        "(made/data/pack.py:2 imports sources, made/data/sources/two.py:2 imports pack)",
    ),
    "a folder's own file": (
        {"data/store.py": "import made.data"},
        "made/data: __init__ > store is a circle "
        "(made/data/__init__.py:2 imports store, made/data/store.py:2 imports __init__)",
    ),
    "deep down": (
        {
            "workflows/plan/__init__.py": "",
            "workflows/plan/a.py": "from . import b",
            "workflows/plan/b.py": "from .a import f",
        },
        "made/workflows/plan: a > b is a circle",
    ),
}


@pytest.mark.parametrize("kind", CIRCLES)
def test_a_circle_is_named_with_the_lines_that_close_it(tmp_path, kind):
    changes, told = CIRCLES[kind]
    (line,) = broken_rules(built(tmp_path, changes))
    assert told in line


def test_every_circle_is_named_once(tmp_path):
    pairs = {f"data/{a}.py": f"from made.data import {b}" for a, b in ("ab", "ba", "cd", "dc")}
    assert len(broken_rules(built(tmp_path, pairs))) == 2


LONG_METHOD = "class _A:\n    async def f(self):\n" + "        pass\n" * FUNCTION_LINES
# A file, what it says, and what is said of it.
ELSE = {
    "a long function": ("data/store.py", LONGEST + "    pass\n", "store.py:4: _long has 61 lines"),
    "a long method": ("data/store.py", LONG_METHOD, "store.py:3: f has 61 lines, where a function has at most 60"),
    "a long module": ("data/store.py", "\n" * MODULE_LINES, "store.py: 401 lines, where a module has at most 400"),
    "a drawer": ("data/utils.py", "", "made/data/utils.py: 'utils' names no concept"),
    "a drawer that hides": ("data/_helpers.py", "", "made/data/_helpers.py: '_helpers' names no concept"),
    "a folder of drawers": ("data/common/one.py", "", "made/data/common/one.py: 'common' names no concept"),
    "a silent function": ("data/store.py", "def f(): ...", "made/data/store.py:2: public f has no docstring"),
    "a silent class": ("data/store.py", "class A: ...", "made/data/store.py:2: public A has no docstring"),
    "a silent module": ("data/store.py", "# Nothing.\n", "made/data/store.py: the module has no docstring"),
    "a room without a floor": ("attic/box.py", "", "made/attic/box.py: no floor has a room 'attic'"),
    "a file without a floor": ("attic.py", "", "made/attic.py: no floor has a room 'attic'"),
    "a workflow without a floor": ("workflows/attic.py", "", "attic.py: no floor of workflows has a room 'attic'"),
}


@pytest.mark.parametrize("kind", ELSE)
def test_what_else_breaks_the_rule_is_named(tmp_path, kind):
    name, text, told = ELSE[kind]
    (line,) = broken_rules(built(tmp_path, {name: text}))
    assert told in line
