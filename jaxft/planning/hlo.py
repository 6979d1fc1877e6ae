"""Reads the text of an optimized XLA program: computations, instructions, and how often loops run.

The text is that of `jax.stages.Compiled.as_text()`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping

_SHAPE = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# In whole bytes where an element takes less than one, as arrays of such are small.
_BYTES = {"pred": 1, "token": 0, "opaque": 0}
# A loop that runs more often was misread.
_LONGEST_LOOP = 100_000


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array, or one of the arrays of a tuple.

    Attributes:
      dtype: as XLA writes it, such as `bf16`.
      dims: sizes.
      on_chip: whether it lies in a memory of the chip's own rather than in HBM.
    """

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def bytes(self) -> int:
        """Size of its elements, without padding."""
        size = _BYTES.get(self.dtype)
        bits = re.search(r"\d+", self.dtype) if size is None else None
        return math.prod(self.dims) * (max(1, int(bits[0]) // 8) if bits else size or 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      name: unique in its computation.
      opcode: such as `fusion`.
      shapes: of the result, one for each array of a tuple.
      operands: names of the instructions that it reads.
      literal: what stands between the parentheses, such as the value of a constant.
      attributes: the rest of the line.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls; of a loop the condition and the body."""
        branches = _BRANCHES.search(self.attributes)
        return tuple(_NAME.findall(branches[1])) if branches else tuple(_CALLED.findall(self.attributes))

    def attribute(self, name: str) -> str | None:
        """The value of an attribute that is a word, a number or in braces."""
        found = re.search(rf"\b{name}=(\{{[^{{}}]*\}}|[^,\s]+)", self.attributes)
        return found[1] if found else None

    def needed(self, name: str) -> str:
        """The value of an attribute that every instruction of its kind has.

        Raises:
          ValueError: this one has not.
        """
        value = self.attribute(name)
        if value is None:
            raise ValueError(f"the instruction {self.name} of an XLA program has no attribute {name}")
        return value


@dataclasses.dataclass(frozen=True)
class Computation:
    """A function of a program.

    Attributes:
      name: unique in the program.
      instructions: by name, in their order.
      root: name of the instruction that gives the result.
    """

    name: str
    instructions: Mapping[str, Instruction]
    root: str

    @functools.cached_property
    def parameters(self) -> Mapping[int, Instruction]:
        """Parameters by number."""
        return {int(one.literal): one for one in self.instructions.values() if one.opcode == "parameter"}


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations of a program.

    Attributes:
      computations: by name.
      entry: name of the one that runs first.
    """

    computations: Mapping[str, Computation]
    entry: str


def parse_program(text: str) -> Program:
    """The program that a text describes.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry: str | None = None
    name: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if name is None:
            if line.endswith("{") and (line.startswith("ENTRY") or line.startswith("%")):
                name, lines = _name(line), []
                entry = name if line.startswith("ENTRY") else entry
        elif line.rstrip() == "}":
            computations[name] = _computation(name, lines)
            name = None
        elif line.lstrip().startswith(("%", "ROOT %")):
            lines.append(line.strip())
        else:  # attributes of kernels run over several lines, some of which begin with a brace
            lines[-1] += line
    if entry is None:
        raise ValueError("this is not the text of an XLA program: it has no ENTRY computation")
    return Program(computations, entry)


def _computation(name: str, lines: list[str]) -> Computation:
    instructions = {one.name: one for one in map(_instruction, lines)}
    root = next((line for line in lines if line.startswith("ROOT ")), lines[-1])
    return Computation(name, instructions, _name(root))


def _name(line: str) -> str:
    found = _NAME.search(line)
    if found is None:
        raise ValueError(f"this is not the text of an XLA program: {line!r} names nothing")
    return found[1]


def _instruction(line: str) -> Instruction:
    left, _, right = line.removeprefix("ROOT ").partition(" = ")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shapes, rest = right[:end], right[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    return Instruction(
        left[1:], rest[:opening], _shapes(shapes), tuple(_NAME.findall(inside)), inside, rest[closing + 1 :]
    )


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis that opens there is closed."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        Shape(dtype, tuple(int(size.strip("<=")) for size in dims.split(",") if size), "S(1)" in (layout or ""))
        for dtype, dims, layout in _SHAPE.findall(text)
    )


# --- How often a loop runs ---

# What an instruction of whole numbers gives; a tuple of such is a function from the number of an element.
_Value = int | Callable[[int], "_Value | None"]
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "minimum": min, "maximum": max,
    "and": operator.and_, "or": operator.or_,
}  # fmt: skip
_COMPARISONS = {
    "LT": operator.lt, "LE": operator.le, "GT": operator.gt, "GE": operator.ge, "EQ": operator.eq, "NE": operator.ne,
}  # fmt: skip
_UNCHANGED = ("copy", "bitcast", "convert", "reshape", "optimization-barrier", "copy-done")


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """How often the body of a loop runs, where that follows from whole numbers in the program; else None.

    Where the compiler does not say it itself, the counter is followed until the condition fails.
    """
    if told := _TRIPS.search(loop.attributes):
        return int(told[1])
    condition, body = (program.computations[name] for name in loop.called)
    carried: _Value | None = _evaluated(program, computation, loop.operands[0], {})
    for count in range(_LONGEST_LOOP):
        again = None if carried is None else _evaluated(program, condition, condition.root, {0: carried})
        if again is None or callable(again):
            return None
        if not again:
            return count
        carried = _remembered(_evaluated(program, body, body.root, {0: carried}))
    return None


def _remembered(value: _Value | None) -> _Value | None:
    """The same, each element found out at most once, so that a loop's thousandth turn asks nothing of the first."""
    return functools.cache(value) if callable(value) else value


def _evaluated(
    program: Program, computation: Computation, name: str, arguments: Mapping[int, _Value | None]
) -> _Value | None:
    """What an instruction gives; None where that does not follow from the arguments and constants."""
    one = computation.instructions[name]

    def operand(number: int) -> _Value | None:
        return _evaluated(program, computation, one.operands[number], arguments)

    if one.opcode == "parameter":
        return arguments.get(int(one.literal))
    if one.opcode == "constant":
        return int(one.literal) if re.fullmatch(r"-?\d+", one.literal) else {"true": 1, "false": 0}.get(one.literal)
    if one.opcode == "tuple":
        return functools.cache(operand)
    if one.opcode == "get-tuple-element":
        whole = operand(0)
        return whole(int(one.needed("index"))) if callable(whole) else None
    if one.opcode in _UNCHANGED:
        return operand(0)
    if one.opcode in ("fusion", "call"):
        inner = program.computations[one.called[0]]
        given = {number: operand(number) for number in range(len(one.operands))}
        return _evaluated(program, inner, inner.root, given)
    function = _ARITHMETIC.get(one.opcode) or _COMPARISONS.get(one.attribute("direction") or "")
    if function is None or len(one.operands) != 2:
        return None
    left, right = operand(0), operand(1)
    return int(function(left, right)) if isinstance(left, int) and isinstance(right, int) else None
