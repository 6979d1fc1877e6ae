"""What all tests share: real data, a cache for compiled programs, and a small machine."""

from __future__ import annotations

import gc
import os
import pathlib

import pytest
from support.compilation import xla_flags
from support.shapes import check_shapes

ROOT = pathlib.Path(__file__).parent.parent

os.environ["JAX_PLATFORMS"] = "cpu"
# Small programs are cached too, so that a second run of the suite, and every process it starts, compiles little.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("XLA_FLAGS", xla_flags())
# XLA says of every program out of the cache that it was compiled with preferences that no processor has.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

check_shapes()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first, so that neither process is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Tracing makes objects by the hundred thousand, among which a tenth of the time went into looking for cycles.

    What is imported by now stays to the end, and a module's programs are collected after it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The directory with the real data that tests read."""
    directory = pathlib.Path(os.environ.get("JAXFT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not directory.is_dir():
        pytest.skip(f"the test data is not at {directory}; set JAXFT_TEST_DATA to its directory")
    return directory


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory):
    """A cache of the session's own, so that no test reads what an earlier run of the suite left."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFT_CACHE", str(directory))
        yield directory


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """Those of a module are let go after it: those of all tests together would hold gigabytes."""
    import jax

    yield
    jax.clear_caches()
    gc.collect()
