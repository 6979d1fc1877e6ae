"""What attention's kernels cost, by numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from jaxft.planning.estimate import of_program
from jaxft.planning.kernels import KernelCall, kernel_cycles
from jaxft.planning.program_cost import program_cost
from jaxft.planning.topology import CHIPS, parse_topology
from jaxft.workflows.plan.compilation import as_json

# Of programs that libtpu 0.0.41 compiled, with what the reader does not look at left out.
FRAGMENTS = pathlib.Path(__file__).with_name("fragments")
KERNEL = (FRAGMENTS / "kernel.hlo").read_text()
PHASES = ("fwd", "dq", "dkv")
TPUS = [name for name, chip in CHIPS.items() if chip.dimensions]


def causal(phase: str, length: int, rows: int = 2, heads: int = 4, width: int = 128) -> KernelCall:
    tiles = length // 512
    return KernelCall(phase, rows, heads, width, tiles * (tiles + 1) // 2, tiles**2, tiles, 512, 512)


def test_a_call_is_read_from_a_program():
    cost = program_cost(KERNEL)
    assert cost.kernels == {KernelCall("fwd", 2, 2, 64, 4, 4, 1, 512, 512): 1}
    assert cost.matmul_flops == cost.cycles == 0
    assert not cost.custom_calls


def test_the_table_of_keys_is_written_the_other_way_round():
    (call,) = program_cost(KERNEL.replace("mha_fwd", "mha_dkv").replace("s8[1,1,4]", "s8[1,4,3]")).kernels
    assert (call.phase, call.steps, call.lines) == ("dkv", 12, 3)


def test_a_kernel_without_a_name_for_its_tiles_has_no_known_cost():
    cost = program_cost(KERNEL.replace("splash_4_tiles", "other"))
    assert cost.custom_calls == {"tpu_custom_call": 1}
    assert not cost.kernels


def test_products_are_those_of_the_tiles_computed():
    """Of 2,048 tokens ten tiles; two products forward, the scores again in both kernels backward."""
    pairs = 10 * 512 * 512
    assert [causal(phase, 2048).flops / (2 * pairs * 128 * 2 * 4) for phase in PHASES] == [2, 3, 4]


def test_cycles_of_a_causal_row_on_v5e():
    """197 TFLOP/s at 1.5 GHz: a tile's products take 1,022, 1,533 and 2,044 cycles at the peak, and 0.8 is reached."""
    per_tile = 2 * 512 * 512 * 128 / (197e12 / 1.5e9) / 0.8
    by_hand = {
        "fwd": 10 * 2 * per_tile + 16 * 228 + 4 * 733,
        "dq": 10 * 3 * per_tile + 16 * 99 + 4 * 227,
        "dkv": 10 * 4 * per_tile + 16 * 131 + 4 * 402,
    }
    assert 2 * per_tile == pytest.approx(1277, abs=1)
    for phase, cycles in by_hand.items():
        assert kernel_cycles(causal(phase, 2048), CHIPS["v5e"]) == pytest.approx(2 * 4 * cycles)


def test_narrow_heads_leave_matrix_units_idle():
    """Heads of 64 take as long as those of 128, but on chips whose units are 256 wide none of both is the limit."""
    for name in TPUS:
        narrow, wide, widest = (
            kernel_cycles(causal("dkv", 2048, width=width), CHIPS[name]) for width in (64, 128, 256)
        )
        assert narrow == wide
        assert (wide == widest) == (name in ("v6e", "tpu7x"))


def test_two_cores_share_rows_and_forward_heads():
    chip = CHIPS["v5p"]
    for phase in PHASES:
        one, two, three = (kernel_cycles(causal(phase, 2048, rows=rows), chip) for rows in (1, 2, 3))
        assert three == two * (2 if phase != "fwd" else 1.5)
        assert one == (two / 2 if phase == "fwd" else two)


@pytest.mark.parametrize("name", TPUS)
@pytest.mark.parametrize("length", [512, 2048, 32768])
def test_no_kernel_comes_near_the_peak(name, length):
    """Of what a model asks for: six products of the pairs below the diagonal."""
    chip = CHIPS[name]
    asked = 6 * 2 * (length**2 / 2) * 128 * 2 * 4
    share = asked * chip.clock / chip.peak_flops / sum(kernel_cycles(causal(phase, length), chip) for phase in PHASES)
    assert 0.05 < share < 0.55


def test_a_step_takes_the_kernels_time_as_well():
    topology, without = parse_topology("v5p-8"), program_cost(KERNEL.replace("splash_4_tiles", "other"))
    quick = dataclasses.replace(without, cycles=1e6)
    before = of_program(as_json(quick), topology)
    call = causal("fwd", 32768)
    after = of_program(as_json(dataclasses.replace(quick, kernels={call: 32})), topology)
    seconds = 32 * kernel_cycles(call, topology.chip) / topology.chip.clock
    assert (before.kernels, after.kernels) == (0, pytest.approx(seconds))
    assert after.step - before.step == pytest.approx(seconds)
    assert after.compute - before.compute == pytest.approx(32 * call.flops / topology.chip.peak_flops)
