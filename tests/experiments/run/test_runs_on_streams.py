"""What runs on streams take: captions, masks, mixtures, filters, evaluations; each goes on as it would have."""

import io
import json
import tarfile

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusion.data.sources import python_objects
from diffusion.experiments import reproduce, train as training
from diffusion.experiments.evaluation import real_images
from diffusion.experiments.run.examples import open_examples
from diffusion.experiments.train import train
from diffusion.recipe import ConfigError, Recipe, checks, names
from diffusion.training.checkpointing import checkpoints
from tests.data.made import png
from tests.experiments.run import test_every_source, test_streams
from tests.experiments.run.test_text_of_own_pictures import Reader, config_of

pytestmark = pytest.mark.usefixtures("compilation_cache")


def goes_on(make, folder):
    """Whether a run of two steps that goes on to four is the one of four steps; `make` of steps trains it."""
    for steps, name in ((2, "parts"), (4, "parts"), (4, "whole")):
        assert make(steps, folder / name) == 0
    both = [checkpoints.load_ema(folder / name, 4)[0] for name in ("parts", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *both)
    return True


def drawings(folder, number=7, side=4):
    """A shard of pictures, each with a caption, a label, and a mask that is its red channel."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "train.tar", "w") as archive:
        for k in range(number):
            picture = rng.integers(0, 256, (side, side, 3), np.uint8)
            members = {"png": png(picture), "mask.png": png(picture[..., 0]), "txt": f"number {k}".encode()}
            for suffix, content in (members | {"cls": str(k % 2).encode()}).items():
                info = tarfile.TarInfo(f"{k:04}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    source = {"name": "tar_stream", "path": str(folder), "x": "png", "classes": ("even", "odd"), "window": 3}
    return source | {"condition": ("mask.png", "cls")}


@pytest.mark.extended
def test_captions_a_mask_and_a_label_of_a_stream_are_the_condition_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setitem(names.MODELS, "reader", Reader)
    source = drawings(tmp_path / "drawings")
    config = lambda steps: config_of(tmp_path, source, **{"train.steps": steps, "data.augment": ({"name": "flip"},)})
    assert goes_on(lambda steps, folder: training.run(config(steps), folder), tmp_path)
    found = open_examples(checks.validate(config(1))).batches(config(1), 0, np.arange(4), 0)
    for _ in range(3):
        batch = next(found)
        assert set(batch["condition"]) == {"ids", "mask", "mask.png", "cls"}
        np.testing.assert_array_equal(batch["condition"]["mask.png"][..., 0], batch["image"][..., 0])
        np.testing.assert_array_equal(batch["condition"]["cls"], batch["label"])


def points(folder, number=40):
    """Parquet files of points on a circle, each with a label and its number."""
    folder.mkdir()
    angle = np.arange(number) / 7
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    columns = {"x": list(x), "label": np.arange(number) % 2, "number": np.arange(number)}
    for part, rows in enumerate((slice(0, 11), slice(11, number))):
        table = pa.table({name: values[rows] for name, values in columns.items()})
        pq.write_table(table, folder / f"train-{part}.parquet", row_group_size=4)
    return {"name": "parquet_stream", "path": str(folder), "classes": ("0", "1"), "window": 5}


def evaluated(source, **changes):
    settings = {
        "data.split": "train[12:]", "evaluate.split": "train[:12]", "evaluate.every": 2, "evaluate.number": 6,
        "evaluate.failed": "stop",
    }  # fmt: skip
    return test_every_source.config_of(source, **(settings | changes))


@pytest.mark.slow
def test_a_run_on_a_mixture_of_streams_is_evaluated_beside_records_that_are_held_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(names.FILTERS, "odd", lambda: lambda record: record["label"] == 1)
    monkeypatch.setattr(real_images, "STREAMED", 20)
    source = points(tmp_path / "points")
    filtered = {"name": "filtered", "of": source, "by": {"name": "odd"}}
    mixed = {"name": "mixture", "of": (source, filtered), "weights": (3, 1)}
    run = lambda steps, folder: training.run(evaluated(mixed, **{"train.steps": steps}), folder)
    assert goes_on(run, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "energy_distance" in line.get("evaluate", {})] == [2, 4]
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "parts/metrics.jsonl").read_text()
    said = capsys.readouterr().out
    assert "75% points and 25% points (train[12:]): a stream of examples of 2 classes" in said
    assert "an evaluation reads at most 20 records of a pass over each split" in said
    config = evaluated(source)
    train_split, held_out = real_images.splits_of(config)
    assert len(held_out.images) == 12 and len(train_split.images) == 20
    rows = lambda split: {row.tobytes() for row in split.images}
    assert not rows(train_split) & rows(held_out)


@pytest.mark.slow
def test_a_stream_of_python_is_evaluated_beside_what_is_held_out(tmp_path):
    held_out = [test_streams.record(i + 0.5) for i in range(9)]
    settings = {"evaluate.every": 2, "evaluate.number": 6, "evaluate.failed": "stop"}

    def recipe(data, held_out=held_out):
        made = test_streams.recipe(data, steps=2, **settings)
        object.__setattr__(made, "held_out", held_out)
        return made

    assert train(recipe(test_streams.Again()), tmp_path / "run") == 0
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert line["evaluate"]["energy_distance"] > 0
    with pytest.raises(
        ValueError, match=r"held-out examples, but the recipe has none\. Valid: Recipe\(held_out=records\)"
    ):
        train(recipe(test_streams.Again(), None), tmp_path / "none")
    with pytest.raises(ValueError, match=r"is a stream that can be read only once\. Valid: a function that returns"):
        train(recipe(test_streams.record(i) for i in range(40)), tmp_path / "once")


@pytest.mark.slow
def test_a_step_of_a_run_on_a_stream_is_repeated(tmp_path, monkeypatch):
    """From a checkpoint, with the records of that step."""
    config = test_every_source.config_of(points(tmp_path / "points"), **{"train.steps": 4})
    assert training.run(config, tmp_path / "run") == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    repeated = reproduce.repeat(Recipe.from_config(config), tmp_path / "run", 2)
    assert repeated.metrics["loss"] == pytest.approx(rows[2]["loss"], rel=1e-6)
    assert repeated.index.tolist() == [8, 9, 10, 11]
    monkeypatch.setattr("diffusion.experiments.reproduce.checkpoints.restore", without_stream(checkpoints.restore))
    with pytest.raises(checkpoints.CheckpointError, match=r"points is a stream, but this state.*does not say how far"):
        reproduce.repeat(Recipe.from_config(config), tmp_path / "run", 2)


@pytest.mark.slow
def test_a_step_on_a_stream_that_failed_is_repeated(tmp_path):
    """From the state before it, which says where the stream was."""
    config = test_every_source.config_of(points(tmp_path / "points"), **{"train.steps": 4})
    config.optimizer.learning_rate = 1e30
    assert training.run(config, tmp_path / "failed") == 1
    about = checkpoints.read_about(tmp_path / "failed/failed", 1)
    assert about["stream"]["read"] == about["examples"] == 4
    again = reproduce.repeat(Recipe.from_config(config), tmp_path / "failed")
    expected = open_examples(checks.validate(config)).batches(config, 0, np.arange(4), 0)
    next(expected)
    assert not again.finite and again.labels.tolist() == next(expected)["label"].tolist()


def without_stream(restore):
    """As an earlier version kept the state of a step that failed."""

    def restored(*arguments):
        before, about = restore(*arguments)
        return before, {name: value for name, value in about.items() if name != "stream"}

    return restored


@pytest.mark.extended
def test_a_step_on_a_stream_that_begins_anew_is_not_repeated(tmp_path, monkeypatch):
    def noise(split: str):
        rng = np.random.default_rng()
        records = lambda: ({"x": rng.normal(size=2).astype(np.float32), "label": k % 2} for k in range(20))
        return python_objects.source_of(records, 2, split)

    monkeypatch.setitem(names.SOURCES, "noise", noise)
    config = test_every_source.config_of({"name": "noise"}, **{"train.steps": 2})
    assert training.run(config, tmp_path / "run") == 0
    with pytest.raises(
        checkpoints.CheckpointError, match="is a stream that starts anew each time, so its steps cannot be repeated"
    ):
        reproduce.repeat(Recipe.from_config(config), tmp_path / "run", 2)


@pytest.mark.extended
def test_a_split_that_is_not_there_is_refused_before_the_first_step(tmp_path, capsys):
    source = drawings(tmp_path / "drawings") | {"condition": (), "label": ""}
    config = test_every_source.config_of(source, **{"model.num_classes": 0, "objective.wrappers": ()})
    config.sample.guidance.scale = 1.0
    config.evaluate.every = 2
    with pytest.raises(ConfigError, match=r"drawings has no split 'test'; its splits are train"):
        training.run(config, tmp_path / "run")
    assert "first step" not in capsys.readouterr().out
