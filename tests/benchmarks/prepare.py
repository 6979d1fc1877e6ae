"""How fast `jaxft prepare` tokenizes, beside the tokenizer by itself, on one core each.

    python tests/benchmarks/prepare.py --data ../shared/data

The texts are those of the directory, cut into documents of some 2,000 characters and repeated. The tokenizer by itself
reads lists of texts out of memory; preparing reads JSON lines, checks them, tokenizes, and writes the store.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile
import time

from jaxft.data.preparing import Preparation, open_or_build
from jaxft.data.sources import SourceConfig, scan_rows
from jaxft.data.tokenizers import SentencePieceConfig, Tokenizer, WordPieceConfig, train_tokenizer
from jaxft.objectives.causal_lm import document_fields
from jaxft.reporting.tables import text_table


def _fields(row):
    return document_fields(row, "text")


def _alone(tokenizer: Tokenizer, texts: list[str]) -> float:
    started = time.perf_counter()
    for start in range(0, len(texts), 1000):
        tokenizer.encode(texts[start : start + 1000])
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="directory with lm/")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    lines = (pathlib.Path(options.data) / "lm/state_union_train.jsonl").read_text(encoding="utf-8").splitlines()
    whole = " ".join(json.loads(line)["text"] for line in lines)
    texts = [whole[start : start + 2000] for start in range(0, len(whole), 2000)] * options.repeats
    found = []
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        path = directory / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        source = SourceConfig(jsonl=(str(path),))
        for config in (SentencePieceConfig(8000), SentencePieceConfig(8000, "bpe"), WordPieceConfig(8000)):
            kind = getattr(config, "model_type", "wordpiece")
            tokenizer = train_tokenizer(texts[: len(texts) // options.repeats], config, directory / f"t-{kind}")
            os.sched_setaffinity(0, cores[:1])
            alone = _alone(tokenizer, texts)
            started = time.perf_counter()
            store = open_or_build(
                directory / f"one-{kind}", lambda: scan_rows(source, directory), _fields, tokenizer, kind
            )
            prepared = time.perf_counter() - started
            os.sched_setaffinity(0, cores)
            started = time.perf_counter()
            how = Preparation(workers=len(cores))
            open_or_build(
                directory / f"all-{kind}", lambda: scan_rows(source, directory), _fields, tokenizer, kind, how
            )
            shared = time.perf_counter() - started
            tokens = int(store.lengths.sum(dtype="int64"))
            found.append(
                [
                    kind,
                    len(texts),
                    round(tokens / alone),
                    round(tokens / prepared),
                    alone / prepared,
                    round(tokens / shared),
                    alone / shared / len(cores),
                ]
            )
    columns = (
        "tokenizer",
        "texts",
        "tokens/s alone",
        "prepared on a core",
        "ratio",
        f"with {len(cores)} processes",
        "ratio per core",
    )
    print(text_table(columns, found))


if __name__ == "__main__":
    main()
