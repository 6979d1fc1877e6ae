"""What a comparison shows: a table, the conclusions that the runs bear out, and a page."""

from __future__ import annotations

import pathlib

from jaxft.evaluation.evidence import Estimate
from jaxft.recipe.library import recipe_to_text
from jaxft.recipe.schema import Recipe
from jaxft.reporting.comparison_plots import ArmPoint, plot_frontier
from jaxft.reporting.html_report import Figure, Report, Section, Table, Tile, write_report
from jaxft.reporting.tables import text_table
from jaxft.workflows.compare.findings import ArmFinding, Finding
from jaxft.workflows.compare.trials import comparison_of

_METHOD = (
    "Every arm starts from the same weights and is trained with every learning rate and seed; it is shown at the "
    "learning rate that suits it best by {select}, its mean over {seeds} seeds with {confidence:.0%} intervals "
    "(Student's, over seeds). Differences are taken seed by seed against {reference}. Forgetting is how much worse "
    "{retained} became since the start; divergence is the mean KL divergence, in nats, of the pretraining "
    "predictions now from those at the start, on the task's held-out texts."
)


def comparison_text(finding: Finding, recipe: Recipe) -> str:
    """A finding as text for a terminal."""
    header, rows = _table(finding, recipe)
    return "\n\n".join([text_table(header, rows), *conclusions(finding, recipe)])


def conclusions(finding: Finding, recipe: Recipe) -> tuple[str, ...]:
    """What the numbers say and what they do not, a paragraph each: forgetting, the task, the recommendation."""
    reference, *others = finding.arms
    config = comparison_of(recipe)
    forgetting = [f"Forgetting: {reference.name} makes {config.retained} worse by {reference.forgetting}."]
    forgetting += [_versus(arm, arm.spared, "less", "more", "forgets") for arm in others if arm.spared]
    task = [f"Task: {reference.name} reaches {reference.task} {config.task}."]
    task += [_versus(arm, arm.gain, "better", "worse", "is") for arm in others if arm.gain]
    return " ".join(forgetting), " ".join(task), _recommendation(finding, recipe)


def _versus(arm: ArmFinding, difference: Estimate, more: str, less: str, verb: str) -> str:
    if difference.runs < 2:
        return f"{arm.name} {verb} {more if difference.mean > 0 else less} by {abs(difference.mean):.3g} (one run)."
    if not difference.excludes_zero:
        low, high = difference.low, difference.high
        return f"{arm.name}: the evidence supports no difference ({low:+.3g} to {high:+.3g})."
    word = more if difference.mean > 0 else less
    ends = sorted((abs(difference.low), abs(difference.high)))
    return f"{arm.name} {verb} {word} by {abs(difference.mean):.3g} ({ends[0]:.3g} to {ends[1]:.3g})."


def _recommendation(finding: Finding, recipe: Recipe) -> str:
    bound = f"at most {finding.bound:g} of forgetting in {comparison_of(recipe).retained}"
    if finding.recommended is None:
        shares = [arm for arm in finding.arms if arm.replay > 0]
        hint = "more replay, a lower learning rate" if shares else "arms with replay"
        return f"Recommendation: no share of replay that was tried surely keeps to {bound}; try {hint}, or more seeds."
    arm = next(arm for arm in finding.arms if arm.name == finding.recommended)
    sure = "surely" if arm.forgetting.runs > 1 else "by a single run"
    gain = ""
    if arm.gain is not None:
        gain = " without a measurable cost to the task" if arm.gain.low <= 0 else " and does better on the task"
    share = "no replay at all" if not arm.replay else f"{arm.replay:.1%} of all tokens as replay ({arm.name})"
    return (
        f"Recommendation: {share} is the smallest share tried that {sure} keeps to {bound} "
        f"(here {arm.forgetting}){gain}."
    )


def _table(finding: Finding, recipe: Recipe) -> tuple[tuple[str, ...], list[tuple]]:
    config = comparison_of(recipe)
    header = ["arm", "replay", "learning rate", config.task, "gain", "forgetting", "forgets less by"]
    probe = any(arm.probe for arm in finding.arms)
    divergence = any(arm.divergence for arm in finding.arms)
    header += [f"change of {config.probe}"] * probe + ["divergence"] * divergence
    rows = []
    for arm in finding.arms:
        cells = [arm.task, arm.gain, arm.forgetting, arm.spared]
        cells += [arm.probe] * probe + [arm.divergence] * divergence
        shown = ["—" if cell is None else str(cell) for cell in cells]
        rows.append((arm.name, f"{arm.replay:.1%}", f"{arm.learning_rate:g}", *shown))
    return tuple(header), rows


def write_comparison(finding: Finding, recipe: Recipe, directory: pathlib.Path) -> None:
    """Draws the comparison and writes `report.html` into its directory."""
    config = comparison_of(recipe)
    plots = directory / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    chosen = {(arm.name, arm.learning_rate) for arm in finding.arms}
    points = [
        ArmPoint(
            arm.name,
            _ends(arm.forgetting),
            _ends(arm.task),
            tuple(
                (point.forgetting, point.task)
                for point in finding.points
                if point.name == arm.name and (point.name, point.learning_rate) not in chosen
            ),
        )
        for arm in finding.arms
    ]
    labels = (f"rise of {config.retained} since the start", config.task)
    picture = plot_frontier(points, finding.frontier, finding.bound, labels, plots / "frontier.png")
    caption = (
        "Each arm at its best learning rate, with intervals; faint: at other learning rates. The line joins the arms "
        "that none beats in both; in the shaded part forgetting keeps to the bound."
    )
    header, rows = _table(finding, recipe)
    method = _METHOD.format(
        select=config.select or config.task,
        seeds=len(config.seeds),
        confidence=config.confidence,
        reference=finding.arms[0].name,
        retained=config.retained,
    )
    report = Report(
        title=f"{recipe.name}: ways to fine-tune",
        subtitle=f"{finding.runs} runs of {len(finding.arms)} arms",
        summary=conclusions(finding, recipe),
        tiles=_tiles(finding, recipe),
        sections=(
            Section(
                "What was gained, what was forgotten",
                method,
                tables=(Table("", header, tuple(rows)),),
                figures=(Figure("", picture, caption),),
            ),
            Section("Recipe", code=recipe_to_text(recipe)),
        ),
    )
    write_report(report, directory / "report.html")


def _ends(value: Estimate) -> tuple[float, float, float]:
    return value.mean, value.low, value.high


def _tiles(finding: Finding, recipe: Recipe) -> tuple[Tile, ...]:
    reference = finding.arms[0]
    best = min(finding.arms, key=lambda arm: arm.forgetting.mean)
    tiles = [
        Tile(f"{reference.name} {comparison_of(recipe).task}", f"{reference.task.mean:.4g}"),
        Tile(f"{reference.name} forgot", f"{reference.forgetting.mean:+.3g}", comparison_of(recipe).retained),
        Tile("Least forgotten", f"{best.forgetting.mean:+.3g}", best.name),
    ]
    if finding.recommended is not None:
        tiles.append(Tile("Recommended", finding.recommended, f"forgets at most {finding.bound:g}"))
    return tuple(tiles)
