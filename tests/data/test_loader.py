"""The prefetcher: in order, ahead of time, and gone when it is closed."""

from __future__ import annotations

import itertools
import multiprocessing
import threading

import pytest

from jaxft.data.loader import Prefetcher

PATIENCE = 30  # seconds until a test that hangs fails instead


def test_results_come_in_order_and_once():
    prefetcher = Prefetcher(lambda step: step * step, 3, 40)
    assert list(prefetcher) == [step * step for step in range(3, 40)]
    prefetcher.close()


def test_nothing_to_do():
    prefetcher = Prefetcher(lambda step: step, 5, 5)
    assert list(prefetcher) == []
    prefetcher.close()


@pytest.mark.parametrize("error", [ValueError("row 7 is bad"), KeyError("label"), KeyboardInterrupt()])
def test_what_make_raises_reaches_the_consumer_after_what_came_before(error):
    def make(step: int) -> int:
        if step == 7:
            raise error
        return step

    prefetcher = Prefetcher(make, 0, 100)
    got, raised = [], []

    def consume() -> None:
        try:
            for item in prefetcher:
                got.append(item)
        except BaseException as caught:
            raised.append(caught)

    consumer = threading.Thread(target=consume, daemon=True)  # so that an error that is lost does not hang the suite
    consumer.start()
    consumer.join(PATIENCE)
    assert raised == [error]
    assert got == list(range(7))
    prefetcher.close()


def test_works_ahead_but_not_further_than_its_depth():
    made, enough = [], threading.Event()

    def make(step: int) -> int:
        made.append(step)
        if step == 4:
            enough.set()
        return step

    prefetcher = Prefetcher(make, 0, 100, depth=3)
    items = iter(prefetcher)
    assert next(items) == 0
    assert enough.wait(PATIENCE)  # 1, 2 and 3 wait in the queue, 4 is made and waits for room
    assert made == list(range(5))
    prefetcher.close()


def test_make_runs_on_one_other_thread():
    names = set()
    prefetcher = Prefetcher(lambda step: names.add(threading.get_ident()), 0, 20)
    list(prefetcher)
    prefetcher.close()
    assert len(names) == 1 and threading.get_ident() not in names


def close_within_patience(prefetcher: Prefetcher) -> bool:
    closer = threading.Thread(target=prefetcher.close, daemon=True)
    closer.start()
    closer.join(PATIENCE)
    return not closer.is_alive()


def test_closes_while_the_queue_is_full():
    full = threading.Event()

    def make(step: int) -> int:
        if step == 2:
            full.set()
        return step

    prefetcher = Prefetcher(make, 0, 10**9, depth=2)
    assert full.wait(PATIENCE)
    assert close_within_patience(prefetcher)
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closes_when_the_consumer_stops_early(taken):
    before = threading.active_count()
    prefetcher = Prefetcher(lambda step: step, 0, 10**9)
    assert list(itertools.islice(prefetcher, taken)) == list(range(taken))
    assert close_within_patience(prefetcher)
    assert close_within_patience(prefetcher)  # twice does no harm
    assert threading.active_count() == before


def test_closes_after_an_error_nobody_took():
    def make(step: int) -> int:
        raise ValueError("bad")

    prefetcher = Prefetcher(make, 0, 3)
    assert close_within_patience(prefetcher)


def test_waited_is_the_time_without_data_and_starts_again():
    release = threading.Event()

    def make(step: int) -> int:
        release.wait(PATIENCE)
        return step

    prefetcher = Prefetcher(make, 0, 2)
    threading.Timer(0.05, release.set).start()
    assert list(prefetcher) == [0, 1]
    assert prefetcher.take_waited() > 0
    assert prefetcher.take_waited() == 0
    prefetcher.close()


def _squared(step: int) -> int:
    if step == 13:
        raise ValueError("step 13 cannot be made")
    return step * step


def test_workers_are_gone_after_closing_early():
    before = multiprocessing.active_children()
    prefetcher = Prefetcher(_squared, 3, 10_000, workers=1)
    assert next(iter(prefetcher)) == 9
    assert multiprocessing.active_children() != before
    assert close_within_patience(prefetcher)
    assert multiprocessing.active_children() == before


def test_what_a_worker_raises_reaches_the_consumer():
    prefetcher = Prefetcher(_squared, 9, 20, workers=1)
    got = []
    with pytest.raises(ValueError, match="step 13 cannot be made"):
        got.extend(iter(prefetcher))
    assert got == [81, 100, 121, 144]
    prefetcher.close()
