"""A million rows of which one in twenty is broken, in twenty ways: every one counted by its kind, in flat memory.

python tests/benchmarks/defects.py --rows 1000000
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import resource
import tempfile
import time

import numpy as np

from jaxft.data.preparing import BadRowsConfig, Preparation, open_or_build
from jaxft.data.sources import SourceConfig, scan_rows
from jaxft.data.tokenizers import SentencePieceConfig, train_tokenizer
from jaxft.models.config import ModelConfig
from jaxft.objectives.objective import ObjectiveContext
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig
from jaxft.reporting.tables import text_table

# A line, and the reason by which it is counted.
_DEFECTS: list[tuple[bytes, str]] = [
    (b'{"text": "cut off", "label"', "malformed_json"),
    (b'{"text": "single quotes", \'label\': "a"}', "malformed_json"),
    (b'{"text": "a comma too many", "label": "a",}', "malformed_json"),
    (b'{"text": "x", "label": "a"} {"text": "y", "label": "a"}', "malformed_json"),
    (b'{"text": "x", "text": "y", "label": "a"}', "duplicate_key"),
    (b'{"text": "x", "label": "a", "score": NaN}', "not_a_number"),
    (b'{"text": "x", "label": "a", "score": -Infinity}', "not_a_number"),
    (b'{"text": "half \\ud83d of a pair", "label": "a"}', "lone_surrogate"),
    (b'{"text": "a NUL \\u0000 escaped", "label": "a"}', "nul"),
    (b'{"text": "a raw \x00 byte", "label": "a"}', "nul"),
    (b'{"text": "latin \xe9t\xe9", "label": "a"}', "not_utf8"),
    (b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b', "label": "a"}', "too_deep"),
    (b'["text", "label"]', "not_an_object"),
    (b'"text"', "not_an_object"),
    (b'{"txt": "the wrong name", "label": "a"}', "missing_column"),
    (b'{"text": "no label"}', "missing_column"),
    (b'{"text": 17, "label": "a"}', "not_text"),
    (b'{"text": " \\t\\n", "label": "a"}', "empty_text"),
    (b'{"text": "a label from elsewhere", "label": "z"}', "unknown_label"),
    (b'{"text": "half a label", "label": 0.5}', "not_a_label"),
]


def _write(path: pathlib.Path, rows: int) -> collections.Counter[str]:
    """Writes the rows; how many of each kind are broken."""
    rng = np.random.default_rng(0)
    counts: collections.Counter[str] = collections.Counter()
    broken = rng.random(rows) < 0.05
    kinds = rng.integers(len(_DEFECTS), size=rows)
    with path.open("wb") as file:
        for number in range(rows):
            if broken[number]:
                line, reason = _DEFECTS[kinds[number]]
                counts[reason] += 1
            else:
                line = json.dumps({"text": f"row {number} of many rows", "label": "ab"[number % 2]}).encode()
            file.write(line + b"\n")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        expected = _write(directory / "rows.jsonl", options.rows)
        config = SentencePieceConfig(vocab_size=40)
        tokenizer = train_tokenizer([f"row {i} of many rows" for i in range(1000)], config, directory / "tokenizer")
        setting = ObjectiveContext(tokenizer, ModelConfig(), "task")
        objective = SequenceClassification(SequenceClassificationConfig(labels=("a", "b")), setting)
        source = SourceConfig(jsonl=(str(directory / "rows.jsonl"),))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        store = open_or_build(
            directory / "store",
            lambda: scan_rows(source, directory),
            objective.fields,
            tokenizer,
            "rows",
            Preparation(BadRowsConfig("quarantine", 0.1)),
        )
        seconds = time.perf_counter() - started
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        rows = [(reason, expected[reason], store.bad.get(reason, 0)) for reason in sorted({*expected, *store.bad})]
        rows += [("good", options.rows - expected.total(), len(store)), ("all", options.rows, store.rows)]
        print(text_table(("kind", "written", "counted"), rows))
        print(f"\n{options.rows / seconds:,.0f} rows/s; memory grew by {grown:.0f} MiB")
        assert store.bad == dict(expected) and len(store) + expected.total() == options.rows == store.rows


if __name__ == "__main__":
    main()
