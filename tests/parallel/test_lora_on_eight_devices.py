"""Low-rank updates learn the same on every mesh, also beside kernels of four bits."""

from __future__ import annotations

import numpy as np
import pytest
from on_eight_devices import told_by


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], dict]:
    return {(run["mesh"], run["quantize"]): run for run in told_by("lora_on_eight_devices.py")}


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "form"), [("fsdp", "none"), ("mixed", "none"), ("mixed", "nf4")])
def test_a_mesh_trains_as_one_device_does(runs, mesh, form):
    one, other = runs["one", form], runs[mesh, form]
    np.testing.assert_allclose(other["seen"], one["seen"], rtol=2e-5)
    np.testing.assert_allclose(other["parameters"], one["parameters"], atol=5e-5)
    assert one["seen"] != runs["one", "none" if form == "nf4" else "nf4"]["seen"]
