"""Sequences whose length devices share: the loss and gradients of a single device."""

from __future__ import annotations

import numpy as np
import pytest
from on_eight_devices import told_by

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, int, str], dict]:
    return {(run["model"], run["context"], run["kernel"]): run for run in told_by("context_on_eight_devices.py")}


@pytest.mark.parametrize(
    ("model", "context", "kernel"),
    [
        ("decoder", 2, "auto"), ("encoder", 2, "auto"), ("encoder_decoder", 2, "auto"),
        ("decoder", 2, "splash"), ("decoder", 4, "splash"), ("encoder", 2, "splash"),
    ],
)  # fmt: skip
def test_a_shared_length_changes_nothing(runs, model, context, kernel):
    one, shared = runs[model, 1, "reference"], runs[model, context, kernel]
    assert shared["loss"] == pytest.approx(one["loss"], rel=1e-5)
    wanted = np.array(one["gradient"])
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(shared["gradient"], wanted, atol=1e-5 * np.abs(wanted).max())
