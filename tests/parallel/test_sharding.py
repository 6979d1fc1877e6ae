"""The audit of parameter layouts: what fits is laid out by the table, what does not is refused by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from jaxft.errors import RecipeError
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.parallel.mesh import AXES, MeshConfig, make_mesh
from jaxft.parallel.sharding import (
    RULES,
    SMALL_ARRAY,
    constrain,
    parameter_shardings,
    parts_of,
    put_batch,
    replicated,
    spec_of,
)


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1, context: int = 1) -> AbstractMesh:
    return AbstractMesh((data, fsdp, tensor, context), AXES)


def lay_out(axes: tuple, shape: tuple, mesh) -> NamedSharding:
    tree = parameter_shardings(
        {"a": {"kernel": PartitionSpec(*axes)}}, {"a": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}}, mesh
    )
    return tree["a"]["kernel"]


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"tensor": 4, "data": 2}, {"fsdp": 2, "tensor": 2}, {"data": 8}, {}])
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder_decoder"])
def test_every_matrix_is_split_over_fsdp_and_tensor(family, sizes):
    fields = (
        {"position": "learned", "token_types": 2} if family == "encoder" else {"gated": True, "tied_embeddings": False}
    )
    config = ModelConfig(
        family=family, vocab_size=64, embed_dim=32, num_heads=8, mlp_dim=64, num_layers=2, attention_bias=True, **fields
    )
    model = Model(config, (("lm", HeadConfig("causal_lm")), ("task", HeadConfig("sequence_classification", 3))))
    shapes, axes = abstract_parameters(model)
    mesh = mesh_of(**sizes)
    shardings = parameter_shardings(axes, shapes, mesh)
    specs = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, PartitionSpec))
    for sharding, leaf, spec in zip(jax.tree.leaves(shardings), jax.tree.leaves(shapes), specs, strict=True):
        parts = leaf.size / np.prod(sharding.shard_shape(leaf.shape))
        by_fsdp = mesh.shape["fsdp"] if "embed" in spec else 1
        by_tensor = mesh.shape["tensor"] if {"heads", "kv_heads", "mlp", "vocab"} & set(spec) else 1
        assert parts == by_fsdp * by_tensor
        # All that is more than a vector can be split.
        assert leaf.size < 512 or {"embed"} & set(spec)


def test_a_layout_follows_the_table():
    sharding = lay_out(("layers", "embed", "heads", "head_dim"), (2, 16, 4, 8), mesh_of(fsdp=2, tensor=4))
    assert sharding.spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert sharding.shard_shape((2, 16, 4, 8)) == (2, 8, 1, 8)


def test_an_axis_without_a_rule_is_refused():
    with pytest.raises(RecipeError, match=r"a/kernel \(8, 8\).*no sharding rule.*'width'"):
        lay_out(("embed", "width"), (8, 8), mesh_of())


def test_an_axis_too_many_is_refused():
    with pytest.raises(RecipeError, match=r"a/kernel \(8, 8\) has 1 logical axes"):
        lay_out(("embed",), (8, 8), mesh_of())


def test_two_axes_on_one_mesh_axis_are_refused_on_every_mesh():
    for sizes in ({"tensor": 2}, {"fsdp": 2}, {}):
        with pytest.raises(RecipeError, match=r"a/kernel \(8, 8\).*mesh axis 'tensor'"):
            lay_out(("heads", "mlp"), (8, 8), mesh_of(**sizes))


def test_a_dimension_that_does_not_divide_is_refused_with_the_way_out():
    with pytest.raises(RecipeError, match=r"a/kernel \(8, 6\).*'heads' of 6.*mesh.tensor = 4.*divides 6"):
        lay_out(("embed", "heads"), (8, 6), mesh_of(tensor=4))
    lay_out(("embed", "heads"), (8, 6), mesh_of(tensor=3))


def test_a_large_array_left_whole_is_refused_with_the_way_out():
    large = (SMALL_ARRAY // 64 + 1, 64)
    with pytest.raises(RecipeError, match=r"a/kernel .* whole on each of the 8 devices; .*mesh.fsdp above 1"):
        lay_out(("embed", "features"), large, mesh_of(tensor=2, data=4))
    with pytest.raises(RecipeError, match=r"a/kernel .*no sharding rule splits"):
        lay_out(("norm", "features"), large, mesh_of(fsdp=8))
    # Small ones may stay, data parallelism alone keeps all whole, and what one axis splits is not whole.
    lay_out(("embed", "features"), (SMALL_ARRAY // 64, 64), mesh_of(tensor=2, data=4))
    lay_out(("embed", "features"), large, mesh_of(data=8))
    lay_out(("vocab", "embed"), (2**16, 64), mesh_of(tensor=2))


def test_every_rule_names_axes_of_the_mesh():
    for names in RULES.values():
        assert set((names,) if isinstance(names, str) else names or ()) <= set(AXES)


def test_an_unknown_axis_of_an_activation_is_a_defect():
    with pytest.raises(KeyError):
        spec_of(("batch", "wide"))


def test_constrain_is_the_identity_without_a_mesh_or_on_one_device():
    x = jnp.ones((2, 3))
    assert constrain(x, "batch", "features") is x
    with jax.set_mesh(make_mesh(MeshConfig())):
        assert constrain(x, "batch", "features") is x


def test_constrain_asks_for_the_layout_of_the_table():
    with jax.sharding.use_abstract_mesh(mesh_of(data=2, fsdp=2, tensor=2)):
        traced = jax.make_jaxpr(lambda x: constrain(x, "batch", "length", "heads", "head_dim"))(jnp.ones((4, 2, 2, 2)))
    (equation,) = traced.eqns
    assert equation.primitive.name == "sharding_constraint"
    assert equation.params["sharding"].spec == PartitionSpec(("data", "fsdp"), "context", "tensor", None)


@pytest.mark.parametrize(("axis", "parts"), [("length", 1), ("heads", 2), ("batch", 6), ("features", 1)])
def test_in_how_many_parts_the_mesh_in_use_splits_an_axis(axis, parts):
    assert parts_of(axis) == 1
    with jax.sharding.use_abstract_mesh(mesh_of(data=3, fsdp=2, tensor=2)):
        assert parts_of(axis) == parts


def test_a_batch_arrives_as_it_was():
    mesh = make_mesh(MeshConfig())
    batch = {"ids": np.arange(12, dtype=np.int32).reshape(4, 3), "weight": np.ones(4, np.float32)}
    placed = put_batch(batch, mesh)
    for name, array in batch.items():
        assert placed[name].dtype == array.dtype
        np.testing.assert_array_equal(placed[name], array)
    assert replicated(mesh).is_fully_replicated
