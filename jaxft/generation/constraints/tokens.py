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
from jaxft.generation.constraints.bytes_automaton import compile_bytes
from jaxft.generation.constraints.json_schema import parse_schema
from jaxft.generation.constraints.regex import parse
from jaxft.generation.prompts import bucket

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"

# More tokens than any text has: no complete text can be reached.
NEVER = 2**30


def compile_constraint(config: GenerationConfig, tokenizer: Tokenizer, vocab: int) -> Automaton:
    """The automaton of the regular expression or JSON schema of a configuration.

    Args:
      config: with one of the two.
      tokenizer: of the model.
      vocab: rows of the model's vocabulary, which may be more than the tokenizer's.

    Raises:
      RecipeError: it can't be followed, by itself or by the vocabulary.
    """
    name = "regex" if config.regex is not None else "json_schema"
    tree = parse(config.regex) if config.regex is not None else parse_schema(config.json_schema or "")
    spelled = token_bytes(tokenizer)
    automaton = compile_tokens(*compile_bytes(tree), spelled + [None] * (vocab - len(spelled)))
    if int(automaton.remaining[0]) >= NEVER:
        raise RecipeError(f"{name}: no text that this vocabulary can write matches")
    return automaton


def check_length(config: GenerationConfig, automaton: Automaton) -> None:
    """Raises RecipeError where no text that a configuration's constraint allows is short enough for it."""
    name, needed = "regex" if config.regex is not None else "json_schema", int(automaton.remaining[0])
    if needed > config.max_new_tokens:
        raise RecipeError(
            f"{name}: the shortest text that matches has {needed} tokens, max_new_tokens is {config.max_new_tokens}"
        )


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
    """An automaton over tokens out of one over bytes.

    Args:
      table: int32 `(states, 256)`: the state after a byte, -1 for none.
      complete: bool `(states,)`: whether a text may end there.
      tokens: what each of the vocabulary writes; None or nothing for those that may not come.
    """
    lengths = np.asarray([len(token or b"") for token in tokens])
    spelled = np.zeros((len(tokens), max(1, int(lengths.max()))), np.uint8)
    for i, token in enumerate(tokens):
        spelled[i, : lengths[i]] = np.frombuffer(token or b"", np.uint8)
    whole = np.stack([_after_tokens(table, state, spelled, lengths) for state in range(len(table))])
    # Tokens that lead to the same states from everywhere share a column; told apart by a random sum of 64 bits.
    factors = np.random.default_rng(0).integers(1, 2**63, len(table), dtype=np.uint64)
    sums = np.zeros(len(tokens), np.uint64)
    for factor, row in zip(factors, whole, strict=True):
        sums += factor * (row + 2).astype(np.uint64)
    _, first, classes = np.unique(sums, return_index=True, return_inverse=True)
    narrow, remaining = whole[:, first], _remaining(whole[:, first], complete)
    # Filled up to few shapes, so that another constraint seldom compiles the decoding loop anew.
    more = tuple((0, bucket(size) - size) for size in narrow.shape)
    return Automaton(
        jnp.asarray(np.pad(narrow, more, constant_values=-1)),
        jnp.asarray(classes.reshape(-1), jnp.int32),
        jnp.asarray(np.pad(remaining, more[0], constant_values=NEVER)),
    )


def _after_tokens(table: np.ndarray, state: int, spelled: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The state after each token from one state, int32 `(vocab,)`."""
    result = np.full(len(lengths), -1, np.int32)
    tokens = np.flatnonzero(lengths)
    states = np.full(len(tokens), state, np.int32)
    for place in range(spelled.shape[1]):
        states = table[states, spelled[tokens, place]]
        ends = lengths[tokens] == place + 1
        result[tokens[ends]] = states[ends]
        goes_on = ~ends & (states >= 0)
        tokens, states = tokens[goes_on], states[goes_on]
        if not len(tokens):
            break
    return result


def _remaining(table: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """Fewest tokens from each state to one where a text may end, int32 `(states,)`."""
    remaining = np.where(complete, 0, NEVER).astype(np.int32)
    while True:
        following = np.where(table >= 0, remaining[table], NEVER).min(axis=1)
        nearer = np.minimum(remaining, np.minimum(following + 1, NEVER)).astype(np.int32)
        if (nearer == remaining).all():
            return remaining
        remaining = nearer
