"""A bidirectional run by recipe, and a plain torch loop on the same batches: the same losses for 50 steps."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from support.tiny_models import WORDS

from jaxft.recipe.library import load_recipe
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import make_batches
from jaxft.workflows.train.train import train

# The last rows of a run's metrics sum up several steps.
COMPARED, STEPS = 50, 52
WARMUP, RATE, DECAY, REPLAY, LARGEST = 5, 3e-3, 0.1, 0.5, 1.0


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    """A small BERT without dropout, with heads for both streams, and its data."""
    directory = tmp_path_factory.mktemp("parity")
    torch.set_num_threads(1)  # more only wait for each other at this size
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=2,
        initializer_range=0.2,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(directory / "bert")
    heads = transformers.BertForMaskedLM(config).cls.predictions.state_dict()
    own = {f"cls.predictions.{name}": value.clone() for name, value in heads.items() if "decoder" not in name}
    weights = safetensors.torch.load_file(directory / "bert" / "model.safetensors")
    safetensors.torch.save_file({**weights, **own}, directory / "bert" / "model.safetensors", {"format": "pt"})
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory / "bert")
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(96):
        words = [*generator.choice(WORDS[5:], generator.integers(2, 9))]
        rows.append({"text": " ".join(words), "label": "good" if "good" in words or "fine" in words else "bad"})
    (directory / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [" ".join(generator.choice(WORDS[5:], generator.integers(4, 12))) for _ in range(64)]
    (directory / "text.txt").write_text("\n\n".join(texts) + "\n")
    (directory / "recipe.yaml").write_text(f"""
name: parity
model: {{pretrained: {directory}/bert}}
streams:
  sequence_classification:
    source: {{jsonl: task.jsonl}}
    objective: {{kind: sequence_classification, length: 12, dropout: 0.0}}
    batch_size: 8
  replay:
    source: {{text: text.txt}}
    objective: {{kind: masked_lm, length: 16, mask_rate: 0.3}}
    batch_size: 4
    weight: {REPLAY}
optimizer: {{name: adamw, learning_rate: {RATE}, weight_decay: {DECAY}}}
schedule: {{name: linear, warmup: {WARMUP}}}
training: {{steps: {STEPS}, gradient_clip: {{norm: {LARGEST}, scope: total}}, log_every: 1, evaluate_every: {STEPS}}}
""")
    return directory


class BothHeads(torch.nn.Module):
    """A classifier and a masked language model on one BERT."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.task = transformers.BertForSequenceClassification.from_pretrained(path, attn_implementation="eager")
        replay = transformers.BertForMaskedLM.from_pretrained(path, attn_implementation="eager")
        replay.bert, self.replay = self.task.bert, replay
        # The vocabulary's projection is the table that the task reads.
        replay.cls.predictions.decoder.weight = self.task.bert.embeddings.word_embeddings.weight

    def losses(self, batches) -> tuple[torch.Tensor, torch.Tensor]:
        task, replay = (
            {name: torch.tensor(np.asarray(array)) for name, array in batches[name].items()}
            for name in ("sequence_classification", "replay")
        )
        logits = self.task(task["token_ids"], (task["segment_ids"] > 0).long(), task["token_types"]).logits
        classified = torch.nn.functional.cross_entropy(logits, task["label"].long())
        # Packed texts see themselves alone.
        segments = replay["segment_ids"]
        mask = (segments[:, None, :] == segments[:, :, None]) & (segments[:, None, :] > 0)
        additive = torch.where(mask, 0.0, torch.finfo(torch.float32).min)[:, None]
        embedded = self.task.bert.embeddings(replay["token_ids"], position_ids=replay["positions"])
        hidden = embedded
        for layer in self.task.bert.encoder.layer:
            hidden = layer(hidden, additive)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        places = replay["gather"].long()[..., None].expand(-1, -1, hidden.shape[-1])
        logits = self.replay.cls(hidden.gather(1, places))
        each = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), replay["labels"].long().flatten(), reduction="none"
        )
        weight = replay["label_weights"].flatten()
        return classified, (each * weight).sum() / weight.sum()


def torch_losses(directory: pathlib.Path) -> np.ndarray:
    """`(steps, 2)`: the losses of both streams in a loop of torch."""
    model = BothHeads(directory / "bert")
    named = dict(model.named_parameters())  # each once, though two modules share them
    kept = [p for name, p in named.items() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for name, p in named.items() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) / (WARMUP + 1) if step < WARMUP else (STEPS - step) / (STEPS - WARMUP)
    )
    batches = make_batches(assemble(*load_recipe(directory / "recipe.yaml")))
    seen = []
    for step in range(STEPS):
        task, replay = model.losses({name: stream.batch(step) for name, stream in batches.items()})
        optimizer.zero_grad()
        (task + REPLAY * replay).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST)
        optimizer.step()
        schedule.step()
        seen.append([task.item(), replay.item()])
    return np.array(seen)


@pytest.mark.slow
def test_fifty_steps_give_the_losses_of_a_torch_loop(directory):
    train(directory / "recipe.yaml", run_directory=directory / "run", quiet=True)
    rows = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"][:COMPARED]
    assert [row["step"] for row in rows] == list(range(1, COMPARED + 1))
    found = np.array([[row["sequence_classification.loss"], row["replay.loss"]] for row in rows])
    wanted = torch_losses(directory)[:COMPARED]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    # The run learns, and the clip is at work: a difference in either would show.
    assert wanted[-10:, 0].mean() < 0.7 * wanted[:10, 0].mean()
    assert max(row["gradient_norm"] for row in rows) > 1.5 * LARGEST
