"""FLOPs by formula equal those that a compiled program spends, for every family."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.models.transformer import Images, Sequences
from jaxft.planning.flops import Pass, forward_flops, training_flops
from jaxft.planning.program_cost import program_cost
from jaxft.recipe.presets import PRESETS

ROWS, LENGTH, TARGETS, PLACES = 2, 64, 32, 12
SMALL = {"embed_dim": 64, "num_layers": 3, "num_heads": 4, "mlp_dim": 160, "vocab_size": 512, "max_length": 64}
CASES = {
    "bert-base": ("masked_lm", {}, PLACES),
    "modernbert-base": ("masked_lm", {"windows": (0, 8, 8)}, PLACES),
    "albert-base": ("masked_lm", {"embedding_dim": 32}, PLACES),
    "llama-1b": ("causal_lm", {"num_kv_heads": 2}, None),
    "gpt2-small": ("causal_lm", {}, None),
    "t5-base": ("causal_lm", {}, None),
    "bart-base": ("causal_lm", {"num_decoder_layers": 2}, None),
    "vit-base": ("sequence_classification", {"image_size": 32, "patch_size": 4}, None),
    "electra-small": ("generator", {"embedding_dim": 32}, PLACES),
}


def compiled_flops(config: ModelConfig, head: HeadConfig, places: int | None, compute: ComputeConfig) -> float:
    """Of the forward and backward pass, counted in the compiled program."""
    model = Model(config, (("head", head),), compute)
    tokens = jnp.ones((ROWS, LENGTH), jnp.int32)
    inputs, targets = Sequences(tokens), None
    if config.family == "vision":
        inputs = Images(jnp.ones((ROWS, config.channels, config.image_size, config.image_size)))
    if config.family == "encoder_decoder":
        targets = Sequences(jnp.ones((ROWS, TARGETS), jnp.int32))
    gather = None if places is None else jnp.zeros((ROWS, places), jnp.int32)

    def loss(parameters):
        logits = model.apply({"params": parameters}, inputs, targets, "head", gather).logits
        return jax.nn.logsumexp(logits, axis=-1).sum()

    parameters, _ = abstract_parameters(model)
    return program_cost(jax.jit(jax.grad(loss)).lower(parameters).compile().as_text()).matmul_flops


def pass_of(config: ModelConfig, head: HeadConfig, places: int | None) -> Pass:
    length = LENGTH
    if config.family == "vision":
        length = config.class_tokens + (config.image_size // config.patch_size) ** 2
    targets = TARGETS if config.family == "encoder_decoder" else 0
    return Pass(ROWS, length, targets, places, (head,), causal=config.family == "decoder")


@pytest.fixture(scope="module", params=CASES)
def case(request):
    kind, fields, places = CASES[request.param]
    config = ModelConfig(**{**PRESETS[request.param], **SMALL, "dropout": 0.0, "attention_dropout": 0.0, **fields})
    return config, HeadConfig(kind, 3 if kind == "sequence_classification" else 0, size=0.5), places


def test_the_formula_counts_the_products_of_the_compiled_program(case):
    config, head, places = case
    # This kernel computes what the mask hides too.
    counted = compiled_flops(config, head, places, ComputeConfig(scan_layers=True, attention="xla"))
    assert training_flops(config, [pass_of(config, head, places)], masked=False).total == pytest.approx(
        counted, rel=0.02
    )


def test_a_loop_over_layers_costs_what_they_cost_side_by_side():
    config = ModelConfig(**{**PRESETS["llama-1b"], **SMALL, "num_kv_heads": 2})
    looped, unrolled = (
        compiled_flops(config, HeadConfig("causal_lm"), None, ComputeConfig(scan_layers=scan)) for scan in (True, False)
    )
    assert looped == pytest.approx(unrolled, rel=0.001)


def llama() -> ModelConfig:
    return ModelConfig(**{**PRESETS["llama-1b"], "vocab_size": 128256, "max_length": 2048})


def test_a_causal_mask_halves_attention_and_nothing_else():
    one = Pass(4, 2048, heads=(HeadConfig("causal_lm"),), causal=True)
    masked, whole = forward_flops(llama(), one), forward_flops(llama(), one, masked=False)
    assert masked.attention == whole.attention / 2
    assert (masked.layers, masked.heads) == (whole.layers, whole.heads)


def test_a_decoder_costs_what_the_papers_formula_says():
    """6L(2da + 2d*a_kv + 3df) + 6LaS + 6dV for each token, with the widths of Llama 3.2 1B."""
    layers, width, keys, inner, vocabulary, length = 16, 2048, 512, 8192, 128256, 2048
    by_hand = 6 * layers * (2 * width**2 + 2 * width * keys + 3 * width * inner)
    by_hand += 6 * layers * width * length + 6 * width * vocabulary
    one = Pass(1, length, heads=(HeadConfig("causal_lm"),), causal=True)
    assert training_flops(llama(), [one]).total / length == pytest.approx(by_hand)


def test_an_encoder_decoder_costs_what_the_papers_formula_says():
    config = ModelConfig(**PRESETS["t5-base"], vocab_size=32128)
    source, target, layers, width, inner, vocabulary = 512, 114, 12, 768, 2048, 32128
    matrices = 3 * width * inner
    by_hand = 6 * (source * layers * (4 * width**2 + matrices) + target * layers * (6 * width**2 + matrices))
    by_hand += 6 * 2 * source * layers * width**2
    by_hand += 12 * width * (layers * source**2 + layers * (target**2 / 2 + target * source))
    by_hand += 6 * target * width * vocabulary
    one = Pass(1, source, target, heads=(HeadConfig("causal_lm"),))
    assert training_flops(config, [one]).total == pytest.approx(by_hand)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 5, 30, 63, 64, 100])
def test_a_window_is_counted_as_its_mask_is(window, causal):
    """The pairs of a dense mask, counted one by one."""
    config = ModelConfig(**{**PRESETS["modernbert-base"], **SMALL, "num_layers": 1, "windows": (window,)})
    visible = sum(
        abs(query - key) <= window and (key <= query or not causal) for query in range(LENGTH) for key in range(LENGTH)
    )
    found = forward_flops(config, Pass(1, LENGTH, causal=causal)).attention / (4 * config.embed_dim)
    # Without a window half of a causal mask's pairs are counted, as papers do, not the diagonal's other half.
    assert found == pytest.approx(visible, rel=0.02 if causal and window >= LENGTH else 1e-9)


def test_the_query_stream_doubles_what_reads_keys_and_values():
    config = ModelConfig(**{**PRESETS["xlnet-base"], **SMALL})
    content = forward_flops(config, Pass(1, LENGTH))
    both = forward_flops(config, Pass(1, LENGTH, streams=2))
    assert both.attention == 2 * content.attention
    keys_and_values = config.num_layers * LENGTH * 4 * config.embed_dim**2
    assert both.layers == 2 * content.layers - keys_and_values


def test_what_takes_no_gradient_costs_a_third():
    one = Pass(2, LENGTH, heads=(HeadConfig("causal_lm"),), causal=True)
    untrained = dataclasses.replace(one, trained=False)
    assert training_flops(llama(), [untrained]).total * 3 == pytest.approx(training_flops(llama(), [one]).total)


def test_streams_add_up():
    masked = Pass(3, LENGTH, places=PLACES, heads=(HeadConfig("masked_lm"),))
    other = Pass(2, 32, heads=(HeadConfig("sequence_classification", 2),))
    config = ModelConfig(**{**PRESETS["bert-base"], **SMALL})
    both = training_flops(config, [masked, other]).total
    assert both == training_flops(config, [masked]).total + training_flops(config, [other]).total
