"""What the environment says of the processes of a run: Cloud TPU, GKE, SLURM and MPI."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping

from jaxft.errors import JaxftError, RecipeError
from jaxft.parallel.platform import tpu_present
from jaxft.parallel.rendezvous import Place

# Where launchers write how many processes there are, which one this is, and how many are on this machine.
_SLURM = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
_PMI = ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID")
_LAUNCHERS = {"SLURM": _SLURM, "Open MPI": _OPEN_MPI, "MPI": _PMI}
# The metadata of a machine in Google's cloud may take its time.
_METADATA_SECONDS = 60


def found_place(
    coordinator: str | None, count: int | None, index: int | None, environment: Mapping[str, str] = os.environ
) -> Place | None:
    """Where this process stands among others, or None where nothing says that there are any.

    Args:
      coordinator: `host:port` of the first process, as the user gave it.
      count: processes, as the user gave them.
      index: of this one.
      environment: variables.

    Raises:
      RecipeError: something is missing, or impossible.
    """
    launcher = next((name for name, names in _LAUNCHERS.items() if int(environment.get(names[0]) or 1) > 1), None)
    if coordinator is not None:
        return _given_place(coordinator, count, index, launcher, environment)
    if count is not None or index is not None:
        raise RecipeError("--processes and --index need --coordinator HOST:PORT, where process 0 runs")
    if launcher == "SLURM":
        return _slurm_place(environment)
    if launcher is not None:
        method = "ompi" if "OMPI_MCA_orte_hnp_uri" in environment else "mpi4py"
        if method == "mpi4py" and importlib.util.find_spec("mpi4py") is None:
            raise RecipeError(
                f"{launcher} started {environment[_LAUNCHERS[launcher][0]]} processes but does not say where the first "
                "runs; give --coordinator HOST:PORT, or install mpi4py"
            )
        return _detected_place(method, launcher, environment)
    return _tpu_place(environment) if tpu_present() else None


def _given_place(
    coordinator: str, count: int | None, index: int | None, launcher: str | None, environment: Mapping[str, str]
) -> Place:
    host, _, port = coordinator.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise RecipeError(f"--coordinator {coordinator!r} is not like 10.0.0.1:8476: a host, a colon and a port")
    devices = None
    if launcher is not None:
        counted, numbered, _ = _LAUNCHERS[launcher]
        count = int(environment[counted]) if count is None else count
        index = int(environment[numbered]) if index is None else index
        devices = _own_devices(launcher, environment)
    if count is None or index is None:
        missing = "--processes" if count is None else "--index"
        raise RecipeError(f"--coordinator needs {missing} too: how many processes there are, and which this is, from 0")
    if count < 1 or not 0 <= index < count:
        raise RecipeError(f"--index must lie between 0 and {max(count, 1) - 1}, one below --processes; found {index}")
    return Place(host, int(port), count, index, devices)


def _slurm_place(environment: Mapping[str, str]) -> Place:
    """Of a task that `srun` started: the first host of the step, and a port that follows from the number of the job."""
    nodes, job = environment.get("SLURM_STEP_NODELIST"), environment.get("SLURM_JOB_ID")
    if not nodes or not job:
        raise RecipeError("SLURM names no hosts of this step; start jaxft with srun, or give --coordinator HOST:PORT")
    count, index = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_PROCID"])
    port = 61440 + int(job) % 2048 * 2
    return Place(first_host(nodes), port, count, index, _own_devices("SLURM", environment))


def first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it: `gpu[07-09,12],login` begins with `gpu07`."""
    name = re.match(r"[^,\[]*(\[[^\]]*\][^,\[]*)*", nodes)
    assert name is not None  # it finds an empty one at the least
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", name[0])


def _own_devices(launcher: str, environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """The one device of a process that shares its machine with others, where the launcher lets it see all devices."""
    local = environment.get(_LAUNCHERS[launcher][2])
    if launcher == "SLURM":
        shared = _tasks_on_node(environment) > 1
    else:
        shared = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or environment.get("MPI_LOCALNRANKS") or 1) > 1
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if local is None or not shared or (visible is not None and "," not in visible):
        return None
    return (int(local),)


def _tasks_on_node(environment: Mapping[str, str]) -> int:
    """From `SLURM_STEP_TASKS_PER_NODE`, like `4(x2),1`: tasks on the host with the number `SLURM_NODEID`."""
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        tasks, _, times = part.partition("(x")
        counts += [int(tasks)] * int(times.removesuffix(")") or 1)
    node = int(environment.get("SLURM_NODEID") or 0)
    return counts[node] if node < len(counts) else 1


def _tpu_place(environment: Mapping[str, str]) -> Place | None:
    """Of a host of a TPU, as Google's cloud and GKE say it; None for a host alone."""
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    if hosts != [""] and len(hosts) * slices == 1:
        return None
    return _detected_place(None, "Cloud TPU", environment)


def _detected_place(method: str | None, cluster: str, environment: Mapping[str, str]) -> Place | None:
    """What JAX finds out itself: it asks the machine's metadata, or MPI."""
    from jax._src import clusters  # there is no public way to ask without starting

    try:
        address, count, index, _ = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, method, _METADATA_SECONDS
        )
    except Exception as error:
        raise JaxftError(f"{cluster}: the other processes could not be found: {error}") from error
    if address is None or count is None or index is None:
        if cluster == "Cloud TPU":  # a TPU outside of Google's cloud, or in a container without its metadata
            return None
        raise RecipeError(f"{cluster} does not say where the first process runs; give --coordinator HOST:PORT")
    host, _, port = address.rpartition(":")
    devices = None if cluster == "Cloud TPU" else _own_devices(cluster, environment)
    return Place(host.strip("[]"), int(port), int(count), int(index), devices)
