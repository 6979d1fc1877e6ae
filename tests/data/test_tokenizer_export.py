"""What transformers reads from an exported SentencePiece tokenizer gives the ids that jaxft gives."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import shutil
import unicodedata
from pathlib import Path

import pytest
import transformers

from jaxft.data.tokenizers import SentencePieceConfig, Tokenizer, load_tokenizer, train_sentencepiece
from jaxft.huggingface.architectures import ARCHITECTURES
from jaxft.huggingface.exporting import write_model
from jaxft.huggingface.expressing import Form

SYMBOLS = ("\n", "<sep>", "①", "the")
CONFIGS = {
    "unigram": ("english", SentencePieceConfig(2000)),
    "bpe": ("english", SentencePieceConfig(2000, "bpe")),
    "unigram-folded": ("english", SentencePieceConfig(2000, lowercase=True, user_symbols=SYMBOLS)),
    "bpe-folded": ("english", SentencePieceConfig(2000, "bpe", lowercase=True, user_symbols=SYMBOLS)),
    "unigram-bytes": ("chinese", SentencePieceConfig(4500, byte_fallback=True, user_symbols=("\n",))),
    "bpe-bytes": ("chinese", SentencePieceConfig(4500, "bpe", byte_fallback=True, user_symbols=("\n", "<sep>"))),
    "unigram-rare": ("chinese", SentencePieceConfig(2800, character_coverage=0.98, sentinels=12)),
    "bpe-rare": ("chinese", SentencePieceConfig(2800, "bpe", character_coverage=0.98, user_symbols=("\n",))),
    # Such long lines have so few spaces that even "▁" is no piece.
    "unigram-spaceless": ("spaceless", SentencePieceConfig(3000, character_coverage=0.99)),
    "bpe-spaceless": ("spaceless", SentencePieceConfig(3000, "bpe", character_coverage=0.99)),
}
# Each kind of model once, with folded case and with bytes; the others are of the whole suite.
QUICK = ("unigram-folded", "bpe-bytes")
NASTY = [
    "", " ", "  \t\n", "a  b", "  a b  ", "a\tb", "a\nb\n", "\n", "\n\n a \n", "日 \n 本", "\r\n x \r",
    "a\u00a0b\u3000c", "\x01", "<sep",
    "ＡＢＣ１２３ ﬁ ½ ™ … ª", "café naïve", "cafe\u0301 nai\u0308ve", "CAFÉ ÀÉÎ", "CAFE\u0301 A\u0300", "İ ẞ ß ŉ",
    "a\u0302\u0301", "e\u0323\u0302", "e\u0302\u0323", "\u00ea\u0323", "q\u0301\u0302", "\u0301abc", "ａ\u0301",
    "か\u3099ｶﾞ ﾊﾟ", "한국어 \u1112\u1161\u11ab", "Ελληνικά ᾳ ὁ", "\u0627\u0651\u064e \u05d1\u05b8\u05bc", "ํา กำ",
    "😀👩‍👩‍👧‍👦 🇩🇪 ✊🏽 ❤️ ©️ A🏽", "a\u200bb\u200dc\ufeffd\u00ade", "\ufeffa", "a\x00b", "\x01abc", "\x01 \x02abc",
    "[MASK]", "x[MASK]y [CLS] [SEP][PAD] [UNK]", "\n[MASK]", "<0x41> <0xFF>z", "<0x41", "▁a▁b", "aaaaaaaaaa",
    "hahahaha", "-----------------", "……。。。", "can't", " ,", "<sep>", "a<sep>b", "<sep><sep> <sep>", "the①x",
    "\x01<sep>", "\udbff\udfff".encode("utf-16", "surrogatepass").decode("utf-16"), "Zażółć gęślą jaźń", "\t\n[MASK]",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pair:
    """Our tokenizer and what transformers made of its export."""

    ours: Tokenizer
    theirs: transformers.PreTrainedTokenizerFast
    directory: Path

    def ids(self, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Of each text, ours and theirs."""
        theirs = self.theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [ids.tolist() for ids in self.ours.encode(texts)], theirs


@pytest.fixture(scope="session")
def corpora(shared_data) -> dict[str, list[str]]:
    """Lines of Wikipedia, poems, and long lines of poems with no spaces."""
    english = (shared_data / "lm/wikitext2_valid.txt").read_text(encoding="utf-8").split("\n")
    with (shared_data / "lm/tang_poems_zh.jsonl").open(encoding="utf-8") as file:
        chinese = [json.loads(line)["text"] for line in file]
    spaceless = ["".join("".join(chinese[start : start + 100]).split()) for start in range(0, 1200, 100)]
    return {"english": english, "chinese": chinese, "spaceless": spaceless}


@pytest.fixture(scope="session")
def lines(corpora) -> list[str]:
    """Some thousands of real lines, most of which no tokenizer here was trained on."""
    return [*corpora["english"], *corpora["chinese"][1000:3500]]


@pytest.fixture(
    scope="session",
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS],
)
def pair(request, corpora, tmp_path_factory) -> Pair:
    corpus, config = CONFIGS[request.param]
    return exported(corpora[corpus][:1200], config, tmp_path_factory.mktemp(request.param))


def exported(texts: list[str], config: SentencePieceConfig, directory: Path, token_types: bool = True) -> Pair:
    ours = train_sentencepiece(texts, config, directory / "trained")
    ours.export(directory / "exported", token_types)
    return Pair(ours, transformers.AutoTokenizer.from_pretrained(directory / "exported"), directory / "exported")


def differing(pair: Pair, texts: list[str]) -> list[str]:
    """The texts with other ids that are not as probable."""
    return [
        text
        for text, ours, theirs in zip(texts, *pair.ids(texts), strict=True)
        if ours != theirs and not tied(pair, ours, theirs)
    ]


def tied(pair: Pair, ours: list[int], theirs: list[int]) -> bool:
    """Whether both are segmentations of one text with the same probability, so that rounding chose between them."""
    model = json.loads((pair.directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    if model["type"] != "Unigram" or pair.ours.decode(ours) != pair.ours.decode(theirs):
        return False
    first, second = (sum(model["vocab"][index][1] for index in ids) for ids in (ours, theirs))
    return abs(first - second) <= 1e-6 * abs(first)


# Ids.


def test_real_lines_have_the_same_ids(pair, lines):
    other = [(line, ours, theirs) for line, ours, theirs in zip(lines, *pair.ids(lines), strict=True) if ours != theirs]
    assert [line for line, ours, theirs in other if not tied(pair, ours, theirs)] == []
    # Ties exist, but in runs of one character alone, and there are few of these.
    assert len(other) <= len(lines) / 1000


def test_hard_strings_have_the_same_ids(pair):
    assert differing(pair, NASTY) == []
    assert differing(pair, [f"{before}{text}{after}" for text in NASTY for before, after in ("ax", "  ", "\nA")]) == []


def test_what_is_made_of_symbols_and_spelled_tokens_has_the_same_ids(pair):
    parts = [
        "<sep>",
        "the",
        "\n",
        " ",
        "  ",
        "x",
        "hex",
        "①",
        "[MASK]",
        "[UNK]",
        "<0x41>",
        "é",
        "e\u0301",
        "李",
        "\x02",
    ]
    rng = random.Random(0)
    texts = ["".join(rng.choices(parts, k=rng.randrange(1, 8))) for _ in range(2000)]
    assert differing(pair, texts) == []


def test_random_characters_have_the_same_ids(pair):
    blocks = [
        (0x20, 0x7F),
        (0xA0, 0x250),
        (0x300, 0x345),
        (0x346, 0x370),
        (0x370, 0x3E0),
        (0x5B0, 0x5EB),
        (0x621, 0x670),
        (0x900, 0xE80),
        (0x1100, 0x1200),
        (0x1E00, 0x2000),
        (0x2000, 0x2070),
        (0x3040, 0x3100),
        (0x4E00, 0x4E80),
        (0xAC00, 0xAC40),
        (0xFF61, 0xFFDD),
        (0x1D400, 0x1D700),
        (0x1F1E6, 0x1F200),
        (0x1F3FB, 0x1F400),
    ]
    rng, texts = random.Random(1), []
    for _ in range(3000):
        some = rng.sample(blocks, 2)
        texts.append("".join(chr(rng.randrange(*rng.choice(some))) for _ in range(rng.randrange(1, 9))))
    assert differing(pair, texts) == []


def test_runs_of_few_characters_have_the_same_ids(pair):
    rng = random.Random(2)
    texts = ["".join(rng.choice("aeho-=.李 ") * rng.randrange(1, 12) for _ in range(4)) for _ in range(2000)]
    assert differing(pair, texts) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpe-folded", "unigram-bytes"])
def test_every_character_has_the_same_ids(name, corpora, tmp_path):
    corpus, config = CONFIGS[name]
    pair = exported(corpora[corpus][:400], dataclasses.replace(config, vocab_size=2800), tmp_path)
    points = itertools.chain(range(0xD800), range(0xE000, 0xFFF0), range(0xFFF3, 0x100000, 7))
    assert differing(pair, list(map(chr, points))) == []


def test_accents_of_any_script_compose_where_sentencepiece_composes_them(pair):
    """Decomposed by Unicode, and with two marks in the order in which SentencePiece doesn't compose them."""
    composed = [
        chr(point) for point in range(0xC0, 0x3100) if unicodedata.decomposition(chr(point))[:1] not in ("", "<")
    ]
    # The iota subscript is among the corners.
    decomposed = [text for text in (unicodedata.normalize("NFD", one) for one in composed) if "\u0345" not in text]
    swapped = [text[0] + text[:0:-1] for text in decomposed if len(text) > 2]
    texts = [text for text in [*decomposed, *swapped] if text != "I\u0307"]
    assert len(swapped) > 100
    assert differing(pair, [*texts, *(f"x{text}y" for text in texts)]) == []


def test_the_corners_with_other_ids_are_those_that_the_documentation_names(corpora, tmp_path):
    folding = exported(corpora["english"][:200], SentencePieceConfig(600, lowercase=True, byte_fallback=True), tmp_path)
    corners = ["α\u0345", "I\u0307", "\U00011935\U00011930", "\ufff0", "\ufff1"]
    assert differing(folding, [*corners, "ᾳ", "\ufff3", "\U00100000"]) == corners


def test_a_character_for_private_use_stands_for_a_symbol_only_where_there_is_one(corpora, tmp_path):
    config = SentencePieceConfig(600, byte_fallback=True, user_symbols=("\n",))
    pair = exported(corpora["english"][:200], config, tmp_path)
    assert differing(pair, ["\U00100000", "\U00100001"]) == ["\U00100000"]


# Everything else that transformers does with it.


def test_special_tokens_surround_a_text_and_a_pair(pair):
    first, second = (ids.tolist() for ids in pair.ours.encode(["the first", "and the second"]))
    cls, sep = pair.ours.start_id, pair.ours.separator_id
    assert pair.theirs("the first")["input_ids"] == [cls, *first, sep]
    both = pair.theirs("the first", "and the second")
    assert both["input_ids"] == [cls, *first, sep, *second, sep]
    assert both["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_the_special_tokens_have_their_names(pair):
    names = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
    ids = [getattr(pair.theirs, f"{name}_token_id") for name in names]
    assert ids == [0, 1, 2, 3, 4, 2, 3]
    assert set(pair.theirs.all_special_ids) == pair.ours.special_ids
    assert len(pair.theirs) == pair.ours.vocab_size
    assert pair.theirs.convert_ids_to_tokens(range(pair.ours.vocab_size)) == pair.ours.tokens(
        range(pair.ours.vocab_size)
    )


def test_a_written_mask_is_the_mask_and_the_text_around_it_stays_itself(corpora, tmp_path):
    pair = exported(corpora["english"][:1200], SentencePieceConfig(1000), tmp_path)
    whole = pair.ours.encode(["It was on the table of them."])[0].tolist()
    at = pair.ours.tokens(whole).index("▁the")
    masked = pair.theirs("It was on [MASK] table of them.", add_special_tokens=False)["input_ids"]
    assert masked == [*whole[:at], pair.ours.mask_id, *whole[at + 1 :]]
    last = pair.theirs("It was on the [MASK].", add_special_tokens=False)["input_ids"]
    assert pair.theirs.convert_ids_to_tokens(last)[-2:] == ["[MASK]", "."]


def test_decoding_gives_the_same_text(pair, lines):
    texts = [*lines[::5], *NASTY]
    checked = 0
    for ids in pair.ours.encode(texts):
        if pair.ours.unknown_id not in ids:
            around = [pair.ours.start_id, *ids, pair.ours.separator_id]
            assert pair.theirs.decode(around, skip_special_tokens=True) == pair.ours.decode(ids)
            checked += 1
    assert checked > 20


def test_jaxft_reads_the_same_tokenizer_back(pair):
    loaded = load_tokenizer(pair.directory)
    assert type(loaded) is type(pair.ours)
    assert loaded.fingerprint == pair.ours.fingerprint
    loaded.export(pair.directory.parent / "again")
    for path in pair.directory.iterdir():
        assert (pair.directory.parent / "again" / path.name).read_bytes() == path.read_bytes()


def test_offsets_lead_to_the_characters_of_the_text(pair):
    text = "It  was a ｆｉｒｓｔ day, said one."
    encoded = pair.theirs(text, return_offsets_mapping=True, add_special_tokens=False)
    tokens = pair.theirs.convert_ids_to_tokens(encoded["input_ids"])
    compared = 0
    for token, (start, end) in zip(tokens, encoded["offset_mapping"], strict=True):
        if token not in ("▁", "[UNK]") and not token.startswith("<0x"):
            assert unicodedata.normalize("NFKC", text[start:end]).strip().lower() == token.strip("▁").lower()
            compared += 1
    assert compared or "▁" not in pair.theirs.get_vocab()


def test_a_tokenizer_of_hugging_face_exports_its_own_files(pair, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((pair.directory / name).read_bytes())
    wrapped = load_tokenizer(tmp_path)
    wrapped.export(tmp_path / "exported")
    assert load_tokenizer(tmp_path / "exported").fingerprint == wrapped.fingerprint
    texts = ["the first [MASK] of 李白", *NASTY]
    assert [ids.tolist() for ids in wrapped.encode(texts)] == pair.ids(texts)[1]


# Beside a model.


@pytest.fixture(scope="module")
def small(corpora, tmp_path_factory) -> Pair:
    return exported(corpora["english"][:50], SentencePieceConfig(300), tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("model_type", [name for one in ARCHITECTURES for name in one.model_types])
def test_it_is_read_alike_beside_a_model_of_any_type(model_type, small, tmp_path):
    shutil.copytree(small.directory, tmp_path / "beside")
    (tmp_path / "beside" / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "beside")
    beside = dataclasses.replace(small, theirs=theirs, directory=tmp_path / "beside")
    ours, theirs = beside.ids(["the first time", "[MASK] of"])
    # Transformers 5 reads every tokenizer beside a Qwen 2 as Qwen 2's own, whatever its files say.
    assert (ours == theirs) == (model_type != "qwen2")


@pytest.mark.parametrize(
    ("types", "given"), [({"type_vocab_size": 2}, True), ({"type_vocab_size": 1}, False), ({}, False)]
)
def test_token_types_are_given_to_models_that_have_them(types, given, corpora, tmp_path):
    tokenizer = train_sentencepiece(corpora["english"][:50], SentencePieceConfig(300), tmp_path / "trained")
    write_model(tmp_path / "model", Form({"model_type": "bert", **types}, {}), {}, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert ("token_type_ids" in theirs("a", "b")) == (types == {"type_vocab_size": 2})
    assert load_tokenizer(tmp_path / "model").fingerprint == tokenizer.fingerprint
