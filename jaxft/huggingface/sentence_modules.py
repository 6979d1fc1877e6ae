"""The modules of a sentence encoder, as the sentence-transformers package writes them: read, or refused by name."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.errors import CheckpointError
from jaxft.huggingface.pooling import MODES, Dense, LayerNorm, Normalize, SentenceLayer, SentencePooling
from jaxft.huggingface.safetensors_files import StoredTensor, stored_tensors

_MODULES = "modules.json"
_MODEL_CONFIG = "config_sentence_transformers.json"
# One of these stands beside the weights, by the version and the model.
_TEXT_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_ACTIVATIONS = {
    "Identity": "identity", "Tanh": "tanh", "GELU": "gelu", "ReLU": "relu", "SiLU": "silu", "Sigmoid": "sigmoid",
}  # fmt: skip
_NORM = ("norm.weight", "norm.bias")
_SENTENCE = ("sentence_embedding", None)
_TOKENS = ("token_embeddings", None)
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
_TEXT_MODALITY: tuple[Any, ...] = ({}, {"text": _FORWARD}, None)
# Keys of each file with the values that change nothing; None where any value does, or it is read below.
_KNOWN: dict[str, Mapping[str, tuple | None]] = {
    _MODULES: {"idx": None, "name": None, "path": None, "type": None, "kwargs": ([], {}, None)},
    _MODEL_CONFIG: {
        "__version__": None, "model_type": ("SentenceTransformer", None), "similarity_fn_name": None, "prompts": None,
        "default_prompt_name": None, "requirements": None,
    },
    "Transformer": {
        "max_seq_length": None, "do_lower_case": None, "transformer_task": ("feature-extraction", None),
        "modality_config": _TEXT_MODALITY, "module_output_name": _TOKENS, "unpad_inputs": None,
        "processing_kwargs": ({}, None), "model_args": None, "tokenizer_args": ({}, None), "config_args": ({}, None),
        "tokenizer_name_or_path": (None,), "query_length": (None,), "document_length": (None,),
        "query_expansion": (None,),
    },
    # Whether prompts count makes no difference as long as there is none.
    "Pooling": {
        "embedding_dimension": None, "word_embedding_dimension": None, "pooling_mode": None, "include_prompt": None,
        "pooling_mode_mean_sqrt_len_tokens": None, "pooling_mode_weightedmean_tokens": None, **dict.fromkeys(MODES),
    },
    "Dense": {
        "in_features": None, "out_features": None, "bias": None, "activation_function": None, "use_residual": None,
        "module_input_name": _SENTENCE, "module_output_name": _SENTENCE,
    },
    "LayerNorm": {"dimension": None},
    "Normalize": {"module_input_name": _SENTENCE, "module_output_name": _SENTENCE},
    "Dropout": {"dropout": None},
}  # fmt: skip


def read_pooling(directory: pathlib.Path) -> SentencePooling | None:
    """How the modules that a directory's modules.json names make a sentence's vector; None where it has none.

    Raises:
      CheckpointError: a module, a key or a value that is not known; it is named with its file.
    """
    path = directory / _MODULES
    modules = _json(path)
    if modules is None:
        return None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} is not a list of JSON objects")
    kinds = [_kind(path, module) for module in modules]
    if kinds == ["Transformer"]:
        return None
    first = 1 if kinds[:1] == ["Transformer"] else 0
    if kinds[first : first + 1] != ["Pooling"] or {"Transformer", "Pooling"} & set(kinds[first + 1 :]):
        raise CheckpointError(
            f"{path}: the modules {', '.join(kinds) or 'of an empty list'} are not supported in this order; supported: "
            "Transformer, Pooling, then any of Dense, LayerNorm, Normalize, Dropout"
        )
    _check_texts(directory)
    mode = _mode(_module_directory(directory, modules[first]) / "config.json")
    layers = [
        _layer(kind, _module_directory(directory, module))
        for kind, module in zip(kinds[first + 1 :], modules[first + 1 :], strict=True)
        if kind != "Dropout"
    ]
    normalize = bool(layers) and isinstance(layers[-1], Normalize)
    return SentencePooling(mode, normalize, tuple(layers[:-1] if normalize else layers))


def _kind(path: pathlib.Path, module: Mapping[str, Any]) -> str:
    _check_known(path, _MODULES, module)
    package, _, kind = str(module.get("type", "")).rpartition(".")
    supported = [name for name in _KNOWN if not name.endswith(".json")]
    if kind not in supported or package.partition(".")[0] != "sentence_transformers":
        raise CheckpointError(
            f"{path}: the module {module.get('type')!r} is not supported; supported: {', '.join(supported)}"
        )
    if kind == "Transformer" and module.get("path"):
        raise CheckpointError(f"{path}: the model lies in {module['path']!r}, not beside {_MODULES}")
    return kind


def _module_directory(directory: pathlib.Path, module: Mapping[str, Any]) -> pathlib.Path:
    """A directory of its own beneath, and nowhere else."""
    return directory / pathlib.PurePath(str(module.get("path", ""))).name


def _check_texts(directory: pathlib.Path) -> None:
    """Refuses what would change the texts before they are read."""
    path = directory / _MODEL_CONFIG
    config = _object(path, optional=True)
    _check_known(path, _MODEL_CONFIG, config)
    name = config.get("default_prompt_name")
    if name is not None and (config.get("prompts") or {}).get(name) != "":
        raise CheckpointError(
            f"{path}: default_prompt_name is {name!r}, whose words would stand before every text; set it to null and "
            "write them into the texts"
        )
    path = _text_config(directory)
    config = _object(path, optional=True)
    _check_known(path, "Transformer", config)
    # A run keeps its tokenizer, whose own files decide, elsewhere.
    tokenizer = _object(directory / "tokenizer_config.json", optional=True)
    if config.get("do_lower_case") and tokenizer and not tokenizer.get("do_lower_case"):
        raise CheckpointError(f"{path}: do_lower_case is true, but the tokenizer's own files do not lower letters")


def _mode(path: pathlib.Path) -> str:
    config = _object(path)
    _check_known(path, "Pooling", config)
    named = config.get("pooling_mode")
    chosen = list(named) if isinstance(named, list) else [named] if named else []
    if not chosen:
        chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value] or ["mean"]
    modes = [MODES.get(mode, mode) for mode in chosen]
    if len(modes) != 1 or modes[0] not in MODES.values():
        names = ", ".join(map(str, chosen))
        raise CheckpointError(
            f"{path}: pooling by {names} is not supported; supported: {', '.join(MODES)}, one of them"
        )
    return modes[0]


def _layer(kind: str, directory: pathlib.Path) -> SentenceLayer:
    path = directory / "config.json"
    config = _object(path, optional=kind == "Normalize")
    _check_known(path, kind, config)
    if kind == "Normalize":
        return Normalize()
    tensors = stored_tensors(directory)
    if kind == "LayerNorm":
        return LayerNorm(*_arrays(directory, tensors, {name: (config.get("dimension"),) for name in _NORM}))
    inner, outer = config.get("in_features"), config.get("out_features")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if activation.rpartition(".")[2] not in _ACTIVATIONS or not activation.startswith("torch.nn."):
        raise CheckpointError(
            f"{path}: activation_function {activation} is not supported; supported: {', '.join(_ACTIVATIONS)} of torch"
        )
    wanted: dict[str, tuple] = {"linear.weight": (outer, inner)}
    has_bias, has_residual = bool(config.get("bias", True)), bool(config.get("use_residual"))
    wanted |= {"linear.bias": (outer,)} if has_bias else {}
    projected = has_residual and inner != outer
    wanted |= {"residual.weight": (outer, inner)} if projected else {}
    arrays = dict(zip(wanted, _arrays(directory, tensors, wanted), strict=True))
    residual = arrays.get("residual.weight", np.eye(outer or 0, dtype=np.float32) if has_residual else None)
    name = _ACTIVATIONS[activation.rpartition(".")[2]]
    return Dense(arrays["linear.weight"], arrays.get("linear.bias"), name, residual)


def _arrays(
    directory: pathlib.Path, tensors: Mapping[str, StoredTensor], wanted: Mapping[str, Sequence[Any]]
) -> list[np.ndarray]:
    """Tensors of these names and shapes, of which a file must have all and no other."""
    if set(tensors) != set(wanted):
        raise CheckpointError(
            f"{directory} has the tensors {sorted(tensors)}, its configuration asks for {list(wanted)}"
        )
    for name, shape in wanted.items():
        if tensors[name].shape != tuple(shape):
            raise CheckpointError(
                f"{directory}: {name} has shape {list(tensors[name].shape)}, its configuration asks for {list(shape)}"
            )
    return [tensors[name].read().astype(np.float32) for name in wanted]


def _check_known(path: pathlib.Path, kind: str, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key not in _KNOWN[kind]:
            if value not in (None, False):
                raise CheckpointError(f"{path}: {key} is {value!r}, and what it changes is not known")
            continue
        supported = _KNOWN[kind][key]
        if supported is not None and value not in supported:
            raise CheckpointError(f"{path}: {key} is {value!r}; supported: {', '.join(map(repr, supported))}")


def longest_sentence(directory: pathlib.Path) -> int | None:
    """Most tokens that a sentence encoder reads by its sentence_bert_config.json; None where that says nothing."""
    longest = _object(_text_config(directory), optional=True).get("max_seq_length")
    return longest if isinstance(longest, int) and longest > 2 else None


def sentence_files(directory: pathlib.Path) -> tuple[str, ...]:
    """The files that say how vectors are made, which travel along with the weights, relative to the directory."""
    files = [directory / name for name in (_MODULES, _MODEL_CONFIG, *_TEXT_CONFIGS)]
    modules = _json(directory / _MODULES)
    for module in modules if isinstance(modules, list) else ():
        own = _module_directory(directory, module)
        if own != directory and own.is_dir():
            files += [own / "config.json", *sorted(own.glob("*.safetensors"))]
    return tuple(str(path.relative_to(directory)) for path in files if path.is_file())


def write_pooling(directory: pathlib.Path, pooling: SentencePooling, embed_dim: int, max_length: int) -> None:
    """Writes the files from which sentence-transformers makes the same vectors.

    Args:
      directory: of the weights.
      pooling: from hidden states to a vector, without layers of its own.
      embed_dim: width of the vector.
      max_length: longest text, in tokens.
    """
    assert not pooling.layers
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * pooling.normalize
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    modes = {key: mode == pooling.mode for key, mode in MODES.items() if key.startswith("pooling_mode_")}
    written = {
        _MODULES: modules,
        "1_Pooling/config.json": {"word_embedding_dimension": embed_dim, **modes},
        _TEXT_CONFIGS[0]: {"max_seq_length": max_length, "do_lower_case": False},
    }
    for name, values in written.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _text_config(directory: pathlib.Path) -> pathlib.Path:
    paths = [directory / name for name in _TEXT_CONFIGS]
    return next((path for path in paths if path.is_file()), paths[0])


def _object(path: pathlib.Path, optional: bool = False) -> dict[str, Any]:
    values = _json(path)
    if values is None and optional:
        return {}
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is missing or not a JSON object")
    return values


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
