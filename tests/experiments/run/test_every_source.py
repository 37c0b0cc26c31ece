"""Every source in a run from a config: it trains, goes on bit for bit, and makes samples of its examples' form."""

import shutil
import types

import jax
import numpy as np
import pytest

from diffusion.experiments import train as training
from diffusion.experiments.run import examples
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling.run_samples import sample
from diffusion.recipe import ConfigError, checks, names
from diffusion.recipe.defaults import defaults
from diffusion.training.checkpointing import checkpoints
from tests import shared_programs
from tests.data.made import png
from tests.data.sources import stored

pytestmark = pytest.mark.usefixtures("compilation_cache")


def mixture(folder):
    folder.mkdir()
    return {"name": "mixture", "of": (stored.arrays(folder / "a"), stored.tar_shards(folder / "b")), "weights": (1, 3)}


def filtered(folder):
    return {"name": "filtered", "of": stored.parquet(folder), "by": {"name": "not_zero"}}


def spirals(folder):
    return {"name": "spirals", "arms": 2, "number": 9}


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """They differ in their records."""
    with shared_programs.traced_once("data"):
        yield


SOURCES = stored.FORMATS | {each.__name__: each for each in (mixture, filtered, spirals)}
LENGTHS = {"mixture": 24, "filtered": 5, "spirals": 9}  # else stored.NUMBER


def test_all_sources_of_files_are_here():
    streams = {"tar_stream", "parquet_stream"}  # tests/data/sources/test_file_streams.py
    of_pictures = {"controlled", "painted"}  # tests/data/test_controls.py
    of_drawings = {
        "drawings",
        "arranged_drawings",
        "spelled_drawings",
        "moving_drawings",
        "moving_pairs",
    }  # tests/data/test_arrangements.py, test_motions.py
    # tests/data/sources/test_manifold_points.py
    of_manifolds = {"sphere_mixture", "torsion_mixture", "rotation_mixture"}
    of_series = {"gaussian_series", "series_windows"}  # tests/data/sources/test_series.py, test_series_configs.py
    of_clips = {"clip_folder", "clip_shards", "paced"}  # tests/data/sources/test_clip_files.py, ../test_paced_clips.py
    of_sound = {"instruments", "wav_folder"}  # tests/data/sources/test_sound_clips.py
    of_shapes = {"solid_points", "solid_distances", "mesh_clouds"}  # tests/data/sources/test_solid_records.py
    of_proteins = {"ideal_folds"}  # tests/data/proteins/test_folds.py
    of_text = {"prose", "text_file"}  # tests/data/test_text_windows.py, test_symbol_training.py
    of_pairs = {"preferences"}  # tests/data/sources/test_preference_pairs.py
    elsewhere = (
        {"tfds"}
        | streams
        | of_pictures
        | of_drawings
        | of_manifolds
        | of_series
        | of_sound
        | of_clips
        | of_shapes
        | of_proteins
        | of_text
        | of_pairs
    )
    assert SOURCES.keys() | elsewhere == names.SOURCES.keys()


@pytest.fixture(autouse=True)
def not_zero(monkeypatch, tmp_path):
    monkeypatch.setitem(names.FILTERS, "not_zero", lambda: lambda record: record["text"] != "0")
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))


def config_of(source, **changes):
    config = defaults()
    config.data.source = source
    config.model = {"name": "mlp", "width": 4, "depth": 1, "num_classes": 2}
    config.objective.wrappers = ({"name": "condition_dropout", "rate": 0.1},)
    config.optimizer = {"name": "adamw", "learning_rate": 1e-2}
    config.update_from_flattened_dict(
        {
            "train.steps": 3, "train.batch_size": 4, "train.log_every": 1, "checkpoint.every": 2, "data.threads": 1,
            "sample.steps": 1, "sample.number": 4, "sample.batch_size": 4, "sample.guidance.scale": 2.0,
        }
        | changes
    )  # fmt: skip
    return config


def goes_on_as_it_would_have(folder):
    """Whether the run, ended after its checkpoint of step 2, repeats step 3 bit for bit."""
    parts = folder.with_name("parts")
    shutil.copytree(folder, parts)
    shutil.rmtree(checkpoints.folder(parts) / "3")
    assert training.run(workdir.read_config(parts), parts) == 0
    both = [checkpoints.load_params(each, 3)[0] for each in (folder, parts)]
    jax.tree.map(np.testing.assert_array_equal, *both)
    lines = [(each / "metrics.jsonl").read_text() for each in (folder, parts)]
    return lines[0] == lines[1] and lines[0].count("\n") == 3


FAST = ("mixture",)  # records of several sources


@pytest.mark.extended
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in SOURCES])
def test_a_run_of_a_source_from_a_config(tmp_path, name, capsys):
    assert training.run(config_of(SOURCES[name](tmp_path / "data")), tmp_path / "run") == 0
    assert goes_on_as_it_would_have(tmp_path / "run")
    assert f"(train): {LENGTHS.get(name, stored.NUMBER)} " in capsys.readouterr().out
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path / "run")))
    samples = sample(recipe, tmp_path / "run")
    assert samples.shape == ((4, 2) if name == "spirals" else (4, 4, 4, 3))
    assert samples.dtype == ("float32" if name == "spirals" else "uint8")
    assert np.load(tmp_path / "run/samples.npz")["labels"].tolist() == [0, 1, 0, 1]


def of_mixed_sizes(folder):
    """The pictures of `stored`, twice as wide and half as high."""
    source = stored.class_folders(folder)
    for k in range(stored.NUMBER):
        (path,) = folder.glob(f"*/{k}.png")
        path.write_bytes(png(stored.PICTURES[k].reshape(2, 8, 3)))
    return source


def bucketed(source):
    return config_of(
        source,
        **{
            "model": {"name": "unet", "widths": (8,), "blocks": 1, "groups": 4, "num_classes": 2},
            "data.buckets": {"area": 16, "multiple": 2, "widest": 4.0}, "data.shape": (4, 4, 3),
            "train.batch_size": 2, "checkpoint.every": 2,
        },
    )  # fmt: skip


@pytest.mark.slow  # the sizes of a mixture: tests/data/sources; buckets of a run: test_runs_of_several_sizes
def test_a_mixture_of_folders_of_several_sizes(tmp_path, capsys):
    other = stored.class_folders(tmp_path / "b")
    source = {"name": "mixture", "of": (of_mixed_sizes(tmp_path / "a"), other), "weights": (1, 1)}
    assert training.run(bucketed(source), tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "sizes near 4 x 4 x 3" in said and "a step of 2 x 8 pictures is compiled" in said
    assert goes_on_as_it_would_have(tmp_path / "run")


@pytest.mark.slow  # two processes import the library; what they read: tests/data/sources/test_process_records.py
def test_worker_processes_change_nothing_of_a_run(tmp_path):
    source = stored.class_folders(tmp_path / "data")
    for processes in (0, 2):
        assert training.run(config_of(source, **{"data.processes": processes}), tmp_path / str(processes)) == 0
    both = [checkpoints.load_params(tmp_path / processes)[0] for processes in "02"]
    jax.tree.map(np.testing.assert_array_equal, *both)
    assert (tmp_path / "0/metrics.jsonl").read_text() == (tmp_path / "2/metrics.jsonl").read_text()


def test_worker_processes_are_refused_where_they_cannot_read(tmp_path):
    stream = stored.tar_shards(tmp_path / "data") | {"name": "tar_stream", "classes": stored.NAMES, "window": 3}
    cached = {"data.latents.dir": "latents"}
    for source, fields, why in (
        (stream, {}, ".* is a stream"),
        ({"name": "spirals"}, cached, "latents need no decoding"),
    ):
        recipe = types.SimpleNamespace(data=None, config=config_of(source, **{"data.processes": 2, **fields}))
        with pytest.raises(ConfigError, match=rf"config\.data\.processes = 2, but {why}\. Valid: 0"):
            examples.open_examples(recipe)


def test_worker_processes_run_the_extensions_of_the_run_and_read_its_split(monkeypatch):
    reads = lambda source, reopen, processes: (source, reopen.func, reopen.args, processes)
    monkeypatch.setattr(examples.process_records, "ProcessRecords", reads)
    monkeypatch.setattr(examples.extensions, "loaded", {"my_sources.py": None, "more.py": None})
    config = config_of({"name": "own"}, **{"data.processes": 3, "data.split": "train[:90%]", "seed": 5})
    source, function, (settings, *how), processes = examples._by_processes(config, "records")
    assert (source, function, processes) == ("records", examples.data.reopen, 3)
    assert settings["source"] == {"name": "own"} and how == ["train[:90%]", 5, ("my_sources.py", "more.py")]


def test_worker_processes_cannot_read_the_records_of_python():
    recipe = types.SimpleNamespace(data=[], config={"data": {"processes": 1}})
    with pytest.raises(ConfigError, match=r"config\.data\.processes = 1, but the records come from Python\. Valid: 0"):
        examples.open_examples(recipe)


def test_a_source_without_sizes_has_no_buckets(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.data\.buckets\.area = 16, but .* does not know the sizes"):
        training.run(bucketed({"name": "spirals"}), tmp_path / "run")
