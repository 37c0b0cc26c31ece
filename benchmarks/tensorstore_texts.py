"""Counts the objects that TensorStore leaves behind where it turns JSON into Python, as it does in every save.

    python -m benchmarks.tensorstore_texts --calls=300

Each text of a table stays in memory, so that a run grows with its saves; see docs/reliability.md.
"""

import argparse
import gc
import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any

import tensorstore

SPEC = {"driver": "ocdbt", "base": {"driver": "file", "path": "/tmp/nothing/"}, "path": "leaf"}


def left_behind(call: Callable[[], Any], calls: int = 300) -> float:
    """The number of Python's objects that a call leaves in memory, on average.

    Args:
        call: the function.
        calls: how often it is called, after a few first times that do not count.
    """
    for _ in range(20):
        call()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(calls):
        call()
    gc.collect()
    return (sys.getallocatedblocks() - before) / calls


def calls() -> dict[str, Callable[[], Any]]:
    """The calls that Orbax makes with every leaf, or every save, by their names."""
    spec = tensorstore.KvStore.Spec(SPEC)
    return {
        "KvStore.Spec.to_json": spec.to_json,
        "experimental_collect_matching_metrics": lambda: tensorstore.experimental_collect_matching_metrics(
            "/tensorstore/"
        ),
    }


def main() -> None:
    """Prints the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300, help="how often each is called; default: 300")
    options = parser.parse_args()
    print(f"tensorstore {importlib.metadata.version('tensorstore')}")
    for name, call in calls().items():
        print(f"{name}: {left_behind(call, options.calls):.1f} objects a call")


if __name__ == "__main__":
    main()
