"""`jaxft plan` as a user runs it, by formulas: what is compiled is looked through in `tests/planning`."""

from __future__ import annotations

import json
import math

import pytest

from jaxft.cli.main import run

# Narrow and shallow, but with batches, lengths and a vocabulary that a small chip has no memory for.
RECIPE = """
name: planned
model: {preset: decoder-tiny, embed_dim: 256, num_heads: 4, num_kv_heads: 2, mlp_dim: 512, max_length: 1024}
tokenizer: {train: {vocab_size: 65536}}
streams:
  text:
    source: {jsonl: nowhere.jsonl}
    objective: {kind: causal_lm}
    batch_size: 512
training: {steps: 1000, precision: bfloat16, remat: full}
mesh: {data: 1, fsdp: -1}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("recipes") / "planned.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture
def told(recipe, capsys):
    """A plan as JSON."""

    def ask(*words: str) -> dict:
        assert run(["plan", recipe, "--no-compile", "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def test_a_plan_has_the_promised_keys_and_its_numbers_fit_together(told):
    plan = told("--topology", "v5e-256", "--price-per-hour", "2")
    promised = {
        "devices",
        "parameters",
        "bytes_per_device",
        "hbm_bytes",
        "fits",
        "flops_per_step",
        "estimated_step_seconds",
        "estimated_mfu",
        "compile_seconds",
        "attention",
    }
    assert promised <= plan.keys()
    assert plan["devices"] == 256
    assert plan["attention"] == "splash"
    assert (
        plan["parameters"]
        == sum(plan["parameters_by_part"].values())
        == sum(math.prod(row["shape"]) for row in plan["parameter_table"])
    )
    assert plan["fits"] == (plan["bytes_per_device"] <= plan["hbm_bytes"])
    seconds, tokens = plan["estimated_step_seconds"], plan["tokens_per_step"]
    assert plan["tokens_per_day"] == pytest.approx(tokens / seconds * 86400)
    assert plan["estimated_mfu"] == pytest.approx(plan["flops_per_step"] / seconds / 256 / 197e12)
    assert plan["cost"] == pytest.approx(1000 * seconds / 3600 * 256 * 2)
    assert plan["cost_per_billion_tokens"] == pytest.approx(plan["cost"] * 1e9 / (1000 * tokens))


def test_the_text_says_which_kernel_and_why_and_lists_parameters_on_request(recipe, capsys):
    assert run(["plan", recipe, "--no-compile", "--topology", "v5e-16", "--parameters", "training.attention=xla"]) == 0
    text = capsys.readouterr().out
    assert "asked for" in text
    row = next(line for line in text.splitlines() if line.startswith("trunk/embeddings/tokens/table"))
    assert "65536 x 256" in row
    assert "fsdp" in row
    assert str(65536 * 256 * 4 // 16) in row.replace(",", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--topology", "v3-8"], "v5e-1|4|8"),
        (["--topology", "v5e-20"], "found 20"),
        (["--topology", "v5e-16", "mesh.fsdp=3"], "does not multiply to the 16 devices"),
        (["--topology", "v5e-16", "streams.text.batch_size=24"], "24 rows"),
        (
            ["--topology", "v5e-16", "mesh.tensor=4", "mesh.fsdp=4"],
            "'kv_heads' of 2 does not divide by mesh.tensor = 4",
        ),
        (["--topology", "v5e-16", "--slices", "3", "mesh.fsdp=-1"], "data of 1 does not divide over 3 slices"),
        (["--topology", "h100-8", "--slices", "2"], "--slices is for TPUs"),
        (["--topology", "v5e-16", "training.attention=cudnn"], "no program for TPUs"),
    ],
)
def test_what_cannot_be_is_refused_in_one_message(recipe, capsys, words, told):
    assert run(["plan", recipe, "--no-compile", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert "Traceback" not in captured.err


def test_what_does_not_fit_says_by_how_much_and_what_would_make_it_fit(recipe, told, capsys):
    plan = told("--topology", "v5e-8")
    assert not plan["fits"]
    kinds = {word.split("=")[0] for way in plan["ways_to_fit"] for word in way["change"].split()}
    assert {"training.micro_batches", "training.loss_parts"} <= kinds  # the logits are in the way
    for way in plan["ways_to_fit"]:
        changed = told("--topology", "v5e-8", *way["change"].split())
        assert changed["fits"]
        assert changed["bytes_per_device"] == pytest.approx(way["bytes_per_device"], rel=0.01)
    assert run(["plan", recipe, "--no-compile", "--topology", "v5e-8"]) == 0
    lacking = (plan["bytes_per_device"] - plan["hbm_bytes"]) / 2**30
    assert f"each device lacks {lacking:.2f} GiB" in capsys.readouterr().out


@pytest.mark.slow
def test_where_no_mesh_fits_it_says_how_many_devices_would(told):
    wide = ["model.embed_dim=8192", "model.mlp_dim=32768", "model.num_layers=4", "streams.text.batch_size=32"]
    plan = told("--topology", "v5e-4", *wide)
    (way,) = plan["ways_to_fit"]
    option, larger, *overrides = way["change"].split()
    assert option == "--topology"
    assert told("--topology", larger, *wide, *overrides)["fits"]


@pytest.mark.slow
def test_a_search_finds_a_way_that_fits_and_is_no_slower_by_formula(told):
    given = told("--topology", "v5e-4", "training.micro_batches=64")
    found = told("--topology", "v5e-4", "--search")
    assert given["fits"]
    assert found["fits"]
    assert found["estimated_step_seconds"] <= given["estimated_step_seconds"]
    again = told("--topology", "v5e-4", *found["overrides"])
    assert again["bytes_per_device"] == found["bytes_per_device"]
    in_parts = [one for one in found["candidates"] if one["overrides"][-1].startswith("training.loss_parts")]
    assert in_parts and all(one["bytes_per_device"] <= found["hbm_bytes"] for one in in_parts)


def test_slices_share_the_batch_and_pay_for_their_network(told):
    one = told("--topology", "v5e-64", "mesh.data=2")
    two = told("--topology", "v5e-64", "--slices", "2", "mesh.data=2", "streams.text.batch_size=1024")
    assert two["devices"] == 2 * one["devices"]
    assert two["estimate"]["exposed"] > one["estimate"]["exposed"]


def test_gpus_are_planned_by_formula_and_nothing_is_compiled(recipe, capsys):
    assert run(["plan", recipe, "--topology", "h200-1", "--json", "mesh.fsdp=1", "streams.text.batch_size=64"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["estimate"]["method"] == "formula"
    assert plan["compile_seconds"] is None
    assert plan["attention"] == "cudnn"
    assert run(["plan", recipe, "--topology", "h100-8", "--json", "training.attention=cudnn"]) == 0
    assert json.loads(capsys.readouterr().out)["attention_uses"][0]["reason"] == "asked for"
