"""The quickstart as a newcomer runs it: everything real, nothing downloaded."""

from __future__ import annotations

import json
import math
import pathlib

import pytest
from processes import finish


@pytest.mark.slow
def test_the_quickstart_pretrains_fine_tunes_and_compares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # It trains for minutes, where it pays to compile well.
    monkeypatch.delenv("XLA_FLAGS")
    result = json.loads(finish("quickstart", "--json"))
    start, one_way, both, scratch = (result[arm] for arm in ("start", "one_way", "bidirectional", "from_scratch"))

    # Pretraining learned more than how often each token occurs, by a nat.
    assert start["retained"] < result["baselines"]["unigram_loss"] - 1.0
    # Both ways learn the task, far better than chance and better than the same model without pretraining.
    for arm in (one_way, both):
        assert arm["task"]["accuracy"] > result["baselines"]["majority_accuracy"] + 0.2
        assert arm["task"]["accuracy"] > scratch["task"]["accuracy"]
    # Replay keeps what one-way fine-tuning forgets.
    assert both["retained"] < one_way["retained"]

    run_dir = pathlib.Path(result["run_dir"])
    report = (run_dir / "report.html").read_text()
    assert f"{both['task']['accuracy']:.1%}" in report and "data:image/png;base64," in report
    rows = [json.loads(line) for line in (run_dir / "bidirectional" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in rows if row["kind"] == "train")
    # The arms saw the same number of task examples.
    steps = {
        arm: json.loads((run_dir / arm / "summary.json").read_text())["steps"] for arm in ("one-way", "bidirectional")
    }
    assert steps["one-way"] == steps["bidirectional"]

    # A second start finds everything done.
    assert json.loads(finish("quickstart", "--json")) | {"seconds": 0} == result | {"seconds": 0}
