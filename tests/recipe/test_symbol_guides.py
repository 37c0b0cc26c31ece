"""Classifier guidance of symbols by config: with the exact classifier of a second run, and what does not fit."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, schedules, timesteps
from diffusion.experiments.sampling import generate, symbol_samples
from diffusion.recipe import ConfigError, checks, names, recipes, versions
from diffusion.training.checkpointing import checkpoints

MASKS = {"name": "absorbing", "keeping": {"name": "linear"}, "size": 4}
DENSITY = {"name": "uniform_density"}
P = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])  # of the symbols at each of two positions, given the class
TABLE = np.append(np.log(P).T, np.zeros((1, 2)), 0)  # log p(symbol | class), of the mask nothing


class Letters(nn.Module):
    """The exact network of symbols that are independent given one of two classes, or their exact classifier."""

    size: int = 4
    outputs: int = 0
    num_classes: int = 0
    takes_symbols = True

    @nn.compact
    def __call__(self, x, t, condition=None):
        self.param("unused", nn.initializers.zeros, (1,))
        soft = x if jnp.issubdtype(x.dtype, jnp.floating) else jax.nn.one_hot(x, self.size)
        evidence = soft @ jnp.asarray(TABLE, jnp.float32)  # [B, L, C]
        if self.outputs:
            return evidence * x.shape[1]
        weights = jax.nn.softmax(evidence.sum(1))
        p = jnp.append(weights @ jnp.asarray(P, jnp.float32), jnp.full((len(x), 1), 1e-9), -1)
        return jnp.broadcast_to(jnp.log(p)[:, None], (*soft.shape[:2], self.size))


WEIGHTS = {"params": {"unused": jnp.zeros(1)}}


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """The folder of a run that trained the exact classifier, and a function of changes to its config."""
    names.add(names.MODELS, Letters, "letters")
    monkeypatch.setattr(checkpoints, "steps", lambda of: [40])
    monkeypatch.setattr(checkpoints, "load_ema", lambda of, step=None: (WEIGHTS, step))

    def write(**changes):
        judge = config_of()
        judge.objective = {"name": "noisy_symbol_classification", "process": MASKS, "density": DENSITY, "wrappers": ()}
        for name, value in changes.items():
            judge[name] = value
        (tmp_path / "config.json").write_text(versions.write(judge))
        return str(tmp_path)

    yield write
    del names.MODELS["letters"]


def config_of(**guide):
    config = recipes.load("symbols/prose:tiny")
    config.objective = {"name": "masked_diffusion", "process": MASKS, "density": DENSITY, "wrappers": ()}
    config.model = {"name": "letters", "num_classes": 2}
    config.data.source = {"name": "arrays", "path": "none.npz"}
    config.data.shape = (2,)
    config.train.steps = 40
    if guide:
        config.sample.guides = ({"name": "symbol_classifier", **guide},)
    return config


@pytest.mark.extended
def test_the_exact_classifier_of_a_second_run_guides_to_the_law_of_the_class(judged):
    path = judged()
    config = config_of(log_probability=path, exact=True)
    config.sample.number = config.sample.batch_size = 3000
    recipe = checks.validate(config).at((2,))
    labels = np.arange(3000, dtype=np.int32) % 2
    weights = {"config.sample.guides[0].log_probability": WEIGHTS}
    predict = symbol_samples.predictor(recipe, recipe.objective.reads)
    x = jnp.array([[3, 3], [3, 3], [0, 3], [3, 2]])
    found = jax.jit(lambda labels: jnp.exp(predict(WEIGHTS, labels, weights)(x, jnp.full(4, 0.5))))(labels[:4])
    for row, position in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (3, 0)):
        np.testing.assert_allclose(found[row, position, :3], P[labels[row]], atol=1e-5)
    made = generate.generator(recipe).images(WEIGHTS, labels, generate.seeds(config, 3000))
    for label in (0, 1):
        shares = np.bincount(made[labels == label].ravel(), minlength=4) / 3000
        np.testing.assert_allclose(shares[:3], P[label], atol=4 * 0.5 / np.sqrt(3000))


def test_the_loss_of_the_classifier_is_the_logarithm_of_its_law_at_noised_symbols():
    """t = 1 - 2^-24 or so: all is masked and both classes are as likely; near t = 0 Bayes' rule by hand."""
    line, keys = schedules.rectified_flow(), jax.random.split(jax.random.key(0), 4)
    x, labels = jnp.array([[0, 0], [0, 2], [2, 2], [1, 2]]), jnp.array([0, 0, 1, 1])
    module = Letters(4, outputs=2)
    network = {"model": lambda *inputs: module.apply(WEIGHTS, *inputs)}
    joint = P[:, np.asarray(x)].prod(-1)
    for end, p in ((1e-6, joint / joint.sum(0)), (1 - 1e-6, np.full((2, 4), 0.5))):
        at = lambda state, keys, index, end=end: (jnp.full(len(keys), end), jnp.ones(len(keys)))
        density = timesteps.uniform_density(line)._replace(sample=at)
        objective = discrete.noisy_symbol_classification(discrete.absorbing(discrete.linear(), 4), density, np.int32(2))
        losses, metrics = objective(network, line, keys, {"x": x, "condition": labels}, 0)
        np.testing.assert_allclose(losses, -np.log(p[np.asarray(labels), np.arange(4)]), rtol=1e-5)
        assert metrics["accuracy"].tolist() == (np.argmax(p, 0) == np.asarray(labels)).tolist()
    with pytest.raises(ValueError, match='needs classes, but the batch has no "condition" of labels'):
        objective(network, line, keys, {"x": x}, 0)
    with pytest.raises(ValueError, match=r"null = 1\. Valid: the number of classes, at least 2"):
        discrete.noisy_symbol_classification(discrete.absorbing(discrete.linear(), 4), density, 1)


def test_the_classifier_that_guides_is_the_softmax_of_its_mean_output():
    """The network's output is t * table[x] + its condition, which is the null class, for the second class alone."""
    table = np.array([[0.3, -0.2], [1.0, 0.5], [-0.4, 0.9], [0.0, 0.1]])
    second = np.array([0.0, 1.0])
    network = lambda x, t, null: jnp.asarray(table)[x] * t[:, None, None] + null[:, None, None] * second
    objective = discrete.noisy_symbol_classification(
        discrete.absorbing(discrete.linear(), 4), timesteps.uniform_density(schedules.rectified_flow()), np.int32(2)
    )
    x, labels = np.array([[0, 3, 1], [2, 2, 1]]), np.array([1, 0])
    judge = objective.network.judges(network, schedules.rectified_flow(), jnp.asarray(labels))
    for t in (0.4, np.array([0.4, 0.7])):
        mean = table[x].mean(1) * np.broadcast_to(t, 2)[:, None] + 2 * second
        expected = (mean - np.log(np.exp(mean).sum(1, keepdims=True)))[np.arange(2), labels]
        np.testing.assert_allclose(judge(jnp.asarray(x), t), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="trains all positions at one time, but the network sees blocks of 2"):
        objective.network.check(types.SimpleNamespace(causal=2))


def test_a_guide_or_a_second_run_that_does_not_fit_is_refused_at_once(judged):
    path = judged()
    with pytest.raises(ConfigError, match=r"guides\[0\]: classifier guides a denoiser, which this run does not train"):
        checks.validate(config_of(name="classifier", log_probability=path))
    numbers = recipes.load("digits:tiny")
    numbers.sample.guides = ({"name": "symbol_classifier", "log_probability": path},)
    with pytest.raises(ConfigError, match=r"symbol_classifier guides a predictor of symbols, .*Valid: e.g. classifier"):
        checks.validate(numbers)
    with pytest.raises(ConfigError, match="symbol_classifier' needs log_probability"):
        checks.validate(config_of(scale=2.0))
    config = config_of(log_probability=path)
    checks.validate(config)
    judged(objective={"name": "masked_diffusion", "process": MASKS, "density": DENSITY, "wrappers": ()})
    with pytest.raises(ConfigError, match="'masked_diffusion' does not train a classifier"):
        checks.validate(config)
    other = {"name": "noisy_symbol_classification", "process": MASKS | {"size": 5}, "density": DENSITY, "wrappers": ()}
    judged(objective=other)
    with pytest.raises(
        ConfigError, match=r"has config\.objective\.process = .*'size': 5.*Valid: a run with .*'size': 4"
    ):
        checks.validate(config)
    blocks = {"name": "block_diffusion", "process": MASKS, "density": DENSITY, "block": 2, "wrappers": ()}
    causal = config_of(log_probability=judged())
    causal.objective, causal.model = (
        blocks,
        {"name": "symbol_transformer", "clock": "none", "causal": 2, "num_classes": 2},
    )
    with pytest.raises(
        ConfigError, match=r"config\.model\.causal = 2, config\.sample\.guides = .*sees whole sequences"
    ):
        checks.validate(causal)
    path_of_distances = {"name": "metric_path", "distances": {"name": "line_distances", "size": 4}}
    flow = {"name": "discrete_flow_matching", "process": path_of_distances, "density": DENSITY, "wrappers": ()}
    judged(objective=flow | {"name": "noisy_symbol_classification"})
    config.objective, config.sample.sampler = flow, {"name": "metric_flow"}
    with pytest.raises(ConfigError, match="the jumps of a MetricPath do not reverse a process, and a class"):
        checks.validate(config)
