"""What lies in the memory of each device: the state exactly, what a step computes by formula."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.parallel.trees import Axes, Flags, Shapes, Tree
from jaxft.planning.attention import attention_uses
from jaxft.planning.flops import Pass
from jaxft.training.state import TrainState

# Numbers of a row of a register of TPUs.
_LANES = 128


@dataclasses.dataclass(frozen=True)
class ParameterRow:
    """A parameter as it lies on the mesh.

    Attributes:
      name: its path.
      shape: of the whole.
      axes: logical ones.
      mesh_axes: those that split each of its axes, None where none does.
      bytes: of the part that a device holds.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    mesh_axes: tuple[str | None, ...]
    bytes: int

    @property
    def size(self) -> int:
        """Numbers in the whole."""
        return math.prod(self.shape)


def parameter_table(parameters: Shapes, axes: Axes) -> list[ParameterRow]:
    """A row for each parameter.

    Args:
      parameters: tree of ShapeDtypeStruct with shardings.
      axes: tree of PartitionSpec over logical axes, of the same structure.
    """
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    specs = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec))
    rows = []
    for (path, leaf), spec in zip(leaves, specs, strict=True):
        split = leaf.sharding.spec
        laid = (*split, *[None] * (len(leaf.shape) - len(split)))
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rows.append(ParameterRow(name, leaf.shape, tuple(spec), laid, device_bytes(leaf)))
    return rows


def by_part(rows: Iterable[ParameterRow]) -> dict[str, int]:
    """Numbers in the parts of a model: of the trunk each of its own, and the heads."""
    found: dict[str, int] = {}
    for row in rows:
        parts = row.name.split("/")
        part = "/".join(parts[: 2 if parts[0] == "trunk" else 1])
        found[part] = found.get(part, 0) + row.size
    return found


def device_bytes(tree: Tree) -> int:
    """Bytes that a device holds of a tree of ShapeDtypeStruct with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of each device.

    Attributes:
      parameters: with copies of them that a run keeps.
      optimizer: moments.
      gradients: in float32, of the largest moment of a step.
      activations: what the backward pass waits for, the working space of the largest layer or head with the weights
        gathered for it, and parameters in 16 bits where it computes in these.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.parameters + self.optimizer + self.gradients + self.activations


def memory_of(
    state: TrainState,
    trained: Flags | None,
    passes: Mapping[str, Iterable[Pass]],
    config: ModelConfig,
    compute: ComputeConfig,
    mesh: Mapping[str, int],
    micro_batches: int,
    platform: str,
) -> Memory:
    """Memory of a run by formula.

    Args:
      state: tree of ShapeDtypeStruct with shardings.
      trained: the part of its parameters that is trained, of the same kind.
      passes: by stream.
      config: the trunk.
      compute: how it is computed.
      mesh: sizes of the axes.
      micro_batches: parts that each batch is computed in.
      platform: `cpu`, `gpu` or `tpu`, by which kernels are chosen.
    """
    kept = [state.parameters, state.origin, state.average]
    gradient = device_bytes(trained)
    # The streams' gradients meet at the end of a step; parts of a batch add theirs to those before.
    copies = len(passes) + (micro_batches > 1)
    largest = max(
        sum(activation_bytes(one, config, compute, mesh, micro_batches, platform) for one in own if one.trained)
        for own in passes.values()
    )
    # The compiler casts all parameters before the loop over layers.
    cast = device_bytes(state.parameters) // 2 if compute.precision == "bfloat16" else 0
    return Memory(sum(map(device_bytes, kept)), device_bytes(state.optimizer), gradient * copies, largest + cast)


def activation_bytes(
    one: Pass, config: ModelConfig, compute: ComputeConfig, mesh: Mapping[str, int], micro_batches: int, platform: str
) -> int:
    """Bytes of a device that a pass needs at its largest, either in a layer or where the logits are.

    As in "Reducing activation recomputation" (Korthikanti et al. 2022, arXiv 2205.05198), section 4, for the blocks
    here, which keep no more of norms and activations than what they are computed from, and with the scores that their
    kernels of attention keep.
    """
    rows = _device_rows(one, mesh, micro_batches)
    saved, working = 0.0, 0.0
    for layers, layer in _layers(one, config, compute, mesh, rows, platform):
        kept = layer.kept(compute.remat)
        saved += layers * kept
        # The gradients of the projections' results, or what of the layer is computed again, as the first of these
        # takes the place of the last of those.
        working = max(working, layer.weights + max(layer.projected, layer.kept("none") - kept))
    logits = _logits_bytes(one, config, compute, mesh, rows, platform, compute.loss_parts)
    return int(saved + max(working, logits))


def layer_traffic(
    one: Pass, config: ModelConfig, compute: ComputeConfig, mesh: Mapping[str, int], platform: str
) -> float:
    """Bytes that a device reads and writes in the layers and heads of a pass, forward and backward.

    Whatever is computed is written once and read once on the way forward, and again on the way back.
    """
    rows = _device_rows(one, mesh, 1)
    layers = sum(count * layer.computed for count, layer in _layers(one, config, compute, mesh, rows, platform))
    times = 2 if not one.trained else 4 if compute.remat == "none" else 6
    return times * layers + (3 if one.trained else 1) * _logits_bytes(one, config, compute, mesh, rows, platform)


def _device_rows(one: Pass, mesh: Mapping[str, int], micro_batches: int) -> int:
    """Rows of a pass that a device computes at a time."""
    return max(1, math.ceil(one.rows / (mesh["data"] * mesh["fsdp"] * micro_batches)))


@dataclasses.dataclass(frozen=True)
class _Layer:
    """Bytes of a layer on a device.

    Attributes:
      carried: its input.
      mixed: what attention found.
      projected: what other projections give that the backward pass needs.
      outputs: of the projections into the residual stream, which `dots` saves although nothing needs them.
      between: inputs and results of norms and activations, masks of dropout, scores.
      weights: gathered for it, and their gradient before it is shared out.
    """

    carried: float
    mixed: float
    projected: float
    outputs: float
    between: float
    weights: float

    def kept(self, remat: str) -> float:
        """What waits for the backward pass under a policy."""
        own = {
            "full": 0,
            "attention": self.mixed,
            "dots": self.mixed + self.projected + self.outputs,
            "none": self.mixed + self.projected + self.between,
        }
        return self.carried + own[remat]

    @property
    def computed(self) -> float:
        """All that is computed."""
        return self.carried + self.mixed + self.projected + self.outputs + self.between


def _layers(
    one: Pass, config: ModelConfig, compute: ComputeConfig, mesh: Mapping[str, int], rows: int, platform: str
) -> Iterator[tuple[int, _Layer]]:
    """For each stack its number of layers, and one of them."""
    uses = attention_uses(config, compute, one, mesh, platform)
    sides = [(config, config.num_layers, one.length * one.streams, one.length, 0)]
    if config.family == "encoder_decoder":
        target = one.target_length
        sides.append((config.of_decoder(), config.decoder_layers, target, target, one.length))
    for (side, layers, queries, keys, source), own in zip(sides, uses, strict=True):
        scores = sum(use.layers * use.scores for use in own) / layers
        lanes = any(use.kernel == "splash" for use in own)
        yield layers, _layer(side, compute, mesh, rows, queries, keys, source, scores, lanes, one.trained)


def _layer(
    config: ModelConfig,
    compute: ComputeConfig,
    mesh: Mapping[str, int],
    rows: int,
    queries: int,
    keys: int,
    source: int,
    scores: float,
    lanes: bool,
    trained: bool,
) -> _Layer:
    """A layer of a stack.

    Args:
      config, compute, mesh, rows: as above.
      queries: tokens of a row.
      keys: tokens that its attention reads.
      source: tokens that its cross attention reads, or 0.
      scores: of a row and head that are in memory.
      lanes: whether heads are filled up to whole lanes of a TPU, as its kernel wants them.
      trained: whether there is dropout.
    """
    size, tensor = (2 if compute.precision == "bfloat16" else 4), mesh["tensor"]
    tokens = rows * queries / mesh["context"]
    attentions = 2 if source else 1
    width, inner = config.embed_dim, config.num_heads * config.width_of_head / tensor
    keys_width, mlp = config.kv_heads * config.width_of_head / tensor, config.mlp_dim / tensor
    sides = 2 if config.gated else 1
    filled = math.ceil(config.width_of_head / _LANES) * _LANES / config.width_of_head if lanes else 1.0
    found = tokens * size * attentions * inner
    heads = size * (tokens * attentions * inner + 2 * keys_width * rows * (keys + source) / mesh["context"])
    projected = tokens * size * sides * mlp + heads
    # Scores and probabilities in float32 and once in the dtype of the values.
    between = rows * scores / mesh["context"] * config.num_heads / tensor * (4 + size)
    # What attention found once more, laid out for the projection; what a norm reads and gives, but for the layer's
    # input; the activated, and that times the other side where there is one; heads as the kernel wants them.
    between += found + tokens * size * ((2 * attentions + 1) * width + sides * mlp)
    between += (filled - 1) * heads
    between += tokens * width * (1 + attentions) * (config.dropout > 0 and trained)
    weights = width * (2 * attentions * (inner + keys_width) + (1 + sides) * mlp)
    # Those of the next layer are gathered meanwhile.
    gradient = 2 if compute.reduce_dtype == "bfloat16" else 4
    gathered = weights * (2 * size + gradient) if mesh["fsdp"] > 1 else 0.0
    return _Layer(
        tokens * width * size, filled * found, projected, tokens * size * attentions * width, between, gathered
    )


def _logits_bytes(
    one: Pass,
    config: ModelConfig,
    compute: ComputeConfig,
    mesh: Mapping[str, int],
    rows: int,
    platform: str,
    parts: int = 1,
) -> float:
    """Logits of the largest head with their gradient, and the table of a vocabulary, gathered.

    Of a pass that may be computed so, it is those of one of `parts`, in whose place their gradient is written, and the
    gradient of the whole table, which a device sums over the parts in float32.

    On TPUs those of a vocabulary without bias stay in the dtype of the products; all others are in float32.
    """
    size, read, widest = (2 if compute.precision == "bfloat16" else 4), one.target_length or one.length, 0.0
    for head in one.heads:
        vocabulary = head.kind in ("causal_lm", "masked_lm", "generator")
        places = (one.places or read) if vocabulary else read
        in_parts = one.in_parts and parts > 1
        places = math.ceil(places / parts) if in_parts else places
        labels = config.vocab_size / mesh["tensor"] if vocabulary else head.num_labels
        own = size if platform == "tpu" and head.kind == "causal_lm" else 4
        gathered = labels * config.width_of_embedding if vocabulary and mesh["fsdp"] > 1 else 0.0
        logits, table = rows * places / mesh["context"] * labels * own, gathered * size
        widest = max(widest, logits + table + 4 * gathered if in_parts else 2 * logits + table)
    return widest
