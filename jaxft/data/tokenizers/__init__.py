"""Tokenizers: text to ids and back, by a SentencePiece model of one's own or any Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jaxft.data.tokenizers.absent import ABSENT_FILE, NoTokenizer
from jaxft.data.tokenizers.huggingface import TOKENIZER_FILES, HuggingFaceTokenizer
from jaxft.data.tokenizers.huggingface_training import ByteBPEConfig, WordPieceConfig, train_huggingface
from jaxft.data.tokenizers.protocol import CHAT_TEMPLATE_FILE, Part, Tokenizer
from jaxft.data.tokenizers.sentencepiece import (
    DESCRIPTION_FILE,
    MODEL_FILE,
    SentencePieceConfig,
    SentencePieceTokenizer,
    train_sentencepiece,
)
from jaxft.data.tokenizers.template import TextTemplate
from jaxft.errors import RecipeError

__all__ = [
    "CHAT_TEMPLATE_FILE",
    "ByteBPEConfig",
    "HuggingFaceTokenizer",
    "NoTokenizer",
    "Part",
    "SentencePieceConfig",
    "SentencePieceTokenizer",
    "TextTemplate",
    "Tokenizer",
    "TrainingConfig",
    "WordPieceConfig",
    "load_tokenizer",
    "train_sentencepiece",
    "train_tokenizer",
]

TrainingConfig = SentencePieceConfig | WordPieceConfig | ByteBPEConfig


def train_tokenizer(texts: Iterable[str], config: TrainingConfig, output_directory: Path) -> Tokenizer:
    """Trains the kind of vocabulary that the config is for, and writes it.

    Raises:
      DataError: the corpus holds no text, or does not suit the size.
    """
    if isinstance(config, SentencePieceConfig):
        return train_sentencepiece(texts, config, output_directory)
    return train_huggingface(texts, config, output_directory)


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer that a directory holds, whichever kind it is.

    Raises:
      RecipeError: there is no such directory, it holds no tokenizer, or one that can't be read.
    """
    directory = Path(path)
    if not directory.is_dir():
        found = "is a file; give the directory that holds it" if directory.exists() else "does not exist"
        raise RecipeError(f"tokenizer: {directory} {found}")
    if (directory / ABSENT_FILE).is_file():
        return NoTokenizer()
    if (directory / DESCRIPTION_FILE).is_file():
        return SentencePieceTokenizer(directory)
    if any((directory / name).is_file() for name in TOKENIZER_FILES):
        return HuggingFaceTokenizer(directory)
    raise RecipeError(
        f"tokenizer: {directory} holds none; looked for {DESCRIPTION_FILE} with {MODEL_FILE} (made by jaxft) and for "
        f"{', '.join(TOKENIZER_FILES)} (Hugging Face)"
    )
