"""Loading recipes, and those that come with jaxft."""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Iterable, Sequence

import yaml

from jaxft.errors import RecipeError
from jaxft.recipe.decoding import decode, encode
from jaxft.recipe.plugins import load_plugins
from jaxft.recipe.reading import Document, override, parse_document, read_document
from jaxft.recipe.schema import Recipe


def load_recipe(
    path: str | pathlib.Path, overrides: Sequence[str] = (), never_from: Iterable[str | pathlib.Path] = ()
) -> tuple[Recipe, Document]:
    """A recipe from a file, or by the name of one that comes with jaxft, with overrides applied and plug-ins loaded.

    Args:
      path: of the file, or the name.
      overrides: like `training.seed=1`.
      never_from: directories out of which no plug-in may be loaded, see `jaxft.recipe.plugins.load_plugins`.

    Returns:
      The recipe, and the document that tells where each key was written.

    Raises:
      RecipeError: it is missing or wrong.
    """
    found = pathlib.Path(path)
    if not found.exists():
        name = str(path).removesuffix(".yaml")
        if name not in names():
            raise RecipeError(
                f"{path}: no such recipe{_meant(name)}; `jaxft recipes ls` lists those that come with jaxft"
            )
        found = path_of(name)
    document = load_plugins(override(read_document(found), overrides), never_from)
    return decode(document, Recipe), document


def recipe_from_text(text: str, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from YAML text; relative paths of its plug-ins start from the directory of `name`."""
    return decode(load_plugins(override(parse_document(text, name), overrides)), Recipe)


def recipe_to_text(recipe: Recipe) -> str:
    """A recipe as YAML that decodes to the same recipe."""
    return yaml.safe_dump(encode(recipe), sort_keys=False, allow_unicode=True, width=100)


def directory() -> pathlib.Path:
    """Where the recipes of jaxft lie: inside the installed package, or beside it in a checkout."""
    package = pathlib.Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Names like `finetune/packages` of all recipes that come with jaxft."""
    return sorted(path.relative_to(directory()).with_suffix("").as_posix() for path in directory().rglob("*.yaml"))


def path_of(name: str) -> pathlib.Path:
    """File of a recipe that comes with jaxft.

    Raises:
      RecipeError: there is none of this name; the nearest is named.
    """
    known, name = names(), name.removesuffix(".yaml")
    if name not in known:
        raise RecipeError(f"{name!r} is not a recipe of jaxft{_meant(name)}; `jaxft recipes ls` lists them")
    return directory() / f"{name}.yaml"


def _meant(name: str) -> str:
    """The recipes of jaxft that a name may mean, for a message: the nearest, or all whose last part is."""
    known = names()
    last = [one.rpartition("/")[2] for one in known]
    near = difflib.get_close_matches(name, known, 1, 0.8)
    if not near:
        nearest = difflib.get_close_matches(name.rpartition("/")[2], last, 1, 0.7)
        near = [one for one, part in zip(known, last, strict=True) if part in nearest]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def summary_of(name: str) -> str:
    """The first comment line of a recipe."""
    first = path_of(name).read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()
