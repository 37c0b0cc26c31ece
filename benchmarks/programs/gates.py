"""Checks of a compiled program in bfloat16: products in other types and copies that it must not have."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.programs.page import COPIES


def broken(row: Mapping[str, Any], products: Iterable[str] = (), copies: Iterable[str] = ()) -> list[str]:
    """The faults of a row that are not known.

    Args:
        row: the row of a case, see `benchmarks.programs.compile`.
        products: patterns of the paths of products that may have other types than bfloat16.
        copies: patterns of the paths of known transposes and copies of more than a megabyte.

    Returns:
        A sentence for each fault, with the line of Python that it comes from; [] if there are no faults.
    """
    known = lambda each, patterns: any(re.search(pattern, each["path"]) for pattern in patterns)
    said = [
        f"a product of {' and '.join(entry['kinds'])}, {entry['flops']:.3g} operations, {_where(entry)}"
        for entry in row["products"]
        if not known(entry, products)
    ]
    said += [
        f"a {entry['kind']} of {entry['type']}, {entry['bytes'] / 1e6:.1f} MB in {entry['times']} runs, {_where(entry)}"
        for entry in row["copies"]
        if entry["kind"] in COPIES and not known(entry, copies)
    ]
    return [f"{row['case']}: {sentence}" for sentence in said]


def _where(each: Mapping[str, Any]) -> str:
    return f"from {' < '.join(each['lines']) or 'no line that XLA names'} ({each['path']})"
