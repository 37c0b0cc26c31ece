"""Tables of a plan for people: memory, operations, collectives and time."""

import collections
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from diffusion.experiments.planning.estimate import EXACT, TEMPORARY
from diffusion.experiments.planning.machines import MACHINES

WORDS = {
    "optimizer": "optimizer state",
    "average": "moving average of the parameters",
    "base": "frozen base model",
    "others": "teacher, second player and its optimizer",
    "activations": "activations kept for the backward pass",
    "gradients": "temporary: gradients",
    "copies": "temporary: parameters in the compute type",
    "layer": "temporary: gathered parameters of one layer",
    "working": "temporary: intermediate results of one layer",
    "trace": "temporary: other arrays of the traced step",
}

FLOPS = {  # entries of a plan's "flops": in words, and how they are known
    "model": ("FLOPs of the model (3 x forward pass)", "by formula"),
    "recomputed": ("FLOPs of rematerialization", "by formula"),
    "step": ("FLOPs of the whole step", "counted"),
}

SLOWER = "each at the peak rate of its data sheet. A real step is slower."
TRACED = (
    "Step time and MFU are estimates. A range begins where compute, memory and network overlap entirely, and ends "
    f"where they run one after another, {SLOWER} MFU counts all FLOPs of the step."
)
CALIBRATED = (
    "Step time and MFU are estimates for the step as XLA compiles it; docs/scale.md states their errors. Matrix "
    f"products, passes over arrays and collectives run one after another, {SLOWER} A range begins where the "
    "collectives that XLA starts early overlap entirely with other work. MFU counts only the model's FLOPs."
)


def in_bytes(size: float) -> str:
    """Returns a number of bytes in a decimal unit: "812 MB", "3.41 GB"."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if (number := _rounded(size / scale)) >= 1:
            return f"{number:.9g} {unit}"
    return f"{size:.0f} B"


def in_seconds(seconds: float) -> str:
    """Returns a time in seconds or milliseconds: "12.3 ms", "1.52 s"."""
    number = _rounded(seconds)
    return f"{number:.9g} s" if number >= 1 else f"{_rounded(seconds * 1e3):g} ms"


def _rounded(number: float) -> float:
    """A number with three digits, which is written without an exponent where that is short."""
    return float(f"{number:.3g}")


def show(plan: Mapping[str, Any], console: Console) -> None:
    """Prints a plan, as `plan.plan` returns it."""
    images = plan["images"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1)
    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
    say(
        f"{plan['parameters'] / 1e6:.1f} M parameters, on {plan['devices']} device{'s' * (plan['devices'] > 1)}"
        f"{mesh and f' ({mesh})'}; a step is {images['step']} {plan['unit']}, {images['device']} a device"
        + (f", in {images['micro_batches']} micro-batches" if images["micro_batches"] > 1 else "")
    )
    console.print(_memory_table(plan["machines"]))
    console.print(_work_table(plan))
    console.print(_time_table(plan["machines"]))
    say(TRACED if "step" in plan["flops"] else CALIBRATED)
    for name, entry in plan["machines"].items():
        total = sum(entry["memory"].values())
        if not entry["fits"]:
            say(
                f"{name}: the run does not fit. It needs {in_bytes(total)} (estimate) of "
                f"{in_bytes(entry['hbm_bytes'])}, of which a tenth must stay free. To make it fit: {entry['change']}."
            )
        if entry["refused"]:
            say(f"{name}: the run would be refused there: {entry['refused']}.")
        if entry["compiled"]:
            console.print(_compiled_table(name, entry))


def _memory_table(machines: Mapping[str, Mapping]) -> Table:
    """Bytes on each device, a column for each platform."""
    columns = {entry["platform"]: entry for entry in machines.values()}
    table = Table("memory per device")
    for platform, entry in columns.items():
        table.add_column(f"{platform}, attention {entry['attention']}", justify="right")
    table.add_column("accuracy")
    first = next(iter(columns.values()))["memory"]
    for part in first:
        if part == "others" and not first[part]:
            continue
        kind = "exact" if part in (*EXACT, "base") else "estimate"
        table.add_row(WORDS.get(part, part), *(in_bytes(entry["memory"][part]) for entry in columns.values()), kind)
    table.add_section()
    temporary = [sum(entry["memory"].get(part, 0) for part in (*TEMPORARY, "trace")) for entry in columns.values()]
    table.add_row("all temporary memory", *map(in_bytes, temporary), "estimate")
    table.add_row("total", *(in_bytes(sum(entry["memory"].values())) for entry in columns.values()), "estimate")
    return table


def _work_table(plan: Mapping[str, Any]) -> Table:
    """Operations of the whole job, and bytes that each device sends, a column for each kind of network."""
    columns = {_network(name): entry["collectives"] for name, entry in plan["machines"].items()}
    table = Table("work per step")
    for network in columns:
        table.add_column(network, justify="right")
    table.add_column("accuracy")
    for name, number in plan["flops"].items():
        title, known = FLOPS[name]
        table.add_row(title, *[f"{number:.4g}"] * len(columns), known)
    sent = {
        network: {(one["kind"], " x ".join(one["axes"])): one["bytes"] for one in collectives}
        for network, collectives in columns.items()
    }
    for kind, over in dict.fromkeys(key for column in sent.values() for key in column):
        sizes = (f"{in_bytes(column.get((kind, over), 0))} per device" for column in sent.values())
        table.add_row(f"{kind} over {over}", *sizes, "estimate")
    return table


def _network(name: str) -> str:
    """The platform of a machine and its torus, since XLA chooses collectives by the torus's dimensions."""
    machine = MACHINES[name]
    return f"{machine.platform}, {machine.torus}D torus" if machine.torus else machine.platform


def _time_table(machines: Mapping[str, Mapping]) -> Table:
    """The seconds of a step by resource, and of the whole step."""
    table = Table("estimated time")
    for title in ("compute", "memory traffic", "network", "whole step", "MFU", "memory used"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, entry in machines.items():
        spent = entry["seconds"]
        share = f"{sum(entry['memory'].values()) / MACHINES[name].memory:.0%}"
        table.add_row(
            name,
            *(in_seconds(spent[part]) for part in ("compute", "memory", "network")),
            _range(in_seconds(spent["overlapped"]), in_seconds(spent["in_turn"])),
            _range(f"{spent['mfu_overlapped']:.0%}", f"{spent['mfu_in_turn']:.0%}"),
            share if entry["fits"] else f"{share}: too much",
        )
    return table


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least} ... {most}"


def _compiled_table(name: str, entry: Mapping[str, Any]) -> Table:
    """The table of XLA's figures of the compiled step, beside the estimates."""
    compiled = entry["compiled"]
    parts = entry["memory"]
    caption = f"compiled for {compiled['topology']} in {compiled['seconds']:.0f} s; XLA for TPU pads arrays to tiles"
    table = Table(f"{name}, per device", "XLA", "plan", caption=caption)
    for column in table.columns[1:]:
        column.justify = "right"
    if not compiled["fits"]:
        table.add_row("does not fit", compiled["error"], in_bytes(sum(parts.values())))
        return table
    state = sum(parts[part] for part in EXACT)
    total = sum(parts.values())
    planned = collections.Counter()
    for collective in entry["collectives"]:
        planned[collective["kind"]] += collective["bytes"]
    sent = compiled["collectives"]
    rows = {
        "arguments (state and batch)": (compiled["arguments"], state),
        "outputs written over the arguments": (compiled["aliased"], state),
        "temporary memory (with activations)": (compiled["temporaries"], total - state),
        "peak memory": (compiled["peak"], total),
        **{
            f"sent per step, {kind}": (sent.get(kind, 0), planned[kind])
            for kind in sorted(planned.keys() | sent.keys())
        },
    }
    for title, sizes in rows.items():
        table.add_row(title, *map(in_bytes, sizes))
    return table
