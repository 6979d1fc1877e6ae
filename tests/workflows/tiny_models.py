"""Small models in Hugging Face layout, as torch writes them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

BERT = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "plot", "fine", "dull", "the", "a", "is"]


def bert(directory: Path, model_class: str = "BertForPreTraining", dtype=torch.float32, **changes) -> Path:
    """A small BERT with a WordPiece tokenizer; `changes` are of its config."""
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(WORDS), **BERT | changes)
    getattr(transformers, model_class)(config).to(dtype).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
    return directory


def vit(directory: Path) -> Path:
    """A small ViT."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=12, patch_size=4
    )
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    return directory
