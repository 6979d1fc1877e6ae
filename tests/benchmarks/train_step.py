"""Speed of the train step beside the same step in torch, in one run.

    python tests/benchmarks/train_step.py --preset bert-base --precision float32

Both train masked language modelling with AdamW on the same batch: jaxft by `make_train_step`, torch by
`BertForMaskedLM` of transformers. Rounds alternate, so that a machine whose speed drifts treats both alike; the ratio
is taken round by round. Model FLOPs count the vocabulary for the predicted tokens alone, for both, whether or not they
compute it for others.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import jax
import numpy as np
import torch
import transformers

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.objectives.masked_lm import MaskedLM
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.platform import choose_platform
from jaxft.parallel.sharding import put_batch
from jaxft.recipe.presets import PRESETS
from jaxft.reporting.tables import text_table
from jaxft.training.balance import ClipConfig
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.schedule import ScheduleConfig, make_schedule
from jaxft.training.state import create_state
from jaxft.training.step import make_train_step

VOCABULARY = 30522
MASK_RATE = 0.15


def make_batch(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """A full batch in the format of the masked_lm objective."""
    rng = np.random.default_rng(0)
    count = round(options.length * MASK_RATE)
    token_ids = rng.integers(5, VOCABULARY, (options.batch, options.length)).astype(np.int32)
    gather = np.stack([np.sort(rng.permutation(options.length)[:count]) for _ in range(options.batch)]).astype(np.int32)
    labels = np.take_along_axis(token_ids, gather, 1)
    np.put_along_axis(token_ids, gather, 4, 1)
    return {
        "token_ids": token_ids,
        "segment_ids": np.ones_like(token_ids),
        "positions": np.broadcast_to(np.arange(options.length, dtype=np.int32), token_ids.shape).copy(),
        "gather": gather,
        "labels": labels,
        "label_weights": np.ones(gather.shape, np.float32),
        "row_weight": np.ones(options.batch, np.float32),
    }


class JaxftStep:
    """The compiled train step of jaxft; a call runs one and waits for its loss."""

    def __init__(self, config: ModelConfig, batch: dict[str, np.ndarray], precision: str):
        compute = ComputeConfig(precision=precision)
        model = Model(config, (("masked_lm", HeadConfig("masked_lm")),), compute)
        mesh = make_mesh(MeshConfig())
        schedule = make_schedule(ScheduleConfig("constant", warmup=0), 1e-4, 1000)
        optimizer = make_optimizer(
            OptimizerConfig(), schedule, *abstract_parameters(model), trained_heads=frozenset({"masked_lm"})
        )
        step = make_train_step(model, {"text": _MaskedLoss()}, {"text": 1.0}, optimizer, schedule, ClipConfig())
        self._state = create_state(model, optimizer, 0, mesh)
        self._step = jax.jit(step, donate_argnums=0)
        self._batch = {"text": put_batch(batch, mesh)}
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.parameters))

    def __call__(self) -> float:
        self._state, metrics = self._step(self._state, self._batch)
        return float(metrics["loss"])


class _MaskedLoss(MaskedLM):
    """The loss of the masked_lm objective, which needs no tokenizer where the batch is ready."""

    def __init__(self):
        self.heads = {"masked_lm": HeadConfig("masked_lm")}


class TorchStep:
    """The same step in torch."""

    def __init__(self, config: ModelConfig, batch: dict[str, np.ndarray], precision: str):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        shape = transformers.BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.embed_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.mlp_dim,
            max_position_embeddings=512,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.attention_dropout,
        )
        self._model = transformers.BertForMaskedLM(shape).train()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, weight_decay=0.01)
        labels = np.full(batch["token_ids"].shape, -100, np.int64)
        np.put_along_axis(labels, batch["gather"], batch["labels"].astype(np.int64), 1)
        self._inputs = {
            "input_ids": torch.from_numpy(batch["token_ids"].astype(np.int64)),
            "attention_mask": torch.from_numpy(batch["segment_ids"].astype(np.int64)),
            "labels": torch.from_numpy(labels),
        }
        self._low_precision = precision == "bfloat16"

    def __call__(self) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._low_precision):
            loss = self._model(**self._inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        return float(loss.detach())


def flops_per_step(config: ModelConfig, options: argparse.Namespace) -> float:
    """Model FLOPs of training: 6 per weight and token, attention's scores, and the vocabulary for predicted tokens."""
    d, width = config.embed_dim, config.num_heads * config.width_of_head
    matrices = 3 if config.gated else 2
    predicted = round(options.length * MASK_RATE) / options.length
    per_token = 6 * config.num_layers * (4 * d * width + matrices * d * config.mlp_dim)
    per_token += 12 * config.num_layers * width * options.length
    per_token += 6 * d * config.vocab_size * predicted
    return per_token * options.batch * options.length


def seconds_per_step(step, steps: int) -> float:
    """Mean seconds over some steps."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="encoder-base", choices=[name for name in PRESETS if "decoder" not in name])
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3, help="steps in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.0, help="rate in both (default: %(default)s)")
    options = parser.parse_args()
    choose_platform()
    fields = PRESETS[options.preset] | {"dropout": options.dropout, "attention_dropout": options.dropout}
    config = ModelConfig(**fields, vocab_size=VOCABULARY)
    batch = make_batch(options)
    contestants = {
        "jaxft": JaxftStep(config, batch, options.precision),
        "torch": TorchStep(config, batch, options.precision),
    }
    for name, step in contestants.items():
        print(f"{name}: first losses {step():.3f} {step():.3f}")
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, step in contestants.items():
            times[name].append(seconds_per_step(step, options.steps))
    tokens, flops = options.batch * options.length, flops_per_step(config, options)
    rows = []
    for name, measured in times.items():
        seconds = statistics.median(measured)
        rows.append((name, f"{seconds:.3f}", f"{tokens / seconds:.0f}", f"{flops / seconds / 1e9:.1f}"))
    ratios = [theirs / ours for ours, theirs in zip(times["jaxft"], times["torch"], strict=True)]
    title = f"{options.preset} {options.precision}"
    print(text_table((title, "seconds per step", "tokens/s", "model GFLOP/s"), rows))
    print(f"jaxft is {statistics.median(ratios):.2f}x torch (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
