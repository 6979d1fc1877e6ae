"""Every key of every class's configuration, changed alone: what changes torch's result changes ours, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from huggingface import reference_models
from huggingface.reference_models import CASES

from jaxft.errors import CheckpointError
from jaxft.huggingface.architectures import architecture_of
from jaxft.huggingface.configuration import HuggingFaceConfig

pytestmark = pytest.mark.slow

# One model of each class of configurations.
SWEPT = list({case.config: name for name, case in reversed(CASES.items())}.values())
# Keys of how torch computes or reports, not of what.
MACHINERY = {
    "model_type", "architectures", "transformers_version", "dtype", "return_dict", "output_hidden_states",
    "output_attentions",
    "output_router_logits", "use_cache", "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id",
    "_name_or_path", "num_labels", "tie_word_embeddings", "attn_implementation", "gradient_checkpointing",
    # How XLNet is trained, and how many earlier hidden states it keeps.
    "mem_len", "reuse_len",
}  # fmt: skip


def reading(values: dict, case):
    """All that we make of a config.json: the model, and the heads of its class."""
    config = HuggingFaceConfig(values, "config.json")
    architecture = architecture_of(config)
    heads = [head.config_of(config) for head in architecture.classes[case.model]]
    return architecture.model_config(config).resolved(), heads


def others(key: str, value):
    """Other values of a key's kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [number for number in (value + 1, 1) if number != value]
    if isinstance(value, float):
        return [value * 1.5 + 0.125]
    if isinstance(value, str):
        return [word for word in ("relu", "tanh", "mean") if word != value]
    return [2, True, 0.5, "relu"] if value is None else []


def output(model, inputs) -> np.ndarray:
    with torch.no_grad():
        result = model(**{name: torch.from_numpy(np.array(value)) for name, value in inputs.items()})
    first = next(value for value in result.values() if isinstance(value, torch.Tensor))
    return first.numpy()


def changed_model(case, keys, state):
    """torch's model with other keys and the same weights; None where its class refuses them."""
    try:
        config = getattr(transformers, case.config)(**keys, attn_implementation="eager")
        model = getattr(transformers, case.model)(config).eval()
        model.load_state_dict(state)
    except Exception:  # of any kind, from a value that the class cannot take or weights of another shape
        return None
    return model


@pytest.mark.parametrize("name", SWEPT)
def test_a_key_that_changes_the_reference_changes_our_reading_or_is_refused_by_name(name):
    case = CASES[name]
    model, inputs = reference_models.make(case), reference_models.inputs_of(case)
    whole, state = model.config.to_dict(), model.state_dict()
    ours = reading(whole, case)
    wanted, passed_over = output(changed_model(case, case.keys, state), inputs), []
    for key, value in whole.items():
        for other in others(key, value) if key not in MACHINERY else ():
            other_model = changed_model(case, case.keys | {key: other}, state)
            try:
                same = other_model is None or np.allclose(output(other_model, inputs), wanted, atol=1e-4)
            except Exception:  # a value that the model's class takes, but cannot compute with
                continue
            if same:
                continue
            try:
                written = {**case.keys, "model_type": whole["model_type"], key: other}
                if ours in (reading(other_model.config.to_dict(), case), reading(written, case)):
                    passed_over.append((key, other))
            except CheckpointError as error:
                assert "config.json" in str(error)
    assert not passed_over


@pytest.mark.parametrize("name", SWEPT)
def test_a_key_that_is_missing_has_the_default_of_the_class_or_is_asked_for(name):
    case = CASES[name]
    config_class = getattr(transformers, case.config)
    differing = []
    for key in case.keys:
        few = {other: value for other, value in case.keys.items() if other != key}
        try:
            theirs = config_class(**few).to_dict()
        except Exception:  # the class needs the key, or refuses the others beside its default
            continue
        try:
            ours = reading({**few, "model_type": config_class.model_type}, case)
        except CheckpointError as error:
            assert "config.json" in str(error)
            continue
        try:
            if ours != reading(theirs, case) and key != "tie_word_embeddings":
                differing.append(key)
        except CheckpointError:
            differing.append(key)
    assert not differing
