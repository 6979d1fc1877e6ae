"""From a job to what launches it on each target."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Mapping

from jaxft.errors import RecipeError
from jaxft.launching.job import HOME, PORT, Job, Launch
from jaxft.launching.templates import render, shell

# As the clouds call them: Cloud TPU's types, how many of their units a chip has, runtime versions; GKE's node labels.
_CLOUD_TPUS = {
    "v4": ("v4", 2, "tpu-ubuntu2204-base"),
    "v5e": ("v5litepod", 1, "v2-alpha-tpuv5-lite"),
    "v5p": ("v5p", 2, "v2-alpha-tpuv5"),
    "v6e": ("v6e", 1, "v2-alpha-tpuv6e"),
}
_GKE_TPUS = {
    "v4": "tpu-v4-podslice", "v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}  # fmt: skip
_GKE_GPUS = {"h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb"}

_OPTION = re.compile(r"[A-Za-z0-9_.,:/@+=%-]+")


def gpu_host(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
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
        "docker", "run", "--rm", "--gpus", "all", "--ipc", "host", "--stop-timeout", "180",
        "--mount", f"type=bind,source={job.storage},target={HOME}",
        "--mount", f"type=bind,source={directory},target=/launch,readonly",
        *(("--env-file", job.env_file) if job.env_file else ()),
        job.image, "bash", "/launch/train.sh",
    ]  # fmt: skip
    return Launch({"train.sh": text, "recipe.yaml": job.recipe}, (tuple(command),))


def slurm(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """A batch job of SLURM, with one task on each node."""
    _need_gpus("slurm", job)
    for name, value in options.items():
        if not re.fullmatch(r"[a-z][a-z-]*", name) or not _OPTION.fullmatch(value):
            raise RecipeError(f"--option {name}={value!r} is not one of sbatch, like partition=gpu or time=24:00:00")
    words = job.words(str(directory / "recipe.yaml"))
    text = render("slurm/train.sbatch.j2", job=job, home=job.storage, words=words, options=options)
    advice = f"{directory} must lie on a file system that the nodes share, as {job.storage}"
    files = {"train.sbatch": text, "recipe.yaml": job.recipe}
    return Launch(files, (("sbatch", str(directory / "train.sbatch")),), advice)


def tpu_vm(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """A queued resource of Cloud TPU, asked for again until the run is done."""
    hardware, bucket = job.hardware, job.bucket
    if hardware is None or hardware.kind not in _CLOUD_TPUS:
        found = "none" if hardware is None else hardware.kind
        raise RecipeError(f"tpu-vm has {', '.join(_CLOUD_TPUS)} (tpu7x: use gke); --topology says {found}")
    if bucket is None:
        raise RecipeError(f"tpu-vm needs --storage gs://BUCKET/DIRECTORY, which its hosts share; found {job.storage}")
    kind, units, runtime = _CLOUD_TPUS[hardware.kind]
    where = _known_options("tpu-vm", options, ("project", "zone"), need=("zone",))
    create = [f"--accelerator-type={kind}-{hardware.chips * units}", f"--runtime-version={runtime}"]
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
            "tpu-vm/startup.sh.j2", job=job, home=HOME, mount_words=mount,
            words=("/opt/jaxft/bin/jaxft", *job.words("/opt/jaxft/recipe.yaml")[1:]),
        ),
        "run.sh": render("tpu-vm/run.sh.j2", job=job, where=where, create_words=create, status_file=status),
    }  # fmt: skip
    advice = f"its hosts write /var/log/jaxft.log; the run is in {job.storage}/runs/{job.name}"
    return Launch(files, (("bash", str(directory / "run.sh")),), advice)


def gke(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """A JobSet on GKE, in the cluster and namespace of kubectl's context."""
    hardware, bucket = job.hardware, job.bucket
    if hardware is None:
        raise RecipeError("gke needs --topology, like v5e-16 or h100-8")
    if job.image is None:
        raise RecipeError("gke needs --image, with jaxft in it; `jaxft launch docker` builds one")
    words = list(job.words("/launch/recipe.yaml"))
    if not hardware.is_tpu:
        first = f"{job.slug}-hosts-0-0.{job.slug}:{PORT}"
        words += ["--coordinator", first, "--processes", str(hardware.hosts)]
    # Kubernetes puts variables into arguments itself; what the user named so stays a name.
    words = [word.replace("$", "$$") for word in words] + ([] if hardware.is_tpu else ["--index", "$(JAXFT_INDEX)"])
    if hardware.is_tpu:
        label = {"cloud.google.com/gke-tpu-accelerator": _GKE_TPUS[hardware.kind],
                 "cloud.google.com/gke-tpu-topology": "x".join(map(str, hardware.shape))}  # fmt: skip
    else:
        label = {"cloud.google.com/gke-accelerator": _GKE_GPUS[hardware.kind]}
    mount = "implicit-dirs" + (f",only-dir:{bucket[1]}" if bucket and bucket[1] else "")
    secrets = {name: _secret_key(name, reference) for name, reference in job.secrets.items()}
    _known_options("gke", options, ("namespace", "context"))
    text = render(
        "gke/jobset.yaml.j2", job=job, home=HOME, words=words, node_selector=label, secrets=secrets, port=PORT,
        bucket=bucket and bucket[0], mount_options=mount,
        resource="google.com/tpu" if hardware.is_tpu else "nvidia.com/gpu",
    )  # fmt: skip
    where = tuple(f"--{name}={value}" for name, value in options.items())
    command = ("kubectl", *where, "apply", "--filename", str(directory / "jobset.yaml"))
    selector = f"jobset.sigs.k8s.io/jobset-name={job.slug}"
    advice = f"to follow it: {shell(('kubectl', *where, 'logs', '--follow', '--selector', selector))}"
    return Launch({"jobset.yaml": text}, (command,), advice)


def _secret_key(name: str, reference: str) -> tuple[str, str]:
    """Name of a Kubernetes secret and its key, from `SECRET:KEY`."""
    secret, _, key = reference.partition(":")
    return secret, key or name


def skypilot(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """A managed job of SkyPilot."""
    hardware = job.hardware
    if hardware is None:
        raise RecipeError("skypilot needs --topology, like v5e-16 or h100-8")
    if "://" not in job.storage:
        raise RecipeError(f"skypilot needs --storage like gs://BUCKET/DIRECTORY or s3://BUCKET; found {job.storage}")
    if hardware.slices > 1:
        raise RecipeError("skypilot takes one TPU slice; use gke or tpu-vm for several")
    if hardware.is_tpu and hardware.kind not in _CLOUD_TPUS:
        raise RecipeError(f"skypilot has {', '.join(_CLOUD_TPUS)}; --topology says {hardware.kind}")
    if hardware.is_tpu:
        kind, units, _ = _CLOUD_TPUS[hardware.kind]
        accelerators, nodes = f"tpu-{kind}-{hardware.chips * units}", 1
    else:
        accelerators, nodes = f"{hardware.kind.upper()}:{hardware.chips_per_host}", hardware.hosts
    for name, reference in job.secrets.items():
        if reference != name:
            raise RecipeError(
                f"--secret {name}={reference}: SkyPilot takes it from your environment; leave out the reference"
            )
    text = render(
        "skypilot/task.yaml.j2", job=job, home=HOME, accelerators=accelerators, nodes=nodes, port=PORT,
        recipe_path=str(directory / "recipe.yaml"), words=job.words("/tmp/jaxft/recipe.yaml"),
    )  # fmt: skip
    _known_options("skypilot", options, ("infra",))
    chosen = [word for name, value in options.items() for word in (f"--{name}", value)]
    secrets = [word for name in job.secrets for word in ("--secret", name)]
    task = str(directory / "task.yaml")
    command = ("sky", "jobs", "launch", "--yes", "--name", job.slug, *chosen, *secrets, task)
    return Launch({"task.yaml": text, "recipe.yaml": job.recipe}, (command,))


def docker(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """An image with jaxft in it."""
    if job.image is None:
        raise RecipeError("docker needs --image NAME:TAG, the name of the image to build")
    extra = "tpu" if job.hardware is not None and job.hardware.is_tpu else "cuda12"
    about = f"jaxft for {'TPUs' if extra == 'tpu' else 'GPUs'}; the same image trains, evaluates and prepares."
    text = render("docker/Dockerfile.j2", about=about, extra=extra, install=_one_line(job.install))
    files = {"Dockerfile": text, "recipe.yaml": job.recipe}
    commands = [("docker", "build", "--tag", job.image, str(directory))]
    _known_options("docker", options, ("push",))
    if options.get("push") == "true":
        commands.append(("docker", "push", job.image))
    return Launch(files, tuple(commands))


def _one_line(requirement: str) -> str:
    return '"' + re.sub(r'(["\\$])', r"\\\1", requirement) + '"'


def _need_gpus(target: str, job: Job) -> None:
    if job.hardware is None or job.hardware.is_tpu:
        found = "nothing" if job.hardware is None else job.hardware.kind
        raise RecipeError(f"{target} needs --topology with GPUs, like h100-16; found {found}")


def _known_options(target: str, options: Mapping[str, str], known: tuple[str, ...], need: tuple[str, ...] = ()):
    """The options as words for a command.

    Raises:
      RecipeError: one that the target does not know, or one that it needs is missing.
    """
    for name in options:
        if name not in known:
            raise RecipeError(f"--option {name}: {target} knows {', '.join(known)}")
    if missing := [name for name in need if name not in options]:
        raise RecipeError(f"{target} needs --option {missing[0]}={missing[0].upper()}")
    return [f"--{name}={value}" for name, value in options.items()]


TARGETS: dict[str, Callable[[Job, pathlib.Path, Mapping[str, str]], Launch]] = {
    "tpu-vm": tpu_vm, "gke": gke, "slurm": slurm, "skypilot": skypilot, "gpu-host": gpu_host, "docker": docker,
}  # fmt: skip
# Those that take secrets by reference; the others read a file of variables on their machines.
BY_REFERENCE = ("tpu-vm", "gke", "skypilot")
