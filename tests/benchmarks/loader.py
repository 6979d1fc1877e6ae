"""How many tokens a second reach the device: from the token store through processes to arrays that a step can take.

    python tests/benchmarks/loader.py --data ../shared/data --workers 2

Documents of the directory are tokenized once and repeated; their packed, corrupted rows go through `Prefetcher` as in
training. Nothing is computed with them, so that the rate is what data can feed at most. Padding does not count; tokens
of a target do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time

import jax

from jaxft.data.batches import StreamBatches
from jaxft.data.loader import Prefetcher
from jaxft.data.packing import plan_rows
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row
from jaxft.data.tokenizers import SentencePieceConfig, train_sentencepiece
from jaxft.models.config import ModelConfig
from jaxft.objectives.causal_lm import CausalLMConfig
from jaxft.objectives.instruction import InstructionConfig
from jaxft.objectives.masked_lm import MaskedLMConfig
from jaxft.objectives.objective import ObjectiveContext
from jaxft.objectives.registry import make_objective
from jaxft.objectives.span_corruption import SpanCorruptionConfig
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.sharding import put_batch
from jaxft.recipe.presets import PRESETS
from jaxft.reporting.tables import text_table

_CASES = {
    "causal_lm": ("gpt2-small", CausalLMConfig()),
    "instruction, messages": ("gpt2-small", InstructionConfig(messages="messages", chat_template="chatml")),
    "masked_lm": ("bert-base", MaskedLMConfig()),
    "span_corruption": ("t5-base", SpanCorruptionConfig()),
}
_WARM_UP = 8


@dataclasses.dataclass(frozen=True)
class _Counted:
    """Batches with the number of their tokens, which is counted where they are made."""

    batches: StreamBatches

    def __call__(self, step: int):
        batch = self.batches.batch(step)
        return batch, sum(int((batch[name] > 0).sum()) for name in batch if name.endswith("segment_ids"))


def _rate(batches: StreamBatches, steps: int, workers: int, mesh) -> float:
    """Tokens a second, after the processes have started."""
    loader = Prefetcher(
        _Counted(batches), 0, steps + _WARM_UP, workers=workers, put=lambda made: (put_batch(made[0], mesh), made[1])
    )
    tokens = 0
    for number, (batch, count) in enumerate(loader):
        jax.block_until_ready(batch)
        if number == _WARM_UP - 1:
            started = time.perf_counter()
        tokens += count * (number >= _WARM_UP)
    loader.close()
    return tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="directory with lm/")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    lines = (pathlib.Path(options.data) / "lm/state_union_train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    mesh, found = make_mesh(MeshConfig()), []
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        special = ("<|im_start|>", "<|im_end|>")
        config = SentencePieceConfig(vocab_size=8000, sentinels=200, special_tokens=special)
        tokenizer = train_sentencepiece(texts, config, directory / "tokenizer")
        whole = " ".join(texts)
        rows = [_row(whole[start : start + 1500], f"{start}") for start in range(0, len(whole) - 1500, 1500)]
        for case, (preset, objective_config) in _CASES.items():
            model = ModelConfig(**{**PRESETS[preset], "vocab_size": 8256, "max_length": options.length})
            objective = make_objective(objective_config, ObjectiveContext(tokenizer, model))
            store = open_or_build(directory / case, lambda: rows, objective.fields, tokenizer, case)
            plan = plan_rows(
                store.lengths,
                objective.length,
                objective.longest,
                objective.room,
                pack=objective.pack,
                truncate=objective.truncate,
            )
            batches = StreamBatches(store, plan, objective.make_row, options.batch_size, 0)
            rates = [
                max(_rate(batches, options.steps, workers, mesh) for _ in range(options.repeats))
                for workers in options.workers
            ]
            found.append([case, options.length, *map(round, rates)])
    print(text_table(["objective", "length", *(f"tokens/s, {n} processes" for n in options.workers)], found))


def _row(text: str, location: str) -> Row:
    """A document, which is also a conversation about itself."""
    messages = [{"role": "user", "content": text[:300]}, {"role": "assistant", "content": text[300:]}]
    return Row({"text": text, "messages": messages}, location)


if __name__ == "__main__":
    main()
