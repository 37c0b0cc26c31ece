"""The likelihood of a run on a manifold, by an exact field whose density is a closed form."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import manifolds
from diffusion.experiments.evaluation import manifold_likelihood
from diffusion.experiments.evaluation.real_images import drawn_rows
from diffusion.objectives import Moves
from diffusion.recipe import ConfigError

SHRINKS = 0.7  # dx/dt = rate x: a normal of deviation exp(-rate) at the data becomes one of deviation 1


@pytest.fixture
def subject(monkeypatch):
    """A run on the line whose flow is known, and so its density."""

    def make(points, number=1000, batch=500, distribution=None, reads=None):
        line = manifolds.euclidean(1)
        log_density = lambda x: -0.5 * (x[..., 0] ** 2 + jnp.log(2 * jnp.pi))
        prior = types.SimpleNamespace(log_density=log_density)
        reads = reads or Moves(None, prior, line)
        schedule = types.SimpleNamespace(t_min=0.0, t_max=1.0)
        recipe = types.SimpleNamespace(objective=types.SimpleNamespace(reads=reads), schedule=schedule)
        field = lambda params, labels: manifolds.TangentField(line, lambda x, t: params * x)
        source = types.SimpleNamespace()
        if distribution is not None:
            source.distribution = types.SimpleNamespace(log_density=distribution)
        monkeypatch.setattr(manifold_likelihood, "BATCH", batch)
        monkeypatch.setattr(manifold_likelihood.run_denoiser, "tangent_field", lambda recipe, reads: field)
        monkeypatch.setattr(manifold_likelihood, "recipe_of_run", lambda subject: recipe)
        monkeypatch.setattr(manifold_likelihood.checkpoints, "load_ema", lambda folder: (SHRINKS, 7))
        monkeypatch.setattr(manifold_likelihood, "held_out_source", lambda subject: source)
        objective = types.SimpleNamespace(name="flow_matching")
        config = types.SimpleNamespace(evaluate=types.SimpleNamespace(number=number, split="test"), objective=objective)
        real = types.SimpleNamespace(images=np.float32(points)[:, None])
        return types.SimpleNamespace(config=config, workdir="run", real=real)

    return make


def exact(points):
    """-log N(x; 0, exp(-2 rate))."""
    std = np.exp(-SHRINKS)
    return 0.5 * (points / std) ** 2 + np.log(std * np.sqrt(2 * np.pi))


@pytest.mark.parametrize("batch", [3, 7, 500])
def test_the_closed_form_whatever_the_batches(subject, batch):
    points = np.random.default_rng(0).normal(size=7)
    found = manifold_likelihood.negative_log_likelihood(subject(points, batch=batch))
    assert found.keys() == {"negative_log_likelihood"}
    figure = found["negative_log_likelihood"]
    assert figure["value"] == pytest.approx(exact(points).mean(), abs=1e-5) and figure["samples"] == 7
    assert figure["standard_error"] == pytest.approx(exact(points).std(ddof=1) / np.sqrt(7), abs=1e-5)
    assert figure["protocol"] == {"unit": "nats", "solver": "RK4, 20 steps", "divergence": "exact", "step": 7}


def test_the_excess_over_the_density_of_the_data_at_the_same_points(subject):
    """Here that of N(0, 1), on points that are drawn: the excess is a difference, point by point."""
    points = np.linspace(-2, 2, 9)
    of_data = lambda x: -0.5 * (x[..., 0] ** 2 + jnp.log(2 * jnp.pi))
    found = manifold_likelihood.negative_log_likelihood(subject(points, number=6, distribution=of_data))
    some = points[drawn_rows(9, 6)]
    entropy = 0.5 * (some**2 + np.log(2 * np.pi))
    assert found["exact_negative_log_likelihood"]["value"] == pytest.approx(entropy.mean(), abs=1e-6)
    gap = found["excess_negative_log_likelihood"]
    assert gap["value"] == pytest.approx((exact(some) - entropy).mean(), abs=1e-5) and gap["samples"] == 6
    assert gap["standard_error"] == pytest.approx((exact(some) - entropy).std(ddof=1) / np.sqrt(6), abs=1e-5)


def test_a_run_on_no_manifold_is_refused(subject):
    with pytest.raises(
        ConfigError, match=r"--metrics=nll is for runs on manifolds, but config\.objective\.name = 'flow_matching'"
    ):
        manifold_likelihood.negative_log_likelihood(subject([0.0], reads=object()))


def test_the_solver_takes_twenty_steps_from_the_data_to_the_noise(subject, monkeypatch):
    seen = []
    inner = manifold_likelihood.riemannian_log_likelihood
    monkeypatch.setattr(
        manifold_likelihood,
        "riemannian_log_likelihood",
        lambda field, x, times, prior: seen.append(times) or inner(field, x, times, prior),
    )
    manifold_likelihood.negative_log_likelihood(subject([0.3]))
    np.testing.assert_allclose(seen[0], np.arange(21) / 20)
