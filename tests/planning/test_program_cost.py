"""What a program costs, by programs whose costs are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxft.planning.program_cost import program_cost

ROWS, INNER, COLUMNS = 32, 64, 16


def cost_of(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return program_cost(jax.jit(function).lower(*arguments).compile().as_text())


def test_a_product_costs_two_operations_for_each_pair():
    cost = cost_of(jnp.dot, (ROWS, INNER), (INNER, COLUMNS))
    assert cost.matmul_flops == 2 * ROWS * INNER * COLUMNS
    assert cost.memory_bytes >= 4 * (ROWS * INNER + INNER * COLUMNS + ROWS * COLUMNS)


def test_products_in_nested_loops_cost_all_turns():
    def nested(x):
        def inner(carry, _):
            return jnp.tanh(carry @ carry), None

        def outer(carry, _):
            return jax.lax.scan(inner, carry, length=3)[0] + 1, None

        return jax.lax.scan(outer, x, length=5)[0]

    assert cost_of(nested, (INNER, INNER)).matmul_flops == 15 * 2 * INNER**3


def test_of_branches_the_dearest_counts():
    def either(choose, x):
        return jax.lax.cond(choose[0] > 0, lambda y: y @ y @ y, lambda y: y * 2, x)

    assert cost_of(either, (1,), (INNER, INNER)).matmul_flops == 2 * 2 * INNER**3


def test_a_slice_of_a_stack_is_read_once_in_all_turns():
    """A scan over stacked arrays reads each of them once, not the whole stack in every turn."""
    layers = 50

    def scanned(stack, x):
        return jax.lax.scan(lambda carry, one: (jnp.sin(carry + one), None), x, stack)[0]

    stack = layers * INNER * INNER * 4
    found = cost_of(scanned, (layers, INNER, INNER), (INNER, INNER)).memory_bytes
    assert stack < found < 6 * stack


FUSED = """HloModule fused

%cut (s: f32[50,64,32], n: s32[]) -> f32[64,32] {
  %s = f32[50,64,32]{2,1,0} parameter(0)
  %n = s32[] parameter(1)
  %zero = s32[] constant(0)
  %part = f32[1,64,32]{2,1,0} dynamic-slice(%s, %n, %zero, %zero), dynamic_slice_sizes={1,64,32}
  ROOT %flat = f32[64,32]{1,0} bitcast(%part)
}

%times (stack: f32[50,64,32], m: s32[], w: f32[32,16], share: f32[8,64], whole: f32[64,64]) -> f32[64,16] {
  %stack = f32[50,64,32]{2,1,0} parameter(0)
  %m = s32[] parameter(1)
  %w = f32[32,16]{1,0} parameter(2)
  %share = f32[8,64]{1,0} parameter(3)
  %whole = f32[64,64]{1,0} parameter(4)
  %left = f32[64,32]{1,0} fusion(%stack, %m), kind=kLoop, calls=%cut
  %product = f32[64,16]{1,0} dot(%left, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %gathered = f32[64,64]{1,0} all-gather(%share), channel_id=1, dimensions={0}
  ROOT %both = (f32[64,16]{1,0}, f32[64,64]{1,0}, f32[64,64]{1,0}) tuple(%product, %gathered, %whole)
}

ENTRY %main (a: f32[50,64,32], b: s32[], c: f32[32,16], d: f32[8,64], e: f32[64,64]) -> f32[64,16] {
  %a = f32[50,64,32]{2,1,0} parameter(0)
  %b = s32[] parameter(1)
  %c = f32[32,16]{1,0} parameter(2)
  %d = f32[8,64]{1,0} parameter(3)
  %e = f32[64,64]{1,0} parameter(4)
  %all = (f32[64,16]{1,0}, f32[64,64]{1,0}, f32[64,64]{1,0}) fusion(%a, %b, %c, %d, %e), kind=kOutput, calls=%times
  ROOT %answer = f32[64,16]{1,0} get-tuple-element(%all), index=0
}
"""


def test_a_fusion_reads_of_a_stack_what_a_fusion_within_it_slices():
    """What it hands on, and what a collective within it sends and fills, it neither reads nor writes."""
    cost = program_cost(FUSED)
    place, part, weights, product = 1, 64 * 32, 32 * 16, 64 * 16
    assert cost.memory_bytes == 4 * (place + part + weights + product)
    assert cost.matmul_flops == 2 * 64 * 32 * 16
    assert cost.by_kind() == {"all-gather": {"count": 1, "bytes": 4 * 64 * 64}}


WRITTEN = """HloModule written

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%begun (p: f32[128,8]) -> f32[128,64] {
  %p = f32[128,8]{1,0} parameter(0)
  ROOT %g = f32[128,64]{1,0} all-gather(%p), channel_id=7, dimensions={1}
}

%ended (q: f32[128,8]) -> f32[128,64] {
  %q = f32[128,8]{1,0} parameter(0)
  ROOT %h = f32[128,64]{1,0} all-gather(%q), channel_id=7, dimensions={1}
}

%body (c: (s32[], f32[128,8])) -> (s32[], f32[128,8]) {
  %c = (s32[], f32[128,8]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = f32[128,8]{1,0} get-tuple-element(%c), index=1
  %r = f32[128,8]{1,0} all-reduce(%x), channel_id=2, to_apply=%add
  %first = f32[128,64]{1,0} fusion(%r), kind=kCustom, calls=%begun, backend_config={"estimated_cycles":"100"}
  %last = f32[128,64]{1,0} fusion(%r), kind=kCustom, calls=%ended, backend_config={"estimated_cycles":"10"}
  ROOT %out = (s32[], f32[128,8]) tuple(%next, %r)
}

%condition (d: (s32[], f32[128,8])) -> pred[] {
  %d = (s32[], f32[128,8]) parameter(0)
  %j = s32[] get-tuple-element(%d), index=0
  %bound = s32[] constant(6)
  ROOT %less = pred[] compare(%j, %bound), direction=LT
}

ENTRY %main (x: f32[128,8]) -> f32[128,8] {
  %x0 = f32[128,8]{1,0} parameter(0)
  %start = s32[] constant(0)
  %permuted = (f32[128,8]{1,0}, f32[128,8]{1,0}, u32[], u32[]) collective-permute-start(%x0), channel_id=1
  %done = f32[128,8]{1,0} collective-permute-done(%permuted)
  %kernel = f32[128,8]{1,0} custom-call(%done), custom_call_target="tpu_custom_call"
  %scattered = f32[16,8]{1,0} reduce-scatter(%kernel), channel_id=3, dimensions={0}, to_apply=%add
  %carried = (s32[], f32[128,8]) tuple(%start, %kernel)
  %loop = (s32[], f32[128,8]) while(%carried), condition=%condition, body=%body
  ROOT %result = f32[128,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_collectives_are_counted_by_kind_and_turns():
    part = 128 * 8 * 4
    assert program_cost(WRITTEN).by_kind() == {
        "collective-permute": {"count": 1, "bytes": part},
        "reduce-scatter": {"count": 1, "bytes": part},
        # A sum goes round twice.
        "all-reduce": {"count": 6, "bytes": 6 * 2 * part},
        # One gather that two fusions carry on.
        "all-gather": {"count": 6, "bytes": 6 * 8 * part},
    }


def test_what_other_work_goes_on_beside_is_told_apart():
    overlapped = {one.kind for one in program_cost(WRITTEN).collectives.values() if one.overlapped}
    assert overlapped == {"collective-permute", "all-gather"}


def test_cycles_and_custom_calls_are_counted():
    cost = program_cost(WRITTEN)
    assert cost.cycles == 6 * 110
    assert cost.custom_calls == {"tpu_custom_call": 1}
    assert cost.unknown_loops == 0


def test_a_loop_of_unknown_length_is_told():
    cost = program_cost(WRITTEN.replace("constant(6)", "parameter(1)"))
    assert (cost.unknown_loops, cost.cycles) == (1, 110)


# As the compiler of TPUs writes products: one split in two, a plain one, a batch as dilated axes of a window, padding.
CONVOLUTION = """HloModule convolution

ENTRY %main (a: f32[8192,2,128], b: f32[2,128,512]) -> f32[8192,512,1] {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %product = {result} convolution(%a, %b), {how}
}}
"""


@pytest.mark.parametrize(
    ("left", "right", "result", "how", "flops"),
    [
        (
            "f32[8192,2,128]", "f32[2,128,512]", "f32[8192,512,1]", "window={size=2}, dim_labels=b0f_0io->bf0",
            2 * 8192 * 256 * 512,
        ),
        ("bf16[64,32]", "bf16[16,32]", "bf16[64,16]", "dim_labels=bf_oi->bf", 2 * 64 * 32 * 16),
        (
            "f32[4,8,100,64]", "f32[4,8,64,100]", "f32[4,8,100,100]",
            "window={size=4x8 stride=3x7 lhs_dilate=4x8}, dim_labels=01bf_01io->01bf", 2 * 4 * 8 * 100 * 64 * 100,
        ),
        (
            "bf16[8192,2048,1]", "bf16[2048,2,128]", "bf16[8192,2,128]",
            "window={size=2 pad=1_1 rhs_reversal=1}, dim_labels=bf0_i0o->b0f", 2 * 8192 * 2048 * 256,
        ),
    ],
)  # fmt: skip
def test_products_of_tpus_are_convolutions_without_their_padding(left, right, result, how, flops):
    assert program_cost(CONVOLUTION.format(left=left, right=right, result=result, how=how)).matmul_flops == flops
