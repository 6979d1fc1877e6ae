"""What is launched, in plain values."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from jaxft.planning.topology import Topology

# Where a machine shows the storage that all of them share.
HOME = "/mnt/jaxft"
PORT = 8476


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Accelerators, and the machines that hold them.

    Attributes:
      kind: like `v5e` or `h100`.
      is_tpu: or a GPU.
      shape: chips along each axis of a slice.
      chips: of a slice; of all machines for GPUs.
      slices: TPU slices.
    """

    kind: str
    is_tpu: bool
    shape: tuple[int, ...]
    chips: int
    slices: int = 1

    @classmethod
    def of(cls, place: Topology) -> Hardware:
        """Of a topology."""
        return cls(place.chip.name, place.compiles, place.shape, math.prod(place.shape), place.slices)

    @property
    def name(self) -> str:
        """Of a slice as `--topology` takes it, like `v5e:4x4` or `h100-8`."""
        return f"{self.kind}:{'x'.join(map(str, self.shape))}" if self.is_tpu else f"{self.kind}-{self.chips}"

    @property
    def chips_per_host(self) -> int:
        """Chips of a machine: GPUs come in eights, TPUs in fours, or in one machine that holds the whole slice."""
        most = 8 if not self.is_tpu or (self.kind in ("v5e", "v6e") and self.chips <= 8) else 4
        return min(most, self.chips)

    @property
    def hosts_per_slice(self) -> int:
        """Machines of a slice."""
        return -(-self.chips // self.chips_per_host)

    @property
    def hosts(self) -> int:
        """Machines in all."""
        return self.hosts_per_slice * self.slices


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to launch.

    Attributes:
      name: of the recipe.
      recipe: YAML text, overrides applied.
      hardware: where it runs; None: on what is there.
      storage: what all machines share, as each target takes it: a directory, `gs://BUCKET/DIRECTORY` ...
      install: what pip installs for jaxft.
      image: of a container, or None.
      secrets: where the values of environment variables come from, by their names.
      env_file: on the machines, with such values; None where there is none.
      spot: whether the machines may be taken away, for less.
      service_account: as which the machines act, or None.
      restarts: at most.
      pause: seconds before one.
    """

    name: str
    recipe: str
    hardware: Hardware | None
    storage: str
    install: str
    image: str | None = None
    secrets: Mapping[str, str] = dataclasses.field(default_factory=dict)
    env_file: str | None = None
    spot: bool = False
    service_account: str | None = None
    restarts: int = 100
    pause: int = 15

    @property
    def slug(self) -> str:
        """The name as clouds and clusters allow one."""
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        # They begin with a letter.
        return (words if words[:1].isalpha() else f"jaxft-{words}")[:40].rstrip("-")

    @property
    def bucket(self) -> tuple[str, str] | None:
        """The bucket of the storage and the directory in it; None where it is no bucket."""
        if not self.storage.startswith("gs://"):
            return None
        bucket, _, directory = self.storage.removeprefix("gs://").partition("/")
        return bucket, directory.strip("/")

    def words(self, recipe: str) -> tuple[str, ...]:
        """The command that trains, in the directory of the storage.

        Args:
          recipe: its file there.
        """
        return ("jaxft", "train", recipe, "--run-dir", f"runs/{self.name}")


@dataclasses.dataclass(frozen=True)
class Launch:
    """What launches a job.

    Attributes:
      files: texts by name, all to be written into one directory; scripts may be executed.
      commands: to be run one after the other.
      advice: lines of what else the user should know.
    """

    files: Mapping[str, str]
    commands: tuple[tuple[str, ...], ...]
    advice: tuple[str, ...] = ()
