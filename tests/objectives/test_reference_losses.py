"""The loss of each objective is the one that transformers' torch model computes of the same corrupted batch."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from handmade import Listening, record_of, row_of, stacked, texts

import jaxft
from jaxft.data.store import PART_ENDS, TOKENS
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model
from jaxft.objectives.causal_lm import CausalLM, CausalLMConfig
from jaxft.objectives.next_sentence import NextSentence, NextSentenceConfig
from jaxft.objectives.objective import ObjectiveContext
from jaxft.objectives.permutation_lm import PermutationLM, PermutationLMConfig
from jaxft.objectives.replaced_token import ReplacedToken, ReplacedTokenConfig
from jaxft.objectives.sentence_order import SentenceOrder, SentenceOrderConfig
from jaxft.objectives.span_corruption import SpanCorruption, SpanCorruptionConfig
from jaxft.objectives.text_infilling import TextInfilling, TextInfillingConfig
from jaxft.training.step import bind

LENGTH, SIZES = 24, (16, 21, 2, 9)
IGNORED = -100
_BERT = {
    "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40,
    "max_position_embeddings": LENGTH, "pad_token_id": 0,
}  # fmt: skip


def reference(name: str, config: str, tokenizer, **keys: Any) -> transformers.PreTrainedModel:
    """A small model of transformers' with random weights, of a size at which every part shows."""
    keys = {"vocab_size": tokenizer.vocab_size, **keys}
    model = getattr(transformers, name)(getattr(transformers, config)(**keys, attn_implementation="eager")).eval()
    generator = torch.Generator().manual_seed(0)
    for path, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = parameter.ndim == 1 and path.endswith("weight")
        parameter.data = 1 + 0.2 * noise if is_scale else noise * (0.9 / max(1, parameter.shape[-1]) ** 0.5)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.data = torch.randn(model.final_logits_bias.shape, generator=generator)
    return model


@pytest.fixture
def loaded(tmp_path):
    """A function from a torch model to ours."""

    def load(model):
        model.save_pretrained(tmp_path / "model")
        return jaxft.load_pretrained(tmp_path / "model")

    return load


def batch_of(objective):
    """One text in each row, so that torch can read them too."""
    records = [record_of(text, [len(text) // 2, len(text)]) for text in texts(objective.tokenizer, *SIZES)]
    return stacked([row_of(objective, record, seed=seed) for seed, record in enumerate(records)])


def mean_loss(objective, model, parameters, batch) -> float:
    part = jax.jit(lambda batch: objective.loss(bind(model, parameters), objective.balance(batch)))(batch)
    return float(part.loss / part.weight)


def tensors(**arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value, np.int64)) for name, value in arrays.items()}


def theirs(model, **inputs) -> float:
    with torch.no_grad():
        return float(model(**inputs).loss)


def counted(labels, weights) -> np.ndarray:
    """Labels, and what torch's losses ignore where there is no weight."""
    return np.where(weights > 0, labels, IGNORED)


def scattered(batch) -> np.ndarray:
    """Labels of gathered places, at these places of the row."""
    out = np.full(batch["token_ids"].shape, IGNORED)
    for row, (places, labels, weights) in enumerate(
        zip(batch["gather"], batch["labels"], batch["label_weights"], strict=True)
    ):
        out[row, places[weights > 0]] = labels[weights > 0]
    return out


def test_causal_lm_is_that_of_gpt2(tokenizer, loaded):
    torch_model = reference(
        "GPT2LMHeadModel",
        "GPT2Config",
        tokenizer,
        n_embd=24,
        n_layer=1,
        n_head=3,
        n_positions=LENGTH,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    ours = loaded(torch_model)
    objective = CausalLM(CausalLMConfig(length=LENGTH), ObjectiveContext(tokenizer, ours.config))
    batch = batch_of(objective)
    # Torch shifts by itself: its labels are the whole text, and one more place holds the end.
    whole = np.concatenate([batch["token_ids"], np.zeros((len(SIZES), 1), int)], axis=1)
    sizes = (batch["segment_ids"] > 0).sum(1)
    whole[np.arange(len(SIZES)), sizes] = tokenizer.separator_id
    labels = np.where(np.arange(LENGTH + 1) <= sizes[:, None], whole, IGNORED)
    inputs = tensors(input_ids=whole[:, :LENGTH], labels=labels[:, :LENGTH])
    assert sizes.max() < LENGTH
    wanted = theirs(torch_model, **inputs)
    assert mean_loss(objective, ours.model, ours.params, batch) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "config"), [(SpanCorruption, SpanCorruptionConfig), (TextInfilling, TextInfillingConfig)]
)
@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_denoising_is_that_of_t5_and_bart(sentinel_tokenizer, loaded, name, objective, config):
    tokenizer = sentinel_tokenizer
    keys = {
        "T5": {
            "d_model": 24,
            "d_kv": 7,
            "d_ff": 40,
            "num_layers": 1,
            "num_heads": 3,
            "decoder_start_token_id": 0,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 10,
            "pad_token_id": 0,
        },
        "Bart": {
            "d_model": 24,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 3,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 30,
            "pad_token_id": 0,
            "max_position_embeddings": LENGTH + 8,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "decoder_start_token_id": 3,
        },
    }[name]
    torch_model = reference(f"{name}ForConditionalGeneration", f"{name}Config", tokenizer, **keys)
    ours = loaded(torch_model)
    objective = objective(config(length=LENGTH), ObjectiveContext(tokenizer, ours.config))
    batch = batch_of(objective)
    assert (batch["token_ids"] != objective.tokenizer.pad_id).any()
    # Torch makes the decoder's input from the labels by itself.
    inputs = tensors(
        input_ids=batch["token_ids"],
        attention_mask=batch["segment_ids"] > 0,
        labels=counted(batch["labels"], batch["label_weights"]),
    )
    wanted = theirs(torch_model, **inputs)
    assert mean_loss(objective, ours.model, ours.params, batch) == pytest.approx(wanted, rel=1e-5)


def test_permutation_lm_is_that_of_xlnet(tokenizer, loaded):
    torch_model = reference(
        "XLNetLMHeadModel", "XLNetConfig", tokenizer, d_model=24, n_layer=2, n_head=3, d_inner=40, pad_token_id=0
    )
    ours = loaded(torch_model)
    objective = PermutationLM(
        PermutationLMConfig(length=LENGTH, target_rate=0.4), ObjectiveContext(tokenizer, ours.config)
    )
    batch = batch_of(objective)
    order = batch["order"]
    assert order.max() == 8
    # Predicted tokens are hidden from those that come before them in the order, and from themselves.
    hidden = (order[:, None, :] > 0) & (order[:, None, :] >= order[:, :, None])
    inputs = tensors(
        input_ids=batch["token_ids"],
        attention_mask=batch["segment_ids"] > 0,
        labels=counted(batch["labels"], batch["label_weights"]),
    )
    # Torch adds up the queries of places that are asked for twice: unused ones ask for none.
    targets = np.eye(LENGTH)[batch["gather"]] * batch["label_weights"][..., None]
    masks = {"perm_mask": hidden, "target_mapping": targets}
    wanted = theirs(
        torch_model, **inputs, **{key: torch.from_numpy(np.asarray(mask, np.float32)) for key, mask in masks.items()}
    )
    assert mean_loss(objective, ours.model, ours.params, batch) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "objective", "config", "keys"),
    [
        ("Bert", NextSentence, NextSentenceConfig, {}),
        ("Albert", SentenceOrder, SentenceOrderConfig, {"embedding_size": 10}),
    ],
)
def test_pairs_are_those_of_bert_and_albert(tokenizer, loaded, name, objective, config, keys):
    torch_model = reference(f"{name}ForPreTraining", f"{name}Config", tokenizer, **_BERT, **keys)
    ours = loaded(torch_model)
    objective = objective(config(length=LENGTH), ObjectiveContext(tokenizer, ours.config))
    partner = {TOKENS: np.arange(50, 90, dtype=np.int32), PART_ENDS: np.array([7, 20, 40], np.int32)}
    records = [record_of(text, [len(text) // 2, len(text)], partner=partner) for text in texts(tokenizer, *SIZES * 3)]
    batch = stacked([row_of(objective, record, seed=seed) for seed, record in enumerate(records)])
    assert set(batch["label"].tolist()) == {0, 1}
    named = "next_sentence_label" if name == "Bert" else "sentence_order_label"
    inputs = tensors(
        input_ids=batch["token_ids"],
        attention_mask=batch["segment_ids"] > 0,
        token_type_ids=batch["token_types"],
        labels=scattered(batch),
        **{named: batch["label"]},
    )
    wanted = theirs(torch_model, **inputs)
    assert mean_loss(objective, ours.model, ours.params, batch) == pytest.approx(wanted, rel=1e-5)


def test_replaced_tokens_are_those_of_electra(tokenizer, loaded, tmp_path):
    """Both of its models, which share their embeddings, in one of ours."""
    keys = _BERT | {"embedding_size": 10}
    discriminator = reference("ElectraForPreTraining", "ElectraConfig", tokenizer, **keys)
    narrow = keys | {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 13}
    generator = reference("ElectraForMaskedLM", "ElectraConfig", tokenizer, **narrow)
    generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    generator.tie_weights()
    generator.save_pretrained(tmp_path / "generator")
    ours, small = loaded(discriminator), jaxft.load_pretrained(tmp_path / "generator")

    objective = ReplacedToken(
        ReplacedTokenConfig(length=LENGTH, generator_size=1 / 3), ObjectiveContext(tokenizer, ours.config)
    )
    head = HeadConfig("generator", size=1 / 3, activation="gelu")
    model = Model(ours.config, (*ours.model.heads, ("generator", head)))
    own = {
        "projection": small.params["trunk"]["embeddings"]["projection"],
        "body": small.params["trunk"]["body"],
        "masked_lm": small.params["head_masked_lm"],
    }
    parameters = {**ours.params, "head_generator": own}
    batch = objective.balance(batch_of(objective))

    def run(batch):
        apply = Listening(bind(model, parameters))
        part = objective.loss(apply, batch)
        return part, apply.heard[1][1]

    part, filled = jax.device_get(jax.jit(run)(batch))
    labels = scattered(batch)
    originals = np.where(labels == IGNORED, batch["token_ids"], labels)
    assert (filled != originals).any()
    seen = {"attention_mask": batch["segment_ids"] > 0}
    masked_lm = theirs(generator, **tensors(input_ids=batch["token_ids"], labels=labels, **seen))
    replaced = theirs(discriminator, **tensors(input_ids=filled, labels=filled != originals, **seen))
    found = {name: float(ratio.sum / ratio.weight) for name, ratio in part.ratios.items()}
    assert found["generator_loss"] == pytest.approx(masked_lm, rel=1e-5)
    assert found["discriminator_loss"] == pytest.approx(replaced, rel=1e-5)
    assert part.loss / part.weight == pytest.approx(masked_lm + 50 * replaced, rel=1e-5)
