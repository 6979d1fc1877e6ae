"""What computes: the packages that decide over numbers, and jaxft's own code."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pathlib

import jaxft

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "sentencepiece",
    "array-record", "numpy",
)  # fmt: skip
# Compiles for TPUs, where it is installed.
_OPTIONAL = ("libtpu",)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the packages that jaxft computes with, by name."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    for name in _OPTIONAL:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code_digest() -> str:
    """16 hexadecimal digits of all Python files of jaxft, as a version may stand for many states of a checkout."""
    # The package's own path: this file may move from room to room.
    root, digest = pathlib.Path(jaxft.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
