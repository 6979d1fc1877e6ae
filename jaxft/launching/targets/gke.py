"""GKE, by a JobSet of our own."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping

from jaxft.errors import RecipeError
from jaxft.launching.accelerators import gke_labels
from jaxft.launching.job import HOME, PORT, Job, Launch
from jaxft.launching.target import Target
from jaxft.launching.templates import render, shell


def plan(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """A JobSet on GKE, in the cluster and namespace of kubectl's context."""
    hardware, bucket = job.hardware, job.bucket
    if hardware is None:
        raise RecipeError("gke needs --topology, like v5e-16 or h100-8")
    if job.image is None:
        raise RecipeError("gke needs --image, with jaxft in it; `jaxft launch docker` builds one")
    if bucket is None and not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", job.storage):
        raise RecipeError(f"gke needs --storage {GKE.storage}; found {job.storage}")
    words = list(job.words("/launch/recipe.yaml"))
    if not hardware.is_tpu:
        first = f"{job.slug}-hosts-0-0.{job.slug}:{PORT}"
        words += ["--coordinator", first, "--processes", str(hardware.hosts)]
    # Kubernetes puts variables into arguments itself; what the user named so stays a name.
    words = [word.replace("$", "$$") for word in words] + ([] if hardware.is_tpu else ["--index", "$(JAXFT_INDEX)"])
    mount = "implicit-dirs" + (f",only-dir:{bucket[1]}" if bucket and bucket[1] else "")
    secrets = {name: _secret_key(name, reference) for name, reference in job.secrets.items()}
    text = render(
        "gke/jobset.yaml.j2",
        job=job,
        home=HOME,
        words=words,
        node_selector=gke_labels(hardware),
        secrets=secrets,
        port=PORT,
        bucket=bucket and bucket[0],
        mount_options=mount,
        resource="google.com/tpu" if hardware.is_tpu else "nvidia.com/gpu",
    )
    where = tuple(f"--{name}={value}" for name, value in options.items())
    command = ("kubectl", *where, "apply", "--filename", str(directory / "jobset.yaml"))
    selector = f"jobset.sigs.k8s.io/jobset-name={job.slug}"
    advice = f"to follow it: {shell(('kubectl', *where, 'logs', '--follow', '--selector', selector))}"
    return Launch({"jobset.yaml": text}, (command,), (advice,))


def _secret_key(name: str, reference: str) -> tuple[str, str]:
    """Name of a Kubernetes secret and its key, from `SECRET:KEY`."""
    secret, _, key = reference.partition(":")
    return secret, key or name


GKE = Target(
    plan,
    takes=("image", "secrets", "spot", "service_account", "restarts"),
    options=("namespace", "context"),
    storage="gs://BUCKET/DIRECTORY or the name of a volume claim",
)
