"""A plan in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

from jaxft.planning.kernels import KernelCall
from jaxft.planning.topology import GIB
from jaxft.reporting.progress import format_count, format_duration
from jaxft.reporting.tables import text_table


def plan_text(plan: dict[str, Any], parameters: bool = False) -> str:
    """Tables and a verdict.

    Args:
      plan: as of `jaxft.workflows.plan.plan.plan` or `jaxft.workflows.plan.search.search`.
      parameters: whether every parameter is listed.
    """
    parts = [_title(plan), _parameters(plan), _streams(plan), _attention(plan), _memory(plan)]
    if parameters:
        parts.insert(2, _table(plan))
    if plan["compiled"] is not None:
        parts.append(_program(plan))
    parts += [_time(plan), _verdict(plan)]
    return "\n\n".join(parts)


def _title(plan: dict[str, Any]) -> str:
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    slices = f" in {plan['slices']} slices" if plan["slices"] > 1 else ""
    devices = "" if plan["devices"] == plan["chips"] else f" ({plan['devices']} devices)"
    # Google Cloud counts the cores of these.
    kind = plan["topology"].split(":")[0]
    cores = f", which Google Cloud calls {kind}-{plan['chips'] * 2}" if kind in ("v4", "v5p", "tpu7x") else ""
    chosen = f"\nchosen: {' '.join(plan['overrides'])}" if "overrides" in plan else ""
    chips = f"{plan['chips']} chip{'s' if plan['chips'] > 1 else ''}"
    return f"{plan['recipe']} on {plan['topology']}{slices}: {chips}{devices}{cores}\nmesh: {mesh}{chosen}"


def _parameters(plan: dict[str, Any]) -> str:
    return text_table(("part", "parameters"), [*plan["parameters_by_part"].items(), ("all", plan["parameters"])])


def _table(plan: dict[str, Any]) -> str:
    rows = [
        (
            row["name"],
            " x ".join(map(str, row["shape"])),
            ", ".join(axis or "-" for axis in row["axes"]),
            ", ".join(_axis(axis) for axis in row["mesh_axes"]),
            row["bytes"],
        )
        for row in plan["parameter_table"]
    ]
    return text_table(("parameter", "shape", "axes", "split over", "bytes per device"), rows)


def _axis(axis: Any) -> str:
    return "-" if axis is None else axis if isinstance(axis, str) else "+".join(axis)


def _streams(plan: dict[str, Any]) -> str:
    rows = [
        (name, one["objective"], one["rows"], one["every"], one["tokens"], f"{one['flops'] / 1e12:,.4g}")
        for name, one in plan["streams"].items()
    ]
    table = text_table(("stream", "objective", "rows", "every", "tokens", "TFLOP"), rows)
    shares = ", ".join(f"{part} {value / plan['flops_per_step']:.0%}" for part, value in plan["flops_by_part"].items())
    return (
        f"{table}\n{plan['flops_per_token'] / 1e9:,.4g} GFLOP per token, "
        f"{plan['flops_per_step'] / 1e12:,.4g} TFLOP per step ({shares})"
    )


def _attention(plan: dict[str, Any]) -> str:
    rows = [
        (use["stream"], use["kernel"], use["layers"], f"{use['queries']:,} x {use['keys']:,}", use["reason"])
        for use in plan["attention_uses"]
    ]
    return text_table(("attention of", "kernel", "layers", "queries x keys", "reason"), rows)


def _memory(plan: dict[str, Any]) -> str:
    rows = [(name, _gib(size)) for name, size in plan["memory_by_formula"].items()]
    if plan["compile_seconds"] is not None:
        rows.append(("the compiler's peak", _gib(plan["bytes_per_device"])))
    rows.append(("a device has", _gib(plan["hbm_bytes"])))
    return text_table(("memory of a device", "GiB"), rows)


def _program(plan: dict[str, Any]) -> str:
    cost = plan["compiled"]
    rows = [(kind, round(one["count"]), f"{one['bytes'] / 1e9:.3f}") for kind, one in cost["collectives"].items()]
    table = text_table(("collectives of a step", "times", "GB sent"), rows) if rows else "no collectives"
    unknown = f"; {cost['unknown_loops']} loops of unknown length count once" if cost["unknown_loops"] else ""
    return (
        f"{table}\ncompiled in {plan['compile_seconds']:.0f} s; on each device {cost['matmul_flops'] / 1e12:.4g} TFLOP "
        f"of matrix products, {cost['cycles']:.4g} cycles, {cost['memory_bytes'] / 1e9:.4g} GB read and "
        f"written{unknown}{_kernels(cost)}"
    )


def _kernels(cost: dict[str, Any]) -> str:
    """How often each kernel of attention runs, and their products."""
    calls = [(KernelCall(**one["call"]), one["times"]) for one in cost["kernels"]]
    if not calls:
        return ""
    times: Counter[str] = Counter()
    for call, count in calls:
        times[call.phase] += round(count)
    counted = ", ".join(f"{phase} {count:,}" for phase, count in times.items())
    flops = sum(call.flops * count for call, count in calls)
    return f"\nbesides, in kernels of attention {flops / 1e12:.4g} TFLOP of matrix products: {counted} times"


def _time(plan: dict[str, Any]) -> str:
    estimate = plan["estimate"]
    rows = [
        ("matrix products", f"{estimate['compute']:.4g}"),
        ("memory", f"{estimate['memory']:.4g}"),
        ("collectives", f"{estimate['collectives']:.4g}"),
        ("of them exposed", f"{estimate['exposed']:.4g}"),
    ]
    if estimate["method"] == "compiled":
        rows.insert(0, ("kernels of attention, by their schedules", f"{estimate['kernels']:.4g}"))
        rows.insert(0, ("all other instructions, by the compiler", f"{estimate['instructions']:.4g}"))
    rows.append(("a step", f"{estimate['step']:.4g}"))
    lines = [
        text_table((f"estimated time ({estimate['method']})", "s"), rows),
        f"MFU {plan['estimated_mfu']:.1%}, {format_count(plan['tokens_per_day'])} tokens per day",
    ]
    if plan["estimated_hours"] is not None:
        lines.append(f"{plan['steps']:,} steps take {format_duration(plan['estimated_hours'] * 3600)}")
    if plan["cost_per_billion_tokens"] is not None:
        run = "" if plan["cost"] is None else f", the run {plan['cost']:,.2f}"
        lines.append(f"a billion tokens cost {plan['cost_per_billion_tokens']:,.2f}{run}")
    return "\n".join(lines)


def _verdict(plan: dict[str, Any]) -> str:
    spare = plan["hbm_bytes"] - plan["bytes_per_device"]
    if plan["fits"]:
        return f"It fits: {_gib(spare)} GiB of {_gib(plan['hbm_bytes'])} are left on each device."
    lines = [f"It does NOT fit: each device lacks {_gib(-spare)} GiB. By formula it would with"]
    lines += [f"  {way['change']}  ({_gib(way['bytes_per_device'])} GiB)" for way in plan["ways_to_fit"]]
    if not plan["ways_to_fit"]:
        lines = [f"It does NOT fit: each device lacks {_gib(-spare)} GiB. Take more devices or a smaller batch."]
    return "\n".join(lines)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
