"""Collectives of an optimized program, by what they do: the compiler of TPUs writes some as sums that are none.

Where a sum can go along several axes of a torus at a time and a gather along one alone, a gather is written as the sum
of arrays that are zero but for the part of their device. A share of a sum is taken within a fusion, which then is a
`reduce-scatter`, or out of the whole sum, which costs as much as if all of it were needed.
"""

from __future__ import annotations

import dataclasses
import re

from jaxft.planning.hlo import Computation, Instruction, Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# What all-reduces are that are no sums, or of which a device needs its share alone.
GATHERED, SHARED_OUT = "all-gather as all-reduce", "reduce-scatter as all-reduce"
_MOVED = ("bitcast", "copy", "reshape", "convert", "transpose", "copy-start", "copy-done")
_SLICES = ("dynamic-slice", "slice")
# Over the network of a data centre the runtime does what the program of a slice hands to it.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
# The axes of the torus in the order in which each part of the data goes along them.
_ORDERS = re.compile(r"dim_used:((?:\{[\d ]+\},?)+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of a program.

    Attributes:
      kind: one of `KINDS`, `GATHERED` or `SHARED_OUT`; with `between slices` one that leaves the slice.
      times: how often it runs.
      bytes: of its result on a device, each time (of its input where it scatters).
      overlapped: whether other work goes on until it is done.
      axes: of the network, along which parts of it go at the same time.
    """

    kind: str
    times: float
    bytes: int
    overlapped: bool
    axes: int = 1

    @property
    def sent(self) -> float:
        """Bytes that a device sends in all its runs, in a ring of many devices: a sum goes round twice."""
        return self.times * self.bytes * (2 if "all-reduce" in self.kind else 1)

    @property
    def between_slices(self) -> bool:
        """Whether it goes over the network of a data centre."""
        return self.kind.endswith("between slices")

    @property
    def on_an_axis(self) -> float:
        """Of the bytes sent those that go along one axis of the network of a slice."""
        return 0.0 if self.between_slices else self.sent / self.axes


def collectives_of(program: Program, computation: Computation, one: Instruction) -> dict[str, Collective]:
    """The collectives that an instruction is or begins, by what tells them apart; none for others."""
    kind = one.opcode.removesuffix("-start")
    if one.opcode == "send" and (found := _BETWEEN_SLICES.search(one.attributes)):
        name = f"{found[1].lower().replace('_', '-')} between slices"
        return {f"{computation.name} {one.name}": Collective(name, 1, one.shapes[0].bytes, False)}
    if kind not in KINDS:
        return {}
    begun = one.opcode.endswith("-start")
    channel = one.attribute("channel_id")
    key = f"channel {channel}" if channel else f"{computation.name} {one.name}"
    axes = _axes(one.attributes)
    if kind != "all-reduce":
        return {key: Collective(kind, 1, _size(computation, one, kind), begun, axes)}
    sizes: dict[str, int] = {}
    for number, name in enumerate(one.operands):
        own = GATHERED if _is_share(program, computation, name) else kind
        if own == kind and not begun and _is_shared_out(program, computation, one, number):
            own = SHARED_OUT
        size = sum(shape.bytes for shape in computation.instructions[name].shapes)
        sizes[own] = sizes.get(own, 0) + size
    return {f"{key} {own}": Collective(own, 1, size, begun, axes) for own, size in sizes.items()}


def scattered_by(computation: Computation, call: Instruction) -> dict[str, Collective]:
    """The `reduce-scatter` that a fusion is as a whole; none where it is something else.

    Args:
      computation: that the fusion calls.
      call: the fusion.
    """
    if "AllReduceScatterFusion" not in call.attributes:
        return {}
    size = sum(shape.bytes for one in computation.parameters.values() for shape in one.shapes)
    return {
        f"{computation.name} {one.name}": Collective("reduce-scatter", 1, size, False, _axes(call.attributes))
        for one in computation.instructions.values()
        if one.opcode == "all-reduce"
    }


def _size(computation: Computation, one: Instruction, kind: str) -> int:
    inputs = sum(shape.bytes for name in one.operands for shape in computation.instructions[name].shapes)
    # The results of one that is begun are its inputs, its outputs and its bookkeeping.
    outputs = sum(shape.bytes for shape in one.shapes)
    if one.opcode.endswith("-start"):
        outputs = max(outputs - inputs, inputs) if kind == "all-gather" else inputs
    return inputs if kind == "reduce-scatter" else outputs


def _axes(attributes: str) -> int:
    """With which axes the parts begin that data is split in; 1 where the compiler says nothing."""
    found = _ORDERS.search(attributes)
    return len({order.split()[0] for order in re.findall(r"\{([\d ]+)\}", found[1])}) if found else 1


def _is_share(program: Program, computation: Computation, name: str) -> bool:
    """Whether an array is a part written into one that is the same everywhere, as zeros are."""
    place, written = _source(program, ((computation, None),), name)
    if written is None or written.opcode != "dynamic-update-slice":
        return False
    _, base = _source(program, place, written.operands[0])
    return base is not None and base.opcode in ("broadcast", "constant")


# Computations, each with the fusion that calls it from the one before.
_Place = tuple[tuple[Computation, Instruction | None], ...]


def _source(program: Program, place: _Place, name: str) -> tuple[_Place, Instruction | None]:
    """The instruction that computes an array, through what only moves it and into fusions; None beyond parameters."""
    element: int | None = None
    while True:
        computation, call = place[-1]
        one = computation.instructions[name]
        if one.opcode == "get-tuple-element":
            element, name = int(one.needed("index")), one.operands[0]
        elif one.opcode == "tuple" and element is not None:
            name, element = one.operands[element], None
        elif one.opcode == "fusion":
            inner = program.computations[one.called[0]]
            place, name = (*place, (inner, one)), inner.root
        elif one.opcode == "parameter":
            if call is None:
                return place, None
            place, name = place[:-1], call.operands[int(one.literal)]
        elif one.opcode in _MOVED:
            name = one.operands[0]
        else:
            return place, one


def _is_shared_out(program: Program, computation: Computation, one: Instruction, number: int) -> bool:
    """Whether of a result only slices are read."""
    if len(one.shapes) == 1:
        return _only_sliced(program, computation, one.name)
    elements = [
        user.name
        for user in computation.instructions.values()
        if one.name in user.operands and user.attribute("index") == str(number)
    ]
    return bool(elements) and all(_only_sliced(program, computation, name) for name in elements)


def _only_sliced(program: Program, computation: Computation, name: str) -> bool:
    users = [user for user in computation.instructions.values() if name in user.operands]
    return bool(users) and all(_slices(program, computation, name, user) for user in users)


def _slices(program: Program, computation: Computation, name: str, user: Instruction) -> bool:
    """Whether a user takes no more than a slice of an array."""
    if user.opcode in _SLICES:
        return user.operands[0] == name
    if user.opcode in _MOVED:
        return _only_sliced(program, computation, user.name)
    if user.opcode != "fusion":
        return False
    inner = program.computations[user.called[0]]
    numbers = [number for number, operand in enumerate(user.operands) if operand == name]
    return all(_only_sliced(program, inner, inner.parameters[number].name) for number in numbers)
