"""Automata over bytes as automata over the tokens of a vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import RecipeError
from jaxft.generation.automaton import Automaton
from jaxft.generation.config import GenerationConfig
from jaxft.generation.constraints.token_table import NEVER, TokenTable, constraint_table, token_table
from jaxft.generation.prompts import bucket

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"


def compile_constraint(config: GenerationConfig, tokenizer: Tokenizer, vocab: int) -> Automaton:
    """The automaton of the regular expression or JSON schema of a configuration.

    Args:
      config: with one of the two.
      tokenizer: of the model.
      vocab: rows of the model's vocabulary, which may be more than the tokenizer's.

    Raises:
      RecipeError: it can't be followed, by itself or by the vocabulary.
    """
    return as_automaton(constraint_table(*constraint_of(config), spelled_tokens(tokenizer, vocab)))


def constraint_of(config: GenerationConfig) -> tuple[str, str]:
    """The name of a configuration's constraint, and the constraint."""
    return ("regex", config.regex) if config.regex is not None else ("json_schema", config.json_schema or "")


def check_length(config: GenerationConfig, automaton: Automaton) -> None:
    """Raises RecipeError where no text that a configuration's constraint allows is short enough for it."""
    (name, _), needed = constraint_of(config), int(automaton.remaining[0])
    if needed > config.max_new_tokens:
        raise RecipeError(
            f"{name}: the shortest text that matches has {needed} tokens, max_new_tokens is {config.max_new_tokens}"
        )


def spelled_tokens(tokenizer: Tokenizer, vocab: int) -> list[bytes | None]:
    """What each of a model's `vocab` tokens writes, of which it may have more than its tokenizer; see `token_bytes`."""
    spelled = token_bytes(tokenizer)
    return spelled + [None] * (vocab - len(spelled))


def token_bytes(tokenizer: Tokenizer) -> list[bytes | None]:
    """What each token writes in UTF-8; None for special ones.

    Raises:
      RecipeError: the vocabulary is neither one of bytes (GPT-2) nor one of SentencePiece.
    """
    tokens = tokenizer.tokens(range(tokenizer.vocab_size))
    if any(token and token.startswith("##") and len(token) > 2 for token in tokens):
        raise RecipeError("a constraint needs a vocabulary whose tokens say all that they write; WordPiece's don't")
    is_pieces = any(token and token.startswith(_SPACE) for token in tokens)
    spell = _piece if is_pieces else _of_bytes
    special = tokenizer.special_ids
    return [None if token is None or i in special else spell(token) for i, token in enumerate(tokens)]


def _piece(token: str) -> bytes:
    if found := _BYTE.fullmatch(token):
        return bytes([int(found[1], 16)])
    return token.replace(_SPACE, " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes with: printable ones themselves, others from 256 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in shown}
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_ALPHABET = _byte_alphabet()


def _of_bytes(token: str) -> bytes | None:
    # An added token is spelled as text, perhaps with characters that stand for no byte.
    return bytes(_ALPHABET[c] for c in token) if all(c in _ALPHABET for c in token) else token.encode()


def compile_tokens(table: np.ndarray, complete: np.ndarray, tokens: Sequence[bytes | None]) -> Automaton:
    """An automaton over tokens out of one over bytes; see `token_table`."""
    return as_automaton(token_table(table, complete, tokens))


def as_automaton(found: TokenTable) -> Automaton:
    """A table as compiled code follows it, filled up to few shapes so that another seldom compiles anything."""
    more = tuple((0, bucket(size) - size) for size in found.table.shape)
    return Automaton(
        jnp.asarray(np.pad(found.table, more, constant_values=-1)),
        jnp.asarray(found.classes),
        jnp.asarray(np.pad(found.remaining, more[0], constant_values=NEVER)),
    )
