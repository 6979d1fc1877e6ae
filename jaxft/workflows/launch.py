"""Launching a recipe on machines that are elsewhere."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence

import yaml

from jaxft import __version__
from jaxft.errors import JaxftError, RecipeError
from jaxft.launching.job import Hardware, Job, Launch
from jaxft.launching.target import Target
from jaxft.launching.targets import TARGETS
from jaxft.parallel.mesh import AXES
from jaxft.planning.topology import parse_topology
from jaxft.recipe.library import load_recipe
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe

_TOOLS = {
    "gcloud": "the Google Cloud CLI", "kubectl": "Kubernetes' command line", "docker": "Docker",
    "sbatch": "SLURM's; launch from a login node", "sky": "SkyPilot: pip install skypilot", "bash": "a shell",
    "xpk": "Google's kit for GKE: pip install xpk",
}  # fmt: skip
# Words that mean something to some targets only, and what the others say of them.
_WORDS = {
    "image": "", "install": "its jaxft is the one that is there", "spot": "", "service_account": "", "restarts": "",
    "secrets": "its variables come from a file there, --env-file FILE",
    "env_file": "it takes its variables by reference, --secret NAME=REFERENCE",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LaunchOptions:
    """How a recipe is launched; see `jaxft.launching.job.Job`.

    Attributes:
      topology: like `v5e-16` or `h100-8`; None: that of the recipe's mesh, or what is there.
      slices: TPU slices.
      storage: what all machines share; None: the working directory, where they see it.
      output: directory for the files; `launches/<name>/<target>` where None.
      install: what pip installs for jaxft; None: this version, with the extra that the hardware needs.
      image: of a container.
      secrets: `NAME` or `NAME=REFERENCE` each.
      env_file: on the machines.
      spot: machines that may be taken away.
      service_account: as which they act.
      restarts: at most; None: 100.
      options: of the target, `key=value` each.
    """

    topology: str | None = None
    slices: int = 1
    storage: str | None = None
    output: str | None = None
    install: str | None = None
    image: str | None = None
    secrets: tuple[str, ...] = ()
    env_file: str | None = None
    spot: bool = False
    service_account: str | None = None
    restarts: int | None = None
    options: tuple[str, ...] = ()


def plan_launch(
    target: str, recipe: str | pathlib.Path, overrides: Sequence[str] = (), options: LaunchOptions = LaunchOptions()
) -> tuple[pathlib.Path, Launch]:
    """What launches a recipe on a target, without doing any of it.

    Args:
      target: one of `jaxft.launching.targets.TARGETS`.
      recipe: a file, or the name of a recipe that comes with jaxft.
      overrides: like `mesh.fsdp=8`.
      options: how.

    Returns:
      The directory for the files, and the files and commands.

    Raises:
      RecipeError: the words are wrong, or do not suit the target.
    """
    parsed, document = load_recipe(recipe, overrides)
    place = TARGETS[target]
    _check_words(target, place, options)
    own = _own_options(target, place, options.options)
    hardware = _hardware(target, parsed, options)
    secrets = _secrets(options.secrets)
    job = Job(
        name=parsed.name,
        recipe=_recipe_text(document),
        hardware=hardware,
        storage=_storage(target, place, options.storage),
        install=options.install or _requirement(hardware),
        image=options.image,
        secrets=secrets,
        env_file=options.env_file,
        spot=options.spot,
        service_account=options.service_account,
        restarts=Job.restarts if options.restarts is None else options.restarts,
    )
    _check(job)
    directory = pathlib.Path(options.output or pathlib.Path("launches") / job.slug / target).absolute()
    launch = place.plan(job, directory, own)
    return directory, dataclasses.replace(launch, advice=(*launch.advice, *_advice_on_plugins(parsed)))


def _advice_on_plugins(recipe: Recipe) -> list[str]:
    """What the user must do for the recipe's plug-ins to be on the machines, which are given the recipe alone."""
    return [
        f"plug-in {name} is not sent along: it must be there on every machine, or come with what --install installs"
        for name in recipe.plugins or ()
    ]


def _check_words(target: str, place: Target, options: LaunchOptions) -> None:
    """Whether what the user says means something to the target: nothing of it is left aside in silence."""
    for word, instead in _WORDS.items():
        given = getattr(options, word)
        if given is None or given is False or given == () or word in place.takes:
            continue
        flag = "--secret" if word == "secrets" else f"--{word.replace('_', '-')}"
        known = ", ".join(name for name, other in TARGETS.items() if word in other.takes)
        has_other = {"secrets": "env_file", "env_file": "secrets"}.get(word, word) in place.takes
        instead = f": {instead}" if instead and has_other else ""
        raise RecipeError(f"{target} does not take {flag}{instead}; {flag} is for {known}")


def _storage(target: str, place: Target, storage: str | None) -> str:
    """What all machines share; a directory that they see from here by its whole path."""
    if place.storage is not None:
        if storage is None:
            raise RecipeError(f"{target} needs --storage {place.storage}, which all its machines share")
        return storage
    return storage if storage and "://" in storage else str(pathlib.Path(storage or "").absolute())


def _hardware(target: str, recipe: Recipe, options: LaunchOptions) -> Hardware | None:
    if options.topology is not None:
        return Hardware.of(parse_topology(options.topology, options.slices))
    if target == "slurm":
        sizes = [getattr(recipe.mesh, axis) for axis in AXES]
        if -1 in sizes:
            raise RecipeError("slurm needs --topology, like h100-16: the recipe's mesh takes as many GPUs as there are")
        return Hardware.of(parse_topology(f"h100-{math.prod(sizes)}"))
    return None


def _requirement(hardware: Hardware | None) -> str:
    extra = "tpu" if hardware is not None and hardware.is_tpu else "cuda12"
    return f"jaxft[{extra}]=={__version__}"


def _recipe_text(document: Document) -> str:
    """The recipe with its overrides, whose data lies in the storage where it does not say where."""
    value = dict(document.value)
    data = dict(value.get("data") or {})
    data.setdefault("directory", "data")
    return yaml.safe_dump({**value, "data": data}, sort_keys=False, allow_unicode=True, width=100)


def _secrets(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, _, reference = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise RecipeError(f"--secret {name!r} is not the name of a variable")
        if not re.fullmatch(r"[A-Za-z0-9_.:/-]*", reference):
            raise RecipeError(f"--secret {name}: give where its value is kept, not the value")
        found[name] = reference or name
    return found


def _check(job: Job) -> None:
    """Whether words that stand in files of other tools are single lines."""
    for name in ("storage", "install", "image", "env_file", "service_account"):
        value = getattr(job, name)
        if value is not None and (not value or any(ord(character) < 32 for character in value)):
            raise RecipeError(f"--{name.replace('_', '-')} must be a line of text, found {value!r}")
    if job.bucket is not None and not re.fullmatch(r"gs://[a-z0-9._-]+(/[\w. =-]+)*/?", job.storage):
        raise RecipeError(
            f"--storage {job.storage!r} is not like gs://my-bucket/team: names of small letters, digits, - and _"
        )
    if job.restarts < 0:
        raise RecipeError(f"--restarts must not be negative, found {job.restarts}")


def _own_options(target: str, place: Target, words: Sequence[str]) -> Mapping[str, str]:
    """The target's own options by their names."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or any(ord(character) < 32 for character in value):
            raise RecipeError(f"--option {word!r} is not like partition=gpu")
        if place.options is not None and name not in place.options:
            known = f"knows {', '.join(place.options)}" if place.options else "has no options"
            raise RecipeError(f"--option {name}: {target} {known}")
        pairs[name] = value
    for name in place.needed:
        if name not in pairs:
            raise RecipeError(f"{target} needs --option {name}={name.upper()}")
    return pairs


def launch_text(directory: pathlib.Path, launch: Launch) -> str:
    """All files and commands, as they will be written and run."""
    files = [f"# {directory / name}\n{text}" for name, text in launch.files.items()]
    commands = [f"$ {shlex.join(command)}\n" for command in launch.commands]
    return "\n".join([*files, "".join([*commands, *(f"# {line}\n" for line in launch.advice)])]).rstrip("\n")


def carry_out(target: str, directory: pathlib.Path, launch: Launch) -> None:
    """Writes the files and runs the commands.

    Raises:
      JaxftError: a tool is missing, or a command fails; with its exit status where that is one of jaxft's.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in launch.files.items():
            (directory / name).write_text(text, encoding="utf-8")
            if name.endswith(".sh"):
                (directory / name).chmod(0o755)
    except OSError as error:
        raise RecipeError(f"{directory} cannot be written: {error.strerror}; choose another with --output") from error
    for tool in (*TARGETS[target].calls, *(command[0] for command in launch.commands)):
        if shutil.which(tool) is None:
            raise JaxftError(
                f"{tool} is not here ({_TOOLS[tool]}); what it should run is in {directory}, and --dry-run shows how"
            )
    for command in launch.commands:
        status = subprocess.run(command, check=False).returncode
        if status:
            short = shlex.join(word if len(word) <= 200 else f"{word[:60]}..." for word in command)
            ended = JaxftError(f"{short} ended with status {status}")
            ended.exit_status = status if status in (2, 3, 4, 5) else 1
            raise ended
