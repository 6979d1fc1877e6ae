"""Negatives come from all devices: a contrastive loss that is spread out is the one of a single device."""

from __future__ import annotations

import numpy as np
import pytest
from on_eight_devices import told_by


@pytest.fixture(scope="module")
def runs() -> dict[str, dict]:
    return told_by("contrastive_on_eight_devices.py")


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "rows"), [("data", 2), ("mixed", 4)])
def test_loss_and_gradient_are_those_of_one_device(runs, mesh, rows):
    assert runs[mesh]["rows"] == rows and runs["one"]["rows"] == 16  # so that most negatives lie elsewhere
    assert runs[mesh]["loss"] == pytest.approx(runs["one"]["loss"], rel=1e-5)
    one, other = (np.array(runs[name]["gradient"]) for name in ("one", mesh))
    np.testing.assert_allclose(other, one, atol=1e-5 * np.abs(one).max())
    assert np.abs(one).max() > 0
