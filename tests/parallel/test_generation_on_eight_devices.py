"""The same texts on every mesh, out of caches that are split by rows and heads."""

from __future__ import annotations

import numpy as np
import pytest
from on_eight_devices import told_by


@pytest.fixture(scope="module")
def runs() -> dict[tuple, dict]:
    return {(run["family"], run["mesh"]): run for run in told_by("generation_on_eight_devices.py")}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mesh"), [("decoder", "data"), ("decoder", "mixed"), ("encoder_decoder", "mixed")])
def test_a_mesh_writes_what_one_device_does(runs, family, mesh):
    one, many = runs[family, "one"], runs[family, mesh]
    assert many["texts"] == one["texts"]
    np.testing.assert_allclose(many["score"], one["score"], atol=1e-4)


@pytest.mark.slow
def test_texts_are_not_all_alike(runs):
    texts = runs["decoder", "one"]["texts"]
    assert len({str(text) for text in texts["drawn"]}) > 6 and texts["beams"] != texts["greedy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mesh", "parts"),
    [("decoder", "one", 1), ("decoder", "data", 8), ("decoder", "mixed", 8), ("encoder_decoder", "mixed", 8)],
)
def test_a_cache_is_split(runs, family, mesh, parts):
    assert set(runs[family, mesh]["cache"]) == {parts}
