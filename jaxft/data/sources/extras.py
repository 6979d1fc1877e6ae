"""Optional packages, imported when a source first needs one."""

from __future__ import annotations

import importlib
from types import ModuleType

from jaxft.errors import RecipeError


def import_extra(module: str, extra: str, needed_for: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
      module: as in an import statement.
      extra: the extra of jaxft that installs it.
      needed_for: what can't be read without it, for the message.

    Raises:
      RecipeError: it can't be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RecipeError(
            f"{needed_for} needs the package {module}, which cannot be imported ({error}); "
            f"install it with: pip install 'jaxft[{extra}]'"
        ) from error
