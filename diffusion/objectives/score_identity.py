"""Score identity distillation (SiD): a generator of one or few steps, by the identities of two scores."""

__all__ = ["score_identity"]

import jax
import jax.numpy as jnp

from diffusion.objectives.backward_simulation import Simulation, one_step
from diffusion.objectives.distribution_matching import fake_score
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import mix, player, to_the_end, with_fixed_parameters
from diffusion.objectives.inputs import normal, split, times
from diffusion.objectives.objective import Objective, Second, Teacher
from diffusion.parameterizations import Parameterization, predict
from diffusion.timesteps import Density


def score_identity(
    generator: Parameterization,
    teacher: Parameterization,
    fake: Parameterization,
    density: Density,
    alpha: float = 1.2,
    normalise: bool = True,
    samples: Simulation | None = None,
) -> Objective:
    """The generator's loss, an estimate of the Fisher divergence of its samples from the teacher's.

        x = G(z),    x_t = alpha_t x + sigma_t eps,    delta = x0_teacher(x_t) - x0_fake(x_t)
        loss = mean delta ((x0_teacher(x_t) - x) - alpha delta) / stop mean |x - x0_teacher(x_t)|

    The gradient goes through both networks to x_t, where `distribution_matching` stops it, and to neither's parameters.
    With the exact fake score and without the denominator, the loss has the expectation (1 - alpha) mean |delta|^2.
    Up to the factor sigma^4 / alpha_t^2, mean |delta|^2 is the Fisher divergence of the two scores. At alpha = 1/2 the
    loss has half of its gradient, although the fake network does not change with the generator.

    Facts:
        loss: mean delta ((x0_teacher - x) - alpha delta) / stop mean |x - x0_teacher|, delta = x0_teacher - x0_fake
        networks: model (the generator), teacher, fake (the score of the generator's samples)
        optimum: the teacher's distribution, where delta = 0
        paper: Zhou et al. 2024, "Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion
            Models for One-Step Generation", the loss that combines its two estimates by alpha; factors and values as
            in the authors' code

    Args:
        generator: parameterization of the network "model", defined at t_max.
        teacher: parameterization of the network "teacher".
        fake: parameterization of the network "fake".
        density: distribution of t; in the authors' code Karras's sigma with uniform positions on the lower 80 % of the
            grid.
        alpha: weight of the biased estimate that is subtracted; 1.2 in the paper, 1 for its other setting.
        normalise: whether to divide by the distance of the sample to the teacher's estimate, as published.
        samples: simulation by which the generator makes them; `one_step` if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. The batch's "x" gives shapes alone. Metrics: "t" `[B]`.
    """
    samples = samples or one_step()

    @entry(generator, teacher, fake)
    def loss(networks, schedule, keys, batch, step):
        prior_keys, time_keys, noise_keys = split(keys, 3)
        condition = batch.get("condition")
        x = samples.draw(player(networks, "model"), schedule, generator, prior_keys, batch)
        t, importance = times(density, time_keys, batch)
        x_t = mix(schedule, t, x, normal(noise_keys, x))
        estimate = lambda name, read: with_fixed_parameters(
            lambda x_t: predict(player(networks, name), schedule, read, x_t, t, condition).x0, x_t
        )
        real_x0 = estimate("teacher", teacher)
        delta = real_x0 - estimate("fake", fake)
        over = tuple(range(1, x.ndim))
        losses = jnp.mean(delta * (real_x0 - x - alpha * delta), axis=over)
        if normalise:
            scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(x - real_x0), axis=over))
            losses = losses / jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)
        return importance * losses, {"t": t}

    return Objective(
        loss,
        reads=to_the_end(generator, samples.one_step),
        density=density,
        teacher=Teacher(),
        second=Second("fake", by=fake_score),
        shares=samples.setting,
    )
