"""Low-rank adaptation of any linear layer: LoRA (Hu et al. 2021, arXiv 2106.09685), DoRA (Liu et al. 2024, arXiv
2402.09353) and QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

The layers are intercepted, so models know nothing of it: beside its `kernel`, an adapted layer has `lora_a` `(inputs,
rank)` and `lora_b` `(rank, outputs)`, for DoRA `dora_magnitude` too; a quantized one has `kernel_codes` and
`kernel_scales` in place of `kernel`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.errors import InvalidField
from jaxft.finetuning.intercepted import InterceptedModel, InterceptorContext, LayerMethod
from jaxft.finetuning.naming import check_pattern
from jaxft.kernels.dropout import dropout
from jaxft.kernels.projection import add_bias, project
from jaxft.kernels.quantization import Quantized, dequantize, quantize, shapes_of
from jaxft.models.layers import Linear, partitioned
from jaxft.models.model import AnyModel, abstract_parameters
from jaxft.parallel.trees import Axes, Parameters, Shapes

_ADDED = ("lora_a", "lora_b", "dora_magnitude")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation in a recipe.

    Attributes:
      rank: of the update of each kernel.
      alpha: the update is multiplied by `alpha / rank`; twice the rank where None.
      targets: regular expressions; linear layers whose path, like `trunk/body/stack/layers/block_0/attention/query`,
        one of them finds are adapted. All of the trunk by default.
      dropout: rate of dropout on the input of the update.
      dora: whether the direction alone is adapted, and the magnitude of each output by itself.
      quantize: how the frozen kernels of adapted layers are kept: `none`, `int8` or `nf4` (QLoRA).
    """

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = ("^trunk/.*/(attention|cross_attention|feed_forward)/",)
    dropout: float = 0.0
    dora: bool = False
    quantize: Literal["none", "int8", "nf4"] = "none"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InvalidField("rank", f"must be at least 1, found {self.rank}")
        if self.alpha is not None and self.alpha <= 0:
            raise InvalidField("alpha", f"must be positive, found {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise InvalidField("dropout", f"must be in [0, 1), found {self.dropout}")
        if not self.targets:
            raise InvalidField("targets", "needs at least one pattern")

    @property
    def scale(self) -> float:
        """Factor of the update."""
        return (2 * self.rank if self.alpha is None else self.alpha) / self.rank


@dataclasses.dataclass(frozen=True)
class LoraModel(InterceptedModel):
    """A model whose linear layers are adapted.

    Attributes:
      lora: which layers, and how.
    """

    lora: LoraConfig

    def intercept(
        self, layer: LayerMethod, arguments: tuple[Any, ...], keywords: dict[str, Any], context: InterceptorContext
    ) -> Any:
        """Adds the update of an adapted layer."""
        module = context.module
        if not (isinstance(module, Linear) and context.method_name == "__call__"):
            return layer(*arguments, **keywords)
        if not any(re.search(pattern, "/".join(module.path) + "/") for pattern in self.lora.targets):
            return layer(*arguments, **keywords)
        return _adapted(module, self.lora, layer, *arguments)


def check_targets(model: AnyModel, config: LoraConfig) -> None:
    """Makes sure that each pattern finds a linear layer.

    Raises:
      RecipeError: one finds none; the nearest are named.
    """
    shapes, _ = abstract_parameters(model)
    paths = [f"{path}/" for path in _linear_layers(shapes)]
    for pattern in config.targets:
        check_pattern(pattern, paths, "finetuning.lora.targets")


def _linear_layers(parameters: Parameters | Shapes, path: str = "") -> Iterator[str]:
    """Paths of the layers that have a kernel."""
    if "kernel" in parameters:
        yield path
    for name, value in parameters.items():
        if isinstance(value, dict):
            yield from _linear_layers(value, f"{path}/{name}" if path else name)


def _adapted(module: Linear, config: LoraConfig, layer: LayerMethod, x: jax.Array) -> jax.Array:
    """What an adapted layer gives; in initialization it makes its parameters."""
    inputs = x.shape[x.ndim - len(module.input_axes) :]
    quantized = config.quantize != "none"
    # Called first of all, as it makes the parameters.
    plain = None if quantized else layer(x)
    a, b = _pair(module, config.rank, inputs)
    dropped = x
    if config.dropout and module.has_rng("dropout"):
        dropped = dropout(x, config.dropout, module.make_rng("dropout"))
    update = project(project(dropped, a, len(inputs), module.dtype), b, 1, module.dtype) * config.scale
    if plain is not None and not config.dora:
        return plain + update
    kernel = (
        _made(module, "kernel") if config.quantize == "none" else _quantized_kernel(module, config.quantize, inputs)
    )
    kernel = jax.lax.stop_gradient(kernel)
    y = project(x, kernel, len(inputs), module.dtype) + update
    if config.dora:
        made = partitioned(lambda *_: _lengths(kernel, len(inputs)), module.output_axes)
        magnitude = module.param("dora_magnitude", made, module.features, jnp.float32)
        lengths = _lengths(kernel + config.scale * jnp.tensordot(a, b, 1), len(inputs))
        # The length counts as a constant in the gradient, as the paper proposes (section 4.3).
        y = y * (magnitude / jax.lax.stop_gradient(lengths)).astype(y.dtype)
    if not module.use_bias:
        return y
    zeros = partitioned(nn.initializers.zeros, module.output_axes)
    return add_bias(
        y, module.param("bias", zeros, module.features, jnp.float32) if quantized else _made(module, "bias")
    )


def _made(module: Linear, name: str) -> jax.Array:
    """A parameter that the layer itself has made."""
    return nn.unbox(module.get_variable("params", name))


def _pair(module: Linear, rank: int, inputs: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    # As wide as PEFT's: Kaiming's uniform with a slope of sqrt(5).
    bound = 1 / math.sqrt(math.prod(inputs))

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    made = partitioned(uniform, (*module.input_axes, "rank"))
    a = module.param("lora_a", made, (*inputs, rank), jnp.float32)
    zeros = partitioned(nn.initializers.zeros, ("rank", *module.output_axes))
    return a, module.param("lora_b", zeros, (rank, *module.features), jnp.float32)


def _quantized_kernel(module: Linear, form: Literal["int8", "nf4"], inputs: tuple[int, ...]) -> jax.Array:
    shape = (*inputs, *module.features)
    codes, scales = shapes_of(math.prod(shape), form)

    def zeros(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return jnp.zeros(shape, dtype)

    found = Quantized(
        module.param("kernel_codes", partitioned(zeros, ("block", "code")), codes, jnp.uint8),
        module.param("kernel_scales", partitioned(zeros, ("block",)), scales, jnp.float32),
    )
    return dequantize(found, shape, form)


def _lengths(kernel: jax.Array, contracted: int) -> jax.Array:
    """Euclidean length of what each output reads, never 0."""
    return jnp.maximum(jnp.sqrt(jnp.square(kernel).sum(tuple(range(contracted)))), 1e-12)


# --- Between the parameters of a plain model and those of an adapted one ---


def begun(plain: Parameters, fresh: Parameters, axes: Axes, config: LoraConfig) -> Parameters:
    """The start of an adapted model from a plain one; where nothing is quantized, it computes the same.

    Args:
      plain: nested dict of arrays of the plain model; where it has none, the fresh ones stay.
      fresh: nested dict of arrays of the adapted model.
      axes: nested dict of PartitionSpec over logical axes, of the structure of `fresh`.
      config: see there.
    """
    out = {}
    for name, value in fresh.items():
        if isinstance(value, dict):
            out[name] = begun(plain.get(name, {}), value, axes[name], config)
        else:
            out[name] = jax.device_put(plain[name], value.sharding) if name in plain else value
    if "lora_a" in fresh and "kernel" in plain:
        made = _encoded(plain["kernel"], len(_inputs(axes)), config, _is_stacked(axes))
        out |= {name: jax.device_put(value, fresh[name].sharding) for name, value in made.items()}
    return out


def merged(parameters: Parameters, axes: Axes, config: LoraConfig) -> Parameters:
    """The parameters of the plain model that computes the same; float32 kernels.

    Args:
      parameters: nested dict of arrays of the adapted model.
      axes: nested dict of PartitionSpec, of the same structure.
      config: see there.
    """
    if "lora_a" in parameters:
        layer = {name: value for name, value in parameters.items() if name != "bias"}
        plain = {"kernel": _merged_kernel(layer, config, _is_stacked(axes))}
        return plain | ({"bias": parameters["bias"]} if "bias" in parameters else {})
    return {
        name: merged(value, axes[name], config) if isinstance(value, dict) else value
        for name, value in parameters.items()
    }


def _inputs(axes: Axes) -> tuple[str, ...]:
    """Logical axes that an adapted layer contracts."""
    return tuple(axis for axis in axes["lora_a"] if axis not in ("layers", "rank"))


def _is_stacked(axes: Axes) -> bool:
    """Whether like layers lie in one array."""
    return tuple(axes["lora_a"])[:1] == ("layers",)


@functools.partial(jax.jit, static_argnames=("contracted", "config", "stacked"))
def _encoded(kernel: jax.Array, contracted: int, config: LoraConfig, stacked: bool) -> dict[str, jax.Array]:
    """What an adapted layer, or a stack of them, has of its kernel."""
    if stacked:
        return jax.vmap(lambda one: _encoded(one, contracted, config, False))(kernel)
    out = {"kernel": kernel}
    if config.quantize != "none":
        quantized = quantize(kernel, config.quantize)
        out = {"kernel_codes": quantized.codes, "kernel_scales": quantized.scales}
        kernel = dequantize(quantized, kernel.shape, config.quantize)
    return out | ({"dora_magnitude": _lengths(kernel, contracted)} if config.dora else {})


@functools.partial(jax.jit, static_argnames=("config", "stacked"))
def _merged_kernel(layer: Mapping[str, jax.Array], config: LoraConfig, stacked: bool) -> jax.Array:
    """The kernel that computes what an adapted layer, or a stack of them, does."""
    if stacked:
        return jax.vmap(lambda one: _merged_kernel(one, config, False))(dict(layer))
    a, b = layer["lora_a"], layer["lora_b"]
    if "kernel" in layer:
        kernel = layer["kernel"]
    else:
        assert config.quantize != "none"
        quantized = Quantized(layer["kernel_codes"], layer["kernel_scales"])
        kernel = dequantize(quantized, (*a.shape[:-1], *b.shape[1:]), config.quantize)
    kernel = kernel + config.scale * jnp.tensordot(a, b, 1)
    if config.dora:
        kernel = kernel * (layer["dora_magnitude"] / _lengths(kernel, a.ndim - 1))
    return kernel


def trained_names(config: LoraConfig) -> tuple[str, ...]:
    """Patterns of the parameters that are trained beside the heads."""
    return tuple(f"/{name}$" for name in (_ADDED if config.dora else _ADDED[:2]))
