"""Rendered files, run as they are beside tools that write down how they were called, and read by validators."""

from __future__ import annotations

import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from hostile_job import GPU, HOSTILE, OPTIONS, TPU, job_for, launched

from jaxft.errors import RecipeError
from jaxft.launching.job import Hardware
from jaxft.launching.targets import TARGETS
from jaxft.launching.templates import shell


def test_bash_reads_back_what_was_quoted():
    words = [HOSTILE, "", "a b", "\x01\x7f'\\x41", "é 中"]
    out = subprocess.run(["bash", "-c", f"printf '%s\\0' {shell(words)}"], capture_output=True, check=True).stdout
    assert out.decode().split("\0")[:-1] == words


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        ("tpu-vm", {}), ("slurm", {}), ("skypilot", {}), ("gpu-host", {}), ("gpu-host", {"env_file": "a $(b)"}),
        ("xpk", {"image": "i"}), ("xpk", {"image": "i", "hardware": GPU, "storage": "/a", "env_file": "a $(b)"}),
    ],
)  # fmt: skip
def test_scripts_are_sound(target, changes, tmp_path):
    found = launched(target, tmp_path / "out $(touch PWNED)", **{"image": None, **changes})
    scripts = [text for name, text in found.files.items() if name.endswith((".sh", ".sbatch"))]
    if target == "skypilot":
        task = yaml.safe_load(found.files["task.yaml"])
        scripts = [f"#!/bin/bash\n{task['setup']}", f"#!/bin/bash\n{task['run']}"]
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        checker = shutil.which("shellcheck") or str(pathlib.Path(sys.executable).with_name("shellcheck"))
        done = subprocess.run([checker, "--severity=warning", "-"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout


def test_options_of_sbatch_are_those_that_were_given(tmp_path):
    text = launched("slurm", tmp_path).files["train.sbatch"]
    lines = text.splitlines()
    options = dict(
        re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups() for line in lines if "#SBATCH" in line
    )
    assert options["nodes"] == "2" and options["gpus-per-node"] == "8" and options["ntasks-per-node"] == "1"
    assert options["partition"] == "gpu" and options["time"] == "24:00:00" and "requeue" in options
    # They end where commands begin.
    assert max(i for i, line in enumerate(lines) if "#SBATCH" in line) < lines.index("set -euo pipefail")
    for bad in ({"partition": "a b"}, {"x\ny": "1"}, {"time": "1\n#SBATCH --uid=0"}):
        with pytest.raises(RecipeError, match="is not one of sbatch"):
            TARGETS["slurm"].plan(job_for("slurm"), tmp_path, bad)


def test_a_jobset_holds_the_words_and_no_pod_expands_them(tmp_path):
    for hardware in (TPU, GPU):
        text = launched("gke", tmp_path, hardware=hardware, secrets={"TOKEN": "hub:token"}).files["jobset.yaml"]
        config, jobset = yaml.safe_load_all(text)
        assert yaml.safe_load(config["data"]["recipe.yaml"]) == {"name": HOSTILE}
        [hosts] = jobset["spec"]["replicatedJobs"]
        job, pod = hosts["template"]["spec"], hosts["template"]["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert (hosts["replicas"], job["parallelism"], job["completions"]) == (
            (2, 4, 4) if hardware is TPU else (1, 2, 2)
        )
        assert container["resources"]["limits"] == {"google.com/tpu": 4} if hardware is TPU else {"nvidia.com/gpu": 8}
        # As the kubelet does: $$ is a dollar, $(NAME) a variable.
        expand = re.compile(r"\$\$|\$\((\w+)\)")
        args = [expand.sub(lambda found: f"<{found[1]}>" if found[1] else "$", arg) for arg in container["args"]]
        assert args[:4] == ["train", "/launch/recipe.yaml", "--run-dir", f"runs/{HOSTILE}"]
        assert args[4:] == [] or args[-2:] == ["--index", "<JAXFT_INDEX>"]
        [rule] = job["podFailurePolicy"]["rules"]
        assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2, 3, 4, 5]
        secret = next(one for one in container["env"] if one["name"] == "TOKEN")
        assert secret["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
        assert len(jobset["metadata"]["name"]) <= 40 and re.fullmatch(r"[a-z0-9-]+", jobset["metadata"]["name"])


def test_names_are_as_clouds_take_them():
    for name in (HOSTILE, "7B: a run", "é", "x" * 90):
        # A name of a service in Kubernetes, of a workload of XPK and of a queued resource.
        assert re.fullmatch(r"[a-z]([-a-z0-9]{,38}[a-z0-9])?", job_for("gke", name=name).slug)


def run_script(path: pathlib.Path, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(path)], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_a_host_starts_the_run_again_but_not_for_the_users_mistakes(tmp_path, tools):
    storage = tmp_path / "s $(touch PWNED)"
    storage.mkdir()
    (tmp_path / "secrets").write_text("TOKEN='from the file'\n")
    # Fails twice as a preempted run does, then by its data.
    tools(
        "jaxft",
        "n = sum(1 for _ in open(os.environ['CALLS'])); assert os.environ['TOKEN'] == 'from the file'\n"
        "print(os.getcwd()); sys.exit(1 if n < 3 else 3)",
    )
    launched("gpu-host", tmp_path / "out", image=None, storage=str(storage), env_file=str(tmp_path / "secrets"))
    done = run_script(tmp_path / "out" / "train.sh", tmp_path)
    assert done.returncode == 3 and "restart 2 of 100" in done.stderr
    calls = tools.calls()
    assert len(calls) == 3
    assert calls[0][1:] == ["train", str(tmp_path / "out" / "recipe.yaml"), "--run-dir", f"runs/{HOSTILE}"]
    assert done.stdout == f"{storage}\n" * 3
    assert not list(tmp_path.rglob("PWNED"))


def test_restarts_have_an_end(tmp_path, tools):
    tools("jaxft", "sys.exit(1)")
    launched("gpu-host", tmp_path / "out", image=None, storage=str(tmp_path), restarts=2)
    assert run_script(tmp_path / "out" / "train.sh", tmp_path).returncode == 1
    assert len(tools.calls()) == 3


def test_a_signal_reaches_the_run_and_ends_the_restarts(tmp_path, tools):
    tools(
        "jaxft",
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print('saved'), "
        "sys.exit(1)))\nopen('ready', 'w').close()\ntime.sleep(60)",
    )
    launched("gpu-host", tmp_path / "out", image=None, storage=str(tmp_path))
    with subprocess.Popen(["bash", str(tmp_path / "out" / "train.sh")], stdout=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 1 and len(tools.calls()) == 1


def test_a_tpu_that_is_taken_away_is_asked_for_again_until_the_run_is_done(tmp_path, tools):
    """A cloud in a file: each call of `describe` finds the next state of the machine."""
    states = tmp_path / "states"
    states.write_text("ACTIVE SUSPENDED ACTIVE DONE")
    tools(
        "gcloud",
        f"path = {str(states)!r}\n"
        + """
words = sys.argv[1:]
made = os.path.exists(path + '.made')
if 'create' in words: open(path + '.made', 'w').close()
elif 'delete' in words: os.remove(path + '.made')
elif 'cat' in words:
    state = open(path).read().split()
    if state[0] != 'DONE': sys.exit(1)
    print(0)
elif 'describe' in words:
    if not made: sys.exit(1)
    state = open(path).read().split()
    print(state[0]); open(path, 'w').write(' '.join(state[1:]))
""",
    )
    launched("tpu-vm", tmp_path / "out")
    done = run_script(tmp_path / "out" / "run.sh", tmp_path)
    assert done.returncode == 0, done.stderr
    verbs = [
        next(word for word in call if word in ("create", "delete", "describe", "cat", "rm")) for call in tools.calls()
    ]
    changes = [verb for verb in verbs if verb in ("create", "delete")]
    assert changes == ["create", "delete", "create", "delete"]
    create = next(call for call in tools.calls() if "create" in call)
    assert "--accelerator-type=v5litepod-16" in create and "--node-count=2" in create and "--spot" in create
    assert "--metadata-from-file=startup-script=startup.sh" in create


@pytest.mark.parametrize(
    ("target", "changes", "problem"),
    [
        ("tpu-vm", {"hardware": GPU}, "tpu-vm has v4, v5e"), ("tpu-vm", {"storage": "/here"}, "needs --storage gs://"),
        ("gke", {"image": None}, "needs --image"), ("slurm", {"hardware": TPU}, "with GPUs"),
        ("skypilot", {"storage": "/here"}, "needs --storage gs://.* or s3://"),
        ("docker", {"image": None}, "needs --image"), ("gpu-host", {"storage": "/a,b"}, "without commas"),
        ("gke", {"storage": "/here"}, "name of a volume claim"),
        ("xpk", {"image": None}, "needs --image"), ("xpk", {"image": "i$(id)"}, "--image has characters"),
        ("xpk", {"hardware": None}, "needs --topology"), ("xpk", {"storage": "claim"}, "path at which XPK mounts"),
        ("xpk", {"recipe": random.Random(0).randbytes(60_000).hex()}, "too long for the command"),
    ],
)  # fmt: skip
def test_what_a_target_cannot_do_is_refused(target, changes, problem, tmp_path):
    with pytest.raises(RecipeError, match=problem):
        TARGETS[target].plan(job_for(target, **changes), tmp_path, OPTIONS.get(target, {}))


def test_hosts_follow_from_chips():
    sizes = {
        (kind, chips): Hardware(kind, kind != "h100", (chips,), chips)
        for kind, chips in (("v5e", 8), ("v5e", 16), ("v5p", 4), ("v5p", 64), ("h100", 2), ("h100", 16))
    }
    assert {key: (one.hosts, one.chips_per_host) for key, one in sizes.items()} == {
        ("v5e", 8): (1, 8),
        ("v5e", 16): (4, 4),
        ("v5p", 4): (1, 4),
        ("v5p", 64): (16, 4),
        ("h100", 2): (1, 2),
        ("h100", 16): (2, 8),
    }
