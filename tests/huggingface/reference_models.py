"""Small random models of every architecture by transformers' torch code: the references of the parity tests.

To add an architecture, add a line to `CASES`.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import torch
import transformers

VOCABULARY = 67
LENGTH = 11


@dataclasses.dataclass(frozen=True)
class Case:
    """A model class of transformers with the keys of its configuration.

    Attributes:
      model: name of the class.
      config: name of the configuration's class.
      keys: of the configuration.
      untie: gives the vocabulary head weights of its own although the class ties them.
      lists: how many lists of choices an example has; 0 for none.
    """

    model: str
    config: str
    keys: dict[str, Any]
    untie: bool = False
    choices: int = 0

    @property
    def kind(self) -> str:
        """`vision`, `encoder_decoder` or `text`."""
        if "image_size" in self.keys:
            return "vision"
        return "encoder_decoder" if self.config in _ENCODER_DECODERS else "text"


_ENCODER_DECODERS = ("T5Config", "MT5Config", "BartConfig", "MBartConfig", "PegasusConfig", "MarianConfig")

_BERT = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
_ODD = _BERT | {"hidden_size": 35, "num_attention_heads": 5, "num_hidden_layers": 3, "intermediate_size": 19}
_ROBERTA = {"pad_token_id": 1, "max_position_embeddings": 34}
_DISTILBERT = {
    "vocab_size": VOCABULARY, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40, "max_position_embeddings": 32,
}  # fmt: skip
_LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 32, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_WIDE_HEADS = _LLAMA | {"hidden_size": 21, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10}
_GEMMA = _WIDE_HEADS | {"query_pre_attn_scalar": 7, "sliding_window": 4, "num_hidden_layers": 3}
_GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 32, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_NEOX = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_OPT = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "ffn_dim": 40,
    "max_position_embeddings": 32, "word_embed_proj_dim": 24, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2,
}  # fmt: skip
_T5 = {
    "vocab_size": VOCABULARY, "d_model": 24, "d_kv": 7, "d_ff": 40, "num_layers": 2, "num_heads": 3,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "decoder_start_token_id": 0,
}  # fmt: skip
_BART = {
    "vocab_size": VOCABULARY, "d_model": 24, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 3,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 30, "max_position_embeddings": 32,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
_VIT = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 12,
    "patch_size": 4,
}  # fmt: skip
_DEBERTA = _BERT | {
    "relative_attention": True,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_XLNET = {"vocab_size": VOCABULARY, "d_model": 24, "n_layer": 2, "n_head": 3, "d_inner": 40, "pad_token_id": 0}
_MODERNBERT = _BERT | {
    "num_hidden_layers": 5,
    "local_attention": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


CASES: dict[str, Case] = {
    "bert": Case("BertModel", "BertConfig", _BERT),
    "bert-masked-lm": Case("BertForMaskedLM", "BertConfig", _BERT),
    "bert-odd": Case("BertForMaskedLM", "BertConfig", _ODD | {"hidden_act": "relu", "type_vocab_size": 3}),
    "bert-untied": Case("BertForMaskedLM", "BertConfig", _BERT | {"tie_word_embeddings": False}),
    "bert-pretraining": Case("BertForPreTraining", "BertConfig", _BERT),
    "bert-next-sentence": Case("BertForNextSentencePrediction", "BertConfig", _BERT),
    "bert-sequence": Case("BertForSequenceClassification", "BertConfig", _BERT | {"num_labels": 5}),
    "bert-tokens": Case("BertForTokenClassification", "BertConfig", _BERT | {"num_labels": 5}),
    "bert-answers": Case("BertForQuestionAnswering", "BertConfig", _BERT),
    "bert-choices": Case("BertForMultipleChoice", "BertConfig", _BERT, choices=3),
    "roberta": Case("RobertaForMaskedLM", "RobertaConfig", _BERT | _ROBERTA),
    "roberta-sequence": Case("RobertaForSequenceClassification", "RobertaConfig", _ODD | _ROBERTA | {"num_labels": 3}),
    "xlm-roberta": Case("XLMRobertaForMaskedLM", "XLMRobertaConfig", _ODD | _ROBERTA),
    "camembert": Case("CamembertForTokenClassification", "CamembertConfig", _BERT | _ROBERTA),
    "distilbert": Case(
        "DistilBertForMaskedLM", "DistilBertConfig",
        _DISTILBERT,
    ),
    "distilbert-sequence": Case(
        "DistilBertForSequenceClassification", "DistilBertConfig",
        _DISTILBERT | {"dim": 35, "n_layers": 3, "n_heads": 5, "hidden_dim": 19},
    ),
    "albert": Case("AlbertForMaskedLM", "AlbertConfig", _BERT | {"embedding_size": 10, "num_hidden_layers": 3}),
    "albert-pretraining": Case("AlbertForPreTraining", "AlbertConfig", _ODD | {"embedding_size": 10}),
    "electra-discriminator": Case("ElectraForPreTraining", "ElectraConfig", _BERT | {"embedding_size": 10}),
    "electra-generator": Case("ElectraForMaskedLM", "ElectraConfig", _ODD | {"embedding_size": 12}),
    "electra-sequence": Case("ElectraForSequenceClassification", "ElectraConfig", _BERT | {"embedding_size": 24}),
    "mpnet": Case("MPNetForMaskedLM", "MPNetConfig", _BERT | _ROBERTA),
    "mpnet-odd": Case("MPNetModel", "MPNetConfig", _ODD | _ROBERTA),
    "deberta-v2": Case("DebertaV2ForMaskedLM", "DebertaV2Config", _DEBERTA),
    "deberta-v2-odd": Case(
        "DebertaV2ForSequenceClassification", "DebertaV2Config",
        _DEBERTA | _ODD | {"position_biased_input": True, "type_vocab_size": 2, "max_relative_positions": 20},
    ),
    "deberta-v2-xl": Case(
        "DebertaV2ForMaskedLM", "DebertaV2Config", _DEBERTA | {"conv_kernel_size": 3, "conv_act": "gelu"}
    ),
    "modernbert": Case("ModernBertForMaskedLM", "ModernBertConfig", _MODERNBERT),
    "modernbert-sequence": Case(
        "ModernBertForSequenceClassification", "ModernBertConfig",
        _MODERNBERT | {"num_hidden_layers": 4, "classifier_pooling": "mean", "norm_bias": True, "mlp_bias": True,
                       "attention_bias": True},
    ),
    "modernbert-scaled": Case(
        "ModernBertForMaskedLM", "ModernBertConfig",
        _MODERNBERT | {"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }},
    ),
    "xlnet": Case("XLNetLMHeadModel", "XLNetConfig", _XLNET),
    "xlnet-sequence": Case("XLNetForSequenceClassification", "XLNetConfig", _XLNET | {"d_model": 40, "n_head": 5}),
    "xlnet-answers": Case("XLNetForQuestionAnsweringSimple", "XLNetConfig", _XLNET),
    "gpt2": Case("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "gpt2-odd": Case("GPT2LMHeadModel", "GPT2Config", _GPT2 | {"n_embd": 35, "n_head": 5, "n_inner": 19}),
    "gpt2-sequence": Case("GPT2ForSequenceClassification", "GPT2Config", _GPT2),
    "gpt-neox": Case("GPTNeoXForCausalLM", "GPTNeoXConfig", _NEOX),
    "gpt-neox-serial": Case(
        "GPTNeoXForCausalLM", "GPTNeoXConfig",
        _NEOX | {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True,
                 "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 1.0}},
    ),
    "opt": Case("OPTForCausalLM", "OPTConfig", _OPT),
    "opt-350m": Case(
        "OPTForCausalLM", "OPTConfig", _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 10},
    ),
    "llama": Case("LlamaForCausalLM", "LlamaConfig", _LLAMA),
    "llama-biases": Case(
        "LlamaForCausalLM", "LlamaConfig",
        _WIDE_HEADS | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama-sequence": Case("LlamaForSequenceClassification", "LlamaConfig", _LLAMA | {"num_labels": 3}),
    "llama-linear": Case("LlamaForCausalLM", "LlamaConfig", _LLAMA | _rope("linear", factor=3.0)),
    "llama-dynamic": Case(
        "LlamaForCausalLM", "LlamaConfig", _LLAMA | {"max_position_embeddings": 8} | _rope("dynamic", factor=2.0)
    ),
    "llama-yarn": Case(
        "LlamaForCausalLM", "LlamaConfig",
        _LLAMA | {"head_dim": 16} | _rope("yarn", factor=4.0, original_max_position_embeddings=8),
    ),
    "llama3": Case(
        "LlamaForCausalLM", "LlamaConfig",
        _LLAMA | {"head_dim": 16} | _rope("llama3", factor=8.0, original_max_position_embeddings=16,
                                          low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "mistral": Case("MistralForCausalLM", "MistralConfig", _LLAMA | {"sliding_window": 4}),
    "mistral-full": Case("MistralForCausalLM", "MistralConfig", _WIDE_HEADS | {"sliding_window": None}),
    "qwen2": Case("Qwen2ForCausalLM", "Qwen2Config", _LLAMA),
    "qwen2-windows": Case(
        "Qwen2ForCausalLM", "Qwen2Config",
        _LLAMA | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1, "num_hidden_layers": 3},
    ),
    "qwen3": Case("Qwen3ForCausalLM", "Qwen3Config", _WIDE_HEADS),
    "qwen3-biases": Case(
        "Qwen3ForCausalLM", "Qwen3Config", _LLAMA | {"head_dim": 6, "attention_bias": True, "tie_word_embeddings": True}
    ),
    "gemma2": Case("Gemma2ForCausalLM", "Gemma2Config", _GEMMA),
    "gemma2-capped": Case(
        "Gemma2ForCausalLM", "Gemma2Config", _GEMMA | {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0}
    ),
    "gemma3": Case(
        "Gemma3ForCausalLM", "Gemma3TextConfig", _GEMMA | {"num_hidden_layers": 7, "sliding_window": 3}
    ),
    "phi3": Case("Phi3ForCausalLM", "Phi3Config", _LLAMA),
    "phi3-long": Case(
        "Phi3ForCausalLM", "Phi3Config",
        _LLAMA | {"sliding_window": 5, "original_max_position_embeddings": 8}
        | _rope("longrope", short_factor=[1.0, 1.5], long_factor=[2.0, 3.0], original_max_position_embeddings=8),
    ),
    "phi3-factor": Case(
        "Phi3ForCausalLM", "Phi3Config",
        _LLAMA | {"original_max_position_embeddings": 8}
        | _rope("longrope", short_factor=[1.0, 1.5], long_factor=[2.0, 3.0], factor=9.0),
    ),
    "olmo2": Case("Olmo2ForCausalLM", "Olmo2Config", _LLAMA),
    "olmo2-odd": Case("Olmo2ForCausalLM", "Olmo2Config", _LLAMA | {"hidden_size": 30, "num_attention_heads": 3,
                                                                    "num_key_value_heads": 3, "attention_bias": True}),
    "smollm3": Case("SmolLM3ForCausalLM", "SmolLM3Config", _LLAMA | {"num_hidden_layers": 5}),
    "smollm3-few": Case(
        "SmolLM3ForCausalLM", "SmolLM3Config", _LLAMA | {"no_rope_layers": [0, 1], "tie_word_embeddings": False}
    ),
    "t5": Case("T5ForConditionalGeneration", "T5Config", _T5),
    "t5-1.1": Case(
        "T5ForConditionalGeneration", "T5Config",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 1}, untie=True,
    ),
    "t5-base-model": Case("T5Model", "T5Config", _T5),
    "ul2": Case(
        "T5ForConditionalGeneration", "T5Config",
        _T5 | {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False}, untie=True,
    ),
    "mt5": Case("MT5ForConditionalGeneration", "MT5Config", _T5 | {"feed_forward_proj": "gated-gelu"}, untie=True),
    "bart": Case("BartForConditionalGeneration", "BartConfig", _BART),
    "bart-base-model": Case("BartModel", "BartConfig", _BART | {"scale_embedding": True}),
    "mbart": Case("MBartForConditionalGeneration", "MBartConfig", _BART | {"scale_embedding": True}),
    "pegasus": Case("PegasusForConditionalGeneration", "PegasusConfig", _BART | {"activation_function": "relu"}),
    "marian": Case(
        "MarianMTModel", "MarianConfig", _BART | {"scale_embedding": True, "activation_function": "swish"}
    ),
    "vit": Case("ViTForImageClassification", "ViTConfig", _VIT),
    "vit-odd": Case("ViTModel", "ViTConfig", _VIT | {"hidden_size": 35, "num_attention_heads": 5, "qkv_bias": False}),
    "deit": Case("DeiTForImageClassification", "DeiTConfig", _VIT),
    "deit-teacher": Case("DeiTForImageClassificationWithTeacher", "DeiTConfig", _VIT | {"num_labels": 4}),
}  # fmt: skip


def make(case: Case) -> transformers.PreTrainedModel:
    """A model with random weights of a size at which every part of it shows in the result."""
    generator = torch.Generator().manual_seed(0)
    config = getattr(transformers, case.config)(**case.keys, attn_implementation="eager")
    model = getattr(transformers, case.model)(config).eval()
    if case.untie:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    for name, parameter in model.named_parameters():
        if "embed_positions" in name and case.config in ("PegasusConfig", "MarianConfig"):
            continue  # waves, not learned
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        # Gemma stores scales as their differences from 1.
        middle = 0 if case.config.startswith("Gemma") else 1
        parameter.data = middle + 0.2 * noise if is_scale else noise * (0.6 / max(1, parameter.shape[-1]) ** 0.5)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.data = torch.randn(model.final_logits_bias.shape, generator=generator)
    if case.keys.get("tie_word_embeddings") is False and hasattr(model, "cls"):
        # Not tied with the rest in transformers 5, but never apart in a file that was trained.
        model.cls.predictions.bias.data = model.cls.predictions.decoder.bias.data
    return model


def save(model: transformers.PreTrainedModel, directory: pathlib.Path) -> None:
    """In Hugging Face layout."""
    model.save_pretrained(directory)


def inputs_of(case: Case) -> dict[str, np.ndarray]:
    """A batch with padding, by the names of transformers' arguments."""
    rng = np.random.default_rng(0)
    if case.kind == "vision":
        size = case.keys["image_size"]
        return {"pixel_values": rng.normal(size=(2, 3, size, size)).astype(np.float32)}
    shape = (2, case.choices, LENGTH) if case.choices else (3, LENGTH)
    token_ids = rng.integers(5, VOCABULARY, shape)
    mask = np.ones(shape, np.int64)
    # XLNet pads at the beginning, so that its last token is the one that sums a sequence up.
    mask[1, ..., slice(0, 4) if case.config == "XLNetConfig" else slice(7, None)] = 0
    token_ids[mask == 0] = case.keys.get("pad_token_id", 0)
    inputs = {"input_ids": token_ids, "attention_mask": mask}
    if case.keys.get("type_vocab_size", 1) > 1 or case.config in ("BertConfig", "AlbertConfig", "XLNetConfig"):
        inputs["token_type_ids"] = np.broadcast_to(np.arange(LENGTH) > 4, shape).astype(np.int64)
    if case.config in ("RobertaConfig", "XLMRobertaConfig", "CamembertConfig", "MPNetConfig", "DistilBertConfig"):
        inputs.pop("token_type_ids", None)
    if case.kind == "encoder_decoder":
        inputs["decoder_input_ids"] = rng.integers(5, VOCABULARY, (3, 6))
        inputs["decoder_attention_mask"] = np.ones((3, 6), np.int64)
        inputs["decoder_attention_mask"][2, 4:] = 0
    return inputs
