"""What one run of an optimized XLA program costs a device: products, memory, collectives.

XLA's own `cost_analysis()` counts the body of each loop once, so that a scan over layers looks as cheap as one layer,
and an unknown custom call as less than nothing. Here the program's text is walked, each loop's body times its turns.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from jaxft.planning.collectives import KINDS, Collective, collectives_of, scattered_by
from jaxft.planning.hlo import Computation, Instruction, Program, Shape, parse_program, trip_count
from jaxft.planning.kernels import KernelCall, kernel_call

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# What moves no data by itself; control flow is followed instead.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "optimization-barrier", "async-start", "async-update", "async-done",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """Of one run, on one device.

    Attributes:
      matmul_flops: of matrix products, a multiplication and an addition for each pair.
      cycles: what the compiler of TPUs estimates for its instructions; 0 where it says nothing.
      memory_bytes: read from and written to HBM by instructions other than collectives.
      collectives: by what tells them apart.
      kernels: calls of attention's kernels, and how often; their products and cycles are in none of the above.
      custom_calls: how often each is called whose cost is not known.
      unknown_loops: loops whose turns could not be found out, counted as one.
    """

    matmul_flops: float = 0.0
    cycles: float = 0.0
    memory_bytes: float = 0.0
    collectives: Mapping[str, Collective] = dataclasses.field(default_factory=dict)
    kernels: Mapping[KernelCall, float] = dataclasses.field(default_factory=dict)
    custom_calls: Mapping[str, float] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0

    def times(self, count: float) -> ProgramCost:
        """Of so many runs."""
        return ProgramCost(
            self.matmul_flops * count,
            self.cycles * count,
            self.memory_bytes * count,
            {key: dataclasses.replace(one, times=one.times * count) for key, one in self.collectives.items()},
            {call: calls * count for call, calls in self.kernels.items()},
            {name: calls * count for name, calls in self.custom_calls.items()},
            self.unknown_loops,
        )

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Of each kind of collective how often one runs (`count`) and what a device sends (`bytes`)."""
        found: dict[str, dict[str, float]] = {}
        for one in self.collectives.values():
            own = found.setdefault(one.kind, {"count": 0, "bytes": 0.0})
            own["count"] += one.times
            own["bytes"] += one.sent
        return found


def program_cost(text: str) -> ProgramCost:
    """The cost of a program, given as text.

    Raises:
      ValueError: the text is no program.
    """
    program = parse_program(text)
    return _Walk(program).computation(program.entry)


class _Walk:
    """Walks a program from a computation on."""

    def __init__(self, program: Program):
        self._program = program
        self.computation = functools.cache(self._computation)
        self._products = functools.cache(self._products_inside)

    def _computation(self, name: str) -> ProgramCost:
        computation = self._program.computations[name]
        return _summed(self._instruction(computation, one) for one in computation.instructions.values())

    def _instruction(self, computation: Computation, one: Instruction) -> ProgramCost:
        if one.opcode == "while":
            turns = trip_count(self._program, computation, one)
            body = self.computation(one.called[1]).times(1 if turns is None else turns)
            return dataclasses.replace(body, unknown_loops=body.unknown_loops + (turns is None))
        if one.opcode == "conditional":
            # One branch runs: the dearest, as the update of a step whose gradient is finite.
            return max((self.computation(name) for name in one.called), key=_weight)
        if one.opcode in ("call", "async-start"):
            return _summed(self.computation(name) for name in one.called)
        if collectives := collectives_of(self._program, computation, one):
            return ProgramCost(collectives=collectives)
        cycles = _CYCLES.search(one.attributes)
        own = ProgramCost(
            matmul_flops=_product_flops(computation, one),
            cycles=float(cycles[1]) if cycles else 0.0,
            memory_bytes=self._memory(computation, one),
        )
        if (call := kernel_call(computation, one)) is not None:
            return dataclasses.replace(own, kernels={call: 1})
        if one.opcode == "custom-call":
            target = _TARGET.search(one.attributes)
            return dataclasses.replace(own, custom_calls={target[1] if target else "unknown": 1})
        if one.opcode == "fusion":
            if scattered := scattered_by(self._program.computations[one.called[0]], one):
                return dataclasses.replace(own, collectives=scattered)
            return _summed([own, *(self._products(name) for name in one.called)])
        return own

    def _products_inside(self, name: str) -> ProgramCost:
        """Products and collectives within a fusion; its memory is that of its operands and results."""
        computation = self._program.computations[name]
        found = []
        for one in computation.instructions.values():
            collectives = collectives_of(self._program, computation, one)
            found.append(ProgramCost(_product_flops(computation, one), collectives=collectives))
            if one.opcode == "fusion":
                found += [self._products(inner) for inner in one.called]
        # What a fusion carries on in the background goes on beside it.
        return _overlapped(_summed(found))

    def _memory(self, computation: Computation, one: Instruction) -> float:
        if one.opcode in _FREE or one.opcode.endswith("-done"):
            return 0.0
        operands = [computation.instructions[name] for name in one.operands]
        if one.opcode == "fusion":
            inner = self._program.computations[one.called[0]]
            read = sum(
                min(self._read_inside(inner, number), _all_in_memory(operand))
                for number, operand in enumerate(operands)
                if _all_in_memory(operand)
            )
            return read + _written_by(inner, inner.instructions[inner.root], one.shapes)
        if one.opcode in ("dynamic-slice", "gather", "slice", "slice-start"):
            return 2 * sum(_in_memory(shape) for shape in one.shapes[-1:])
        if one.opcode == "dynamic-update-slice":
            return 2 * _all_in_memory(operands[1])
        if one.opcode == "copy-start":
            return sum(_in_memory(shape) for shape in one.shapes[:2])
        return sum(_all_in_memory(operand) for operand in operands) + sum(map(_in_memory, one.shapes))

    def _read_inside(self, inner: Computation, number: int) -> float:
        """What a fusion reads of an operand in memory: where it only slices or updates a part of it, no more than that.

        Infinity where it reads all of it.
        """
        parameter = inner.parameters.get(number)
        return 0.0 if parameter is None else self._read_of(inner, parameter.name)

    def _read_of(self, inner: Computation, name: str) -> float:
        parts = 0.0
        for user in inner.instructions.values():
            for number in (place for place, operand in enumerate(user.operands) if operand == name):
                parts += self._read_by(inner, user, number)
        return parts

    def _read_by(self, inner: Computation, user: Instruction, number: int) -> float:
        if number == 0 and user.opcode in ("dynamic-slice", "gather", "slice"):
            return float(sum(shape.bytes for shape in user.shapes))
        if user.opcode == "fusion":
            return self._read_inside(self._program.computations[user.called[0]], number)
        if user.opcode == "bitcast":
            return self._read_of(inner, user.name)
        # What is handed on as it came, sent or written over is not read.
        handed_on = user.opcode in KINDS or (user.opcode == "tuple" and user.name == inner.root)
        return 0.0 if handed_on or (number == 0 and user.opcode == "dynamic-update-slice") else math.inf


def _weight(cost: ProgramCost) -> tuple[float, float, float]:
    return cost.matmul_flops, cost.cycles, cost.memory_bytes


def _summed(costs: Iterable[ProgramCost]) -> ProgramCost:
    """Of several, one after the other."""
    costs = list(costs)
    collectives: dict[str, Collective] = {}
    kernels: Counter[KernelCall] = Counter()
    calls: Counter[str] = Counter()
    for cost in costs:
        for key, one in cost.collectives.items():
            # A collective that goes on through several fusions has a copy of itself in each of them.
            known = collectives.get(key)
            if known is None or one.times > known.times:
                collectives[key] = one
            if known is not None and known.overlapped and not one.overlapped:
                collectives[key] = dataclasses.replace(collectives[key], overlapped=True)
        kernels.update(cost.kernels)
        calls.update(cost.custom_calls)
    return ProgramCost(
        sum(cost.matmul_flops for cost in costs),
        sum(cost.cycles for cost in costs),
        sum(cost.memory_bytes for cost in costs),
        collectives,
        dict(kernels),
        dict(calls),
        sum(cost.unknown_loops for cost in costs),
    )


def _overlapped(cost: ProgramCost) -> ProgramCost:
    collectives = {key: dataclasses.replace(one, overlapped=True) for key, one in cost.collectives.items()}
    return dataclasses.replace(cost, collectives=collectives)


# --- Products ---


def _product_flops(computation: Computation, one: Instruction) -> float:
    if one.opcode == "dot":
        left = computation.instructions[one.operands[0]].shapes[0]
        contracted = re.findall(r"\d+", one.attribute("lhs_contracting_dims") or "")
        return 2.0 * math.prod(one.shapes[0].dims) * math.prod(left.dims[int(axis)] for axis in contracted)
    if one.opcode == "convolution":
        return _convolution_flops(computation, one)
    return 0.0


def _convolution_flops(computation: Computation, one: Instruction) -> float:
    """Of a convolution, as which TPUs compute every product: padding and the gaps of dilation cost nothing."""
    data, kernel = (computation.instructions[name].shapes[0] for name in one.operands)
    result = one.shapes[0]
    operands, out = one.needed("dim_labels").split("->")
    left, right = operands.split("_")
    window = _window(one.attributes, sum(label.isdigit() for label in out))
    pairs = 1
    for axis, (size, stride, low, base, dilation) in enumerate(window):
        inputs, outputs = data.dims[left.index(str(axis))], result.dims[out.index(str(axis))]
        pairs *= _valid_pairs(inputs, outputs, size, stride, low, base, dilation)
    features = kernel.dims[right.index("i")]
    groups = int(one.attribute("batch_group_count") or 1)
    return 2.0 * result.dims[out.index("b")] * result.dims[out.index("f")] * features * pairs * groups


def _window(attributes: str, axes: int) -> list[tuple[int, ...]]:
    """Size, stride, padding before, dilation of the data and of the kernel along each spatial axis."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    words = dict(word.split("=") for word in found[1].split()) if found else {}

    def numbers(name: str, default: str) -> list[str]:
        return words[name].split("x") if name in words else [default] * axes

    columns = zip(
        numbers("size", "1"),
        numbers("stride", "1"),
        (pad.split("_")[0] for pad in numbers("pad", "0_0")),
        numbers("lhs_dilate", "1"),
        numbers("rhs_dilate", "1"),
        strict=True,
    )
    return [tuple(map(int, column)) for column in columns]


@functools.cache
def _valid_pairs(inputs: int, outputs: int, size: int, stride: int, low: int, base: int, dilation: int) -> int:
    """Pairs of an output and a place of the window that meet an element of the data."""
    if size == 1 and low == 0 and base == 1:
        return outputs
    count = 0
    for place in range(size):
        for output in range(outputs):
            position = output * stride + place * dilation - low
            count += position >= 0 and position % base == 0 and position // base < inputs
    return count


# --- Memory ---


def _in_memory(shape: Shape) -> int:
    return 0 if shape.on_chip else shape.bytes


def _all_in_memory(one: Instruction) -> int:
    return sum(map(_in_memory, one.shapes))


def _written_by(inner: Computation, root: Instruction, shapes: tuple[Shape, ...]) -> float:
    """What a fusion writes: of an array that it updates in place, no more than the new part, of one that it hands on or
    that a collective fills, nothing."""
    if root.opcode in ("parameter", *KINDS):
        return 0.0
    if root.opcode == "bitcast":
        return _written_by(inner, inner.instructions[root.operands[0]], shapes)
    if root.opcode == "tuple" and len(root.operands) == len(shapes):
        parts = (inner.instructions[name] for name in root.operands)
        return sum(_written_by(inner, one, (shape,)) for one, shape in zip(parts, shapes, strict=True))
    if root.opcode == "dynamic-update-slice" and all(_in_memory(shape) for shape in shapes):
        return float(sum(shape.bytes for shape in inner.instructions[root.operands[1]].shapes))
    return float(sum(map(_in_memory, shapes)))
