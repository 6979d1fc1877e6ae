"""XPK, Google's kit for GKE, which makes the JobSet itself."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import pathlib
import posixpath
import re
import tarfile
from collections.abc import Mapping

from jaxft.errors import RecipeError
from jaxft.launching.accelerators import xpk_words
from jaxft.launching.job import HOME, Job, Launch
from jaxft.launching.target import WORD, Target, is_true
from jaxft.launching.templates import render, shell

# Where the files of a launch lie in the container.
_FILES = "/tmp/jaxft"
# Kubernetes keeps a copy of what was applied in an annotation of at most 256 KiB; XPK writes the command up to twice.
_MOST_CHARACTERS = 60_000
# Wrong words, data, checkpoints and a training that diverged end in 2 to 5; by itself XPK takes 42 and 127 to 255 for
# what a second start would mend.
_RESTARTED = "1,6-126"
# Options of its own, which are handed on.
_WHERE = ("cluster", "project", "zone")
_HOW = ("priority", "reservation", "docker-image-pull-secret")


@dataclasses.dataclass(frozen=True)
class _Storage:
    """What all hosts share.

    Attributes:
      directory: in the containers.
      name: as XPK knows it; None: one that is in all containers anyway.
      attach: the command that makes a bucket known to a cluster; None for what is known.
    """

    directory: str
    name: str | None
    attach: tuple[str, ...] | None = None


def plan(job: Job, directory: pathlib.Path, options: Mapping[str, str]) -> Launch:
    """A workload of XPK, whose command carries the files: XPK has no other way for them."""
    if job.hardware is None:
        raise RecipeError("xpk needs --topology, like v5e-16 or h100-8")
    if job.image is None:
        raise RecipeError("xpk needs --image, with jaxft in it; `jaxft launch docker` builds one")
    # XPK puts them into commands of its own, for a shell.
    for word, value in (("image", job.image), *((f"option {name}", value) for name, value in options.items())):
        if not WORD.fullmatch(value):
            raise RecipeError(f"--{word} has characters that no name in Google's cloud has: {value!r}")
    where = _handed_on(options, _WHERE)
    storage = _storage(job, options, where)
    script = render(
        "xpk/train.sh.j2",
        job=job,
        home=storage.directory,
        mount=storage.attach and HOME,
        env_file=job.env_file and posixpath.join(storage.directory, job.env_file),
        words=job.words(f"{_FILES}/recipe.yaml"),
    )
    files = {"train.sh": script, "recipe.yaml": job.recipe}
    create = (
        "xpk",
        "workload",
        "create",
        f"--workload={job.slug}",
        *where,
        *xpk_words(job.hardware),
        *_handed_on(options, _HOW),
        *((f"--storage={storage.name}",) if storage.name else ()),
        *(("--spot",) if job.spot else ()),
        f"--docker-image={job.image}",
        f"--max-restarts={job.restarts}",
        f"--restart-on-exit-codes={_RESTARTED}",
        "--termination-grace-period-seconds=180",
        f"--command={_carrier(files)}",
    )
    advice = (f"to end it: {shell(('xpk', 'workload', 'delete', f'--workload={job.slug}', *where))}",)
    if storage.attach is None:
        return Launch(files, (create,), advice)
    if is_true(options, "attach"):
        return Launch(files, (storage.attach, create), advice)
    once = f"the bucket must be attached to the cluster, once, by --option attach=true or: {shell(storage.attach)}"
    return Launch(files, (create,), (once, *advice))


def _handed_on(options: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"--{name}={options[name]}" for name in names if name in options)


def _storage(job: Job, options: Mapping[str, str], where: tuple[str, ...]) -> _Storage:
    if job.bucket is None:
        if "attach" in options:
            raise RecipeError(f"--option attach is for --storage gs://BUCKET/DIRECTORY; found {job.storage}")
        if not job.storage.startswith("/"):
            raise RecipeError(f"xpk needs --storage {XPK.storage}; found {job.storage}")
        return _Storage(job.storage, options.get("storage"))
    if "storage" in options:
        raise RecipeError("--option storage is for a --storage that is the path at which XPK mounts it")
    bucket, inside = job.bucket
    # The whole bucket: one storage for all its directories. Buckets may have dots and underscores in their names.
    name = re.sub(r"[^a-z0-9]+", "-", bucket).strip("-")
    attach = (
        "xpk",
        "storage",
        "attach",
        name,
        *where,
        "--type=gcsfuse",
        f"--bucket={bucket}",
        f"--mount-point={HOME}",
        "--mount-options=implicit-dirs",
        "--no-prefetch-metadata",
        "--size=1000",
        "--readonly=false",
        "--auto-mount=false",
    )
    return _Storage(posixpath.join(HOME, inside) if inside else HOME, name, attach)


def _carrier(files: Mapping[str, str]) -> str:
    """A command that unpacks the files in a container and runs `train.sh`.

    It is one line of letters that mean nothing to YAML, to Kubernetes or within double quotes: XPK writes it into all
    of these as it is.

    Raises:
      RecipeError: they are too much for a command.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    letters = base64.b64encode(gzip.compress(packed.getvalue(), mtime=0)).decode()
    if len(letters) > _MOST_CHARACTERS:
        raise RecipeError(
            f"the recipe is too long for the command that carries it to XPK's hosts: {len(letters)} characters packed, "
            f"at most {_MOST_CHARACTERS}; use gke"
        )
    return f"mkdir -p {_FILES} && echo {letters} | base64 -d | tar -xzmC {_FILES} && exec bash {_FILES}/train.sh"


XPK = Target(
    plan,
    takes=("image", "env_file", "spot", "restarts"),
    options=(*_WHERE, *_HOW, "storage", "attach"),
    needed=("cluster",),
    storage="gs://BUCKET/DIRECTORY, or the path at which XPK mounts a storage of the cluster",
)
