"""Distribution matching distillation: a few-step generator whose samples follow the teacher's distribution.

There are three objectives: for the generator, for the score of its samples ("fake"), and DMD's regression on a fixed
set of the teacher's samples. DMD2 has no regression and more updates of the fake score: `alternating` with
Player(fake, "fake", ...) at every step and Player(generator, "model", ..., every=5).
"""

__all__ = ["distribution_matching", "fake_score", "regression"]

import jax
import jax.numpy as jnp

from diffusion.objectives.backward_simulation import Simulation, generate, one_step
from diffusion.objectives.denoising import denoising
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import Distance, frozen, mix, per_example, player, squared, to_the_end
from diffusion.objectives.inputs import mean_square, normal, split, times
from diffusion.objectives.objective import Denoises, Objective, Second, Teacher
from diffusion.objectives.objective_facts import Trained
from diffusion.parameterizations import Parameterization, predict
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density
from diffusion.weightings import Weighting


def distribution_matching(
    generator: Parameterization,
    teacher: Parameterization,
    fake: Parameterization,
    density: Density,
    normalise: bool = True,
    samples: Simulation | None = None,
) -> Objective:
    """The generator's loss, whose gradient lowers the KL divergence of its samples from the teacher's.

        x = G(z),    x_t = alpha_t x + sigma_t eps,    G as `samples` say
        loss = mean |x - stop(x - g)|^2 / 2,    g = (x0_fake(x_t) - x0_teacher(x_t)) / mean |x - x0_teacher(x_t)|

    so that d loss / dx = g / D. Without the denominator, g = sigma^2 / alpha (score_fake - score_teacher), whose
    expectation times dx / d theta is, up to the factor alpha^2 / sigma^2, the gradient of KL(p_fake,t || p_teacher,t).

    Facts:
        loss: mean |x - stop(x - g)|^2 / 2; its value is no divergence
        networks: model (the generator), teacher, fake (the score of the generator's samples)
        optimum: the teacher's distribution (the exact fake score gives the gradient of a KL divergence)
        paper: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", eq. 7 and 8; factors as in
            the authors' code, which leaves out alpha

    Args:
        generator: parameterization of the network "model", defined at t_max.
        teacher: parameterization of the network "teacher".
        fake: parameterization of the network "fake".
        density: distribution of t, within [0.02, 0.98] of the range in the paper.
        normalise: whether to divide by the distance of the sample to the teacher's estimate, as published.
        samples: simulation by which the generator makes them: `backward_simulation` (DMD2), `self_forcing`; `one_step`
            if None.

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
        x_t = mix(schedule, t, jax.lax.stop_gradient(x), normal(noise_keys, x))
        real_x0 = predict(frozen(networks, "teacher"), schedule, teacher, x_t, t, condition).x0
        fake_x0 = predict(frozen(networks, "fake"), schedule, fake, x_t, t, condition).x0
        g = fake_x0 - real_x0
        if normalise:
            scale = jnp.mean(jnp.abs(x - real_x0), axis=tuple(range(1, x.ndim)))
            g = g / left_broadcast(jnp.maximum(scale, jnp.finfo(scale.dtype).tiny), g)
        return importance * mean_square(x - jax.lax.stop_gradient(x - g)) / 2, {"t": t}

    return Objective(
        loss,
        reads=to_the_end(generator, samples.one_step),
        density=density,
        teacher=Teacher(),
        second=Second("fake", by=fake_score),
        shares=samples.setting,
    )


def fake_score(
    generator: Parameterization,
    fake: Parameterization,
    weighting: Weighting,
    density: Density,
    samples: Simulation | None = None,
) -> Objective:
    """Denoising of the generator's own samples, by which "fake" learns their score.

        x = stop G(z),    loss = w(t) |x0_fake(alpha_t x + sigma_t eps) - x|^2, in the scale of `denoising`

    Facts:
        loss: `denoising`'s on x = stop G(z)
        networks: fake, model (the generator)
        optimum: E[x | x_t] for samples x of the generator
        paper: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", eq. 6

    Args:
        generator: parameterization of the network "model", defined at t_max.
        fake: parameterization of the network "fake".
        weighting: (schedule, t) -> weight on the squared error of x0; `edm(0.5)` in the authors' code for EDM.
        density: distribution of t.
        samples: simulation by which the generator makes them, as in its own objective.

    Returns:
        An objective; see `diffusion.objectives.inputs`. The batch's "x" gives shapes alone. Metrics: "t" `[B]`.
    """
    samples = samples or one_step()
    denoise = denoising(fake, weighting, density)

    @entry(generator)
    def loss(networks, schedule, keys, batch, step):
        prior_keys, denoise_keys = split(keys, 2)
        x = samples.draw(frozen(networks, "model"), schedule, generator, prior_keys, batch)
        generated = {**batch, "x": jax.lax.stop_gradient(x)}
        generated.pop("noise", None)  # it is paired with the batch's own x
        return denoise({"model": player(networks, "fake")}, schedule, denoise_keys, generated, step)

    return Objective(loss, reads=Denoises(fake), density=density, network=Trained("fake"), shares=samples.setting)


def regression(generator: Parameterization, distance: Distance | None = None) -> Objective:
    """DMD's regression on pairs of a start and the teacher's sample from it: loss = d(G(z), y).

    Facts:
        loss: d(G(z), y)
        networks: model (the generator)
        optimum: the teacher's deterministic sampler
        paper: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", eq. 9, with LPIPS

    Args:
        generator: parameterization of the network "model", defined at t_max.
        distance: d of two batches -> `[B]`; the mean square if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. The batch holds "start" (z, as `samplers.prior` draws it), or
        "noise" as the pairs of `reflow_pairs` have it, and "x" (y). Metrics: "t" `[B]`.

    Raises:
        ValueError: when called, if the batch has neither.
    """
    distance = per_example(distance or squared)

    @entry(generator)
    def loss(networks, schedule, keys, batch, step):
        start = batch.get("start", batch.get("noise"))
        if start is None:
            raise ValueError(
                'regression learns from pairs: the batch needs the entry "noise", from which each "x" was sampled'
            )
        x = generate(player(networks, "model"), schedule, generator, start, batch.get("condition"))
        return distance(x, batch["x"]), {"t": jnp.full(x.shape[0], schedule.t_max)}

    return Objective(loss, reads=to_the_end(generator, one_step=True), teacher=Teacher(pairs=True))
