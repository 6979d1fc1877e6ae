"""Who a process is, from what launchers say."""

from __future__ import annotations

import pytest
from jax._src.clusters import cloud_tpu_cluster

from jaxft.errors import RecipeError
from jaxft.parallel.environment import first_host, found_place
from jaxft.parallel.rendezvous import Place

SLURM = {
    "SLURM_JOB_ID": "1234", "SLURM_STEP_NODELIST": "gpu[07-09,12],login", "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1,2(x2)",
}  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"), ("node001,host2", "node001"), ("node[001-0015],host2", "node001"),
        ("node[001,007-015],host2", "node001"), ("r[1-2]n[03-04]", "r1n03"),
    ],
)  # fmt: skip
def test_the_first_host_of_slurms_lists(nodes, first):
    assert first_host(nodes) == first


def test_a_task_of_slurm_knows_its_place_and_its_device():
    place = found_place(None, None, None, SLURM)
    assert (place.host, place.count, place.index, place.local_devices) == ("gpu07", 5, 3, (1,))
    assert 1024 < place.port < 65535
    assert found_place(None, None, None, {**SLURM, "SLURM_JOB_ID": "1235"}).port != place.port
    # Alone on its node it has all devices, and one that sees a single device has that.
    assert found_place(None, None, None, {**SLURM, "SLURM_NODEID": "0"}).local_devices is None
    assert found_place(None, None, None, {**SLURM, "CUDA_VISIBLE_DEVICES": "2"}).local_devices is None


def test_a_shell_inside_an_allocation_is_one_process():
    assert (
        found_place(None, None, None, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}) is None
    )
    assert found_place(None, None, None, {}) is None


def test_mpi_says_how_many_and_which_where_the_user_says_where():
    environment = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    assert found_place("10.0.0.1:9000", None, None, environment) == Place("10.0.0.1", 9000, 4, 2)
    assert found_place("[::1]:9000", 2, 0, environment) == Place("::1", 9000, 2, 0)
    with pytest.raises(RecipeError, match="give --coordinator HOST:PORT"):
        found_place(None, None, None, environment)


def test_a_host_of_several_slices_on_gke_knows_its_place(monkeypatch):
    """As GKE says it to the pods of a JobSet, ours or XPK's; the first of them must have an address here."""
    variables = {
        "TPU_WORKER_HOSTNAMES": ",".join(f"run-slice-job-1-{host}.run" for host in range(4)),
        "TPU_WORKER_ID": "2",
        "MEGASCALE_NUM_SLICES": "3",
        "MEGASCALE_SLICE_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    place = found_place(None, None, None)
    assert (place.host, place.count, place.index, place.local_devices) == ("localhost", 12, 6, None)
    # A single host of a single slice is alone.
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "1")
    assert found_place(None, None, None) is None


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("10.0.0.1", 2, 0), "a host, a colon and a port"), (("h:99999", 2, 0), "a host, a colon and a port"),
        (("h:1", None, 0), "needs --processes"), (("h:1", 2, None), "needs --index"),
        (("h:1", 2, 2), "between 0 and 1"),
        ((None, 2, 0), "need --coordinator"),
    ],
)  # fmt: skip
def test_words_that_do_not_say_who_this_is(words, problem):
    with pytest.raises(RecipeError, match=problem):
        found_place(*words, {})
