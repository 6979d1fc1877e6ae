"""What splash's kernels cost: a compiler of TPUs counts nothing for what is inside of one.

A kernel goes over the tiles of its scores, one after the other, and computes those that its mask does not hide whole
(`jaxft.kernels.splash_tiles`). How many cycles a tile takes, a step of the grid beside that, and the first and last
tile of a row, is in the schedules that the compiler itself made of these kernels for each kind of chip: the bundles of
instructions of libtpu 0.0.41, of tiles of 512 x 512 and heads of 128 (of 64 they are the same but for 6%); on v5e also
of smaller tiles, which take more than their share by what the first instructions of a tile wait for each other. Of
waiting for memory or a busy unit a schedule knows nothing. So no product in a tile counts as faster than
`PRODUCT_EFFICIENCY` of the matrix units' peak.
"""

from __future__ import annotations

import dataclasses
import math
import re

from jaxft.kernels.splash_tiles import Tiles
from jaxft.planning.hlo import Computation, Instruction
from jaxft.planning.topology import PRODUCT_EFFICIENCY, Chip

# Matrix products of a tile. The backward kernels compute the scores again, each for itself.
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_PHASE = re.compile(r'op_name="[^"]*\bsplash_m[hq]a_(fwd|dq|dkv)_[^"]*"')


@dataclasses.dataclass(frozen=True)
class KernelCall:
    """A call of one of splash's kernels on a device.

    Attributes:
      phase: `fwd`, `dq` or `dkv`.
      rows: of the batch, or groups of heads that stand for such.
      heads: of each.
      width: of a head.
      computed: tiles of a head that are computed.
      steps: tiles of a head that are gone over, hidden ones included.
      lines: tiles that are begun and ended, of queries forward and for their gradient, else of keys.
      queries: of a tile.
      keys: of a tile.
    """

    phase: str
    rows: int
    heads: int
    width: int
    computed: int
    steps: int
    lines: int
    queries: int
    keys: int

    @property
    def flops(self) -> float:
        """Of its matrix products, what a mask hides within a tile included."""
        area = self.computed * self.queries * self.keys
        return 2.0 * _PRODUCTS[self.phase] * area * self.width * self.heads * self.rows


def kernel_call(computation: Computation, one: Instruction) -> KernelCall | None:
    """The call of a kernel of splash that an instruction is; None for others."""
    phase, tiles = _PHASE.search(one.attributes), Tiles.named_in(one.attributes)
    if one.opcode != "custom-call" or phase is None or tiles is None:
        return None
    shapes = [shape for name in one.operands for shape in computation.instructions[name].shapes]
    table = next(shape for shape in shapes if shape.dtype.startswith("s") and len(shape.dims) == 3)
    query = next(shape for shape in shapes if "f" in shape.dtype and len(shape.dims) == 4)
    # The table of `dkv` goes over keys and then queries, and is written the other way round.
    lines = table.dims[2 if phase[1] == "dkv" else 1]
    return KernelCall(
        phase[1],
        query.dims[0],
        query.dims[1],
        query.dims[3],
        tiles.computed,
        math.prod(table.dims[1:]),
        lines,
        tiles.queries,
        tiles.keys,
    )


@dataclasses.dataclass(frozen=True)
class _Schedule:
    """How the compiler lays a kernel out on a kind of chip; of each phase cycles.

    Attributes:
      side: of a matrix unit, to multiples of which the width of a head is filled up.
      cores: that share the rows of a batch, forward the heads, too.
      tile: of the instructions for a tile of 512 x 512.
      step: of going on to another tile.
      line: of beginning and ending a row of tiles.
    """

    side: int
    cores: int
    tile: dict[str, int]
    step: dict[str, int]
    line: dict[str, int]


def _of(side: int, cores: int, tile: tuple, step: tuple, line: tuple) -> _Schedule:
    return _Schedule(side, cores, *(dict(zip(_PRODUCTS, one, strict=True)) for one in (tile, step, line)))


_SCHEDULES = {
    "v4": _of(128, 2, (1712, 1937, 2690), (422, 447, 570), (988, 188, 380)),
    "v5e": _of(128, 1, (1206, 1470, 1880), (228, 99, 131), (733, 227, 402)),
    "v5p": _of(128, 2, (1159, 1504, 1869), (461, 166, 218), (706, 217, 394)),
    "v6e": _of(256, 1, (933, 1082, 1316), (284, 111, 155), (376, 148, 241)),
    "tpu7x": _of(256, 1, (931, 1051, 1302), (280, 106, 154), (362, 132, 231)),
}
_AREA = 512 * 512
# Cycles of a tile however small it is: 250 beside the rest give those of tiles of 256 x 256 to 10%.
_SMALLEST = 250


def kernel_cycles(call: KernelCall, chip: Chip) -> float:
    """Cycles of a call on a chip."""
    plan = _SCHEDULES[chip.name]
    assert chip.clock is not None  # that of a TPU, as the schedules are
    area, phase = call.queries * call.keys, call.phase
    width = math.ceil(call.width / plan.side) * plan.side
    products = 2.0 * _PRODUCTS[phase] * area * width / (chip.peak_flops / chip.clock / plan.cores)
    scheduled = _SMALLEST + (plan.tile[phase] - _SMALLEST) * area / _AREA
    tile = max(scheduled, products / PRODUCT_EFFICIENCY)
    head = call.computed * tile + call.steps * plan.step[phase] + call.lines * plan.line[phase]
    # Rows, and forward each of their heads, go to one core or the other.
    together, alone = (call.rows * call.heads, 1) if phase == "fwd" else (call.rows, call.heads)
    return math.ceil(together / plan.cores) * alone * head
