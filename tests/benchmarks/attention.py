"""Times the kernels of attention, forward and backward, beside the plain one on the devices that are here.

    python tests/benchmarks/attention.py --length 4096 --window 64
    python tests/benchmarks/attention.py --causal --precision bfloat16 --heads 32 --kv-heads 8

Prints the median seconds of each kernel that can do what is asked, and how many times faster than `xla` it is. Kernels
take turns, so that a busy machine slows them all alike.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.errors import RecipeError
from jaxft.kernels.attention import attention
from jaxft.kernels.choice import IMPLEMENTATIONS, choose, situation_of
from jaxft.kernels.masks import AttentionMask


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--kv-heads", type=int)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--window", type=int, help="tokens that are seen on each side")
    parser.add_argument("--packed", action="store_true", help="two pieces of text in each row")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    draw = np.random.default_rng(0).normal
    heads = [options.heads, *[options.kv_heads or options.heads] * 2]
    inputs = [
        jnp.asarray(draw(size=(options.batch, options.length, count, options.head_dim)), options.precision)
        for count in heads
    ]
    segments = np.where(np.arange(options.length) < options.length // 3, 1, 2).astype(np.int32)
    segments = jnp.broadcast_to(segments, (options.batch, options.length)) if options.packed else None
    window = None if options.window is None else (options.window, options.window)
    mask = AttentionMask(options.causal, window, query_segments=segments, key_segments=segments)
    asked = situation_of(*inputs[:2], mask, None, 0.0)
    steps = {}
    for name in IMPLEMENTATIONS[1:]:
        try:
            choose(name, asked)
        except RecipeError as error:
            print(f"{name:>10}: {error}")
            continue
        if name == "splash" and asked.platform != "tpu":
            continue  # interpreted
        steps[name] = jax.jit(
            jax.grad(lambda *x, name=name: attention(*x, mask, scale=0.1, implementation=name).sum(), argnums=(0, 1, 2))
        )
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(*inputs))
            if turn:  # the first compiles
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"auto takes {' because '.join(choose('auto', asked))}")
    for name, median in medians.items():
        print(f"{name:>10}: {median:8.4f} s, {medians['xla'] / median:5.2f} times xla")


if __name__ == "__main__":
    main()
