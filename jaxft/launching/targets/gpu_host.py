"""This machine."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from jaxft.errors import RecipeError
from jaxft.launching.job import HOME, Job, Launch
from jaxft.launching.target import Target
from jaxft.launching.templates import render


def plan(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """This machine, or a container on it."""
    script, recipe = directory / "train.sh", directory / "recipe.yaml"
    if job.image is None:
        files = {"train.sh": render("gpu-host/train.sh.j2", job=job, home=job.storage, words=job.words(str(recipe)))}
        return Launch({**files, "recipe.yaml": job.recipe}, (("bash", str(script)),))
    for path in (job.storage, str(directory)):
        if "," in path or '"' in path:
            raise RecipeError(f"docker cannot mount {path!r}: choose a path without commas and quotes")
    # Docker hands the variables over; the script in the container has no file of them.
    inside = Job(**{**vars(job), "env_file": None})
    text = render("gpu-host/train.sh.j2", job=inside, home=HOME, words=job.words("/launch/recipe.yaml"))
    command = [
        "docker",
        "run",
        "--rm",
        "--gpus",
        "all",
        "--ipc",
        "host",
        "--stop-timeout",
        "180",
        "--mount",
        f"type=bind,source={job.storage},target={HOME}",
        "--mount",
        f"type=bind,source={directory},target=/launch,readonly",
        *(("--env-file", job.env_file) if job.env_file else ()),
        job.image,
        "bash",
        "/launch/train.sh",
    ]
    return Launch({"train.sh": text, "recipe.yaml": job.recipe}, (tuple(command),))


GPU_HOST = Target(plan, takes=("image", "env_file", "restarts"))
