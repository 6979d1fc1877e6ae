"""Which kernels a pass through a model has for its attention, and which of them keep scores in memory."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from jaxft.kernels.choice import Situation, choose
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.planning.flops import Pass


@dataclasses.dataclass(frozen=True)
class AttentionUse:
    """Attention of some layers of a stack.

    Attributes:
      kernel: its name.
      reason: why that one.
      layers: how many.
      queries: of a row.
      keys: of a row.
      scores: in memory for each row and head.
    """

    kernel: str
    reason: str
    layers: int
    queries: int
    keys: int
    scores: float


def attention_uses(
    config: ModelConfig, compute: ComputeConfig, one: Pass, mesh: Mapping[str, int], platform: str
) -> tuple[tuple[AttentionUse, ...], ...]:
    """For each stack of the model, what its layers do, cross attention last.

    Args:
      config: the trunk.
      compute: how it is computed.
      one: the pass.
      mesh: sizes of the axes.
      platform: `cpu`, `gpu` or `tpu`.

    Raises:
      RecipeError: the recipe names a kernel that cannot express what is asked.
    """
    asked = Situation(
        platform,
        one.length * one.streams,
        one.length,
        config.width_of_head,
        half=compute.precision != "float32",
        causal=one.causal,
        devices=mesh["context"],
        bias=config.position in ("relative_bias", "alibi", "disentangled", "transformer_xl"),
        exact_bias=config.position == "alibi",
        by_data="a prefix" if one.prefix else "an order" if one.streams > 1 else "",
        soft_cap=config.attention_soft_cap is not None,
        dropout=one.trained and config.attention_dropout > 0,
    )
    first = tuple(_of_stack(config, config.num_layers, compute, asked))
    if config.family != "encoder_decoder":
        return (first,)
    target = dataclasses.replace(asked, query_length=one.target_length, key_length=one.target_length, causal=True)
    across = dataclasses.replace(asked, query_length=one.target_length, bias=False, exact_bias=False, causal=False)
    layers = config.decoder_layers
    return first, (*_of_stack(config, layers, compute, target), _use(compute, across, layers))


def kernel_names(uses: Iterable[AttentionUse]) -> str:
    """Their kernels, that of most layers first, as `splash, xla`."""
    counts: Counter[str] = Counter()
    for use in uses:
        counts[use.kernel] += use.layers
    return ", ".join(name for name, _ in counts.most_common())


def _of_stack(config: ModelConfig, layers: int, compute: ComputeConfig, asked: Situation) -> Iterator[AttentionUse]:
    windows = config.windows or (0,)
    for window, count in Counter(windows[layer % len(windows)] for layer in range(layers)).items():
        within = dataclasses.replace(asked, window=(window, window)) if window else asked
        yield _use(compute, within, count)


def _use(compute: ComputeConfig, asked: Situation, layers: int) -> AttentionUse:
    kernel, reason = choose(compute.attention, asked)
    kept = {"splash": 0, "cudnn": 0}.get(kernel, asked.key_length)
    if kernel == "local":
        assert asked.window is not None  # which `local` is for
        kept = min(asked.key_length, max(asked.window) * (2 if asked.causal else 3))
    return AttentionUse(kernel, reason, layers, asked.query_length, asked.key_length, float(asked.query_length * kept))
