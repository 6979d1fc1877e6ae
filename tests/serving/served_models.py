"""Small models in Hugging Face layout with tokenizers: one that writes and talks, an encoder-decoder, two encoders."""

from __future__ import annotations

import pathlib

import torch
import transformers

from jaxft.data.tokenizers import ByteBPEConfig, train_tokenizer

TEXT = 'the cat sat on the mat. {"name": "Ann", "age": 12} Is it? yes, no, perhaps 10 20 é ü user assistant system'
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "plot", "fine", "dull", "the", "a", "is"]


def decoder(directory: pathlib.Path, talks: bool = True, context: int = 128) -> pathlib.Path:
    """A Llama; with a chat template where it `talks`."""
    tokenizer = train_tokenizer([TEXT] * 20, ByteBPEConfig(vocab_size=330), directory / "trained")
    tokenizer.export(directory)
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


def encoder_decoder(directory: pathlib.Path) -> pathlib.Path:
    """A T5."""
    tokenizer = train_tokenizer([TEXT] * 20, ByteBPEConfig(vocab_size=330), directory / "trained")
    tokenizer.export(directory)
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


def encoder(directory: pathlib.Path, model_class: str, **changes) -> pathlib.Path:
    """A BERT with a WordPiece tokenizer; `changes` are of its config."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=32,
        initializer_range=0.3,
        **changes,
    )
    getattr(transformers, model_class)(config).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
    return directory
