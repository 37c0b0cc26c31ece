"""Runs that post-train a text-to-image model by new weights beside it: the base itself is the reference."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, text_to_image
from diffusion.experiments import train
from diffusion.experiments.run import players, program as programs, tuned_base, tuned_examples
from diffusion.experiments.sampling import tuned_run
from diffusion.recipe import ConfigError, checks, names, recipes
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from tests.experiments.run.made_tuning import config as config_of, pictures

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compilation_cache")]

UNIFORM = {"weighting": {"name": "constant"}, "density": {"name": "uniform_density"}}
REWARD = {"reward": {"name": "near_value", "value": 0.5}, "group": 2}
ENTRIES = {
    "diffusion_dpo": {"beta": 0.02, **UNIFORM},
    "policy_gradient": {"beta": 0.01, "sampler": {"name": "ddim", "eta": 1.0}, **REWARD},
    "diffusion_nft": {"divergence": 0.01, **UNIFORM, **REWARD},
    "adjoint_matching": {"beta": 0.5, "weighting": {"name": "constant"}, "reward": REWARD["reward"]},
    "reward_backpropagation": {"reward": REWARD["reward"], "last": 1},
    "denoising": {**UNIFORM, "wrappers": ({"name": "reward_weights", "beta": 0.5, "reward": REWARD["reward"]},)},
    "latent_consistency_distillation": {"guidance": 1.0, "solver_steps": 4, "exact_end": True},
    "distribution_matching": {"density": UNIFORM["density"], "samples": {"name": "backward_simulation"}},
}
FEW_STEPS = ("latent_consistency_distillation", "distribution_matching")
LORA = {"name": "lora", "rank": 2, "alpha": 4.0}


def post_training(name, place, steps=2, tuning=LORA):
    config = config_of(place, tuning, "mmdit")
    config.objective = {"name": name, **ENTRIES[name]}
    config.sample.steps = 2
    config.train.steps = steps
    config.train.batch_size = 4
    config.optimizer = {"name": "adamw", "learning_rate": 1e-2, "warmup": 1}
    if name == "distribution_matching":
        fake = {"name": "fake_score", "samples": {"name": "backward_simulation"}, **UNIFORM}
        optimizer = {"name": "adamw", "learning_rate": 1e-2}
        config.second_player = {"objective": fake, "network": {"name": ""}, "optimizer": optimizer, "updates": 1}
    if name in FEW_STEPS:
        config.sample.sampler = {"name": "consistency"}
        config.sample.guidance.scale = 1.0
    if name == "diffusion_dpo":
        others = place / "rejected"
        if not others.exists():
            pictures(others, side=16)
            for file in others.iterdir():
                file.write_bytes((place / "pictures" / f"{4 - int(file.stem)}.png").read_bytes())
            (others / "2.png").write_bytes((place / "pictures" / "1.png").read_bytes())
        of = tuple({"name": "picture_folder", "path": str(folder)} for folder in (place / "pictures", others))
        config.data.source = {"name": "preferences", "of": of}
    return config


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("reference")


@pytest.mark.parametrize("name", ENTRIES)
def test_it_resumes_bit_for_bit_and_the_base_stays(name, place):
    whole, parts = place / f"{name}_whole", place / f"{name}_parts"
    assert train.run(post_training(name, place), whole) == 0
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoints" / "2")
    assert train.run(post_training(name, place), parts) == 0
    assert (whole / "metrics.jsonl").read_text() == (parts / "metrics.jsonl").read_text()
    first, last = (checkpoints.read_about(whole, step) for step in (1, 2))
    assert last["leaves"] == checkpoints.read_about(parts, 2)["leaves"] != first["leaves"]
    assert first["base"] == last["base"]
    assert (whole / "tuning" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize("text_targets", ["", "self_attn"])
def test_the_teacher_is_the_base_without_the_new_weights(text_targets, place, tmp_path):
    """Where the tuning trains the text encoders too, the teacher reads the caption by the base's own."""
    config = post_training("diffusion_nft", place, tuning={**LORA, "text_targets": text_targets})
    config.teacher.scale = 3.0
    recipe = checks.validate(config)
    opened = tuned_examples.pictures(recipe)
    recipe, opened = tuned_examples.encoded(checks.with_data(recipe, opened.spec), tmp_path, opened)
    mesh = programs.mesh_of(config)
    program = programs.build(recipe, mesh)
    state, _ = tuned_base.first(program)
    batch = next(opened.batches(config, 0, sharding.positions(4, mesh), 0))
    del batch["label"]
    batch = sharding.to_devices(batch, mesh, 4)
    noise = jax.random.normal(jax.random.key(0), batch["x"].shape)
    clock = jnp.full(4, 500.0)
    output = jax.jit(
        lambda state, name: program.networks(state)[name](noise, clock, batch["condition"]), static_argnums=1
    )
    plain = jax.jit(players.build_players(recipe).modules["teacher"].plain)
    base = state.unsaved["base"]
    present = plain(base, noise, clock, batch["condition"])
    absent = plain(base, noise, clock, jax.tree.map(jnp.zeros_like, batch["condition"]))
    taught = output(state, "teacher")
    np.testing.assert_allclose(taught, absent + 3 * (present - absent), rtol=0, atol=2e-5)
    np.testing.assert_allclose(output(state, "model"), present, rtol=0, atol=2e-5)  # a LoRA begins as nothing
    assert np.abs(present - absent).max() > 1e-3
    state, _ = program.step(state, batch, program.seed)
    np.testing.assert_array_equal(output(state, "teacher"), taught)
    assert np.abs(output(state, "model") - present).max() > 1e-4


@pytest.mark.parametrize("name", FEW_STEPS)
def test_the_file_of_a_few_step_lora_makes_the_pictures_of_its_run(name, place, tmp_path):
    """LCM-LoRA, DMD-LoRA: the base with the run's weights and the base with its file, both in the run's steps."""
    config = post_training(name, place)
    assert train.run(config, tmp_path) == 0
    how = {"seeds": 3, **tuned_run.settings_of(tmp_path)}
    assert how == {"seeds": 3, "steps": 2, "guidance": 1.0, "sampler": "lcm"}
    run = text_to_image.generate(tuned_run.load(tmp_path)[0], "a cat", **how)
    by_file = text_to_image.load(config.base.path, loras={tmp_path / "tuning" / "pytorch_lora_weights.safetensors": 1})
    assert np.abs(run.astype(int) - text_to_image.generate(by_file, "a cat", **how)).max() <= 1
    assert (run != text_to_image.generate(text_to_image.load(config.base.path), "a cat", **how)).any()


@pytest.mark.parametrize("recipe", ["lcm_lora", "dmd_lora"])
def test_the_recipes_of_few_step_loras_take_a_stable_diffusion(recipe, place, tmp_path):
    """The network predicts the noise, and its schedule ends before alpha = 0, unlike that of the drawings' model."""
    base = config_of(place, LORA, "sd")
    config = recipes.load(f"tuning/{recipe}:tiny")
    config.base.path = base.base.path
    config.data = base.data
    assert train.run(config, tmp_path) == 0
    how = {"seeds": 3, **tuned_run.settings_of(tmp_path)}
    assert how == {"seeds": 3, "steps": 4, "guidance": 1.0, "sampler": "lcm"}
    run = text_to_image.generate(tuned_run.load(tmp_path)[0], "a cat", **how)
    by_file = text_to_image.load(config.base.path, loras={tmp_path / "tuning" / "pytorch_lora_weights.safetensors": 1})
    assert np.abs(run.astype(int) - text_to_image.generate(by_file, "a cat", **how)).max() <= 1


def test_a_reward_receives_the_pictures_of_the_samples(place, tmp_path):
    """DRaFT with the mean of the pictures as its reward: the metric is that of the decoded samples."""
    seen = []

    def brightness(x_0, condition):
        seen.append(x_0.shape)
        return jnp.mean(x_0, axis=(1, 2, 3))

    config = config_of(place, LORA, "mmdit")
    config.objective = {"name": "reward_backpropagation", "reward": {"name": "brightness"}, "last": 1}
    config.sample.steps = 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(names.REWARDS, "brightness", lambda: brightness)
        recipe = checks.validate(config)
        opened = tuned_examples.pictures(recipe)
        recipe, opened = tuned_examples.encoded(checks.with_data(recipe, opened.spec), tmp_path, opened)
        mesh = programs.mesh_of(config)
        program = programs.build(recipe, mesh)
    state, _ = tuned_base.first(program)
    batch = next(opened.batches(config, 0, sharding.positions(2, mesh), 0))
    del batch["label"]
    x = jnp.asarray(batch["x"])
    model = text_to_image.load(recipe.companions.tuned.base.path)
    vae = model.modules["vae"]
    decode = lambda z: vae.apply(
        {"params": model.params["vae"]}, z / vae.scale + getattr(vae, "shift", 0.0), method="decode"
    )
    np.testing.assert_allclose(program.networks(state)["pictures"](x), decode(x), rtol=0, atol=2e-5)
    state, metrics = program.step(state, sharding.to_devices(batch, mesh, 2), program.seed)
    assert set(seen) == {(2, 16, 16, 3)} and float(metrics["grad_norm"]) > 0


def test_a_reward_knows_the_captions_of_its_samples(place, tmp_path):
    """r = |caption|: the reward of the two examples of each group is the length of the first one's caption."""
    folder = pictures(tmp_path / "captioned", side=16)
    for row in range(5):
        (folder / f"{row}.txt").write_text("a" * (row + 1))
    config = post_training("diffusion_nft", place)
    config.objective.reward = {"name": "long"}
    config.data.source.path = str(folder)
    config.data.text.prompt = ""
    reward = objectives.CaptionReward(lambda x_0, condition, facts: facts["n"] + 0.0, lambda text: {"n": len(text)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(names.REWARDS, "long", lambda: reward)
        recipe = checks.validate(config)
        opened = tuned_examples.pictures(recipe)
        recipe, opened = tuned_examples.encoded(checks.with_data(recipe, opened.spec), tmp_path, opened)
        mesh = programs.mesh_of(config)
        program = programs.build(recipe, mesh)
    state, _ = tuned_base.first(program)
    batch = next(opened.batches(config, 0, sharding.positions(4, mesh), 0))
    del batch["label"]
    assert program.batch["metadata"]["n"].dtype == batch["metadata"]["n"].dtype == np.int32
    assert set(batch["condition"]) == set(program.batch["condition"])  # the networks receive no facts
    state, metrics = program.step(state, sharding.to_devices(batch, mesh, 4), program.seed)
    np.testing.assert_allclose(metrics["reward"], np.mean(batch["metadata"]["n"][::2]))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"teacher.path": "."}, r"config\.teacher\.path = '\.', but the base is the teacher"),
        (
            {"objective": {"name": "progressive_distillation", "N": 4, "stage": 2}},
            "the base model always stays the teacher",
        ),
        (
            {"objective": {"name": "reflow", "density": UNIFORM["density"]}},
            "the base model, which is the teacher here, cannot generate them",
        ),
        ({"objective": {"name": "denoising", **UNIFORM}, "teacher.scale": 2.0}, "learns from no teacher"),
        ({"data.latents.dir": "elsewhere"}, "two pictures in each record"),
    ],
)
def test_what_the_base_cannot_teach_is_refused(changes, words, place):
    config = post_training("diffusion_dpo", place)
    for field, value in changes.items():
        config.update_from_flattened_dict({field: value})
    if "objective" in changes:
        config.objective = changes["objective"]
    with pytest.raises(ConfigError, match=words):
        tuned_examples.pictures(checks.validate(config))


def test_a_second_player_beside_a_base_is_no_judge(place):
    config = post_training("distribution_matching", place)
    density = UNIFORM["density"]
    config.objective = {"name": "adversarial_generator", "student_density": density, "density": density}
    config.second_player.objective = {"name": "adversarial_discriminator", "student_density": density}
    with pytest.raises(ConfigError, match=r"second_player\.objective\.name = .*Valid: fake_score, without prior"):
        checks.validate(config)
