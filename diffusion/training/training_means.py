"""Means of training metrics between two lines of metrics.jsonl.

The sums are plain numbers that travel in the checkpoint, so that a run that is interrupted between two lines writes
the same next line as one that is not.
"""

import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LATEST = ("learning_rate",)  # the value of the last step, not a mean
TOTALS = ("skipped",)  # counted from the beginning of the run


def empty(before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the sums over no step at all, with the totals of `before`, the sums of the interval that ended."""
    return {"steps": 0, **{name: value for name, value in (before or {}).items() if name in TOTALS}}


def add(sums: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sums with one more step.

    Args:
        sums: the sums so far, from `empty` or `add`; JSON-able.
        metrics: the metrics of one step, on the host: numbers, "loss_by_t" {"sum": [10], "count": [10]}, and
            "grad_norm_by_block" [K]. A second player's metrics are named "player/loss" and so on; a player whose loss
            is NaN rested in that step, and none of its metrics counts.
    """
    result = {**sums, "steps": sums["steps"] + 1}
    rested = {_player(name) for name, value in metrics.items() if _kind(name) == "loss" and np.isnan(value)}
    if rested:
        before = sums.get("rested", {})
        result["rested"] = {**before, **{player: before.get(player, 0) + 1 for player in rested}}
    for name, value in metrics.items():
        kind = _kind(name)
        if _player(name) in rested and kind not in TOTALS:
            continue
        if kind == "loss_by_t":
            before = sums.get(name, {"sum": [0.0] * len(value["sum"]), "count": [0] * len(value["count"])})
            result[name] = {
                "sum": (np.array(before["sum"]) + np.asarray(value["sum"], np.float64)).tolist(),
                "count": (np.array(before["count"]) + np.asarray(value["count"], np.int64)).tolist(),
            }
        elif kind == "grad_norm_by_block":
            result[name] = (np.array(sums.get(name, 0.0)) + np.asarray(value, np.float64)).tolist()
        elif kind in LATEST:
            result[name] = float(value)
        elif kind in TOTALS:
            result[name] = sums.get(name, 0) + int(value)
        else:
            result[name] = sums.get(name, 0.0) + float(value)
    return result


def row(
    step: int, sums: Mapping[str, Any], blocks: Mapping[str, Sequence[str]] = types.MappingProxyType({})
) -> dict[str, Any]:
    """Returns the line of metrics.jsonl: the means since the line before, with eight digits.

    Args:
        step: the number of updates made.
        sums: the sums over the steps since the last line.
        blocks: the [K] names of the blocks of each player's network, see `gradient_norms.names`; the model is the
            player "". Without them their norms are left out.

    Returns:
        {"step", "loss", "grad_norm", "grad_norm_by_block": {block: norm}, "learning_rate", "loss_by_t": [10],
        "count_by_t": [10], ...}; the loss of a bin that no example fell into is None. "skipped", where it is counted,
        is the number since the run began. Means are over the steps in which a player acted.
    """
    result: dict[str, Any] = {"step": step}
    for name, value in sorted(sums.items()):
        kind = _kind(name)
        acted = sums["steps"] - sums.get("rested", {}).get(_player(name), 0)
        if kind == "loss_by_t":
            pairs = list(zip(value["sum"], value["count"]))
            result[name] = [_digits(total / count) if count else None for total, count in pairs]
            result[name.replace("loss_by_t", "count_by_t")] = value["count"]
        elif kind == "grad_norm_by_block":
            if block_names := blocks.get(_player(name)):
                result[name] = {block: _digits(norm / acted) for block, norm in zip(block_names, value, strict=True)}
        elif kind in LATEST:
            result[name] = _digits(value)
        elif kind in TOTALS:
            result[name] = value
        elif name not in ("steps", "rested"):
            result[name] = _digits(value / acted)
    return result


def _player(name: str) -> str:
    """The second player that a metric belongs to; "" for the model."""
    return name.rpartition("/")[0]


def _kind(name: str) -> str:
    return name.rpartition("/")[2]


def _digits(value: float) -> float:
    return float(f"{value:.8g}")
