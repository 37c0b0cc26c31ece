"""What a program in bfloat16 must not have: products in other types, and copies."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.programs.page import COPIES


def broken(row: Mapping[str, Any], products: Iterable[str] = (), copies: Iterable[str] = ()) -> list[str]:
    """What a row has beyond what is known.

    Args:
        row: of a case, see `benchmarks.programs.compile`.
        products: patterns of the paths of products that may have other types than bfloat16.
        copies: patterns of the paths of transposes and copies of more than a megabyte that are known.

    Returns:
        A sentence for each, with the line of Python that it comes from; [] if the program is as it should be.
    """
    known = lambda each, patterns: any(re.search(pattern, each["path"]) for pattern in patterns)
    said = [
        f"a product of {' and '.join(each['kinds'])}, {each['flops']:.3g} operations, {_where(each)}"
        for each in row["products"]
        if not known(each, products)
    ]
    said += [
        f"a {each['kind']} of {each['type']}, {each['bytes'] / 1e6:.1f} MB in {each['times']} runs, {_where(each)}"
        for each in row["copies"]
        if each["kind"] in COPIES and not known(each, copies)
    ]
    return [f"{row['case']}: {each}" for each in said]


def _where(each: Mapping[str, Any]) -> str:
    return f"from {' < '.join(each['lines']) or 'no line that XLA names'} ({each['path']})"
