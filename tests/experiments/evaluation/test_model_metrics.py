"""Figures of a run's model: classifier accuracy score, copying, and bits per dimension against a closed form."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits as recipe
from diffusion import schedules
from diffusion.data.sources import DataSpec
from diffusion.experiments import evaluate
from diffusion.experiments.evaluation import model_metrics, real_images
from diffusion.metrics import classifier
from diffusion.parameterizations import Prediction
from diffusion.recipe import ConfigError, recipes

MEAN, STD = -0.2, 0.6


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """A cache of its own, and classifiers trained for a fifth of the steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFUSION_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(classifier, "train", functools.partial(classifier.train, steps=120))
        patch.setattr(classifier, "_in_memory", {})
        yield


def subject(images, labels, **changes):
    config = recipe.get_config()
    config.update_from_flattened_dict(changes)
    train, real = (real_images.split_of(config, split) for split in ("train", "test"))
    return model_metrics.Subject(config, "runs/none", images, labels, train, real)


def real_digits():
    train = real_images.split_of(recipe.get_config(), "train")
    return train.images, train.labels


@pytest.mark.slow
def test_accuracy_of_shuffled_labels_is_chance_beside_the_ceiling_of_real_images():
    images, labels = real_digits()
    result = model_metrics.accuracy(subject(images, np.random.default_rng(0).permutation(labels)))
    assert result["cas"]["value"] < 0.3 < 0.85 < result["cas_of_real_images"]["value"]
    assert result["cas"]["samples"] == result["cas_of_real_images"]["samples"] == len(images)
    low, high = result["cas"]["interval"]
    assert low < result["cas"]["value"] < high


def test_accuracy_needs_classes():
    images, labels = real_digits()
    with pytest.raises(ConfigError, match="no classes"):
        model_metrics.accuracy(subject(images, labels, **{"model.num_classes": 0}))


def test_accuracy_needs_samples_of_every_class():
    images, labels = real_digits()
    few = labels < 8
    with pytest.raises(ConfigError, match=r"none of the 1010 samples has the classes \[8, 9\]"):
        model_metrics.accuracy(subject(images[few], labels[few]))


def made(images, labels, train, real, classes):
    """A subject of pictures of one pixel."""
    split = lambda values, labels: types.SimpleNamespace(
        images=np.asarray(values, np.uint8).reshape(-1, 1, 1, 1), labels=np.asarray(labels),
        spec=types.SimpleNamespace(num_classes=classes),
    )  # fmt: skip
    samples = split(images, labels)
    config = {"model": {"num_classes": classes}}
    return model_metrics.Subject(config, "runs/none", samples.images, samples.labels, split(*train), split(*real))


def test_samples_and_as_many_training_images_teach_a_classifier(monkeypatch):
    taught = []

    def accuracy(images, labels, *real):
        taught.append((images.ravel().tolist(), labels.tolist()))
        assert real[0].ravel().tolist() == [7, 8] and real[1].tolist() == [0, 1]
        return types.SimpleNamespace(
            value=0.25 * len(taught), interval=(0.1, 0.9), samples=len(images), test=2, by_class=[1.0], digest="0f"
        )

    shown = []
    monkeypatch.setattr(model_metrics.classifier_accuracy, "classifier_accuracy", accuracy)
    monkeypatch.setattr(
        model_metrics, "trained_classifier", lambda split, what: shown.append((split.images.ravel().tolist(), what))
    )
    train = (range(50, 60), np.arange(10) % 2)
    found = model_metrics.accuracy(made(range(4), [0, 1, 0, 1], train, ([7, 8], [0, 1]), 2))
    (samples, real) = taught
    assert shown == [(samples[0], "samples"), (real[0], "real images")]  # both trainings have a bar
    assert samples == ([0, 1, 2, 3], [0, 1, 0, 1])
    assert len(set(real[0])) == 4 and set(real[0]) <= set(range(50, 60)) and real[1] == [i % 2 for i in real[0]]
    about = {"interval": [0.1, 0.9], "samples": 4, "reference": 2, "by_class": [1.0], "sha256": "0f"}
    assert found == {"cas": {"value": 0.25, "better": "higher", **about}, "cas_of_real_images": {"value": 0.5, **about}}
    assert sorted(real[1]) == [0, 0, 1, 1]
    rare = (range(50, 70), [0] * 19 + [1])
    model_metrics.accuracy(made(range(2), [0, 1], rare, ([7, 8], [0, 1]), 2))
    assert sorted(taught[-1][1]) == [0, 1]  # a random pair would lack class 1 nine times of ten
    with pytest.raises(ConfigError, match=r"no training image has the classes \[1\], which held-out images have"):
        model_metrics.accuracy(made(range(2), [0, 1], (range(9), [0] * 9), ([7, 8], [0, 1]), 2))
    many = made(range(40), np.arange(40) % 2, train, ([7, 8], [0, 1]), 2)
    assert model_metrics.accuracy(many)["cas"]["samples"] == 10  # as many as there are training images
    with pytest.raises(ConfigError, match=r"none of the 3 samples has the classes \[1\]"):
        model_metrics.accuracy(made(range(3), [0, 0, 0], train, ([7, 8], [0, 1]), 2))


@pytest.mark.parametrize("classes", [0, 3])
def test_samples_on_training_images_are_copies_and_held_out_ones_are_not(monkeypatch, classes):
    """Of 30 held-out pixels halfway between training pixels 4 apart, and samples on these: C_T by its ranks."""
    used = []
    extractor = lambda name: (
        lambda images, labels: (
            used.append((name, len(images)))
            or types.SimpleNamespace(
                extract=lambda images: images.reshape(len(images), -1).astype(np.float32), record=f"of {name}"
            )
        )
    )
    monkeypatch.setattr(model_metrics.features, "classifier_features", extractor("a classifier"))
    monkeypatch.setattr(model_metrics.features, "pixels", extractor("pixels"))
    monkeypatch.setattr(model_metrics, "trained_classifier", lambda split: used.append(("a bar", len(split.images))))
    train, held_out = 4 * np.arange(40), 4 * np.arange(30) + 2
    subject = made(train[:25], np.zeros(25), (train, np.zeros(40)), (held_out, np.zeros(30)), classes)
    found = model_metrics.copying(subject)
    name = "a classifier" if classes else "pixels"
    assert used == [("a bar", 40)] * bool(classes) + [(name, 40)]  # 600 steps in silence look like a command that hangs
    score = (0 - 25 * 30 / 2) / np.sqrt(25 * 30 * (25 + 30 + 1) / 12)  # each sample is nearer than each held-out row
    assert found["data_copying"] == {
        "value": pytest.approx(score), "samples": 25, "reference": 40, "features": f"of {name}",
    }  # fmt: skip
    shares = (found["authenticity"]["value"], found["authenticity_of_held_out"]["value"])
    assert (
        shares == (0, 0) and found["authenticity_of_held_out"]["samples"] == 30
    )  # 2 from a row that is 4 from the next
    far = made(train[:25], np.zeros(25), (train, np.zeros(40)), (4 * np.arange(5) + 200, np.zeros(5)), classes)
    assert model_metrics.copying(far)["authenticity_of_held_out"]["value"] == 1


@pytest.mark.slow
def test_copies_of_training_images_are_told_from_held_out_ones():
    images, labels = real_digits()
    nudged = np.clip(images[:300].astype(int) + np.random.default_rng(0).integers(-2, 3, images[:300].shape), 0, 255)
    copied = model_metrics.copying(subject(nudged.astype(np.uint8), labels[:300]))
    assert copied["data_copying"]["value"] < -3
    assert copied["authenticity"]["value"] < copied["authenticity_of_held_out"]["value"] - 0.3
    held_out = real_images.split_of(recipe.get_config(), "test")
    honest = model_metrics.copying(subject(held_out.images, held_out.labels))
    assert honest["data_copying"]["value"] == pytest.approx(0, abs=1e-9)  # the held-out images against themselves
    assert honest["authenticity"]["value"] == honest["authenticity_of_held_out"]["value"]


@pytest.mark.extended
def test_bits_per_dim_of_a_known_model(monkeypatch):
    """Of the model N(MEAN, STD^2) for every pixel: the closed form at the dequantised bytes, with their noise averaged.

    E over u of -log2 N((b + u) / 128 - 1) - log2(1 / 128), by quadrature over the byte's cell; the noise of one draw
    scatters the mean by far less than the tolerance.
    """
    schedule = schedules.rectified_flow()

    def denoise(x, t):
        alpha, sigma = (f(t).reshape(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
        whitened = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return Prediction(MEAN + alpha * STD**2 * whitened, sigma * whitened)

    sampled = []
    denoiser_of = lambda recipe: sampled.append(recipe.config.sample) or (lambda params, labels: denoise)
    monkeypatch.setattr(model_metrics.run_denoiser, "denoiser", denoiser_of)
    monkeypatch.setattr(model_metrics.checkpoints, "load_ema", lambda folder: ((), 7))
    images, labels = real_digits()
    altered = {"sample.merge": 0.5, "sample.cache.name": "forecast", "sample.guidance.scale": 3.0}
    wanted = subject(images, labels, **{"evaluate.number": 100, "schedule": {"name": "rectified_flow"}, **altered})
    result = model_metrics.bits_per_dim(wanted)["bits_per_dim"]
    (plain,) = sampled  # what makes samples faster or stronger has another density
    assert (plain.merge, plain.cache.name, plain.guidance.scale) == (0.0, "", 1.0) and not plain.guides
    chosen = np.sort(np.random.default_rng(0).permutation(len(wanted.real.images))[:100])
    cell = (np.arange(1000) + 0.5) / 1000
    x = (np.arange(256)[:, None] + cell) / 128 - 1
    nats = ((x - MEAN) ** 2 / (2 * STD**2) + 0.5 * np.log(2 * np.pi * STD**2)).mean(1)
    exact = nats[wanted.real.images[chosen]].mean() / np.log(2) + 7
    assert result["value"] == pytest.approx(exact, abs=2e-3)
    assert result["samples"] == 100 and 0 < result["standard_error"] < 0.1
    protocol = result["protocol"]
    assert protocol["step"] == 7 and protocol["evaluations"] > 5
    assert (protocol["probes"], protocol["seed"], protocol["guidance"]) == (1, 0, 1.0)
    assert protocol["rtol"] == protocol["atol"] == 1e-5 == protocol["t_start"] and protocol["dimensions"] == "all"
    assert protocol["images"] == f"100 of the {len(wanted.real.images)} held-out images, drawn by seed 0"
    assert protocol["dequantisation"].endswith("+ 7 bits") and protocol["weights"] == "moving average"


def bits_without_a_solver(monkeypatch, images, number, density, **changes):
    """The bits of each image, and the recipes of its denoisers, where the log-density is a function of (x, probe)."""
    recipes_used, parts = [], model_metrics.likelihood
    result = lambda denoise, schedule, x, solver, probe, real: types.SimpleNamespace(
        log_density=density(x, probe), nfe=jnp.asarray(9.0)
    )
    monkeypatch.setattr(parts, "log_likelihood", result)
    monkeypatch.setattr(parts, "hutchinson", lambda probe: probe)
    denoiser_of = lambda recipe: recipes_used.append(recipe) or (lambda params, labels: None)
    monkeypatch.setattr(model_metrics.run_denoiser, "denoiser", denoiser_of)
    monkeypatch.setattr(model_metrics.checkpoints, "load_ema", lambda folder: ((), 7))
    monkeypatch.setattr(model_metrics.bootstrap, "mean", lambda bits: {"bits": bits})
    config = recipe.get_config("tiny")
    config.update_from_flattened_dict({"evaluate.number": number, **changes})
    spec = DataSpec("some", "test", images.shape[1:], 0, len(images), dtype=str(images.dtype))
    real = real_images.Split(images, np.zeros(len(images), int), spec)
    found = model_metrics.bits_per_dim(model_metrics.Subject(config, None, images, None, real, real))
    return found["bits_per_dim"]["bits"], recipes_used


def test_bits_are_of_levels_for_bytes_and_of_the_density_for_other_numbers(monkeypatch):
    """With a log-density of -log 2 for each unit of x: the mean of x, and 7 more for bytes, which are dequantised."""
    density = lambda x, probe: -jnp.log(2.0) * x.reshape(len(x), -1).sum(1)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    altered = {"sample.guidance.scale": 3.0, "sample.merge": 0.5}
    bits, (used,) = bits_without_a_solver(monkeypatch, images, 3, density, **altered)
    half = 0.5 / 128  # of a level, the mean of the noise
    np.testing.assert_allclose(bits, images.reshape(3, -1).mean(1) / 128 - 1 + half + 7, atol=2e-3)
    assert (used.config.sample.guidance.scale, used.config.sample.merge) == (1.0, 0.0)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    bits, _ = bits_without_a_solver(monkeypatch, x, 3, density)
    np.testing.assert_allclose(bits, x.reshape(3, -1).mean(1), atol=1e-5)


def test_each_image_has_a_noise_and_a_probe_of_its_own_whatever_images_are_measured(monkeypatch):
    first = lambda images, keys: images[:, 0, 0, 0] + jax.vmap(jax.random.uniform)(keys)
    monkeypatch.setattr(model_metrics.likelihood, "dequantise", first)
    monkeypatch.setattr(model_metrics.likelihood, "rademacher", lambda keys, shape: jax.vmap(jax.random.uniform)(keys))
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 1), np.uint8)
    difference = lambda x, probe: -(x - probe)  # 0 of the first image if both were drawn by one key
    every, _ = bits_without_a_solver(monkeypatch, images, 6, difference)
    some, _ = bits_without_a_solver(monkeypatch, images, 3, difference)
    assert len(set(np.round([7, *every], 6))) == 7
    assert set(np.round(some, 6)) < set(np.round(every, 6))


@pytest.mark.extended
def test_bits_per_dim_of_padded_sets_are_those_of_what_is_real(monkeypatch):
    """Of N(MEAN, STD^2) for every number, without dequantisation: the closed form over the real elements alone."""
    schedule = schedules.rectified_flow()
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(MEAN, STD, (6, 4, 3)))
    masks = np.arange(4) < np.array([1, 4, 2, 3, 4, 1])[:, None]

    def denoise(x, t):
        alpha, sigma = (f(t).reshape(-1, 1, 1) for f in (schedule.alpha, schedule.sigma))
        whitened = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return Prediction(MEAN + alpha * STD**2 * whitened, sigma * whitened)

    monkeypatch.setattr(model_metrics.run_denoiser, "denoiser", lambda recipe: lambda params, labels: denoise)
    monkeypatch.setattr(model_metrics.checkpoints, "load_ema", lambda folder: ((), 7))
    config = recipes.load("shapes/points:tiny")
    spec = DataSpec("sets", "test", (4, 3), 0, 6, dtype="float32")
    real = real_images.Split(x, np.zeros(6, int), spec, conditions={"real": masks})
    result = model_metrics.bits_per_dim(model_metrics.Subject(config, None, x, None, real, real))["bits_per_dim"]
    nats = (x - MEAN) ** 2 / (2 * STD**2) + 0.5 * np.log(2 * np.pi * STD**2)
    exact = [nats[i][masks[i]].mean() / np.log(2) for i in range(6)]
    assert result["value"] == pytest.approx(np.mean(exact), abs=2e-3)
    assert result["protocol"]["dimensions"] == "of what is real"


@pytest.mark.parametrize(
    "names, words",
    [
        (["cas", "bdp"], "'bdp'. Did you mean 'bpd'"),
        (["fid", "cas"], "fid is measured in the features of Inception or of an encoder"),
        (["fd_pixels"], r"--metrics=fd_pixels: .*config\.evaluate\.features.* --figures=fd_pixels in compare"),
        (["cas", "energy_distance_over_floor"], "--figures=energy_distance_over_floor in compare and sweep"),
    ],
)
def test_names_of_figures_are_checked(names, words, monkeypatch):
    class Flags:
        protocol = None

    monkeypatch.setattr(evaluate.flags, "FLAGS", Flags())
    with pytest.raises(ConfigError, match=words):
        evaluate.split_metrics(names)


def test_metrics_of_pictures_are_refused_with_all_protocols(monkeypatch):
    monkeypatch.setattr(evaluate.flags, "FLAGS", types.SimpleNamespace(protocol="all"))
    with pytest.raises(ConfigError, match=r"--metrics=fid: --protocol=all measures only the Frechet distance.*cas"):
        evaluate.split_metrics(["cas", "fid"])
    assert evaluate.split_metrics(["cas"]) == ([], ["cas"])
