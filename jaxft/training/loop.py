"""The loop: batches in, metrics, evaluations and checkpoints out."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax

from jaxft.errors import DivergenceError
from jaxft.training.state import TrainState
from jaxft.training.step import Batches, Metrics


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for after a step, beside the rhythm.

    Attributes:
      interrupt: save and leave; a later start goes on from there.
      finish: this step is the last: it is evaluated and saved.
      save: write a checkpoint.
    """

    interrupt: bool = False
    finish: bool = False
    save: bool = False


class Hooks(Protocol):
    """What a run does around its steps; the workflow provides it."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows and writes the metrics of the steps since the last call."""

    def evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates and writes the result."""

    def save(self, step: int, state: TrainState) -> None:
        """Begins to write a checkpoint."""

    def should_stop(self) -> bool:
        """Whether the evaluations so far say that training is done."""

    def requested(self, step: int) -> Request:
        """What the user, the user's code or the scheduler asks for after this step; called after every one."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """The rhythm of a run, in steps.

    Attributes:
      total: last step.
      log_every: between reports.
      evaluate_every: between evaluations; the last step is always evaluated.
      save_every: between checkpoints; the last step is always saved.
      skips_allowed: steps in a row whose gradient is not finite before the run counts as diverged.
    """

    total: int
    log_every: int
    evaluate_every: int
    save_every: int
    skips_allowed: int


def run_loop(
    state: TrainState,
    first: int,
    train_step: Callable[[TrainState, Batches], tuple[TrainState, Metrics]],
    batches: Iterable[Batches],
    hooks: Hooks,
    config: LoopConfig,
    waited: Callable[[], float],
) -> tuple[int, TrainState]:
    """Trains from step `first` until the end, an early stop, or a request to leave or to finish.

    Args:
      state: at step `first`; its buffers are donated.
      first: steps already done.
      train_step: compiled.
      batches: of the steps `first, first + 1, ...`.
      hooks: what happens around the steps.
      config: the rhythm.
      waited: seconds spent waiting for data since the last call.

    Returns:
      The last step done and its state.

    Raises:
      DivergenceError: too many steps in a row were not finite.
    """
    if first == 0:
        hooks.evaluate(0, state)
    meter = Meter(waited, config.skips_allowed)
    step = first
    for batch in batches:
        state, metrics = train_step(state, batch)
        if step == first:
            meter.restart_clock()  # the first call compiled
        step += 1
        meter.add(step, metrics)
        request = hooks.requested(step)
        last = step == config.total or request.finish
        stop = request.interrupt or request.finish
        evaluates = step % config.evaluate_every == 0 or last
        saves = step % config.save_every == 0 or last or stop or request.save
        # Between pauses the newest step may still run on the device, so only those before it are read.
        if evaluates or saves or (step - 1) % config.log_every == 0:
            for at, values in meter.report(include_newest=evaluates or saves):
                hooks.log(at, values)
        # The order matters: the checkpoint remembers the evaluation of its own step.
        if evaluates:
            hooks.evaluate(step, state)
            stop = stop or hooks.should_stop()
        if saves or stop:
            hooks.save(step, state)
        if stop:
            break
        if evaluates or saves:
            meter.restart_clock()
    return step, state


class Meter:
    """Collects the metrics of steps on the device and turns them into numbers without making the device wait."""

    def __init__(self, waited: Callable[[], float], skips_allowed: int):
        self._pending: list[tuple[int, Metrics]] = []
        self._waited = waited
        self._skips_allowed = skips_allowed
        self._skips_in_a_row = 0
        self._since = time.perf_counter()

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step, which may not be computed yet."""
        self._pending.append((step, metrics))

    def restart_clock(self) -> None:
        """Forgets the time that an evaluation took."""
        self._since = time.perf_counter()
        self._waited()

    def report(self, include_newest: bool) -> list[tuple[int, dict[str, float]]]:
        """Metrics over the pending steps, which are then forgotten: at most one pair of the last step and its numbers.

        Raises:
          DivergenceError: too many steps in a row were not finite.
        """
        ready = self._pending if include_newest else self._pending[:-1]
        self._pending = self._pending[len(ready) :]
        if not ready:
            return []
        values: list[tuple[int, Any]] = [(step, jax.device_get(metrics)) for step, metrics in ready]
        for step, metrics in values:
            self._skips_in_a_row = self._skips_in_a_row + 1 if metrics["skipped"] else 0
            if self._skips_in_a_row > self._skips_allowed:
                raise DivergenceError(_diverged(step, self._skips_in_a_row, metrics))
        now = time.perf_counter()
        seconds, self._since = max(now - self._since, 1e-9), now
        summary = summarize([metrics for _, metrics in values])
        tokens = sum(value for name, value in summary.items() if name.endswith(".tokens"))
        summary["tokens_per_second"] = tokens / seconds
        summary["steps_per_second"] = len(values) / seconds
        summary["data_wait"] = min(1.0, self._waited() / seconds)
        return [(values[-1][0], summary)]


def summarize(steps: list[Metrics]) -> dict[str, float]:
    """One flat mapping from several steps: streams by sums over weights, norms and totals by means of finite steps.

    Norms and cosines of a stream are means over the steps in which it takes part; without any, they and its losses are
    NaN.
    """
    out: dict[str, float] = {}
    for name in ("loss", "gradient_norm"):
        out[name] = _mean(metrics[name] for metrics in steps)
    out["learning_rate"] = float(steps[-1]["learning_rate"])
    out["skipped"] = float(sum(metrics["skipped"] for metrics in steps))
    for stream in steps[0]["streams"]:
        rows = [metrics["streams"][stream] for metrics in steps]
        weight = float(sum(row["weight_sum"] for row in rows))
        taking_part = [row for row in rows if row["weight_sum"] > 0]
        out[f"{stream}.loss"] = float(sum(row["loss_sum"] for row in rows)) / weight if taking_part else math.nan
        out[f"{stream}.weight"] = weight
        out[f"{stream}.tokens"] = float(sum(row["tokens"] for row in rows))
        for name in rows[0]["ratios"]:
            parts = [row["ratios"][name] for row in rows]
            total = float(sum(r.weight for r in parts))
            out[f"{stream}.{name}"] = float(sum(r.sum for r in parts)) / max(total, 1e-9) if taking_part else math.nan
        for name in ("gradient_norm", "cosine"):
            if name in rows[0]:
                out[f"{stream}.{name}"] = _mean(row[name] for row in taking_part)
    return out


def _mean(values: Iterable[float]) -> float:
    finite = [float(value) for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _diverged(step: int, count: int, metrics: Metrics) -> str:
    streams = ", ".join(
        f"{name} (loss {float(row['loss_sum']):.3g}, gradient norm {float(row['gradient_norm']):.3g})"
        for name, row in metrics["streams"].items()
    )
    return (
        f"training diverged: the last {count} steps up to step {step} had no finite gradient: {streams}. "
        "Lower optimizer.learning_rate, lengthen schedule.warmup, or use training.precision=float32"
    )
