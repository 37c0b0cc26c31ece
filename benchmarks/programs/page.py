"""Texts about rows of compiled programs: the table, the costly parts of one program, and the changes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusion.experiments.planning.tables import in_bytes, in_seconds

HEAD = ("program", "least time", "MFU at most", "at the measured rate", "moved", "temporaries", "peak", "kernels",
        "not in bf16", "copies", "sent", "attention", "computed again")  # fmt: skip
LEAST = 1e-3  # share of a list's bytes below which an entry is dropped
COPIES = ("transpose", "copy")  # the kinds of moves that change no value
LISTS = {  # {list in a row: (its title, the shown fields of an entry, the field of its cost)}
    "slowest": ("the slowest kernels", ("kernel",), "seconds"),
    "products": ("products that are not in bfloat16", ("kinds", "precision"), "flops"),
    "copies": ("what only moves more than a megabyte", ("kind", "type"), "bytes"),
    "stacks": ("what loops keep", ("type",), "bytes"),
    "recomputed": ("computed again", ("by",), "bytes"),
    "collectives": ("collectives", ("kind", "types", "group", "overlapped"), "bytes"),
}


def cells(row: Mapping[str, Any]) -> list[str]:
    """The cells of a row, in the order of `HEAD`."""
    if "cells" in row:
        return row["cells"]
    if "error" in row:
        return [row["case"], row["error"], *[""] * (len(HEAD) - 2)]
    short = sum(entry["flops"] for entry in row["products"])
    copied = [entry for entry in row["copies"] if entry["kind"] in COPIES]
    again = sum(entry["flops"] for entry in row["recomputed"])
    return [
        row["case"] + (f", products {how}" if (how := row["products_run"]) != "as XLA chooses" else ""),
        in_seconds(row["roofline"]["seconds"]),
        f"{row['roofline']['mfu']:.0%}",
        f"{row['measured']['mfu']:.0%}" if row["measured"] else "",
        in_bytes(row["bytes"]),
        in_bytes(row["memory"]["temp"]),
        in_bytes(row["memory"]["peak"]) + ("" if row["fits"] else ", too much"),
        f"{row['kernels']:,}",
        f"{short / max(row['flops'], 1):.2%}",
        in_bytes(sum(entry["bytes"] for entry in copied)),
        in_bytes(sum(entry["bytes"] for entry in row["collectives"])),
        attention(row["attention"]),
        f"{again / max(row['flops'], 1):.0%}",
    ]


def attention(kernels: Mapping[str, Any]) -> str:
    """How attention is computed, in a word or two."""
    if kernels["fused"]:
        return "fused" + (", and products" if kernels["products"] else "")
    return "products" if kernels["products"] else "none"


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table as Markdown, with the commit of each row."""
    lines = [
        [*HEAD, "commit"],
        ["---", *["---:"] * (len(HEAD) - 1), "---"],
        *([*cells(row), row.get("commit", "")] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def details(row: Mapping[str, Any], most: int) -> str:
    """The costly parts of one program: the `most` largest entries of each list, with their lines of Python."""
    said = [f"{row['case']}"]
    for name, (title, shown, unit) in LISTS.items():
        entries = row.get(name) or []
        if entries:
            said.append(f"  {title}: {len(entries)}, {_amount(sum(entry[unit] for entry in entries), unit)}")
        for entry in entries[:most]:
            what = " ".join(_text(entry[field]) for field in shown)
            where = " < ".join(entry["lines"]) or "no line"
            said.append(f"    {_amount(entry[unit], unit):>9} in {entry['times']:>5}  {what}  {where}  {entry['path']}")
    return "\n".join(said)


def _amount(value: float, unit: str) -> str:
    if unit == "seconds":
        return in_seconds(value)
    return in_bytes(value) if unit == "bytes" else f"{value / 1e12:.3g} TFLOP"


def _text(value: Any) -> str:
    return " x ".join(value) if isinstance(value, (list, tuple)) else str(value)


def shortened(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without "slowest" and the smallest entries of its lists of bytes, and with its cells of the table."""
    cut = {name: value for name, value in row.items() if name != "slowest"} | {"cells": cells(row)}
    for name, (_, _, unit) in LISTS.items():
        if name in cut and unit == "bytes":
            least = LEAST * sum(entry["bytes"] for entry in row[name])
            cut[name] = [entry for entry in row[name] if entry["bytes"] >= least]
    return cut


def differences(rows: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[str]:
    """The changes since earlier rows: a line for each changed cell of the table, and for each new or missing entry."""
    earlier = {row["case"]: shortened(row) for row in before}
    said = []
    for row in map(shortened, rows):
        old = earlier.get(row["case"])
        if old is None:
            said.append(f"{row['case']}: new")
            continue
        pairs = zip(HEAD[1:], cells(old)[1:], cells(row)[1:], strict=True)
        said += [f"{row['case']}: {name}: {was} -> {now}" for name, was, now in pairs if was != now]
        for name, (title, shown, unit) in LISTS.items():
            said += [
                f"{row['case']}: {title}: {change}" for change in _changed(old.get(name), row.get(name), shown, unit)
            ]
    return said


def _changed(before: Any, after: Any, shown: tuple[str, ...], unit: str) -> list[str]:
    """Lines for the entries that are new or gone; entries are compared by their paths, as lines of Python may move."""
    key = lambda each: (*(_text(each[field]) for field in shown), each["path"])
    old, new = ({key(entry): entry for entry in entries or []} for entries in (before, after))
    said = [f"gone: {_amount(old[k][unit], unit)} {' '.join(k)}" for k in old.keys() - new.keys()]
    for k in new.keys() - old.keys():
        said.append(f"new: {_amount(new[k][unit], unit)} {' '.join(k)}  {' < '.join(new[k]['lines'])}")
    return sorted(said)
