"""The text of compiled programs is read as XLA means it: shapes, operands, how often loops run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxft.planning.hlo import parse_program, trip_count

# A loop whose counter starts at 3, grows by 2 within a fusion and stops at a bound that is carried along.
LOOP = """HloModule written, is_scheduled=true

%step (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  %two = s32[] constant(2)
  ROOT %sum = s32[] add(%p, %two)
}

%body (b: (s32[], s32[], f32[8,16])) -> (s32[], s32[], f32[8,16]) {
  %b = (s32[]{:T(128)}, s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%b), index=0
  %n = s32[]{:T(128)} get-tuple-element(%b), index=1
  %x = f32[8,16]{1,0:T(8,128)S(1)} get-tuple-element(%b), index=2
  %next = s32[] fusion(%i), kind=kLoop, calls=%step
  ROOT %out = (s32[], s32[], /*index=2*/f32[8,16]{1,0:T(8,128)S(1)}) tuple(%next, %n, %x)
}

%condition (c: (s32[], s32[], f32[8,16])) -> pred[] {
  %c = (s32[], s32[], f32[8,16]) parameter(0)
  %ci = s32[] get-tuple-element(%c), index=0
  %cn = s32[] get-tuple-element(%c), index=1
  ROOT %less = pred[] compare(%ci, %cn), direction=LT
}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %x0 = f32[8,16]{1,0:T(8,128)} parameter(0), metadata={op_name="x (the input)"}
  %start = s32[] constant(3)
  %bound = s32[] constant(12)
  %carried = (s32[], s32[], f32[8,16]) tuple(%start, %bound, %x0)
  %loop = (s32[], s32[], f32[8,16]) while(%carried), condition=%condition, body=%body, metadata={op_name="while"}
  ROOT %result = f32[8,16]{1,0:T(8,128)} get-tuple-element(%loop), index=2
}
"""


def turns(text: str) -> list[int | None]:
    program = parse_program(text)
    return [
        trip_count(program, computation, one)
        for computation in program.computations.values()
        for one in computation.instructions.values()
        if one.opcode == "while"
    ]


def test_instructions_are_read_with_their_shapes_and_operands():
    program = parse_program(LOOP)
    assert (program.entry, set(program.computations)) == ("main", {"main", "step", "body", "condition"})
    body = program.computations["body"]
    assert (body.root, body.instructions["out"].operands) == ("out", ("next", "n", "x"))
    parameter = body.instructions["b"]
    assert [(shape.dtype, shape.dims, shape.on_chip) for shape in parameter.shapes] == [
        ("s32", (), False),
        ("s32", (), False),
        ("f32", (8, 16), True),
    ]
    assert [shape.bytes for shape in parameter.shapes] == [4, 4, 512]
    assert program.computations["main"].instructions["loop"].called == ("condition", "body")


@pytest.mark.parametrize(("dtype", "size"), [("pred", 1), ("bf16", 2), ("u8", 1), ("f64", 8), ("token", 0), ("s4", 1)])
def test_elements_have_their_size(dtype, size):
    text = LOOP.replace("f32[8,16]", f"{dtype}[8,16]")
    assert parse_program(text).computations["main"].instructions["x0"].shapes[0].bytes == 128 * size


def test_attributes_that_run_over_lines_end_no_computation():
    """As the metadata of TPU kernels do, the second line of which begins with the braces that close them."""
    kernel = '  %k = f32[8,16] custom-call(%x), frontend_attributes={kernel={\n"size":"{1}"\n}}, metadata={}'
    lines = LOOP.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("  %next"))
    program = parse_program("\n".join([*lines[:place], kernel, *lines[place:]]))
    assert program.computations["body"].root == "out"
    assert list(program.computations["body"].instructions) == ["b", "i", "n", "x", "k", "next", "out"]


def test_a_counter_is_followed_through_fusions_and_a_carried_bound():
    assert turns(LOOP) == [5]  # 3, 5, 7, 9, 11


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        ("constant(3)", "constant(12)", 0),
        ("constant(3)", "constant(-1)", 7),
        ("direction=LT", "direction=LE", 5),
        ("constant(12)", "constant(13)", 5),
        ("constant(12)", "constant(14)", 6),
        ("add(%p, %two)", "multiply(%p, %two)", 2),  # 3, 6
        ("constant(3)", "parameter(1)", None),
        ("constant(2)", "constant(0)", None),
    ],
)
def test_loops_run_as_often_as_their_numbers_say(old, new, count):
    assert turns(LOOP.replace(old, new)) == [count]


def test_what_the_compiler_says_of_a_loop_goes_first():
    told = LOOP.replace('metadata={op_name="while"}', 'backend_config={"known_trip_count":{"n":"40"}}')
    assert turns(told) == [40]


@pytest.mark.parametrize("length", [1, 2, 17])
def test_turns_of_compiled_loops_are_found(length):
    def looped(x):
        return jax.lax.scan(lambda carry, _: (jnp.sin(carry @ carry), None), x, length=length)[0]

    text = jax.jit(looped).lower(jnp.ones((8, 8))).compile().as_text()
    assert turns(text) == ([length] if length > 1 else [])
    # The same without the compiler's own word for it.
    assert turns(text.replace("known_trip_count", "hidden")) == ([length] if length > 1 else [])


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_program("not a program")
