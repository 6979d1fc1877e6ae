"""Files are read slice by slice, each byte once and onto any mesh, and those we write are everyone's."""

from __future__ import annotations

import itertools
import json
import math
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from huggingface.reference_models import CASES, inputs_of, make, save
from support.processes import environment

from jaxft.huggingface import safetensors_files
from jaxft.huggingface.description import describe
from jaxft.huggingface.loaded import load_model, save_model
from jaxft.huggingface.safetensors_files import DTYPES, INDEX, SINGLE, stored_tensors, write_tensors

HERE = pathlib.Path(__file__).parent


def write(directory: pathlib.Path, tensors: dict[str, np.ndarray], shard_bytes: int = 2**40) -> None:
    described = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    write_tensors(directory, described, tensors.__getitem__, shard_bytes)


def some_tensors() -> dict[str, np.ndarray]:
    """One tensor of every type and of several ranks, an empty one among them."""
    rng = np.random.default_rng(0)
    typed = {name: rng.integers(0, 2, (3, 4)).astype(dtype) for name, dtype in DTYPES.items()}
    shapes = {"scalar": (), "vector": (7,), "matrix": (9, 5), "cube": (4, 3, 6), "empty": (0, 3)}
    return typed | {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def run(program: str, *arguments: str, devices: int = 1) -> dict:
    command = [sys.executable, HERE / program, *arguments]
    done = subprocess.run(command, env=environment(devices), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


# Slices.


def slices_of(size: int) -> list[slice]:
    return [slice(first, last) for first in range(size) for last in range(first + 1, size + 1)]


@pytest.mark.parametrize("block", [1, 40, 2**24])
@pytest.mark.parametrize("shape", [(5,), (6, 5), (3, 2, 4), (2, 2, 1, 3)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_every_slice_is_numpys(tmp_path, monkeypatch, shape, dtype, block):
    # A small block makes slices that are read in several goes.
    monkeypatch.setattr(safetensors_files, "_BLOCK", block)
    tensor = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    write(tmp_path, {"before": np.ones(3, np.float16), "tensor": tensor, "after": np.ones(3, np.float16)})
    stored = stored_tensors(tmp_path)["tensor"]
    np.testing.assert_array_equal(stored.read(), tensor)
    for wanted in itertools.product(*map(slices_of, shape)):
        found = stored.read(wanted)
        assert found.dtype == tensor.dtype
        np.testing.assert_array_equal(found, tensor[wanted])


# Files.


@pytest.mark.parametrize("shard_bytes", [1, 100, 300, 2**40])
def test_what_we_write_we_read(tmp_path, shard_bytes):
    tensors = some_tensors()
    write(tmp_path, tensors, shard_bytes)
    stored = stored_tensors(tmp_path)
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (stored[name].dtype, stored[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(stored[name].read(), tensor)


@pytest.mark.parametrize("shard_bytes", [1, 100, 300])
def test_the_safetensors_library_reads_our_shards_where_the_index_says(tmp_path, shard_bytes):
    tensors = some_tensors()
    write(tmp_path, tensors, shard_bytes)
    assert not (tmp_path / SINGLE).exists()
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    for file in files:
        found = safetensors.numpy.load_file(tmp_path / file)
        assert found.keys() == {name for name, where in index["weight_map"].items() if where == file}
        assert len(found) == 1 or sum(tensor.nbytes for tensor in found.values()) <= shard_bytes
        for name, tensor in found.items():
            assert tensor.dtype == tensors[name].dtype
            np.testing.assert_array_equal(tensor, tensors[name])


def test_the_safetensors_library_reads_our_single_file(tmp_path):
    tensors = some_tensors()
    write(tmp_path, tensors)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    found = safetensors.numpy.load_file(tmp_path / SINGLE)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_we_read_what_the_safetensors_library_writes(tmp_path):
    tensors = some_tensors()
    safetensors.numpy.save_file(tensors, tmp_path / SINGLE, metadata={"format": "pt"})
    stored = stored_tensors(tmp_path)
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(stored[name].read(), tensor)


@pytest.mark.parametrize("name", ["bert-masked-lm", "llama", "phi3", "bart"])
def test_transformers_loads_our_shards_with_the_same_logits(tmp_path, name):
    case = CASES[name]
    theirs = make(case)
    save(theirs, tmp_path / "theirs")
    save_model(load_model(tmp_path / "theirs"), tmp_path / "ours", shard_bytes=10_000)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 2
    again = getattr(transformers, case.model).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    inputs = {key: torch.from_numpy(np.array(value)) for key, value in inputs_of(case).items()}
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, theirs(**inputs).logits)


# Devices.

# All axes divide by the meshes, and there are joint, concatenated and stacked tensors.
WIDE = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MADE = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", WIDE),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", WIDE),
    "bert": ("BertForMaskedLM", "BertConfig", WIDE),
    "gpt2": (
        "GPT2LMHeadModel", "GPT2Config",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_mesh_holds_the_same_values_in_the_prescribed_shards_and_each_byte_is_read_once(tmp_path, name):
    model, config, keys = MADE[name]
    made = getattr(transformers, model)(getattr(transformers, config)(**keys))
    made.save_pretrained(tmp_path)
    told = run("sharded_loading.py", str(tmp_path), devices=8)
    assert told["devices"] == 8
    placed = describe(tmp_path).stored.values()
    size = sum(math.prod(stored.shape) * stored.dtype.itemsize for stored in placed)
    assert told["meshes"].pop("one")["bytes"] == size
    for mesh, found in told["meshes"].items():
        assert found["same_names"] and not found["different"] and not found["elsewhere"], mesh
        assert (found["split"] > 0) == (mesh != "data"), mesh
        assert found["bytes"] == size, mesh


# Memory.

LARGE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64_000, "hidden_size": 2048,
    "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 8192,
    "max_position_embeddings": 128,
}  # fmt: skip


def large_tensors() -> dict[str, tuple[int, ...]]:
    width, mlp, rows = LARGE["hidden_size"], LARGE["intermediate_size"], LARGE["vocab_size"]
    narrow = width // LARGE["num_attention_heads"] * LARGE["num_key_value_heads"]
    layer = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (narrow, width),
        "self_attn.v_proj": (narrow, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (mlp, width),
        "mlp.up_proj": (mlp, width),
        "mlp.down_proj": (width, mlp),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    tensors = {"model.embed_tokens": (rows, width), "lm_head": (rows, width), "model.norm": (width,)}
    for number in range(LARGE["num_hidden_layers"]):
        tensors |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return {f"{name}.weight": shape for name, shape in tensors.items()}


@pytest.mark.slow
def test_a_large_model_needs_little_memory_beyond_its_own(tmp_path):
    described = {name: (np.dtype(ml_dtypes.bfloat16), shape) for name, shape in large_tensors().items()}
    # Not zeros, whose pages of memory an allocator may never touch.
    write_tensors(tmp_path, described, lambda name: np.full(described[name][1], 0.5, described[name][0]), 500 * 10**6)
    (tmp_path / "config.json").write_text(json.dumps(LARGE))
    told = run("loading_memory.py", str(tmp_path), "bfloat16")
    # A gigabyte, which pytest would keep.
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    assert told["held"] == sum(math.prod(shape) * 2 for shape in large_tensors().values()) > 10**9
    # Else the bound would say nothing of a tensor that is assembled out of pieces.
    assert told["largest"] > told["piece"]
    assert told["peak"] <= told["before"] + told["held"] + 1.3 * told["largest"], told
