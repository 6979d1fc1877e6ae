"""Small models in Hugging Face layout, as torch writes them: two that write, with tokenizers, and two that read."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from jaxft.data.tokenizers import ByteBPEConfig, Tokenizer, train_tokenizer

TEXT = 'the cat sat on the mat. {"name": "Ann", "age": 12} Is it? yes, no, perhaps 10 20 é ü user assistant system'
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BERT = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "plot", "fine", "dull", "the", "a", "is"]


def bert(directory: Path, model_class: str = "BertForPreTraining", dtype=torch.float32, **changes) -> Path:
    """A BERT with a WordPiece tokenizer; `changes` are of its config."""
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(WORDS), **BERT | changes)
    getattr(transformers, model_class)(config).to(dtype).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
    return directory


def vit(directory: Path) -> Path:
    """A ViT."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=12, patch_size=4
    )
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    return directory


def llama(directory: Path, talks: bool = True, context: int = 128) -> Path:
    """A Llama with byte-level BPE; with a chat template where it `talks`."""
    tokenizer = _byte_bpe(directory)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=context,
        initializer_range=0.4,
        eos_token_id=tokenizer.separator_id,
        bos_token_id=tokenizer.start_id,
        pad_token_id=tokenizer.pad_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    if talks:
        (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return directory


def t5(directory: Path) -> Path:
    """A T5 with byte-level BPE."""
    tokenizer = _byte_bpe(directory)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=tokenizer.vocab_size,
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=1,
        num_heads=4,
        initializer_factor=4.0,
        eos_token_id=tokenizer.separator_id,
        pad_token_id=tokenizer.pad_id,
        decoder_start_token_id=tokenizer.pad_id,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(directory)
    return directory


def _byte_bpe(directory: Path) -> Tokenizer:
    """Trained for the model in this directory, and written there."""
    tokenizer = train_tokenizer([TEXT] * 20, ByteBPEConfig(vocab_size=330), directory / "trained")
    tokenizer.export(directory)
    return tokenizer
