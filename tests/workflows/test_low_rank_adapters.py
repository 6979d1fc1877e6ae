"""Low-rank updates to PEFT's format and back: the same logits there, merged exactly here, and no other base."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import peft
import pytest
import torch
import transformers
from support.tiny_models import WORDS

import jaxft
from jaxft.cli.main import run
from jaxft.huggingface.peft_config import CONFIG_FILE

pytestmark = pytest.mark.slow

SIZES = {"vocab_size": len(WORDS), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = np.array([[2, 5, 7, 9, 3], [2, 6, 8, 11, 3]])
# Base, class, objective and finetuning of each case; GPT-2 and Phi-3 have joint projections.
CASES = {
    "bert": (
        "BertModel",
        "AutoModelForSequenceClassification",
        "sequence_classification",
        "lora: {rank: 3, dora: true}",
    ),
    "gpt2": ("GPT2LMHeadModel", "AutoModelForCausalLM", "causal_lm", "lora: {rank: 3, dora: true}"),
    "phi3": ("Phi3ForCausalLM", "AutoModelForCausalLM", "causal_lm", "lora: {rank: 3, alpha: 5.0}"),
    # Whose classifiers are modules of several.
    "roberta": (
        "RobertaModel", "AutoModelForSequenceClassification", "sequence_classification", "lora: {rank: 3, alpha: 5.0}",
    ),
    "electra": (
        "ElectraModel", "AutoModelForSequenceClassification", "sequence_classification", "lora: {rank: 3, alpha: 5.0}",
    ),
}  # fmt: skip
CONFIGS = {
    "bert": lambda: transformers.BertConfig(**SIZES, intermediate_size=40, max_position_embeddings=16),
    "roberta": lambda: transformers.RobertaConfig(
        **SIZES, intermediate_size=40, max_position_embeddings=20, pad_token_id=0, type_vocab_size=1
    ),
    "electra": lambda: transformers.ElectraConfig(
        **SIZES, intermediate_size=40, max_position_embeddings=16, embedding_size=24
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=24, n_layer=2, n_head=2, n_positions=16, bos_token_id=2, eos_token_id=3
    ),
    "phi3": lambda: transformers.Phi3Config(
        **SIZES, intermediate_size=40, num_key_value_heads=1, max_position_embeddings=16,
        original_max_position_embeddings=16, pad_token_id=0, bos_token_id=2, eos_token_id=3, sliding_window=None,
    ),
}  # fmt: skip


def base(directory: pathlib.Path, name: str, seed: int = 0) -> pathlib.Path:
    torch.manual_seed(seed)
    getattr(transformers, CASES[name][0])(CONFIGS[name]()).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
    return directory


def recipe(directory: pathlib.Path, model: str, objective: str, finetuning: str) -> pathlib.Path:
    generator = np.random.default_rng(0)
    rows = [
        {"text": " ".join(generator.choice(WORDS[5:], 6)), "label": str(generator.choice(["a", "b", "c"]))}
        for _ in range(32)
    ]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = directory / "recipe.yaml"
    path.write_text(f"""
name: adapted
model: {model}
streams:
  {objective}:
    source: {{jsonl: rows.jsonl}}
    objective: {{kind: {objective}, length: 12}}
    batch_size: 8
finetuning: {{{finetuning}}}
optimizer: {{learning_rate: 3e-2}}
training: {{steps: 4, evaluate_every: 4}}
""")
    return path


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A base, a run on it, and the run's adapter."""
    name = request.param
    directory = tmp_path_factory.mktemp(name)
    base(directory / "base", name)
    _, _, objective, finetuning = CASES[name]
    path = recipe(directory, f"{{pretrained: {directory}/base}}", objective, finetuning)
    assert run(["train", str(path), "--run-dir", str(directory / "run"), "--quiet"]) == 0
    assert run(["export", str(directory / "run"), str(directory / "adapter"), "--adapter"]) == 0
    assert run(["export", str(directory / "run"), str(directory / "merged")]) == 0
    return name, directory


def test_peft_computes_with_the_adapter_what_the_merged_model_does(case):
    name, directory = case
    auto = getattr(transformers, CASES[name][1])
    labels = {"num_labels": 3} if "Classification" in CASES[name][1] else {}
    bare = auto.from_pretrained(directory / "base", **labels).eval()
    merged = auto.from_pretrained(directory / "merged").eval()
    ids = torch.tensor(IDS)
    with torch.no_grad():
        before = bare(ids).logits
        adapted = peft.PeftModel.from_pretrained(bare, str(directory / "adapter")).eval()
        found, wanted = adapted(ids).logits, merged(ids).logits
    assert (found - wanted).abs().max() < 1e-4
    assert (found - before).abs().max() > 0.01


def test_the_base_with_the_adapter_is_the_merged_model(case):
    _, directory = case
    merged = jaxft.load_pretrained(directory / "merged")
    found = jaxft.load_pretrained(directory / "base", adapter=directory / "adapter")
    assert found.heads == merged.heads
    np.testing.assert_allclose(found(IDS).logits, merged(IDS).logits, atol=1e-5)
    # Imported and exported again, and begun from in a recipe, it is the same.
    assert (
        run(["import", str(directory / "base"), str(directory / "again"), "--adapter", str(directory / "adapter")]) == 0
    )
    np.testing.assert_allclose(jaxft.load_pretrained(directory / "again")(IDS).logits, merged(IDS).logits, atol=1e-5)


def test_a_recipe_begins_from_the_base_with_the_adapter(case, tmp_path):
    name, directory = case
    objective = CASES[name][2]
    model = f"{{pretrained: {directory}/base, adapter: {directory}/adapter}}"
    path = recipe(tmp_path, model, objective, "")
    words = ["train", str(path), "training.steps=1", "optimizer.learning_rate=1e-12", "optimizer.weight_decay=0.0"]
    assert run([*words, "--run-dir", str(tmp_path / "run"), "--quiet"]) == 0
    one, two = (jaxft.load_pretrained(place)(IDS).logits for place in (tmp_path / "run", directory / "merged"))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_an_adapter_for_another_base_is_refused(case, tmp_path, capsys):
    name, directory = case
    other = base(tmp_path / "other", name, seed=1)
    capsys.readouterr()
    assert run(["import", str(other), str(tmp_path / "out"), "--adapter", str(directory / "adapter")]) == 4
    said = capsys.readouterr().err
    assert "was made for other weights" in said and "Traceback" not in said


def changed(adapter: pathlib.Path, target: pathlib.Path, **values) -> pathlib.Path:
    """A copy of an adapter with other keys in its configuration."""
    shutil.copytree(adapter, target)
    config = json.loads((target / CONFIG_FILE).read_text())
    (target / CONFIG_FILE).write_text(json.dumps({**config, **values}))
    return target


def test_what_cannot_be_merged_is_refused_by_name(case, tmp_path, capsys):
    name, directory = case
    cases = {
        "bias": ({"bias": "all"}, "bias is 'all'"),
        "kind": ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    }
    for key, (values, wanted) in cases.items():
        adapter = changed(directory / "adapter", tmp_path / key, **values)
        capsys.readouterr()
        assert run(["import", str(directory / "base"), str(tmp_path / f"{key}-out"), "--adapter", str(adapter)]) == 4
        assert wanted in capsys.readouterr().err
    other = "gpt2" if name != "gpt2" else "bert"
    base(tmp_path / "other", other)
    assert run(["import", str(tmp_path / "other"), str(tmp_path / "out"), "--adapter", str(directory / "adapter")]) == 4
    # The adapters of these two bring less of a head than it takes.
    wanted = "neither the adapter nor the base has" if name in ("roberta", "electra") else "has no layer"
    assert wanted in capsys.readouterr().err


def test_a_run_on_a_base_with_an_adapter_in_it_has_no_adapter_of_its_own(tmp_path, capsys):
    base(tmp_path / "base", "bert")
    peft.get_peft_model(
        transformers.AutoModel.from_pretrained(tmp_path / "base"), peft.LoraConfig(r=2, target_modules=["query"])
    ).save_pretrained(tmp_path / "adapter")
    model = f"{{pretrained: {tmp_path}/base, adapter: {tmp_path}/adapter}}"
    path = recipe(tmp_path, model, "sequence_classification", "lora: {rank: 3}")
    assert run(["train", str(path), "--run-dir", str(tmp_path / "run"), "training.steps=1", "--quiet"]) == 0
    capsys.readouterr()
    assert run(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--adapter"]) == 4
    assert f"with the adapter {tmp_path}/adapter merged into it" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "run"), str(tmp_path / "merged")]) == 0


def test_an_adapter_of_pefts_own_is_merged_as_peft_does(tmp_path):
    """One that our export did not write: a regular expression of targets, ranks of its own, and no fingerprint."""
    base(tmp_path / "base", "bert")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=r".*\.(query|output\.dense)",
        init_lora_weights=False,
        alpha_pattern={"query": 3},
        use_rslora=True,
    )
    adapted = peft.get_peft_model(model, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor(IDS)
    with torch.no_grad():
        wanted = adapted.base_model.model.bert(ids).last_hidden_state.numpy()
    found = jaxft.load_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")
    np.testing.assert_allclose(found(IDS).hidden, wanted, atol=1e-5)


def test_a_model_without_a_low_rank_update_has_no_adapter(case, tmp_path, capsys):
    _, directory = case
    assert run(["import", str(directory / "base"), str(tmp_path / "imported")]) == 0
    capsys.readouterr()
    assert run(["export", str(tmp_path / "imported"), str(tmp_path / "out"), "--adapter"]) == 4
    assert "has no low-rank update" in capsys.readouterr().err


def test_the_adapter_of_a_quantized_run_belongs_on_its_whole_base(tmp_path):
    base(tmp_path / "base", "bert")
    path = recipe(
        tmp_path, f"{{pretrained: {tmp_path}/base}}", "sequence_classification", "lora: {rank: 3, quantize: nf4}"
    )
    assert run(["train", str(path), "--run-dir", str(tmp_path / "run"), "--quiet"]) == 0
    assert run(["export", str(tmp_path / "run"), str(tmp_path / "adapter"), "--adapter"]) == 0
    found = jaxft.load_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")(IDS).hidden
    trained = jaxft.load_pretrained(tmp_path / "run")(IDS).hidden
    plain = jaxft.load_pretrained(tmp_path / "base")(IDS).hidden
    # Off by the rounding of the kernels, which is less than what was learned.
    assert 0 < np.abs(found - trained).mean() < 0.5 * np.abs(found - plain).mean()
    # Embeddings, norms and biases still tell bases apart.
    other = base(tmp_path / "other", "bert", seed=1)
    assert run(["import", str(other), str(tmp_path / "out"), "--adapter", str(tmp_path / "adapter")]) == 4
