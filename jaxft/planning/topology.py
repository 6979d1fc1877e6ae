"""The accelerators that a run can be planned for, by name."""

from __future__ import annotations

import dataclasses
import math
import re

from jaxft.errors import RecipeError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them; the numbers are the makers' own.

    Attributes:
      name: as it is named in a topology.
      peak_flops: products in bfloat16 that sum in float32, FLOP/s.
      hbm_bytes: memory that a program can have.
      hbm_bandwidth: of that memory, bytes/s.
      ring_bandwidth: what a device sends along one axis of its network, both directions together, bytes/s.
      clock: cycles/s of its matrix units, in which the compiler of TPUs counts; None for GPUs.
      dimensions: axes of the torus that chips are wired to; 0 for GPUs, for which nothing is compiled ahead of time.
      devices_per_chip: how many devices a chip shows.
    """

    name: str
    peak_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ring_bandwidth: float
    clock: float | None = None
    dimensions: int = 0
    devices_per_chip: int = 1


GIB = 2**30

# TPUs: the system architecture pages of Google Cloud, and "How to scale your model" (Austin et al. 2025), chapter 2,
# which also has the networks. A TPU7x shows each half of a chip as a device. Clocks follow from the peaks and the size
# of the matrix units; memory is what the compiler allows a program, the rest is the runtime's.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, int(30.75 * GIB), 1.23e12, 9e10, 1.05e9, 3),
        Chip("v5e", 197e12, int(15.75 * GIB), 8.2e11, 9e10, 1.5e9, 2),
        Chip("v5p", 459e12, int(95.74 * GIB), 2.76e12, 1.8e11, 1.75e9, 3),
        Chip("v6e", 918e12, int(31.25 * GIB), 1.64e12, 1.8e11, 1.75e9, 2),
        Chip("tpu7x", 1153.5e12, int(94.75 * GIB), 3.69e12, 2e11, 2.2e9, 3, 2),
        Chip("h100", 989e12, 80 * 10**9, 3.35e12, 4.5e11),
        Chip("h200", 989e12, 141 * 10**9, 4.8e12, 4.5e11),
    )
}

# Share of its peak that a real matrix product reaches on a chip: 790 of 989 TFLOP/s on an H200.
PRODUCT_EFFICIENCY = 0.8

# Between slices, over the data centre's network, for each chip, bytes/s.
SLICE_BANDWIDTH = 6.25e9

# By the number of chips.
_Shapes = dict[int, tuple[int, ...]]

_SQUARES: _Shapes = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_CUBES: _Shapes = {
    4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8),
    512: (8, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16),
}  # fmt: skip
_GPUS: _Shapes = {count: (count,) for count in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)}
_SHAPES = {0: _GPUS, 2: _SQUARES, 3: _CUBES}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips wired together.

    Attributes:
      chip: of which kind.
      shape: how many along each axis of the torus, of one slice.
      slices: how many such tori a data centre's network joins.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """Devices of all slices, as JAX counts them."""
        return self.chips * self.chip.devices_per_chip

    @property
    def name(self) -> str:
        """Of one slice, as the compiler of TPUs calls it, such as `v5e:16x16`; of GPUs `h100-8`."""
        if not self.compiles:
            return f"{self.chip.name}-{self.shape[0]}"
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def platform(self) -> str:
        """As JAX names what its devices are."""
        return "tpu" if self.chip.dimensions else "gpu"

    @property
    def compiles(self) -> bool:
        """Whether programs can be compiled for it without it."""
        return self.chip.dimensions > 0


def parse_topology(text: str, slices: int = 1) -> Topology:
    """The topology of a name: a kind with a number of chips (`v5e-256`) or with the shape of a slice (`v5p:4x4x8`).

    Raises:
      RecipeError: there is no such topology; the known ones are listed.
    """
    if slices < 1:
        raise RecipeError(f"--slices must be at least 1, found {slices}")
    found = re.fullmatch(r"(\w+)(?:-(\d+)|:(\d+(?:x\d+)*))", text.strip().lower())
    if found is None or found[1] not in CHIPS:
        raise RecipeError(f"topology {text!r} is not known. {_known()}")
    chip = CHIPS[found[1]]
    shapes = _SHAPES[chip.dimensions]
    if found[2] is not None:
        count = int(found[2])
        if count not in shapes:
            counts = ", ".join(map(str, shapes))
            raise RecipeError(f"topology {text!r}: {chip.name} comes in {counts} chips, found {found[2]}")
        shape = shapes[count]
    else:
        shape = tuple(int(size) for size in found[3].split("x"))
        if not _is_wired(shape, chip):
            known = ", ".join("x".join(map(str, shape)) for shape in shapes.values())
            raise RecipeError(f"topology {text!r}: {chip.name} is not wired so; its shapes are {known}")
    if slices > 1 and not chip.dimensions:
        raise RecipeError(f"--slices is for TPUs; {chip.name} comes in {', '.join(map(str, shapes))}")
    return Topology(chip, shape, slices)


def larger_topologies(topology: Topology) -> list[Topology]:
    """Those of the same kind with more chips, the smallest first."""
    shapes = _SHAPES[topology.chip.dimensions].values()
    return [
        dataclasses.replace(topology, shape=shape) for shape in shapes if math.prod(shape) > math.prod(topology.shape)
    ]


def _is_wired(shape: tuple[int, ...], chip: Chip) -> bool:
    """Whether slices come in this shape: the listed ones, and any torus of cubes of 4x4x4."""
    cubes = chip.dimensions == 3 == len(shape) and all(size % 4 == 0 and size for size in shape)
    return shape in _SHAPES[chip.dimensions].values() or (cubes and math.prod(shape) <= 9216)


def _known() -> str:
    lines = [
        f"{chip.name}-{'|'.join(map(str, _SHAPES[chip.dimensions]))}"
        + (f" (or a shape: {chip.name}:{'x'.join(['4'] * chip.dimensions)})" if chip.dimensions else "")
        for chip in CHIPS.values()
    ]
    return "Known are " + "; ".join(lines)
