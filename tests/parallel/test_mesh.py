"""Sizes of a mesh fit the devices, or the message says which would."""

from __future__ import annotations

import math

import jax
import pytest

from jaxft.errors import InvalidField, RecipeError
from jaxft.parallel.mesh import AXES, MeshConfig, batch_shards, make_mesh


@pytest.mark.parametrize(
    ("fields", "devices", "sizes"),
    [
        ({}, 1, (1, 1, 1, 1)),
        ({}, 8, (8, 1, 1, 1)),
        ({"data": 2, "fsdp": -1}, 8, (2, 4, 1, 1)),
        ({"tensor": 2}, 8, (4, 1, 2, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 2, "context": 1}, 8, (2, 2, 2, 1)),
        ({"data": 1, "context": -1}, 6, (1, 1, 1, 6)),
        ({"data": -1, "fsdp": 8}, 8, (1, 8, 1, 1)),
    ],
)
def test_the_free_axis_takes_the_devices_that_are_left(fields, devices, sizes):
    assert MeshConfig(**fields).sizes(devices) == sizes
    assert math.prod(sizes) == devices


@pytest.mark.parametrize(
    ("fields", "devices"),
    [({"data": 3}, 8), ({"fsdp": 3}, 8), ({"data": 2, "fsdp": 2}, 8), ({"tensor": 16}, 8), ({"data": 2}, 1)],
)
def test_sizes_that_do_not_fit_are_refused_with_the_way_out(fields, devices):
    with pytest.raises(RecipeError, match=rf"does not multiply to the {devices} devices.*product is {devices}, or -1"):
        MeshConfig(**fields).sizes(devices)


@pytest.mark.parametrize("size", [0, -2])
def test_an_impossible_size_names_its_axis(size):
    with pytest.raises(InvalidField, match=f"positive number of devices or -1.*found {size}") as caught:
        MeshConfig(tensor=size)
    assert caught.value.field == "tensor"


def test_only_one_axis_is_free():
    with pytest.raises(InvalidField, match="only one axis can be -1, and data already is") as caught:
        MeshConfig(data=-1, context=-1)
    assert caught.value.field == "context"


def test_a_mesh_has_auto_axes_in_order():
    mesh = make_mesh(MeshConfig())
    assert mesh.axis_names == AXES and mesh.size == len(jax.devices())
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_a_batch_is_split_over_data_and_fsdp():
    mesh = jax.sharding.AbstractMesh((2, 4, 3, 1), AXES)
    assert batch_shards(mesh) == 8
