"""SLURM."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping

from jaxft.errors import RecipeError
from jaxft.launching.job import Job, Launch
from jaxft.launching.target import WORD, Target
from jaxft.launching.templates import render


def plan(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """A batch job of SLURM, with one task on each node."""
    if job.hardware is None or job.hardware.is_tpu:
        found = "nothing" if job.hardware is None else job.hardware.kind
        raise RecipeError(f"slurm needs --topology with GPUs, like h100-16; found {found}")
    for name, value in options.items():
        if not re.fullmatch(r"[a-z][a-z-]*", name) or not WORD.fullmatch(value):
            raise RecipeError(f"--option {name}={value!r} is not one of sbatch, like partition=gpu or time=24:00:00")
    words = job.words(str(directory / "recipe.yaml"))
    text = render("slurm/train.sbatch.j2", job=job, home=job.storage, words=words, options=options)
    advice = f"{directory} must lie on a file system that the nodes share, as {job.storage}"
    files = {"train.sbatch": text, "recipe.yaml": job.recipe}
    return Launch(files, (("sbatch", str(directory / "train.sbatch")),), (advice,))


SLURM = Target(plan, takes=("env_file", "restarts"), options=None)
