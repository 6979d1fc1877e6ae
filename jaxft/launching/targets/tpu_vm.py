"""Cloud TPU."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from jaxft.errors import RecipeError
from jaxft.launching.accelerators import cloud_tpu
from jaxft.launching.job import HOME, Job, Launch
from jaxft.launching.target import Target
from jaxft.launching.templates import render


def plan(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """A queued resource of Cloud TPU, asked for again until the run is done."""
    hardware, bucket = job.hardware, job.bucket
    if hardware is None:
        raise RecipeError("tpu-vm needs --topology, like v5e-16")
    accelerator, runtime = cloud_tpu("tpu-vm", hardware, instead=" (tpu7x: use gke or xpk)")
    if bucket is None:
        raise RecipeError(f"tpu-vm needs --storage gs://BUCKET/DIRECTORY, which its hosts share; found {job.storage}")
    where = [f"--{name}={value}" for name, value in options.items()]
    create = [f"--accelerator-type={accelerator}", f"--runtime-version={runtime}"]
    # The machines mount the bucket and read secrets as their service account.
    create.append("--scopes=https://www.googleapis.com/auth/cloud-platform")
    if hardware.slices > 1:
        create += [f"--node-count={hardware.slices}", f"--node-prefix={job.slug}"]
    else:
        create.append(f"--node-id={job.slug}")
    if job.spot:
        create.append("--spot")
    if job.service_account:
        create.append(f"--service-account={job.service_account}")
    mount = [*(["--only-dir", bucket[1]] if bucket[1] else []), bucket[0]]
    status = f"gs://{'/'.join(filter(None, bucket))}/launches/{job.slug}/status"
    files = {
        "startup.sh": render(
            "tpu-vm/startup.sh.j2",
            job=job,
            home=HOME,
            mount_words=mount,
            words=("/opt/jaxft/bin/jaxft", *job.words("/opt/jaxft/recipe.yaml")[1:]),
        ),
        "run.sh": render("tpu-vm/run.sh.j2", job=job, where=where, create_words=create, status_file=status),
    }
    advice = f"its hosts write /var/log/jaxft.log; the run is in {job.storage}/runs/{job.name}"
    return Launch(files, (("bash", str(directory / "run.sh")),), (advice,))


TPU_VM = Target(
    plan,
    takes=("install", "secrets", "spot", "service_account", "restarts"),
    storage="gs://BUCKET/DIRECTORY",
    options=("project", "zone"),
    needed=("zone",),
    calls=("gcloud",),
)
