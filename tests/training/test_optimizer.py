"""Optimizers: what decays, what stays, and the updates of others' implementations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.sharding import PartitionSpec

from jaxft.errors import InvalidField, RecipeError
from jaxft.finetuning.naming import parameter_names
from jaxft.models.model import abstract_parameters
from jaxft.training.optimizer import OptimizerConfig, decay_mask, make_optimizer
from jaxft.training.schedule import ScheduleConfig, make_schedule
from jaxft.training.step import bind

NAMES = ("adamw", "adafactor", "lion", "muon", "sgd")
BOTH = frozenset({"task", "masked_lm"})


LAYERS, EMBED, HEADS = 3, 24, (2, 8)
# Name of a parameter, its shape and its logical axes: one of each kind that a model has.
KINDS = {
    "head_masked_lm/projection/bias": ((40,), ("vocab",)),
    "head_masked_lm/transform/kernel": ((EMBED, EMBED), ("embed", "features")),
    "head_task/classifier/kernel": ((EMBED, 5), ("embed", "labels")),
    "trunk/attention/output/kernel": ((LAYERS, *HEADS, EMBED), ("layers", "heads", "head_dim", "embed")),
    "trunk/attention/query/bias": ((LAYERS, *HEADS), ("layers", "heads", "head_dim")),
    "trunk/attention/query/kernel": ((LAYERS, EMBED, *HEADS), ("layers", "embed", "heads", "head_dim")),
    "trunk/attention_norm/scale": ((LAYERS, EMBED), ("layers", "norm")),
    "trunk/embeddings/tokens/table": ((40, EMBED), ("vocab", "embed")),
}


def nested(flat: dict):
    tree: dict = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


@pytest.fixture(scope="module")
def axes():
    return nested({name: PartitionSpec(*names) for name, (_, names) in KINDS.items()})


@pytest.fixture(scope="module")
def parameters():
    return random_like(nested({name: np.empty(shape) for name, (shape, _) in KINDS.items()}), 0, 0.1)


def close(found, wanted, relative: float, absolute: float = 0.0, of: str = "") -> None:
    np.testing.assert_allclose(found, wanted, rtol=relative, atol=absolute, err_msg=of)


def random_like(tree, seed: int, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, scale, x.shape), jnp.float32), tree)


def trained(config: OptimizerConfig, parameters, axes, gradients, heads=BOTH, schedule=None):
    """Parameters after a step with each of the gradients."""
    optimizer = make_optimizer(
        config, schedule or optax.constant_schedule(config.learning_rate), parameters, axes, heads
    )
    return run_steps(optimizer, jax.jit(optimizer.update), parameters, gradients)


def run_steps(optimizer, update, parameters, gradients):
    state = jax.jit(optimizer.init)(parameters)
    for gradient in gradients:
        updates, state = update(gradient, state, parameters)
        parameters = jax.tree.map(jnp.add, parameters, updates)
    return parameters


@pytest.fixture(scope="module", params=NAMES)
def task_alone(request, parameters, axes):
    """A function from a decay and gradients to the parameters after steps at rate 0.1 with the head of `task` alone."""
    made = {}
    for decay in (0.0, 0.5):
        config = OptimizerConfig(request.param, 0.1, decay)
        optimizer = make_optimizer(config, optax.constant_schedule(0.1), parameters, axes, frozenset({"task"}))
        made[decay] = optimizer, jax.jit(optimizer.update)
    return lambda decay, gradients: named(run_steps(*made[decay], parameters, gradients))


def named(tree) -> dict[str, np.ndarray]:
    return dict(zip(parameter_names(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True))


def is_plain(name: str) -> bool:
    """What BERT does not decay."""
    return name.rsplit("/", 1)[1] in ("bias", "scale")


# --- Decay ---


def is_untrained(name: str) -> bool:
    return name.startswith("head_masked_lm")


def gradient_of_task(parameters, seed: int):
    """Random, but zero for the head that no stream trains."""
    gradient = random_like(parameters, seed)
    return {**gradient, "head_masked_lm": jax.tree.map(jnp.zeros_like, gradient["head_masked_lm"])}


def test_trained_kernels_and_tables_alone_shrink_by_rate_times_decay(parameters, task_alone):
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    after = task_alone(0.5, [zeros, zeros])
    for key, before in named(parameters).items():
        if is_plain(key) or is_untrained(key):
            assert np.array_equal(after[key], before), key
        else:
            close(after[key], before * 0.95**2, 1e-6, of=key)


def test_decay_is_added_to_the_update_and_does_not_enter_the_moments(parameters, task_alone):
    gradients = [gradient_of_task(parameters, 1)]
    plain, decayed = task_alone(0.0, gradients), task_alone(0.5, gradients)
    for key, before in named(parameters).items():
        wanted = plain[key] - (0 if is_plain(key) or is_untrained(key) else 0.05 * before)
        close(decayed[key], wanted, 0, 1e-6, key)


def test_the_head_that_no_stream_trains_stays_as_it_is(parameters, task_alone):
    after = task_alone(0.5, [gradient_of_task(parameters, seed) for seed in range(2)])
    for key, before in named(parameters).items():
        assert np.array_equal(after[key], before) == is_untrained(key), key


def test_patterns_of_ones_own(parameters):
    mask = named(decay_mask(parameters, ("bias$", "scale$", "embeddings/", "query"), BOTH))
    spared = {name for name, decayed in mask.items() if not decayed}
    assert "trunk/embeddings/tokens/table" in spared
    assert {name for name in mask if is_plain(name) or "embeddings/" in name or "query" in name} == spared
    assert all(named(decay_mask(parameters, (), BOTH)).values())


def test_a_pattern_that_matches_nothing_is_an_error_that_names_the_nearest(parameters):
    with pytest.raises(
        RecipeError,
        match=r"optimizer\.no_decay: 'embedings/tokens' matches no parameter; the nearest are 'embeddings/tokens'",
    ):
        decay_mask(parameters, ("bias$", "embedings/tokens"), BOTH)


def test_the_usual_patterns_need_not_match():
    """A model without biases is no mistake of the user's."""
    assert named(decay_mask({"trunk": {"kernel": jnp.zeros(3)}}, OptimizerConfig().no_decay, BOTH)) == {
        "trunk/kernel": True
    }


@pytest.mark.parametrize(
    "options", [{"learning_rate": 0}, {"weight_decay": -1}, {"b1": 1.0}, {"b2": -0.1}, {"no_decay": ("(",)}]
)
def test_impossible_values_are_refused(options):
    with pytest.raises(InvalidField) as raised:
        OptimizerConfig(**options)
    assert raised.value.field in options


# --- Updates of others ---


def torch_trained(make, parameters, gradients, rates) -> dict[str, np.ndarray]:
    """Parameters after torch's optimizer took the same gradients at these rates."""
    tensors = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in named(parameters).items()}
    plain = [tensor for name, tensor in tensors.items() if is_plain(name)]
    others = [tensor for name, tensor in tensors.items() if not is_plain(name)]
    optimizer = make([{"params": others}, {"params": plain, "weight_decay": 0.0}])
    for gradient, rate in zip(gradients, rates, strict=True):
        for name, value in named(gradient).items():
            tensors[name].grad = torch.tensor(value)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize(("name", "b1", "b2", "epsilon", "decay"), [
    ("adamw", 0.9, 0.999, 1e-8, 0.1), ("adamw", 0.8, 0.95, 1e-3, 0.0),
    ("sgd", 0.9, 0.0, 1e-8, 0.0), ("sgd", 0.0, 0.0, 1e-8, 0.0),
])  # fmt: skip
def test_updates_are_those_of_torch_over_several_steps_of_a_schedule(parameters, axes, name, b1, b2, epsilon, decay):
    gradients = [random_like(parameters, seed, 10.0 ** (seed - 2)) for seed in range(5)]
    schedule = make_schedule(ScheduleConfig("linear", warmup=2), 0.05, 6)
    config = OptimizerConfig(name, 0.05, decay, b1=b1, b2=b2, epsilon=epsilon)
    found = named(trained(config, parameters, axes, gradients, schedule=schedule))
    rates = [0.05 / 3, 0.05 * 2 / 3, 0.05, 0.05 * 3 / 4, 0.05 / 2]

    def make(groups):
        if name == "sgd":
            return torch.optim.SGD(groups, lr=0.05, momentum=b1)
        return torch.optim.AdamW(groups, lr=0.05, betas=(b1, b2), eps=epsilon, weight_decay=decay)

    wanted = torch_trained(make, parameters, gradients, rates)
    for key in wanted:
        close(found[key], wanted[key], 1e-5, 2e-6, key)


def test_lion_is_the_sign_of_the_mixed_momentum(parameters, axes):
    """Chen et al. 2023 (arXiv 2302.06675), algorithm 2."""
    b1, b2, rate, decay = 0.9, 0.99, 0.01, 0.2
    gradients = [random_like(parameters, seed, 10.0 ** (seed - 2)) for seed in range(4)]
    found = named(trained(OptimizerConfig("lion", rate, decay, b1=b1, b2=b2), parameters, axes, gradients))
    for key, value in named(parameters).items():
        momentum = np.zeros_like(value)
        for gradient in gradients:
            g = named(gradient)[key]
            direction = np.sign(b1 * momentum + (1 - b1) * g)
            value = value - rate * (direction + (0 if is_plain(key) else decay) * value)
            momentum = b2 * momentum + (1 - b2) * g
        close(found[key], value, 0, 1e-6, key)


# --- Matrices ---


def one_kernel(kind: str, layers: int | None, seed: int = 0):
    """A kernel from 24 inputs to outputs of `HEADS`, or the other way round, and its axes: 16 x 24 elements."""
    shape, names = {
        "reads": ((24, *HEADS), ("embed", "heads", "head_dim")),
        "writes": ((*HEADS, 24), ("heads", "head_dim", "embed")),
        "wide": ((24, 16), ("embed", "mlp")),
        "bias": (HEADS, ("heads", "head_dim")),
    }[kind]
    if layers is not None:
        shape, names = (layers, *shape), ("layers", *names)
    tree = {"trunk": {"kernel": jnp.asarray(np.random.default_rng(seed).normal(0, 0.1, shape), jnp.float32)}}
    return tree, {"trunk": {"kernel": PartitionSpec(*names)}}


def first_update(name: str, parameters, axes, gradient) -> np.ndarray:
    """The first update at rate 1 without decay."""
    after = trained(OptimizerConfig(name, 1.0, weight_decay=0.0), parameters, axes, [gradient])
    return np.asarray(after["trunk"]["kernel"] - parameters["trunk"]["kernel"])


@pytest.mark.parametrize(("kind", "matrix"), [("reads", (24, 16)), ("writes", (16, 24)), ("wide", (24, 16))])
@pytest.mark.parametrize("layers", [None, 3])
def test_muon_makes_all_singular_values_of_a_matrix_nearly_equal(kind, matrix, layers):
    parameters, axes = one_kernel(kind, layers)
    rng = np.random.default_rng(1)
    # Singular values of the gradient from 1 down to 1/16.
    stacked = np.stack([spread_matrix(rng, *matrix) for _ in range(layers or 1)])
    gradient = jnp.asarray(stacked.reshape(parameters["trunk"]["kernel"].shape), jnp.float32)
    update = first_update("muon", parameters, axes, {"trunk": {"kernel": gradient}}).reshape(-1, *matrix)
    for one, of in zip(update, stacked, strict=True):
        values = np.linalg.svd(one, compute_uv=False) / (0.2 * 24**0.5)  # as large as AdamW's (Liu et al. 2025)
        assert values.min() > 0.6 and values.max() < 1.3
        # It goes down the gradient, along its own singular vectors.
        left, _, right = np.linalg.svd(of, full_matrices=False)
        inner = left.T @ -one @ right.T
        assert np.abs(inner - np.diag(np.diag(inner))).max() < 0.05 * np.diag(inner).min()


def spread_matrix(rng, rows: int, columns: int) -> np.ndarray:
    left, _, right = np.linalg.svd(rng.normal(size=(rows, columns)), full_matrices=False)
    return left * np.geomspace(1, 1 / 16, min(rows, columns)) @ right


@pytest.mark.parametrize("name", ["muon", "adafactor"])
@pytest.mark.parametrize("kind", ["reads", "writes", "wide"])
def test_layers_of_a_stack_are_apart(name, kind):
    """As if each layer were a parameter of its own, even where its gradient is a thousand times as large."""
    (alone, alone_axes), (_, axes) = one_kernel(kind, None), one_kernel(kind, 3)
    kernel = alone["trunk"]["kernel"]  # the same in all layers, as the steps of Adafactor follow its size
    gradients = [random_like(kernel, layer, scale) for layer, scale in enumerate((1.0, 1e-3, 1e3))]
    stacked = first_update(
        name, nested({"trunk/kernel": jnp.stack([kernel] * 3)}), axes, nested({"trunk/kernel": jnp.stack(gradients)})
    )
    for layer, gradient in enumerate(gradients):
        wanted = first_update(name, alone, alone_axes, nested({"trunk/kernel": gradient}))
        close(stacked[layer], wanted, 1e-2, 1e-4 * float(np.abs(wanted).max()), str(layer))


@pytest.mark.parametrize("layers", [None, 3])
def test_muon_leaves_biases_of_heads_to_adam(layers):
    """A bias `(heads, head_dim)` has two axes but is no matrix: each element moves by the same amount."""
    parameters, axes = one_kernel("bias", layers)
    gradient = random_like(parameters, 1)
    update = first_update("muon", parameters, axes, gradient)
    close(np.abs(update), np.abs(update).mean(), 1e-3)
    assert np.array_equal(np.sign(update), -np.sign(gradient["trunk"]["kernel"]))


def test_muon_leaves_tables_and_outputs_over_labels_to_adam(parameters, axes):
    gradient = random_like(parameters, 1)
    after = named(trained(OptimizerConfig("muon", 1.0, weight_decay=0.0), parameters, axes, [gradient]))
    moved = {name: np.abs(after[name] - value) for name, value in named(parameters).items()}
    alike = {name for name, value in moved.items() if value.std() < 1e-3 * value.mean()}
    assert {name for name in moved if is_plain(name) or "table" in name or "classifier" in name} == alike


@pytest.mark.parametrize("heads", [(1, 256), (4, 64)])
def test_adafactor_keeps_less_than_a_tenth_of_the_parameters(heads):
    """Also of kernels whose single axes are too small to factor."""
    shapes = {"query": (3, 256, *heads), "output": (3, *heads, 256)}
    names = {"query": ("layers", "embed", "heads", "head_dim"), "output": ("layers", "heads", "head_dim", "embed")}
    tree = {"trunk": {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}}
    axes = {"trunk": {name: PartitionSpec(*spec) for name, spec in names.items()}}
    optimizer = make_optimizer(OptimizerConfig("adafactor"), optax.constant_schedule(1.0), tree, axes, BOTH)
    state = jax.eval_shape(optimizer.init, tree)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(state) < 0.1 * size(tree)


def test_adafactor_steps_follow_the_size_of_the_parameters():
    """Relative steps (Shazeer and Stern 2018, arXiv 1804.04235): ten times the parameters, ten times the step."""
    parameters, axes = one_kernel("wide", None)
    gradient = random_like(parameters, 1)
    one = first_update("adafactor", parameters, axes, gradient)
    ten = first_update("adafactor", jax.tree.map(lambda x: 10 * x, parameters), axes, gradient)
    close(ten, 10 * one, 1e-3)
    size = np.sqrt(np.mean(np.square(parameters["trunk"]["kernel"])))
    assert np.sqrt(np.mean(np.square(one))) == pytest.approx(size, rel=0.05)


# --- On a model ---


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


def test_the_default_of_a_model_decays_what_bert_decays(model):
    shapes, _ = abstract_parameters(model)
    mask = named(decay_mask(shapes, OptimizerConfig().no_decay, BOTH))
    assert len(mask) > 20
    assert {name for name, decayed in mask.items() if not decayed} == {name for name in mask if is_plain(name)}


@pytest.fixture(scope="module")
def loss_and_gradient(model, objectives, make_batches):
    batch = make_batches()["replay"]

    def loss(parameters):
        part = objectives["replay"].loss(bind(model, parameters), batch)
        return part.loss / part.weight

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("adamw", 3e-3),
        pytest.param("adafactor", 5e-2, marks=pytest.mark.slow),
        pytest.param("lion", 2e-3, marks=pytest.mark.slow),
        ("muon", 3e-3),
        pytest.param("sgd", 0.1, marks=pytest.mark.slow),
    ],
)
def test_every_optimizer_learns_a_batch_by_heart(model, fresh_parameters, loss_and_gradient, name, rate):
    parameters = fresh_parameters
    axes = abstract_parameters(model)[1]
    optimizer = make_optimizer(OptimizerConfig(name, rate), optax.constant_schedule(rate), parameters, axes, BOTH)

    update, losses, state = jax.jit(optimizer.update), [], optimizer.init(parameters)
    for _ in range(25):
        loss, gradient = loss_and_gradient(parameters)
        losses.append(float(loss))
        updates, state = update(gradient, state, parameters)
        parameters = jax.tree.map(jnp.add, parameters, updates)
    assert losses[0] == pytest.approx(np.log(200), rel=0.05)
    assert losses[-1] < 0.7 * losses[0]
