"""Vocabularies trained by Hugging Face's library: the ids that transformers gives, and nothing lost."""

from __future__ import annotations

import pytest
import transformers
from support.addresses import read_addresses

from jaxft.data.tokenizers import ByteBPEConfig, WordPieceConfig, load_tokenizer, train_tokenizer
from jaxft.errors import DataError, InvalidField

NASTY = ["  two  spaces ", "line\nbreak\ttab", "Ünïcödé 漢字 😀", "[MASK] is text", "", "a\u200bb", "<extra_id_0>"]


@pytest.fixture(scope="module")
def texts(shared_data) -> list[str]:
    return read_addresses(shared_data, 2)


CONFIGS = [
    WordPieceConfig(600),
    WordPieceConfig(600, lowercase=False, sentinels=4, user_symbols=("<sep>",)),
    ByteBPEConfig(600),
    ByteBPEConfig(600, sentinels=4, user_symbols=("<sep>",)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{type(config).__name__}-{config.sentinels}")
def test_transformers_reads_it_and_text_is_only_text(texts, config, tmp_path):
    tokenizer = train_tokenizer(texts, config, tmp_path / "a")
    assert tokenizer.vocab_size == config.vocab_size
    assert len(tokenizer.sentinel_ids) == config.sentinels
    peer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "a"))
    lines = [*texts[0].split("\n")[:100], *NASTY]
    for line, ids in zip(lines, tokenizer.encode(lines), strict=True):
        assert peer(line, split_special_tokens=True, add_special_tokens=False)["input_ids"] == ids.tolist()
        allowed = {tokenizer.unknown_id} if tokenizer.unknown_id is not None else set()
        assert set(ids.tolist()) & tokenizer.special_ids <= allowed
        if isinstance(config, ByteBPEConfig):
            assert tokenizer.decode(ids) == line
    whole = peer("a b", "c")
    assert whole["input_ids"][0] == tokenizer.start_id and whole["input_ids"].count(tokenizer.separator_id) == 2
    if config.user_symbols:
        (ids,) = tokenizer.encode(["x<sep>y"])
        assert "<sep>" in tokenizer.tokens(ids)
    again = train_tokenizer(texts, config, tmp_path / "b")
    assert again.fingerprint == tokenizer.fingerprint == load_tokenizer(tmp_path / "a").fingerprint


@pytest.mark.parametrize("make", [lambda: WordPieceConfig(5), lambda: ByteBPEConfig(261), lambda: WordPieceConfig(-1)])
def test_a_vocabulary_that_holds_nothing_is_refused(make):
    with pytest.raises(InvalidField, match="vocab_size"):
        make()


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_no_text(texts, tmp_path):
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(texts, WordPieceConfig(600), tmp_path / "a")
