"""What XPK is told, and what its hosts do with it."""

from __future__ import annotations

import pathlib
import re
import signal
import subprocess
import time

import pytest
import yaml
from hostile_job import GPU, HOSTILE, TPU, launched

from jaxft.errors import RecipeError
from jaxft.launching.accelerators import xpk_words
from jaxft.launching.job import Hardware
from jaxft.launching.targets import xpk
from jaxft.planning.topology import parse_topology

RECIPE = f"name: {HOSTILE!r}\nnote: é 中 \u2028 '\"$\n\n"
# As XPK 1.16 wraps a command, in a block of YAML: https://github.com/AI-Hypercomputer/xpk, core/docker_container.py.
WRAPPED = """
command:
- bash
- -c
- |
  _sigterm() (kill -SIGTERM $! 2>/dev/null;);
  trap _sigterm SIGTERM;
  ({command}) & PID=$!;
  while kill -0 $PID 2>/dev/null; do sleep 0.1; done;
  wait $PID;
  exit $?
again: "{command}"
"""
STAND_IN = """
print(os.getcwd(), os.environ.get('TOKEN'), sep='\\n')
sys.stdout.buffer.write(open(sys.argv[2], 'rb').read())
sys.exit(int(os.environ.get('STATUS', 0)))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A container's directories, in the test's own: of the files, and of the mounted bucket."""
    monkeypatch.setattr(xpk, "_FILES", str(tmp_path / "files"))
    monkeypatch.setattr(xpk, "HOME", str(tmp_path / "a $(touch PWNED) 'mount'"))
    (tmp_path / "a $(touch PWNED) 'mount'").mkdir()
    return tmp_path


def container_words(command: tuple[str, ...]) -> list[str]:
    """What a container runs, after XPK, YAML and Kubernetes."""
    *_, carrier = (word.removeprefix("--command=") for word in command)
    found = yaml.safe_load(WRAPPED.format(command=carrier))
    assert found["again"] == carrier and "$" not in carrier
    return found["command"]


def run_container(command: tuple[str, ...], place: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run(container_words(command), cwd=place, capture_output=True, timeout=60)


def test_the_recipe_arrives_and_the_run_starts_in_the_storage(place, tools, monkeypatch):
    tools("jaxft", STAND_IN)
    storage = place / "s 'o' $(touch PWNED)"
    storage.mkdir()
    (storage / "its secrets").write_text("TOKEN='from the file'\n")
    for hardware in (TPU, GPU):
        found = launched(
            "xpk", place / "out", recipe=RECIPE, storage=str(storage), hardware=hardware, env_file="its secrets"
        )
        [create] = found.commands
        for name, value in (
            ("JAX_COORDINATOR_ADDRESS", "first"),
            ("JAX_COORDINATOR_PORT", "6002"),
            ("NNODES", "2"),
            ("NODE_RANK", "1"),
            ("STATUS", "3"),
        ):
            monkeypatch.setenv(name, value)
        done = run_container(create, place)
        assert done.returncode == 3, done.stderr
        assert done.stdout == f"{storage}\nfrom the file\n{RECIPE}".encode() and found.files["recipe.yaml"] == RECIPE
        assert tools.calls()[-1][1:5] == ["train", str(place / "files/recipe.yaml"), "--run-dir", f"runs/{HOSTILE}"]
        others = ["--coordinator", "first:6002", "--processes", "2", "--index", "1"]
        assert tools.calls()[-1][5:] == ([] if hardware is TPU else others)
    assert not list(place.rglob("PWNED"))


def test_a_bucket_must_be_mounted_and_its_directory_is_made(place, tools, monkeypatch):
    tools("jaxft", STAND_IN)
    tools("mountpoint", "sys.exit(sys.argv[2] != os.environ['MOUNTED'])")
    first, then = (launched("xpk", place / "out", storage="gs://our_bucket.eu/a team/b") for _ in "12")
    assert first == then and "--storage=our-bucket-eu" in first.commands[0]
    monkeypatch.setenv("MOUNTED", "/elsewhere")
    done = run_container(first.commands[0], place)
    # Nothing that a second start would mend.
    assert done.returncode == 2 and b"no bucket is mounted" in done.stderr and not done.stdout
    monkeypatch.setenv("MOUNTED", xpk.HOME)
    done = run_container(first.commands[0], place)
    assert done.returncode == 0 and done.stdout.decode().startswith(f"{xpk.HOME}/a team/b\nNone\n"), done.stderr


def test_a_signal_to_the_container_reaches_the_run(place, tools):
    tools(
        "jaxft",
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(1)))\n"
        "open('ready', 'w').close()\ntime.sleep(60)",
    )
    [create] = launched("xpk", place / "out", storage=str(place)).commands
    with subprocess.Popen(container_words(create), stdout=subprocess.PIPE, text=True) as process:
        while not (place / "ready").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 1


def test_the_words_for_xpk(tmp_path):
    options = {"cluster": "ours", "zone": "us-west4-a", "project": "p", "priority": "high"}
    [create] = launched("xpk", tmp_path, options={**options, "storage": "team"}, storage="/mnt/team").commands
    assert create[:3] == ("xpk", "workload", "create")
    words = dict(word.removeprefix("--").split("=", 1) for word in create[3:] if "=" in word)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", words["workload"]) and len(words["workload"]) <= 40
    assert words == {
        **options,
        "workload": words["workload"],
        "tpu-type": "v5litepod-4x4",
        "num-slices": "2",
        "storage": "team",
        "docker-image": "registry/jaxft:1",
        "max-restarts": "100",
        "restart-on-exit-codes": "1,6-126",
        "termination-grace-period-seconds": "180",
        "command": words["command"],
    }
    assert "--spot" in create and "--spot" not in launched("xpk", tmp_path, spot=False).commands[0]
    found = launched("xpk", tmp_path, options={**options, "attach": "true"}, storage="gs://b/team")
    attach, _ = found.commands
    assert attach[:4] == ("xpk", "storage", "attach", "b") and "--zone=us-west4-a" in attach
    with pytest.raises(RecipeError, match="--option attach is for"):
        launched("xpk", tmp_path, options={**options, "attach": "true"}, storage="/mnt/team")


def test_topologies_as_xpk_names_them():
    def words(name: str, slices: int = 1) -> tuple[str, ...]:
        return xpk_words(Hardware.of(parse_topology(name, slices)))

    assert words("v5e-256", 2) == ("--tpu-type=v5litepod-16x16", "--num-slices=2")
    # A number of cores would do for these, but v4-8192 is 4x4x256 to XPK.
    assert words("v5p-64")[0] == "--tpu-type=v5p-4x4x4" and words("v4-4096")[0] == "--tpu-type=v4-16x16x16"
    assert words("v6e-1")[0] == "--tpu-type=v6e-1x1" and words("tpu7x-4")[0] == "--tpu-type=tpu7x-2x2x1"
    assert words("v4:8x4x4")[0] == "--tpu-type=v4-8x4x4"
    assert words("h100-16") == ("--device-type=h100-80gb-8", "--num-nodes=2")
    assert words("h200-8") == ("--device-type=h200-141gb-8", "--num-nodes=1")
    for name, problem in (
        ("v5e-4", "v5e:2x2: its smallest of v5e is v5e:2x4"),
        ("h100-4", "h100-4: it has h100 in"),
        ("v5p:8x4x4", "the same slice is v5p:4x4x8"),
        ("v4:16x16x20", "at most 4096"),
        ("v5p:4x4x260", "256 along an axis"),
    ):
        with pytest.raises(RecipeError, match=f"xpk does not know .*{problem}"):
            words(name)
