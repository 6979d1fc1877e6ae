"""Heads that several architectures share."""

from __future__ import annotations

from jaxft.huggingface.architecture import Head
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.layout import Tensor, linear, tensor
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig, HeadKind, PoolingKind, Transform


def bias(name: str, path: str) -> tuple[Tensor, ...]:
    """A vector by itself."""
    return (tensor(name, f"{path}/bias", "features"),)


def pooled(name: str, activation: Transform = "tanh") -> Head:
    """BERT's pooler: a hidden layer on the first token."""
    return Head("pooled", HeadConfig("pooled", transform=activation), linear(name, "pooler"))


def token_labels(name: str) -> Head:
    """Labels of every token."""

    def config(values: HuggingFaceConfig) -> HeadConfig:
        return HeadConfig("token_classification", values.num_labels, transform="none")

    return Head("token_classification", config, linear(name, "classifier"))


def question_answering(name: str = "qa_outputs") -> Head:
    """Start and end of an answer."""
    return Head("question_answering", HeadConfig("question_answering", 2, transform="none"), linear(name, "classifier"))


def sequence_labels(
    classifier: str,
    hidden: str | None = None,
    *,
    of: str = "sequence_classification",
    activation: Transform = "tanh",
    pooling: PoolingKind = "first",
    labels: int | None = None,
) -> Head:
    """Labels of a sequence, with a hidden layer where one is named."""

    def config(values: HuggingFaceConfig) -> HeadConfig:
        kind: HeadKind = "multiple_choice" if of == "multiple_choice" else "sequence_classification"
        return HeadConfig(kind, labels or values.num_labels, pooling, activation if hidden else "none")

    return Head(of, config, (*(linear(hidden, "pooler") if hidden else ()), *linear(classifier, "classifier")))


def multiple_choice(classifier: str, hidden: str | None = None, activation: Transform = "tanh") -> Head:
    """A score for each of several sequences."""
    return sequence_labels(classifier, hidden, of="multiple_choice", activation=activation, labels=1)


def untied_vocabulary(model: ModelConfig, name: str) -> tuple[Tensor, ...]:
    """The vocabulary projection, where it is not the token embedding."""
    if model.tied_embeddings:
        return ()
    return (tensor(f"{name}.weight", "vocabulary/kernel", "vocab embed -> embed vocab"),)


def causal_lm(name: str = "lm_head") -> Head:
    """The vocabulary projection of a decoder."""
    return Head("causal_lm", HeadConfig("causal_lm"), lambda model: untied_vocabulary(model, name))


def last_token_labels(name: str = "score") -> Head:
    """Labels of a sequence from the last token of a decoder, without a bias."""

    def config(values: HuggingFaceConfig) -> HeadConfig:
        return HeadConfig("sequence_classification", values.num_labels, "last", "none", label_bias=False)

    return Head("sequence_classification", config, linear(name, "classifier", use_bias=False))


def decoder_classes(name: str, token_layer: str = "score", vocabulary: str = "lm_head") -> dict[str, tuple[Head, ...]]:
    """The classes of a decoder whose names all begin alike."""
    return {
        f"{name}Model": (),
        f"{name}ForCausalLM": (causal_lm(vocabulary),),
        f"{name}ForSequenceClassification": (last_token_labels(),),
        f"{name}ForTokenClassification": (token_labels(token_layer),),
        f"{name}ForQuestionAnswering": (question_answering(),),
    }
