"""benchmarks.loop, input_pipeline, start_up and growth: what they compute from what they measure, and that they run."""

import math
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from benchmarks import growth, input_pipeline, loop, source_files, start_up
from configs import digits
from diffusion.training.runtime import progress
from tests.data import made

TINY = {
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "train.batch_size": 8,
    "objective.density.strata": 8,
    "train.log_every": 3,
    "data.threads": 1,
}


def test_a_save_is_spread_over_the_steps_between_saves():
    found = loop.Stretches(10, loop=[1.0, 1.2], saving=[3.0, 3.4], bare=[0.9, 1.1, 1.0, 1.2])
    row = loop.row("x", found, every=500)
    np.testing.assert_allclose(row.ours, (100 + 4.2, 120 + 4.2))  # 2.1 s over 500 steps
    np.testing.assert_allclose(row.limit, (100, 110))
    assert row.share == pytest.approx((100 / 104.2 + 110 / 124.2) / 2)


def test_exponents_are_those_of_the_power():
    sizes = growth.SWEEPS["batch"]
    costs = {
        size: growth.Cost(tuple(c * size.batch**1.5 for c in (2, 3)), size.batch**0.5, size.batch**1.0, 7.0)
        for size in sizes
    }
    seconds, memory = growth.exponents("batch", sizes, costs)
    np.testing.assert_allclose(seconds.ours, (1.5, 1.5))
    np.testing.assert_allclose(memory.ours, 0.5)
    assert "expected 1.00" in seconds.note and "expected" in memory.note and "0.00" in memory.note


def test_every_sweep_changes_its_own_quantity_alone():
    for name, sizes in growth.SWEEPS.items():
        values = [getattr(size, name) for size in sizes]
        assert values == sorted(set(values)) and growth.Size() in sizes
        field = "side" if name == "tokens" else name
        assert len({size._replace(**{field: 0}) for size in sizes}) == 1


def test_the_first_step_is_read_from_what_a_run_prints(capsys, monkeypatch):
    monkeypatch.setattr(progress.time, "perf_counter", lambda: 100.0)
    shown = progress.Display(10, 0, 8, begun=87.5)
    shown.first_step()
    assert float(start_up.PRINTED.search(capsys.readouterr().out).group(1)) == 12.5


@pytest.mark.slow
def test_loop_and_bare_step_take_turns():
    config = digits.get_config()
    config.update_from_flattened_dict(TINY)
    found = loop.measured(config, steps=4, rounds=2)
    assert [len(found.loop), len(found.saving), len(found.bare)] == [2, 2, 4]
    assert min(found.loop + found.saving + found.bare) > 0


@pytest.mark.slow
def test_pipeline_of_a_small_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(input_pipeline, "BATCH", 4)
    examples = [{"image": made.png(np.full((4, 4, 3), i, np.uint8)), "label": i % 2} for i in range(12)]
    features = {"image": made.image_feature(), "label": tfds.features.ClassLabel(num_classes=2)}
    folder = made.write(tmp_path, features, examples)
    for first in (True, False):
        rate = input_pipeline.read("made", folder, (), threads=1, steps=3, first=first)
        assert 0 < rate < math.inf
    assert 0 < input_pipeline.copied("made", folder, steps=3) < math.inf


@pytest.mark.slow
def test_growth_of_small_models_is_measured_and_drawn(tmp_path):
    sweeps = {"depth": [growth.Size(depth, 64, 8, 2) for depth in (1, 2)]}
    costs = growth.measured(sweeps["depth"], rounds=1)
    small, large = (costs[size] for size in sweeps["depth"])
    assert large.bytes > small.bytes and large.operations > small.operations and large.estimate > small.estimate
    growth.draw(sweeps, costs, tmp_path / "growth.png")
    assert Image.open(tmp_path / "growth.png").width > 100


@pytest.mark.slow
def test_a_warm_cache_makes_compilation_faster(tmp_path):
    cold, warm = (start_up.compiled(1, 1, tmp_path / "cache") for _ in range(2))
    assert 0 < warm and list(pathlib.Path(tmp_path / "cache").iterdir()) and cold > 0


def test_every_source_of_the_benchmark_has_the_same_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(input_pipeline, "BATCH", 4)
    opened = source_files.written(str(tmp_path), 12)
    pictures = {}
    for name, (open_source, beside) in opened.items():
        source = open_source()
        assert beside in ("files", "tar", "array") and source.spec.shape == (source_files.SIDE, source_files.SIDE, 3)
        pictures[name] = sorted(source[row]["image"].tobytes() for row in range(len(source)))
        for first in (True, False):
            assert 0 < input_pipeline.from_source(open_source, 1, first) < math.inf
    assert len(set(pictures["arrays"])) == 12
    assert all(each == pictures["arrays"] for each in pictures.values())
