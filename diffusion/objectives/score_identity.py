"""Score identity distillation (SiD) of a generator with one or few steps, by identities between two scores."""

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

    The gradient flows through both networks to x_t, where `distribution_matching` stops it, but not to their
    parameters. With the exact fake score and without the denominator, the expectation of the loss is (1 - alpha) mean
    |delta|^2. Up to the factor sigma^4 / alpha_t^2, mean |delta|^2 is the Fisher divergence of the two scores. At alpha
    = 1/2 the gradient of the loss is half the gradient of mean |delta|^2, although the fake network is held fixed.

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
        normalise: whether to divide by the distance from the sample to the teacher's estimate, as published.
        samples: simulation that generates the samples; `one_step` if None.
        block: index, from 1, of the fake network's block whose features give the discriminator's logits; None for no
            discriminator.
        adversarial: weight of the discriminator's term, > 0 with a block; 0.0001 in SiDA's code, relative to a mean
            over the numbers of x.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Only the shape of the batch's "x" is used. Metrics: "t" `[B]`;
        with a block also "adversarial".

    Raises:
        ValueError: if there is a weight without a block, or a block without a weight.
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
