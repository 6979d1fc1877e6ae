"""The device mesh of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import jax
import numpy as np
from jax.experimental import mesh_utils

from jaxft.errors import InvalidField, RecipeError

AXES = ("data", "fsdp", "tensor", "context")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; at most one is -1 and takes the devices that are left.

    Attributes:
      data: copies of the model, each with its share of the batch.
      fsdp: devices that share the parameters and the batch (fully sharded data parallelism, ZeRO stage 3).
      tensor: devices that share the heads and feed-forward widths of each layer (Megatron).
      context: devices that share the length of each sequence.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1

    def __post_init__(self) -> None:
        for axis in AXES:
            if (size := getattr(self, axis)) < 1 and size != -1:
                raise InvalidField(axis, f"must be a positive number of devices or -1 (the rest), found {size}")
        if (rest := [axis for axis in AXES if getattr(self, axis) == -1]) and len(rest) > 1:
            raise InvalidField(rest[1], f"only one axis can be -1, and {rest[0]} already is")

    def sizes(self, device_count: int) -> tuple[int, ...]:
        """Sizes of all axes for `device_count` devices.

        Raises:
          RecipeError: the sizes do not multiply to the number of devices.
        """
        sizes = [getattr(self, axis) for axis in AXES]
        fixed = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and device_count % fixed == 0:
            sizes[sizes.index(-1)] = device_count // fixed
        if math.prod(sizes) != device_count:
            wanted = ", ".join(f"{axis}: {getattr(self, axis)}" for axis in AXES)
            raise RecipeError(
                f"mesh: {{{wanted}}} does not multiply to the {device_count} devices here; "
                f"choose sizes whose product is {device_count}, or -1 for one of them"
            )
        return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Iterable[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh with axes `data, fsdp, tensor, context` over `devices` (all of them by default), with Auto axis types.

    Devices of several slices are laid out so that only the axis `data` crosses the network between the slices.

    Raises:
      RecipeError: the sizes do not multiply to the number of devices, or `data` does not divide over the slices.
    """
    used = jax.devices() if devices is None else list(devices)
    sizes = config.sizes(len(used))
    slices = len({getattr(device, "slice_index", 0) for device in used})
    inner, outer = split_over_slices(sizes, slices)
    if slices > 1:
        laid = mesh_utils.create_hybrid_device_mesh(inner, outer, used, allow_split_physical_axes=True)
    else:
        laid = mesh_utils.create_device_mesh(sizes, used, allow_split_physical_axes=True)
    return jax.sharding.Mesh(laid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def abstract_mesh(config: MeshConfig, device_count: int, slices: int = 1) -> jax.sharding.AbstractMesh:
    """As `make_mesh`, of devices that are not here.

    Raises:
      RecipeError: as `make_mesh`.
    """
    sizes = config.sizes(device_count)
    split_over_slices(sizes, slices)
    return jax.sharding.AbstractMesh(sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def split_over_slices(sizes: tuple[int, ...], slices: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the axes within a slice, and between slices.

    Raises:
      RecipeError: the axis `data` does not divide over the slices.
    """
    data, *rest = sizes
    if data % slices:
        raise RecipeError(
            f"mesh: data of {data} does not divide over {slices} slices, and no other axis may cross the network "
            f"between them; make it a multiple of {slices}"
        )
    return (data // slices, *rest), (slices, *[1] * len(rest))


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """In how many parts a batch is split: the devices of the axes `data` and `fsdp`."""
    return int(np.prod([mesh.shape[axis] for axis in ("data", "fsdp")]))
