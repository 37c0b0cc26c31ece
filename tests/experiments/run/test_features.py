"""Runs whose objective reads the network's features, from their configs: what trains, what is kept, what is refused."""

import json
import shutil
from types import SimpleNamespace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.flax import save_file

from configs import digits
from diffusion import objectives
from diffusion.experiments import reproduce, train
from diffusion.experiments.run import program, start
from diffusion.experiments.sampling import encoder_features, generate, run_samples
from diffusion.models import Functions
from diffusion.recipe import ConfigError, Recipe, checks, names
from diffusion.training import sharding, state
from diffusion.training.checkpointing import checkpoints
from diffusion.training.sharding import leaf_name

pytestmark = pytest.mark.usefixtures("compilation_cache")
DROPPED = {"name": "condition_dropout", "rate": 0.1}
REPA = {"name": "alignment", "layer": 1, "projector": {"name": "mlp", "hidden": 8}}
TERMS = {
    "repa": REPA | {"until": 3},
    "irepa": REPA | {"layer": 2, "projector": {"name": "convolution"}, "normalisation": 1.0},
    "dispersive": {"name": "dispersive", "layer": 1, "block": 4},
    "early": {"name": "early_prediction", "layer": 1},
    "sara": REPA | {"name": "structured_alignment", "structure": 0.5, "adversarial": 0.1},
    "self_alignment": {"name": "self_alignment", "layer": 1, "teacher_layer": 2, "projector": {"name": "mlp"}},
}


class Features(NamedTuple):
    patches: jax.Array


class OneConvolution(nn.Module):
    """An encoder of one's own."""

    width: int = 6
    patch: int = 2

    @nn.compact
    def __call__(self, images):
        side = (self.patch, self.patch)
        h = jnp.tanh(nn.Conv(self.width, side, side, name="patches")(images))
        return Features(h.reshape(len(h), -1, self.width))


@pytest.fixture(autouse=True)
def encoder_by_name(monkeypatch):
    monkeypatch.setattr(names, "ENCODERS", names.ENCODERS)
    monkeypatch.setitem(names.ENCODERS, "one_convolution", OneConvolution)


@pytest.fixture
def weights(tmp_path):
    """A file of an encoder's weights."""
    params = OneConvolution().init(jax.random.key(9), jnp.zeros((1, 8, 8, 1)))["params"]
    leaves = {leaf_name(path).replace("/", "."): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    save_file(leaves, tmp_path / "encoder.safetensors")
    return tmp_path / "encoder.safetensors"


def config_of(weights="", *terms):
    config = digits.get_config("tiny")
    config.objective.wrappers = (*(TERMS[name] for name in terms), DROPPED)
    if {"repa", "irepa", "sara"} & set(terms):
        config.encoder.update({"network": {"name": "one_convolution"}, "path": str(weights)})
    config.update_from_flattened_dict({"train.batch_size": 16, "train.accumulate": 1, "train.log_every": 2})
    config.objective.density["strata"] = 16
    return config


def with_changes(config, **changes):
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.slow
def test_a_run_trains_its_projectors_beside_a_frozen_encoder_and_resumes(weights, tmp_path):
    """The projector is in the average too; the encoder is in no checkpoint, and comes from its file again."""
    config = config_of(weights, "repa", "dispersive")
    config.train.steps, config.checkpoint.every, config.optimizer.warmup = 4, 2, 1
    recipe = checks.validate(config).at((8, 8, 1))
    made = program.build(recipe, program.mesh_of(config))
    assert train.run(config, tmp_path) == 0
    end = checkpoints.restore_latest(tmp_path, made.target)[0]
    shutil.rmtree(tmp_path / "checkpoints/4")
    assert train.run(config, tmp_path) == 0
    again = checkpoints.restore_latest(tmp_path, made.target)[0]
    assert int(end.step) == int(again.step) == 4
    jax.tree.map(np.testing.assert_array_equal, end, again)
    first = made.init(made.seed).params["heads"]
    for kept in (end.params, end.ema):
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), kept["heads"], first)
        assert set(moved) == {"term"} and min(jax.tree.leaves(moved)) > 0
    about = checkpoints.read_about(tmp_path, 4)
    assert not any("encoder" in name for name in about["leaves"])
    encoder = OneConvolution().init(jax.random.key(9), jnp.zeros((1, 8, 8, 1)))
    assert about["encoder"] == {"path": str(weights), "sha256": encoder_features.digest(encoder)}
    restored, _ = start.with_encoder(config, made, end, about["encoder"])
    jax.tree.map(np.testing.assert_array_equal, restored.unsaved["encoder"], encoder)
    assert reproduce.repeat(Recipe.from_config(config), tmp_path, 2).finite
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(-1 <= row["term"] <= 1 and row["term_2"] <= 0 for row in rows)
    samples = run_samples.sample(checks.on_its_data(checks.validate(config)), tmp_path)
    assert samples.shape == (20, 8, 8, 1) and np.ptp(samples) > 0


@pytest.mark.slow
def test_an_encoder_of_initial_weights_has_a_hash_that_a_run_goes_on_with():
    config = config_of("", "repa")
    recipe = checks.validate(config).at((8, 8, 1))
    made = program.build(recipe, program.mesh_of(config))
    known = start.with_encoder(config, made, made.target._replace(unsaved=None), None)[1]
    weights = made.init(made.seed).unsaved["encoder"]
    assert known == {"path": "", "sha256": encoder_features.digest(weights)}
    assert start.with_encoder(config, made, made.target._replace(unsaved=None), known)[1] == known
    with pytest.raises(ConfigError, match=r"config.encoder.path = '' holds another encoder .* it was other from"):
        start.with_encoder(config, made, made.target, {"path": "", "sha256": "other"})


@pytest.mark.extended
@pytest.mark.parametrize(
    "terms", [("irepa",), ("self_alignment", "repa"), pytest.param(("early", "sara"), marks=pytest.mark.slow)]
)
def test_a_step_of_other_terms_is_built(terms, weights):
    config = config_of(weights, *terms)
    recipe = checks.validate(config).at((8, 8, 1))
    made = program.build(recipe, program.mesh_of(config))  # which traces the step
    shapes = jax.tree.map(lambda leaf: leaf.shape, made.target.params["heads"])
    if terms == ("irepa",):
        assert shapes == {"term": {"kernel": (3, 3, 32, 6), "bias": (6,)}}
    elif terms == ("early", "sara"):  # 2 x 2 x 1 values a token; one logit of a token
        assert shapes["term"]["dense"]["kernel"] == (32, 4)
        assert shapes["term_2_critic"]["dense_2"]["kernel"] == (512, 1)
    else:  # self-alignment projects to the network's own width, though there is an encoder
        assert shapes["term"]["dense_2"]["bias"] == (32,) and shapes["term_2"]["dense_2"]["bias"] == (6,)


def test_guidance_by_the_middle_needs_a_prediction_there():
    config = config_of("", "early")
    config.sample.guidance.update({"name": "internal", "scale": 2.0})
    assert checks.validate(config).sampling.depths
    config.objective.wrappers = (DROPPED,)
    with pytest.raises(ConfigError, match=r"config.sample.guidance.name = .*Valid: early_prediction among objective"):
        checks.validate(config)


@pytest.mark.slow
def test_samples_are_guided_by_the_middle_of_the_network(tmp_path):
    config = config_of("", "early")
    config.train.steps, config.checkpoint.every, config.optimizer.warmup = 2, 2, 1
    config.objective.wrappers = config.objective.wrappers[:1]
    config.sample.guidance.update({"scale": 1.0})
    assert train.run(config, tmp_path) == 0
    params, _ = checkpoints.load_ema(tmp_path)
    made = {}
    for name, scale in (("classifier_free", 1.0), ("internal", 1.0), ("internal", 5.0)):
        config.sample.guidance.update({"name": name, "scale": scale})
        make = generate.generator(checks.on_its_data(checks.validate(config)))
        made[name, scale] = make.images(params, np.zeros(4, np.int32), np.arange(4, dtype=np.uint32))
    np.testing.assert_array_equal(made["internal", 1.0], made["classifier_free", 1.0])
    assert (made["internal", 5.0] != made["internal", 1.0]).any()


def with_uncertainty(config):
    wrapper = {"name": "uncertainty", "network": {"name": "uncertainty", "channels": 3}}
    return with_changes(config, **{"objective.wrappers": (wrapper, *config.objective.wrappers)})


@pytest.mark.extended
def test_a_network_of_uncertainty_trains_with_the_model_beside_terms():
    config = with_uncertainty(config_of("", "dispersive"))
    recipe = checks.validate(config).at((8, 8, 1))
    made = program.build(recipe, program.mesh_of(config))
    shapes = jax.tree.map(lambda leaf: leaf.shape, made.target.params["heads"])
    assert shapes == {"uncertainty": {"weight": (3,)}}


@pytest.mark.slow
def test_a_network_of_uncertainty_learns():
    config = with_uncertainty(config_of("", "dispersive"))
    made = program.build(checks.validate(config).at((8, 8, 1)), program.mesh_of(config))
    train_state = sharding.create(made.init, made.target, made.seed)
    batch = {name: np.ones(leaf.shape, leaf.dtype) for name, leaf in made.batch.items()}
    after, metrics = made.step(train_state, batch, made.seed)
    np.testing.assert_allclose(metrics["loss"], metrics["unweighted"] + 0.5 * metrics["term"], rtol=1e-5)  # u = 0
    assert np.abs(after.params["heads"]["uncertainty"]["weight"]).min() > 0


@pytest.mark.extended
def test_a_run_without_terms_has_no_trace_of_them():
    recipe = checks.validate(config_of()).at((8, 8, 1))
    target = program.build(recipe, program.mesh_of(recipe.config)).target
    assert set(target.params) == {"params"} and target.frozen is None and target.unsaved is None


@pytest.mark.parametrize(("terms", "changes", "message"), [
    (("repa",), {"encoder": {"network": {"name": ""}, "path": "", "size": 0}},
     r"^config\.objective\.wrappers = \S.*, config\.encoder\.network\.name = '': the objective aligns features with "),
    (("dispersive",), {"encoder.network": {"name": "one_convolution"}}, "the objective uses no encoder"),
    (("self_alignment",), {"model.depth": 1},
     r"config\.objective\.wrappers = \S.*\), config\.model\.name = 'dit': the objective reads the features of layer 2, "
     "but the network offers only 1 layers"),
    (("dispersive",), {"objective.wrappers": ({"name": "dispersive", "layer": 1, "block": 5},)},
     "block = 5 does not div"),
    (("dispersive",), {"objective.wrappers": ({"name": "disperse", "layer": 1, "block": 4},)},
     r"config\.objective\.wrappers\[0\]\.name: unknown wrapper 'disperse'.*dispersive"),
    (("dispersive",), {"objective.name": "mean_flow", "sample.sampler": {"name": "flow_map"}}, r"differentiates it"),
    (("dispersive",), {"objective.wrappers": ({"name": "uncertainty", "network": {"name": "certainty"}},)},
     r"config\.objective\.wrappers\[0\]\.network\.name: unknown network of uncertainty 'certainty'.*uncertainty"),
    (("repa",), {"data.latents.dir": "latents"}, r"config\.encoder\.size = 0, but with latents"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_made(terms, changes, message, weights):
    with pytest.raises(ConfigError, match=message):
        checks.validate(with_changes(config_of(weights, *terms), **changes))


def test_tokens_of_another_grid_are_refused_before_anything_is_compiled(weights):
    config = with_changes(config_of(weights, "repa"), **{"encoder.size": 16})
    with pytest.raises(ConfigError, match="the encoder has 64 tokens for a picture, but layer 1 of the network has 16"):
        program.build(checks.validate(config).at((8, 8, 1)), program.mesh_of(config))


@pytest.mark.extended
def test_weights_of_another_encoder_are_refused(weights):
    config = with_changes(config_of(weights, "repa"), **{"encoder.network": {"name": "one_convolution", "width": 5}})
    made = program.build(checks.validate(config).at((8, 8, 1)), program.mesh_of(config))
    with pytest.raises(ConfigError, match=r"another encoder: .*params/patches/bias: \(6,\) in the source, \(5,\) here"):
        start.first_state(config, weights.parent, made, {})
    config.encoder.path = "/no/such/file.safetensors"
    checks.validate(config)  # what needs no encoder, such as sampling, does not ask for its file
    with pytest.raises(ConfigError, match=r"config\.encoder\.path = '/no/such/file.safetensors'"):
        start.first_state(config, weights.parent, made, {})


def test_a_run_goes_on_with_the_encoder_that_it_began_with(weights):
    """By the digest that its checkpoint has, or by the parameters in a checkpoint of an earlier version."""
    config = config_of(weights, "repa")
    encoder = {"encoder": OneConvolution().init(jax.random.key(9), jnp.zeros((1, 8, 8, 1)))}
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), encoder)
    made = SimpleNamespace(target=SimpleNamespace(unsaved=target))
    restored = state.TrainState(*[None] * 6)
    found, file = start.with_encoder(config, made, restored, None)
    jax.tree.map(np.testing.assert_array_equal, found.unsaved, encoder)
    assert start.with_encoder(config, made, restored._replace(unsaved=encoder), file)[1] == file
    with pytest.raises(ConfigError, match=r"config\.encoder\.path = .*another encoder.*it was 000000000000 from E"):
        start.with_encoder(config, made, restored, {"path": "E", "sha256": 64 * "0"})
    others = jax.tree.map(lambda leaf: leaf + 1, encoder)
    with pytest.raises(ConfigError, match=r"another encoder.*differs from the encoder in the run's checkpoint"):
        start.with_encoder(config, made, restored._replace(unsaved=others), None)


def test_a_network_without_features_is_refused():
    objective = objectives.added(objectives.Objective(None), objectives.dispersive(1, 2))
    with pytest.raises(ValueError, match="of layer 1, but the network offers only 0 layers"):
        objective.check_features(Functions(None, None))


@pytest.mark.extended
def test_a_config_names_published_encoders():
    """DINOv2 ViT-B/14 on pictures resized to 28: 4 tokens of 768; digits of 8 with patches of 4 have 4 too."""
    config = config_of("", "repa")
    entry = {"name": "dinov2", "width": 768, "depth": 1, "heads": 12, "hidden": 3072}
    config.encoder.update({"network": entry, "size": 28})
    config.model.patch = 4
    recipe = checks.validate(config).at((8, 8, 3))
    made = program.build(recipe, program.mesh_of(config))
    assert made.target.params["heads"]["term"]["dense_2"]["bias"].shape == (768,)
    assert made.target.unsaved["encoder"]["params"]["class_token"].shape == (1, 768)
