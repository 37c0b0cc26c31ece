"""Turns the workers' measurements into rows: images per second, shares of the matmul and of the data sheet, ratios.

A worker that fails has NaN for its seconds, and gets a row whose note gives the reason.
"""

import contextlib
import json
import math
import sys

from benchmarks import rows
from benchmarks.gpu.stages import CASE
from diffusion.experiments.planning.machines import MACHINES, machine_of

MODULES = {"torch": "benchmarks.gpu.torch_worker"}


class Worker:
    """The process that measures a case.

    Attributes:
        name: the name of the case.
        spec: the spec of the case, see `benchmarks.gpu.cases`.
        about: the report of the process: the device, the versions, the case's figures, and "failed" with the reason.
        peak: the largest number of bytes of the device's memory so far; 0 if it is not known.
    """

    def __init__(self, name: str, spec: dict, torch_python: str):
        self.name, self.spec, self.about, self.peak = name, spec, {}, 0.0
        print(f"{CASE}{name}: compiles", flush=True)
        python = torch_python if spec["kind"] == "torch" else sys.executable
        try:
            peer = rows.Peer(python, MODULES.get(spec["kind"], "benchmarks.gpu.worker"), json.dumps(spec))
            self._peer = peer
            self.about = json.loads(peer.about)
        except SystemExit as ended:  # e.g. because XLA ends a process that has unknown flags
            self.about = {"failed": str(ended)[-200:]}

    def seconds(self) -> float:
        """Measures once: the seconds of the measured work, or NaN if the process has failed."""
        if "failed" not in self.about:
            print(f"{CASE}{self.name}: compiled, and timed", flush=True)
            try:
                answer = json.loads(self._peer.ask("again"))
            except SystemExit as ended:
                answer = {"failed": str(ended)[-200:]}
            self.peak = max(self.peak, answer.get("peak", 0))
            self.about |= {name: value for name, value in answer.items() if name == "failed"}
        return math.nan if "failed" in self.about else answer["seconds"]

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(AttributeError, OSError):
            self._peer.close()


def describe(workers: dict[str, Worker]) -> str:
    """A phrase with the device and the versions."""
    notes = [
        f"{key} {worker.about[key]}"
        for key in ("device", "jax", "torch")
        for worker in workers.values()
        if key in worker.about
    ]
    return ", ".join(dict.fromkeys(notes))


def data_sheet(kind: str) -> float:
    """The dense bfloat16 operations per second in a device's data sheet; NaN for an unknown device."""
    name = machine_of(kind)
    return math.nan if name is None else MACHINES[name].flops


def beside_limit(title: str, workers: dict[str, Worker], times: dict[str, tuple[float, ...]]) -> list[rows.Row]:
    """A row of images per second, for ours, the peer and the matrix product's rate, and a row of the peak memory.

    Args:
        title: the title of the measurement.
        workers: {case: its process}, with "ours" and "matmul", and perhaps "torch".
        times: {case: its seconds, one number for each round}.
    """
    ours = workers["ours"]
    if "failed" in ours.about:
        return [rows.Row(title, "images/s", True, (math.nan,), note=f"failed: {ours.about['failed']}")]
    images = ours.about["images"]
    flops = ours.about["flops"]
    rates = lambda name: tuple(images / taken for taken in times[name])
    limit = tuple(workers["matmul"].about["flops"] / taken * images / flops for taken in times["matmul"])
    first = f"first {ours.about['first_seconds']:.0f} s"
    notes = [f"attention {ours.about['attention']}", first, *ours.about["refused"]]
    peak = data_sheet(ours.about["device"])
    if math.isfinite(peak):
        middle = sorted(times["ours"])[len(times["ours"]) // 2]
        notes.insert(0, f"MFU {flops / middle / peak:.1%} of {peak / 1e12:.0f} TFLOP/s")
    torch = workers.get("torch")
    there = torch is not None and "failed" not in torch.about
    if torch is not None and not there:
        notes.append(f"PyTorch: {torch.about['failed']}")
    peer = f"torch {torch.about['torch']}, compiled, flash attention" if there else ""
    lines = [
        rows.Row(title, "images/s", True, rates("ours"), peer, rates("torch") if there else (), limit, "; ".join(notes))
    ]
    if ours.peak:
        theirs = (torch.peak / 1e9,) if there and torch.peak else ()
        lines.append(rows.Row(f"{title}: peak memory", "GB", False, (ours.peak / 1e9,), peer if theirs else "", theirs))
    return lines


def beside_base(title: str, workers: dict[str, Worker], times: dict[str, tuple[float, ...]]) -> list[rows.Row]:
    """The milliseconds and the peak memory of each variant, compared with the base; TFLOP/s for a matrix product.

    Args:
        title: the title of the measurement.
        workers: {case: its process}, with "base" and its variants.
        times: {case: its seconds, one number for each round}.
    """
    lines = []
    base = workers["base"]
    if "failed" in base.about:
        return [rows.Row(title, "ms", False, (math.nan,), note=f"failed: {base.about['failed']}")]
    base_note = f"base: attention {base.about['attention']}, {base.peak / 1e9:.1f} GB"
    if base.spec["kind"] == "matmul":
        rate = tuple(base.about["flops"] / taken / 1e12 for taken in times["base"])
        peak = data_sheet(base.about["device"])
        limit = (peak / 1e12,) * len(rate) if math.isfinite(peak) else ()
        note = "limit: the data sheet's" if limit else ""
        lines.append(rows.Row(f"{title}, bfloat16", "TFLOP/s", True, rate, limit=limit, note=note))
        base_note = "base: bfloat16"
    milliseconds = lambda name: tuple(1e3 * taken for taken in times[name])
    for name, worker in workers.items():
        if name == "base":
            continue
        if "failed" in worker.about:
            why = f"failed: {worker.about['failed']}"
            lines.append(rows.Row(f"{title}: {name}", "ms", False, (math.nan,), note=why))
            continue
        memory = f"{worker.peak / 1e9:.1f} GB" if worker.peak else ""
        lines.append(
            rows.Row(
                f"{title}: {name}",
                "ms",
                False,
                milliseconds(name),
                "base",
                milliseconds("base"),
                note="; ".join(filter(None, (memory, base_note))),
            )
        )
    return lines
