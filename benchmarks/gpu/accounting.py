"""From the workers' measurements to rows: images a second, utilisation of the matmul and of the data sheet, ratios.

A worker that failed has NaN for its seconds, and becomes a row whose note says why.
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
    """A case in its process: what it said of itself, its seconds by round, and why there are none."""

    def __init__(self, name: str, spec: dict, torch_python: str):
        self.name, self.spec, self.about, self.peak = name, spec, {}, 0.0
        print(f"{CASE}{name}: compiles", flush=True)
        python = torch_python if spec["kind"] == "torch" else sys.executable
        try:
            peer = rows.Peer(python, MODULES.get(spec["kind"], "benchmarks.gpu.worker"), json.dumps(spec))
            self._peer = peer
            self.about = json.loads(peer.about)
        except SystemExit as ended:  # e.g. by XLA, which ends a process whose flags it does not know
            self.about = {"failed": str(ended)[-200:]}

    def seconds(self) -> float:
        """The seconds of one time, or NaN once it has failed."""
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
        """Ends its process."""
        with contextlib.suppress(AttributeError, OSError):
            self._peer.close()


def describe(workers: dict[str, Worker]) -> str:
    """The device and the versions."""
    notes = [
        f"{key} {worker.about[key]}"
        for key in ("device", "jax", "torch")
        for worker in workers.values()
        if key in worker.about
    ]
    return ", ".join(dict.fromkeys(notes))


def data_sheet(kind: str) -> float:
    """The dense bfloat16 operations a second of a device, by its maker's data sheet; NaN for an unknown device."""
    name = machine_of(kind)
    return math.nan if name is None else MACHINES[name].flops


def beside_limit(title: str, workers: dict[str, Worker], found: dict[str, tuple[float, ...]]) -> list[rows.Row]:
    """Images a second of ours, the peer's, and what the matrix product's rate would allow; then the peak of memory."""
    ours = workers["ours"]
    if "failed" in ours.about:
        return [rows.Row(title, "images/s", True, (math.nan,), note=f"failed: {ours.about['failed']}")]
    images = ours.about["images"]
    flops = ours.about["flops"]
    rates = lambda name: tuple(images / taken for taken in found[name])
    limit = tuple(workers["matmul"].about["flops"] / taken * images / flops for taken in found["matmul"])
    first = f"first {ours.about['first_seconds']:.0f} s"
    notes = [f"attention {ours.about['attention']}", first, *ours.about["refused"]]
    peak = data_sheet(ours.about["device"])
    if math.isfinite(peak):
        middle = sorted(found["ours"])[len(found["ours"]) // 2]
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


def beside_base(title: str, workers: dict[str, Worker], found: dict[str, tuple[float, ...]]) -> list[rows.Row]:
    """Milliseconds of each variant beside the base's, with its peak of memory; of a matrix product, TFLOP/s."""
    lines = []
    base = workers["base"]
    if "failed" in base.about:
        return [rows.Row(title, "ms", False, (math.nan,), note=f"failed: {base.about['failed']}")]
    base_note = f"base: attention {base.about['attention']}, {base.peak / 1e9:.1f} GB"
    if base.spec["kind"] == "matmul":
        rate = tuple(base.about["flops"] / taken / 1e12 for taken in found["base"])
        peak = data_sheet(base.about["device"])
        limit = (peak / 1e12,) * len(rate) if math.isfinite(peak) else ()
        note = "limit: the data sheet's" if limit else ""
        lines.append(rows.Row(f"{title}, bfloat16", "TFLOP/s", True, rate, limit=limit, note=note))
        base_note = "base: bfloat16"
    milliseconds = lambda name: tuple(1e3 * taken for taken in found[name])
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
