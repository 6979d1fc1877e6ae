"""Whatever is wrong with a directory of weights is told in one message that names what and where, and what is right."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import transformers
from huggingface.reference_models import CASES, make, save

from jaxft.errors import CheckpointError
from jaxft.huggingface.architectures import ARCHITECTURES
from jaxft.huggingface.loaded import load_model, save_model
from jaxft.huggingface.safetensors_files import INDEX, SINGLE, stored_tensors

WORDS = "bert.embeddings.word_embeddings.weight"
NORM = "bert.embeddings.LayerNorm.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> pathlib.Path:
    """A small BERT in one file."""
    directory = tmp_path_factory.mktemp("good")
    save(make(CASES["bert-masked-lm"]), directory)
    return directory


@pytest.fixture(scope="module")
def good_shards(good, tmp_path_factory) -> pathlib.Path:
    """The same in several files."""
    directory = tmp_path_factory.mktemp("shards") / "model"
    save_model(load_model(good), directory, shard_bytes=16_000)
    assert len(list(directory.glob("*.safetensors"))) > 2
    return directory


@pytest.fixture
def model(good, tmp_path) -> pathlib.Path:
    """A copy to damage."""
    return pathlib.Path(shutil.copytree(good, tmp_path / "model"))


@pytest.fixture
def shards(good_shards, tmp_path) -> pathlib.Path:
    """A copy in several files to damage."""
    return pathlib.Path(shutil.copytree(good_shards, tmp_path / "shards"))


def assert_refused(directory: pathlib.Path, *words: str) -> None:
    """One line of a CheckpointError with all of the words."""
    with pytest.raises(CheckpointError) as raised:
        load_model(directory)
    message = str(raised.value)
    assert "\n" not in message
    for word in (str(directory), *words):
        assert word in message, f"{word!r} is not in: {message}"


def change_config(directory: pathlib.Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(directory: pathlib.Path, **changes: np.ndarray | None) -> None:
    """Writes tensors anew; None leaves one out."""
    tensors = safetensors.numpy.load_file(directory / SINGLE) | changes
    kept = {name: value for name, value in tensors.items() if value is not None}
    safetensors.numpy.save_file(kept, directory / SINGLE)


def header_and_data(path: pathlib.Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def write_parts(path: pathlib.Path, header: dict | str, data: bytes) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def change_entry(directory: pathlib.Path, name: str, **changes) -> None:
    """Changes a tensor's entry in the header and nothing else."""
    header, data = header_and_data(directory / SINGLE)
    header[name] |= changes
    write_parts(directory / SINGLE, header, data)


def change_index(directory: pathlib.Path, **changes: str) -> dict[str, str]:
    """Changes the index's files by tensor; returns them as they were."""
    index = json.loads((directory / INDEX).read_text())
    (directory / INDEX).write_text(json.dumps(index | {"weight_map": index["weight_map"] | changes}))
    return index["weight_map"]


def test_the_good_directories_load(good, good_shards):
    for directory in (good, good_shards):
        assert load_model(directory).config.vocab_size == 67


# What is there.


def test_pickles_are_refused_with_the_way_to_convert_them(model):
    (model / SINGLE).rename(model / "pytorch_model.bin")
    assert_refused(model, "pickled", "pytorch_model.bin", "save_pretrained(NEW_DIR, safe_serialization=True)")


def test_a_pickle_beside_safetensors_is_not_looked_at(model):
    (model / "pytorch_model.bin").write_bytes(b"anything")
    load_model(model)


def test_missing_weights_name_the_files_that_were_looked_for(model):
    (model / SINGLE).unlink()
    assert_refused(model, SINGLE, INDEX)


def test_a_missing_configuration_is_named(model):
    (model / "config.json").unlink()
    assert_refused(model, "has no config.json")


def test_a_missing_directory_is_named(tmp_path):
    assert_refused(tmp_path / "nothing", "has no config.json")


@pytest.mark.parametrize("content", [b'{"model_type": ', b"\xff\xfe", b"", b"[" * 100_000])
def test_a_configuration_that_is_not_json_is_named(model, content):
    (model / "config.json").write_bytes(content)
    assert_refused(model, "config.json is not valid JSON")


def test_a_configuration_that_is_not_an_object_is_named(model):
    (model / "config.json").write_text("[1]")
    assert_refused(model, "config.json is not a JSON object")


# Shards and their index.


def test_a_missing_shard_is_named_with_the_index_that_names_it(shards):
    missing = sorted(shards.glob("*.safetensors"))[1]
    missing.unlink()
    assert_refused(shards, f"lacks {missing.name}", INDEX)


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/x.safetensors", "below/x.safetensors", "..", "", "..\\x.safetensors", "a.bin"]
)
def test_an_index_that_points_elsewhere_is_refused(shards, file):
    shutil.copy(next(shards.glob("*.safetensors")), shards.parent / "x.safetensors")
    change_index(shards, **{WORDS: file})
    assert_refused(shards, INDEX, f"points to {file!r}", "only .safetensors files beside it are read")


def test_a_tensor_that_its_shard_lacks_is_named_with_the_shard(shards):
    file = next(shards.glob("*.safetensors")).name
    change_index(shards, absent=file)
    assert_refused(shards, f"tensor absent is not in {file}", INDEX)


def test_a_tensor_that_the_index_puts_elsewhere_is_named_with_both_files(shards):
    first, second = sorted(path.name for path in shards.glob("*.safetensors"))[:2]
    before = change_index(shards)
    name = next(name for name, file in before.items() if file == first)
    change_index(shards, **{name: second})
    assert_refused(shards, f"tensor {name} is in {first}", f"says {second}")


def test_a_tensor_that_the_index_does_not_name_is_named(shards):
    index = json.loads((shards / INDEX).read_text())
    file = index["weight_map"].pop(NORM)
    (shards / INDEX).write_text(json.dumps(index))
    assert_refused(shards, f"tensor {NORM} is in {file}", f"{INDEX} says nothing")


def test_a_tensor_in_two_shards_is_named_with_both(shards):
    index = json.loads((shards / INDEX).read_text())["weight_map"]
    first, second = sorted(set(index.values()))[:2]
    name = next(name for name, file in index.items() if file == first)
    both = safetensors.numpy.load_file(shards / second) | {name: np.zeros(1, np.float32)}
    safetensors.numpy.save_file(both, shards / second)
    assert_refused(shards, f"tensor {name}", first, second)


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_a_map_says_so(shards, content):
    (shards / INDEX).write_text(content)
    assert_refused(shards, f"{INDEX} has no weight_map from names to files")


def test_a_name_twice_in_the_index_is_named(shards):
    text = (shards / INDEX).read_text()
    line = next(line for line in text.splitlines() if NORM in line)
    (shards / INDEX).write_text(text.replace(line, f"{line.rstrip(',')},\n{line}"))
    assert_refused(shards, INDEX, f"'{NORM}' twice")


def test_an_index_that_is_not_json_is_named(shards):
    (shards / INDEX).write_text('{"weight_map":')
    assert_refused(shards, f"{INDEX} is not valid JSON")


# Tensors and their places.


def test_a_missing_tensor_is_named_with_its_shape(model):
    change_tensors(model, **{WORDS: None})
    assert_refused(model, f"lacks the tensor {WORDS} of shape [67, 24]")


def test_of_several_missing_tensors_the_first_is_named_and_the_others_counted(model):
    change_tensors(model, **{WORDS: None, NORM: None})
    assert_refused(model, f"lacks the tensor {WORDS}", "(and 1 more)")


def test_an_extra_tensor_is_named_with_its_shape(model):
    change_tensors(model, **{"bert.surprise.weight": np.zeros((2, 3), np.float32)})
    assert_refused(model, "no place for", "bert.surprise.weight of shape [2, 3]")


def test_more_layers_than_the_configuration_tells_are_extra_tensors(model):
    change_config(model, num_hidden_layers=1)
    assert_refused(model, "no place for", "bert.encoder.layer.1.", "more)")


def test_a_misshapen_tensor_is_named_with_both_shapes(model):
    change_tensors(model, **{WORDS: np.zeros((66, 24), np.float32)})
    assert_refused(model, f"{WORDS} has shape [66, 24]", "asks for [67, 24]")


def test_a_transposed_tensor_is_named_with_both_shapes(model):
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    change_tensors(model, **{name: np.zeros((24, 40), np.float32)})
    assert_refused(model, f"{name} has shape [24, 40]", "asks for [40, 24]")


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "bool", "float64"])
def test_weights_of_another_type_are_refused_with_those_that_are_read(model, dtype):
    change_tensors(model, **{NORM: np.ones(24, dtype)})
    assert_refused(model, NORM, dtype, "float32, bfloat16 or float16")


def test_one_tensor_under_an_old_and_a_new_name_is_named_with_both(model):
    old = NORM.replace("weight", "gamma")
    change_tensors(model, **{old: np.ones(24, np.float32)})
    assert_refused(model, "one tensor under two names", old, NORM)


def test_a_bias_that_should_repeat_another_and_differs_is_named(model):
    change_tensors(model, **{"cls.predictions.decoder.bias": np.full(67, 3, np.float32)})
    assert_refused(model, "cls.predictions.decoder.bias should repeat cls.predictions.bias")


# The file itself.


@pytest.mark.parametrize("length", [0, 5, 8, 200])
def test_a_file_cut_in_its_header_is_named(model, length):
    path = model / SINGLE
    path.write_bytes(path.read_bytes()[:length])
    assert_refused(model, f"{SINGLE} is not a safetensors file, or it is truncated")


@pytest.mark.parametrize("missing", [1, 4, 5000])
def test_a_file_cut_in_its_data_is_named_with_both_sizes(model, missing):
    path = model / SINGLE
    content = path.read_bytes()
    path.write_bytes(content[:-missing])
    assert_refused(model, f"{SINGLE} is truncated", f"{len(content) - missing} bytes instead of {len(content)}")


def test_a_file_with_more_than_its_tensors_is_named(model):
    path = model / SINGLE
    path.write_bytes(path.read_bytes() + b"more")
    assert_refused(model, f"{SINGLE} has bytes after its tensors")


def test_a_file_that_shrinks_after_it_was_described_is_named(model):
    stored = stored_tensors(model)
    path = model / SINGLE
    path.write_bytes(path.read_bytes()[:-4])
    last = max(stored.values(), key=lambda tensor: tensor.offset)
    with pytest.raises(CheckpointError, match=f"{SINGLE} ends before its tensors do: it is truncated"):
        last.read()


def test_a_length_beyond_the_file_is_no_reason_to_read_it(model):
    (model / SINGLE).write_bytes((2**63).to_bytes(8, "little") + b"{}")
    assert_refused(model, f"{SINGLE} is not a safetensors file")


@pytest.mark.parametrize("header", ["{", "\x00", '{"a": nothing}', '{"a":' * 100_000])
def test_a_header_that_is_not_json_is_named(model, header):
    write_parts(model / SINGLE, header, b"")
    assert_refused(model, f"{SINGLE} is not valid JSON")


def test_a_header_that_is_not_an_object_is_named(model):
    write_parts(model / SINGLE, "[]", b"")
    assert_refused(model, f"{SINGLE} has no safetensors header")


def test_a_name_twice_in_the_header_is_named(model):
    header, data = header_and_data(model / SINGLE)
    again = f'{json.dumps(header)[:-1]}, "{NORM}": {json.dumps(header[NORM])}}}'
    write_parts(model / SINGLE, again, data)
    assert_refused(model, SINGLE, f"'{NORM}' twice")


def test_a_key_twice_in_an_entry_is_named(model):
    header, data = header_and_data(model / SINGLE)
    write_parts(model / SINGLE, json.dumps(header).replace('"dtype"', '"shape": [1], "dtype"'), data)
    assert_refused(model, SINGLE, "'shape' twice")


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "F8_E4M3"}, {"dtype": None}, {"shape": 24}, {"shape": ["x"]}, {"data_offsets": [0]},
     {"data_offsets": "ab"}],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_is_named(model, changes):
    change_entry(model, NORM, **changes)
    assert_refused(model, SINGLE, f"the header's entry for {NORM} cannot be read")


def test_an_entry_that_is_no_object_is_named(model):
    header, data = header_and_data(model / SINGLE)
    write_parts(model / SINGLE, header | {NORM: [1]}, data)
    assert_refused(model, SINGLE, f"the header's entry for {NORM} cannot be read")


@pytest.mark.parametrize("changes", [{"shape": [25]}, {"dtype": "BF16"}, {"shape": [-24]}, {"data_offsets": [-96, 0]}])
def test_a_shape_that_does_not_fill_its_bytes_is_named(model, changes):
    change_entry(model, NORM, **changes)
    assert_refused(model, SINGLE, NORM, "does not fill bytes")


def test_tensors_that_share_bytes_are_named(model):
    header, _ = header_and_data(model / SINGLE)
    twin = NORM.replace("weight", "bias")
    change_entry(model, twin, data_offsets=header[NORM]["data_offsets"])
    assert_refused(model, SINGLE, "overlap others or leave a gap")


def test_bytes_of_no_tensor_are_refused(model):
    header, data = header_and_data(model / SINGLE)
    shifted = {
        name: entry | {"data_offsets": [place + 4 for place in entry["data_offsets"]]}
        for name, entry in header.items()
        if name != "__metadata__"
    }
    write_parts(model / SINGLE, shifted, b"\0" * 4 + data)
    assert_refused(model, SINGLE, "overlap others or leave a gap")


# The configuration's values.


def test_an_unknown_model_type_is_answered_with_the_known_ones(model):
    change_config(model, model_type="mamba")
    known = [name for architecture in ARCHITECTURES for name in architecture.model_types]
    assert_refused(model, "config.json", "model_type 'mamba' is not one of those known", *known)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": None}, ["lacks model_type"]),
        ({"model_type": 5}, ["model_type must be str, found 5"]),
        ({"hidden_act": "mish"}, ['hidden_act = "mish" is not supported', '"gelu"', '"relu"']),
        ({"position_embedding_type": "relative_key"}, ['position_embedding_type = "relative_key"', '"absolute"']),
        ({"is_decoder": True}, ["is_decoder = true is not supported; supported: false"]),
        ({"hidden_size": "24"}, ["hidden_size must be int, found '24'"]),
        ({"hidden_size": 24.0}, ["hidden_size must be int, found 24.0"]),
        ({"hidden_size": True}, ["hidden_size must be int, found True"]),
        ({"hidden_size": None}, ["lacks hidden_size"]),
        ({"hidden_size": 0}, ["hidden_size must be at least 1, found 0"]),
        ({"num_hidden_layers": -2}, ["num_hidden_layers must be at least 1, found -2"]),
        ({"num_attention_heads": 5}, ["num_attention_heads", "5 does not divide", "24"]),
        ({"type_vocab_size": -1}, ["type_vocab_size must be at least 0, found -1"]),
        ({"layer_norm_eps": "small"}, ["layer_norm_eps must be int or float, found 'small'"]),
        ({"layer_norm_eps": float("nan")}, ["layer_norm_eps must be finite"]),
        ({"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob must be in [0, 1), found 1.5"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings must be bool, found 'yes'"]),
        ({"architectures": "BertModel"}, ["architectures must be list, found 'BertModel'"]),
    ],
    ids=str,
)
def test_a_value_that_no_block_expresses_is_named_with_what_would_be_right(model, changes, words):
    change_config(model, **changes)
    assert_refused(model, "config.json", *words)


LLAMA = {
    "model_type": "llama", "vocab_size": 67, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"rope_type": "spiral"}, ['rope_type = "spiral" is not supported', '"default"', '"yarn"', '"llama3"']),
        ({"rope_type": 3}, ["rope_type must be str, found 3"]),
        ({"rope_type": "linear", "factor": "2"}, ["factor must be int or float, found '2'"]),
        ({"rope_type": "linear", "factor": 0}, ["factor must be above 0, found 0"]),
        ({"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}, ["scaling by mscale is not supported"]),
        ({"rope_type": "longrope", "short_factor": ["x"]}, ["short_factor must be a list of numbers, found ['x']"]),
        ({"rope_theta": "10000"}, ["rope_theta must be int or float, found '10000'"]),
    ],
    ids=str,
)
def test_rotary_positions_that_no_block_computes_are_named(tmp_path, key, scaling, words):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {key: scaling}))
    assert_refused(tmp_path, "config.json", key, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 4}, ["num_key_value_heads", "4 does not divide num_heads 6"]),
        ({"num_key_value_heads": 0}, ["num_key_value_heads must be at least 1, found 0"]),
        ({"head_dim": 3}, ["head_dim", "even number of rotated dimensions, found 3"]),
        ({"partial_rotary_factor": 1.5}, ["partial_rotary_factor must be at most 1, found 1.5"]),
        ({"rope_theta": -1.0}, ["rope_theta must be above 0, found -1.0"]),
        ({"model_type": "mistral", "sliding_window": 1}, ["sliding_window must be at least 2, found 1"]),
        ({"model_type": "gemma2", "sliding_window": 0}, ["sliding_window must be at least 2, found 0"]),
        ({"model_type": "gemma2", "layer_types": ["chunked"]}, ['layer_types = "chunked"', '"full_attention"']),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, ["layer_types names 1 layers of 2"]),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, ["no_rope_layers names 1 layers of 2"]),
    ],
    ids=str,
)
def test_a_decoder_that_no_block_expresses_is_named(tmp_path, changes, words):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | changes))
    assert_refused(tmp_path, "config.json", *words)


# Arguments, tokenizers and the place to save to.


@pytest.mark.parametrize("dtype", ["int8", "float16", "float64", ""])
def test_loading_in_another_type_names_those_that_are_right(good, dtype):
    with pytest.raises(CheckpointError, match=f"dtype must be float32 or bfloat16, found '{dtype}'"):
        load_model(good, dtype=dtype)


@pytest.mark.parametrize("dtype", ["int8", "float64", ""])
def test_saving_in_another_type_names_those_that_are_right_and_writes_nothing(good, tmp_path, dtype):
    expected = f"dtype must be one of float32, bfloat16, float16, found '{dtype}'"
    with pytest.raises(CheckpointError, match=expected):
        save_model(load_model(good), tmp_path / "new", dtype=dtype)
    assert not (tmp_path / "new").exists()


def test_saving_over_a_model_is_refused_and_changes_nothing(good, model):
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(CheckpointError, match=f"{model} holds a model already; choose another directory"):
        save_model(load_model(good), model)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def write_tokenizer(directory: pathlib.Path, tokens: int) -> None:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {name: i for i, name in enumerate([*names, *(f"word{i}" for i in range(tokens - len(names)))])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(roles, names, strict=True)))
    fast.save_pretrained(directory)


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused_with_both_numbers(model):
    write_tokenizer(model, 68)
    assert_refused(model, "the tokenizer has 68 tokens, the embedding 67 rows")


def test_a_tokenizer_of_as_many_or_fewer_tokens_is_loaded(model):
    write_tokenizer(model, 67)
    assert load_model(model).tokenizer.vocab_size == 67


def test_a_tokenizer_that_cannot_be_read_is_left_out_with_a_warning(model, caplog):
    write_tokenizer(model, 67)
    (model / "tokenizer.json").write_text("{")
    assert load_model(model).tokenizer is None
    assert f"{model} is loaded without its tokenizer" in caplog.text
