"""Stores of texts that a masked language model has filled in, beside those of the texts themselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.filling import Copy, FillConfig, Filler, copies
from jaxft.data.preparing import BadRowsConfig, Preparation
from jaxft.data.sources import Row
from jaxft.data.store import TokenStore, fingerprint_of
from jaxft.data.tokenizers import load_tokenizer
from jaxft.errors import DataError, RecipeError
from jaxft.models.model import Model, apply_model
from jaxft.models.transformer import Sequences
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.trees import Parameters
from jaxft.workflows.assembly.stores import StoreSource
from jaxft.workflows.weights.loading import load_pretrained, open_pretrained
from jaxft.workflows.weights.location import ModelLocation, locate

# Rows of a model that knows no length of its own.
_LONGEST = 512


@dataclasses.dataclass(frozen=True)
class FilledSource(StoreSource):
    """The store of the filled copies of another store's texts: `variants` for each of its records, in their order.

    Attributes:
      column: with the text.
      config: how it is filled.
    """

    column: str
    config: FillConfig

    def open(self, how: Preparation) -> TokenStore:
        """As that of `StoreSource`."""
        return super().open(self._lenient(how))

    def build(self, how: Preparation) -> bool:
        """As that of `StoreSource`."""
        return super().build(self._lenient(how))

    def _lenient(self, how: Preparation) -> Preparation:
        """Bad rows were judged where the texts themselves were prepared."""
        if how.bad_rows.policy == "raise":
            return dataclasses.replace(how, bad_rows=BadRowsConfig("raise", limit=2**53))
        return dataclasses.replace(how, bad_rows=BadRowsConfig("skip", limit=2**53))

    def rows(self) -> Iterator[Any]:
        """Copies of the usable rows, which are yet to be filled."""
        return copies(super().rows(), self.objective.fields, self.config.variants)

    def change(self, batch: list[Copy | DataError]) -> list[Row | DataError]:
        """Fills them."""
        return _filler(self.config).fill_rows(batch, self.column)


def filled_source(origin: StoreSource, column: str, config: FillConfig) -> FilledSource:
    """The store of the filled copies, named by the texts' own, the model and how it fills.

    Raises:
      CheckpointError: the model cannot be read.
      RecipeError: it is no masked language model.
    """
    location = locate(config.model)
    tokenizer = _check(location)
    name = fingerprint_of(
        texts=origin.directory.name,
        column=column,
        model=f"{location.fingerprint()} {tokenizer}",
        rate=str(config.rate),
        variants=str(config.variants),
    )
    return FilledSource(
        f"{origin.where}.filled",
        origin.directory.with_name(name),
        origin.sources,
        origin.base,
        origin.objective,
        origin.tokenizer,
        column,
        config,
    )


def _check(location: ModelLocation) -> str:
    """Makes sure that the model can fill, before anything is computed; the fingerprint of its tokenizer."""
    pretrained = open_pretrained(location)
    kinds = {head.kind for head in pretrained.heads.values()}
    if pretrained.config.family != "encoder" or "masked_lm" not in kinds:
        raise RecipeError(
            f"augmentation.fill.model: {location.source} is no masked language model: it is of family "
            f"{pretrained.config.family}, with the heads {', '.join(sorted(kinds)) or 'none'}"
        )
    tokenizer = load_tokenizer(pretrained.tokenizer_directory)
    if tokenizer.mask_id is None:
        raise RecipeError(f"augmentation.fill.model: the tokenizer of {location.source} has no mask token")
    return tokenizer.fingerprint


@functools.lru_cache(maxsize=1)
def _filler(config: FillConfig) -> Filler:
    """A model with its weights, loaded when the first text is filled."""
    # By itself on one device: what one process prepares, the others wait for.
    loaded = load_pretrained(config.model, mesh=make_mesh(MeshConfig(), jax.local_devices()[:1]))
    head = next(name for name, one in loaded.model.heads if one.kind == "masked_lm")
    bounded = loaded.config.has_learned_positions or loaded.config.position == "sinusoidal"
    longest = min(loaded.config.max_length, _LONGEST) if bounded else _LONGEST

    def predict(token_ids: np.ndarray, segment_ids: np.ndarray, places: np.ndarray) -> np.ndarray:
        arrays = map(jnp.asarray, (token_ids, segment_ids, places))
        return np.asarray(_logits(loaded.model, loaded.params, head, *arrays))

    assert loaded.tokenizer is not None, "looked at before, see `_check`"
    return Filler(config, loaded.tokenizer, longest, predict)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _logits(
    model: Model, parameters: Parameters, head: str, token_ids: jax.Array, segment_ids: jax.Array, places: jax.Array
) -> jax.Array:
    inputs = Sequences(token_ids, segment_ids, padded=True)
    logits = apply_model(model, parameters, inputs, None, head, places).logits
    assert isinstance(logits, jax.Array)
    return logits.astype(jnp.float32)
