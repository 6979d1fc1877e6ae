"""Low-rank updates: nothing at the start, mergeable exactly in every family, and trained alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen
from support.drawn import draw_parameters
from support.small_tuning import described, moved, optimizer_of, policy_of, run, start_of, step_of
from support.two_heads import LENGTH, VOCABULARY, make_batches, objectives, small_config, small_model

from jaxft.errors import InvalidField, RecipeError
from jaxft.finetuning.lora import LoraConfig, LoraModel, begun, check_targets, merged, trained_names
from jaxft.finetuning.naming import parameter_names
from jaxft.kernels.quantization import dequantize, quantize
from jaxft.models.config import ComputeConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.layers import Linear
from jaxft.models.model import Model, initialize
from jaxft.models.transformer import Sequences
from jaxft.training.step import bind

slow = pytest.mark.slow
TRAINED = ("/lora_a$", "/lora_b$", "/dora_magnitude$", "^head_")
FAMILIES = {
    # A first layer by itself, a repeat of two kinds, and one that is left over.
    "encoder": {"num_layers": 4, "windows": (0, 2), "first_attention_norm": False},
    "shared": {"num_layers": 2, "share_layers": True},
    "disentangled": {"num_layers": 2, "position": "disentangled", "convolution": 3},
    "decoder": {
        "family": "decoder", "position": "rotary", "norm": "rmsnorm", "gated": True, "num_layers": 2, "num_kv_heads": 1,
        "attention_bias": False, "mlp_bias": False,
    },
    "encoder_decoder": {"family": "encoder_decoder", "num_layers": 1, "num_decoder_layers": 2},
}  # fmt: skip


@functools.cache
def plain_and_start(family: str, config: LoraConfig):
    """A model, drawn parameters of it, the adapted model, and the start that these give it."""
    model = (
        small_model()
        if family == "small"
        else Model(small_config(**FAMILIES[family]), (), ComputeConfig(scan_layers=True))
    )
    adapted = LoraModel(model, config)
    fresh = jax.jit(lambda: initialize(adapted, jax.random.key(0)))()
    plain = draw_parameters(model)
    return model, plain, adapted, begun(plain, fresh, described(adapted)[1], config)


def grown(parameters, seed: int = 5):
    """Adapted parameters as after training: updates that are not zero, magnitudes that are not lengths."""
    generator = np.random.default_rng(seed)

    def drawn(path, leaf):
        name = path[-1].key
        if name == "lora_b":
            return jnp.asarray(0.3 * generator.normal(size=leaf.shape), jnp.float32)
        return leaf * jnp.float32(1.3) if name == "dora_magnitude" else leaf

    return jax.tree_util.tree_map_with_path(drawn, parameters)


@functools.cache
def hidden_of(model):
    """Compiled hidden states of some sequences."""
    inputs = Sequences(jnp.asarray(np.random.default_rng(1).integers(0, VOCABULARY, (2, LENGTH)), jnp.int32))
    targets = inputs if model.config.family == "encoder_decoder" else None
    return jax.jit(lambda parameters: model.apply({"params": parameters}, inputs, targets).hidden)


# --- The start and the merge ---


@pytest.mark.parametrize(
    ("family", "dora"),
    [
        pytest.param(family, dora, marks=() if (family, dora) in (("decoder", False), ("encoder", True)) else slow)
        for family, dora in [*((family, False) for family in FAMILIES), ("encoder", True), ("shared", True)]
    ],
)
def test_an_adapted_model_begins_as_it_was_and_merges_exactly(family, dora):
    config = LoraConfig(rank=3, dora=dora)
    model, plain, adapted, start = plain_and_start(family, config)
    before = hidden_of(model)(plain)
    np.testing.assert_allclose(hidden_of(adapted)(start), before, atol=1e-5 if dora else 0)
    trained = grown(start)
    after = hidden_of(adapted)(trained)
    assert np.abs(after - before).max() > 0.1
    whole = merged(trained, described(adapted)[1], config)
    assert parameter_names(whole) == parameter_names(plain)
    np.testing.assert_allclose(hidden_of(model)(whole), after, atol=2e-5)
    # What was not adapted is as it was.
    for name, one, two in zip(parameter_names(plain), jax.tree.leaves(plain), jax.tree.leaves(whole), strict=True):
        assert np.array_equal(one, two) or name.endswith("kernel"), name


def test_every_linear_layer_of_the_blocks_is_adapted_and_nothing_else():
    _, plain, _, start = plain_and_start("encoder_decoder", LoraConfig(rank=3))
    kernels = {name.removesuffix("/kernel") for name in parameter_names(plain) if name.endswith("/kernel")}
    adapted = {name.removesuffix("/lora_a") for name in parameter_names(start) if name.endswith("/lora_a")}
    assert adapted == kernels and len(kernels) == 6 + 10


def test_targets_choose_layers_and_must_find_some():
    config = LoraConfig(rank=3, targets=("/(query|value)/$",))
    model, _, _, start = plain_and_start("encoder", config)
    adapted = {name.split("/")[-2] for name in parameter_names(start) if name.endswith("/lora_a")}
    assert adapted == {"query", "value"}
    check_targets(model, config)
    with pytest.raises(RecipeError, match=r"finetuning.lora.targets: 'q_proj' matches no parameter; the nearest are"):
        check_targets(model, LoraConfig(targets=("q_proj",)))


# --- What is trained ---


@functools.cache
def tuned(config: LoraConfig, compute: ComputeConfig | None = None, steps: int = 2, **options):
    """State before and after some steps on both streams, and the metrics."""
    _, _, adapted, start = plain_and_start("small", config)
    adapted = LoraModel(small_model(compute), config)
    policy = policy_of(adapted, train_only=(*trained_names(config), "^head_"))
    optimizer = optimizer_of(adapted, policy, name="adamw", weight_decay=0.1, epsilon=1e-2)
    state = start_of(start, optimizer, policy)
    return adapted, state, *run(state, step_of(adapted, optimizer, policy, **options), steps)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_low_rank_matrices_and_heads_move_and_nothing_else(dora):
    adapted, before, after, _ = tuned(LoraConfig(rank=3, dora=dora))
    own = {"lora_a", "lora_b", *(["dora_magnitude"] if dora else [])}
    found = moved(adapted, before.parameters, after.parameters)
    everything = {name for names in described(adapted)[2] for name in names}
    wanted = {name for name in everything if name.startswith("head_") or name.split("/")[-1] in own}
    assert found <= wanted
    # The keys' bias has no part in a softmax; a classifier's row may be left alone too.
    assert {name for name in wanted if "/lora_" in name} <= found
    moments = optax.tree.get(after.optimizer, "mu")
    assert not any("/kernel" in name and name.startswith("trunk/") for name in parameter_names(moments))


@pytest.mark.parametrize(
    "changed",
    [
        {"compute": ComputeConfig()},
        pytest.param({"compute": ComputeConfig(scan_layers=True, remat="dots")}, marks=slow),
        pytest.param({"micro_batches": 4}, marks=slow),
    ],
    ids=["unrolled", "remat", "micro-batches"],
)
def test_how_it_is_computed_changes_nothing(changed):
    _, _, wanted, seen = tuned(LoraConfig(rank=3, dora=True))
    _, _, found, other = tuned(LoraConfig(rank=3, dora=True), **changed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), wanted.parameters, found.parameters)
    for one, two in zip(seen, other, strict=True):
        assert two["loss"] == pytest.approx(float(one["loss"]), rel=1e-5)


def test_bfloat16_is_near_and_keeps_float32_parameters():
    _, _, _, seen = tuned(LoraConfig(rank=3))
    _, _, found, other = tuned(LoraConfig(rank=3), ComputeConfig("bfloat16", scan_layers=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(found.parameters)} == {np.dtype(np.float32)}
    losses = np.array([[metrics["loss"] for metrics in both] for both in (seen, other)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.03)
    assert (losses[0] != losses[1]).any()


def test_the_update_drops_inputs_in_training_alone():
    config = LoraConfig(rank=3, dropout=0.5)
    _, _, adapted, start = plain_and_start("small", config)
    without = LoraModel(adapted.base, LoraConfig(rank=3))
    batch, parameters = make_batches(0)["task"], grown(start)

    @functools.partial(jax.jit, static_argnums=0)
    def loss(model, parameters, key):
        return objectives()["task"].loss(bind(model, parameters, key), batch).loss

    evaluated = [loss(model, parameters, None) for model in (adapted, without)]
    trained = [loss(adapted, parameters, jax.random.key(seed)) for seed in (0, 0, 1)]
    assert evaluated[0] == evaluated[1]
    assert trained[0] == trained[1] and len({float(x) for x in (evaluated[0], *trained)}) == 3
    # At the start there is no update, so nothing is dropped.
    assert loss(adapted, start, jax.random.key(0)) == pytest.approx(float(loss(adapted, start, None)), rel=1e-6)


# --- Against the formulas ---


def linear_case(config: LoraConfig, seed: int = 0):
    """One adapted projection of `(5, 6)` inputs to 2 heads of width 3: its output and gradients, and their parts."""

    class Outer(Model):
        def setup(self):
            self.trunk = Linear((2, 3), ("embed",), ("heads", "head_dim"), use_bias=True)

        def __call__(self, x):
            return self.trunk(x)

    x = jnp.asarray(np.random.default_rng(seed).normal(size=(5, 6)), jnp.float32)
    model = LoraModel(Outer(small_config()), config)
    return x, model, grown(linen.unbox(model.init(jax.random.key(seed), x)["params"]))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_outputs_and_gradients_are_those_of_the_formula_in_torch(dora):
    config = LoraConfig(rank=3, alpha=5.0, targets=("^trunk/$",), dora=dora)
    x, model, parameters = linear_case(config)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(5, 6)), jnp.float32)

    def total(parameters):
        return (model.apply({"params": parameters}, x).reshape(5, 6) * weights).sum()

    value, gradient = jax.value_and_grad(total)(parameters)
    own = {name: torch.tensor(np.asarray(leaf), requires_grad=True) for name, leaf in parameters["trunk"].items()}
    kernel, a, b = own["kernel"].detach().reshape(6, 6), own["lora_a"], own["lora_b"].reshape(3, 6)
    inputs = torch.tensor(np.asarray(x))
    if dora:
        # Liu et al. 2024, equation 5, the norm held constant as in their section 4.3; W is (inputs, outputs) here.
        whole = kernel + 5 / 3 * a @ b
        norm = whole.norm(dim=0).detach()
        y = inputs @ whole * (own["dora_magnitude"].reshape(6) / norm) + own["bias"].reshape(6)
    else:
        y = inputs @ kernel + 5 / 3 * inputs @ a @ b + own["bias"].reshape(6)
    wanted = (y * torch.tensor(np.asarray(weights))).sum()
    wanted.backward()
    assert float(value) == pytest.approx(wanted.item(), rel=1e-5)
    for name in ("lora_a", "lora_b", "bias", *(["dora_magnitude"] if dora else [])):
        np.testing.assert_allclose(gradient["trunk"][name], own[name].grad.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


# --- Quantized bases ---


@pytest.mark.slow
@pytest.mark.parametrize(("form", "dora"), [("nf4", False), ("int8", True)])
def test_a_quantized_base_computes_trains_and_merges_as_its_dequantized_one(form, dora):
    config = LoraConfig(rank=3, quantize=form, dora=dora)
    plain_config = LoraConfig(rank=3, dora=dora)
    model, plain, adapted, start = plain_and_start("small", config)
    names = parameter_names(start)
    assert not any(name.startswith("trunk/body/stack") and name.endswith("/kernel") for name in names)
    # The base that the codes stand for, under the same low-rank matrices.
    rounded = jax.tree_util.tree_map_with_path(
        lambda path, leaf: rounded_kernel(leaf, form) if is_adapted(path) else leaf, plain
    )
    other = LoraModel(model, plain_config)
    dequantized = begun(rounded, with_matrices_of(start, other), described(other)[1], plain_config)
    results = []
    for one, begin in ((adapted, start), (other, dequantized)):
        policy = policy_of(one, train_only=(*trained_names(config), "^head_"))
        optimizer = optimizer_of(one, policy, name="sgd")
        state, seen = run(start_of(begin, optimizer, policy), step_of(one, optimizer, policy), 2)
        results.append((merged(state.parameters, described(one)[1], one.lora), seen))
    (found, seen), (wanted, other_seen) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
    for a, b in zip(seen, other_seen, strict=True):
        assert a["loss"] == pytest.approx(float(b["loss"]), rel=1e-5)


def is_adapted(path) -> bool:
    names = [key.key for key in path]
    return names[0] == "trunk" and names[-1] == "kernel"


def rounded_kernel(leaf, form):
    """What the codes of each layer's kernel stand for."""
    return jnp.stack([dequantize(quantize(layer, form), layer.shape, form) for layer in leaf])


def with_matrices_of(start, model):
    """Fresh parameters of a model whose low-rank matrices are those of another one."""
    fresh = jax.jit(lambda: initialize(model, jax.random.key(0)))()
    found = dict(zip(parameter_names(start), jax.tree.leaves(start), strict=True))
    names = iter(parameter_names(fresh))
    return jax.tree.map(
        lambda leaf: found[name] if (name := next(names)).endswith(("lora_a", "lora_b")) else leaf, fresh
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"rank": 0}, "rank"), ({"alpha": 0.0}, "alpha"), ({"dropout": 1.0}, "dropout"), ({"targets": ()}, "targets")],
)
def test_impossible_values_are_refused(fields, field):
    with pytest.raises(InvalidField) as raised:
        LoraConfig(**fields)
    assert raised.value.field == field


def test_the_update_is_twice_as_strong_as_its_rank_by_default():
    assert (LoraConfig(rank=4).scale, LoraConfig(rank=4, alpha=4.0).scale) == (2.0, 1.0)


def test_heads_can_be_adapted_too():
    model = Model(small_config(num_layers=1), (("task", HeadConfig("sequence_classification", 3)),))
    check_targets(model, LoraConfig(targets=("^head_task/pooler/",)))
