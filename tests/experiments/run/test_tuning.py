"""Runs that teach a text-to-image model something, from their configs: what trains, what stays, what is written."""

import dataclasses
import itertools
import json
import pathlib
import re
import shutil
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from diffusion import text_to_image
from diffusion.adapters import lora_files
from diffusion.adapters.tuning import Tuning
from diffusion.data import sources
from diffusion.experiments import train
from diffusion.experiments.run import prior_pictures, program, tuned_base, tuned_examples, tuned_files
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import tuned_run
from diffusion.io import limits
from diffusion.recipe import ConfigError, checks, class_folders, fields, names, recipes
from diffusion.recipe.base import TunedNetwork
from diffusion.recipe.parts import Resolver
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from tests.experiments.run.made_tuning import config as config_of, pictures
from tests.shared_programs import traced_once

LORA = {"name": "lora", "rank": 2, "alpha": 4.0}
SLIDER = {
    "name": "concept_slider",
    "target": "a cat",
    "positive": "a dog",
    "negative": "a cat",
    "density": {"name": "uniform_density"},
}
CLASS = {"name": "prior_preservation", "prompt": "a cat", "number": 2}
ADAPTIVE = {"name": "denoising", "weighting": {"name": "constant"}, "density": {"name": "loss_second_moment"}}


def encoded(config, folder):
    """(recipe, examples) of a run."""
    recipe = checks.validate(config)
    found = tuned_examples.pictures(recipe)
    return tuned_examples.encoded(checks.with_data(recipe, found.spec), folder, found)


def begun(config, folder):
    """(recipe, program, state, a batch on the devices) of a run at its first step."""
    recipe, found = encoded(config, folder)
    mesh = program.mesh_of(config)
    made = program.build(recipe, mesh)
    batch = next(found.batches(config, 0, sharding.positions(config.train.batch_size, mesh), 0))
    del batch["label"]
    return recipe, made, tuned_base.first(made)[0], sharding.to_devices(batch, mesh, config.train.batch_size)


@pytest.fixture(scope="module", autouse=True)
def programs_once():
    """Runs with equal configs share their program."""
    with traced_once():
        yield


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """The config of a run."""
    return config_of(tmp_path_factory.mktemp("tuning"), LORA)


@pytest.fixture(scope="module")
def trained(configured):
    """(config, the folder of a finished run)."""
    run = pathlib.Path(configured.base.path).parent / "run"
    assert train.run(configured, run) == 0
    return configured, run


@pytest.mark.extended
def test_a_lora_trains_alone_and_leaves_the_base_as_it_is(trained):
    """Step 0 is the base's output to the bit; the update changes the new weights and no bit of the base."""
    recipe, made, state, batch = begun(*trained)
    model = text_to_image.load(recipe.companions.tuned.base.path)
    kept = jax.tree.map(np.array, state.unsaved["base"])
    same(kept["transformer"], model.params["transformer"])
    captions = batch["condition"]
    number = len(captions["captioned"])
    condition = {name: captions[name] for name in ("text", "text_mask")}
    x = jax.random.normal(jax.random.key(0), batch["x"].shape)
    clock = jnp.full(number, 500.0)
    plain = jax.jit(lambda params, condition: model.denoiser.apply({"params": params}, x, clock, condition))
    apply = jax.jit(lambda base, weights, captions: recipe.network.apply(base, weights, x, clock, captions))
    tuned = lambda base, weights: apply(base, weights, captions)
    before = tuned(state.unsaved["base"], state.params)
    expected = lambda condition: plain(model.params["transformer"], condition)[..., : x.shape[-1]]
    np.testing.assert_array_equal(before, expected(condition))
    _, empty = text_to_image.conditions(model, ["a"], None, 1.0, 16, 16)
    empty = {name: jnp.repeat(leaf, number, axis=0) for name, leaf in empty.items()}
    dropped = apply(state.unsaved["base"], state.params, jax.tree.map(jnp.zeros_like, captions))
    np.testing.assert_allclose(dropped, expected(empty), rtol=0, atol=1e-5)  # a dropped caption is the empty one
    first = jax.tree.map(np.array, state.params)
    state, metrics = made.step(state, batch, made.seed)
    assert float(metrics["grad_norm"]) > 0
    same(state.unsaved["base"], kept)
    up = lambda weights: [leaf for path, leaf in jax.tree.leaves_with_path(weights) if "up" in str(path[-1])]
    assert all(np.abs(leaf).max() > 0 for leaf in up(state.params)) and not any(leaf.any() for leaf in up(first))
    assert np.abs(tuned(state.unsaved["base"], state.params) - before).max() > 1e-4


@pytest.mark.extended
def test_a_base_whose_prompts_hold_the_edited_pictures_is_refused(tmp_path):
    """No tuning has them; without them its texts can be encoded all the same."""
    with pytest.raises(ConfigError, match=r"config\.tuning\.name = 'lora', but .* was trained to edit pictures"):
        checks.validate(config_of(tmp_path, LORA, "qwen_image_edit"))
    model = text_to_image.described(tmp_path / "qwen_image_edit")
    tokens = model.tokens(["a cat"])
    assert jax.eval_shape(model.encoded, model.params, tokens)["text"].shape == (1, 512, model.denoiser.text_width)


@pytest.mark.slow
def test_a_run_keeps_a_base_of_bfloat16_in_its_type_and_trains_as_beside_its_cast(tmp_path):
    weights, kept = {}, {}
    for kind in (ml_dtypes.bfloat16, np.float32):
        (tmp_path / np.dtype(kind).name).mkdir()
        config = config_of(tmp_path / np.dtype(kind).name, LORA)
        for file in pathlib.Path(config.base.path).glob("transformer/*.safetensors"):
            narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in load_file(file).items()}
            save_file({name: array.astype(kind) for name, array in narrow.items()}, file)
        run = tmp_path / np.dtype(kind).name / "run"
        assert train.run(config, run) == 0
        _, made, first, _ = begun(config, run)
        kept[kind] = {str(leaf.dtype) for leaf in jax.tree.leaves(first.unsaved["base"]["transformer"])}
        state, about = checkpoints.restore(run, 2, made.target)
        assert tuned_base.restored(made, state, about["base"])[1] == about["base"]
        weights[kind] = state.params
    assert kept == {ml_dtypes.bfloat16: {"bfloat16", "float32"}, np.float32: {"float32"}}
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    jax.tree.map(near, weights[ml_dtypes.bfloat16], weights[np.float32])


@pytest.mark.extended
def test_a_run_goes_on_bit_for_bit_and_refuses_another_base(trained, tmp_path):
    config, run = trained
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "2")
    base = tmp_path / "base"
    shutil.copytree(config.base.path, base)
    _, made, *_ = begun(config, again)
    made = made._replace(tuned=TunedNetwork(dataclasses.replace(made.tuned.base, path=str(base)), made.tuned.tuning))
    state, about = checkpoints.restore(again, 1, made.target)
    moved = tuned_base.restored(made, state, about["base"])[1]
    assert moved == {**about["base"], "path": str(base)} != about["base"]  # goes on from where the base lies now
    copied = TunedNetwork(made.tuned.base, dataclasses.replace(made.tuned.tuning, copies=("vae",)))
    read_once = made._replace(tuned=copied)
    with pytest.raises(ConfigError, match=r"another model.*: vae/.* differs"):
        tuned_base.restored(read_once, state, about["base"])
    (file,) = (base / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    tensors["proj_out.bias"] = tensors["proj_out.bias"] + np.float32(1)
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=r"config\.base\.path = .*/base' holds another model.*: transformer/.*bias"):
        tuned_base.restored(made, state, about["base"])
    model = text_to_image.load(base)
    with pytest.raises(workdir.WorkdirError, match=r"/base holds another model than .*: transformer/.*bias differs"):
        tuned_run.require_same_base(model, str(base), again, 1)
    for dtype in ("float32", "bfloat16"):
        tuned_run.require_same_base(text_to_image.load(config.base.path, dtype=dtype), "A", again, 1)
    assert train.run(config, again) == 0
    written = again / "tuning" / "pytorch_lora_weights.safetensors"
    before = load_file(written)
    written.write_bytes(b"the weights of step 1")
    (again / "tuning.step").write_text("1")
    assert train.run(config, again) == 0  # a finished run with the files of an earlier end
    same(load_file(written), before)
    same(checkpoints.load_params(again)[0], checkpoints.load_params(run)[0])
    read = lambda folder: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert read(again) == read(run)


@pytest.mark.extended
def test_the_file_of_a_run_is_what_it_trained_and_says_of_what(trained):
    config, run = trained
    path = run / "tuning" / "pytorch_lora_weights.safetensors"
    card = (run / "tuning" / "README.md").read_text()
    assert "base_model: " in card and '"name": "lora"' in card
    with safetensors.safe_open(path, "np") as file:
        about = file.metadata()
    assert about["base_model"] == "pixart (PixArtSigmaPipeline)" and len(about["config_sha256"]) == 64
    assert about["trigger_words"] == config.data.text.prompt and len(about["base_sha256"]) == 64
    by_run, step, _ = tuned_run.load(run)
    by_file = text_to_image.load(config.base.path, loras={path: 1.0})
    assert step == 2
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    jax.tree.map(close, by_run.params, by_file.params)
    names = lora_files.load(path, by_file.modules)["transformer"].scale
    assert set(names.values()) == {2.0} and any("qkv" in name or "query" in name for name in names)


@pytest.mark.extended
def test_a_folder_that_is_there_is_not_replaced(trained, tmp_path):
    config, run = trained
    (tmp_path / "kept").write_text("a picture")
    average = checkpoints.load_ema(run)
    with pytest.raises(FileExistsError, match="exists already"):
        tuned_files.write(config, run, *average, tmp_path)
    assert (tmp_path / "kept").read_text() == "a picture"
    (own,) = tuned_files.write(config, run, *average, run / "tuning")
    (new,) = tuned_files.write(config, run, *average, tmp_path / "new")
    same(load_file(new), load_file(own))


def test_a_picture_of_another_size_is_not_to_be_left_out(tmp_path):
    """A tuned run encodes all of its pictures, and refuses config.data.damaged=skip."""
    made = config_of(tmp_path, LORA)
    pictures(tmp_path / "wide", number=1, side=24)
    (tmp_path / "wide" / "0.png").rename(tmp_path / "pictures" / "5.png")
    recipe = checks.validate(made)
    found = tuned_examples.pictures(recipe)
    with pytest.raises(sources.DamagedRecord, match=r"5\.png.*set side = N to make squares of all\. .*\.$") as error:
        tuned_examples.encoded(recipe, tmp_path / "run", found)
    assert "skip" not in str(error.value)


def test_paths_of_a_tuning_are_whole(configured, monkeypatch):
    config = configured.copy_and_resolve_references()
    base = pathlib.Path(config.base.path)
    monkeypatch.chdir(base.parent)
    config.base.path = base.name
    assert checks.validate(config).companions.tuned.base.path == str(base)
    config.tuning = {"name": "ip_adapter", "encoder": "clip"}
    assert fields.absolute(config).tuning.encoder == str(base.parent / "clip")


def test_a_model_that_ships_with_the_package_is_a_base_by_its_name(configured, monkeypatch, tmp_path):
    """The config holds the name, so that it means the same on another machine."""
    config = configured.copy_and_resolve_references()
    config.base.path = "drawings"
    config.data.source.path = str(pathlib.Path(config.data.source.path).absolute())
    monkeypatch.chdir(tmp_path)
    stored = fields.absolute(config)
    assert stored.base.path == "drawings"
    assert Resolver(stored).base.path == str(class_folders.WEIGHTS / "drawings")
    shutil.copytree(configured.base.path, tmp_path / "drawings")
    assert fields.absolute(config).base.path == str(tmp_path / "drawings")  # a folder of one's own comes first


@pytest.mark.parametrize("side, named", [(32, True), (64, False)])
def test_pictures_of_another_size_than_the_bases_are_named(configured, side, named):
    config = configured.copy_and_resolve_references()
    config.base.path, config.data.source.side = "drawings", side
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checks.validate(config)
    said = [
        re.search(r"config\.data\.source\.side = 32, but .*drawings .* 64 x 64", str(one.message)) for one in caught
    ]
    assert any(said) == named


@pytest.mark.extended
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tuning": {"name": ""}}, "config.tuning.name = '', but config.base names a model"),
        ({"tuning": {"name": "lora", "targets": "nothing"}}, r"config\.tuning: the pattern 'nothing' matches none of"),
        ({"tuning": {"name": "lora", "rank": 0}}, r"config\.tuning: rank = 0\. Valid: at least 1"),
        ({"base.path": ""}, "config.tuning.name = 'lora', but config.base.path = '' names no model"),
        ({"base.path": "/nowhere"}, r"config\.base\.path = '/nowhere': .*does not exist"),
        ({"model.width": 7}, "config.model = .*, but it comes from the folder of config.base"),
        ({"data.augment": ({"name": "crop"},)}, "config.data.augment = .* the latents of the pictures are cached"),
        ({"data.text.dir": "captions"}, "config.data.text.dir = 'captions', but the model's text encoders encode"),
        (
            {"objective": SLIDER | {"wrappers": (CLASS,)}},
            r"config\.objective\.wrappers = .*'a cat'.*, but config\.objective uses only its own prompts",
        ),
        ({"objective": ADAPTIVE | {"wrappers": (CLASS,)}}, r"config\.objective\.density = .*, but it adapts"),
        ({"evaluate.every": 1}, "config.evaluate.every = 1, but a run that tunes a model"),
    ],
)
def test_what_does_not_fit_a_tuning_is_refused(trained, changes, message):
    config = trained[0].copy_and_resolve_references()
    for field, value in changes.items():
        if isinstance(value, dict):
            config[field] = value
        else:
            config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        checks.validate(config)


@pytest.mark.extended
def test_pictures_that_cannot_be_encoded_together_are_refused(trained, tmp_path):
    """Of two sizes, of a side that the model does not take, and without captions."""
    config = trained[0].copy_and_resolve_references()
    pictures(tmp_path / "two", 2)
    pictures(tmp_path / "more", 1, 20)
    (tmp_path / "more" / "0.png").rename(tmp_path / "two" / "9.png")
    config.data.source = {"name": "picture_folder", "path": str(tmp_path / "two")}
    with pytest.raises((ConfigError, ValueError), match=r"\(20, 20, 3\).*side = N"):
        begun(config, tmp_path / "run")
    pictures(tmp_path / "odd", 1, 17)
    config.data.source["path"] = str(tmp_path / "odd")
    with pytest.raises(
        ConfigError, match=r"pictures of 17 x 17, a size that the model .*Valid: sides that are multiples of 4"
    ):
        begun(config, tmp_path / "run")
    config.data.source["path"] = str(tmp_path / "two")
    config.data.text.prompt = ""
    with pytest.raises(ConfigError, match=r"caption = COLUMN\. Or use one caption .* config\.data\.text\.prompt"):
        tuned_examples.pictures(checks.validate(config))


@pytest.mark.extended
def test_pictures_that_the_autoencoder_cannot_encode_in_memory_are_refused_before_it_compiles(tmp_path, monkeypatch):
    """512 x 512 pixels, which the autoencoder halves once: its attention compares 65,536 places."""
    config = config_of(tmp_path, LORA)
    pictures(tmp_path / "large", 1, 512)
    config.data.source["path"] = str(tmp_path / "large")
    monkeypatch.setattr(limits, "memory", lambda: 2**34)
    with pytest.raises(ConfigError, match=r"vae: to encode 1 pictures of 512 x 512 would need about .* GiB"):
        begun(config, tmp_path / "run")


@pytest.mark.extended
def test_a_step_of_a_tuning_that_does_not_fit_is_refused(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "memory", lambda: 2**20)
    with pytest.raises(ConfigError, match=r"a step of 2 examples of .* would need about .*MiB"):
        train.train(checks.validate(trained[0]), tmp_path / "run")


def test_a_dropped_caption_is_zeros_where_that_is_the_unconditional_branch(configured, monkeypatch):
    """Of tunings that run the text encoders themselves; SDXL's sampling has zeros there, not the embedding of ""."""
    model = text_to_image.described(configured.base.path)
    monkeypatch.setattr(
        type(model), "encoded", lambda *arguments: {"text": jnp.ones((2, 3, 4)), "pooled": jnp.ones((2, 4))}
    )
    entries = {"captioned": jnp.array([1.0, 0.0]), "control": jnp.ones(2)}
    for zeros in (True, False):
        found = dataclasses.replace(model, zeros=zeros).with_text({}, entries)
        assert set(found) == {"text", "pooled", "control"}
        assert all(found[name][0].all() and found[name][1].any() != zeros for name in ("text", "pooled"))


def test_files_of_others_lie_on_top_of_a_tuned_denoiser(configured, tmp_path, monkeypatch):
    """As that of a run of the whole denoiser, which would otherwise drop them."""
    workdir.settle_config(tmp_path, configured)
    monkeypatch.setattr(tuned_run.checkpoints, "load_ema", lambda run, step: ((run, step), 2))
    monkeypatch.setattr(tuned_run, "require_same_base", lambda model, folder, run, step: None)
    order = []
    for name in ("with_words", "with_loras", "with_attachments"):
        monkeypatch.setattr(text_to_image, name, lambda model, files, name=name: order.append((name, model)) or model)
    monkeypatch.setattr(text_to_image, "load", lambda path, **how: order.append(("load", how)) or "base")
    attach = Tuning(None, None, None, None, lambda model, weights: order.append((model, weights)) or "tuned", ())
    monkeypatch.setattr(Resolver, "tuned", TunedNetwork(None, attach))
    how = {"dtype": "float32", "loras": {"a": 1.0}, "embeddings": {"b": ""}, "attachments": {"c": "d"}}
    assert tuned_run.load(tmp_path, 1, **how)[1] == 2
    assert order[:2] == [("load", {"dtype": "float32"}), ("base", (tmp_path, 1))]
    assert order[2:] == [(name, "tuned") for name in ("with_words", "with_loras", "with_attachments")]


@pytest.mark.extended
def test_latents_of_other_pictures_are_refused(trained, tmp_path):
    config = trained[0].copy_and_resolve_references()
    config.data.latents.dir = str(trained[1] / "latents")
    shutil.copytree(trained[1] / "captions", tmp_path / "run" / "captions")
    encoded(config, tmp_path / "run")
    folder = pictures(tmp_path / "pictures", 6)
    config.data.source.path = str(folder)
    with pytest.raises(ConfigError, match="latents of other examples: the size of the dataset is 5 there, but 6 here"):
        encoded(config, tmp_path / "run")
    (folder / "0.png").unlink()
    with pytest.raises(ConfigError, match=r"latents of other examples: the version of the dataset is"):
        encoded(config, tmp_path / "run")


@pytest.mark.extended
def test_a_tuning_of_ones_own_is_named_and_trains(tmp_path, monkeypatch):
    """A number by which the base's output is moved, times a column of the data that the run reads beside the text."""

    def affine(base, begin: float = 0.0) -> Tuning:
        def apply(params, weights, x, clock, condition):
            entries = {name: entry for name, entry in condition.items() if name != "amount"}
            output = base.denoiser.apply({"params": params["transformer"]}, x, clock, entries)
            return output + weights["move"] * condition["amount"][:, None, None, None]

        init = lambda key, params: {"move": jnp.full((), begin, jnp.float32)}
        return Tuning(base, init, apply, None, None, ("transformer",), reads=("amount",))

    monkeypatch.setitem(names.TUNINGS, "affine", affine)
    config = config_of(tmp_path, {"name": "affine", "begin": 0.5})
    rows = "".join(f"{i}.png,{i / 4}\n" for i in range(5))
    (tmp_path / "pictures" / "metadata.csv").write_text(f"file_name,amount\n{rows}")
    with pytest.raises(ConfigError, match=r"config\.tuning reads amount from each record.*has no entries"):
        begun(config, tmp_path)
    config.data.source["condition"] = ("amount",)
    _, made, state, batch = begun(config, tmp_path)
    assert set(np.unique(batch["condition"]["amount"])) <= {0, 0.25, 0.5, 0.75, 1}
    assert float(state.params["move"]) == 0.5
    assert set(made.target.unsaved["base"]) == {"transformer", "null"}
    mirrored = config_of(tmp_path, LORA, **{"data.augment": ({"name": "flip"},)})
    mirrored.data.source = config.data.source
    shutil.copytree(tmp_path / "captions", tmp_path / "mirrored" / "captions")
    encoded(mirrored, tmp_path / "mirrored")
    config.data.latents.dir = str(tmp_path / "mirrored" / "latents")
    with pytest.raises(
        ConfigError, match=r"latents\.dir = .* also holds latents of mirrored pictures, but not their mirrored amount"
    ):
        encoded(config, tmp_path)
    config.data.latents.dir = ""
    config.objective = SLIDER
    with pytest.raises(ConfigError, match=r"config\.objective\.name = .*its prompts have no amount"):
        checks.validate(config)


@pytest.mark.slow
def test_prior_preservation_sums_both_losses_and_makes_its_pictures_once(tmp_path):
    dropped = {"name": "condition_dropout", "rate": 0.2}
    config = config_of(tmp_path, LORA, **{"objective.wrappers": (dropped, CLASS | {"weight": 0.5})})
    recipe = checks.validate(config)
    found = tuned_examples.pictures(recipe)
    recipe, found = tuned_examples.encoded(checks.with_data(recipe, found.spec), tmp_path, found)
    prior_pictures.beside(recipe, tmp_path, found)
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "prior").glob("*.png")}
    assert set(made) == {"00000.png", "00001.png"}
    again, _ = prior_pictures.beside(recipe, tmp_path, found)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "prior").glob("*.png")} == made
    batch = next(again.batches(config, 0, np.arange(2), 0))
    alone = next(found.batches(config, 0, np.arange(2), 0))
    assert batch["x"].shape == alone["x"].shape == batch["prior"]["x"].shape
    np.testing.assert_array_equal(batch["condition"]["text"], alone["condition"]["text"])
    assert set(batch["prior"]["condition"]) == {"text", "text_mask", "captioned"}
    del batch["label"]
    mesh = program.mesh_of(config)
    tuned = program.build(recipe, mesh)
    _, metrics = tuned.step(tuned_base.first(tuned)[0], sharding.to_devices(batch, mesh, 2), tuned.seed)
    config.objective.wrappers = (dropped, CLASS | {"weight": 0.0})
    own = program.build(
        checks.with_data(checks.validate(config), found.spec).with_parts(tuned=recipe.companions.tuned), mesh
    )
    _, without = own.step(tuned_base.first(own)[0], sharding.to_devices(batch, mesh, 2), own.seed)
    assert 0 < float(metrics["prior"]) == pytest.approx(float(without["prior"]))
    assert float(metrics["loss"]) == pytest.approx(float(without["loss"]) + 0.5 * float(metrics["prior"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "pipeline, tuning",
    [
        *itertools.product(("sd", "xl", "mmdit", "t5_mmdit", "flux", "alpha"), ("lora", "textual_inversion", "full")),
        ("lcm", "lora"),  # the networks of sd, whose denoiser reads the strength of the guidance
        ("playground", "lora"),  # those of xl under another process
    ],
)
def test_every_pipeline_is_tuned(pipeline, tuning, tmp_path):
    """Each kind of folder trains, writes, and is sampled; what is written is what the run's own sampling takes."""
    entry = {"lora": {**LORA, "text_targets": "self_attn"}, "full": {"name": "full"}}.get(tuning, {"name": tuning})
    prompt = "a photo of <new>" if tuning == "textual_inversion" else "a cat"
    config = config_of(tmp_path, entry, pipeline, **{"data.text.prompt": prompt})
    if pipeline == "alpha" and tuning != "full":
        with pytest.raises(ConfigError, match="a text encoder of CLIP, and this model has none"):
            checks.validate(config)
        return
    assert train.run(config, tmp_path / "run") == 0
    model, *_ = tuned_run.load(tmp_path / "run")
    made = text_to_image.generate(model, prompt, steps=2)
    folder = tmp_path / "run" / "tuning"
    if tuning == "full":
        by_file = text_to_image.load(folder)
    elif tuning == "lora":
        by_file = text_to_image.load(config.base.path, loras={folder / "pytorch_lora_weights.safetensors": 1.0})
    else:
        by_file = text_to_image.load(config.base.path, embeddings={folder / "learned_embeds.safetensors": ""})
    again = text_to_image.generate(by_file, prompt, steps=2)
    assert np.abs(made.astype(int) - again).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["slider", "erase", "dreambooth", "textual_inversion", "custom_diffusion", "lora"])
def test_a_recipe_runs_on_a_tiny_model(recipe, tmp_path):
    config = recipes.load(f"tuning/{recipe}:tiny")
    made = config_of(tmp_path, {}, "sd")
    config.base.path = made.base.path
    config.data.source = {**made.data.source, "side": 16}
    config.data.text.prompt = "a <new>" if recipe in ("textual_inversion", "custom_diffusion") else "a cat"
    if recipe in ("dreambooth", "custom_diffusion"):
        config.objective.wrappers = (CLASS | {"number": 1},)
    assert train.run(config, tmp_path / "run") == 0
    _, step, _ = tuned_run.load(tmp_path / "run")
    assert step == config.train.steps == 4


@pytest.mark.slow
def test_an_objective_of_prompts_compares_with_the_base(tmp_path):
    """With weights like the base's the loss of a slider is that of its direction alone; the base gets no gradient."""
    config = config_of(tmp_path, LORA)
    config.objective = SLIDER | {"scale": 1e-6}
    assert train.run(config, tmp_path / "run") == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] < 1e-10 and rows[0]["grad_norm"] < 1e-4
