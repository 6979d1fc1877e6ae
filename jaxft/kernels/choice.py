"""Which implementation computes attention, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from jaxft.errors import RecipeError
from jaxft.kernels.masks import AttentionMask
from jaxft.kernels.shapes import Keys, Queries
from jaxft.parallel.platform import target_platform
from jaxft.parallel.sharding import parts_of

IMPLEMENTATIONS = ("auto", "reference", "xla", "local", "cudnn", "splash")

# Below so many tokens a kernel that keeps scores on the chip gains nothing over products that XLA fuses.
SHORTEST_FOR_SPLASH = 512
# Blocks of windows read three of their neighbours' keys for each of their own: worth it from so many of them on.
FEWEST_BLOCKS = 6


@dataclasses.dataclass(frozen=True)
class Situation:
    """What is asked of attention, as far as kernels differ in it.

    Attributes:
      platform: `cpu`, `gpu` or `tpu`.
      query_length: tokens.
      key_length: tokens.
      head_dim: width of a head.
      half: whether vectors have 16 bits.
      causal: as in `AttentionMask`.
      window: as in `AttentionMask`.
      devices: that share the length.
      bias: whether scores get a bias.
      exact_bias: as in `AttentionMask`.
      by_data: what else of the mask only data tell: `a prefix`, `an order` or `positions out of a cache`; empty if
        nothing.
      soft_cap: whether scores are capped.
      dropout: whether probabilities are dropped.
    """

    platform: str
    query_length: int
    key_length: int
    head_dim: int
    half: bool = False
    causal: bool = False
    window: tuple[int, int] | None = None
    devices: int = 1
    bias: bool = False
    exact_bias: bool = False
    by_data: str = ""
    soft_cap: bool = False
    dropout: bool = False


def situation_of(
    query: Queries, key: Keys, mask: AttentionMask, soft_cap: float | None, dropout_rate: float
) -> Situation:
    """What a call of attention asks for, on the mesh in use."""
    given = {"a prefix": mask.prefix, "an order": mask.query_order, "positions out of a cache": mask.query_positions}
    return Situation(
        platform=target_platform(),
        query_length=query.shape[1],
        key_length=key.shape[1],
        head_dim=query.shape[3],
        half=query.dtype in (jnp.bfloat16, jnp.float16),
        causal=mask.causal,
        window=mask.window,
        devices=parts_of("length"),
        bias=mask.bias is not None,
        exact_bias=mask.exact_bias,
        by_data=next((name for name, value in given.items() if value is not None), ""),
        soft_cap=soft_cap is not None,
        dropout=dropout_rate > 0,
    )


def choose(implementation: str, asked: Situation) -> tuple[str, str]:
    """Name of the implementation that runs, and why.

    Raises:
      RecipeError: an unknown name, or an implementation that cannot express what was asked.
    """
    if implementation == "auto":
        return _best(asked)
    if implementation not in IMPLEMENTATIONS:
        raise RecipeError(f"attention {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    if lack := _LACKS[implementation](asked):
        raise RecipeError(f"attention {implementation!r} has no {lack}; use 'reference' or 'auto'")
    return implementation, "asked for"


def _best(asked: Situation) -> tuple[str, str]:
    """The fastest that expresses all that is asked; of those that do not, what they lack."""
    passed: list[str] = []
    for name, worth in _PREFERENCES[asked.platform]:
        if name == "local" and asked.window is None:
            continue
        lack = _LACKS[name](asked) or worth(asked)
        if not lack:
            return name, "; ".join(passed) or "the fastest here"
        passed.append(f"{name} has no {lack}")
    return "reference", "; ".join(passed)


def _xla_lacks(asked: Situation) -> str:
    return "soft cap" if asked.soft_cap else "dropout of probabilities" if asked.dropout else ""


def _splash_lacks(asked: Situation) -> str:
    if asked.platform == "gpu":
        return "program for GPUs"
    if asked.dropout:
        return "dropout of probabilities"
    if asked.bias:
        return "bias"
    if asked.by_data:
        return f"mask by {asked.by_data}"
    whole = 128 * asked.devices
    if asked.devices > 1 and (asked.query_length % whole or asked.key_length % asked.devices or asked.key_length % 128):
        return f"length of {asked.query_length} over {asked.devices} devices, only multiples of {whole}"
    return ""


def _cudnn_lacks(asked: Situation) -> str:
    if asked.platform != "gpu":
        return f"program for {asked.platform.upper()}s"
    if not asked.half:
        return "float32"
    if asked.head_dim % 8 or asked.head_dim > 128:
        return f"heads of {asked.head_dim}, only multiples of 8 up to 128"
    if asked.query_length % 2 or asked.key_length % 2:
        return "odd lengths"
    if asked.devices > 1:
        return "length that devices share"
    if asked.exact_bias:
        return "bias in float32"
    return _xla_lacks(asked)


def _local_lacks(asked: Situation) -> str:
    if asked.window is None:
        return "attention without a window"
    if asked.query_length != asked.key_length:
        return "queries and keys of different lengths"
    if asked.bias:
        return "bias"
    if asked.by_data:
        return f"mask by {asked.by_data}"
    return "causal order that devices share" if asked.causal and asked.devices > 1 else ""


_LACKS: dict[str, Callable[[Situation], str]] = {
    "reference": lambda asked: "",
    "xla": _xla_lacks,
    "local": _local_lacks,
    "cudnn": _cudnn_lacks,
    "splash": _splash_lacks,
}


def _always(asked: Situation) -> str:
    return ""


def _long_for_splash(asked: Situation) -> str:
    longest = max(asked.query_length, asked.key_length)
    return "" if longest >= SHORTEST_FOR_SPLASH else f"use at {longest} tokens"


def _many_blocks(asked: Situation) -> str:
    assert asked.window is not None  # else it would not be asked
    widest = max(asked.window)
    enough = asked.key_length >= FEWEST_BLOCKS * widest
    return "" if enough else f"use at {asked.key_length} tokens with windows of {widest}"


# By platform, the fastest first, each with what it has no use for.
_PREFERENCES = {
    "tpu": (("splash", _long_for_splash), ("local", _many_blocks), ("xla", _always)),
    "gpu": (("local", _many_blocks), ("cudnn", _always), ("xla", _always)),
    "cpu": (("local", _many_blocks), ("xla", _always)),
}
