"""SentencePiece models as tokenizers of Hugging Face's `tokenizers`, which transformers reads.

The ids are those of SentencePiece, but for
- the few texts that are normalized otherwise (see :mod:`jaxft.data.tokenizers.charsmap`);
- Unigram: texts with two segmentations that are equally probable, such as runs of one character. SentencePiece adds
  logarithms in single precision, whose rounding decides; `tokenizers` adds them exactly enough to see a tie;
- BPE: texts in which a piece can be made of two overlapping pairs of different pieces. SentencePiece takes the first
  pair, `tokenizers` that with the longer first piece; no such text is known;
- models that transformers 5 gives the tokenizer of their type, whatever their files say (Qwen 2).

Where a text is written with special tokens in it ("It is [MASK]."), no space is put before what follows one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from jaxft.data.tokenizers.charsmap import any_of, normalizer_of

_SPACE = "▁"
# Never assigned by Unicode, so in no vocabulary.
_UNKNOWN = "\ufff3"
_BYTE = ("<", "0", "x", "[0-9A-F]", "[0-9A-F]", ">")


def write_converted(
    directory: Path,
    processor: sentencepiece.SentencePieceProcessor,
    model_type: Literal["unigram", "bpe"],
    user_symbols: Collection[str],
    token_types: bool,
) -> None:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json``.

    Args:
      directory: exists.
      processor: whose first ids are pad, unknown, CLS, SEP and mask; its other control symbols are sentinels.
      model_type: of the processor.
      user_symbols: of the processor.
      token_types: whether the tokenizer tells the two texts of a pair apart by token types.
    """
    converted(processor, model_type, user_symbols).save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **token_names(processor),
        "additional_special_tokens": _special_tokens(processor)[5:],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def token_names(processor: sentencepiece.SentencePieceProcessor) -> dict[str, str]:
    """Special tokens by the names that transformers has for them."""
    pad, unknown, start, separator, mask = _special_tokens(processor)[:5]
    return {
        "pad_token": pad,
        "unk_token": unknown,
        "cls_token": start,
        "sep_token": separator,
        "mask_token": mask,
        "bos_token": start,
        "eos_token": separator,
    }


def converted(
    processor: sentencepiece.SentencePieceProcessor,
    model_type: Literal["unigram", "bpe"],
    user_symbols: Collection[str],
) -> Tokenizer:
    """The tokenizer of `tokenizers` with the ids of a SentencePiece model; see :func:`write_converted`."""
    pieces = processor.id_to_piece(list(range(processor.get_piece_size())))
    scores = _scores(processor, pieces, user_symbols)
    has_bytes = any(map(processor.is_byte, range(len(pieces))))
    # In text, spaces become "▁" before symbols are looked for, so one with a space is never found.
    symbols = sorted(
        (symbol for symbol in user_symbols if " " not in symbol), key=lambda symbol: (-len(symbol), symbol)
    )
    tokenizer = Tokenizer(
        _unigram(pieces, scores, has_bytes) if model_type == "unigram" else _bpe(pieces, scores, symbols, has_bytes)
    )
    specials = _special_tokens(processor)
    hidden, cut = _broken(specials, scores, has_bytes)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizer_of(processor.serialized_model_proto(), symbols),
            *(normalizers.Replace(Regex(expression), _UNKNOWN) for expression in hidden),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Unknown characters next to each other are one token; cut at an unknown space, they would be two.
            pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=_SPACE in scores),
            *(pre_tokenizers.Split(Regex(expression), "merged_with_previous") for expression in cut),
            *([pre_tokenizers.Split(Regex(any_of(symbols)), "isolated")] if model_type == "bpe" and symbols else []),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    start, separator = specials[2:4]
    tokenizer.post_processor = _around(start, separator, tokenizer)
    return tokenizer


def _special_tokens(processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    """In the order of their ids."""
    indices = range(processor.get_piece_size())
    return processor.id_to_piece([i for i in indices if processor.is_unknown(i) or processor.is_control(i)])


def _around(start: str, separator: str, tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """Start, text, separator; of a pair also the second text and another separator."""
    return processors.TemplateProcessing(
        single=f"{start}:0 $A:0 {separator}:0",
        pair=f"{start}:0 $A:0 {separator}:0 $B:1 {separator}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, separator)],
    )


def _scores(
    processor: sentencepiece.SentencePieceProcessor, pieces: Sequence[str], user_symbols: Collection[str]
) -> dict[str, float]:
    """Scores of the pieces that training found."""
    others = (processor.is_unknown, processor.is_control, processor.is_byte)
    return {
        piece: processor.get_score(index)
        for index, piece in enumerate(pieces)
        if piece not in user_symbols and not any(is_other(index) for is_other in others)
    }


def _unigram(pieces: Sequence[str], scores: Mapping[str, float], has_bytes: bool) -> models.Unigram:
    # By this score SentencePiece prefers user symbols. Special tokens and bytes, being cut, are not found by theirs.
    vocabulary = [(piece, scores.get(piece, -0.1)) for piece in pieces]
    return models.Unigram(vocabulary, unk_id=1, byte_fallback=has_bytes)


def _bpe(pieces: Sequence[str], scores: Mapping[str, float], symbols: Sequence[str], has_bytes: bool) -> models.BPE:
    """SentencePiece merges whichever neighbours give the best piece, `tokenizers` those of the first rule."""
    merges = [
        (-scores[piece], index, piece)
        for piece in scores
        for index in range(len(piece) - 1, 0, -1)
        if piece[:index] in scores and piece[index:] in scores
    ]
    return models.BPE(
        {piece: index for index, piece in enumerate(pieces)},
        [(piece[:index], piece[index:]) for _, index, piece in sorted(merges, key=lambda merge: merge[0])],
        unk_token=pieces[1],
        fuse_unk=True,
        byte_fallback=has_bytes,
        # A symbol of several characters, which no merges lead to, is found as a whole. Any other piece is what merges
        # make of it anyway.
        ignore_merges=any(len(symbol) > 1 for symbol in symbols),
    )


def _broken(specials: Sequence[str], scores: Mapping[str, float], has_bytes: bool) -> tuple[list[str], list[str]]:
    """How special tokens and bytes that a text spells are kept from being found, as SentencePiece doesn't find them.

    A character that is unknown anyway is replaced by another such. A token without one is cut in two where no piece is
    cut, or, should there be no such place, before its last character.

    Returns:
      Regular expressions, at most one each, for the characters to replace, and for those to cut after.
    """
    pieces = "\0".join(scores)
    replaced, cut = [], []
    for token in specials:
        unknown = [place for place, character in enumerate(token) if character not in scores]
        characters = [re.escape(character) for character in token]
        if unknown and not has_bytes:
            replaced.append(_character_of(characters, unknown[0]))
        else:
            cut.append(_character_of(characters, _uncrossed(characters, pieces)))
    if has_bytes:
        cut.append(_character_of(_BYTE, _uncrossed(_BYTE, pieces)))
    return ["|".join(replaced)] * bool(replaced), ["|".join(cut)] * bool(cut)


def _uncrossed(characters: Sequence[str], pieces: str) -> int:
    """The last character that no piece joins with the next."""
    places = [at for at in range(len(characters) - 1) if not re.search(characters[at] + characters[at + 1], pieces)]
    return places[-1] if places else len(characters) - 2


def _character_of(characters: Sequence[str], at: int) -> str:
    """One character among all those of a token; it comes first, so that the search skips to it."""
    return f"{characters[at]}(?<={''.join(characters[: at + 1])})(?={''.join(characters[at + 1 :])})"
