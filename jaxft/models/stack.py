"""Blocks on top of each other, scanned or one by one, computed again in the backward pass where that is asked for."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from jaxft.kernels.shapes import Hidden
from jaxft.kernels.splash import RESIDUALS
from jaxft.models.blocks import Block, BlockInputs, Convolution
from jaxft.models.config import ComputeConfig, LayerGroup, LayerKind, ModelConfig


class _Group(nn.Module):
    """The blocks of one repeat of a group: the body of the scan over layers."""

    config: ModelConfig
    compute: ComputeConfig
    kinds: tuple[LayerKind, ...]
    cross: bool
    keep_outputs: bool

    @nn.compact
    def __call__(self, x: Hidden, inputs: BlockInputs) -> tuple[Hidden, tuple[Hidden, ...] | None]:
        outputs = []
        for i, kind in enumerate(self.kinds):
            x = Block(self.config, self.compute, kind, self.cross, name=f"block_{i}")(x, inputs)
            outputs.append(x)
        return x, tuple(outputs) if self.keep_outputs else None


_SAVE_ATTENTION = jax.checkpoint_policies.save_only_these_names(RESIDUALS)
_REMAT_POLICIES = {
    "full": None,
    "attention": _SAVE_ATTENTION,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _SAVE_ATTENTION
    ),
}


class Stack(nn.Module):
    """All blocks of an encoder or a decoder.

    Parameters of like blocks are stacked on a leading axis `layers` (`ModelConfig.layer_groups`), whether the loop over
    them is compiled as a loop or unrolled, so a checkpoint does not depend on how it was computed. The output of every
    block is kept where the collection `layer_outputs` is mutable: for each group a tuple of arrays `(repeats, batch,
    length, embed)`, one for each block of a repeat.

    Attributes:
      config: the model.
      compute: how it is computed.
      num_layers: blocks.
      cross: whether the blocks read an encoder.
    """

    config: ModelConfig
    compute: ComputeConfig
    num_layers: int
    cross: bool = False

    @nn.compact
    def __call__(self, x: Hidden, inputs: BlockInputs) -> Hidden:
        for group in self.config.layer_groups(self.num_layers):
            before = x
            x, outputs = self._scanned(group)(x, inputs)
            if self.config.convolution and group.start == 0:
                x = Convolution(self.config, self.compute, name="convolution")(before, x, inputs.mask.query_segments)
            if outputs is not None:
                self.sow("layer_outputs", f"{group.name}_outputs", outputs)
        return x

    def _scanned(self, group: LayerGroup) -> nn.Module:
        body, shared = _Group, self.config.share_layers
        if self.compute.remat != "none":
            body = nn.remat(body, prevent_cse=not self.compute.scan_layers, policy=_REMAT_POLICIES[self.compute.remat])
        stacked: dict[Any, int] = {"cache": 0, "keys_values": 0} | ({} if shared else {"params": 0})
        scanned = nn.scan(
            body,
            variable_axes=stacked,
            variable_broadcast="params" if shared else False,
            split_rngs={"params": not shared, "dropout": True},
            in_axes=nn.broadcast,
            length=group.repeats,
            unroll=1 if self.compute.scan_layers else group.repeats,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        keep_outputs = self.is_mutable_collection("layer_outputs") and not self.is_initializing()
        return scanned(self.config, self.compute, group.kinds, self.cross, keep_outputs, name=group.name)
