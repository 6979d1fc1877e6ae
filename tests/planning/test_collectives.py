"""Collectives are counted as what they do, in fragments of compiled programs."""

from __future__ import annotations

import pathlib

import pytest

from jaxft.planning.collectives import GATHERED, SHARED_OUT
from jaxft.planning.estimate import of_program
from jaxft.planning.program_cost import program_cost
from jaxft.planning.topology import SLICE_BANDWIDTH, parse_topology
from jaxft.workflows.plan.compilation import as_json

# Of programs that libtpu 0.0.41 compiled, with what the reader does not look at left out.
FRAGMENTS = pathlib.Path(__file__).with_name("fragments")
GATHERED_BY_A_SUM = (FRAGMENTS / "gathered_by_a_sum.hlo").read_text()
SCATTERED_BY_SUMS = (FRAGMENTS / "scattered_by_sums.hlo").read_text()
WEIGHTS = 4096 * 8192 * 2


def test_a_sum_of_shares_in_zeros_is_a_gather_that_goes_round_twice():
    """As all weights of `llama-70b` and `ul2-20b` come to a device: in three axes of v5p's torus at a time."""
    kinds = program_cost(GATHERED_BY_A_SUM).by_kind()
    assert kinds == {
        GATHERED: {"count": 4, "bytes": 4 * 2 * WEIGHTS},
        "all-reduce": {"count": 4, "bytes": 4 * 2 * WEIGHTS},
    }


def test_what_goes_along_several_axes_takes_less_of_each():
    by_kind = {one.kind: one for one in program_cost(GATHERED_BY_A_SUM).collectives.values()}
    assert by_kind[GATHERED].on_an_axis == pytest.approx(4 * 2 * WEIGHTS / 3)
    assert by_kind["all-reduce"].on_an_axis == pytest.approx(4 * 2 * WEIGHTS / 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Added to what every device has of its own: a sum.
        ("broadcast(%constant.79.clone.7..sunk), dimensions={}", "bitcast(%fusion.55)"),
        # What else the fusion gives.
        ("get-tuple-element(%constant_dynamic-update-slice_fusion.3), index=1", "bitcast(%fusion.55)"),
    ],
)
def test_a_sum_of_whole_arrays_is_none(old, new):
    text = GATHERED_BY_A_SUM.replace(old, new)
    assert text != GATHERED_BY_A_SUM
    assert program_cost(text).by_kind().keys() == {"all-reduce"}


def test_shares_of_sums_are_told_apart_by_whether_the_sum_is_whole_before():
    """In one fusion each byte is sent once; a sum that is sliced afterwards costs as any other."""
    logits, layer = 1024 * 256 * 4, 2048 * 8192 * 4
    cost = program_cost(SCATTERED_BY_SUMS)
    assert cost.by_kind() == {
        "reduce-scatter": {"count": 1, "bytes": logits},
        SHARED_OUT: {"count": 1, "bytes": 2 * layer},
    }
    assert not any(one.overlapped for one in cost.collectives.values())


def test_a_sum_that_is_read_whole_besides_is_no_scatter():
    old = "ROOT %tuple.43 = (f32[1024,8]{0,1:T(8,128)}, f32[128,8192]{1,0:T(8,128)})"
    also = SCATTERED_BY_SUMS.replace(old, "%read = f32[2048,8192]{1,0:T(8,128)} negate(%all-reduce.31)\n  " + old)
    assert program_cost(also).by_kind().keys() == {"reduce-scatter", "all-reduce"}


BETWEEN_SLICES = """HloModule jit_train_step, is_scheduled=true

ENTRY %main.9_spmd (bitcast.3: f32[4,8,128]) -> f32[4,8,128] {
  %bitcast.3 = f32[4,8,128]{2,1,0:T(8,128)} parameter(0)
  %after-all.1 = token[] after-all()
  %send.1 = (f32[4,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%bitcast.3, %after-all.1), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done.1 = token[] send-done(%send.1), channel_id=3, is_host_transfer=true
  %recv.1 = (f32[4,8,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%after-all.1), channel_id=4, is_host_transfer=true
  %recv-done.1 = (f32[4,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv.1), channel_id=4, is_host_transfer=true
  ROOT %get-tuple-element.1 = f32[4,8,128]{2,1,0:T(8,128)} get-tuple-element(%recv-done.1), index=0
}
"""  # noqa: E501


def test_what_leaves_a_slice_is_told_apart_and_takes_the_time_of_another_network():
    cost = program_cost(BETWEEN_SLICES)
    assert cost.by_kind() == {"all-reduce between slices": {"count": 1, "bytes": 2 * 4 * 8 * 128 * 4}}
    estimate = of_program(as_json(cost), parse_topology("v5e-16", 2))
    assert estimate.exposed == pytest.approx(2 * 4 * 8 * 128 * 4 / SLICE_BANDWIDTH)
