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
    """A function that checks its arguments and its result, where any of them is an array with a shape.

    What `jax.tree` puts into trees in the place of arrays has no shape, so making one of our trees checks nothing.
    """
    names_shapes = "jaxtyping." in repr(function.__annotations__)
    return beartype(function) if names_shapes and function.__name__ != "__init__" else function
