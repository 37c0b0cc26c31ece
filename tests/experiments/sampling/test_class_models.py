"""Published models of classes beside diffusers: the pipeline from the same noise, as a run, and written again."""

import functools
import json
import pathlib
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import class_model_folders, class_models, generate, run_denoiser, trained_run
from diffusion.io import limits
from diffusion.models.interchange.family import Refusal
from diffusion.recipe import ConfigError
from diffusion.recipe.values import plain
from diffusion.training.checkpointing import checkpoints
from tests.conformance import slow_but
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines

LABELS = np.array([3, 0], np.int32)
CHOSEN = {"sample.steps": 2, "sample.grid.chosen": (0, 22)}
CALLS = [  # the fixture, the number of its call, what differs from the folder's own settings, the largest difference
    ("class_ddpm", 0, {"sample.steps": 8}, 1e-5),
    ("class_ddpm_small", 0, {"sample.steps": 8}, 1e-5),
    ("class_ddim", 0, {"sample.steps": 8}, 2e-5),
    ("class_consistency", 0, {}, 1e-5),
    ("class_consistency", 1, {"sample.steps": 3}, 1e-5),
    ("class_consistency", 2, CHOSEN, 1e-5),
    ("class_dit", 0, {"sample.steps": 8}, 1e-5),
    ("class_dit", 1, {"sample.steps": 8, "sample.guidance.scale": 1.0}, 1e-5),
    ("class_dit_converted", 0, {"sample.steps": 8}, 1e-5),
]


@functools.cache
def folder(name):
    """The folder that diffusers saved, in a place that stays for the session."""
    return made_pipelines.folder(name, pathlib.Path(tempfile.mkdtemp(prefix=name)))


@functools.cache
def published(name):
    return trained_run.load(folder(name))


def made(run):
    """The samples of a run for LABELS, from the noise that diffusers received."""
    shape = (2, *run.shape)
    sampler = run.sampler
    if sampler.draws:
        noises = jnp.stack([jnp.asarray(drawn(f"step {i}", *shape)) for i in range(len(run.grid) - 1)])
        step = lambda state, denoise, schedule, plan, i, noise: run.sampler.step(
            state, denoise, schedule, plan, i, noises[i][None]
        )
        sampler = sampler._replace(step=step)
    x = float(run.schedule.sigma(run.schedule.t_max)) if run.recipe.config.schedule.name == "edm" else 1.0
    x = x * jnp.asarray(drawn("latents", *shape))
    network = run_denoiser.build_for_sampler(run.recipe)
    keys = jax.random.split(jax.random.key(0), 2)
    sample = lambda params, x: samplers.sample(
        sampler, network(params, LABELS), run.schedule, x, run.recipe.sampling.plan, keys
    )
    return jax.jit(sample)(run.params, x)


@pytest.mark.extended
@pytest.mark.parametrize("name, call, changes, within", slow_but(CALLS[6:7], CALLS))
def test_samples_are_those_of_diffusers(name, call, changes, within):
    about, found = made_pipelines.fixture(name)
    run = published(name).changed(changes)
    theirs = found[f"sample/{call}"]
    assert run.sampler.nfe(run.recipe.sampling.plan.solved) == about["evaluations"][call]
    ours = np.asarray(made(run))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=within * np.abs(theirs).max())


def test_each_block_of_a_dit_keeps_its_own_embeddings_where_they_differ():
    assert published("class_dit").recipe.network.own_embeddings
    assert not published("class_dit_converted").recipe.network.own_embeddings


@pytest.mark.extended
@pytest.mark.parametrize(
    "name",
    [
        "class_dit_converted",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("class_ddpm", "class_consistency")),
    ],
)
def test_a_published_model_is_a_run_and_a_run_is_written_for_diffusers_again(name, tmp_path):
    class_model_folders.as_run(folder(name), tmp_path / "run")
    run = trained_run.from_config(
        workdir.read_config(tmp_path / "run"), checkpoints.load_ema(tmp_path / "run")[0], True
    )
    assert run.recipe.network == published(name).recipe.network
    kind = class_model_folders.write(run.config, run.params, tmp_path / "again")
    again = class_models.load(tmp_path / "again")
    assert kind == json.loads((folder(name) / "model_index.json").read_text())["_class_name"]
    for ours, theirs in zip(jax.tree.leaves(again.params), jax.tree.leaves(published(name).params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    before = plain(published(name).config)
    after = plain(again.config)
    assert {part: after[part] for part in ("model", "schedule", "parameterization")} == {
        part: before[part] for part in ("model", "schedule", "parameterization")
    }
    assert after["sample"] == before["sample"]
    folders = (folder(name), tmp_path / "again")
    theirs, ours = (json.loads((place / "scheduler/scheduler_config.json").read_text()) for place in folders)
    common = theirs.keys() & ours.keys()
    assert {field: theirs[field] for field in common} == {field: ours[field] for field in common}


def _cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def _of_a_side_that_is_text(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": "x"}))


def _changed(name, place, file, change):
    made_pipelines.folder(name, place)
    path = place / file
    change(path)
    return place


@pytest.mark.parametrize("file, change, message", [
    ("model_index.json", lambda path: path.write_text('{"_class_name": "LDMPipeline"}'), "DDPMPipeline, DDIMPipeline"),
    ("model_index.json", lambda path: path.write_text("{}"), "is of no class, which is not supported"),
    ("unet/config.json", _of_a_side_that_is_text, "sample_size = 'x'"),
    ("unet/diffusion_pytorch_model.safetensors", _cut, "is not a whole safetensors file"),
    ("scheduler/scheduler_config.json", lambda path: path.write_text('{"_class_name": "PNDMScheduler"}'), "'DDPMSched"),
])  # fmt: skip
def test_bad_folders_are_refused_in_a_sentence(file, change, message, tmp_path):
    with pytest.raises((Refusal, limits.Refused), match=message):
        class_models.load(_changed("class_ddim", tmp_path, file, change))


def test_a_table_of_betas_without_its_fields_is_the_published_one():
    """DDPM's 1000 steps from 1e-4 to 0.02, and latent diffusion's from 0.00085 to 0.012."""
    for name, ends in (("linear_beta", (1e-4, 0.02)), ("scaled_linear", (0.00085, 0.012))):
        settings = {
            "sample": {"sampler": {"name": "ddim"}, "grid": {"name": "trailing"}},
            "parameterization": {"name": "epsilon", "clock": {"name": "steps", "T": 1000}},
            "schedule": {"name": name},
        }
        pipeline, scheduler = class_model_folders._scheduler(settings, False)
        assert (pipeline, scheduler["_class_name"]) == ("DDIMPipeline", "DDIMScheduler")
        assert (scheduler["beta_start"], scheduler["beta_end"]) == ends and scheduler["trained_betas"] is None
        assert scheduler["num_train_timesteps"] == 1000 and scheduler["timestep_spacing"] == "trailing"
        assert (scheduler["steps_offset"], scheduler["clip_sample"], scheduler["clip_sample_range"]) == (0, False, 1.0)
        assert scheduler["rescale_betas_zero_snr"] is False and scheduler["set_alpha_to_one"] is True


def test_a_run_is_written_with_its_clip_its_offset_and_its_rescaled_table():
    settings = {
        "sample": {
            "sampler": {"name": "clipped", "sampler": {"name": "ddpm", "variance": "large"}, "largest": 2.5},
            "grid": {"name": "leading", "offset": 1},
        },
        "parameterization": {"name": "v", "clock": {"name": "steps", "T": 500}},
        "schedule": {"name": "zero_terminal_snr", "schedule": {"name": "linear_beta", "T": 500}},
    }
    pipeline, scheduler = class_model_folders._scheduler(settings, False)
    assert (pipeline, scheduler["_class_name"]) == ("DDPMPipeline", "DDPMScheduler")
    expected = {"clip_sample": True, "clip_sample_range": 2.5, "steps_offset": 1, "timestep_spacing": "leading"}
    expected |= {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "variance_type": "fixed_large"}
    assert expected.items() <= scheduler.items() and scheduler["num_train_timesteps"] == 500


@pytest.mark.parametrize("sampler", [{"name": "ddim"}, {"name": "ddpm", "variance": "small"}, {"name": "heun"}])
def test_a_unet_with_a_learned_variance_is_written_for_the_scheduler_that_reads_it(sampler):
    """Of diffusers' pipelines of UNet2DModel, one reads 2 C channels: with DDPMScheduler and a learned variance_type.

    DiTPipeline leaves the variance out itself, whatever the scheduler.
    """
    epsilon = {"name": "epsilon", "clock": {"name": "steps", "T": 1000}}
    settings = {
        "sample": {"sampler": sampler, "grid": {"name": "trailing"}},
        "parameterization": {"name": "learned_variance", "parameterization": epsilon},
        "schedule": {"name": "linear_beta"},
    }
    pipeline, scheduler = class_model_folders._scheduler(settings, False)
    assert (pipeline, scheduler["_class_name"]) == ("DDPMPipeline", "DDPMScheduler")
    assert (scheduler["variance_type"], scheduler["prediction_type"]) == ("learned_range", "epsilon")
    pipeline, scheduler = class_model_folders._scheduler(settings, True)
    assert (pipeline, scheduler["_class_name"]) == ("DiTPipeline", "DDIMScheduler")


def test_a_consistency_model_is_written_with_the_levels_of_its_grid():
    settings = {
        "sample": {"sampler": {"name": "consistency"}, "grid": {"name": "karras_levels", "levels": 18, "rho": 5.0}},
        "parameterization": {"name": "consistency_boundary", "clock": {"name": "log_sigma", "scale": 250.0}},
        "schedule": {"name": "edm", "sigma_max": 50.0},
    }
    pipeline, scheduler = class_model_folders._scheduler(settings, False)
    assert pipeline == "ConsistencyModelPipeline"
    expected = {"num_train_timesteps": 18, "sigma_min": 0.002, "sigma_max": 50.0, "rho": 5.0, "clip_denoised": False}
    assert expected.items() <= scheduler.items()


def test_the_loss_of_a_published_model_weighs_all_errors_of_its_prediction_alike():
    """A weighting is of the error of x0, and the error of eps is alpha / sigma of that: its square is the SNR."""
    kind, module = class_models.KINDS["DDPMPipeline"], types.SimpleNamespace(out_channels=3)
    weightings = {}
    for prediction in ("epsilon", "sample"):
        scheduler = {"_class_name": "DDPMScheduler", "prediction_type": prediction}
        entries = class_models._tabulated(scheduler, kind, module, (8, 8, 3))
        weightings[prediction] = entries["objective"].get("weighting")
    assert weightings == {"epsilon": {"name": "snr"}, "sample": None}


def test_only_a_solver_that_would_use_the_last_alpha_refuses_it():
    """DDPM's scheduler never steps beyond its table, whatever the folder says of it."""
    scheduler = {"_class_name": "DDPMScheduler", "set_alpha_to_one": False}
    module = types.SimpleNamespace(out_channels=3)
    entries = class_models._tabulated(scheduler, class_models.KINDS["DDPMPipeline"], module, (8, 8, 3))
    assert entries["sampler"]["sampler"]["name"] == "ddpm"
    with pytest.raises(Refusal, match="set_alpha_to_one = False is not supported here"):
        class_models._tabulated(scheduler, class_models.KINDS["DDIMPipeline"], module, (8, 8, 3))


def test_the_words_of_a_class_stand_between_commas(tmp_path):
    (tmp_path / "model_index.json").write_text(
        json.dumps({"id2label": {"207": "golden retriever, goldie", "3": "cat"}})
    )
    assert class_models.classes_of(tmp_path) == {"golden retriever": 207, "goldie": 207, "cat": 3}
    for number in ("\u00b2", "9" * 5000, "-1", ""):  # "\u00b2" is a digit, and no number
        (tmp_path / "model_index.json").write_text(json.dumps({"id2label": {number: "cat"}}))
        with pytest.raises(Refusal, match="id2label = "):
            class_models.classes_of(tmp_path)


def test_classes_are_int32_and_conditions_keep_their_types():
    for dtype in (np.uint8, np.int64, np.float32):
        assert generate.as_condition(np.ones(3, dtype)).dtype == np.int32
    condition = generate.as_condition({"vector": np.ones((2, 3), np.float32), "mask": np.ones(2, bool)})
    assert {name: leaf.dtype for name, leaf in condition.items()} == {"vector": np.float32, "mask": np.bool_}


def test_a_run_on_latents_has_no_pictures_and_says_where_they_are_of():
    """The folder of the config, or none where the autoencoder trains with the run."""
    for place, words in (("kept", r"on latents \(kept\)"), ("", r"\(of the autoencoder that trained with it\)")):
        latents = types.SimpleNamespace(dir=place)
        config = types.SimpleNamespace(data=types.SimpleNamespace(latents=latents))
        run = types.SimpleNamespace(recipe=types.SimpleNamespace(on_latents=True), config=config)
        with pytest.raises(ConfigError, match=words):
            trained_run.Trained.real(run, "test", 1)
