"""What lies on each device, by counts made by hand."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.parallel.mesh import MeshConfig, abstract_mesh
from jaxft.planning.flops import Pass
from jaxft.planning.memory import activation_bytes, by_part, device_bytes, memory_of, parameter_table
from jaxft.recipe.presets import PRESETS
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.schedule import ScheduleConfig, make_schedule
from jaxft.training.state import abstract_state

HEAD = HeadConfig("causal_lm")
LLAMA = ModelConfig(**{**PRESETS["llama-1b"], "vocab_size": 128256, "max_length": 2048})


def state_of(config: ModelConfig, mesh: MeshConfig, devices: int, optimizer: str = "adamw"):
    model = Model(config, (("head", HEAD),))
    schedule = make_schedule(ScheduleConfig(), 1e-3, 100)
    shapes, axes = abstract_parameters(model)
    made = make_optimizer(OptimizerConfig(name=optimizer), schedule, shapes, axes, frozenset({"head"}))
    return abstract_state(model, made, abstract_mesh(mesh, devices)), axes


def test_the_parameters_of_llama_are_counted_by_part():
    state, axes = state_of(LLAMA, MeshConfig(fsdp=-1, data=1), 16)
    table = parameter_table(state.parameters, axes)
    width, keys, inner, layers = 2048, 512, 8192, 16
    block = 2 * width**2 + 2 * width * keys + 3 * width * inner + 2 * width
    assert by_part(table) == {"trunk/body": layers * block + width, "trunk/embeddings": 128256 * width}


def test_each_device_holds_its_share_and_what_is_not_split():
    state, axes = state_of(LLAMA, MeshConfig(data=2, fsdp=4, tensor=2), 16)
    rows = {row.name: row for row in parameter_table(state.parameters, axes)}
    query = rows["trunk/body/stack/layers/block_0/attention/query/kernel"]
    assert (query.axes, query.mesh_axes) == (("layers", "embed", "heads", "head_dim"), (None, "fsdp", "tensor", None))
    assert query.bytes == 16 * 2048 * 32 * 64 * 4 // 8
    norm = rows["trunk/body/final_norm/scale"]
    assert (norm.mesh_axes, norm.bytes) == ((None,), 2048 * 4)
    assert sum(row.bytes for row in rows.values()) == device_bytes(state.parameters)


def test_adam_keeps_two_moments_of_each_parameter_and_adafactor_next_to_none():
    memory = {}
    for name in ("adamw", "adafactor"):
        state, _ = state_of(LLAMA, MeshConfig(fsdp=-1, data=1), 16, name)
        memory[name] = device_bytes(state.optimizer) / device_bytes(state.parameters)
    assert memory["adamw"] == pytest.approx(2, rel=1e-3)
    assert memory["adafactor"] < 0.02


def test_gradients_are_as_large_as_what_is_trained_and_twice_that_in_parts():
    state, _ = state_of(LLAMA, MeshConfig(fsdp=-1, data=1), 16)
    mesh = abstract_mesh(MeshConfig(fsdp=-1, data=1), 16).shape
    passes = {"text": (Pass(64, 2048, heads=(HEAD,), causal=True),)}
    part = jax.tree.map(lambda leaf: leaf, state.parameters["trunk"]["embeddings"])
    made = [
        memory_of(state, trained, passes, LLAMA, ComputeConfig("bfloat16"), mesh, parts, "tpu")
        for trained, parts in ((state.parameters, 1), (state.parameters, 4), (part, 1))
    ]
    whole = device_bytes(state.parameters)
    assert [one.gradients for one in made] == [whole, 2 * whole, device_bytes(part)]
    assert made[0].total == made[0].parameters + made[0].optimizer + made[0].gradients + made[0].activations
    assert made[1].activations < made[0].activations / 3


ONE = {"data": 1, "fsdp": 1, "tensor": 1, "context": 1}


def activations(
    compute: ComputeConfig, rows: int = 8, mesh=ONE, parts: int = 1, platform: str = "tpu", **fields
) -> int:
    config = dataclasses.replace(LLAMA, vocab_size=256, **fields)
    return activation_bytes(Pass(rows, 2048, heads=(HEAD,), causal=True), config, compute, mesh, parts, platform)


def test_what_a_policy_saves_less_of_takes_less_room():
    policies = ("full", "attention", "dots", "none")
    full, attention, dots, none = (activations(ComputeConfig("bfloat16", remat=remat)) for remat in policies)
    assert full < attention < dots < none


def test_scores_take_room_where_a_kernel_keeps_them():
    """Of 2048 tokens and 32 heads in 16 layers, in float32 and in bfloat16; windows keep their blocks alone."""
    compute = [ComputeConfig("bfloat16", attention=kernel) for kernel in ("splash", "xla")]
    splash, xla = (activations(one, head_dim=128) for one in compute)  # or splash would fill heads up
    assert xla - splash == 16 * 8 * 32 * 2048 * 2048 * 6
    local = activations(ComputeConfig("bfloat16", attention="local"), windows=(128,), head_dim=128)
    assert local - splash == 16 * 8 * 32 * 2048 * 256 * 6


def test_a_layer_more_costs_its_input_where_all_else_is_computed_again():
    full = ComputeConfig("bfloat16", remat="full")
    added = activations(full, num_layers=17) - activations(full, num_layers=16)
    assert added == 8 * 2048 * 2048 * 2


def test_rows_are_shared_by_data_and_fsdp_and_taken_in_parts():
    compute = ComputeConfig("bfloat16", remat="full")
    quarter = activations(compute, rows=2)
    assert activations(compute, rows=8, mesh={**ONE, "data": 4}) == activations(compute, rows=8, parts=4) == quarter
    # Where weights are shared out those of two layers are gathered in 16 bits, and a gradient is whole in float32.
    weights = 2 * 2048**2 + 2 * 2048 * 512 + 3 * 2048 * 8192
    fully_sharded = activations(compute, rows=8, mesh={**ONE, "fsdp": 4})
    assert fully_sharded - quarter == weights * 8


@pytest.mark.parametrize(("platform", "size"), [("tpu", 2), ("gpu", 4)])
def test_logits_are_split_by_tensor(platform, size):
    compute, one = ComputeConfig("bfloat16", remat="full"), Pass(8, 2048, heads=(HEAD,), causal=True)
    whole, half = (activation_bytes(one, LLAMA, compute, {**ONE, "tensor": parts}, 1, platform) for parts in (1, 2))
    assert whole - half == pytest.approx(8 * 2048 * 128256 * 2 * size / 2, rel=1e-6)


def test_a_layer_of_bert_keeps_twenty_two_times_its_input():
    """As the compiled `bert-large` does: stacks of its loop over 24 layers are so many times `bf16[24, 4096, 1024]`.

    Of its width the input, what attention found as the projection has it, what two norms read, what the first of them
    gives, two masks of a byte each, and eight of the feed-forward; queries, keys, values and what attention found are
    of heads of 64 in lanes of 128.
    """
    fields = {**PRESETS["bert-large"], "vocab_size": 256, "attention_dropout": 0.0}
    compute, one = ComputeConfig("bfloat16"), Pass(8, 512)
    kept = [activation_bytes(one, ModelConfig(**{**fields, "num_layers": n}), compute, ONE, 1, "tpu") for n in (24, 23)]
    assert kept[0] - kept[1] == (14 + 4 * 2) * 8 * 512 * 1024 * 2


@pytest.mark.parametrize("in_parts", [True, False])
def test_parts_of_the_loss_divide_the_logits_of_passes_that_are_asked_for_losses_alone(in_parts):
    one = Pass(64, 2048, heads=(HEAD,), causal=True, in_parts=in_parts)
    computes = (ComputeConfig("bfloat16", remat="full", loss_parts=count) for count in (1, 4))
    whole, parts = (activation_bytes(one, LLAMA, compute, ONE, 1, "tpu") for compute in computes)
    assert (parts < whole / 2) == in_parts
