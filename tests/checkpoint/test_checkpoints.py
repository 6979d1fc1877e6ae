"""Checkpoints: bit-equal or refused, the newest whole one, and none removed before its successor is there."""

from __future__ import annotations

import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.checkpoint.checkpoints import CheckpointConfig, Checkpoints, described_arrays
from jaxft.errors import CheckpointError, InvalidField


class State(NamedTuple):
    parameters: dict
    training: dict


def make_state(seed: int = 0) -> State:
    """Parameters of several dtypes and the state of AdamW, with every bit pattern that floats have."""
    rng = np.random.default_rng(seed)
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, 1 / 3], np.float32)
    parameters = {
        "trunk": {
            "kernel": jnp.asarray(rng.normal(size=(16, 24)), jnp.float32),
            "half": jnp.asarray(rng.normal(size=(8,)), jnp.bfloat16),
            "odd": jnp.asarray(odd),
        },
        "head_task": {"bias": jnp.asarray(rng.normal(size=(3,)), jnp.float32)},
    }
    moments = optax.adamw(1e-3).init(parameters)
    moments = jax.tree.map(lambda x: x + jnp.asarray(rng.integers(1, 9), x.dtype), moments)
    training = {"optimizer": moments, "step": jnp.int32(rng.integers(2**31)), "seed": jnp.int32(seed)}
    return State(parameters, training)


def bits(tree) -> list:
    return [(str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


def shapes_of(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def save(checkpoints: Checkpoints, step: int, kept=(), on_complete=lambda: None, state: State | None = None) -> State:
    state = state or make_state(step)
    progress = {"history": [{"step": step, "reviews.accuracy": 0.5}]}
    checkpoints.save(step, state.parameters, state.training, progress, set(kept), on_complete)
    return state


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints")
    yield made
    made.close()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A directory with the steps 10 and 20; to be copied."""
    made = Checkpoints(tmp_path_factory.mktemp("run") / "checkpoints")
    save(made, 10)
    save(made, 20, kept={10})
    made.close()
    return made.directory


@pytest.fixture
def copied(two_steps, tmp_path):
    return Checkpoints(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


# --- Whole ---


def test_what_was_saved_comes_back_bit_by_bit(checkpoints):
    state = save(checkpoints, 7)
    checkpoints.wait()
    parameters, training = checkpoints.restore(7, shapes_of(state.parameters), shapes_of(state.training))
    assert bits(parameters) == bits(state.parameters)
    assert bits(training) == bits(state.training)
    assert jax.tree.structure(parameters) == jax.tree.structure(state.parameters)
    assert jax.tree.structure(training) == jax.tree.structure(state.training)
    assert checkpoints.progress(7)["history"] == [{"step": 7, "reviews.accuracy": 0.5}]


def test_parameters_alone_by_their_own_description(copied):
    """What evaluation does: it knows nothing of the optimizer, and the shapes come from the checkpoint."""
    described = described_arrays(copied.progress(20)["arrays"]["parameters"])
    parameters, training = copied.restore(20, described)
    assert training is None
    assert bits(parameters) == bits(make_state(20).parameters)


def test_the_state_may_change_as_soon_as_save_returns(checkpoints):
    """The training loop donates its buffers to the next step."""
    state = make_state(1)
    wanted = bits(state)
    save(checkpoints, 1, state=state)
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    checkpoints.wait()
    restored = checkpoints.restore(1, shapes_of(make_state(1).parameters), shapes_of(make_state(1).training))
    assert bits(State(*restored)) == wanted


def test_steps_are_listed_in_order_and_others_are_not_steps(checkpoints):
    assert (checkpoints.steps(), checkpoints.newest_good()) == ([], None)
    for step in (100, 20, 3):
        save(checkpoints, step, kept={100, 20, 3})
    checkpoints.wait()
    for name in ("50", "latest", ".removed-4"):
        (checkpoints.directory / name).mkdir()
    assert checkpoints.steps() == [3, 20, 100]
    assert checkpoints.newest_good() == 100


# --- Damaged ---


def test_a_flipped_byte_in_any_file_is_not_accepted(copied):
    step = copied.directory / "20"
    assert copied.newest_good() == 20
    paths = files(step)
    assert len(paths) > 5
    for path in paths:
        content = path.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1} if content else ():
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
            assert copied.newest_good() == 10, (path, place)
            with pytest.raises(CheckpointError, match="20 cannot be used"):
                copied.verify(20)
        path.write_bytes(content)
        copied.verify(20)
    assert copied.newest_good() == 20


def test_a_removed_or_shortened_file_is_not_accepted(copied):
    for path in files(copied.directory / "20"):
        content = path.read_bytes()
        path.unlink()
        assert copied.newest_good() == 10, path
        path.write_bytes(content[:-1])
        assert copied.newest_good() == 10 or not content, path
        path.write_bytes(content)
    assert copied.newest_good() == 20


def test_the_damaged_one_is_named_in_the_log(copied, caplog):
    path = max(files(copied.directory / "20" / "parameters"), key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with caplog.at_level("WARNING", "jaxft"):
        assert copied.newest_good() == 10
    assert path.relative_to(copied.directory / "20").as_posix() in caplog.text and "20" in caplog.text


def test_a_step_without_a_manifest_is_none(copied):
    (copied.directory / "20" / "manifest.json").unlink()
    assert copied.steps() == [10] and copied.newest_good() == 10
    with pytest.raises(CheckpointError, match="not completely written"):
        copied.verify(20)


def test_damage_everywhere_is_an_error(copied):
    for step in (10, 20):
        (copied.directory / str(step) / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole: 2 of 2"):
        copied.newest_good()


def test_a_step_that_is_not_there_is_an_error(copied):
    with pytest.raises(CheckpointError, match="30"):
        copied.progress(30)
    with pytest.raises(CheckpointError, match="30"):
        copied.verify(30)


def test_a_damaged_or_unfinished_step_is_written_anew(copied):
    (copied.directory / "20" / "manifest.json").unlink()
    state = save(copied, 20, kept={10}, state=make_state(99))
    copied.close()
    copied.verify(20)
    assert bits(copied.restore(20, shapes_of(state.parameters))[0]) == bits(state.parameters)


# --- Other arrays than asked for ---


def changed(tree, name: str, value):
    """A copy of a nested dict with one leaf replaced, or removed where `value` is None."""
    first, _, rest = name.partition("/")
    if rest:
        return {**tree, first: changed(tree[first], rest, value)}
    return {key: old for key, old in {**tree, first: value}.items() if old is not None}


STRUCT = jax.ShapeDtypeStruct


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "trunk/kernel",
            STRUCT((16, 24), jnp.bfloat16),
            r"trunk/kernel is float32\[16, 24\], expected bfloat16\[16, 24\]",
        ),
        ("trunk/half", STRUCT((8,), jnp.float32), r"trunk/half is bfloat16\[8\], expected float32\[8\]"),
        (
            "trunk/kernel",
            STRUCT((24, 16), jnp.float32),
            r"trunk/kernel is float32\[16, 24\], expected float32\[24, 16\]",
        ),
        ("trunk/kernel", STRUCT((16, 23), jnp.float32), r"trunk/kernel is .*expected float32\[16, 23\]"),
        ("trunk/more", STRUCT((2,), jnp.float32), r"has no array trunk/more float32\[2\]"),
        ("head_task/bias", None, r"has an array head_task/bias float32\[3\] that this run has not"),
        ("head_task", None, r"has an array head_task/bias"),
    ],
)
def test_another_dtype_shape_or_name_is_an_error_that_names_the_array(copied, name, value, message):
    state = make_state(20)
    wanted = changed(shapes_of(state.parameters), name, value)
    for training in (None, shapes_of(state.training)):
        with pytest.raises(CheckpointError, match=message):
            copied.restore(20, wanted, training)


def test_another_optimizer_is_an_error_that_names_the_array(copied):
    state = make_state(20)
    other = {**state.training, "optimizer": optax.sgd(1e-3, momentum=0.9).init(state.parameters)}
    with pytest.raises(CheckpointError, match=r"array .*optimizer"):
        copied.restore(20, shapes_of(state.parameters), shapes_of(other))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, state.training)
    with pytest.raises(CheckpointError, match=r"optimizer/.* is float32.*expected bfloat16"):
        copied.restore(20, shapes_of(state.parameters), shapes_of(half))


# --- Keeping ---


def test_what_is_not_kept_is_removed(checkpoints):
    for step, kept in ((1, ()), (2, {1}), (3, {1, 2}), (4, {1, 3})):
        save(checkpoints, step, kept=kept)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3, 4]
    assert {path.name for path in checkpoints.directory.iterdir()} == {"1", "3", "4"}
    for step in (1, 3, 4):
        checkpoints.verify(step)


def test_a_newer_step_that_the_run_went_back_behind_is_removed(copied):
    """Step 20 was damaged, so the run resumed from 10: its 20 must not be taken for the newest later."""
    save(copied, 15, kept={10})
    copied.close()
    assert copied.steps() == [10, 15]


def test_completion_is_told_when_the_step_is_whole_and_before_others_go(checkpoints):
    seen = []

    def note():
        checkpoints.verify(2)
        seen.append(checkpoints.steps())

    save(checkpoints, 1)
    save(checkpoints, 2, kept=(), on_complete=note)
    checkpoints.wait()
    assert seen == [[1, 2]] and checkpoints.steps() == [2]


# --- Failing ---


def test_a_failure_on_completion_surfaces_at_wait_and_keeps_the_others(checkpoints):
    def full():
        raise OSError(28, "No space left on device")

    save(checkpoints, 1)
    save(checkpoints, 2, on_complete=full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.wait()
    assert 1 in checkpoints.steps()
    checkpoints.wait()  # told once
    save(checkpoints, 3)
    checkpoints.wait()
    assert checkpoints.newest_good() == 3


def test_a_failure_surfaces_at_the_next_save(checkpoints):
    def full():
        raise OSError(28, "No space left on device")

    save(checkpoints, 1, on_complete=full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(checkpoints, 2)
    assert checkpoints.steps() == [1]


def test_a_directory_that_cannot_be_written_is_an_error_and_the_writer_survives(tmp_path):
    blocked = tmp_path / "run"
    blocked.write_text("a file where a directory should be")
    checkpoints = Checkpoints(blocked / "checkpoints")
    with pytest.raises(CheckpointError):
        save(checkpoints, 1)
        checkpoints.wait()
    assert checkpoints.steps() == []
    blocked.unlink()
    save(checkpoints, 2)
    checkpoints.close()
    assert checkpoints.newest_good() == 2


def test_a_checkpoint_that_vanishes_while_it_is_written_is_an_error(checkpoints, monkeypatch):
    save(checkpoints, 1)
    checkpoints.wait()
    from orbax.checkpoint import AsyncCheckpointer

    finish = AsyncCheckpointer.wait_until_finished

    def vanish(self):
        finish(self)
        shutil.rmtree(checkpoints.directory / "2", ignore_errors=True)

    monkeypatch.setattr(AsyncCheckpointer, "wait_until_finished", vanish)
    save(checkpoints, 2)
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoints.wait()
    assert checkpoints.newest_good() == 1


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}])
def test_impossible_values_are_refused(options):
    with pytest.raises(InvalidField):
        CheckpointConfig(**options)
