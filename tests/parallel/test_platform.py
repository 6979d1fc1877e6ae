"""Importing jaxft is silent on a machine that has libtpu but no TPU, and never overrides the user."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from jaxft.parallel.platform import step_options

TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES")


def run(program: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a program in an environment that says nothing of platforms but what is given."""
    inherited = {
        name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS" and name not in TPU_VARIABLES
    }
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


without_accelerator = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None
    or any(importlib.util.find_spec(f"jax_cuda{v}_plugin") for v in (12, 13)),
    reason="needs libtpu and no CUDA plugin",
)


@without_accelerator
@pytest.mark.parametrize("order", ["jaxft, jax", "jax, jaxft"])
def test_a_machine_without_accelerators_is_silent_and_on_its_cpu(order):
    done = run(f"import {order}; print(jax.devices()[0].platform)")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "cpu", "")


@pytest.mark.parametrize("order", ["jaxft, jax", "jax, jaxft"])
def test_the_users_choice_is_kept(order):
    done = run(f"import {order}; print(jax.config.jax_platforms)", JAX_PLATFORMS="tpu,cpu")
    assert (done.returncode, done.stdout.strip()) == (0, "tpu,cpu"), done.stderr


def test_a_tpu_machine_is_left_to_jax():
    done = run("import os, jaxft; print(os.environ.get('JAX_PLATFORMS'))", TPU_NAME="local")
    assert (done.returncode, done.stdout.strip()) == (0, "None"), done.stderr


def test_importing_jaxft_imports_neither_jax_nor_torch():
    done = run("import sys, jaxft; print(sorted({'jax', 'torch', 'transformers', 'matplotlib'} & set(sys.modules)))")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_compiler_gets_what_the_kind_of_device_needs_and_the_users_own_words_win(monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    assert step_options("cpu", "cpu") == step_options("gpu", "NVIDIA H200") == {}
    assert step_options("tpu", "TPU v5 lite").keys() == {"xla_jf_spmd_threshold_for_windowed_einsum_mib"}
    assert step_options("tpu", "TPU v6 lite").keys() == {
        "xla_jf_spmd_threshold_for_windowed_einsum_mib",
        "xla_tpu_scoped_vmem_limit_kib",
    }
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=65536")
    assert "xla_tpu_scoped_vmem_limit_kib" not in step_options("tpu", "TPU v6 lite")
