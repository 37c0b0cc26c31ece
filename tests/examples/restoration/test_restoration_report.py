"""The example's mixture by integration, its tasks, and its page."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import schedules
from diffusion.guidance import measurements
from diffusion.io import opener
from diffusion.models import interchange
from diffusion.models.lpips import LPIPS
from diffusion.recipe import ConfigError
from examples.restoration import exact, methods, mixtures, report, tasks
from tests import commands

SCHEDULE = schedules.cosine()
MIXTURE = exact.random_mixture(0, 3, 2, 0.4)
AXIS = np.linspace(-5, 5, 401)
GRID = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), -1).reshape(-1, 2)


def _density(x):
    squares = ((x[:, None] - MIXTURE.means) ** 2).sum(-1)
    return (MIXTURE.weights * np.exp(-squares / (2 * 0.4**2))).sum(-1)


def _moments(weights):
    weights = weights / weights.sum()
    mean = weights @ GRID
    return mean, (weights[:, None] * (GRID - mean)).T @ (GRID - mean)


def test_the_posterior_is_the_density_times_the_likelihood():
    A, y, noise_std = np.array([[1.0, -0.5]]), np.array([0.3]), 0.5
    posterior = exact.posterior(MIXTURE, A, y, noise_std)
    mean, covariance = _moments(_density(GRID) * np.exp(-((y - GRID @ A.T)[:, 0] ** 2) / (2 * noise_std**2)))
    for ours, expected in zip(exact.moments(posterior), (mean, covariance)):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_samples_of_a_mixture_have_its_moments():
    mean, covariance = _moments(_density(GRID))
    x = exact.draw(MIXTURE, 20_000, 0)
    np.testing.assert_allclose(x.mean(0), mean, atol=4.5 * covariance.max() ** 0.5 / 20_000**0.5)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=4.5 * 2**0.5 * covariance.max() / 20_000**0.5)


@pytest.mark.extended
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_the_denoiser_is_the_mean_of_the_data_given_the_sample(t):
    x = np.array([[0.4, -1.0], [1.5, 0.2]])
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    likelihood = np.exp(-((x[:, None] - alpha * GRID) ** 2).sum(-1) / (2 * sigma**2))
    expected = np.stack([_moments(_density(GRID) * row)[0] for row in likelihood])
    for time in (jnp.float32(t), jnp.full(2, t)):
        prediction = exact.denoiser(MIXTURE, SCHEDULE)(jnp.asarray(x, jnp.float32), time)
        np.testing.assert_allclose(prediction.x0, expected, atol=1e-4)
        np.testing.assert_allclose(alpha * prediction.x0 + sigma * prediction.eps, x, atol=1e-5)


@pytest.mark.extended
def test_every_task_measures_pictures_of_the_model():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *tasks.SHAPE)), jnp.float32)
    for task in tasks.tasks().values():
        y = task.forward(x)
        assert len(y) == 2 and np.isfinite(y).all()
        if task.linear:
            np.testing.assert_allclose(task.forward(task.linear.inverse(y, x)), y, atol=2e-2)  # A A^+ A = A
    power = (tasks.magnitudes(x) ** 2).sum((1, 2, 3))
    assert (power > 0.5 * (x**2).sum((1, 2, 3))).all()  # half of the spectrum, by Parseval


@pytest.mark.extended
@pytest.mark.parametrize(
    "method", [methods.pigdm, methods.twisted, methods.mcgdiff], ids=lambda method: method.__name__
)
def test_of_white_gaussian_data_the_exact_methods_draw_the_posterior(method):
    """Means and widths within five standard errors, and 2 % of the width by the discretisation of 40 steps."""
    mean, std, noise_std, number = np.array([0.5, -1.0, 0.2]), 0.7, 0.4, 500
    A, measured = np.array([[1.0, -0.5, 0.3]], np.float32), (1.5, -0.5)
    white = exact.Mixture(np.ones(1), mean[None], std**2 * np.eye(3))
    task = tasks.linear(measurements.matrix(A), noise_std)
    setting = methods.Setting(exact.denoiser(white, SCHEDULE), SCHEDULE, task, 40, std)
    y = jnp.tile(jnp.array(measured)[:, None], (number, 1))
    x = report.restored({"it": jax.jit(functools.partial(method, setting))}, y, SCHEDULE, (3,), 0)["it"]
    for value, samples in zip(measured, x.reshape(number, 2, 3).swapaxes(0, 1)):
        target = exact.posterior(white, A, np.array([value]), noise_std)
        deviations = np.sqrt(np.diag(target.covariance))
        np.testing.assert_allclose(samples.mean(0), target.means[0], atol=5 * 0.7 / number**0.5)
        np.testing.assert_allclose(samples.std(0), deviations, rtol=5 / (2 * number) ** 0.5 + 0.02)


def test_the_width_of_an_estimate_is_that_of_white_data():
    """1 / r^2 = 1 / s^2 + alpha^2 / sigma^2."""
    t, std = 0.3, 0.7
    setting = methods.Setting(lambda x, t: x, SCHEDULE, tasks.tasks()["deblurring"], 10, std)
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    assert float(methods._width(setting)(t)) == pytest.approx(1 / (1 / std**2 + alpha**2 / sigma**2), rel=1e-5)


def test_a_residual_is_counted_in_units_of_the_noise():
    """Pictures that are one grey level of 255 off, of a measurement whose residual is twice the noise everywhere."""
    truth = jnp.zeros((2, *tasks.SHAPE))
    task = tasks.Task(lambda x: x[:, :3], 0.05, None)
    x = np.full((9, 2, *tasks.SHAPE), 2 / 255, np.float32)
    figures = report.measured(x, truth, task, jnp.full((2, 3, 8, 1), 2 / 255 - 0.1))
    assert figures["residual"] == pytest.approx(2, rel=1e-5)
    assert figures["psnr"] == pytest.approx(20 * np.log10(255), rel=1e-4)
    assert figures["coverage"] == 0 and 0.99 < figures["ssim"] < 1 and "lpips" not in figures
    x[0, 0], x[4, 1, :4] = -1, -1  # the first picture lies within, and so does the upper half of the second
    assert report.measured(x, truth, task, jnp.zeros((2, 3, 8, 1)))["coverage"] == 0.75


def test_each_sample_is_compared_with_its_own_picture_and_measurement():
    """Nine samples of each of two pictures, two grey levels off each; measurements differ by 0.1 from the truth."""
    truth = np.random.default_rng(0).uniform(-0.9, 0.9, (2, *tasks.SHAPE)).astype(np.float32)
    truth = np.float32(np.round((truth + 1) * 127.5) / 127.5 - 1)
    x = np.stack([truth + 4 / 255] * 9)
    task = tasks.Task(lambda x: x[:, ::2], 0.05, None)
    figures = report.measured(x, jnp.asarray(truth), task, jnp.asarray(truth[:, ::2] + 4 / 255 - 0.1))
    assert figures["psnr"] == pytest.approx(20 * np.log10(255 / 2), rel=1e-4)
    assert figures["residual"] == pytest.approx(2, rel=1e-4)


def test_samples_of_a_shifted_and_wider_gaussian_are_off_by_as_much():
    """N(m + d, 4 C) beside N(m, C): |d| over the root of the trace, and an error of 3."""
    target = exact.Mixture(np.ones(1), np.array([[1.0, -1.0]]), 0.25 * np.eye(2))
    random = np.random.default_rng(0)
    x = np.array([1.3, -1.0]) + random.standard_normal((20_000, 2))
    reference = np.array([1.0, -1.0]) + 0.5 * random.standard_normal((20_000, 2))
    figures = report.compared(x, target, reference, np.array([[0.0, 1.0]]))
    assert figures["mean"] == pytest.approx(0.3 / 0.5**0.5, abs=0.03)
    assert figures["covariance"] == pytest.approx(3, abs=0.1)
    assert figures["coverage"] == pytest.approx(0.9990, abs=0.001)  # within 1.645 of 0, of a Gaussian of width 0.5
    assert figures["distance"] == pytest.approx(0.5, abs=0.03)
    itself = report.compared(reference, target, reference, np.eye(2))
    assert itself["distance"] == 0 and itself["coverage"] == pytest.approx(0.9, abs=0.001)


@pytest.mark.extended
def test_lpips_reads_a_folder_of_its_weights_and_refuses_another(tmp_path):
    """A network of one stage with weights 1 in its two channels; equal pictures are at the distance 0."""
    module = LPIPS((2,))
    params = module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    interchange.save(tmp_path / "weights", module, params)
    distance = report.perceived(str(tmp_path / "weights"))
    assert distance is not None and report.perceived("") is None
    x, y = (jax.random.uniform(jax.random.key(k), (2, *tasks.SHAPE), minval=-1) for k in (1, 2))
    np.testing.assert_allclose(distance(x, x), 0, atol=1e-6)
    enlarged = [np.asarray(pictures).repeat(8, 1).repeat(8, 2) for pictures in (x, y)]
    f, g = (module.apply({"params": params}, jnp.asarray(pictures)).layers[0] for pictures in enlarged)
    unit = lambda f: f / np.maximum(np.linalg.norm(f, axis=-1, keepdims=True), 1e-10)
    np.testing.assert_allclose(distance(x, y), ((unit(f) - unit(g)) ** 2).sum(-1).mean((1, 2)), rtol=1e-4)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"--lpips=.*other has no weights of LPIPS: "):
        report.perceived(str(tmp_path / "other"))
    with pytest.raises(
        ConfigError, match=r"--lpips=.*nowhere: there is no such folder\. Valid: a folder with config\.json"
    ):
        report.perceived(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("more", [{}, {"lpips": 0.125}])
def test_the_page_has_every_figure_with_the_weights_of_lpips_and_without(more):
    figures = {"psnr": 16.5, "residual": 1.1, "ssim": 0.75, "coverage": 0.625} | more
    by_method = {"the prior": {"2 of 8": 0.5}}
    content = {
        "posteriors": dict.fromkeys(("distance", "mean", "covariance", "coverage"), by_method),
        "pictures": {"inpainting": {"DPS": figures}},
        "protocol": {
            "model": "digits", "steps": 50, "number": 8, "draws": 9, "points": 500, "git_commit": "a", "device": "cpu"
        },
    }  # fmt: skip
    page = report.markdown(content)
    assert "| DPS | 16.5 (1.1) |" in page and "| DPS | 0.75 (62%) |" in page and "| DDRM | needs a linear" in page
    assert ("| DPS | 0.125 |" in page, "not available" in page) == ((True, False) if more else (False, True))


def test_the_problems_are_those_of_the_authors_code():
    """In units of a component's width: means on a grid of step 8, singular values in (0, 1), less noise."""
    mixture, A, y, noise_std = mixtures.problem(6, 4, 1)
    values = np.linalg.svd(A, compute_uv=False)
    assert A.shape == (4, 6) and y.shape == (4,) and 0 < values.min() < values.max() < 1
    assert 0 < noise_std * mixtures.STEP < values.max()
    means = mixture.means * mixtures.STEP
    np.testing.assert_allclose(mixture.covariance * mixtures.STEP**2, np.eye(6))
    assert {tuple(row) for row in means[:, :2]} == {(8.0 * i, 8.0 * j) for i in range(-2, 3) for j in range(-2, 3)}
    np.testing.assert_array_equal(means[:, :2], means[:, 4:])
    others = [mixtures.problem(*kind)[2] for kind in ((6, 4, 1), (6, 4, 2))]
    np.testing.assert_array_equal(others[0], y)
    assert (others[1] != y).all()


@pytest.mark.slow
def test_the_methods_of_one_path_are_farther_than_the_posterior_itself():
    far = mixtures.distances(4, 1, 0, steps=10, points=100)
    assert list(far) == ["the posterior itself", *mixtures.NAMES]
    assert far["the posterior itself"] < min(far[name] for name in ("DPS", "PiGDM", "DDRM"))


@pytest.mark.slow
def test_the_report_has_every_method(tmp_path, monkeypatch):
    """One measurement of the mixture, and a linear task and another of the digits: every method takes both kinds."""
    monkeypatch.setattr(report, "MEASURED", report.MEASURED[:1])
    monkeypatch.setattr(report, "CASES", 1)
    some = {name: task for name, task in tasks.tasks().items() if name in ("inpainting", "phase retrieval")}
    monkeypatch.setattr(tasks, "tasks", lambda: some)
    line = {"model": "digits", "out": str(tmp_path), "steps": 10, "number": 8, "draws": 9, "lpips": "", "points": 100}
    monkeypatch.setattr(report, "flags", types.SimpleNamespace(FLAGS=types.SimpleNamespace(**line)))
    report.main([])
    content = opener.read_table(tmp_path / "report.json")
    assert set(content["posteriors"]) == {"distance", "mean", "covariance", "coverage"}
    assert set(content["posteriors"]["coverage"]) == {
        "the posterior itself",
        "the prior",
        *methods.LINEAR,
        *methods.ANY,
    }
    assert set(content["pictures"]["inpainting"]) == {*methods.LINEAR, *methods.ANY}
    assert set(content["pictures"]["phase retrieval"]) == set(methods.ANY)
    assert (tmp_path / "samples.png").is_file() and report.TITLE in (tmp_path / "report.md").read_text()


@pytest.mark.extended
def test_data_of_an_odd_dimension_are_refused():
    done = commands.run("-m", "examples.restoration.mixtures", "--dimension=8", "--dimension=5")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith("Valid: even numbers from 4 on.")
