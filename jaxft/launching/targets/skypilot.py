"""SkyPilot."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from jaxft.errors import RecipeError
from jaxft.launching.accelerators import cloud_tpu
from jaxft.launching.job import HOME, PORT, Job, Launch
from jaxft.launching.target import Target
from jaxft.launching.templates import render


def plan(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """A managed job of SkyPilot."""
    hardware = job.hardware
    if hardware is None:
        raise RecipeError("skypilot needs --topology, like v5e-16 or h100-8")
    if "://" not in job.storage:
        raise RecipeError(f"skypilot needs --storage {SKYPILOT.storage}; found {job.storage}")
    if hardware.slices > 1:
        raise RecipeError("skypilot takes one TPU slice; use gke or tpu-vm for several")
    if hardware.is_tpu:
        accelerators, nodes = f"tpu-{cloud_tpu('skypilot', hardware)[0]}", 1
    else:
        accelerators, nodes = f"{hardware.kind.upper()}:{hardware.chips_per_host}", hardware.hosts
    for name, reference in job.secrets.items():
        if reference != name:
            raise RecipeError(
                f"--secret {name}={reference}: SkyPilot takes it from your environment; leave out the reference"
            )
    text = render(
        "skypilot/task.yaml.j2",
        job=job,
        home=HOME,
        accelerators=accelerators,
        nodes=nodes,
        port=PORT,
        recipe_path=str(directory / "recipe.yaml"),
        words=job.words("/tmp/jaxft/recipe.yaml"),
    )
    chosen = [word for name, value in options.items() for word in (f"--{name}", value)]
    secrets = [word for name in job.secrets for word in ("--secret", name)]
    task = str(directory / "task.yaml")
    command = ("sky", "jobs", "launch", "--yes", "--name", job.slug, *chosen, *secrets, task)
    return Launch({"task.yaml": text, "recipe.yaml": job.recipe}, (command,))


SKYPILOT = Target(
    plan,
    takes=("image", "install", "secrets", "spot"),
    options=("infra",),
    storage="gs://BUCKET/DIRECTORY or s3://BUCKET",
)
