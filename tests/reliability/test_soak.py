"""A run that samples, evaluates and saves does not recompile, nor does it accumulate files, threads or memory."""

import json
import os

import numpy as np
import pytest

from benchmarks import soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "2"))


def write(folder, steps, recompilations):
    (folder / "timing.jsonl").write_text(json.dumps({"step": steps, "recompilations": recompilations}) + "\n")
    (folder / "metrics.jsonl").write_text('{"step": 1, "evaluate": {}}\n{"step": 1, "loss": 0.1}\n')


@pytest.mark.extended
@pytest.mark.parametrize("slope", [0.0, 60.0, -30.0])
def test_the_slope_is_that_of_the_memory_after_the_warm_up(tmp_path, slope):
    write(tmp_path, 40, 3)
    seconds = np.arange(0.0, 1800, 2)
    memory = 500 + slope * seconds / 3600 + np.where(seconds < 360, 4000, 0)  # the first fifth must not count
    samples = [soak.Sample(s, m, 10 + int(s % 60 == 0), 7) for s, m in zip(seconds, memory)]
    report = soak.summary(samples, tmp_path)
    np.testing.assert_allclose(report.slope, slope, atol=1e-6)
    assert (report.steps, report.evaluations, report.recompilations) == (40, 1, 3)
    assert report.files == (10, 10) and report.threads == (7, 7)
    soak.draw(samples, report, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 1000


@pytest.mark.extended
def test_a_run_that_ends_by_itself_is_no_soak(tmp_path):
    with pytest.raises(RuntimeError, match="ended by itself with exit status 3"):
        soak.watch(["sh", "-c", "exit 3"], 60)


@pytest.mark.slow
def test_nothing_gathers(tmp_path):
    """Runs for two minutes, or SOAK_MINUTES; `python -m benchmarks.soak` runs for half an hour and plots the memory."""
    report, samples = soak.soak(MINUTES, tmp_path / "run", ("config.evaluate.every=40", "config.checkpoint.every=20"))
    assert report.recompilations == 0 and report.evaluations >= 2
    third, last = (samples[int(len(samples) * a) : int(len(samples) * b)] for a, b in ((0.5, 0.75), (0.75, 1.0)))
    least = lambda part, field: min(getattr(each, field) for each in part)
    assert least(last, "files") <= least(third, "files")
    assert least(last, "threads") <= least(third, "threads") + 2  # pools that grow on demand
    assert least(last, "memory") <= 1.15 * least(third, "memory")
