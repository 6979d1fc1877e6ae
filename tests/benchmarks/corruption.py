"""How many tokens a second one core corrupts, for every pretraining objective.

    python tests/benchmarks/corruption.py --data ../shared/data

Rows are made as in training, from a token store in memory: the time is that of `make_row` and of reading the store.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time

from jaxft.data.batches import StreamBatches
from jaxft.data.packing import plan_rows
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row
from jaxft.data.tokenizers import SentencePieceConfig, train_sentencepiece
from jaxft.models.config import ModelConfig
from jaxft.objectives.causal_lm import CausalLMConfig
from jaxft.objectives.masked_lm import MaskedLMConfig
from jaxft.objectives.mixture_of_denoisers import MixtureOfDenoisersConfig
from jaxft.objectives.next_sentence import NextSentenceConfig
from jaxft.objectives.objective import ObjectiveContext
from jaxft.objectives.permutation_lm import PermutationLMConfig
from jaxft.objectives.registry import make_objective
from jaxft.objectives.span_corruption import SpanCorruptionConfig
from jaxft.objectives.text_infilling import TextInfillingConfig
from jaxft.recipe.presets import PRESETS
from jaxft.reporting.tables import text_table

_CASES = {
    "masked_lm": ("bert-base", MaskedLMConfig()),
    "masked_lm, whole words": ("bert-base", MaskedLMConfig(whole_words=True)),
    "masked_lm, spans": ("bert-base", MaskedLMConfig(span_length=3)),
    "next_sentence": ("bert-base", NextSentenceConfig()),
    "causal_lm": ("gpt2-small", CausalLMConfig()),
    "span_corruption": ("t5-base", SpanCorruptionConfig()),
    "mixture_of_denoisers": ("t5-base", MixtureOfDenoisersConfig()),
    "text_infilling": ("bart-base", TextInfillingConfig()),
    "permutation_lm": ("xlnet-base", PermutationLMConfig()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="directory with lm/")
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    lines = (pathlib.Path(options.data) / "lm/state_union_train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [Row(json.loads(line), f"line {i}") for i, line in enumerate(lines)]
    found = []
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        config = SentencePieceConfig(vocab_size=8000, sentinels=200)
        tokenizer = train_sentencepiece((row.values["text"] for row in rows), config, directory / "tokenizer")
        for case, (preset, objective_config) in _CASES.items():
            model = ModelConfig(**{**PRESETS[preset], "vocab_size": 8000, "max_length": options.length})
            objective = make_objective(objective_config, ObjectiveContext(tokenizer, model))
            store = open_or_build(directory / case, lambda: rows, objective.fields, tokenizer, case)
            plan = plan_rows(
                store.lengths, objective.length, objective.longest, objective.room, pack=objective.pack, truncate=False
            )
            batches = StreamBatches(store, plan, objective.make_row, 32, 0, partner=objective.partner)
            batches.batch(0)
            started, steps = time.process_time(), 20
            tokens = sum(int((batches.batch(step)["segment_ids"] > 0).sum()) for step in range(steps))
            seconds = time.process_time() - started
            found.append([case, options.length, round(tokens / seconds)])
    print(text_table(["objective", "length", "tokens/s per core"], found))


if __name__ == "__main__":
    main()
