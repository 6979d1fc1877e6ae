"""The verb `launch`: what it prints, writes and runs."""

from __future__ import annotations

import json
import pathlib

import pytest
import yaml

from jaxft.cli.launching import TARGETS
from jaxft.cli.main import run
from jaxft.launching import targets

XPK = ["--option", "cluster=ours", "--topology", "v5e-16", "--image", "i", "--storage", "gs://b/team"]


def test_a_dry_run_prints_all_and_does_nothing(recipe, tmp_path, capsys):
    words = ["launch", "slurm", str(recipe), "training.seed=7", "--topology", "h100-8", "--option", "partition=gpu"]
    assert run([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "#SBATCH --partition=gpu" in shown and "$ sbatch " in shown and "seed: 7" in shown
    assert run([*words, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [pathlib.Path(path).name for path in found["files"]] == ["train.sbatch", "recipe.yaml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


def test_a_missing_tool_is_named_and_the_files_stay(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert run(["launch", "slurm", str(recipe), "--topology", "h100-8"]) == 1
    assert "jaxft: sbatch is not here" in capsys.readouterr().err
    written = yaml.safe_load((tmp_path / "launches/small/slurm/recipe.yaml").read_text())
    assert written["name"] == "small" and (tmp_path / "launches/small/slurm/train.sbatch").is_file()


def test_the_words_of_the_target_are_those_of_the_command(recipe, capsys):
    assert tuple(targets.TARGETS) == TARGETS
    for words, shown in ((["launch", "--help"], "{tpu-vm,gke,xpk,"), (["launch", "moon", str(recipe)], "'xpk'")):
        with pytest.raises(SystemExit) as ended:
            run(words)
        assert ended.value.code == (0 if "--help" in words else 2)
        assert shown in "".join(capsys.readouterr())


@pytest.mark.parametrize(("status", "answered"), [(0, 0), (3, 3), (77, 1)])
def test_commands_are_run_and_their_status_is_told(recipe, tmp_path, monkeypatch, capsys, status, answered):
    tools = tmp_path / "tools"
    tools.mkdir()
    script = f'#!/bin/sh\nfor word in "$@"; do printf "%s" "$word" > {tmp_path}/word; done\nexit {status}\n'
    (tools / "sbatch").write_text(script)
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    output = tmp_path / "a 'b' $(c)"
    assert run(["launch", "slurm", str(recipe), "--topology", "h100-8", "--output", str(output)]) == answered
    assert (tmp_path / "word").read_text() == str(output / "train.sbatch")
    assert (f"ended with status {status}" in capsys.readouterr().err) == (status != 0)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["slurm"], "slurm needs --topology"), (["slurm", "--topology", "x-1"], "is not known"),
        (["tpu-vm", "--topology", "v5e-16", "--option", "zone=z"], "needs --storage gs://BUCKET/DIRECTORY"),
        (["slurm", "--topology", "h100-8", "--spot"], "slurm does not take --spot; --spot is for tpu-vm, gke, xpk"),
        (["docker", "--topology", "v5e-16", "--image", "a/b", "--restarts", "0"], "docker does not take --restarts"),
        (["gpu-host", "--option", "zone=z"], "gpu-host has no options"),
        (["docker", "--image", "i", "--option", "push=yes"], "push is true or false"),
        (["xpk", *XPK[2:]], "needs --option cluster=CLUSTER"), (["xpk", *XPK, "--option", "zone=a b"], "characters"),
        (["xpk", *XPK, "--topology", "v5e-4"], "does not know v5e:2x2"),
        (["xpk", *XPK, "--secret", "A"], "--env-file FILE; --secret is for tpu-vm, gke, skypilot"),
        (["xpk", *XPK, "--service-account", "me"], "does not take --service-account"),
        (["xpk", *XPK, "--option", "storage=team"], "the path at which XPK mounts it"),
        (["tpu-vm", "--topology", "v5e-16", "--storage", "gs://b"], "needs --option zone=ZONE"),
        (["xpk", *XPK, "--storage", "gs://b,x/$(y)"], "is not like gs://my-bucket"),
        (["slurm", "--secret", "A=b", "--topology", "h100-8"], "--env-file"),
        (["gke", "--secret", "A=sk-$ecret!", "--topology", "h100-8", "--image", "i"], "not the value"),
        (["gke", "--env-file", "f", "--topology", "h100-8", "--image", "i"], "--secret NAME=REFERENCE"),
        (["docker", "--image", "i", "--option", "pull=1"], "docker knows push"),
        (["gpu-host", "--image", "a\nb"], "must be a line of text"),
    ],
)  # fmt: skip
def test_wrong_words_are_the_users(words, problem, recipe, capsys):
    target, *rest = words
    assert run(["launch", target, str(recipe), *rest, "--dry-run"]) == 2
    assert problem in capsys.readouterr().err
