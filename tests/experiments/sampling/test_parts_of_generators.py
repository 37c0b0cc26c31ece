"""The parts that make a run's samples, with functions that a test can read in place of networks."""

import contextlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion import discrete, guidance, samplers, sampling
from diffusion.experiments.sampling import (
    autoencoder_folders,
    class_model_folders,
    class_models,
    editors,
    generate,
    run_denoiser,
    run_samples,
    symbol_samples,
)
from diffusion.models import symbol_memory
from diffusion.models.autoencoders.latent_space import Moments
from diffusion.objectives import Restores
from diffusion.recipe import ConfigError
from diffusion.recipe.recipe import Recipe
from diffusion.training.step import HEADS


def recipe_of(network=None, reads=None, **parts):
    """A recipe with some parts, in whichever of its sections they are read."""
    every = types.SimpleNamespace(**{"null": None, "guides": (), **parts})
    objective = types.SimpleNamespace(reads=reads)
    return types.SimpleNamespace(network=network, objective=objective, examples=every, sampling=every)


# ==== Symbols ====

PROCESS = discrete.absorbing(discrete.linear(), 4)
READS = Restores(PROCESS, discrete.from_logits)


@pytest.mark.parametrize("null, branches", [(None, 1), (7, 2)])
def test_blocks_are_remembered_for_each_branch_of_the_guidance(monkeypatch, null, branches):
    """Three samples of six symbols: the memory has rows for the labels, then for no label."""
    calls = {}
    record = lambda name, result: lambda *parts: calls.setdefault(name, parts) is None or result
    monkeypatch.setattr(discrete, "prior", lambda process, keys, shape: jnp.zeros((3, 6), int))
    monkeypatch.setattr(symbol_memory, "empty", record("empty", "empty"))
    monkeypatch.setattr(symbol_memory, "remembered", record("remembered", "memory"))
    monkeypatch.setattr(discrete, "sample_blocks", record("blocks", "samples"))
    network = types.SimpleNamespace(causal=2)
    recipe = recipe_of(network, shape=(6,), null=null, sampler="sampler", plan="plan")
    recipe.scale = 3.0
    recipe.examples.null_condition = lambda number: np.full(number, null)
    labels = np.array([1, 2, 3])
    make = symbol_samples.sampled(recipe, READS)
    assert make("params", {}, labels if null else None, ("first", "rest")) == "samples"
    assert calls["empty"] == (network, 3 * branches, 6)
    sampler, _, remember, process, x, plan, keys, memory, block = calls["blocks"]
    assert (sampler, process, plan, keys, memory, block) == ("sampler", PROCESS, "plan", "rest", "empty", 2)
    assert x.shape == (3, 6) and remember(jnp.arange(6).reshape(3, 2), "earlier") == "memory"
    to_network, params, rows, condition, memory = calls["remembered"]
    assert (to_network, params, memory) == (network, "params", "earlier")
    np.testing.assert_array_equal(rows, np.concatenate([np.arange(6).reshape(3, 2)] * branches))
    assert condition is None if null is None else condition.tolist() == [1, 2, 3, 7, 7, 7]


def test_a_scale_of_one_has_no_second_branch():
    recipe = recipe_of()
    recipe.examples.null_condition = lambda number: "null"
    labels = np.array([1, 2])
    assert symbol_samples._conditions(recipe, labels) == (None,)
    recipe.examples.null = 7
    for scale, branches in ((1, 1), (1.0, 1), (2.0, 2), (0.5, 2)):
        recipe.scale = scale
        conditions = symbol_samples._conditions(recipe, labels)
        assert conditions[0] is labels and conditions[1:] == ("null",) * (branches - 1)


def test_guides_of_symbols_follow_each_other(monkeypatch):
    monkeypatch.setattr(discrete, "predictor", lambda network, process, reading, condition: "plain")
    guide = lambda name: types.SimpleNamespace(
        apply=lambda predict, weights, labels, y: (name, predict, weights, labels, y)
    )
    recipe = recipe_of(guides=(guide("first"), guide("second")))
    found = symbol_samples.predictor(recipe, READS)({}, "labels", "weights")
    inner = ("first", "plain", "weights", "labels", None)
    assert found == ("second", inner, "weights", "labels", None)


def test_symbols_are_characters_or_numbers_and_masks_are_underscores():
    x = np.array([[[0, 2], [1, 1]], [[2, 3], [-1, 0]]])
    assert symbol_samples.texts(x, ("a", "b", "c")) == ["acbb", "c__a"]
    assert symbol_samples.texts(x, ()) == ["0 2 1 1", "2 3 -1 0"]


# ==== Edits ====


def test_an_edit_needs_three_times_from_its_turning_point():
    """So that there are two steps, one of which does not end at the picture."""
    grid = np.array([1.0, 0.75, 0.5, 0.25, 0.0])
    np.testing.assert_array_equal(editors._until(grid, 0.5), [0.5, 0.25, 0.0])
    np.testing.assert_array_equal(editors._until(grid, 1.0), grid)
    for t_0, count in ((0.49, 2), (0.1, 1)):
        with pytest.raises(ValueError, match=rf"t_0 = {t_0} leaves only {count} times of the grid\. Valid: at least"):
            editors._until(grid, t_0)
    with pytest.raises(ValueError, match=r"t_0 = 1\.1 lies above the grid's first time, 1\.0"):
        editors._until(grid, 1.1)


def test_sdedit_goes_back_with_the_denoiser_of_the_edit(monkeypatch):
    monkeypatch.setattr(editors.editing, "sdedit", lambda *arguments: arguments)
    task = editors.Task("there", "back", "beside", "schedule", "sampler", "x", "grid", "keys")
    assert editors.sdedit(t_0=0.25)(task) == ("sampler", "back", "schedule", "x", "grid", 0.25, "keys")


# ==== Conditions, batches and noise ====


@pytest.mark.parametrize("streamed", [False, True])
def test_the_conditions_of_records_are_those_of_the_datas_first(monkeypatch, streamed):
    """Five samples of a source of three records repeat them in turn."""

    class Endless(generate.Stream):
        def __init__(self):
            self.taken = []

        def take(self, number):
            self.taken.append(number)
            return [{"condition": {"label": k}} for k in range(number)]

    fetched = []
    source = Endless() if streamed else ("a", "b", "c")
    monkeypatch.setattr(generate.data, "open_recipe", lambda recipe: source)
    monkeypatch.setattr(
        generate.pipeline, "fetch", lambda source, rows: fetched.append(rows.tolist()) or [{"row": k} for k in rows]
    )
    monkeypatch.setattr(generate.pipeline, "stacked_conditions", lambda records: {"condition": len(records)})
    monkeypatch.setattr(generate, "conditioned", lambda condition: {"of": condition})
    recipe = types.SimpleNamespace(examples=types.SimpleNamespace(by_class=False, by_record=True), receives_text=False)
    found = generate.conditions_of(recipe, 5)
    assert found == {"of": 5} and isinstance(found["of"], np.ndarray)
    assert (source.taken if streamed else fetched) == ([5] if streamed else [[0, 1, 2, 0, 1]])


@pytest.mark.parametrize("by_record, classes, expected", [(False, 3, [4, 5]), (True, 3, [4, 5]), (True, 0, [0, 0])])
def test_the_class_of_a_record_is_in_its_condition(by_record, classes, expected):
    recipe = types.SimpleNamespace(examples=types.SimpleNamespace(by_record=by_record, num_classes=classes))
    labels = np.array([4, 5])
    found = generate.classes_of(recipe, {"label": labels} if by_record else labels)
    np.testing.assert_array_equal(found, expected)
    assert found is labels or found.dtype == np.int32


def test_classes_take_turns_and_seeds_are_a_million_apart():
    for classes, expected in ((0, [0, 0, 0, 0]), (1, [0, 0, 0, 0]), (3, [0, 1, 2, 0])):
        labels = generate.balanced_labels(4, classes)
        np.testing.assert_array_equal(labels, expected)
        assert labels.dtype == np.int32
    np.testing.assert_array_equal(generate.seeds({"sample": {"seed": 2}}, 3), [2_000_000, 2_000_001, 2_000_002])
    assert generate.seeds({"sample": {"seed": 4_294}}, 1).dtype == np.uint32


def test_a_batch_has_the_same_number_of_samples_on_each_device(monkeypatch):
    """Ten samples at once on four devices are twelve, of which this process holds some."""
    sent = []
    config = {"sample": {"batch_size": 10, "number": 100}}
    size, batch = generate._batches_on(config, None)
    assert size == 10 and batch("rows") == "rows"
    assert generate._batches_on({"sample": {"batch_size": 10, "number": 3}}, None)[0] == 3
    monkeypatch.setattr(generate.sharding, "batch_shards", lambda mesh: 4)
    monkeypatch.setattr(generate.sharding, "positions", lambda size, mesh: np.array([0, size - 1]))
    monkeypatch.setattr(generate.sharding, "to_devices", lambda rows, mesh, size: sent.append((mesh, size)) or rows)
    size, batch = generate._batches_on(config, "mesh")
    np.testing.assert_array_equal(batch((np.arange(12),))[0], [0, 11])
    assert size == 12 and sent == [("mesh", 12)]


def test_samples_of_symbols_are_made_in_batches_and_those_of_a_lost_network_are_counted(monkeypatch):
    """Five samples in batches of two, of which two have a symbol of -1."""
    made = lambda params, weights, labels, keys: labels[:, None] - params + jnp.zeros((1, 3), int)
    monkeypatch.setattr(symbol_samples, "sampled", lambda recipe, reads: made)
    monkeypatch.setattr(symbol_samples, "evaluations", lambda recipe: 7)
    monkeypatch.setattr(generate.guides, "weights", lambda guides: {})
    recipe = recipe_of()
    recipe.config = {"sample": {"batch_size": 2, "number": 5}}
    generator = generate._generator_of_symbols(recipe, None, None)
    done = []
    labels, seeds = np.array([1, 2, 3, 4, 5]), np.arange(5, dtype=np.uint32)
    x = generator.images(2, labels, seeds, done.append)
    np.testing.assert_array_equal(x, np.repeat(labels[:, None] - 2, 3, axis=1))
    assert generator.nfe == 7 and generator.trajectory is None and done == [2, 4, 5]
    np.testing.assert_array_equal(generator.work(), [0, 0, 1])
    generator.images(3, labels, seeds)
    np.testing.assert_array_equal(generator.work(), [0, 0, 3])


@pytest.mark.parametrize("real, moves, guided", [(None, False, False), ("real", False, True), (None, True, False)])
def test_a_driver_receives_the_noise_of_the_seeds_and_the_samplers_that_fit(monkeypatch, real, moves, guided):
    prior = types.SimpleNamespace(sample=lambda keys: ("prior", keys))
    reads = generate.Moves(None, prior, None) if moves else None
    recipe = recipe_of(shape=(2,), reads=reads, sampler="sampler", plan="plan", guides=("a guide",) if guided else ())
    recipe.schedule = "schedule"
    monkeypatch.setattr(generate, "keys", lambda seeds: ("first", "rest"))
    monkeypatch.setattr(samplers, "prior", lambda schedule, keys, shape: (schedule, keys, shape))
    monkeypatch.setattr(samplers, "padded", lambda sampler, real: (sampler, real))
    monkeypatch.setattr(sampling, "marked", lambda mark, carrier, x, keys, schedule: (x, mark, carrier, keys))
    monkeypatch.setattr(run_denoiser, "real_of", lambda recipe, labels: real)
    network = lambda *arguments: arguments
    driven = generate._sampled(
        recipe, network, "mark", lambda **named: named, "params", "weights", "labels", "y", "seeds"
    )
    x = ("prior", "first") if moves else ("schedule", "first", (2,))
    read = (run_denoiser.GuidesRead("weights", "y"),) if guided else ()
    assert driven == {
        "sampler": ("sampler", "real") if real else "sampler", "denoise": ("params", "labels", *read),
        "schedule": "schedule", "x": (x, "mark", "noise", "first"), "plan": "plan", "keys": "rest",
    }  # fmt: skip


def test_samples_are_decoded_by_the_autoencoder_that_trained_with_the_model(monkeypatch):
    trained = types.SimpleNamespace(decode=lambda params, x: ("trained", params, x))
    recipe = types.SimpleNamespace(companions=types.SimpleNamespace(autoencoder=trained), config="config")
    decoder, decode = generate._decoding(recipe)
    assert decoder == () and decode("params", decoder, "x") == ("trained", "params", "x")
    frozen = lambda config: ("frozen", lambda params, x: (config, params, x))
    monkeypatch.setattr(autoencoder_folders, "decoding", frozen)
    recipe.companions.autoencoder = None
    decoder, decode = generate._decoding(recipe)
    assert decode("params", decoder, "x") == ("config", "frozen", "x")


def test_a_plan_is_chosen_from_32_trajectories(monkeypatch):
    """As docs/samplers.md says; with the seeds 0 .. 31."""
    numbers = []
    seeds = lambda seeds: numbers.append(seeds.tolist()) or (np.arange(3), None)
    monkeypatch.setattr(generate, "conditions_of", lambda recipe, number: numbers.append(number) or np.zeros(2))
    monkeypatch.setattr(generate, "keys", seeds)
    monkeypatch.setattr(samplers, "prior", lambda *_: "x")

    class Enough(Exception):
        pass

    def denoiser(recipe):
        raise Enough

    monkeypatch.setattr(run_denoiser, "denoiser", denoiser)
    recipe = recipe_of(chosen_plan=(None, None), cache=None, shape=(2,))
    recipe.schedule = types.SimpleNamespace(trained=None)
    recipe.with_parts = lambda cache: recipe
    with pytest.raises(Enough):
        generate.trained(recipe, {})
    assert numbers == [32, list(range(32))]


# ==== The denoiser of a run ====


def branches(recipe, monkeypatch):
    monkeypatch.setattr(run_denoiser, "real_of", lambda recipe, condition: None)
    network = lambda x, t, condition: condition * jnp.ones_like(x)
    for name in ("together", "separately"):
        monkeypatch.setattr(guidance, name, lambda *parts, name=name: (name, *parts))
    monkeypatch.setattr(run_denoiser.parameterizations, "denoiser", lambda *parts: ("denoiser", *parts))
    return run_denoiser._branches(recipe, {HEADS: {"early": "head"}}, network, "schedule", "velocity", (np.ones(2),))


def test_a_guidance_chooses_the_conditions_of_its_branches(monkeypatch):
    recipe = recipe_of("network", null=7, depths=(), conditions=None)
    recipe.examples.null_condition = lambda number: ("null", number)
    name, _, schedule, velocity, both = branches(recipe, monkeypatch)
    assert (name, schedule, velocity, both[1]) == ("together", "schedule", "velocity", ("null", 2))
    recipe.sampling.conditions = lambda network, condition, null: (network, null, condition)
    assert branches(recipe, monkeypatch)[4][:2] == ("network", ("null", 2))
    recipe.sampling.conditions = lambda network, condition, null: (null,)
    name, (inner, _, *rest) = branches(recipe, monkeypatch)
    assert (name, inner, *rest) == ("separately", "denoiser", "schedule", "velocity", ("null", 2))


def test_depths_are_guided_by_the_early_head_of_the_run(monkeypatch):
    recipe = recipe_of(null=7, depths=(3,))
    heads = {"early": types.SimpleNamespace(apply=lambda params, h, shape: (params, h, shape))}
    recipe.objective = types.SimpleNamespace(blocks=types.SimpleNamespace(early=("early", 5)), heads=heads)
    monkeypatch.setattr(run_denoiser.projectors, "untokens", lambda tokens, shape: (tokens, shape))
    monkeypatch.setattr(guidance, "depth_branches", lambda *parts: parts)
    _, schedule, velocity, condition, layer, early = branches(recipe, monkeypatch)
    assert (schedule, velocity, condition.tolist(), layer) == ("schedule", "velocity", [1, 1], 5)
    assert early("h", "shape") == (("head", "h", "shape"), "shape")


# ==== Autoencoders ====


class Halves:
    """An autoencoder of every second pixel, whose log variance is a channel's number."""

    picture_channels, scale, shift = 3, 2.0, 0.5

    def __init__(self, moments=True):
        self.moments = moments

    def apply(self, variables, x, method):
        if method == "decode":
            return x + variables["params"]["bias"]
        z = x[:, ::2, ::2]
        return Moments(z, jnp.broadcast_to(jnp.arange(3.0), z.shape)) if self.moments else z


@pytest.mark.parametrize("moments", [True, False])
def test_pictures_are_encoded_as_their_mean_and_log_variance(moments):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 1), np.uint8)
    autoencoder = autoencoder_folders.Autoencoder("a/path", Halves(moments), {}, {})
    encoded = autoencoder_folders.encoder(autoencoder)(images)
    assert encoded.shape == (2, 1 + moments, 2, 3, 3) and encoded.dtype == np.float32
    expected = np.repeat(images[:, ::2, ::2] / 127.5 - 1, 3, axis=-1)
    np.testing.assert_allclose(encoded[:, 0], expected, atol=1e-6)
    if moments:
        np.testing.assert_array_equal(encoded[:, 1], np.broadcast_to(np.arange(3), (2, 2, 3, 3)))


def test_pictures_that_do_not_fit_into_memory_are_refused_by_their_size(monkeypatch):
    autoencoder = autoencoder_folders.Autoencoder("a/path", Halves(), {}, {})
    asked = []

    def check(what, bytes_, instead):
        asked.append((what, instead))
        raise autoencoder_folders.limits.Refused("too large")

    monkeypatch.setattr(autoencoder_folders.peak_memory, "check", check)
    with pytest.raises(autoencoder_folders.ConfigError, match="too large"):
        autoencoder_folders.encoder(autoencoder)(np.zeros((2, 4, 6, 3), np.uint8))
    assert asked == [("a/path: to encode 2 pictures of 4 x 6", "choose smaller ones")]


def test_latents_are_decoded_at_the_scale_of_the_autoencoder(monkeypatch):
    """x / 2 + 1 / 2."""
    autoencoder = autoencoder_folders.Autoencoder("", Halves(), {"bias": 10.0}, {})
    monkeypatch.setattr(autoencoder_folders, "load_for_run", lambda config: autoencoder if config else None)
    params, decode = autoencoder_folders.decoding({"latents": True})
    np.testing.assert_allclose(decode(params, np.float32([3, -1])), [12, 10])
    params, decode = autoencoder_folders.decoding({})
    assert params == () and decode(params, "x") == "x"


def test_pictures_that_devices_divide_are_split_over_them(monkeypatch):
    devices = jax.devices()[:1] * 2
    put = []
    monkeypatch.setattr(autoencoder_folders.jax, "local_devices", lambda: devices)
    monkeypatch.setattr(autoencoder_folders, "Mesh", lambda devices, names: (len(devices), names))
    monkeypatch.setattr(autoencoder_folders, "NamedSharding", lambda mesh, spec: (mesh, tuple(spec)))
    monkeypatch.setattr(autoencoder_folders.jax, "device_put", lambda what, where: put.append(where) or what)
    images = np.zeros((4, 2, 2, 3), np.uint8)
    assert autoencoder_folders.placed("params", images) == ("params", images)
    assert put == [((2, ("data",)), ()), ((2, ("data",)), ("data",))]


# ==== Files ====


def test_samples_of_several_parts_and_their_conditions_are_written_by_their_names(monkeypatch, tmp_path):
    monkeypatch.setattr(run_samples.sample_pictures, "draw", lambda samples: [tmp_path / "drawn.png"])
    structure = {"a": jax.ShapeDtypeStruct((2,), np.float32), "b": jax.ShapeDtypeStruct((1,), np.float32)}
    monkeypatch.setattr(
        run_samples.pytrees, "unpack", lambda images, to: {"a": images[:, :2], "b": images[:, 2:]} if to else None
    )
    recipe = recipe_of(structure=structure, by_record=True, num_classes=5)
    images = np.arange(6, dtype=np.float32).reshape(2, 3)
    labels = {"label": np.array([3, 4]), "size": np.array([0.5, 0.25])}
    made = types.SimpleNamespace(trajectory=None)
    seeds = np.array([8, 9], np.uint32)
    paths = run_samples._write(tmp_path, recipe, made, None, images, labels, False, seeds, {"a": 1}, ())
    assert paths == [tmp_path / "samples.npz", tmp_path / "drawn.png"]
    stored = np.load(tmp_path / "samples.npz")
    by_end = {name.split("/")[-1]: stored[name] for name in stored.files}
    assert len(stored.files) == 6 and "images" not in stored.files
    np.testing.assert_array_equal(by_end["a"], images[:, :2])
    np.testing.assert_array_equal(by_end["b"], images[:, 2:])
    np.testing.assert_array_equal(stored["labels"], [3, 4])
    np.testing.assert_array_equal(by_end["size"], [0.5, 0.25])


def test_an_earlier_trajectory_is_removed_where_the_driver_shows_no_steps(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run_samples.sample_pictures, "draw", lambda samples: None)
    monkeypatch.setattr(run_samples.plots, "sample_grid", lambda *_, **how: None)
    recipe = recipe_of(structure=None, by_record=False)
    driver = types.SimpleNamespace(name="particles")
    recipe.config = types.SimpleNamespace(sample=types.SimpleNamespace(driver=driver))
    made = types.SimpleNamespace(trajectory=None)
    (tmp_path / "trajectory.png").write_text("earlier")
    for _ in range(2):
        paths = run_samples._write(
            tmp_path, recipe, made, None, np.zeros((1, 2)), np.zeros(1, int), False, np.zeros(1), {}, ()
        )
        assert [path.name for path in paths] == ["samples.npz", "samples.png"]
        assert not (tmp_path / "trajectory.png").exists()
    assert "no trajectory.png: the driver 'particles' does not show its steps" in capsys.readouterr().out


class Network(class_model_folders.DiT):
    """A transformer of a pipeline."""


def test_a_run_is_written_as_the_folder_of_its_pipeline(monkeypatch, tmp_path):
    """With the steps and the scale of its samples, and a copy of the autoencoder that its config names."""
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    latents = {"autoencoder": str(tmp_path / "vae")}
    sample = types.SimpleNamespace(steps=30, guidance={"scale": 4})
    config = types.SimpleNamespace(sample=sample, model=types.SimpleNamespace(name="dit"))
    recipe = types.SimpleNamespace(network=Network.__new__(Network))
    monkeypatch.setattr(class_model_folders.checks, "validate", lambda config: recipe)
    monkeypatch.setattr(class_model_folders.checks, "on_its_data", lambda recipe: recipe)
    monkeypatch.setattr(class_model_folders, "plain", lambda config: {"data": {"latents": latents}})
    scheduler = {"_class_name": "DDIMScheduler", "field": 1}
    monkeypatch.setattr(class_model_folders, "_scheduler", lambda settings, by_dit: ("DiTPipeline" * by_dit, scheduler))
    saved = []
    monkeypatch.setattr(class_model_folders.interchange, "save", lambda *parts: saved.append(parts) or parts[0].mkdir())
    write = lambda name: class_model_folders.write(config, {"params": "params", "other": 1}, tmp_path / name)
    assert write("out") == "DiTPipeline"
    ((path, module, params),) = saved
    assert (path.name, module, params) == ("transformer", recipe.network, "params")
    read = lambda file: json.loads((tmp_path / "out" / file).read_text())
    assert read("scheduler/scheduler_config.json") == scheduler and (tmp_path / "out" / "vae" / "config.json").exists()
    assert read("sampling.json") == {"steps": 30, "guidance": 4.0}
    assert read("model_index.json") == {
        "_class_name": "DiTPipeline", "_diffusers_version": "0.42.1",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"], "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip
    sample.guidance = {}
    write("unguided")
    assert json.loads((tmp_path / "unguided" / "sampling.json").read_text())["guidance"] == 1
    with pytest.raises(FileExistsError, match="holds files already"):
        write("out")
    latents["autoencoder"] = ""
    with pytest.raises(class_model_folders.ConfigError, match="Valid for a DiTPipeline: the folder of the autoencoder"):
        write("other")
    (tmp_path / "empty").mkdir()
    recipe.network = "a network"
    with pytest.raises(class_model_folders.ConfigError, match=r"no pipeline of diffusers\. Valid: dit, unet"):
        write("empty")


def test_a_published_model_is_stored_as_the_last_step_of_a_run(monkeypatch, tmp_path):
    """Its moving average is the model."""
    stored = []

    class Checkpoints:
        def __init__(self, out):
            stored.append(out)

        def save(self, state, description):
            stored.append((state, description))

        def close(self):
            stored.append("closed")

    config = types.SimpleNamespace(train=types.SimpleNamespace(steps=0))
    model = types.SimpleNamespace(config=config, params={"w": np.arange(3.0)}, name="ddpm", sha256="digest")
    monkeypatch.setattr(class_model_folders.class_models, "load", lambda source: model)
    monkeypatch.setattr(class_model_folders.workdir, "lock", lambda out, flag: contextlib.nullcontext())
    monkeypatch.setattr(class_model_folders.workdir, "settle_config", lambda out, config: stored.append(config))
    monkeypatch.setattr(class_model_folders, "config_hash", lambda config: "hash")
    monkeypatch.setattr(class_model_folders, "Checkpoints", Checkpoints)
    class_model_folders.as_run("source", tmp_path / "run")
    to_config, folder, (state, description), closed = stored
    assert to_config is config and folder == tmp_path / "run" and closed == "closed"
    assert config.train.steps == int(state.step) == class_model_folders.STEP
    np.testing.assert_array_equal(state.params["w"], np.arange(3.0))
    np.testing.assert_array_equal(state.ema["w"], np.arange(3.0))
    assert int(state.failed_at) == -1  # it is healthy
    assert description == {"published": {"model": "ddpm", "sha256": "digest"}, "config_hash": "hash"}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds a run already"):
        class_model_folders.as_run("source", tmp_path / "old")


def test_a_table_of_betas_is_written_with_its_number():
    settings = {
        "sample": {"sampler": {"name": "ddim"}, "grid": {"name": "uniform"}},
        "parameterization": {"name": "epsilon", "clock": {"name": "steps", "T": 3}},
        "schedule": {"name": "from_betas", "betas": (0.1, 0.2, 0.3)},
    }
    pipeline, scheduler = class_model_folders._scheduler(settings, True)
    assert (pipeline, scheduler["trained_betas"]) == ("DiTPipeline", [0.1, 0.2, 0.3])
    assert (scheduler["num_train_timesteps"], scheduler["timestep_spacing"]) == (3, "leading")


@pytest.mark.parametrize("shipped", [True, False])
def test_the_config_of_a_published_model_needs_no_weights(monkeypatch, tmp_path, shipped):
    kind = types.SimpleNamespace(part="unet")
    monkeypatch.setattr(class_models.class_folders, "is_shipped", lambda folder: shipped)
    monkeypatch.setattr(class_models.shipped_models, "read_config", lambda folder: ("shipped", folder))
    monkeypatch.setattr(class_models, "kind_of", lambda folder: kind)
    monkeypatch.setattr(class_models.folders, "find", lambda folder: types.SimpleNamespace(module=folder.name))
    monkeypatch.setattr(class_models, "_config", lambda folder, module: ("published", folder, module))
    found = class_models.config_of(tmp_path)
    assert found == (("shipped", tmp_path) if shipped else ("published", tmp_path, "unet"))
    (tmp_path / "model_index.json").write_text('{"id2label": {"0": "cat, puss"}}')
    assert class_models.classes_of(tmp_path) == ({} if shipped else {"cat": 0, "puss": 0})


@pytest.mark.extended
def test_a_cache_is_refused_in_a_sentence_for_a_guide_that_differentiates_the_network(tmp_path):
    np.savez(tmp_path / "pictures.npz", images=np.zeros((2, 8, 8, 1), np.uint8))
    config = digits.get_config("tiny")
    operator = {"name": "pooled", "factor": 2}
    config.sample.measurement.update({"operator": operator, "pictures": str(tmp_path / "pictures.npz")})
    config.sample.guides = ({"name": "posterior_sampling"},)
    config.sample.cache = {"name": "first_block", "threshold": 0.1}
    config.sample.update({"steps": 2, "number": 2})
    recipe = Recipe.from_config(config, (8, 8, 1))
    inputs = np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int32)
    shapes = jax.eval_shape(recipe.network.init, jax.random.key(0), *inputs)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    words = r"config\.sample\.cache = {'name': 'first_block', .*config\.sample\.guides = .*inside a derivative"
    with pytest.raises(ConfigError, match=words):
        generate.generator(recipe).images(params, np.zeros(2, np.int32), np.arange(2, dtype=np.uint32))
