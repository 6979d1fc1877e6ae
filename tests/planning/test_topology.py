"""Topologies by name."""

from __future__ import annotations

import pytest

from jaxft.errors import RecipeError
from jaxft.planning.topology import CHIPS, parse_topology


@pytest.mark.parametrize(
    ("text", "name", "chips", "devices"),
    [
        ("v5e-256", "v5e:16x16", 256, 256),
        ("v5e:4x8", "v5e:4x8", 32, 32),
        ("V5E-1", "v5e:1x1", 1, 1),
        ("v4-64", "v4:4x4x4", 64, 64),
        ("v5p:8x8x16", "v5p:8x8x16", 1024, 1024),
        ("v5p:4x4x12", "v5p:4x4x12", 192, 192),
        ("v6e-16", "v6e:4x4", 16, 16),
        ("tpu7x-4", "tpu7x:2x2x1", 4, 8),
        ("h100-8", "h100-8", 8, 8),
        ("h200-1", "h200-1", 1, 1),
    ],
)
def test_a_name_says_how_many_devices_there_are(text, name, chips, devices):
    found = parse_topology(text)
    assert (found.name, found.chips, found.devices) == (name, chips, devices)
    assert found.compiles == (not text.startswith("h"))


def test_slices_multiply():
    found = parse_topology("v5e-256", 4)
    assert (found.chips, found.devices, found.name) == (1024, 1024, "v5e:16x16")


@pytest.mark.parametrize(
    ("text", "slices", "told"),
    [
        ("v3-8", 1, "v4-4|8.*v5e-1.*v5p-4.*v6e-1.*tpu7x-4.*h100-1.*h200-1"),
        ("v5e", 1, "not known"),
        ("v5e-", 1, "not known"),
        ("v5e-20", 1, "comes in 1, 4, 8, 16, 32, 64, 128, 256 chips, found 20"),
        ("v5e:3x5", 1, "its shapes are 1x1, 2x2"),
        ("v5e:4x4x4", 1, "its shapes are 1x1, 2x2"),
        ("v5p:4x4", 1, "its shapes are 2x2x1"),
        ("v5p:4x4x0", 1, "its shapes are 2x2x1"),
        ("v5p:64x64x64", 1, "its shapes are 2x2x1"),
        ("h100:3", 1, "its shapes are 1, 2"),
        ("h100-8", 2, "--slices is for TPUs"),
        ("v5e-8", 0, "--slices must be at least 1"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(text, slices, told):
    with pytest.raises(RecipeError, match=told):
        parse_topology(text, slices)


def test_the_numbers_of_chips_are_plausible():
    """A chip that reads its whole memory in a second or computes for less than it reads was mistyped."""
    for chip in CHIPS.values():
        assert 5 < chip.hbm_bandwidth / chip.hbm_bytes * 1.0 < 80
        assert 100 < chip.peak_flops / chip.hbm_bandwidth < 700
        assert chip.ring_bandwidth < chip.hbm_bandwidth
        # Matrix units of 128x128 or 256x256 that do a multiplication and an addition in a cycle.
        units = None if chip.clock is None else chip.peak_flops / chip.clock / 2 / 128**2
        assert units is None or units == pytest.approx(round(units), rel=0.03)
