"""Score identity distillation (SiD): a generator of one or few steps, by the identities of two scores."""

import jax
import jax.numpy as jnp

from diffusion.objectives.backward_simulation import Simulation, one_step
from diffusion.objectives.discriminators import check, fooled, judged, shared
from diffusion.objectives.distribution_matching import fake_score
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import mix, player, to_the_end, with_fixed_parameters
from diffusion.objectives.inputs import normal, split, times
from diffusion.objectives.objective import Objective, Second, Teacher
from diffusion.parameterizations import Parameterization
from diffusion.timesteps import Density


def score_identity(
    generator: Parameterization,
    teacher: Parameterization,
    fake: Parameterization,
    density: Density,
    alpha: float = 1.2,
    normalise: bool = True,
    samples: Simulation | None = None,
    block: int | None = None,
    adversarial: float = 0.0,
) -> Objective:
    """The generator's loss, an estimate of the Fisher divergence of its samples from the teacher's.

        x = G(z),    x_t = alpha_t x + sigma_t eps,    delta = x0_teacher(x_t) - x0_fake(x_t)
        loss = mean delta ((x0_teacher(x_t) - x) - alpha delta) / stop mean |x - x0_teacher(x_t)|

    The gradient goes through both networks to x_t, where `distribution_matching` stops it, and to neither's parameters.
    With the exact fake score and without the denominator, the loss has the expectation (1 - alpha) mean |delta|^2.
    Up to the factor sigma^4 / alpha_t^2, mean |delta|^2 is the Fisher divergence of the two scores. At alpha = 1/2 the
    loss has half of its gradient, although the fake network does not change with the generator.

    With a discriminator D in the fake network, which `fake_score` trains on the data, SiDA adds to the numerator
    adversarial log(1 + exp(-D(x_t))), the mean over the logits of each example. In the authors' code this mean is over
    all examples of a device.

    Facts:
        loss: (mean delta ((x0_teacher - x) - alpha delta) + adversarial log(1 + exp(-D))) / stop mean |x - x0_teacher|,
            delta = x0_teacher - x0_fake
        networks: model (the generator), teacher, fake (the score of the generator's samples)
        optimum: the teacher's distribution, where delta = 0
        paper: Zhou et al. 2024, "Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion
            Models for One-Step Generation", the loss that combines its two estimates by alpha; factors and values as
            in the authors' code. Zhou et al. 2024, "Adversarial Score identity Distillation: Rapidly Surpassing the
            Teacher in One Step", for D

    Args:
        generator: parameterization of the network "model", defined at t_max.
        teacher: parameterization of the network "teacher".
        fake: parameterization of the network "fake".
        density: distribution of t; in the authors' code Karras's sigma with uniform positions on the lower 80 % of the
            grid.
        alpha: weight of the biased estimate that is subtracted; 1.2 in the paper, 1 for its other setting.
        normalise: whether to divide by the distance of the sample to the teacher's estimate, as published.
        samples: simulation by which the generator makes them; `one_step` if None.
        block: block of the fake network whose features are the discriminator's logits, 1 the first; None: there is no
            discriminator.
        adversarial: weight of the discriminator's term, > 0 with a block; in SiDA's code 0.0001, beside a mean over the
            numbers of x.

    Returns:
        An objective; see `diffusion.objectives.inputs`. The batch's "x" gives shapes alone. Metrics: "t" `[B]`; with a
        block "adversarial" too.

    Raises:
        ValueError: if the discriminator has no block, or no weight.
    """
    check("score_identity", block, adversarial)
    samples = samples or one_step()

    @entry(generator, teacher, fake)
    def loss(networks, schedule, keys, batch, step):
        prior_keys, time_keys, noise_keys = split(keys, 3)
        condition = batch.get("condition")
        x = samples.draw(player(networks, "model"), schedule, generator, prior_keys, batch)
        t, importance = times(density, time_keys, batch)
        x_t = mix(schedule, t, x, normal(noise_keys, x))
        estimate = lambda name, read, block=None: with_fixed_parameters(
            lambda x_t: judged(player(networks, name), schedule, read, x_t, t, condition, block), x_t
        )
        real_x0, _ = estimate("teacher", teacher)
        fake_x0, logits = estimate("fake", fake, block)
        delta = real_x0 - fake_x0
        over = tuple(range(1, x.ndim))
        losses = jnp.mean(delta * (real_x0 - x - alpha * delta), axis=over)
        metrics = {"t": t}
        if logits is not None:
            metrics["adversarial"] = fooled(logits)
            losses = losses + adversarial * metrics["adversarial"]
        if normalise:
            scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(x - real_x0), axis=over))
            losses = losses / jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)
        return importance * losses, metrics

    return Objective(
        loss,
        reads=to_the_end(generator, samples.one_step),
        density=density,
        teacher=Teacher(bidirectional=samples.in_chunks),
        second=Second("fake", by=fake_score, features=() if block is None else (block,)),
        shares=shared(samples, block),
    )
