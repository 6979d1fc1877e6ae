"""The smallest parts: projections, embeddings, norms, dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from jaxft.kernels.dropout import dropout
from jaxft.kernels.projection import add_bias, project, project_onto_rows
from jaxft.kernels.shapes import Array
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.parallel.sharding import constrain, parts_of


def partitioned(initializer: Callable[..., jax.Array], axes: tuple[str, ...]) -> Callable[..., jax.Array]:
    """An initializer of a parameter with logical names of its axes."""
    # What it makes is boxed together with the names, and who asks `param` for it gets what is in the box.
    return cast(Callable[..., jax.Array], nn.with_logical_partitioning(initializer, axes))


class Linear(nn.Module):
    """Projects the last `len(input_axes)` axes onto `features`.

    Attributes:
      features: sizes of the output axes.
      input_axes: logical names of the contracted axes.
      output_axes: logical names of the output axes.
      use_bias: whether a bias of shape `features` is added.
      dtype: of the product and the result.
      initializer_range: standard deviation of the initial kernel.
      reduce_dtype: in which devices add what each found of the kernel's gradient.
    """

    features: tuple[int, ...]
    input_axes: tuple[str, ...]
    output_axes: tuple[str, ...]
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    initializer_range: float = 0.02
    reduce_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        contracted = len(self.input_axes)
        initializer = partitioned(nn.initializers.normal(self.initializer_range), self.input_axes + self.output_axes)
        kernel = self.param("kernel", initializer, x.shape[x.ndim - contracted :] + self.features, jnp.float32)
        y = project(x, kernel, contracted, self.dtype, self.reduce_dtype)
        if self.use_bias:
            zeros = partitioned(nn.initializers.zeros, self.output_axes)
            y = add_bias(y, self.param("bias", zeros, self.features, jnp.float32))
        return y


# That devices look up of a table for all tokens. Of fewer, TPUs fill an eighth of their registers at most, with much
# memory and long compilation for that: 0.6 GiB for a Llama of 1.2B on 256 chips, and three times the seconds.
_FEWEST_COLUMNS = 16


class Embedding(nn.Module):
    """A table of `rows` vectors of width `features`.

    Ids must be in range: the host checks them, since a gather clamps silently.
    """

    rows: int
    features: int
    row_axis: str
    initializer_range: float = 0.02

    def setup(self) -> None:
        initializer = partitioned(nn.initializers.normal(self.initializer_range), (self.row_axis, "embed"))
        self.table = self.param("table", initializer, (self.rows, self.features), jnp.float32)

    def __call__(self, ids: Int[Array, "*places"], dtype: DTypeLike = jnp.float32) -> Float[Array, "*places features"]:
        """`(..., features)` in `dtype` for int32 ids `(...)`."""
        if self._by_columns(ids):
            # Each device looks its own features up for all tokens, and devices exchange these; the table stays where it
            # is, and so does its gradient.
            rows = constrain(self.table, self.row_axis, "embed")[constrain(ids, "rows_of_copy", "length")]
            rows = constrain(rows.astype(dtype), "rows_of_copy", "length", "embed")
            return constrain(rows, "batch", "length", "features")
        # Whole in its features: rows that the batch's own mesh axes split would be gathered on every device.
        return constrain(self.table, self.row_axis, "features")[ids].astype(dtype)

    def _by_columns(self, ids: Int[Array, "*places"]) -> bool:
        """Whether devices that share the table's features better exchange vectors of tokens than gather the table.

        As they do where each has fewer tokens than the table has rows, and features enough to fill registers.
        """
        if ids.ndim != 2 or parts_of("embed") == 1 or self.features // parts_of("embed") < _FEWEST_COLUMNS:
            return False
        return ids.size // (parts_of("batch") * parts_of("length")) < self.rows // parts_of(self.row_axis)

    def attend(self, x: Float[Array, "*places features"], dtype: DTypeLike) -> Float[Array, "*places rows"]:
        """Products of vectors `(..., features)` with all rows, `(..., rows)`, computed and given in `dtype`.

        The collection `layout` may hold the table as float32 `(features, rows)` besides.
        """
        if self.has_variable("layout", "transposed"):
            return project(x, self.get_variable("layout", "transposed"), 1, dtype)
        return project_onto_rows(x, self.table, dtype)


class Norm(nn.Module):
    """Layer norm or root-mean-square norm over the last axis, computed in float32.

    Attributes:
      kind: `layernorm` or `rmsnorm`.
      epsilon: added to the variance.
      use_bias: whether a layer norm has a bias.
      offset: whether the parameter is the scale's difference from 1.
      dtype: of the result.
    """

    kind: str
    epsilon: float
    use_bias: bool = True
    offset: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        start = nn.initializers.zeros if self.offset else nn.initializers.ones
        scale = self.param("scale", partitioned(start, ("norm",)), (x.shape[-1],), jnp.float32)
        bias = None
        if self.use_bias and self.kind == "layernorm":
            zeros = partitioned(nn.initializers.zeros, ("norm",))
            bias = self.param("bias", zeros, (x.shape[-1],), jnp.float32)
        kind, epsilon, dtype = self.kind, self.epsilon, self.dtype

        def normalized(x: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
            x = x.astype(jnp.float32)
            if kind == "layernorm":
                x = x - x.mean(-1, keepdims=True)
            x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon) * scale
            return (x if bias is None else x + bias).astype(dtype)

        return _computed_again(normalized)(x, 1.0 + scale if self.offset else scale, bias)


def make_norm(config: ModelConfig, compute: ComputeConfig, name: str | None = None) -> Norm:
    """The norm that a configuration asks for."""
    return Norm(
        config.norm, config.norm_epsilon, config.norm_bias, config.norm_offset, jnp.dtype(compute.precision), name=name
    )


def _computed_again(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same function, of which the backward pass waits for the arguments alone.

    What norms and activations compute in float32 would take more memory than all of a layer's products in 16 bits, and
    is quickly computed again. Without a loop over layers the compiler may still keep it where memory allows.
    """
    return jax.checkpoint(function, prevent_cse=False)


class Dropout(nn.Module):
    """Dropout from the random stream `dropout`; the identity where the call has no such stream."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return dropout(x, self.rate, self.make_rng("dropout") if self.rate and self.has_rng("dropout") else None)


def activate(name: str, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Applies an activation in float32 (the exact GELU is slow in bfloat16 on CPUs) and returns `x`'s dtype."""
    functions = {
        "gelu": lambda y: jax.nn.gelu(y, approximate=False),
        "gelu_tanh": lambda y: jax.nn.gelu(y, approximate=True),
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "tanh": jnp.tanh,
    }
    return _computed_again(lambda y: functions[name](y.astype(jnp.float32)).astype(y.dtype))(x)
