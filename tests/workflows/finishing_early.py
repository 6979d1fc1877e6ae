"""Trains a recipe as one of several processes; the last asks for a checkpoint and for the end.

python finishing_early.py PORT COUNT INDEX RECIPE RUN SAVE FINISH
"""

from __future__ import annotations

import json
import sys

import jaxft
from jaxft.parallel.processes import ProcessesConfig, joined, leave


class Asking(jaxft.Callback):
    """Asks for a checkpoint at one report, and for the end at another."""

    def __init__(self, save: int, finish: int):
        self.save_at, self.finish_at = save, finish

    def on_begin(self, control):
        self.control = control

    def on_log(self, step, metrics):
        if step >= self.save_at:
            self.control.save()
        if step >= self.finish_at:
            self.control.finish()


def main(port: str, count: str, index: str, recipe: str, run: str, save: str, finish: str) -> None:
    """As one of `count` processes."""
    with joined(ProcessesConfig(f"127.0.0.1:{port}", int(count), int(index), start_timeout=120)):
        callbacks = [Asking(int(save), int(finish))] if index == str(int(count) - 1) else [jaxft.Callback()]
        summary = jaxft.train(recipe, run_directory=run, quiet=True, callbacks=callbacks)
    print(json.dumps(summary["steps"]), file=sys.stderr)
    leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
