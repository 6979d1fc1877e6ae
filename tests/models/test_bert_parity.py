"""Our BERT is torch's: logits, gradients and a fine-tuning, and the comparison sees planted defects."""

from __future__ import annotations

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bert_reference import our_tree
from support.settings import setting_of
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from jaxft.kernels.cross_entropy import cross_entropy
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.models.transformer import Sequences
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.recipe.presets import PRESETS
from jaxft.training.balance import ClipConfig
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.schedule import ScheduleConfig, make_schedule
from jaxft.training.state import create_state, replaced
from jaxft.training.step import make_train_step

LABELS = 3
HEADS = {"masked_lm": HeadConfig("masked_lm"), "task": HeadConfig("sequence_classification", LABELS, dropout=0.0)}
# Sizes that catch transposed and mixed-up axes: odd numbers of heads, and no two axes alike where they may differ.
SIZES = {
    "three heads": {
        "embed_dim": 48,
        "num_heads": 3,
        "mlp_dim": 80,
        "num_layers": 2,
        "vocab_size": 61,
        "max_length": 19,
    },
    "five heads": {"embed_dim": 40, "num_heads": 5, "mlp_dim": 32, "num_layers": 3, "vocab_size": 37, "max_length": 23},
    "one head": {"embed_dim": 20, "num_heads": 1, "mlp_dim": 44, "num_layers": 1, "vocab_size": 50, "max_length": 16},
}


@functools.cache
def torch_model(size: str, head: str):
    """A model in evaluation mode with all parameters random, biases and norms too."""
    sizes = SIZES[size]
    config = BertConfig(
        hidden_size=sizes["embed_dim"],
        num_attention_heads=sizes["num_heads"],
        intermediate_size=sizes["mlp_dim"],
        num_hidden_layers=sizes["num_layers"],
        vocab_size=sizes["vocab_size"],
        num_labels=LABELS,
        max_position_embeddings=sizes["max_length"],
        attn_implementation="eager",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = (BertForMaskedLM if head == "masked_lm" else BertForSequenceClassification)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def our_model(size: str, head: str) -> Model:
    fields = {**PRESETS["bert-base"], **SIZES[size], "dropout": 0.0, "attention_dropout": 0.0}
    return Model(ModelConfig(**fields), ((head, HEADS[head]),))


def make_batch(size: str, rows: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Padded rows with two token types, the labels of some tokens, and a label for each row."""
    sizes, generator = SIZES[size], np.random.default_rng(seed)
    length = sizes["max_length"] - 2
    lengths = generator.integers(4, length + 1, rows)
    lengths[0] = length
    real = np.arange(length) < lengths[:, None]
    # Id 0 is padding, whose row torch's embedding leaves without a gradient.
    ids = np.where(real, generator.integers(1, sizes["vocab_size"], (rows, length)), 0)
    return {
        "token_ids": ids.astype(np.int32),
        "segment_ids": real.astype(np.int32),
        "token_types": (real & (np.arange(length) > lengths[:, None] // 2)).astype(np.int32),
        "targets": generator.integers(1, sizes["vocab_size"], (rows, length)).astype(np.int32),
        "target_weights": (real & (generator.random((rows, length)) < 0.4)).astype(np.float32),
        "label": generator.integers(0, LABELS, rows).astype(np.int32),
        "row_weight": np.ones(rows, np.float32),
    }


def torch_outputs(model, head: str, batch: dict[str, np.ndarray]):
    """Logits, and the gradients of the mean loss by torch's names."""
    given = {name: torch.tensor(array).long() for name, array in batch.items() if "weight" not in name}
    model.zero_grad()
    logits = model(given["token_ids"], given["segment_ids"], given["token_types"]).logits
    if head == "masked_lm":
        chosen = torch.tensor(batch["target_weights"]) > 0
        loss = torch.nn.functional.cross_entropy(logits[chosen], given["targets"][chosen])
    else:
        loss = torch.nn.functional.cross_entropy(logits, given["label"])
    loss.backward()
    gradients = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy().copy()
        for name, p in model.named_parameters()
    }
    return logits.detach().numpy(), gradients


@functools.cache
def our_program(model: Model, head: str):
    """A compiled function of parameters and a batch to the gradient of the mean loss, in our tree, and the logits."""

    def loss(parameters, batch):
        sequences = Sequences(batch["token_ids"], batch["segment_ids"], token_types=batch["token_types"])
        logits = model.apply({"params": parameters}, sequences, head=head).logits
        if head == "masked_lm":
            weights = batch["target_weights"]
            return (cross_entropy(logits, batch["targets"]) * weights).sum() / weights.sum(), logits
        return cross_entropy(logits, batch["label"]).mean(), logits

    return jax.jit(jax.grad(loss, has_aux=True))


def numbers_of(module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def differences(size: str, head: str, model: Model, parameters, change_batch=None) -> tuple[float, float]:
    """Largest difference of a logit, and the largest relative one of a gradient's leaf."""
    reference, batch = torch_model(size, head), make_batch(size)
    theirs, their_gradients = torch_outputs(reference, head, batch)
    gradient, ours = our_program(model, head)(parameters, change_batch(batch) if change_batch else batch)
    ours = np.asarray(ours)
    real = batch["segment_ids"] > 0 if head == "masked_lm" else ...
    wanted = our_tree(their_gradients, our_model(size, head).config)
    gradient = jax.tree_util.tree_leaves_with_path(gradient)
    wanted = dict(jax.tree_util.tree_leaves_with_path(wanted))
    whole = np.sqrt(sum(np.square(leaf).sum() for leaf in wanted.values()))
    relative = []
    for path, leaf in gradient:
        if path not in wanted or leaf.shape != wanted[path].shape:
            return float(np.abs(ours - theirs)[real].max()), np.inf
        # The gradient of a key's bias is zero but for rounding: a shift of all scores changes no softmax.
        size_of_leaf = max(float(np.linalg.norm(wanted[path])), 1e-4 * whole)
        relative.append(float(np.linalg.norm(np.asarray(leaf) - wanted[path])) / size_of_leaf)
    return float(np.abs(ours - theirs)[real].max()), max(relative)


def agree(logit_difference: float, gradient_difference: float) -> bool:
    """The promise of the design: logits within 1e-4, every leaf of the gradient within 1e-4 of its size."""
    return logit_difference <= 1e-4 and gradient_difference <= 1e-4


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "size", [size if size == "three heads" else pytest.param(size, marks=pytest.mark.slow) for size in SIZES]
)
def test_logits_and_gradients_are_torchs(size, head):
    model = our_model(size, head)
    parameters = our_tree(numbers_of(torch_model(size, head)), model.config)
    shapes, _ = abstract_parameters(model)
    assert jax.tree.map(np.shape, parameters) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    found = differences(size, head, model, parameters)
    assert agree(*found), found


# --- Planted defects: each must be seen by the very comparison above -------------------------------------------------


def changed(path: str, change):
    """A defect of the weights: `change` applied to what lies at `path`."""

    def plant(model: Model, parameters):
        inner = parameters
        *above, last = path.split("/")
        for name in above:
            inner = inner[name]
        inner[last] = change(inner[last])
        return model, parameters

    return plant


def configured(**fields):
    """A defect of the architecture."""

    def plant(model: Model, parameters):
        return dataclasses.replace(model, config=dataclasses.replace(model.config, **fields)), parameters

    return plant


def swapped(one: str, other: str):
    """Exchanges two entries of the last-named dict: `path/one` and `path/other`."""
    path, first = one.rsplit("/", 1)

    def exchange(entries):
        return {**entries, first: entries[other], other: entries[first]}

    return changed(path, exchange)


def without_embedding_norm(model: Model, parameters):
    parameters["trunk"]["embeddings"].pop("norm")
    return configured(embedding_norm=False)(model, parameters)


def with_final_norm(model: Model, parameters):
    width = model.config.embed_dim
    parameters["trunk"]["body"]["final_norm"] = {
        "scale": np.ones(width, np.float32),
        "bias": np.zeros(width, np.float32),
    }
    return configured(final_norm=True)(model, parameters)


BLOCK = "trunk/body/stack/layers/block_0"
WEIGHT_DEFECTS = {
    "keys and values swapped": swapped(f"{BLOCK}/attention/key", "value"),
    "queries and keys swapped": swapped(f"{BLOCK}/attention/query", "key"),
    "norms swapped": swapped(f"{BLOCK}/attention_norm", "feed_forward_norm"),
    "query kernel transposed": changed(
        f"{BLOCK}/attention/query/kernel", lambda k: k.reshape(len(k), k.shape[1], -1).swapaxes(1, 2).reshape(k.shape)
    ),
    "output kernel transposed": changed(
        f"{BLOCK}/attention/output/kernel", lambda k: k.reshape(len(k), -1, k.shape[-1]).swapaxes(1, 2).reshape(k.shape)
    ),
    "heads interleaved": changed(
        f"{BLOCK}/attention/value/kernel", lambda k: k.reshape(*k.shape[:2], k.shape[3], k.shape[2]).swapaxes(2, 3)
    ),
    "head order reversed in the output": changed(f"{BLOCK}/attention/output/kernel", lambda k: k[:, ::-1]),
    "layers reversed": changed(BLOCK, lambda tree: jax.tree.map(lambda leaf: leaf[::-1], tree)),
    "value bias missing": changed(f"{BLOCK}/attention/value/bias", np.zeros_like),
    "no position embeddings": changed("trunk/embeddings/learned_positions/table", np.zeros_like),
    "positions off by one": changed("trunk/embeddings/learned_positions/table", lambda table: np.roll(table, -1, 0)),
    "no type embeddings": changed("trunk/embeddings/types/table", np.zeros_like),
    "types exchanged": changed("trunk/embeddings/types/table", lambda table: table[::-1]),
    "head bias missing": changed("head_masked_lm/projection/bias", np.zeros_like),
    "head transform transposed": changed("head_masked_lm/transform/kernel", np.transpose),
}
CONFIG_DEFECTS = {
    "scale missing": configured(attention_scale=1.0),
    "scale of the whole width": configured(attention_scale=48**-0.5),
    "epsilon of another model": configured(norm_epsilon=1e-5),
    "tanh GELU": configured(activation="gelu_tanh"),
    "ReLU": configured(activation="relu"),
    "norm before the layer": configured(norm_placement="pre"),
    "parallel residual": configured(parallel_residual=True),
    "causal": configured(family="decoder"),
    "windowed": configured(windows=(4,)),
    "logits scaled": configured(logit_scale=48**-0.5),
    "embeddings scaled": configured(embedding_scale=48**0.5),
    "no embedding norm": without_embedding_norm,
    "a norm at the end": with_final_norm,
}


def without_last(segments: np.ndarray) -> np.ndarray:
    """Hides the last real token of each row."""
    return segments * (np.arange(segments.shape[1]) < segments.sum(1)[:, None] - 1)


BATCH_DEFECTS = {
    "padding is seen": lambda batch: {**batch, "segment_ids": np.ones_like(batch["segment_ids"])},
    "types ignored": lambda batch: {**batch, "token_types": None},
    "the last token hidden": lambda batch: {**batch, "segment_ids": without_last(batch["segment_ids"])},
}


def some_slow(defects, quick: int) -> list:
    """The first few in the quick loop, the others in the whole suite."""
    return [*defects[:quick], *(pytest.param(defect, marks=pytest.mark.slow) for defect in defects[quick:])]


@pytest.mark.parametrize("defect", [*some_slow([*WEIGHT_DEFECTS], 3), *some_slow([*CONFIG_DEFECTS], 2)])
def test_the_comparison_sees_a_planted_defect(defect):
    size, head = "three heads", "masked_lm"
    model = our_model(size, head)
    parameters = copy.deepcopy(our_tree(numbers_of(torch_model(size, head)), model.config))
    found = differences(size, head, *(WEIGHT_DEFECTS | CONFIG_DEFECTS)[defect](model, parameters))
    assert not agree(*found), found


@pytest.mark.parametrize("defect", BATCH_DEFECTS)
def test_the_comparison_sees_a_defect_of_masks_and_types(defect):
    size, head = "three heads", "masked_lm"
    model = our_model(size, head)
    parameters = our_tree(numbers_of(torch_model(size, head)), model.config)
    found = differences(size, head, model, parameters, BATCH_DEFECTS[defect])
    assert not agree(*found), found


# --- A fine-tuning -----------------------------------------------------------------------------------------------

STEPS, LEARNING_RATE, DECAY, CLIP = 20, 2e-3, 0.05, 1.0


def torch_losses(batches) -> list[float]:
    model = copy.deepcopy(torch_model("three heads", "task")).train()
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)
    losses = []
    for batch in batches:
        given = {name: torch.tensor(array).long() for name, array in batch.items() if "weight" not in name}
        optimizer.zero_grad()
        output = model(given["token_ids"], given["segment_ids"], given["token_types"], labels=given["label"])
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(output.loss.item())
    return losses


def our_losses(batches) -> list[float]:
    model = our_model("three heads", "task")
    config = SequenceClassificationConfig(labels=("a", "b", "c"), dropout=0.0)
    objective = SequenceClassification(config, setting_of(None, batches[0]["token_ids"].shape[1], "task"))
    schedule = make_schedule(ScheduleConfig("constant", warmup=0), LEARNING_RATE, STEPS)
    settings = OptimizerConfig(learning_rate=LEARNING_RATE, weight_decay=DECAY, b2=0.98, epsilon=1e-6)
    optimizer = make_optimizer(settings, schedule, *abstract_parameters(model), frozenset({"task"}))
    start = our_tree(numbers_of(torch_model("three heads", "task")), model.config)
    state = create_state(model, optimizer, 0, make_mesh(MeshConfig()), lambda fresh: replaced(fresh, start))
    step = make_train_step(model, {"task": objective}, {"task": 1.0}, optimizer, schedule, ClipConfig(CLIP, "total"))
    compiled = jax.jit(step, donate_argnums=0)
    losses = []
    for batch in batches:
        state, metrics = compiled(state, {"task": {name: jnp.asarray(array) for name, array in batch.items()}})
        losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.slow
def test_twenty_steps_of_fine_tuning_are_torchs():
    """The clip bites in the first steps, the decay counts, and the loss falls: all of the recipe is compared."""
    batches = [make_batch("three heads", rows=8, seed=seed % 4) for seed in range(STEPS)]
    ours, theirs = our_losses(batches), torch_losses(batches)
    assert theirs[-1] < 0.7 * theirs[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
