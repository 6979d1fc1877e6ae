"""ROUGE, stems, BLEU and chrF against the numbers of rouge-score, NLTK and sacrebleu."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from jaxft.errors import DataError
from jaxft.evaluation.rouge import KINDS, common_places, rouge_scores
from jaxft.evaluation.stemming import porter_stem
from jaxft.evaluation.translation import bleu, bleu_counts, chrf

# Reference, prediction, and what rouge-score 0.1.2 says of them: without and with its stemmer.
ROUGE = [
    (
        "the cat was found under the bed",
        "the cat was under the bed",
        [0.92308, 0.72727, 0.92308, 0.92308],
        [0.92308, 0.72727, 0.92308, 0.92308],
    ),
    ("police killed the gunman", "the gunman kill police", [0.75, 0.33333, 0.5, 0.5], [1.0, 0.33333, 0.5, 0.5]),
    (
        "w1 w2 w3 w4 w5",
        "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5",
        [0.53333, 0.15385, 0.53333, 0.53333],
        [0.53333, 0.15385, 0.53333, 0.53333],
    ),
    (
        "The quick brown fox.\nIt jumps over dogs.",
        "It jumps over the dog.\nA quick brown fox!",
        [0.82353, 0.53333, 0.47059, 0.82353],
        [0.94118, 0.53333, 0.47059, 0.94118],
    ),
    ("It's 3.5 café", "its 3.5 cafe", [0.44444, 0.28571, 0.44444, 0.44444], [0.44444, 0.28571, 0.44444, 0.44444]),
    ("same text here", "same text here", [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
    ("one two", "", [0.0, 0.0, 0, 0], [0.0, 0.0, 0, 0]),
    (
        "cat running boats fishing it's quickly fishing\ndogs boats a quickly a on\nBoat a quickly on sat\n"
        "fishing Boat on end. U.S. 1990s",
        "fishing 3.5 boats running cat Boat The sat it's\nfishing",
        [0.47368, 0.05556, 0.26316, 0.42105],
        [0.47368, 0.05556, 0.26316, 0.42105],
    ),
    (
        "1990s sat dogs ran!\na Boat 3.5 sat\n1990s boats",
        "quickly Boat\non Boat 1990s Boat dogs\nquickly 3.5 sat it's 1990s ran! quickly mat, dogs\ncat running fishing",
        [0.5, 0.13333, 0.375, 0.4375],
        [0.5625, 0.2, 0.375, 0.5],
    ),
]
# What NLTK's stemmer, which rouge-score uses, makes of words.
STEMS = """
eyebrows:eyebrow stoics:stoic sans:san consolidate:consolid looked:look sulphurous:sulphur primarily:primarili
thoroughly:thoroughli specialized:special blamed:blame supplied:suppli advertise:advertis
preliminary:preliminari forecastle:forecastl scurrilous:scurril explained:explain distribute:distribut
prepared:prepar russell:russel scrapped:scrap proceedings:proceed mockers:mocker trends:trend crushed:crush
exhibits:exhibit traitorly:traitorli cupbearer:cupbear residents:resid migrations:migrat affianced:affianc
violation:violat bills:bill deceiveable:deceiv stepped:step attained:attain history:histori dying:die
skies:sky news:news proceed:proceed relational:relat conditional:condit hopefully:hope generalization:gener
oscillators:oscil probate:probat controlling:control rolled:roll agreed:agre flies:fli happy:happi
syzygy:syzygi falling:fall sensibility:sensibl
"""


@pytest.mark.parametrize(("reference", "predicted", "plain", "stemmed"), ROUGE)
def test_rouge_is_that_of_rouge_score(reference, predicted, plain, stemmed):
    assert rouge_scores([[reference]], [predicted])[0].tolist() == pytest.approx(plain, abs=1e-5)
    assert rouge_scores([[reference]], [predicted], porter_stem)[0].tolist() == pytest.approx(stemmed, abs=1e-5)


def test_of_several_references_the_best_counts_for_each_kind():
    first, second = "a b c d", "d c b a x y"
    alone = [rouge_scores([[one]], ["a b y x"])[0] for one in (first, second)]
    np.testing.assert_array_equal(rouge_scores([[first, second]], ["a b y x"])[0], np.maximum(*alone))


def test_a_longest_common_subsequence_is_common_and_longest():
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = (list(rng.choice(list("abcd"), rng.integers(0, 9))) for _ in range(2))
        places = common_places(first, second)
        rest = iter(second)
        assert all(first[place] in rest for place in places) and places == sorted(set(places))
        table = np.zeros((len(first) + 1, len(second) + 1), int)
        for i, j in np.ndindex(len(first), len(second)):
            better = table[i, j] + 1 if first[i] == second[j] else max(table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = better
        assert len(places) == table[-1, -1]


def test_rouge_refuses_what_it_cannot_read():
    assert KINDS[3] == "rougeLsum"
    with pytest.raises(DataError, match=r"reference 2 .* has no letter of a to z"):
        rouge_scores([["fine"], ["北京"]], ["fine", "北京"])
    with pytest.raises(DataError, match="there must be as many"):
        rouge_scores([["fine"]], [])
    assert rouge_scores([["..."]], ["..."]).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("text", ["北京2008", "北京2008年奥运会 GPT", "Москва 1980", "東京都 2020 ok", "กรุงเทพ 9"])
def test_rouge_refuses_a_reference_of_whose_words_it_sees_the_digits_alone(text):
    with pytest.raises(DataError, match=r"reference 1 .* (no letter of|mostly letters other than) a to z; use chrf"):
        rouge_scores([[text]], [text])


@pytest.mark.parametrize("text", ["1980", "the word 北京", "größer über café", "π is 3.14"])
def test_rouge_reads_numbers_and_a_few_letters_of_other_scripts_as_rouge_score_does(text):
    assert rouge_scores([[text]], [text])[0, 0] == 1
    assert rouge_scores([[text]], [""])[0, 0] == 0


@pytest.mark.parametrize("pair", STEMS.split())
def test_stems_are_those_of_nltk(pair):
    word, stem = pair.split(":")
    assert porter_stem(word) == stem


WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "ran,",
    "fast.",
    "don't",
    "3.5",
    "U.S.",
    "über",
    "(yes)",
    "–",
    "naïve",
]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("references", [1, 3])
def test_bleu_and_chrf_are_those_of_sacrebleu(seed, references):
    rng = np.random.default_rng(seed)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 14)))

    right = [[sentence() for _ in range(references)] for _ in range(20)]
    said = [own[0] if rng.random() < 0.3 else sentence() for own in right]
    columns = [list(column) for column in zip(*right, strict=True)]
    counts = bleu_counts(right, said)
    assert bleu(counts) == pytest.approx(sacrebleu.corpus_bleu(said, columns).score)
    # The counts of texts may be drawn anew.
    chosen = rng.integers(20, size=20)
    drawn = sacrebleu.corpus_bleu([said[i] for i in chosen], [[column[i] for i in chosen] for column in columns])
    assert bleu(counts[chosen]) == pytest.approx(drawn.score)
    assert chrf(right, said) == pytest.approx(sacrebleu.corpus_chrf(said, columns).score)


CHINESE = ["北京大学在北京市海淀区。", "今天天气很好，我们去公园散步。"]
CHINESE_SAID = ["北京大学位于北京市海淀区。", "今天天气不错，我们去公园。"]


@pytest.mark.parametrize(("tokenization", "key"), [("zh", "bleu_zh"), ("char", "bleu_char")])
def test_bleu_of_scripts_without_spaces_has_a_tokenization_of_its_own_or_is_refused(tokenization, key, caplog):
    with caplog.at_level("INFO", "jaxft"):
        counts = bleu_counts([[one] for one in CHINESE], CHINESE_SAID, tokenization)
    wanted = sacrebleu.corpus_bleu(CHINESE_SAID, [CHINESE], tokenize=tokenization).score
    assert bleu(counts) == pytest.approx(wanted) and wanted > 20
    assert f"tok:{tokenization}" in caplog.text and "nrefs:1" in caplog.text
    with pytest.raises(DataError, match="use bleu_zh, or chrf"):
        bleu_counts([[one] for one in CHINESE], CHINESE_SAID)
    with pytest.raises(DataError, match="use bleu_char, or chrf"):
        bleu_counts([["今日はとても良い天気です"]], ["今日は良い天気です"])
    assert chrf([[one] for one in CHINESE], CHINESE_SAID) == pytest.approx(
        sacrebleu.corpus_chrf(CHINESE_SAID, [CHINESE]).score
    )


def test_bleu_of_a_script_with_spaces_reads_a_few_words_of_another():
    right, said = (
        ["the word 北京 means northern capital", "서울은 대한민국의 수도 이다"],
        ["the word 北京 means capital", "서울은 수도 이다"],
    )
    counts = bleu_counts([[one] for one in right], said)
    assert bleu(counts) == pytest.approx(sacrebleu.corpus_bleu(said, [right]).score)


@pytest.mark.parametrize("metric", [bleu_counts, chrf])
def test_a_text_without_a_reference_is_refused(metric):
    with pytest.raises(DataError, match="text 2 has no reference"):
        metric([["one"], []], ["one", "two"])


def test_references_may_be_of_different_number():
    right, said = [["the cat sat", "a cat sat on the mat"], ["dogs ran"]], ["a cat sat on mat", "dogs ran fast"]
    expected = sacrebleu.corpus_chrf(said, [["the cat sat", "dogs ran"], ["a cat sat on the mat", None]]).score
    assert chrf(right, said) == pytest.approx(expected)
    for metric in (bleu_counts, chrf):
        with pytest.raises(DataError, match="there must be as many"):
            metric(right, said[:1])
