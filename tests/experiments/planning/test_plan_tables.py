"""The tables of a plan: machines whose networks differ do not share a column, and each cell has its number."""

import pytest
from rich.console import Console

from diffusion.experiments.planning import tables


def cells(table):
    """{first cell: other cells} of a table, with the titles of its columns as "title"."""
    return {first: rest for first, *rest in zip(*(column.cells for column in table.columns))} | {
        "title": [column.header for column in table.columns]
    }


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


@pytest.mark.parametrize(
    "size, text",
    [(999, "999 B"), (1000, "1 kB"), (812.4e6, "812 MB"), (3.411e9, "3.41 GB"), (1e9, "1 GB"), (2.5e12, "2.5 TB")],
)
def test_bytes_have_a_unit_that_fits(size, text):
    assert tables.in_bytes(size) == text


@pytest.mark.parametrize("seconds, text", [(1.524, "1.52 s"), (1, "1 s"), (0.01234, "12.3 ms")])
def test_seconds_have_a_unit_that_fits(seconds, text):
    assert tables.in_seconds(seconds) == text


MEMORY = {"parameters": 1e9, "optimizer": 2e9, "average": 3e9, "others": 0, "activations": 5e9, "gradients": 7e9,
          "copies": 11e9, "layer": 13e9, "working": 17e9}  # fmt: skip
SECONDS = {"compute": 0.5, "memory": 0.25, "network": 0.125, "overlapped": 0.75, "in_turn": 0.875,
           "mfu_overlapped": 0.5, "mfu_in_turn": 0.25}  # fmt: skip


def entry(platform="gpu", **fields):
    """A machine's entry of a plan: 59 GB of memory, and two collectives of one kind."""
    sent = [{"kind": "all-gather", "axes": ("data", "fsdp"), "bytes": size} for size in (3e9,)]
    known = {"platform": platform, "attention": "xla", "memory": MEMORY, "hbm_bytes": 80e9, "collectives": sent,
             "seconds": SECONDS, "fits": True, "change": None, "refused": "", "compiled": None}  # fmt: skip
    return known | fields


def test_memory_has_a_column_for_each_platform_and_its_sums():
    other = entry("tpu", attention="splash", memory={name: 2 * size for name, size in MEMORY.items()})
    table = cells(tables._memory_table({"h100": entry(), "v5p": other}))
    assert table["title"] == ["memory per device", "gpu, attention xla", "tpu, attention splash", "accuracy"]
    assert table["parameters"] == ["1 GB", "2 GB", "exact"]
    assert table["moving average of the parameters"] == ["3 GB", "6 GB", "exact"]
    assert tables.WORDS["others"] not in table
    assert table[tables.WORDS["activations"]] == ["5 GB", "10 GB", "estimate"]
    assert table["all temporary memory"] == ["48 GB", "96 GB", "estimate"]  # 7 + 11 + 13 + 17
    assert table["total"] == ["59 GB", "118 GB", "estimate"]
    traced = {"parameters": 1e9, "others": 2e9, "base": 4e9, "trace": 8e9}
    table = cells(tables._memory_table({"h100": entry(memory=traced)}))
    assert table[tables.WORDS["others"]] == ["2 GB", "exact"] and table["frozen base model"] == ["4 GB", "exact"]
    assert table["all temporary memory"] == ["8 GB", "estimate"] and table["total"] == ["15 GB", "estimate"]


def test_times_are_ranges_and_memory_a_share():
    """59 GB of the 80 of an H100, and of the 95 GiB of a v5p."""
    same = SECONDS | {"overlapped": 2.0, "in_turn": 2.0, "mfu_overlapped": 0.5, "mfu_in_turn": 0.5}
    table = cells(tables._time_table({"h100": entry(), "v5p": entry("tpu", seconds=same, fits=False)}))
    assert table["h100"] == ["500 ms", "250 ms", "125 ms", "750 ms ... 875 ms", "50% ... 25%", "74%"]
    assert table["v5p"] == ["500 ms", "250 ms", "125 ms", "2 s", "50%", "58%: too much"]


def test_work_is_of_the_whole_job_and_bytes_of_a_device():
    plan = {"flops": {"model": 12345678, "recomputed": 2.0}, "machines": {"h100": entry(), "v5p": entry("tpu")}}
    table = cells(tables._work_table(plan))
    assert table["FLOPs of the model (3 x forward pass)"] == ["1.235e+07", "1.235e+07", "by formula"]
    assert table["all-gather over data x fsdp"] == ["3 GB per device", "3 GB per device", "estimate"]


def test_the_compiled_step_stands_beside_the_plan():
    compiled = {"topology": "1x1x8", "seconds": 4.4, "fits": True, "arguments": 21e9, "aliased": 22e9,
                "temporaries": 23e9, "peak": 24e9, "collectives": {"all-to-all": 25e9, "all-gather": 26e9}}  # fmt: skip
    sent = [
        {"kind": kind, "axes": (axis,), "bytes": size}
        for kind, axis, size in (("all-gather", "data", 3e9), ("all-gather", "fsdp", 4e9), ("permute", "fsdp", 5e9))
    ]
    table = tables._compiled_table("h100", entry(compiled=compiled, collectives=sent))
    assert table.caption.startswith("compiled for 1x1x8 in 4 s")
    assert cells(table) == {
        "title": ["h100, per device", "XLA", "plan"],
        "arguments (state and batch)": ["21 GB", "6 GB"],
        "outputs written over the arguments": ["22 GB", "6 GB"],
        "temporary memory (with activations)": ["23 GB", "53 GB"],
        "peak memory": ["24 GB", "59 GB"],
        "sent per step, all-gather": ["26 GB", "7 GB"],
        "sent per step, all-to-all": ["25 GB", "0 B"],
        "sent per step, permute": ["0 B", "5 GB"],
    }
    refused = {"topology": "1x1x8", "seconds": 4.4, "fits": False, "error": "too large"}
    assert cells(tables._compiled_table("h100", entry(compiled=refused)))["does not fit"] == ["too large", "59 GB"]


@pytest.mark.parametrize("devices, batches", [(1, 1), (8, 2)])
def test_the_first_line_says_how_large_the_run_is(devices, batches):
    plan = {"parameters": 1.26e6, "devices": devices, "mesh": {"data": 1, "fsdp": devices}, "unit": "images",
            "images": {"step": 64, "device": 8, "micro_batches": batches}, "flops": {"model": 1.0},
            "machines": {"h100": entry(fits=False, change="more devices"),
                         "v5p": entry("tpu", refused="there is no fp8")}}  # fmt: skip
    console = Console(width=140, record=True)
    tables.show(plan, console)
    text = console.export_text()
    on = "1 device; " if devices == 1 else "8 devices (fsdp 8); "
    parts = ", in 2 micro-batches\n" if batches > 1 else "\n"
    assert text.startswith(f"1.3 M parameters, on {on}a step is 64 images, 8 a device{parts}")
    assert "h100: the run does not fit. It needs 59 GB (estimate) of 80 GB, of which a tenth must stay free" in text
    assert "v5p: the run would be refused there: there is no fp8." in text and "h100: the run would" not in text
    assert "MFU counts only the model's FLOPs." in text and "MFU counts all FLOPs of the step." not in text


@pytest.mark.parametrize(
    "size, text", [(999.6e3, "1 MB"), (999.6e6, "1 GB"), (999.4e6, "999 MB"), (1234.5e12, "1230 TB")]
)
def test_bytes_that_are_rounded_up_have_the_next_unit(size, text):
    assert tables.in_bytes(size) == text


@pytest.mark.parametrize("seconds, text", [(0.9996, "1 s"), (0.9994, "999 ms"), (1234.5, "1230 s"), (86400, "86400 s")])
def test_long_times_are_written_in_full(seconds, text):
    assert tables.in_seconds(seconds) == text
