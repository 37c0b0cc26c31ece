"""Runs on pictures of several sizes: what each batch is, that a run goes on bit for bit, on any devices; refusals."""

import json
import os
import pathlib
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import digits
from diffusion.data import buckets, sources
from diffusion.experiments import reproduce, train
from diffusion.experiments.run import examples
from diffusion.experiments.sampling import generate
from diffusion.recipe import ConfigError, Recipe, checks, versions
from diffusion.recipe.defaults import defaults
from diffusion.recipe.values import plain
from diffusion.training.checkpointing import checkpoints
from tests.data.made import image_feature, png, write
from tests.training.test_meshes import run as run_processes

pytestmark = pytest.mark.usefixtures("compilation_cache")

BATCH, EACH = 4, {(20, 6): 8, (9, 10): 8, (5, 18): 16}  # pictures of three aspect ratios
BUCKETS = {(20, 6): (16, 4), (9, 10): (8, 8), (5, 18): (4, 16)}  # the nearest of 64 pixels
NUMBER = sum(EACH.values())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A dataset: the first channel of a picture says which it is, the rest is noise; the last eight are for tests."""
    rng = np.random.default_rng(0)
    made = []
    sizes = [size for size, number in EACH.items() for _ in range(number)]
    sizes = [sizes[k] for k in rng.permutation(NUMBER)] + [(9, 10)] * 8
    for k, size in enumerate(sizes):
        picture = rng.integers(0, 256, (*size, 3), np.uint8)
        picture[..., 0] = 6 * k
        made.append({"image": png(picture), "label": k % 2})
    features = {"image": image_feature(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
    return write(tmp_path_factory.mktemp("pictures"), features, made)


def config_of(folder, **changes):
    config = digits.get_config()
    config.update_from_flattened_dict(
        {
            "data.name": "made",
            "data.dir": folder,
            "data.split": f"train[:{NUMBER}]",
            "data.shape": (8, 8, 3),
            "data.augment": ({"name": "flip"},),
            "data.threads": 1,
            "data.buckets": {"area": 64, "multiple": 4, "widest": 4.0},
            "model.patch": 4,
            "model.width": 16,
            "model.depth": 1,
            "model.heads": 2,
            "model.num_classes": 2,
            "train.steps": 10,
            "train.batch_size": BATCH,
            "train.log_every": 2,
            "checkpoint.every": 20,
            "objective.density.strata": BATCH,
            "optimizer.warmup": 2,
            "optimizer.decay": "constant",
            "ema.decay": 0.9,
            "sample.steps": 1,
            "sample.number": 6,
            "sample.batch_size": 8,
            "evaluate.number": 8,
            "evaluate.features": ("pixels",),
            "evaluate.split": f"train[{NUMBER}:]",
        }
        | changes
    )
    return config


def test_batches_are_of_one_size_and_every_picture_comes_once_an_epoch(pictures):
    config = config_of(pictures)
    checks.validate(config)
    opened = examples.open_examples(Recipe.from_config(config))
    checks.with_data(checks.validate(config), opened.spec)
    assert opened.spec.shape == (8, 8, 3) and opened.sizes == ((16, 4), (8, 8), (4, 16))
    steps = NUMBER // BATCH  # of an epoch
    data = opened.batches(config, 0, range(BATCH), threads=1)
    batches = [next(data) for _ in range(2 * steps)]
    data.close()
    for epoch in (batches[:steps], batches[steps:]):
        seen = [(k // 6, b["image"].shape[1:3]) for b in epoch for k in b["image"][:, 0, 0, 0].tolist()]
        assert sorted(k for k, _ in seen) == list(range(NUMBER))
        sizes = [opened.source.sizes([k])[0] for k, _ in seen]
        assert all(BUCKETS[tuple(size.tolist())] == bucket for size, (_, bucket) in zip(sizes, seen))
    assert all(b.keys() == {"image", "label", "index"} for b in batches)
    assert [b["image"].tobytes() for b in batches[:steps]] != [b["image"].tobytes() for b in batches[steps:]]
    # From the middle on, by two processes that share the rows, with other threads: the same.
    for rows in ((0, 2), (1, 3)):
        part = opened.batches(config, 5 * BATCH, rows, threads=0)
        for step in range(5, 9):
            for name, leaf in next(part).items():
                np.testing.assert_array_equal(leaf, batches[step][name][list(rows)])


def test_headers_are_read_once_until_a_file_changes(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    config = config_of(pictures)
    read = []
    sizes = sources.Records.sizes
    monkeypatch.setattr(sources.Records, "sizes", lambda self, rows: read.extend(rows) or sizes(self, rows))
    first = examples.open_examples(Recipe.from_config(config))
    assert sorted(read) == list(range(NUMBER))
    read.clear()
    np.testing.assert_array_equal(examples.open_examples(Recipe.from_config(config)).bucket, first.bucket)
    assert not read
    (kept,) = (tmp_path / "sizes").iterdir()
    for spoil in (
        lambda: kept.write_bytes(kept.read_bytes()[:-8]),
        lambda: [os.utime(path) for path in pathlib.Path(pictures).rglob("*array_record*")],
    ):
        spoil()
        np.testing.assert_array_equal(examples.open_examples(Recipe.from_config(config)).bucket, first.bucket)
        assert sorted(read) == list(range(NUMBER))
        read.clear()
    monkeypatch.setenv("DIFFUSION_CACHE", f"{kept}/file")  # nowhere to write
    np.testing.assert_array_equal(examples.open_examples(Recipe.from_config(config)).bucket, first.bucket)


REFUSED = {
    "unknown": ({"data.buckets": {"areas": 64}}, r"config\.data\.buckets.*'areas'.*'area'"),
    "area": ({"data.buckets.area": -1}, r"config\.data\.buckets\.area = -1"),
    "no size": ({"data.buckets.area": 10}, r"config\.data\.buckets.*no size fits.*an area of 256"),
    "too many": ({"data.buckets.multiple": 1, "data.buckets.area": 2**24}, r"too many sizes.*larger multiple"),
    "no shape": ({"data.shape": None}, r"config\.data\.shape = None.*16 x 4, 8 x 8, 4 x 16"),
    "another shape": ({"data.shape": (8, 16, 3)}, r"config\.data\.shape = \(8, 16, 3\).*16 x 4, 8 x 8"),
    "patch": ({"model.patch": 8}, r"config\.model\.patch = 8.*\(16, 4, 3\)"),
    "u_vit": (
        {"model": {"name": "u_vit", "patch": 4, "width": 16, "depth": 2, "heads": 2, "num_classes": 2}},
        r"'u_vit' learns positions for only one size.*dit",
    ),
    "devices": ({"mesh.data": 3}, r"config\.train\.batch_size = 4 does not divide evenly on 3 devices"),
    "latents": ({"data.latents.dir": "/cache", "data.augment": ()}, r"latents of one size"),
    "skip": ({"data.damaged": "skip"}, r"config\.data\.damaged = 'skip', but .*Valid: \"stop\""),
}


@pytest.mark.parametrize("changes, words", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(changes, words):
    config = config_of("")
    with config.unlocked():
        for name, value in changes.items():
            *parents, last = name.split(".")
            entry = config
            for parent in parents:
                entry = entry[parent]
            entry[last] = value
    with pytest.raises(ConfigError, match=words):
        checks.validate(config)


def test_a_description_that_does_not_fit_is_refused_before_anything_is_made(pictures, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.data\.shape = \(8, 8, 1\).*\(8, 8, 3\)"):
        train.run(config_of(pictures, **{"data.shape": (8, 8, 1)}), tmp_path)
    with pytest.raises(ConfigError, match=r"None:.*side varies\).*with config\.data\.buckets"):
        train.run(config_of(pictures, **{"data.shape": None, "data.buckets.area": 0}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_on_pictures_with_opacity_says_how_it_is_resized():
    """Earlier versions resized it beside the colours; a run of these goes on only where its user accepts the change."""

    def fingerprint(shape, sizes, dtype="uint8"):
        spec = sources.DataSpec("made", "train", shape, 0, 9, dtype=dtype)
        return examples.Examples(SimpleNamespace(fingerprint=lambda: {"records": 9}), spec, (), sizes).fingerprint()

    now = fingerprint((8, 8, 4), ((8, 8),))
    assert now == {"records": 9, "opacity": "multiplied"}
    for others in ((8, 8, 3), ((8, 8),)), ((8, 8, 4), ()), ((8, 8, 4), ((8, 8),), "float32"), ((), ()):
        assert fingerprint(*others) == {"records": 9}
    config = digits.get_config()
    with pytest.raises(ConfigError, match=r"resizing of their opacity None -> multiplied.*changed=accept"):
        examples.require_same(config, {"records": 9}, now)


def test_configs_of_older_runs_are_of_one_size():
    old = plain(config_of(""))
    del old["data"]["buckets"]
    assert versions.read(json.dumps(old)).data.buckets.to_dict() == plain(defaults())["data"]["buckets"]


@pytest.fixture(scope="module")
def straight(pictures, tmp_path_factory):
    """Ten steps and an evaluation, undisturbed."""
    folder = tmp_path_factory.mktemp("straight")
    assert train.run(config_of(pictures, **{"evaluate.every": 10}), folder) == 0
    return folder


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_undisturbed_one_bit_for_bit(pictures, straight, tmp_path, capsys, monkeypatch):
    config = config_of(pictures, **{"evaluate.every": 10})
    endless = buckets.batches

    def interrupted(*arguments, **options):
        for step, batch in enumerate(endless(*arguments, **options)):
            if step == 3:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(buckets, "batches", interrupted)
        assert train.run(config, tmp_path) == 128 + signal.SIGTERM
    assert checkpoints.latest(tmp_path) == 4
    assert train.run(config, tmp_path) == 0
    leaves = [checkpoints.read_about(folder, 10)["leaves"] for folder in (straight, tmp_path)]
    assert leaves[0] == leaves[1]
    assert (tmp_path / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    assert "fd_pixels" in rows_of(straight)[-1]["evaluate"]
    output = capsys.readouterr().out
    assert "from step 4 of 10" in output and "(3 of 3 sizes)" in output and "(4 of 3 sizes)" not in output


@pytest.mark.slow
def test_samples_have_the_shape_of_the_config(pictures, straight):
    for shape in [(8, 8, 3), (4, 16, 3)]:
        config = config_of(pictures, **{"data.shape": shape})
        params, _ = checkpoints.load_ema(straight)
        images = generate.generator(Recipe.from_config(config, shape)).images(
            params, np.arange(6) % 2, generate.seeds(config, 6)
        )
        assert images.shape == (6, *shape)
    repeated = reproduce.repeat(
        Recipe.from_config(config_of(pictures)), straight, 10
    )  # the next step, of whichever size
    assert repeated.finite and repeated.step == 10


TRAIN = """
import json, pathlib, sys
from diffusion.experiments import train
from tests.experiments.run.test_runs_of_several_sizes import config_of

config = config_of(sys.argv[1])
config.mesh.update(json.loads(sys.argv[3]))
sys.exit(train.run(config, pathlib.Path(sys.argv[2])))
"""
LAYOUTS = {  # (processes, devices of each, config.mesh)
    "2 devices": (1, 2, {}),
    "2 devices, pmap": (1, 2, {"kind": "pmap"}),
    "2 processes": (2, 1, {"data": 1, "fsdp": 2}),
    "sequence": (1, 2, {"sequence": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("processes, devices, mesh", LAYOUTS.values(), ids=LAYOUTS)
def test_any_devices_train_alike(pictures, straight, tmp_path, processes, devices, mesh):
    run_processes(TRAIN, processes, devices, pictures, tmp_path, json.dumps(mesh))
    found = rows_of(tmp_path)
    expected = [row for row in rows_of(straight) if "evaluate" not in row]
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for one, other in zip(found, expected):
        assert one["count_by_t"] == other["count_by_t"]
        np.testing.assert_allclose([one["loss"], one["grad_norm"]], [other["loss"], other["grad_norm"]], rtol=1e-4)
