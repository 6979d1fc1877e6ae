"""Building stores: the same store however the work was shared, nothing done twice, and bad rows by policy."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from jaxft.data import preparing
from jaxft.data.preparing import BadRowsConfig, Preparation, build, open_or_build
from jaxft.data.sources import Row
from jaxft.data.store import BYTES, PART_ENDS, TOKENS, Fields, TokenStore, cut
from jaxft.data.store_sums import store_defect, with_sums
from jaxft.errors import DataError, InvalidField

COUNT = 53
USUAL = Preparation()


def rows():
    return [
        Row({"text": f"The number {i} and its square {i * i}", "number": i}, f"n.jsonl:{i + 1}") for i in range(COUNT)
    ]


def fields(row: Row) -> Fields:
    if row.values["number"] == "bad":
        raise DataError(f"{row.location}: no number", "not_a_number")
    return Fields({TOKENS: row.values["text"]}, {"number": row.values["number"]})


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(preparing, "SHARD_ROWS", 10)
    monkeypatch.setattr(preparing, "_BATCH_ROWS", 3)


def content(directory: pathlib.Path) -> list:
    store = TokenStore(directory)
    records = store.read(list(range(len(store))))
    store.close()
    return [(record["number"], record[TOKENS].tolist()) for record in records]


def make(directory, tokenizer, source=rows, how=USUAL):
    return open_or_build(directory, source, fields, tokenizer, "streams.text", how)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_make_the_same_store(tmp_path, tokenizer, workers):
    make(tmp_path / "alone", tokenizer).close()
    make(tmp_path / "shared", tokenizer, how=Preparation(workers=workers)).close()
    assert content(tmp_path / "alone") == content(tmp_path / "shared")
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("alone", "shared")]
    assert names[0] == names[1]
    assert not list(tmp_path.glob("*.building"))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_parts_of_several_machines_make_the_same_store(tmp_path, tokenizer, order):
    make(tmp_path / "alone", tokenizer).close()
    whole = [
        build(tmp_path / "parts", rows, fields, tokenizer, "streams.text", Preparation(part=(part, 3)))
        for part in order
    ]
    assert whole == [False, False, True]
    assert content(tmp_path / "alone") == content(tmp_path / "parts")


def test_what_an_interrupted_build_finished_is_not_done_again(tmp_path, tokenizer):
    class Killed(BaseException):
        pass

    def torn():
        for row in rows():
            if row.values["number"] == 37:
                raise Killed
            yield row

    with pytest.raises(Killed):
        make(tmp_path / "a", tokenizer, torn)
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a.building").glob("shard-*.array_record")}
    assert len(finished) == 3
    tokenized = []

    def watched(row: Row) -> Fields:
        tokenized.append(row.values["number"])
        return fields(row)

    open_or_build(tmp_path / "a", rows, watched, tokenizer, "streams.text").close()
    assert tokenized == list(range(30, COUNT))
    for name, when in finished.items():
        assert (tmp_path / "a" / name).stat().st_mtime_ns == when
    make(tmp_path / "b", tokenizer).close()
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_killed_process_leaves_a_build_that_goes_on(tmp_path, tokenizer):
    """A real kill -9 while shards are written."""
    tokenizer.save(tmp_path / "tokenizer")
    script = textwrap.dedent(f"""
        import pathlib, time
        from jaxft.data import preparing
        from jaxft.data.sources import Row
        from jaxft.data.store import TOKENS, Fields
        from jaxft.data.tokenizers import load_tokenizer
        preparing.SHARD_ROWS, preparing._BATCH_ROWS = 10, 3
        def rows():
            for i in range({COUNT}):
                if i >= 25:
                    time.sleep(60)
                yield Row({{"text": f"The number {{i}} and its square {{i * i}}", "number": i}}, f"n.jsonl:{{i + 1}}")
        def fields(row):
            return Fields({{TOKENS: row.values["text"]}}, {{"number": row.values["number"]}})
        here = pathlib.Path({str(tmp_path)!r})
        preparing.open_or_build(here / "a", rows, fields, load_tokenizer(here / "tokenizer"), "streams.text")
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("a.building/chunk-*.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    make(tmp_path / "a", tokenizer).close()
    make(tmp_path / "b", tokenizer).close()
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert not list((tmp_path / "a").glob("*.partial"))


def test_processes_that_start_together_all_get_the_store_of_one(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    script = textwrap.dedent(f"""
        import pathlib, time
        from jaxft.data import preparing
        from jaxft.data.sources import Row
        from jaxft.data.store import TOKENS, Fields
        from jaxft.data.tokenizers import load_tokenizer
        preparing.SHARD_ROWS, preparing._BATCH_ROWS = 10, 3
        here, made = pathlib.Path({str(tmp_path)!r}), []
        def rows():
            made.append(1)
            for i in range({COUNT}):
                time.sleep(0.01)
                yield Row({{"text": f"The number {{i}} and its square {{i * i}}", "number": i}}, f"n.jsonl:{{i + 1}}")
        def fields(row):
            return Fields({{TOKENS: row.values["text"]}}, {{"number": row.values["number"]}})
        tokenizer = load_tokenizer(here / "tokenizer")
        (here / f"ready-{{time.time_ns()}}").touch()
        while len(list(here.glob("ready-*"))) < 3:
            time.sleep(0.01)
        store = preparing.open_or_build(here / "stores" / "a", rows, fields, tokenizer, "streams.text")
        assert [record["number"] for record in store.read([0, 52, 17])] == [0, 52, 17]
        print(len(made))
    """)
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    built = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(built) == [0, 0, 1]
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["a"]
    assert not list((tmp_path / "stores" / "a").glob(".lock"))


def defective():
    """Six bad rows of three kinds among the good ones: before the reader, in the reader, without a token."""
    out: list[Row | DataError] = list(rows())
    for place in (3, 17, 30):
        out.insert(place, DataError(f"n.jsonl:x{place}: not valid JSON", "malformed_json"))
    for place in (5, 45):
        out.insert(place, Row({"text": "x", "number": "bad"}, f"n.jsonl:y{place}"))
    return [*out, Row({"text": "\u200b", "number": 1}, "n.jsonl:z")]


@pytest.mark.parametrize("policy", ["skip", "quarantine"])
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_rows_are_counted_by_reason_and_nothing_is_lost(tmp_path, tokenizer, policy, workers):
    how = Preparation(BadRowsConfig(policy, 0.2), workers)
    store = make(tmp_path / "a", tokenizer, defective, how)
    assert store.bad == {"malformed_json": 3, "not_a_number": 2, "no_tokens": 1}
    assert store.rows == len(defective()) == len(store) + sum(store.bad.values())
    assert [number for number, _ in content(tmp_path / "a")] == list(range(COUNT))
    quarantine = tmp_path / "a" / "quarantine.jsonl"
    assert quarantine.exists() == (policy == "quarantine")
    if policy == "quarantine":
        lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
        assert len(lines) == 6 and {line["reason"] for line in lines} == set(store.bad)
        assert any("n.jsonl:y5" in line["message"] for line in lines)


def test_by_default_the_first_bad_row_stops(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"n\.jsonl:x3: not valid JSON") as error:
        make(tmp_path / "a", tokenizer, defective)
    assert error.value.reason == "malformed_json"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("limit", "refused"), [(0.05, True), (5, True), (6, False), (0.11, False)])
def test_too_many_bad_rows_stop(tmp_path, tokenizer, limit, refused):
    how = Preparation(BadRowsConfig("skip", limit))
    if not refused:
        assert len(make(tmp_path / "a", tokenizer, defective, how)) == COUNT
        return
    with pytest.raises(DataError, match=r"6 of 59 rows are bad.*3 malformed_json \(first: n\.jsonl:x3"):
        make(tmp_path / "a", tokenizer, defective, how)
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_bad_rows(tmp_path, tokenizer):
    only_bad = [DataError("n.jsonl:1: not valid JSON", "malformed_json")] * 3
    with pytest.raises(DataError, match="none of 3 rows can be used"):
        make(tmp_path / "a", tokenizer, lambda: only_bad, Preparation(BadRowsConfig("skip", 10)))


def test_a_limit_must_make_sense():
    for limit in (-1, 1.5):
        with pytest.raises(InvalidField):
            BadRowsConfig("skip", limit)


def test_more_shards_than_are_open_at_a_time(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("jaxft.data.store._OPEN_SHARDS", 2)
    store = make(tmp_path / "a", tokenizer)
    asked = np.random.default_rng(0).integers(0, COUNT, 100).tolist()
    assert [record["number"] for record in store.read(asked)] == asked
    assert len(store._readers) == 2
    store.close()


def test_pieces_of_a_record_share_its_bytes_and_keep_its_parts():
    record = {
        TOKENS: np.arange(20, dtype=np.int32),
        PART_ENDS: np.array([4, 9, 9, 20], np.int32),
        BYTES: 57,
        "label": 1,
    }
    pieces = [cut(record, start, stop) for start, stop in ((0, 4), (4, 11), (11, 20))]
    assert sum(piece[BYTES] for piece in pieces) == pytest.approx(57)
    assert [piece[PART_ENDS].tolist() for piece in pieces] == [[4], [5, 5, 7], [9]]
    assert [(piece["begins"], piece["ends"]) for piece in pieces] == [(True, False), (False, False), (False, True)]
    assert all(piece["label"] == 1 for piece in pieces) and record[BYTES] == 57


@pytest.mark.parametrize("damage", ["zeros", "flip", "cut", "gone"])
def test_a_damaged_store_is_built_again_and_that_is_said(tmp_path, tokenizer, caplog, damage):
    make(tmp_path / "a", tokenizer).close()
    wanted = content(tmp_path / "a")
    for path in sorted((tmp_path / "a").iterdir()):
        old = path.read_bytes()
        if damage == "gone":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(old[: len(old) // 2])
        else:
            middle = len(old) // 2
            changed = bytes(8) if damage == "zeros" else bytes([old[middle] ^ 1])
            path.write_bytes(old[:middle] + changed + old[middle + len(changed) :])
        same = path.exists() and path.read_bytes() == old  # zeros in the padding of a shard
        caplog.clear()
        make(tmp_path / "a", tokenizer).close()
        assert same or "is built again" in caplog.text, path
        assert content(tmp_path / "a") == wanted
        assert [left.name for left in tmp_path.iterdir()] == ["a"]


def test_lengths_of_zero_are_noticed_in_a_store_of_an_earlier_version(tmp_path, tokenizer, caplog):
    make(tmp_path / "a", tokenizer).close()
    described = json.loads((tmp_path / "a" / "store.json").read_text())
    (tmp_path / "a" / "store.json").write_text(
        json.dumps({name: described[name] for name in ("format", "shards", "rows", "bad")})
    )
    wanted = content(tmp_path / "a")
    make(tmp_path / "a", tokenizer).close()
    assert "built again" not in caplog.text
    lengths = np.load(tmp_path / "a" / "lengths.npy")
    np.save(tmp_path / "a" / "lengths.npy", np.zeros_like(lengths))
    make(tmp_path / "a", tokenizer).close()
    assert "lengths.npy" in caplog.text and content(tmp_path / "a") == wanted


def test_what_no_sum_covers_is_noticed_when_it_is_read(tmp_path, tokenizer):
    make(tmp_path / "a", tokenizer).close()
    lengths = np.load(tmp_path / "a" / "lengths.npy")
    np.save(tmp_path / "a" / "lengths.npy", lengths + 1)
    with pytest.raises(DataError, match=r"lengths.npy is damaged .* remove"):
        content(tmp_path / "a")
    np.save(tmp_path / "a" / "lengths.npy", lengths)
    shard = tmp_path / "a" / "shard-00002.array_record"
    raw = bytearray(shard.read_bytes())
    raw[raw.index(b"tokens")] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(DataError, match=r"shard-00002.array_record is damaged"):
        content(tmp_path / "a")


def test_a_large_shard_is_known_by_its_size_and_blocks_of_it(tmp_path):
    shard, lengths = tmp_path / "shard", tmp_path / "lengths.npy"
    shard.write_bytes(bytes(1 << 23))
    np.save(lengths, np.ones(3, np.int32))
    (tmp_path / "store.json").write_text(json.dumps(with_sums({"shards": [3]}, tmp_path, ["shard"])))
    assert store_defect(tmp_path) is None
    for place in (0, 1 << 14, (1 << 23) - 1):
        content = bytearray(1 << 23)
        content[place] = 1
        shard.write_bytes(content)
        assert (store_defect(tmp_path) is None) == (place == 1 << 14)
    shard.write_bytes(bytes((1 << 23) - 1))
    assert store_defect(tmp_path) == "shard is damaged"
