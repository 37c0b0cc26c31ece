"""What the user sees, and what remains, after single faults: a full disk, a damaged checkpoint, a clock that jumps."""

import ast
import contextlib
import json
import os
import re
import resource
import shutil
import signal

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from diffusion.io import failures, files, json_lines
from diffusion.training.checkpointing import checkpoints
from tests.library_files import example_files, library_files
from tests.reliability.driver import ROOT, train_command, until

YEAR = 365 * 24 * 3600


@pytest.fixture(scope="module")
def straight(driver, tmp_path_factory):
    """The folder of an undisturbed run of ten steps, which tests copy."""
    folder = tmp_path_factory.mktemp("straight")
    assert driver.train(folder, {"train.steps": 10}).status == 0
    return folder


def one_sentence(result, *words):
    """Asserts that a command failed with status 1 and a single line that holds the words, without a traceback."""
    assert result.status == 1, result
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    assert all(word in result.err for word in words), result.err


@contextlib.contextmanager
def file_size_limit(size):
    """Limits the size of this process's files; the rest of a write is refused, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.slow
def test_full_disk_during_a_save(driver, straight, tmp_path):
    """The run ends with a sentence and keeps its older checkpoints; with room again it computes the same bits."""
    folder = tmp_path / "run"
    assert driver.train(folder, {"train.steps": 4}).status == 0
    result = driver.train(folder, {"train.steps": 10}, limit=20_000)
    one_sentence(result, "Could not write the checkpoint", "intact: 2, 4", "disk has room", "same command")
    assert checkpoints.steps(folder) == [2, 4]
    assert driver.train(folder, {"train.steps": 10}).status == 0
    assert all(path.name.isdigit() for path in (folder / "checkpoints").iterdir())  # the unfinished save is gone
    assert checkpoints.read_about(folder, 10)["leaves"] == checkpoints.read_about(straight, 10)["leaves"]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["/params/d/*", "/about/metadata", "/training/manifest.ocdbt", ""])
def test_a_checkpoint_that_may_not_be_read(driver, straight, tmp_path, file):
    """Nothing is renamed, and the run continues once it may read: this happens after another user restores a backup."""
    folder = shutil.copytree(straight, tmp_path / "run")
    path = max((folder / "checkpoints").glob(f"10{file}"), key=lambda path: path.stat().st_size)
    mode = path.stat().st_mode
    before = sorted(folder.rglob("*"))
    path.chmod(0)
    result = driver.train(folder, {"train.steps": 11}, rights=False)
    path.chmod(mode)
    one_sentence(result, "checkpoints/10", "could not be read", "ermission denied", "run the same command again")
    assert sorted(folder.rglob("*")) == before
    again = driver.train(folder, {"train.steps": 11})
    assert again.status == 0 and "from step 10 of 11" in again.out
    assert re.fullmatch(r"diffusion train: programs: .*\n", again.err), again.err


def test_full_disk_in_the_middle_of_a_line(tmp_path):
    """The torn line is reported and removed at once, so that the next line, such as an arena's vote, is readable."""
    path = tmp_path / "metrics.jsonl"
    json_lines.append(path, {"step": 1, "loss": 0.5})
    before = path.read_bytes()
    with file_size_limit(len(before) + 10):
        with pytest.raises(OSError, match=r"metrics.jsonl cannot be written: No space left on device. Make room"):
            json_lines.append(path, {"step": 2, "loss": 0.25})
        assert path.read_bytes() == before
    with (
        file_size_limit(len(before)),
        pytest.raises(OSError, match=r"jsonl cannot be written: File too large. Make .* from its last checkpoint\.$"),
    ):
        json_lines.append(path, {"step": 2, "loss": 0.25})
    json_lines.append(path, {"step": 3})
    assert [row["step"] for row in json_lines.rows(path)] == [1, 3]


def test_full_disk_while_lines_are_dropped(tmp_path):
    """Rewinding writes a new file, which then replaces the old one; on a full disk the old file stays."""
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        json_lines.append(path, {"step": step})
    before = path.read_bytes()
    with file_size_limit(5), pytest.raises(OSError):
        json_lines.rewind(path, 2)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(bytes(100_000)),
        lambda file: file.write(bytes(10)),
        lambda file: np.save(file, np.zeros(100_000)),
        lambda file: np.savez(file, images=np.zeros(100_000)),
        lambda file: Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)).save(file, "PNG"),
    ],
    ids=["bytes", "buffered", "npy", "npz", "picture"],
)
def test_full_disk_while_a_file_is_written(tmp_path, write):
    """The error names the file and says what to do; the old content stays, and no temporary file remains."""
    path = tmp_path / "samples.npz"
    path.write_bytes(b"old")
    with file_size_limit(5), pytest.raises(OSError, match=r"samples\.npz cannot be written: .*Make room") as caught:
        with files.atomic(path) as file:
            write(file)
    assert failures.is_machine_failure(caught.value)
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["samples.npz"]


@pytest.mark.slow
def test_run_folder_removed_while_training(driver, tmp_path):
    """The run stops at its next line or save, instead of computing results that it cannot store."""
    run = driver.start(*train_command(tmp_path / "run", {"train.steps": 10**6}))
    until(lambda: checkpoints.latest(tmp_path / "run"))
    while (tmp_path / "run").exists():
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    result = driver.wait(run)
    one_sentence(result, str(tmp_path / "run"))
    assert re.search(r"cannot be written|Could not write", result.err)


def altered(folder, change):
    """Changes the description in the last checkpoint, with a valid checksum."""
    path = folder / f"checkpoints/{checkpoints.latest(folder)}/about/metadata"
    written = json.loads(path.read_text())
    change(written["about"])
    written["sha256"] = checkpoints.digest(written["about"])
    path.write_text(json.dumps(written))


@pytest.mark.slow
def test_checkpoint_of_a_newer_version(driver, straight, tmp_path):
    """The checkpoint is sound, so the run does not fall back to an older one: the user has to update."""
    folder = shutil.copytree(straight, tmp_path / "run")
    altered(folder, lambda about: about.update(format=checkpoints.FORMAT + 1))
    before = sorted(os.listdir(folder / "checkpoints"))
    result = driver.train(folder, {"train.steps": 12})
    one_sentence(result, f"format {checkpoints.FORMAT + 1}", "update")
    assert sorted(os.listdir(folder / "checkpoints")) == before


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["truncated", "a file is missing", "half copied"])
def test_a_checkpoint_that_is_not_whole(driver, straight, tmp_path, fault):
    """The run warns and falls back to the checkpoint before, keeps the damaged one, and computes the same bits."""
    folder = shutil.copytree(straight, tmp_path / "run")
    last = folder / "checkpoints/10"
    if fault == "truncated":
        path = max((last / "training").rglob("d/*"), key=lambda path: path.stat().st_size)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif fault == "a file is missing":
        (last / "ema/manifest.ocdbt").unlink()
    else:
        shutil.rmtree(last / "params")
        shutil.rmtree(last / "about")
    result = driver.train(folder, {"train.steps": 10})
    assert result.status == 0 and "from step 8 of 10" in result.out, result
    assert re.search(r"WARNING: .*checkpoints/10.* FALLING BACK to step 8", result.err)
    assert (folder / "checkpoints/10.damaged").is_dir() and checkpoints.latest(folder) == 10
    assert checkpoints.read_about(folder, 10) == checkpoints.read_about(straight, 10)
    assert (folder / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("jump", [-YEAR, YEAR])
def test_a_clock_that_jumps(driver, straight, tmp_path, jump):
    """The clock jumps by a year during training; only the times in timing.jsonl show it, as they should."""
    kill = {"point": ["call records", "before"], "number": 7, "seconds": jump, "does": "clock"}
    result = driver.train(tmp_path, {"train.steps": 10}, kill=kill)
    assert result.status == 0 and result.points, result
    assert (tmp_path / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    assert checkpoints.read_about(tmp_path, 10) == checkpoints.read_about(straight, 10)
    timing = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert abs(timing[-1]["time"] - timing[0]["time"] - jump) < 3600
    assert all(row["steps_per_second"] is None or 0 < row["steps_per_second"] < 10**4 for row in timing)
    assert re.search(r"after \S+ s ", result.out) and not re.search(r"(eta_seconds=|per_second=|after )-", result.out)


def test_the_clock_on_the_wall_is_read_for_the_record_alone():
    """Durations come from a clock that never jumps, and no result of a run depends on either clock."""
    readers = {}
    for path in (*library_files(), *example_files()):
        text = path.read_text()
        if not re.search(r"\btime\s*\.\s*time\b|\bdatetime\s*\.\s*now\b", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "datetime.now"):
                readers.setdefault(str(path.relative_to(ROOT)), []).append(ast.unparse(node))
    # These write timing.jsonl, events, result.json, and the record of a sweep's run.
    records = ("run/bookkeeping.py", "run/tracking.py", "evaluation/records.py", "sweeps/sweep_folder.py")
    assert readers == {f"diffusion/experiments/{path}": ["time.time"] for path in records}


ROWS = st.lists(st.tuples(st.integers(0, 3), st.floats(-1e9, 1e9), st.text(max_size=5)), max_size=8)


@pytest.mark.extended
@given(rows=ROWS, cut=st.floats(0, 1), at=st.integers(-1, 20), again=st.booleans())
def test_rewound_lines_are_the_undisturbed_prefix(tmp_path, rows, cut, at, again):
    """A file that is cut at any byte and rewound to any step keeps exactly the complete lines up to that step."""
    path = tmp_path / "metrics.jsonl"
    step = 0
    lines = []
    path.unlink(missing_ok=True)
    for further, loss, text in rows:
        step += further
        json_lines.append(path, {"step": step, "loss": loss, "text": text})
        lines.append((step, path.read_bytes()[sum(len(line) for _, line in lines) :]))
    whole = b"".join(line for _, line in lines)
    end = round(cut * len(whole))
    path.write_bytes(whole[:end])
    expected, used = b"", 0
    for step, line in lines:
        used += len(line)
        if used <= end and step <= at:
            expected += line
    for _ in range(1 + again):
        json_lines.rewind(path, at)
        assert path.read_bytes() == expected


@pytest.mark.parametrize("rest", [b"\xff\xfe\x00", b"12\n", b"[]\n", b"null\n", b'{"loss": 1}\n', b"\n"])
def test_rewinding_drops_what_is_no_line_of_a_run(tmp_path, rest):
    path = tmp_path / "metrics.jsonl"
    json_lines.append(path, {"step": 1})
    before = path.read_bytes()
    path.write_bytes(before + rest)
    json_lines.rewind(path, 5)
    assert path.read_bytes() == before
