"""SIGKILL at every point of a run: the remaining files always continue to the bits of an undisturbed run."""

import json
import random

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from diffusion.training.checkpointing import checkpoints
from tests.reliability.driver import TINY

TEMPORARY, OLD = "checkpoints/#.tmp", "checkpoints/#.removed.tmp"

# The points at which a run is killed: (operation on the run folder, or call; moment; the n-th time it is passed).
FEW = [
    ("write .config.json.new", "half", 1),
    (f"write {TEMPORARY}/ITEM.tmp/_METADATA", "half", 2),
    (f"rename {TEMPORARY}", "before", 2),
    ("write metrics.jsonl", "half", 2),
    ("write .metrics.jsonl.new", "half", 1),
    ("call _read", "after", 1),
]  # fmt: skip
WRITES = [
    f"{TEMPORARY}/{name}"
    for name in (
        "ITEM.tmp/array_metadatas/process_#",
        "ITEM.tmp/_METADATA",
        "ITEM.tmp/metadata",
        "ITEM.tmp/commit_success.txt",
        "commit_success.txt",
        "_CHECKPOINT_METADATA",
    )
] + [".config.json.new", "metrics.jsonl", "timing.jsonl", ".metrics.jsonl.new", ".timing.jsonl.new"]
RENAMES = [
    f"{TEMPORARY}/ITEM.tmp", TEMPORARY, "checkpoints/#", ".config.json.new", ".metrics.jsonl.new", ".timing.jsonl.new"
]  # fmt: skip
ONCE = [  # one moment suffices, since the files do not change between the end of these and the next operation
    "open .lock", "write .lock", "mkdir checkpoints", f"mkdir {TEMPORARY}",
    f"mkdir {TEMPORARY}/ITEM.tmp/array_metadatas",
    *(f"open {TEMPORARY}/{name}" for name in ("ITEM.tmp/_METADATA", "_CHECKPOINT_METADATA", "ITEM.tmp/metadata")),
    "open metrics.jsonl", "fsync metrics.jsonl", "fsync .config.json.new", "fsync .metrics.jsonl.new",
    f"remove {OLD}/ITEM/d/FILE", f"remove {OLD}/ITEM/manifest.ocdbt", f"remove {OLD}/_CHECKPOINT_METADATA",
    f"remove {OLD}/ITEM/ocdbt.process_#/d/FILE", f"rmdir {OLD}/ITEM/d", f"rmdir {OLD}/ITEM", f"rmdir {OLD}",
    f"remove {TEMPORARY}/ITEM/_METADATA", f"rmdir {TEMPORARY}",  # a start clears the files of an earlier kill
    "write previews/.#.png.new", "rename previews/.#.png.new", "rename .probe",
]  # fmt: skip
BEFORE = {  # an earlier kill, without which a run does not pass the point
    ".metrics.jsonl.new": ("write metrics.jsonl", "half", 1),
    ".timing.jsonl.new": ("write timing.jsonl", "half", 1),
    f"remove {TEMPORARY}/ITEM/": (f"rename {TEMPORARY}", "before", 1),
    f"rmdir {TEMPORARY}": (f"rename {TEMPORARY}", "before", 1),
}
EVERY = [  # a file whose name begins with a dot is written once in each start
    *(
        (f"write {name}", when, 1 if name[0] == "." else 1 + i % 2)
        for i, name in enumerate(WRITES)
        for when in ("before", "half", "after")
    ),
    *(
        (f"rename {name}", when, 1 if name[0] == "." else 1 + i % 2)
        for i, name in enumerate(RENAMES)
        for when in ("before", "after")
    ),
    *((name, "before", 1) for name in ONCE),
    *((f"data {what}", "after", n) for what in ("begun", "merged") for n in (1, 4, 9)),
    *(
        (f"call {name}", when, n)
        for name, n in (
            ("_read", 1),
            ("checksums", 1),
            ("_described", 1),
            ("_described", 2),
            ("restore_latest", 1),
            ("records", 1),
            ("records", 6),
        )
        for when in ("before", "after")
    ),
]


def one_checkpoint_is_damaged(workdir):
    """Alters the last checkpoint, if there is an earlier one, so that the next start falls back."""
    if len(checkpoints.steps(workdir)) > 1:
        about = workdir / f"checkpoints/{checkpoints.latest(workdir)}/about/metadata"
        about.write_bytes(about.read_bytes().replace(b'"step"', b'"stop"'))


def kill(driver, workdir, point, seconds=0.0, changes=None, env=None):
    """Trains until the process dies `seconds` after a point, and asserts that it does not end in any other way."""
    *point, number = point
    result = driver.train(workdir, changes, kill={"point": point, "number": number, "seconds": seconds}, env=env)
    assert result.status == -9 and result.points == [tuple(point)], (point, result)
    for name in ("metrics.jsonl", "timing.jsonl"):
        if (workdir / name).exists():
            *lines, _ = (workdir / name).read_bytes().split(b"\n")  # only what follows the last line's end may be torn
            at = [json.loads(line)["step"] for line in lines if "evaluate" not in json.loads(line)]
            assert at == sorted(set(at))
    return result


def values(workdir, step):
    """The type, shape and bytes of every leaf of a checkpoint by its name, read by Orbax without our code."""
    found = {}
    for item in ("params", "ema", "training"):
        folder = workdir / "checkpoints" / str(step) / item
        with ocp.PyTreeCheckpointer() as reader:
            whole = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), reader.metadata(folder).item_metadata.tree)
            tree = reader.restore(folder, restore_args=whole)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            leaf = np.asarray(leaf)
            found[item + jax.tree_util.keystr(path)] = (str(leaf.dtype), leaf.shape, leaf.tobytes())
    return found


def finish(driver, workdir, changes, env=None):
    """Trains to the end, saves only the last state, and samples."""
    result = driver.train(workdir, changes | {"checkpoint.every": 10**6}, env=env)
    assert result.status == 0, result
    sampled = driver.run("experiments.sample", f"--workdir={workdir}", env=env)
    assert sampled.status == 0, sampled


def assert_same(workdir, other, step):
    """Asserts that two runs have the same bits: parameters, average, optimizer, metrics, config, and any samples."""
    ours = values(workdir, step)
    theirs = values(other, step)
    assert ours == theirs
    assert sum("opt_state" in name for name in ours) >= 2 * sum(name.startswith("params") for name in ours) > 10
    assert checkpoints.read_about(workdir, step) == checkpoints.read_about(other, step)
    samples = ["samples.npz"] * any((folder / "samples.npz").exists() for folder in (workdir, other))
    for name in ("metrics.jsonl", "config.json", *samples):
        assert (workdir / name).read_bytes() == (other / name).read_bytes(), name
    steps = [
        [json.loads(line)["step"] for line in (folder / "timing.jsonl").read_text().splitlines()]
        for folder in (workdir, other)
    ]
    assert steps[0] == steps[1]


@pytest.mark.slow
def test_a_few_kills(driver, tmp_path):
    """Six kills; `test_hundred_kills` visits all points."""
    finish(driver, tmp_path / "straight", {})
    for i, point in enumerate(FEW):
        kill(driver, tmp_path / "killed", point, changes={"checkpoint.keep_every": 10**6 + i})
    assert checkpoints.latest(tmp_path / "killed") < TINY["train.steps"]
    finish(driver, tmp_path / "killed", {})
    assert_same(tmp_path / "killed", tmp_path / "straight", TINY["train.steps"])


@pytest.mark.slow
def test_hundred_kills(driver, tmp_path):
    """Kills at every named point in a random order, and at random moments, in runs that also evaluate.

    Each start changes a field that a run may change, so that config.json is written again.
    """
    draw = random.Random(0)
    draw.shuffle(points := list(EVERY))
    moments = [(("call records", "before", draw.randint(1, 8)), draw.uniform(0.001, 0.15)) for _ in range(15)]
    moments += [(("start", "after", 1), draw.uniform(0.1, 1.5)) for _ in range(5)]
    points = [(f"rename {TEMPORARY}", "after", 2), *points]  # so that there is a checkpoint
    plan = [(point, 0.0) for point in points] + moments
    changes = {"train.steps": 1000, "evaluate.every": 25, "evaluate.features": "('pixels',)"}
    finish(driver, tmp_path / "straight", changes)
    hit = []
    for i, (point, seconds) in enumerate(plan):
        for part, earlier in BEFORE.items():
            if part in point[0]:
                hit += kill(driver, tmp_path / "killed", earlier, changes=changes).points
        result = kill(driver, tmp_path / "killed", point, seconds, changes | {"checkpoint.keep_every": 10**6 + i})
        assert "FALLING BACK" not in result.err  # an unfinished save is never taken for a checkpoint
        hit += result.points
    for when in ("before", "after"):
        one_checkpoint_is_damaged(tmp_path / "killed")
        kill(driver, tmp_path / "killed", ("rename checkpoints/#", when, 1), changes=changes)
    print(f"{len(hit)} kills, at: " + "; ".join(sorted({f"{name} ({when})" for name, when in hit})))
    assert len(hit) >= 100
    finish(driver, tmp_path / "killed", changes)
    assert_same(tmp_path / "killed", tmp_path / "straight", 1000)


@pytest.mark.slow
def test_kills_on_two_devices(driver, tmp_path):
    """The state is split over the devices, so that each leaf is written in parts."""
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    changes = {"mesh.fsdp": 2, "model.width": 64}
    finish(driver, tmp_path / "straight", changes, env)
    for point in FEW[2:]:
        kill(driver, tmp_path / "killed", point, changes=changes, env=env)
    finish(driver, tmp_path / "killed", changes, env)
    assert_same(tmp_path / "killed", tmp_path / "straight", TINY["train.steps"])
