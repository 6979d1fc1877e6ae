"""What the runs of a comparison say, arm by arm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxft.evaluation.evidence import Estimate, Option, difference, estimate, frontier, recommended
from jaxft.recipe.comparison import CompareConfig
from jaxft.workflows.compare.trials import Trial


@dataclasses.dataclass(frozen=True)
class ArmFinding:
    """An arm under one budget, at the learning rate that suits it best.

    Attributes:
      arm: its name.
      budget: `task` or `compute`.
      replay: share of replay in all tokens as it was read, mean over seeds.
      learning_rate: chosen.
      task: the task's metric.
      gain: on the task, compared with the first arm seed by seed, positive where better; None for that arm.
      forgetting: how much worse what was kept has become since the start, negative where better.
      spared: how much less was forgotten than by the first arm, seed by seed; None for that arm.
      probe: change of the probe since the start, positive where better; None where there is no probe.
      divergence: of the predictions from those at the start, on the task's texts; None where it is not measured.
    """

    arm: str
    budget: str
    replay: float
    learning_rate: float
    task: Estimate
    gain: Estimate | None
    forgetting: Estimate
    spared: Estimate | None
    probe: Estimate | None
    divergence: Estimate | None

    @property
    def name(self) -> str:
        """Of the arm, with its budget where that is not the usual one."""
        return self.arm if self.budget == "task" else f"{self.arm} (equal compute)"


@dataclasses.dataclass(frozen=True)
class Point:
    """An arm at one learning rate: mean forgetting and mean task metric."""

    name: str
    learning_rate: float
    forgetting: float
    task: float


@dataclasses.dataclass(frozen=True)
class Finding:
    """A whole comparison.

    Attributes:
      arms: the first is what the others are compared with.
      points: of all learning rates.
      frontier: names of the arms that none beats in both, by falling forgetting.
      recommended: name of the arm with the smallest share of replay that keeps the bound, or None.
      bound: largest forgetting that is fine.
      confidence: of the intervals.
      runs: number of runs.
    """

    arms: tuple[ArmFinding, ...]
    points: tuple[Point, ...]
    frontier: tuple[str, ...]
    recommended: str | None
    bound: float
    confidence: float
    runs: int


def findings_of(
    config: CompareConfig, results: Mapping[Trial, Mapping[str, Any]], lower_is_better: Mapping[str, bool]
) -> Finding:
    """What finished runs say.

    Args:
      config: what was compared.
      results: of all runs: `evaluation`, `before`, `divergence`, `tokens`.
      lower_is_better: by metric.
    """
    measured = {trial: _measures(config, result, lower_is_better) for trial, result in results.items()}
    groups: dict[tuple[str, str], dict[float, dict[int, _Measures]]] = {}
    for trial, own in measured.items():
        rates = groups.setdefault((trial.arm, trial.budget), {})
        rates.setdefault(trial.learning_rate, {})[trial.seed] = own
    best = {key: _best_rate(rates) for key, rates in groups.items()}
    chosen = {key: groups[key][best[key]] for key in groups}
    reference = next(iter(chosen))
    arms = tuple(
        _arm(key, best[key], own, None if key == reference else chosen[reference], config)
        for key, own in chosen.items()
    )
    sign = -1 if lower_is_better[config.task] else 1
    pareto = frontier({arm.name: (arm.forgetting.mean, sign * arm.task.mean) for arm in arms})
    replayed = {name for name, arm in config.arms.items() if arm.replay is not None and not arm.set}
    options = [
        Option(arm.name, arm.replay, arm.forgetting, arm.gain)
        for arm in arms
        if arm.budget == config.budgets[0] and arm.arm in replayed
    ]
    found = recommended(options, config.forgetting)
    names = {(arm.arm, arm.budget): arm.name for arm in arms}
    points = tuple(
        Point(names[key], rate, _mean(own, "forgetting"), _mean(own, "task"))
        for key, rates in groups.items()
        for rate, own in rates.items()
    )
    smallest = None if found is None else found.name
    return Finding(arms, points, tuple(pareto), smallest, config.forgetting, config.confidence, len(results))


@dataclasses.dataclass(frozen=True)
class _Measures:
    """Of one run; `select` and `gain` are signed so that more is better, `forgetting` so that less is."""

    task: float
    gain: float
    select: float
    forgetting: float
    probe: float | None
    divergence: float | None
    replay: float


def _measures(config: CompareConfig, result: Mapping[str, Any], lower: Mapping[str, bool]) -> _Measures:
    def value(metric: str) -> float:
        name, _, short = metric.partition(".")
        return result["evaluation"][name][short]

    def change(metric: str) -> float:
        """Positive where better."""
        gained = value(metric) - result["before"][metric]
        return -gained if lower[metric] else gained

    select = config.select or config.task
    first, *others = result["tokens"].values()
    return _Measures(
        task=value(config.task),
        gain=-value(config.task) if lower[config.task] else value(config.task),
        select=-value(select) if lower[select] else value(select),
        forgetting=-change(config.retained),
        probe=change(config.probe) if config.probe is not None else None,
        divergence=result["divergence"],
        replay=sum(others) / (first + sum(others)),
    )


def _mean(own: Mapping[int, _Measures], field: str) -> float:
    return sum(getattr(one, field) for one in own.values()) / len(own)


def _best_rate(rates: Mapping[float, Mapping[int, _Measures]]) -> float:
    return max(rates, key=lambda rate: _mean(rates[rate], "select"))


def _arm(
    key: tuple[str, str],
    rate: float,
    own: Mapping[int, _Measures],
    reference: Mapping[int, _Measures] | None,
    config: CompareConfig,
) -> ArmFinding:
    def of(field: str) -> Estimate:
        return estimate([getattr(one, field) for one in own.values()], config.confidence)

    def measured(field: str) -> Estimate | None:
        return None if any(getattr(one, field) is None for one in own.values()) else of(field)

    def versus(field: str) -> Estimate | None:
        if reference is None:
            return None
        ours, theirs = ({seed: getattr(one, field) for seed, one in side.items()} for side in (own, reference))
        return difference(ours, theirs, config.confidence)

    spared = versus("forgetting")
    if spared is not None:
        spared = Estimate(-spared.mean, -spared.high, -spared.low, spared.runs)
    arm, budget = key
    return ArmFinding(
        arm,
        budget,
        _mean(own, "replay"),
        rate,
        of("task"),
        versus("gain"),
        of("forgetting"),
        spared,
        measured("probe"),
        measured("divergence"),
    )
