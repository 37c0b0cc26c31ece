"""Counts the Python objects that TensorStore leaks when it converts JSON to Python, which happens in every save.

    python -m benchmarks.tensorstore_texts --calls=300

The strings of a converted table are never freed, so that a run grows with its saves; see docs/reliability.md.
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
    """The mean number of Python objects that a call leaves in memory.

    Args:
        call: the function.
        calls: the number of calls that count; a few calls before them do not.
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
    """The calls that Orbax makes for every leaf or every save, by name."""
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
    parser.add_argument("--calls", type=int, default=300, help="number of calls of each function; default: 300")
    options = parser.parse_args()
    print(f"tensorstore {importlib.metadata.version('tensorstore')}")
    for name, call in calls().items():
        print(f"{name}: {left_behind(call, options.calls):.1f} objects a call")


if __name__ == "__main__":
    main()
