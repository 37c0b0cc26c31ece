"""Every recipe and preset resolves end to end; models by their shapes alone."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from diffusion.data.sources import DataSpec
from diffusion.experiments.run import players
from diffusion.models import lightning_dit_preset
from diffusion.objectives.autoencoding import Coded
from diffusion.objectives.end_to_end import Tuned
from diffusion.recipe import ConfigError, Recipe, checks, recipes
from diffusion.recipe.defaults import defaults
from diffusion.recipe.parts import Resolver
from diffusion.recipe.values import from_json, plain, to_json

FOLDER = pathlib.Path(configs.__file__).parent
RECIPES = [name for name in recipes.names() if "/" not in name]


SPECS = {
    name: DataSpec(name, "train", shape, classes, 100)
    for name, shape, classes in (
        ("digits", (8, 8, 1), 10),
        ("mnist", (28, 28, 1), 10),
        ("cifar10", (32, 32, 3), 10),
        ("imagenet2012", (32, 32, 4), 1000),
    )
} | {"spirals": DataSpec("Spirals", "train", (2,), 3, 100, dtype="float32")}


def spec_of(config) -> DataSpec:
    """What is known of a recipe's data: pictures of the size that they are cut to, or latents."""
    source = config.data.source.name
    spec = SPECS[config.data.name if source == "tfds" else source]
    return spec._replace(shape=tuple(config.data.shape)) if source == "tfds" and config.data.shape else spec


def presets(recipe: str) -> list[str]:
    """The names in a recipe's PRESETS, by an error that lists them."""
    with pytest.raises(ConfigError) as error:
        recipes.load(f"{FOLDER}/{recipe}.py:no such preset")
    return str(error.value).split("Valid: ")[1].rstrip(".").split(", ")


def load(recipe: str, preset: str = ""):
    return recipes.load(f"{FOLDER}/{recipe}.py:{preset}")


def clock_of(network, batch: int):
    """The clock of a network of this number of times."""
    times = getattr(network, "times", 1)
    return jnp.zeros(batch) if times == 1 else (jnp.zeros(batch),) * times


def labels_of(config, batch: int):
    """Labels, if the recipe's network takes any."""
    return jnp.zeros(batch, jnp.int32) if config.model.num_classes else None


def received_by(network, labels):
    """The labels, with zeros for the guidance that the network receives."""
    guidance = {"strength": jnp.zeros(1), "interval": jnp.zeros((1, 2))}
    guidance = {name: zeros for name, zeros in guidance.items() if getattr(network, name, False)}
    repeated = {name: jnp.repeat(zeros, len(labels), 0) for name, zeros in guidance.items()}
    return {"label": labels, **repeated} if guidance else labels


SLOW = (
    "cifar10_unet",
    "cifar10_edm",
    "cifar10_flow",
    "imagenet64_edm",
)  # a U-Net is written out, layer by layer, and takes seconds to trace
SIZES = {  # other numbers in a recipe that is resolved without them
    "imagenet256_dit": ("b2", "b4", "7b", "400k"),
    "imagenet256_sit": ("400k", "irepa", "repae"),
    "imagenet256_lightning_dit": ("800ep",),
    "imagenet256_jit": ("l16", "h16", "512"),
    "imagenet256_rae": ("s",),
    "imagenet256_ddt": ("", "l2", "b2", "512"),
    "imagenet256_mask_dit": ("", "unmasked", "tiny"),
    "imagenet256_mdt": ("", "s2", "tiny"),
    "imagenet256_pixnerd": ("", "l16", "1600k"),
}
ALL = [(recipe, preset) for recipe in RECIPES for preset in ["", *presets(recipe)]]


def test_the_named_recipes_are_there():
    assert {"digits", "cifar10_dit", "imagenet256_dit", "imagenet256_sit"} <= set(RECIPES)
    assert {(recipe, "tiny") for recipe in RECIPES} <= set(ALL)


@pytest.mark.extended
@pytest.mark.parametrize(
    "recipe, preset",
    [
        pytest.param(*one, marks=pytest.mark.slow if one[0] in SLOW or one[1] in SIZES.get(one[0], ()) else ())
        for one in ALL
    ],
)
def test_every_recipe_resolves_end_to_end(recipe, preset):
    config = load(recipe, preset)
    spec = spec_of(config)
    recipe = checks.with_data(checks.validate(config), spec)
    assert plain(from_json(to_json(config))) == plain(config)

    batch = max(2, Resolver(config).objective.examples.block or 2)
    network = Resolver(config).model()
    x = jnp.zeros((batch, *recipe.examples.shape))
    null = Recipe.from_config(config).examples.null_condition(batch)
    inputs = (x, clock_of(network, batch), received_by(network, null))
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    objective = Resolver(config).objective
    schedule = Resolver(config).schedule
    density_state = () if objective.density is None else objective.density.init()

    def loss(params):
        keys = jax.random.split(jax.random.key(1), batch)
        pictures = jnp.zeros((batch, *recipe.example_shape))
        labels = labels_of(config, batch)
        data = {"x": pictures, "condition": labels, "index": jnp.arange(batch), "density": density_state}
        apply = players.with_strength(network.apply) if objective.condition.strength else network.apply
        model = functools.partial(apply, params)
        if objective.beside.encoder:  # of as many tokens as the network's, and of its own width
            data["features"] = jnp.zeros((batch, Resolver(config).encoder.features()[0], config.model.width))
        values = lambda h, shape: h[..., : np.prod(shape) // h.shape[1]]  # the numbers of x that a token stands for
        same = lambda h, shape: h  # to the network's own width
        projectors = {name: values if head.target == 0 else same for name, head in objective.heads.items()}
        if objective.beside.autoencoder:
            coded = Coded(pictures, {"kl": jnp.zeros(batch)}, x, lambda kernel: kernel, latents=x)
            ones = jnp.ones(recipe.examples.shape[-1])
            projectors["autoencoder"] = lambda pictures, keys: Tuned(coded, ones, ones)
        return objective({"model": model, "target": model, **projectors}, schedule, keys, data, 0)

    losses, metrics = jax.eval_shape(loss, params)
    assert losses.shape == metrics["t"].shape == (batch,) and losses.dtype == jnp.float32
    plan = Resolver(config).plan
    assert plan.t.shape == (config.sample.steps,) and plan.s[-1] == 0
    optimizer = Resolver(config).optimizer
    jax.eval_shape(optimizer.init, params)


@pytest.mark.extended
def test_published_sizes_and_settings():
    dit = load("imagenet256_dit")
    sit = load("imagenet256_sit")
    for config, published in [(dit, 675e6), (sit, 675e6)]:
        network = Resolver(config).model()
        shapes = jax.eval_shape(
            network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
        )
        assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == pytest.approx(published, rel=0.002)
        assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-4, 0)
        assert (config.train.batch_size, config.ema.decay) == (256, 0.9999)
        assert {"name": "condition_dropout", "rate": 0.1} in config.objective.wrappers
        assert (config.sample.guidance.scale, config.sample.guidance.channels) == (1.5, 3)
    # Peebles and Xie 2023, section 4: the diffusion of ADM, 1000 linear steps from 1e-4 to 0.02, 250 steps to sample.
    schedule = Resolver(dit).schedule
    assert float(schedule.alpha(1 / 1000)) ** 2 == pytest.approx(1 - 1e-4, rel=1e-6)
    second = 1e-4 + (0.02 - 1e-4) / 999
    assert float(schedule.alpha(2 / 1000)) ** 2 == pytest.approx((1 - 1e-4) * (1 - second), rel=1e-6)
    plan = Resolver(dit).plan
    assert (len(plan.t), plan.t[0], plan.t[-1]) == (250, 1.0, 1 / 1000)
    clock = Resolver(dit).parameterization.clock
    np.testing.assert_allclose(clock(schedule, jnp.asarray([1 / 1000, 1.0])), [0, 999], atol=1e-4)
    # Ma et al. 2024: data at time 1, noise at time 0, and 250 evaluations to sample.
    clock = Resolver(sit).parameterization.clock
    np.testing.assert_allclose(clock(Resolver(sit).schedule, jnp.asarray([0.0, 1.0])), [1, 0])
    assert Resolver(sit).sampler.nfe(sit.sample.steps) == 250
    plan = Resolver(sit).plan  # 249 equal steps, and the last of its length 0.04
    assert (len(plan.t), plan.t[0], plan.t[-1], plan.s[-1]) == (250, 1.0, 0.04, 0.0)
    ode = load("imagenet256_sit", "ode")
    assert Resolver(ode).sampler.nfe(ode.sample.steps) == 249
    # Peebles and Xie 2023, table 1: the base size; what is compared after 400k steps is not guided.
    for recipe in ("imagenet256_dit", "imagenet256_sit"):
        base_size = load(recipe, "b2")
        shapes = jax.eval_shape(
            Resolver(base_size).model().init,
            jax.random.key(0),
            jnp.zeros((1, 32, 32, 4)),
            jnp.zeros(1),
            jnp.zeros(1, jnp.int32),
        )
        assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == pytest.approx(130e6, rel=0.01)
        for preset in ("b2", "400k"):
            config = load(recipe, preset)
            assert (config.train.steps, config.sample.guidance.scale) == (400_000, 1.0)


@pytest.mark.parametrize(
    ("recipe", "card", "micro_batch", "batch", "images"),
    [
        ("cifar10_edm", "one_24gb", 128, 512, 200e6),
        ("cifar10_edm", "one_80gb", 256, 512, 200e6),
        ("imagenet64_edm", "one_24gb", 32, 4096, 2500e6),
        ("imagenet64_edm", "one_80gb", 128, 4096, 2500e6),
    ],
)
def test_a_run_on_one_card_has_the_published_batch_and_length(recipe, card, micro_batch, batch, images):
    """Karras et al. 2022, train.py: --batch=512 --duration=200, and --batch=4096 --duration=2500 with --arch=adm."""
    train = load(recipe, card).train
    assert (train.batch_size, train.batch_size / train.accumulate) == (batch, micro_batch)
    assert train.steps * train.batch_size == pytest.approx(images, rel=1e-5)


def test_cards_differ_in_their_micro_batches_alone():
    for recipe in ("cifar10_edm", "imagenet64_edm"):
        small, large = plain(load(recipe, "one_24gb")), plain(load(recipe, "one_80gb"))
        small["train"].pop("accumulate"), large["train"].pop("accumulate")
        assert small == large


def test_the_average_of_a_published_edm_run_is_halved_in_the_published_images():
    """Half a million images on CIFAR-10, fifty on ImageNet; the rate rises over ten million."""
    for recipe, half in (("cifar10_edm", 0.5e6), ("imagenet64_edm", 50e6)):
        config = load(recipe, "one_80gb")
        halving = np.log(0.5) / np.log(config.ema.decay) * config.train.batch_size
        assert halving == pytest.approx(half, rel=0.01)
        assert config.optimizer.warmup * config.train.batch_size == pytest.approx(10e6, rel=1e-3)


def test_self_alignment_has_the_settings_of_its_authors_code():
    """SiT-SRA/train.py (--max-grad-norm) and gen.sh of vvvvvjdy/SRA; 800 epochs in its README."""
    config = load("imagenet256_sit", "sra")
    assert (config.optimizer.clip, config.optimizer.learning_rate) == (1.0, 1e-4)
    assert config.train.steps == 800 * (1_281_167 // 256)
    guidance = config.sample.guidance
    assert (guidance.scale, tuple(guidance.interval), guidance.channels) == (1.8, (0.0, 0.7), 4)


@pytest.mark.parametrize(
    ("recipe", "rate", "steps", "pictures"),
    [  # with --scale_lr, diffusers' examples multiply the rate by the pictures of a step, and by 2 beside a class
        ("textual_inversion", 4 * 5e-4, 3000, 4),
        ("custom_diffusion", 2 * 2 * 1e-5, 250, 2),
        ("dreambooth", 5e-6, 800, 1),
        ("lora", 1e-4, 500, 1),
        ("slider", 2e-4, 1000, 1),  # textsliders/data/config.yaml of rohitgandikota/sliders
    ],
)
def test_tunings_have_the_settings_of_the_examples_that_they_name(recipe, rate, steps, pictures):
    config = recipes.load(f"tuning/{recipe}")
    assert config.optimizer.learning_rate == pytest.approx(rate)
    assert (config.train.steps, config.train.batch_size) == (steps, pictures)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_start_from_the_defaults_and_say_how_to_run(recipe):
    assert plain(load(recipe)).keys() == plain(defaults()).keys()
    text = ast.get_docstring(ast.parse((FOLDER / f"{recipe}.py").read_text()))
    assert f"diffusion train --config={recipe} --workdir=" in text
    assert "core" in text.lower() and "Time" in text
    for preset in presets(recipe):
        assert f"{recipe}:{preset}" in text


@pytest.mark.extended
@pytest.mark.parametrize("recipe", RECIPES)
def test_tiny_is_small(recipe):
    tiny = load(recipe, "tiny")
    network = Resolver(tiny).model()
    spec = spec_of(tiny)
    labels = received_by(network, labels_of(tiny, 1))
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *spec.shape)), clock_of(network, 1), labels)
    weights = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    tokens = np.prod(spec.shape[:2]) / tiny.model.get("patch", 1) ** 2
    guided = 2 if tiny.sample.guidance.scale != 1 else 1
    evaluations = Resolver(tiny).sampler.nfe(tiny.sample.steps) * tiny.sample.number * guided
    operations = 2 * weights * tokens * (3 * tiny.train.steps * tiny.train.batch_size + evaluations)
    assert operations < 2e12  # seconds of two cores at a slow 50 GFLOP/s; compilation is what remains


def test_the_defaults_are_valid():
    assert checks.validate(defaults()).network.width == 384


def test_unknown_preset_lists_the_valid_ones():
    with pytest.raises(ConfigError) as error:
        load("digits", "tyni")
    assert "'tyni'" in str(error.value) and "Did you mean 'tiny'" in str(error.value)


def test_a_preset_replaces_entries_whole_and_values_one_by_one():
    config = recipes.preset(defaults(), "p", {"p": {"schedule": {"name": "cosine"}, "train.steps": 3}})
    assert config.schedule.to_dict() == {"name": "cosine"}
    assert config.train.steps == 3 and config.train.batch_size == defaults().train.batch_size
    with pytest.raises(ConfigError, match="trian"):
        recipes.preset(defaults(), "p", {"p": {"trian.steps": 3}})


def test_the_published_settings_of_lightning_dit():
    """configs/lightningdit_xl_vavae_f16d32.yaml of the authors, and their integrator's times."""
    config = load("imagenet256_lightning_dit")
    recipe = Recipe.from_config(config)
    assert recipe.network.clone(shape=None) == lightning_dit_preset("XL/1", 1000, remat="elementwise", dtype="bfloat16")
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.b2, optimizer.weight_decay, config.train.batch_size) == (
        2e-4,
        0.95,
        0,
        1024,
    )
    theirs = np.linspace(0, 1, 250)
    theirs = 0.3 * theirs / (1 + (0.3 - 1) * theirs)
    np.testing.assert_allclose([*recipe.sampling.plan.t, recipe.sampling.plan.s[-1]], 1 - theirs, atol=1e-6)
