"""A process that meets others and does what it is told, without JAX: `member.py PORT COUNT INDEX WHAT`."""

from __future__ import annotations

import json
import sys
import threading
import time

from jaxft.errors import JaxftError
from jaxft.parallel.channel import end_now
from jaxft.parallel.rendezvous import Place, meet


def main() -> None:
    port, count, index = map(int, sys.argv[1:4])
    what = sys.argv[4]
    try:
        channel, _ = meet(Place("127.0.0.1", port, count, index), timeout=20 if what != "alone" else 0.5)
    except JaxftError as error:
        sys.exit(f"{error.exit_status}: {error}")
    last = index == count - 1
    if what == "exchange":
        told = [channel.exchange({"from": index, "round": number}) for number in range(3)]
        channel.exchange(None)
        channel.close()
        print(json.dumps(told))
        return
    if what == "stop":
        # Each at its own pace: the last one, which is asked, is far behind.
        for step in range(1, 10_000):
            if last and step == 5:
                channel.ask_to_stop("SIGTERM")
            if (reason := channel.reached(step)) is not None:
                break
            time.sleep(0.006 if last else 0.002)
        channel.exchange(None)
        channel.close()
        print(json.dumps([reason, step]))
        return
    for _ in range(20):
        channel.moved(1.0)
        time.sleep(0.01)
    if what == "stuck" and last:
        threading.Event().wait()
    if what == "error" and last:
        channel.fail("rows are missing", 3)
        end_now(3)
    if what == "killed" and last:
        print("waiting", flush=True)
    channel.moved(1.0 if what == "stuck" else None)
    channel.exchange("what never comes" if last else None)
    threading.Event().wait()


if __name__ == "__main__":
    main()
