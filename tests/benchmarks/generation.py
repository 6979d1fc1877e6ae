"""Speed of greedy generation beside transformers' `generate`, in one run.

    python tests/benchmarks/generation.py --batch 1 16

Both write the same number of tokens after the same prompts with the weights of one random GPT-2 of the small size, in
float32, and must write the same. Rounds alternate, so that a machine whose speed drifts treats both alike; the ratio is
taken round by round.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
import torch
import transformers

from jaxft.generation.config import GenerationConfig, SpecialTokens
from jaxft.generation.generator import Generator
from jaxft.huggingface.loaded import load_model
from jaxft.parallel.platform import choose_platform
from jaxft.reporting.tables import text_table


def make_models(layers: int):
    """A random GPT-2 of transformers, and ours with its weights."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=layers)).eval()
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        return theirs, load_model(pathlib.Path(directory))


def measure(theirs, loaded, batch: int, options: argparse.Namespace) -> tuple:
    """A row of the table: tokens per second of both, and the ratio."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, theirs.config.vocab_size, (batch, options.prompt)).astype(np.int32)
    generator = Generator(loaded.model, SpecialTokens(end=()), batch_size=batch)
    config = GenerationConfig(max_new_tokens=options.new)

    def ours() -> np.ndarray:
        return np.stack([one.token_ids for one in generator.generate(loaded.params, list(prompts), config)])

    def torch_s() -> np.ndarray:
        ids = torch.from_numpy(prompts.astype(np.int64))
        with torch.inference_mode():
            written = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=options.new,
                min_new_tokens=options.new,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
        return written[:, options.prompt :].numpy()

    same = float((ours() == torch_s()).mean())
    times: dict[str, list[float]] = {"jaxft": [], "transformers": []}
    for _ in range(options.rounds):
        for name, write in (("jaxft", ours), ("transformers", torch_s)):
            started = time.perf_counter()
            write()
            times[name].append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(times["jaxft"], times["transformers"], strict=True)]
    speeds = [f"{batch * options.new / statistics.median(times[name]):.1f}" for name in times]
    shown = f"{statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    return batch, *speeds, shown, f"{same:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt (default: %(default)s)")
    parser.add_argument("--new", type=int, default=64, help="tokens to write (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    choose_platform()
    theirs, loaded = make_models(options.layers)
    rows = [measure(theirs, loaded, batch, options) for batch in options.batch]
    print(text_table(("batch", "jaxft tokens/s", "transformers tokens/s", "ratio (rounds)", "same tokens"), rows))


if __name__ == "__main__":
    main()
