"""Checks the shapes that annotations of arrays name, in whatever the tests call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import install_import_hook

# Modules whose annotations are checked.
CHECKED = (
    "jaxft.kernels",
    "jaxft.models",
    "jaxft.objectives",
    "jaxft.training.loss_parts",
    "jaxft.training.start_divergence",
)


def check_shapes() -> None:
    """From here on, functions of these modules refuse arrays that are not what they say; before they are imported."""
    install_import_hook(CHECKED, "support.shapes.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that checks those of its arguments that are arrays with a shape, and its result if it is one.

    Nothing else, since a test may give it something that stands in for a model. What `jax.tree` puts into trees in the
    place of arrays has no shape, so making one of our trees checks nothing.
    """
    shapes = {name: hint for name, hint in function.__annotations__.items() if "jaxtyping." in repr(hint)}
    if not shapes or function.__name__ == "__init__":
        return function
    function.__annotations__ = shapes
    return beartype(function)
