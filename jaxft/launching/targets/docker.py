"""Images."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping

from jaxft.errors import RecipeError
from jaxft.launching.job import Job, Launch
from jaxft.launching.target import Target, is_true
from jaxft.launching.templates import render


def plan(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """An image with jaxft in it."""
    if job.image is None:
        raise RecipeError("docker needs --image NAME:TAG, the name of the image to build")
    extra = "tpu" if job.hardware is not None and job.hardware.is_tpu else "cuda12"
    about = f"jaxft for {'TPUs' if extra == 'tpu' else 'GPUs'}; the same image trains, evaluates and prepares."
    text = render("docker/Dockerfile.j2", about=about, extra=extra, install=_one_line(job.install))
    files = {"Dockerfile": text, "recipe.yaml": job.recipe}
    commands: list[tuple[str, ...]] = [("docker", "build", "--tag", job.image, str(directory))]
    if is_true(options, "push"):
        commands.append(("docker", "push", job.image))
    return Launch(files, tuple(commands))


def _one_line(requirement: str) -> str:
    return '"' + re.sub(r'(["\\$])', r"\\\1", requirement) + '"'


DOCKER = Target(plan, takes=("image", "install"), options=("push",))
