"""Test log-likelihood of a run on a manifold, compared with the exact density of its data if that is known."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays import chunks
from diffusion.experiments.evaluation.figures import LOWER
from diffusion.experiments.evaluation.real_images import drawn_rows
from diffusion.experiments.evaluation.subject import held_out_source, recipe_of_run
from diffusion.experiments.sampling import run_denoiser
from diffusion.manifolds import riemannian_log_likelihood
from diffusion.metrics import bootstrap
from diffusion.objectives import Moves
from diffusion.recipe import ConfigError
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import progress

BATCH = 500  # points whose likelihood is computed at once
STEPS = 20  # steps of the classical Runge-Kutta method


def negative_log_likelihood(subject: Any) -> dict:
    """The mean -log p(x) of the test points in nats, with respect to the volume of the manifold, by the moving average.

    If the source of the data has a `distribution`, the mean -log p(x) of the exact density is computed as well, which
    estimates the entropy; the mean difference at the same points estimates the divergence KL(data, model).

    Args:
        subject: `model_metrics.Subject` of a run on a manifold.

    Raises:
        ConfigError: for a run that is not on a manifold.
    """
    config = subject.config
    params, step = checkpoints.load_ema(subject.workdir)
    recipe = recipe_of_run(subject)
    reads = recipe.objective.reads
    if not isinstance(reads, Moves):
        raise ConfigError(
            f"--metrics=nll is for runs on manifolds, but config.objective.name = {config.objective.name!r}. Valid: "
            "e.g. riemannian_flow_matching; for pictures use bpd."
        )
    schedule = recipe.schedule
    times = np.linspace(schedule.t_min, schedule.t_max, STEPS + 1)
    field = run_denoiser.tangent_field(recipe, reads)

    @jax.jit
    def log_density_of_model(params, points):
        labels = jnp.zeros(len(points), jnp.int32)
        return riemannian_log_likelihood(field(params, labels), points, times, reads.prior.log_density).log_density

    points = subject.real.images[drawn_rows(len(subject.real.images), config.evaluate.number)]
    with progress.bar("likelihood", len(points), "points") as advance:
        measured = functools.partial(log_density_of_model, params)
        nll = -chunks.applied(measured, points, min(BATCH, len(points)), advance).astype(np.float64)
    protocol = {"unit": "nats", "solver": f"RK4, {STEPS} steps", "divergence": "exact", "step": step}
    metrics = {"negative_log_likelihood": {**bootstrap.mean(nll), "better": LOWER, "protocol": protocol}}
    distribution = getattr(held_out_source(subject), "distribution", None)
    if distribution is not None:
        exact = -np.asarray(jax.jit(distribution.log_density)(jnp.asarray(points)), np.float64)
        metrics["exact_negative_log_likelihood"] = bootstrap.mean(exact)
        metrics["excess_negative_log_likelihood"] = bootstrap.mean(nll - exact)
    return metrics
