"""How long a run over a huge store takes to start, and how much memory its plan needs.

    python tests/benchmarks/index.py --records 1000000000

Makes an index of lengths (a file of 4 bytes a record; no texts), plans its rows as training does, and asks for the rows
of batches far apart.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import tempfile
import time

import numpy as np

from jaxft.data.windows import WindowedPlan
from jaxft.reporting.tables import text_table

_BLOCK = 1 << 24


def _index(path: pathlib.Path, records: int) -> np.ndarray:
    lengths = np.lib.format.open_memmap(path, "w+", np.int32, (records,))
    rng = np.random.default_rng(0)
    block = np.clip(rng.lognormal(5, 1.2, min(_BLOCK, records)), 1, 20_000).astype(np.int32)
    for start in range(0, records, _BLOCK):
        part = lengths[start : start + _BLOCK]
        part[:] = np.roll(block, int(rng.integers(len(block))))[: len(part)]
    lengths.flush()
    return np.load(path, mmap_mode="r")


def _peak() -> float:
    """Largest memory of this process so far, in GB; pages of the index that the system keeps are not its own."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _private() -> float:
    """Memory of this process now without pages of files, in GB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000_000)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        lengths = _index(pathlib.Path(directory) / "lengths.npy", options.records)
        before = _private()
        started = time.perf_counter()
        plan = WindowedPlan(lengths, options.length, options.length - 2, lambda n: n + 2, pack=True, truncate=False)
        planned = time.perf_counter() - started
        asked = []
        for step in (0, len(plan) // 512, len(plan) // 2, len(plan) - 256):
            started = time.perf_counter()
            rows = plan.shuffled(np.arange(step, step + 256), (0, 0))
            pieces = sum(len(plan.row(row)) for row in rows.tolist())
            asked.append(time.perf_counter() - started)
            assert pieces >= 256
        rows = [
            ("records", options.records),
            ("rows", len(plan)),
            ("fill", plan.fill),
            ("seconds to plan", planned),
            ("seconds for a first batch", asked[0]),
            ("seconds for a batch far away", max(asked[1:])),
            ("GB of its own", _private() - before),
            ("GB at most, with pages of the index", _peak()),
        ]
        print(text_table(("", "found"), rows))


if __name__ == "__main__":
    main()
