"""The tables of a plan: machines whose networks differ do not share a column."""

from rich.console import Console

from diffusion.experiments.planning import tables


def test_machines_of_other_networks_have_columns_of_their_own():
    sent = lambda kind, size: {"platform": "tpu", "collectives": [{"kind": kind, "axes": ("fsdp",), "bytes": size}]}
    gpu = sent("all-gather", 3e9) | {"platform": "gpu"}
    machines = {"v5p": sent("all-gather", 1e9), "v6e": sent("all-reduce", 2e9), "h100": gpu, "h200": gpu}
    console = Console(width=140, record=True)
    console.print(tables._work_table({"flops": {}, "machines": machines}))
    text = console.export_text()
    assert [text.count(name) for name in ("tpu, 3D torus", "tpu, 2D torus", "gpu")] == [1, 1, 1]
    [gathered] = [line for line in text.splitlines() if "all-gather" in line]
    assert [gathered.count(size) for size in ("1 GB", "0 B", "3 GB")] == [1, 1, 1]
