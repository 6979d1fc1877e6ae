"""Balancing gradients, against numpy: the task's gradient stays what it is, and the others give way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.training.balance import BalanceConfig, ClipConfig, combine

NO_CLIP = ClipConfig(0.0)
WEIGHTS = (1.0, 0.5, 0.25)


def unit(vector):
    return vector / np.linalg.norm(vector)


def gradients(seed: int = 0) -> list[np.ndarray]:
    """Mean gradients of three streams: the second points against the first, the third along with it."""
    task, *others = np.random.default_rng(seed).normal(size=(3, 12))
    against = others[0] - (others[0] @ unit(task)) * unit(task) - 2.0 * unit(task)
    along = others[1] - (others[1] @ unit(task)) * unit(task) + 2.0 * unit(task)
    return [task, 10.0 * against, 0.1 * along]


def combined(own: list[np.ndarray], clip: ClipConfig = NO_CLIP, weights=WEIGHTS, **balance):
    """What comes out of gradients of sums over 4, 7 and 2 tokens, each in a tree of two arrays."""
    counts = (4.0, 7.0, 2.0)[: len(own)]
    trees = [
        {"a": jnp.float32(count * g[:5]), "b": jnp.float32(count * g[5:]).reshape(-1, 1)}
        for count, g in zip(counts, own, strict=True)
    ]
    means = [jnp.float32(1 / count) for count in counts]
    norms = [jnp.float32(np.linalg.norm(g)) for g in own]
    found = combine(trees, means, norms, weights, clip, BalanceConfig(**balance))
    total = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.gradient)])
    if clip.scope == "stream":  # else it is the norm before clipping
        assert float(found.norm) == pytest.approx(np.linalg.norm(total), rel=1e-4)
    return total, [float(cosine) for cosine in found.cosines]


def projected(own: list[np.ndarray]) -> list[np.ndarray]:
    task = unit(own[0])
    return [own[0], *(g - min(g @ task, 0.0) * task for g in own[1:])]


def clipped(own: list[np.ndarray], norm: float) -> list[np.ndarray]:
    return [g * min(1.0, norm / np.linalg.norm(g)) for g in own]


def summed(own: list[np.ndarray]) -> np.ndarray:
    return sum(weight * g for weight, g in zip(WEIGHTS, own, strict=True))


def test_without_balance_gradients_are_summed_by_weight():
    own = gradients()
    total, cosines = combined(own)
    np.testing.assert_allclose(total, summed(own), rtol=1e-4, atol=1e-5)
    assert cosines == []


def test_cosines_are_those_with_the_task():
    own = gradients()
    _, cosines = combined(own, cosine=True)
    assert cosines == pytest.approx([unit(g) @ unit(own[0]) for g in own[1:]], rel=1e-4)
    assert cosines[0] < -0.1 and cosines[1] > 0.1


@pytest.mark.parametrize("norm", [0.0, 0.5])
def test_norms_are_made_the_tasks(norm):
    """As long as the task's after its own clipping, so that clipping cannot part them again."""
    own = gradients()
    total, _ = combined(own, ClipConfig(norm), method="norm")
    task = clipped(own, norm)[0] if norm else own[0]
    wanted = [task, *(unit(g) * np.linalg.norm(task) for g in own[1:])]
    np.testing.assert_allclose(total, summed(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [0.0, 0.5])
def test_what_points_against_the_task_is_taken_out(norm):
    own = gradients()
    total, _ = combined(own, ClipConfig(norm), method="project")
    wanted = projected(clipped(own, norm) if norm else own)
    np.testing.assert_allclose(total, summed(wanted), rtol=1e-4, atol=1e-5)
    # Along the task's own direction there is never less than the task alone gives.
    alone = (clipped(own[:1], norm) if norm else own[:1])[0] @ unit(own[0])
    assert total @ unit(own[0]) >= alone - 1e-5


def test_projection_leaves_the_tasks_gradient_alone():
    own = gradients()
    both, _ = combined(own[:2], weights=WEIGHTS[:2], method="project")
    others = both - own[0]
    assert others @ unit(own[0]) == pytest.approx(0.0, abs=1e-4) and np.linalg.norm(others) > 1


@pytest.mark.parametrize("method", ["none", "norm", "project"])
def test_a_stream_that_rests_changes_nothing(method):
    own = gradients()
    total, _ = combined([own[0], np.zeros(12)], weights=(1.0, 0.0), method=method, cosine=True)
    np.testing.assert_allclose(total, own[0], rtol=1e-5)


@pytest.mark.parametrize("method", ["norm", "project"])
def test_a_total_clip_comes_after_the_balance(method):
    own = gradients()
    balanced, _ = combined(own, method=method)
    total, _ = combined(own, ClipConfig(0.5, "total"), method=method)
    np.testing.assert_allclose(total, unit(balanced) * 0.5, rtol=1e-4)
