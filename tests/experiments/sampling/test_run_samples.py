"""Which weights a run is sampled with, how parameters are known again, and which watermarks samples can carry."""

import dataclasses
import errno
import hashlib
import json
import os
import struct
import types
import warnings

import jax
import numpy as np
import pytest

from configs import digits
from diffusion import objectives, parameterizations, watermarks
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import run_samples
from diffusion.recipe import ConfigError, checks
from diffusion.recipe.sections import Examples, sectioned
from diffusion.training.step import conditioned

KEY = "0123456789abcdef" * 4
SHAPE = (8, 8, 1)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The arguments that the samples are made with, of a run folder "run" whose checkpoints are words."""
    load = lambda what: lambda folder, step: (what, step or 40)
    monkeypatch.setattr(run_samples.checkpoints, "load_ema", load("averaged"))
    monkeypatch.setattr(run_samples.checkpoints, "load_params", load("raw"))
    monkeypatch.setattr(run_samples.checkpoints, "read_about", lambda folder, step: {"leaves": f"leaves of {step}"})
    post_hoc = lambda folder, tracked, width, step: (f"{tracked} to {width}", step or 40, {"average": width})
    monkeypatch.setattr(run_samples.averages, "post_hoc", post_hoc)
    monkeypatch.setattr(run_samples.data, "class_names", lambda recipe: ("cat", "dog"))
    monkeypatch.setattr(run_samples, "sample_weights", lambda *arguments: arguments)
    config = types.SimpleNamespace(ema={"sigma_rel": 0.05}, sample=types.SimpleNamespace(steps=1))
    objective = types.SimpleNamespace(teacher=None, reads=objectives.Denoises())
    recipe = types.SimpleNamespace(**sectioned({"shape": (2,), "config": config}), objective=objective)
    return recipe, tmp_path / "run"


@pytest.mark.parametrize(
    "how, params, step, about",
    [
        ({}, "averaged", 40, {"weights": "ema"}),
        ({"weights": "params", "step": 7}, "raw", 7, {"weights": "params"}),
        ({"average": 0.1, "step": 7}, "0.05 to 0.1", 7, {"average": 0.1}),
    ],
)
def test_the_samples_are_of_the_chosen_weights(run, how, params, step, about):
    recipe, folder = run
    _, weights, out, labels, mark, signer, quantised, classes = run_samples.sample(recipe, folder, **how)
    assert weights == (params, "run", f"step {step}", {"step": step, **about}, f"leaves of {step}")
    assert (out, labels, mark, signer, quantised, classes) == (folder, None, None, None, "", ("cat", "dog"))
    assert run_samples.sample(recipe, folder, "out", [1], quantised="int8", **how)[2:4] == ("out", [1])


@pytest.mark.parametrize("step, trained", [(1, 16), (200, 16), (201, 8), (600, 4), (800, 2), (801, 1), (1000, 1)])
def test_fewer_steps_than_those_of_the_stage_are_warned_of(run, step, trained):
    """Of 16, 8, 4, 2 and 1 steps, 200 training steps each: the student of step 600 has ended the third stage."""
    recipe, folder = run
    v = parameterizations.v()
    recipe.objective = objectives.progressive_distillation(v, v, N=16, stage=200)
    for steps in (1, 2, 4, 8, 16, 32):
        recipe.config.sample.steps = steps
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run_samples.sample(recipe, folder, step=step)
        assert len(said) == (steps < trained)
        for warning in said:
            assert f"trained for {trained} sampling steps, not for config.sample.steps = {steps}" in str(
                warning.message
            )
            assert "of one step is that of step 1000" in str(warning.message)


def test_samples_do_not_go_into_the_folder_of_another_run(run, tmp_path):
    """`diffusion evaluate` of that run measured them as its own."""
    recipe, folder = run
    for name in ("run", "other"):
        (tmp_path / name / "checkpoints/20").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"--out=.*/other is the folder of another run.* Valid: .*/run/NAME"):
        run_samples.sample(recipe, folder, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"is the folder of another run.* e\.g\. pictures"):
        workdir.require_no_other_run(folder)
    run_samples.sample(recipe, folder, folder.parent / "other/../run")
    run_samples.sample(recipe, folder, tmp_path / "other/inside")


def test_an_average_of_the_raw_parameters_is_refused(run):
    recipe, folder = run
    with pytest.raises(ConfigError, match=r"--average=0\.1 is a moving average, and --weights=params names the raw"):
        run_samples.sample(recipe, folder, weights="params", average=0.1)


def test_a_recipe_without_a_shape_is_refused(run):
    recipe, folder = run
    recipe.examples = Examples()
    with pytest.raises(ConfigError, match="the recipe does not know the shape"):
        run_samples.sample(recipe, folder)


def test_the_checksum_is_of_names_types_shapes_and_bytes():
    x = {"a": np.arange(4, dtype=np.float32), "b": {"c": np.ones(2, np.float32)}}
    first = run_samples.checksum(x)
    assert run_samples.checksum({"b": {"c": np.ones(2, np.float32)}, "a": x["a"].copy()}) == first
    others = [
        {**x, "a": x["a"] + 1},
        {**x, "a": x["a"].astype(np.float64)},
        {**x, "a": x["a"].reshape(2, 2)},
        {"d": x["a"], "b": x["b"]},
    ]
    assert len({first, *map(run_samples.checksum, others)}) == 5 and len(first) == 64


def recipe_of(draws=0, renoise=(False,), pictures=True, latents=False, shape=(64, 64, 3)):
    plan = types.SimpleNamespace(renoise=np.array(renoise))
    parts = {
        "makes_pictures": pictures, "makes_bytes": pictures, "on_latents": latents, "shape": shape,
        "sampler": types.SimpleNamespace(draws=draws), "plan": plan,
    }  # fmt: skip
    return types.SimpleNamespace(**sectioned(parts))


def test_a_watermark_is_refused_where_samples_cannot_carry_it():
    noise, pictures = watermarks.gaussian_shading(KEY, 8, 2), watermarks.spread_spectrum(KEY, 8)
    nothing = watermarks.Reading(np.zeros(1), np.ones(1))
    own = lambda kind, embed: watermarks.Watermark(kind, lambda x, keys: embed(x), lambda x: nothing, None, "mine")
    check = run_samples._check_watermark
    for mark, recipe in ((noise, recipe_of()), (pictures, recipe_of()), (pictures, recipe_of(2, (True,)))):
        check(mark, recipe)
    check(pictures, recipe_of(latents=True, shape=(2, 2, 4)))  # the decoder decides how large they are
    for mark, recipe, message in (
        (pictures, recipe_of(pictures=False), "is for pictures, but this run makes none"),
        (pictures, recipe_of(shape=(4, 4, 3)), "--watermark: spread_spectrum"),
        (noise, recipe_of(draws=1), "--watermark: .* the sampler adds noise of its own"),
        (noise, recipe_of(renoise=(False, True)), "the sampler adds noise of its own"),
        (noise, recipe_of(shape=(2, 2, 1)), "--watermark: gaussian_shading: bits = 8 exceeds"),
        (
            own("pictures", lambda x: x + 0.5),
            recipe_of(),
            r"mine: embed returns an array of float64, shape \(1, 64, 64, 3",
        ),
        (own("noise", lambda x: x[:, :4]), recipe_of(), r"mine: embed returns .*, shape \(1, 4, 64, 3\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            check(mark, recipe)
    without_plan = recipe_of()
    without_plan.sampling = dataclasses.replace(without_plan.sampling, plan=None)
    check(noise, without_plan)


def test_the_record_says_how_and_where_the_samples_were_made(monkeypatch):
    monkeypatch.setattr(run_samples.jax, "devices", lambda: [types.SimpleNamespace(device_kind="a card")])
    monkeypatch.setattr(run_samples, "config_hash", lambda config: f"hash of {config.name}")
    config = types.SimpleNamespace(sample={"number": 3}, name="a run")
    found = run_samples._record(types.SimpleNamespace(config=config), 7, 0.25, {"step": 5})
    assert found.pop("command").startswith("diffusion sample") and found.pop("versions").keys() == {"jax", "numpy"}
    assert found == {
        "checkpoint": {"step": 5}, "sample": {"number": 3}, "nfe": 7, "blocks_skipped": 0.25,
        "config": "hash of a run", "device": "a card",
    }  # fmt: skip


class Stop(Exception):
    """Ends a function where what it has done so far is enough."""


def test_samples_are_split_over_all_devices_and_counted_as_samples(monkeypatch, tmp_path):
    seen = []

    def stop(*arguments, **_):
        seen.append(arguments)
        raise Stop

    sample = types.SimpleNamespace(number=7, batch_size=3)
    unit = lambda of_samples: f"of samples: {of_samples}"
    recipe = types.SimpleNamespace(config=types.SimpleNamespace(sample=sample), unit=unit)
    for name in ("conditions_of", "seeds", "trained"):
        monkeypatch.setattr(run_samples.generate, name, lambda first, *_: first)
    monkeypatch.setattr(
        run_samples.generate, "generator", lambda *_: types.SimpleNamespace(images=None, work=None, nfe=1)
    )
    monkeypatch.setattr(run_samples.batches_on_disk, "key", lambda *_: "key")
    monkeypatch.setattr(run_samples.progress, "bar", stop)
    monkeypatch.setattr(run_samples.sharding, "make_mesh", stop)
    weights = run_samples.Weights({}, "run", "step 1", {}, None)
    for devices in (["one"], ["one", "two"]):
        monkeypatch.setattr(run_samples.jax, "local_devices", lambda devices=devices: devices)
        with pytest.raises(Stop):
            run_samples.sample_weights(recipe, weights, tmp_path)
    assert seen == [("sampling", 7, "of samples: True"), ({"data": -1}, ["one", "two"])]


def test_samples_of_another_process_are_left_alone(tmp_path):
    weights = run_samples.Weights({}, "run", "step 1", {}, None)
    with run_samples.batches_on_disk.held(tmp_path), pytest.raises(workdir.WorkdirError, match="is in use"):
        run_samples.sample_weights(types.SimpleNamespace(config=None), weights, tmp_path)


def test_the_pictures_alone_are_signed_with_the_weights_that_made_them(tmp_path):
    signed = []
    signer = types.SimpleNamespace(sign=lambda path, made_by, version: signed.append((path, made_by)))
    params = {"kernel": np.array([1.5, -2.0], np.float32)}
    digest = hashlib.sha256(b"kernel float32 (2,)\n" + struct.pack("<2f", 1.5, -2.0)).hexdigest()
    shown = [tmp_path / "samples.npz", tmp_path / "samples.png"]
    run_samples._sign(shown, signer, {"model": "run", "checkpoint": {"step": 1}}, params)
    assert signed == [(shown[1], {"model": "run", "checkpoint": digest})]


def test_what_the_samples_carry_is_in_their_description(monkeypatch, capsys):
    """In its order: the batches on the disk are known by this text."""
    monkeypatch.setattr(run_samples, "_check_watermark", lambda mark, recipe: None)
    weights = run_samples.Weights({"kernel": np.ones((2, 2), np.float32)}, "run", "step 1", {"step": 1}, None)
    mark = types.SimpleNamespace(identity="mark:1")
    assert run_samples._stored(None, weights, None, "") == (weights.params, {"step": 1})
    params, description = run_samples._stored(None, weights, mark, "int8")
    assert json.dumps(description) == '{"step": 1, "watermark": "mark:1", "quantised": "int8"}'
    assert weights.description == {"step": 1} and capsys.readouterr().out.startswith("int8: ")
    assert jax.tree.structure(params) != jax.tree.structure(weights.params)


@pytest.fixture(scope="module")
def digits_recipe():
    config = digits.get_config("tiny")
    config.sample.update({"steps": 1, "batch_size": 2, "sampler": {"name": "euler"}})
    config.sample.guidance.scale = 1.0
    return checks.validate(config).at(SHAPE)


def weights_of(recipe):
    """Parameters of which those of class 3 are NaN."""
    shapes = jax.eval_shape(
        recipe.network.init, jax.random.key(0), np.zeros((1, *SHAPE)), np.zeros(1), np.zeros(1, np.int32)
    )

    def leaf(path, shape):
        value = np.full(shape.shape, 0.01, np.float32)
        if shape.shape[:1] == (11,):  # the embeddings of ten classes and the null class
            value[3] = np.nan
        return value

    params = jax.tree_util.tree_map_with_path(leaf, shapes)
    return run_samples.Weights(params, "run", "step 1", {"step": 1}, {})


def test_samples_that_are_not_finite_are_counted(digits_recipe, tmp_path, monkeypatch):
    """Of five samples in batches of two; in pictures they would be black, as a hole in the data."""
    written = []
    monkeypatch.setattr(run_samples, "_write", lambda *arguments: written.append(arguments) or [])
    digits_recipe.config.sample.number = 5
    labels = np.array([3, 1, 2, 3, 3], np.int32)
    with pytest.warns(
        UserWarning, match=r"3 of 5 samples are not finite.*sampler = .'name': 'euler'., .*steps = 1.*Try"
    ):
        images = run_samples.sample_weights(digits_recipe, weights_of(digits_recipe), tmp_path, conditioned(labels))
    assert [int(image.max()) > 0 for image in images] == [False, True, True, False, False]
    record = written[0][8]
    assert record["not_finite"] == 3


@pytest.mark.extended
def test_the_record_of_samples_says_their_conditions(digits_recipe, tmp_path, monkeypatch):
    """Samples that differ in --labels alone are other samples than those that a report measured."""
    records = []
    monkeypatch.setattr(run_samples, "_write", lambda *arguments: records.append(arguments[8]) or [])
    digits_recipe.config.sample.number = 2
    for labels in ([1, 2], [1, 2], [2, 1]):
        conditions = conditioned(np.array(labels, np.int32))
        run_samples.sample_weights(digits_recipe, weights_of(digits_recipe), tmp_path, conditions)
    first, same, other = (record["conditions"] for record in records)
    assert first == same != other


def test_samples_of_which_none_is_finite_are_refused(digits_recipe, tmp_path):
    digits_recipe.config.sample.number = 2
    with pytest.raises(ConfigError, match=r"2 of 2 samples are not finite.*train\.dtype = 'float32'.*another step"):
        run_samples.sample_weights(
            digits_recipe, weights_of(digits_recipe), tmp_path, conditioned(np.array([3, 3], np.int32))
        )
    assert not list(tmp_path.iterdir())


def test_unfinished_samples_belong_to_their_weights_classes_and_settings(monkeypatch, tmp_path):
    """Another command must not go on with them: each change has another folder of batches."""

    class Begun(Exception):
        pass

    def begun(make, params, labels, seeds, batch_size, folder, *rest, **more):
        raise Begun(folder.name)

    monkeypatch.setattr(run_samples.batches_on_disk, "images", begun)
    monkeypatch.setattr(run_samples.generate, "trained", lambda recipe, params: recipe)
    made = types.SimpleNamespace(images=None, work=None)
    monkeypatch.setattr(run_samples.generate, "generator", lambda *_: made)
    weights = run_samples.Weights({"w": np.zeros(1)}, "run", "step 40", {"step": 40}, {"w": "ab"})

    def folder(labels=(1, 2, 3), weights=weights, **settings):
        config = digits.get_config("tiny")
        config.sample.number = 3
        config.sample.update(settings)
        recipe = types.SimpleNamespace(config=config, unit=lambda of_samples: "images")
        with pytest.raises(Begun) as begin:
            run_samples.sample_weights(recipe, weights, tmp_path, np.array(labels))
        return str(begin.value)

    first = folder()
    assert first == folder() and first.startswith(".samples-")
    others = [
        folder(weights=weights._replace(identity={"w": "cd"})),
        folder(weights=weights._replace(description={"step": 40, "average": 0.1})),
        folder((1, 2, 4)),
        folder(seed=1),
        folder(steps=3),
    ]
    assert len({first, *others}) == 6


def test_the_numbers_of_a_driver_are_means_over_its_batches(capsys):
    """Ten samples in batches of four are three batches."""
    config = digits.get_config("tiny")
    config.sample.number, config.sample.batch_size = 10, 4
    recipe = types.SimpleNamespace(config=config, sampling=types.SimpleNamespace(driver=None))
    made = types.SimpleNamespace(nfe=None)
    counts = run_samples._counted(recipe, made, np.array([6.0, 9.0, 0.0]))
    assert counts == {"particles": {"effective_size": 2.0, "log_normaliser": 3.0}}
    assert "effective size 2.00" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="2 of 10 samples are not finite"):
        assert run_samples._counted(recipe, made, np.array([0.0, 0.0, 2.0])) == {"not_finite": 2}


def test_the_trajectories_are_those_of_the_first_samples_of_the_classes(monkeypatch, tmp_path):
    """Classes of records come in any order: samples 2, 1 and 0 are the first of classes 0, 4 and 7."""
    followed, drawn = [], []

    def trajectory(params, labels, seeds):
        followed.append((labels.tolist(), seeds.tolist()))
        return None, None

    classes, seeds = np.array([7, 4, 0, 7]), np.array([30, 31, 32, 33], np.uint32)
    monkeypatch.setattr(run_samples.generate, "classes_of", lambda recipe, labels: labels)
    monkeypatch.setattr(run_samples.sample_pictures, "draw", lambda samples: None)
    monkeypatch.setattr(run_samples.plots, "sample_grid", lambda *_, **how: None)
    draw = lambda x, x0, times, labels, path, classes: drawn.append(labels.tolist())
    monkeypatch.setattr(run_samples.plots, "trajectory", draw)
    parts = {"structure": None, "by_record": False, "plan": types.SimpleNamespace(grid=None)}
    recipe = types.SimpleNamespace(**sectioned(parts))
    images = np.zeros((4, 8, 8, 1), np.uint8)
    made = types.SimpleNamespace(trajectory=trajectory)
    run_samples._write(tmp_path, recipe, made, None, images, classes, False, seeds, {}, ())
    assert followed == [([0, 4, 7], [32, 31, 30])] and drawn == [[0, 4, 7]]
    stored = np.load(tmp_path / "samples.npz")
    np.testing.assert_array_equal(stored["labels"], classes)
    np.testing.assert_array_equal(stored["seeds"], seeds)


def test_a_command_that_ends_between_its_files_leaves_no_samples_under_earlier_settings(tmp_path, monkeypatch):
    examples = types.SimpleNamespace(structure=None, by_record=False)
    recipe = types.SimpleNamespace(examples=examples)
    (tmp_path / "samples.json").write_text('{"sample": {"guidance": {"scale": 1.0}}}')
    np.savez(tmp_path / "samples.npz", images=np.zeros(3))
    monkeypatch.setattr(run_samples.json_files, "write", _full_disk)
    labels = np.zeros(2, np.int32)
    with pytest.raises(OSError, match="No space left"):
        run_samples._write(tmp_path, recipe, None, None, np.ones(2), labels, False, labels, {}, ())
    assert np.load(tmp_path / "samples.npz")["images"].tolist() == [1, 1]
    assert not (tmp_path / "samples.json").exists()


def _full_disk(path, content):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
