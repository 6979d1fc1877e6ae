"""What can launch jobs, and which of the user's words it takes."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping

from jaxft.errors import RecipeError
from jaxft.launching.job import Job, Launch

# Words that no shell, YAML or list of options takes apart.
WORD = re.compile(r"[A-Za-z0-9_.,:/@+=%-]+")


@dataclasses.dataclass(frozen=True)
class Target:
    """One that launches jobs.

    Attributes:
      plan: from a job, the directory for its files and the target's options to what launches it; raises RecipeError for
        what the target cannot do.
      takes: of `image`, `install`, `secrets`, `env_file`, `spot`, `service_account` and `restarts` those that mean
        something to it.
      options: names of the target's own options; None: any.
      needed: those of them that must be there.
      storage: what `--storage` must be like; None where its machines see this one's directories.
      calls: tools that its scripts call here.
    """

    plan: Callable[[Job, pathlib.Path, Mapping[str, str]], Launch]
    takes: tuple[str, ...] = ()
    options: tuple[str, ...] | None = ()
    needed: tuple[str, ...] = ()
    storage: str | None = None
    calls: tuple[str, ...] = ()


def is_true(options: Mapping[str, str], name: str) -> bool:
    """Whether an option says yes.

    Raises:
      RecipeError: it says neither yes nor no.
    """
    value = options.get(name, "false")
    if value not in ("true", "false"):
        raise RecipeError(f"--option {name} is true or false, found {value!r}")
    return value == "true"
