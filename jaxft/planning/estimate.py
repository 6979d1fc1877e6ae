"""How long a step should take: from what a compiled program asks of a chip, or by formula where nothing is compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.planning.flops import Pass, training_flops
from jaxft.planning.kernels import KernelCall, kernel_cycles
from jaxft.planning.memory import Memory, layer_traffic
from jaxft.planning.topology import PRODUCT_EFFICIENCY, SLICE_BANDWIDTH, Topology


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step on each device.

    Attributes:
      compute: of its matrix products at the peak of the chip, or at what products reach where `method` is `formula`.
      kernels: of attention's kernels, of which a compiler knows nothing; 0 by formula, as `compute` has them.
      memory: of reading and writing HBM at its bandwidth.
      collectives: of all that is sent.
      instructions: what the compiler expects of all instructions other than kernels; 0 by formula.
      exposed: of the collectives that nothing else goes on beside.
      step: of the whole step.
      method: `compiled` or `formula`.
    """

    compute: float
    kernels: float
    memory: float
    collectives: float
    instructions: float
    exposed: float
    step: float
    method: str


def of_program(cost: Mapping[str, Any], topology: Topology) -> Estimate:
    """From a compiled program.

    Args:
      cost: `matmul_flops`, `cycles`, `memory_bytes`, `kernels`, bytes `on_an_axis` of the network, `overlapped` and
        `exposed`, and those `between_slices` (see `jaxft.workflows.plan.compilation.as_json`).
      topology: what it is compiled for.
    """
    chip = topology.chip
    calls = [(KernelCall(**call["call"]), call["times"]) for call in cost["kernels"]]
    kernels = sum(kernel_cycles(call, chip) * times for call, times in calls) / chip.clock
    flops = cost["matmul_flops"] + sum(call.flops * times for call, times in calls)
    compute, memory = flops / chip.peak_flops, cost["memory_bytes"] / chip.hbm_bandwidth
    instructions = cost["cycles"] / chip.clock
    overlapped, exposed = (cost["on_an_axis"][name] / chip.ring_bandwidth for name in ("overlapped", "exposed"))
    exposed += cost["between_slices"] / SLICE_BANDWIDTH
    step = max(instructions + kernels, compute, memory, overlapped) + exposed
    return Estimate(compute, kernels, memory, overlapped + exposed, instructions, exposed, step, "compiled")


def by_formula(
    passes: Iterable[Pass],
    config: ModelConfig,
    compute: ComputeConfig,
    memory: Memory,
    mesh: Mapping[str, int],
    micro_batches: int,
    topology: Topology,
) -> Estimate:
    """From what the model asks for: products, then memory, one after the other, beside the collectives of `fsdp`.

    Good to about a factor of two; it is meant for comparing meshes and for chips that nothing is compiled for.

    Args:
      passes: of all streams.
      config: the trunk.
      compute: how it is computed.
      memory: of a device.
      mesh: sizes of the axes.
      micro_batches: parts that each batch is computed in.
      topology: the devices.
    """
    passes, chip = tuple(passes), topology.chip
    flops = training_flops(config, passes, masked=False)
    again = {"none": 0.0, "dots": 0.0, "attention": flops.layers, "full": flops.layers + flops.attention}[
        compute.remat
    ] / 3
    peak = chip.peak_flops if compute.precision == "bfloat16" else chip.peak_flops / 2
    products = (flops.total + again) / topology.devices / (peak * PRODUCT_EFFICIENCY)
    # An optimizer reads and writes all of the state, and reads the gradients, which were written before.
    moved = 2.0 * (memory.parameters + memory.optimizer + memory.gradients)
    moved += sum(layer_traffic(one, config, compute, mesh, topology.platform) for one in passes)
    overlapped, exposed = _sent(passes, config, compute, memory, mesh, micro_batches)
    overlapped, exposed = overlapped / chip.ring_bandwidth, exposed / chip.ring_bandwidth
    if topology.slices > 1:
        exposed += 2 * memory.gradients / SLICE_BANDWIDTH
    on_chip = products + moved / chip.hbm_bandwidth
    return Estimate(
        products,
        0.0,
        moved / chip.hbm_bandwidth,
        overlapped + exposed,
        0.0,
        exposed,
        max(on_chip, overlapped) + exposed,
        "formula",
    )


def _sent(
    passes: Sequence[Pass],
    config: ModelConfig,
    compute: ComputeConfig,
    memory: Memory,
    mesh: Mapping[str, int],
    micro_batches: int,
) -> tuple[float, float]:
    """Bytes that a device sends: what other work can go on beside, and the rest."""
    size = 2 if compute.precision == "bfloat16" else 4
    overlapped = exposed = 0.0
    if mesh["fsdp"] > 1:
        # The parameters of each layer are gathered for every pass over it, their gradients scattered.
        gathers = 3 if compute.remat in ("full", "attention") else 2
        overlapped += memory.parameters * mesh["fsdp"] * micro_batches * (gathers * size / 4 + 1)
    if mesh["data"] > 1:
        overlapped += 2 * memory.gradients
    if mesh["tensor"] > 1:
        # Twice in a layer, forward and backward, the shares of all heads and widths are summed.
        sums = 2 * (3 if compute.remat in ("full", "attention") else 2)
        layers = config.num_layers + (config.decoder_layers if config.family == "encoder_decoder" else 0)
        tokens = sum(one.tokens * one.streams for one in passes) / mesh["data"] / mesh["fsdp"] / mesh["context"]
        exposed += 2 * sums * layers * tokens * config.embed_dim * size
    return overlapped, exposed
