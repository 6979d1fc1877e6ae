"""Compiled programs on disk, for processes that would compile the same ones."""

from __future__ import annotations

import jax

from jaxft.data.cache import cache_directory


def keep_compiled() -> None:
    """Keeps compiled programs in jaxft's cache directory, unless JAX was told where to keep them."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str((cache_directory() / "compiled").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
