"""A model with its weights, called with arrays."""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxft.data.tokenizers import DESCRIPTION_FILE, TOKENIZER_FILES, Tokenizer, load_tokenizer
from jaxft.errors import CheckpointError, DataError, RecipeError
from jaxft.huggingface.description import Description, describe
from jaxft.huggingface.exporting import SHARD_BYTES, write_model
from jaxft.huggingface.expressing import Form, form_of
from jaxft.huggingface.importing import load_parameters
from jaxft.huggingface.pooling import SentencePooling
from jaxft.huggingface.sentence_modules import read_pooling
from jaxft.models.config import ComputeConfig, ModelConfig, Precision
from jaxft.models.model import Model, ModelOutput, apply_model, sharded_target
from jaxft.models.transformer import Images, Sequences
from jaxft.parallel.mesh import MeshConfig
from jaxft.parallel.trees import Parameters

_logger = logging.getLogger("jaxft")

# Heads with one label per token, which Hugging Face returns without an axis for it.
_SINGLE = ("replaced_token",)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its weights.

    Attributes:
      model: Linen module.
      params: nested dict of arrays.
      config: its description.
      tokenizer: or None where the directory has none.
      form: how it is written back; None where no architecture of Hugging Face expresses it.
      heads: names of the heads whose logits a call returns; their mean where there are several.
      pad_token_id: of the model, or None.
      pooling: how a sentence's vector is made, where the model is a sentence encoder.
      positions_skip_padding: what positions count (`Architecture.positions_skip_padding`).
    """

    model: Model
    params: Parameters
    config: ModelConfig
    tokenizer: Tokenizer | None
    form: Form | None
    heads: tuple[str, ...] = ()
    pad_token_id: int | None = None
    positions_skip_padding: str | None = None
    pooling: SentencePooling | None = None

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        decoder_attention_mask: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
        head: str | None = None,
    ) -> ModelOutput:
        """Hidden states, and logits where the model has a head.

        Args:
          input_ids: int `(batch, length)`; `(batch, choices, length)` for multiple choice.
          attention_mask: of the same shape, 0 where padded; None for no padding.
          token_type_ids: of the same shape; None for type 0.
          decoder_input_ids: int `(batch, target_length)`, for encoder-decoders.
          decoder_attention_mask: of the same shape.
          pixel_values: float `(batch, channels, height, width)`, for vision models.
          head: name of the head; that of the class the model was saved as where None.

        Raises:
          DataError: an id out of range, a sequence longer than the model, or a missing input.
        """
        names = self.heads if head is None else (head,)
        batch = self._batch(
            input_ids, attention_mask, token_type_ids, decoder_input_ids, decoder_attention_mask, pixel_values
        )
        output = self._run(*batch, names)
        if input_ids is not None and np.ndim(input_ids) == 3 and output.logits is not None:
            output = output.replace(logits=output.logits.reshape(np.shape(input_ids)[:2]))
        return output

    def embed(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
    ) -> jax.Array:
        """Sentence embeddings, float32 `(batch, embed)`, of a sentence encoder.

        Args:
          input_ids: int `(batch, length)`.
          attention_mask: of the same shape, 0 where padded; None for no padding.
          token_type_ids: of the same shape; None for type 0.

        Raises:
          DataError: the model is no sentence encoder, or the input is wrong.
        """
        if self.pooling is None:
            raise DataError("the model does not say how it makes a sentence's vector (it has no modules.json)")
        hidden = self._run(*self._batch(input_ids, attention_mask, token_type_ids), ()).hidden
        mask = jnp.ones(hidden.shape[:2]) if attention_mask is None else jnp.asarray(_flat(attention_mask))
        return self.pooling(hidden, mask)

    def layer_outputs(self, **inputs: ArrayLike) -> list[list[jax.Array]]:
        """The output of every block, `(batch, length, embed)`, of each stack: the only one, or encoder and decoder.

        Args:
          **inputs: as for a call.
        """
        batch = self._batch(**inputs)
        _, kept = self.model.apply({"params": self.params}, *batch, mutable=["layer_outputs"])
        trunk = kept["layer_outputs"]["trunk"]
        config = self.config
        stacks = [("body", config.num_layers)]
        if config.family == "encoder_decoder":
            stacks = [("encoder", config.num_layers), ("decoder", config.decoder_layers)]
        result = []
        for name, layers in stacks:
            groups = trunk[name]["stack"]
            ordered = [groups[f"{group.name}_outputs"][0] for group in config.layer_groups(layers)]
            result.append([block[i] for blocks in ordered for i in range(blocks[0].shape[0]) for block in blocks])
        return result

    def _batch(
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        decoder_attention_mask: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
    ) -> tuple[Sequences | Images, Sequences | None]:
        """The model's inputs, checked."""
        if self.config.family == "vision":
            if pixel_values is None:
                raise DataError("a vision model takes pixel_values")
            return Images(jnp.asarray(pixel_values)), None
        if input_ids is None:
            raise DataError("input_ids are missing")
        if self.config.family != "encoder_decoder":
            return self._sequences(input_ids, attention_mask, token_type_ids), None
        if decoder_input_ids is None:
            raise DataError("an encoder-decoder takes decoder_input_ids")
        # Source and target have both a mask, or neither.
        if attention_mask is not None and decoder_attention_mask is None:
            decoder_attention_mask = np.ones(np.shape(decoder_input_ids), np.int32)
        if attention_mask is None and decoder_attention_mask is not None:
            attention_mask = np.ones(np.shape(input_ids), np.int32)
        source = self._sequences(input_ids, attention_mask, token_type_ids)
        return source, self._sequences(decoder_input_ids, decoder_attention_mask, None)

    def _sequences(self, given: ArrayLike, mask: ArrayLike | None, types: ArrayLike | None) -> Sequences:
        token_ids = _flat(given)
        low, high = (int(token_ids.min()), int(token_ids.max())) if token_ids.size else (0, 0)
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise DataError(f"token id {wrong} is outside of the vocabulary of {self.config.vocab_size}")
        length = token_ids.shape[1]
        bounded = self.config.has_learned_positions or self.config.position == "sinusoidal"
        if bounded and length > self.config.max_length:
            raise DataError(f"sequences of {length} tokens are longer than the model's {self.config.max_length}")
        mask = None if mask is None else _flat(mask)
        positions = None
        if self.positions_skip_padding is not None:
            # The row of the padding token is the last before those of positions.
            padding = self.config.position_offset - 1
            real = token_ids != padding if self.positions_skip_padding == "pad_token_id" else mask
            if real is not None:
                real = real.astype(np.int32)
                positions = jnp.asarray(np.cumsum(real, axis=1) * real - 1, jnp.int32)
        if types is not None:
            types = _flat(types)
            if self.config.token_types and int(types.max(initial=0)) >= self.config.token_types:
                raise DataError(f"token type {int(types.max())} is outside of the model's {self.config.token_types}")
            types = jnp.asarray(types)
        segments = None if mask is None else jnp.asarray(mask)
        return Sequences(jnp.asarray(token_ids), segments, positions, token_types=types)

    def _run(self, inputs: Sequences | Images, targets: Sequences | None, names: tuple[str, ...]) -> ModelOutput:
        known = [name for name, _ in self.model.heads]
        if unknown := [name for name in names if name not in known]:
            raise DataError(f"the model has no head {unknown[0]!r}; it has {', '.join(known) or 'none'}")
        if not names:
            return _apply(self.model, self.params, inputs, targets, None)
        outputs = [_apply(self.model, self.params, inputs, targets, name) for name in names]
        if len(outputs) == 1:
            (output,) = outputs
            single = names[0] in _SINGLE and output.logits is not None
            return output.replace(logits=output.logits[..., 0]) if single else output
        return outputs[0].replace(logits=sum(output.logits for output in outputs) / len(outputs))


def _flat(x: ArrayLike) -> np.ndarray:
    """int32 `(rows, length)` on the host."""
    x = np.asarray(x)
    return x.reshape(-1, x.shape[-1]).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _apply(
    model: Model, params: Parameters, inputs: Sequences | Images, targets: Sequences | None, head: str | None
) -> ModelOutput:
    return apply_model(model, params, inputs, targets, head)


def load_model(
    path: str | pathlib.Path, dtype: str = "float32", mesh: jax.sharding.Mesh | MeshConfig | None = None
) -> LoadedModel:
    """A model from a directory in Hugging Face layout.

    Args:
      path: the directory.
      dtype: `float32` or `bfloat16`, of the parameters and of the computation.
      mesh: devices to spread the parameters over; all local ones, by `data` alone, where None.

    Raises:
      CheckpointError: it is no such directory, or its configuration or weights are not those of a known architecture.
    """
    description = describe(pathlib.Path(path))
    return loaded_from(description, dtype, mesh)


def loaded_from(description: Description, dtype: str, mesh: jax.sharding.Mesh | MeshConfig | None) -> LoadedModel:
    """A model from a directory that was described."""
    if dtype not in ("float32", "bfloat16"):
        raise CheckpointError(f"dtype must be float32 or bfloat16, found {dtype!r}")
    tokenizer = tokenizer_of(description)
    model = description.make_model(ComputeConfig(precision=cast(Precision, dtype)))
    target = sharded_target(model, dtype, mesh)
    return LoadedModel(
        model,
        load_parameters(description, target),
        description.model,
        tokenizer,
        form_of(description),
        description.asked,
        description.config.get("pad_token_id", None),
        description.architecture.positions_skip_padding,
        read_pooling(description.directory),
    )


def tokenizer_of(description: Description) -> Tokenizer | None:
    """The tokenizer beside the weights, or None where there is none, or none that we can use, which is logged.

    Raises:
      CheckpointError: it has more tokens than the embedding has rows.
    """
    if not any((description.directory / name).is_file() for name in (DESCRIPTION_FILE, *TOKENIZER_FILES)):
        return None
    try:
        tokenizer = load_tokenizer(description.directory)
    except RecipeError as error:
        _logger.warning("%s is loaded without its tokenizer: %s", description.directory, error)
        return None
    rows = description.model.vocab_size
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"{description.directory}: the tokenizer has {tokenizer.vocab_size} tokens, the embedding {rows} rows"
        )
    return tokenizer


def save_model(
    loaded: LoadedModel,
    path: str | pathlib.Path,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    card: str | None = None,
) -> None:
    """Writes a model in Hugging Face layout.

    Args:
      loaded: the model.
      path: a new directory.
      dtype: of the tensors; as they were read where None.
      shard_bytes: largest size of a file of weights.
      card: text of README.md.

    Raises:
      CheckpointError: the directory holds a model already, or `dtype` is unknown.
    """
    if loaded.form is None:
        raise CheckpointError("no Hugging Face architecture expresses this model; `jaxft export` says what differs")
    write_model(
        pathlib.Path(path),
        loaded.form,
        loaded.params,
        loaded.tokenizer,
        dtype=dtype,
        shard_bytes=shard_bytes,
        card=card,
    )
