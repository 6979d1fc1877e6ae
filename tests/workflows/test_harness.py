"""Scores by lm-evaluation-harness: those that the harness's own torch model gets, on tasks of files."""

from __future__ import annotations

import json
import pathlib

import pytest
from support import tiny_models

from jaxft.cli.main import run

lm_eval = pytest.importorskip("lm_eval", reason="needs the package lm_eval")

QUESTIONS = [
    {"question": "the cat sat on the", "choices": [" mat", " yes", " cat"], "answer": 0},
    {"question": "Is it?", "choices": [" no", " perhaps 10", " mat"], "answer": 1},
    {"question": "yes, no,", "choices": [" perhaps", " 20", " the"], "answer": 0},
]
_COMMON = "dataset_path: json\ntest_split: test\nnum_fewshot: 0\ndataset_kwargs: {data_files: {test: FILE}}\n"
TASKS = {
    "mats": "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
    "doc_to_choice: '{{choices}}'\ntarget_delimiter: ''\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "words": "output_type: loglikelihood_rolling\ndoc_to_text: ''\n"
    "doc_to_target: '{{question * 40}}'\nmetric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]\n",
    "writes": "output_type: generate_until\ndoc_to_text: '{{question * 3}}'\ndoc_to_target: '{{choices[0]}}'\n"
    "generation_kwargs: {until: ['a', 'e'], max_gen_toks: 12, do_sample: false}\n"
    "metric_list: [{metric: exact_match}]\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A model and tasks."""
    root = tmp_path_factory.mktemp("harness")
    tiny_models.llama(root / "model", talks=False, context=64)
    # As tokenizers of decoders are: with an end token, and nothing put around a text.
    for name, change in (
        ("tokenizer_config.json", {"eos_token": "[SEP]"}),
        ("tokenizer.json", {"post_processor": None}),
    ):
        path = root / "model" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    file = root / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    for name, text in TASKS.items():
        (root / f"{name}.yaml").write_text(f"task: {name}\n" + _COMMON.replace("FILE", str(file)) + text)
    return root


@pytest.mark.slow
def test_scores_are_those_of_the_harness_own_model(folder, capsys, monkeypatch):
    """Continuations, texts longer than the context, and texts that are written."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="needs what the harness's model needs")
    from lm_eval.api.instance import Instance

    from jaxft.workflows.inference.harness import HarnessModel

    theirs = huggingface.HFLM(pretrained=str(folder / "model"), device="cpu", dtype="float32", batch_size=1)
    ours = HarnessModel(folder / "model")

    def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
        return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]

    pairs = [(row["question"], choice) for row in QUESTIONS for choice in row["choices"]]
    pairs += [("the cat sat on ", "the mat"), ("", " yes"), ("the cat " * 40, " sat on the mat")]
    asked = requests("loglikelihood", pairs)
    # One by one, as theirs takes a context with the beginning of a continuation for a context.
    expected = [theirs.loglikelihood([one], disable_tqdm=True)[0] for one in asked]
    for mine, their in zip(ours.loglikelihood(asked), expected, strict=True):
        assert mine[0] == pytest.approx(their[0], abs=1e-3) and mine[1] == their[1]
    asked = requests("loglikelihood_rolling", [(row["question"] * 40,) for row in QUESTIONS])
    theirs_rolling = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(theirs_rolling, rel=1e-4)
    options = {"until": ["a", "e"], "max_gen_toks": 12, "do_sample": False}
    asked = requests("generate_until", [(row["question"] * 3, options) for row in QUESTIONS])
    assert ours.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)
    assert run(["harness", str(folder / "model"), "--tasks", ",".join(TASKS), "--include", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(TASKS) and 0 <= found["mats"]["acc"] <= 1 and found["words"]["byte_perplexity"] > 1
    expected = lm_eval.simple_evaluate(
        model=theirs,
        tasks=["mats"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False),
    )["results"]["mats"]
    assert found["mats"]["acc"] == expected["acc,none"] and found["mats"]["acc_norm"] == expected["acc_norm,none"]


@pytest.mark.slow
def test_an_unknown_task_is_named(folder, capsys):
    words = ["harness", str(folder / "model"), "--include", str(folder), "--tasks", "mats,no_such_task"]
    assert run(words) == 2
    assert "no task 'no_such_task'" in capsys.readouterr().err
