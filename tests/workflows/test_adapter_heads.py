"""Adapters that PEFT wrote: the head is that of the adapter's task, and logits are those of PEFT, or it is refused."""

from __future__ import annotations

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from huggingface import reference_models
from huggingface.reference_models import CASES

import jaxft
from jaxft.errors import CheckpointError
from jaxft.huggingface.peft_config import CONFIG_FILE

# Base, class that the adapter was trained for, task, targets.
ADAPTED = {
    "bert": ("bert", "BertForSequenceClassification", "SEQ_CLS", ["query", "value"]),
    "bert-own-head": ("bert-sequence", "BertForSequenceClassification", "SEQ_CLS", ["query"]),
    "bert-fewer-labels": ("bert-sequence", "BertForSequenceClassification", "SEQ_CLS", ["query"]),
    "bert-tokens": ("bert", "BertForTokenClassification", "TOKEN_CLS", ["query"]),
    "bert-choices": ("bert-choices", "BertForMultipleChoice", None, ["query"]),
    "bert-answers": ("bert-masked-lm", "BertForQuestionAnswering", "QUESTION_ANS", ["query"]),
    "roberta": ("roberta", "RobertaForSequenceClassification", "SEQ_CLS", ["query"]),
    "electra": ("electra-discriminator", "ElectraForSequenceClassification", "SEQ_CLS", ["query"]),
    "llama": ("llama", "LlamaForSequenceClassification", "SEQ_CLS", "all-linear"),
    "gpt2": ("gpt2", "GPT2ForSequenceClassification", "SEQ_CLS", ["c_attn", "mlp.c_proj"]),
}


def perturbed(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def adapted(directory, case, model_class, labels=3, **values):
    """A base and an adapter on it; the adapted model of torch."""
    reference_models.save(reference_models.make(CASES[case]), directory / "base")
    choices = {} if model_class.endswith("MultipleChoice") else {"num_labels": labels}
    model = getattr(transformers, model_class).from_pretrained(
        directory / "base", **choices, ignore_mismatched_sizes=True
    )
    model = perturbed(peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, **values)))
    model.save_pretrained(directory / "adapter")
    return model


def edited(directory, **values):
    path = directory / "adapter" / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def difference(model, directory, case):
    inputs = reference_models.inputs_of(CASES[case])
    with torch.no_grad():
        # The module itself: PEFT's wrapper of question answering loses token types on the way.
        output = model.base_model.model(**{name: torch.from_numpy(np.array(value)) for name, value in inputs.items()})
    wanted = torch.stack([output.start_logits, output.end_logits], -1) if "start_logits" in output else output.logits
    found = np.asarray(jaxft.load_pretrained(directory / "base", adapter=directory / "adapter")(**inputs).logits)
    assert found.shape == tuple(wanted.shape)
    real = inputs["attention_mask"][..., None] if found.ndim == 3 and case != "bert-choices" else 1
    return float(np.abs((found - wanted.numpy()) * real).max())


@pytest.mark.parametrize("name", ADAPTED)
def test_the_logits_are_those_of_the_adapters_own_class(name, tmp_path):
    case, model_class, task, targets = ADAPTED[name]
    labels = {"bert-own-head": 5, "bert-answers": 2}.get(name, 3)
    values = {"task_type": task, "target_modules": targets}
    if task is None:
        values["modules_to_save"] = ["classifier"]
    model = adapted(tmp_path, case, model_class, labels, **values)
    assert difference(model, tmp_path, case) < 5e-4


@pytest.mark.parametrize("pattern", [r".*layers\.1\..*(q_proj|v_proj)", "^model.layers.0.self_attn.q_proj", "v_proj"])
def test_patterns_of_ranks_and_factors_are_merged_as_peft_does(pattern, tmp_path):
    patterns = {"alpha_pattern": {pattern: 32}, "rank_pattern": {pattern: 3}}
    model = adapted(tmp_path, "llama", "LlamaForCausalLM", target_modules=["q_proj", "v_proj"], **patterns)
    assert difference(model, tmp_path, "llama") < 5e-4


def test_a_classifier_whose_hidden_layer_nobody_has_is_refused(tmp_path):
    adapted(tmp_path, "bert-masked-lm", "BertForSequenceClassification", task_type="SEQ_CLS", target_modules=["query"])
    with pytest.raises(CheckpointError, match=r"SEQ_CLS, whose head needs bert\.pooler\.dense\.bias, which neither"):
        jaxft.load_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")


def test_a_classifier_without_a_task_that_may_be_that_of_several_heads_is_refused(tmp_path):
    adapted(tmp_path, "bert", "BertForSequenceClassification", task_type="SEQ_CLS", target_modules=["query"])
    edited(tmp_path, task_type=None)
    with pytest.raises(CheckpointError, match=r"may belong to any of sequence_classification, .*token_classification"):
        jaxft.load_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")


def test_an_update_of_a_module_that_is_no_target_is_refused(tmp_path):
    adapted(tmp_path, "llama", "LlamaForCausalLM", target_modules=["q_proj", "v_proj"])
    edited(tmp_path, exclude_modules=r".*layers\.1\..*")
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.self_attn\.[qv]_proj has an update, but is none of"):
        jaxft.load_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")


def test_a_rank_that_differs_from_what_is_said_is_refused(tmp_path):
    adapted(tmp_path, "llama", "LlamaForCausalLM", target_modules=["q_proj"])
    edited(tmp_path, rank_pattern={"q_proj": 5})
    with pytest.raises(CheckpointError, match=r"q_proj the rank 5, its update has 2"):
        jaxft.load_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")


def test_an_embedding_that_parts_from_the_vocabulary_tied_to_it_is_refused(tmp_path):
    adapted(tmp_path, "gpt2", "GPT2LMHeadModel", target_modules=["c_attn"], modules_to_save=["wte"])
    with pytest.raises(CheckpointError, match=r"modules_to_save has transformer\.wte, which the base ties"):
        jaxft.load_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")
