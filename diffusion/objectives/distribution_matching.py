"""Distribution matching distillation: a few-step generator whose samples follow the teacher's distribution.

There are three objectives: one for the generator, one for the score network of its samples ("fake"), and DMD's
regression on a fixed set of the teacher's samples. DMD2 has no regression and updates the fake score more often:
`alternating` with Player(fake, "fake", ...) at every step and Player(generator, "model", ..., every=5). DMD2's
discriminator uses the features of a block of the fake network (`block`). f-distill computes from its logits the ratio
of densities that weights the gradient (`f`).
"""

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import functions_of, is_number, traced
from diffusion.objectives.backward_simulation import Simulation, generate, one_step
from diffusion.objectives.denoising import denoising
from diffusion.objectives.discriminators import check, fooled, judged, logits_of, shared
from diffusion.objectives.entry import entry
from diffusion.objectives.f_divergences import Divergence
from diffusion.objectives.few_step import (
    Distance,
    frozen,
    mix,
    per_example,
    player,
    squared,
    to_the_end,
    with_features,
    with_fixed_parameters,
)
from diffusion.objectives.inputs import mean_square, normal, split, times
from diffusion.objectives.objective import Denoises, Objective, Second, Teacher
from diffusion.objectives.objective_facts import Trained
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization, predict
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density


def distribution_matching(
    generator: Parameterization,
    teacher: Parameterization,
    fake: Parameterization,
    density: Density,
    normalise: bool = True,
    samples: Simulation | None = None,
    f: Divergence | None = None,
    ratios: tuple[float, float] = (0.1, 20.0),
    block: int | None = None,
    adversarial: float = 0.0,
) -> Objective:
    """The generator's loss, whose gradient lowers a divergence (KL or another) of its samples from the teacher's.

        x = G(z),    x_t = alpha_t x + sigma_t eps,    G as `samples` say
        loss = mean |x - stop(x - g)|^2 / 2,    g = (x0_fake(x_t) - x0_teacher(x_t)) / mean |x - x0_teacher(x_t)|

    so that d loss / dx = g / D. Without the denominator, g = sigma^2 / alpha (score_fake - score_teacher), whose
    expectation times dx / d theta is, up to the factor alpha^2 / sigma^2, the gradient of KL(p_fake,t || p_teacher,t).
    A discriminator in the fake network has the mean logit D = log(p_data,t / p_fake,t). f-distill uses h(exp D) g, the
    gradient of the f-divergence, instead of g. DMD2 adds the loss adversarial log(1 + exp(-D(x_t))).

    f-distill's code divides the ratios by their running means at each time, and h by its mean over the batch. Here h is
    1 where both densities agree, and an example's loss depends only on that example.

    Facts:
        loss: mean |x - stop(x - h g)|^2 / 2 + adversarial log(1 + exp(-D)); its value is not a divergence
        networks: model (the generator), teacher, fake (the score of the generator's samples)
        optimum: the teacher's distribution (the exact fake score gives the gradient of a KL divergence)
        paper: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", eq. 7 and 8; factors as in
            the authors' code, which leaves out alpha. Yin et al. 2024, "Improved Distribution Matching Distillation for
            Fast Image Synthesis", for the discriminator; Xu et al. 2025, "One-step Diffusion Models with f-Divergence
            Distribution Matching", for h

    Args:
        generator: parameterization of the network "model", defined at t_max.
        teacher: parameterization of the network "teacher".
        fake: parameterization of the network "fake".
        density: distribution of t; in the paper, uniform on [0.02, 0.98] of the range.
        normalise: whether to divide by the distance from the sample to the teacher's estimate, as published.
        samples: simulation that generates the samples, such as `backward_simulation` (DMD2) or `self_forcing`;
            `one_step` if None.
        f: weight h of the f-divergence, from `objectives.f_divergences`; None for KL, which needs no discriminator.
        ratios: smallest and largest value to which the ratio of densities is clipped; (0.1, 20) in f-distill's code.
        block: index, from 1, of the fake network's block whose features give the discriminator's logits; None for no
            discriminator.
        adversarial: weight of the discriminator's term, >= 0; 0.003 in DMD2's code on ImageNet.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Only the shape of the batch's "x" is used. Metrics: "t" `[B]`;
        with a discriminator also "adversarial", and with f also "ratio_weight", the weight h.

    Raises:
        ValueError: if a discriminator is needed without a block, a block is unused, or 0 < least <= 1 <= largest does
            not hold.
    """
    check("distribution_matching", block, adversarial, f is not None)
    if not traced(*ratios) and not 0 < ratios[0] <= 1 <= ratios[1]:
        raise ValueError(f"distribution_matching: ratios = {ratios}. Valid: 0 < least <= 1 <= largest, e.g. (0.1, 20)")
    samples = samples or one_step()

    @entry(generator, teacher, fake)
    def loss(networks, schedule, keys, batch, step):
        prior_keys, time_keys, noise_keys = split(keys, 3)
        condition = batch.get("condition")
        x = samples.draw(player(networks, "model"), schedule, generator, prior_keys, batch)
        t, importance = times(density, time_keys, batch)
        x_t = mix(schedule, t, x, normal(noise_keys, x))
        known = jax.lax.stop_gradient(x_t)
        real_x0 = predict(frozen(networks, "teacher"), schedule, teacher, known, t, condition).x0
        judge = lambda x_t: judged(player(networks, "fake"), schedule, fake, x_t, t, condition, block)
        fake_x0, logits = with_fixed_parameters(judge, known if is_number(adversarial, 0) else x_t)
        g = fake_x0 - real_x0
        metrics = {"t": t}
        if normalise:
            scale = jnp.mean(jnp.abs(x - real_x0), axis=tuple(range(1, x.ndim)))
            g = g / left_broadcast(jnp.maximum(scale, jnp.finfo(scale.dtype).tiny), g)
        if f is not None:
            log_ratio = jnp.clip(jnp.mean(logits, axis=1), *map(functions_of(*ratios).log, ratios))
            metrics["ratio_weight"] = jax.lax.stop_gradient(f(log_ratio))
            g = left_broadcast(metrics["ratio_weight"], g) * g
        losses = mean_square(x - jax.lax.stop_gradient(x - g)) / 2
        if logits is not None:
            metrics["adversarial"] = fooled(logits)
            losses = losses + adversarial * metrics["adversarial"]
        return importance * losses, metrics

    return Objective(
        loss,
        reads=to_the_end(generator, samples.one_step),
        density=density,
        teacher=Teacher(bidirectional=samples.in_chunks),
        second=Second("fake", by=fake_score, features=() if block is None else (block,)),
        shares=shared(samples, block),
    )


def fake_score(
    generator: Parameterization,
    fake: Parameterization,
    weighting: Weighting,
    density: Density,
    samples: Simulation | None = None,
    block: int | None = None,
    adversarial: float = 0.0,
) -> Objective:
    """Denoising of the generator's samples, by which "fake" learns their score, and with a block a density ratio.

        x = stop G(z),    x_t = alpha_t x + sigma_t eps,    y_t = alpha_t x_0 + sigma_t eps'
        loss = w(t) |x0_fake(x_t) - x|^2 + adversarial (log(1 + exp(-D(y_t))) + log(1 + exp(D(x_t))))

    The first term is scaled as in `denoising`. D are the logits from a block of the fake network, for data y_t and
    samples x_t at the same times; their mean estimates the log-ratio of the two densities.

    Facts:
        loss: `denoising`'s on x = stop G(z), plus adversarial (log(1 + exp(-D(y_t))) + log(1 + exp(D(x_t))))
        networks: fake, model (the generator)
        optimum: E[x | x_t] for samples x of the generator; D = log p_data,t / p_fake,t
        paper: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", eq. 6; Yin et al. 2024,
            "Improved Distribution Matching Distillation for Fast Image Synthesis", section 4.3, for D; Zhou et al.
            2024, "Adversarial Score identity Distillation", for its logits

    Args:
        generator: parameterization of the network "model", defined at t_max.
        fake: parameterization of the network "fake".
        weighting: (schedule, t) -> weight on the squared error of x0; `edm(0.5)` in the authors' code for EDM.
        density: distribution of t.
        samples: simulation that generates the samples, as in the generator's objective.
        block: index of the fake network's block whose features give the discriminator's logits, as in the generator's
            objective.
        adversarial: weight of the discriminator's loss, > 0 with a block; 0.01 in DMD2's code on ImageNet.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Without a block, only the shape of the batch's "x" is used.
        Metrics: "t" `[B]`; with a block also the mean logits "real" and "generated".

    Raises:
        ValueError: if there is a weight without a block, or a block without a weight.
    """
    check("fake_score", block, adversarial)
    samples = samples or one_step()
    denoise = denoising(fake, weighting, density)

    @entry(generator)
    def loss(networks, schedule, keys, batch, step):
        prior_keys, denoise_keys, *real_keys = split(keys, 2 if block is None else 3)
        x = samples.draw(frozen(networks, "model"), schedule, generator, prior_keys, batch)
        generated = {**batch, "x": jax.lax.stop_gradient(x)}
        generated.pop("noise", None)  # it is paired with the data x
        if block is None:
            return denoise({"model": player(networks, "fake")}, schedule, denoise_keys, generated, step)
        judge, recorded = with_features(player(networks, "fake"), (block,))
        losses, metrics = denoise({"model": judge}, schedule, denoise_keys, generated, step)
        y_t = mix(schedule, metrics["t"], batch["x"], normal(real_keys[0], batch["x"]))
        predict(judge, schedule, fake, y_t, metrics["t"], batch.get("condition"))
        generated_logits, real_logits = map(logits_of, recorded)
        means = {"real": jnp.mean(real_logits, axis=1), "generated": jnp.mean(generated_logits, axis=1)}
        return losses + adversarial * (fooled(real_logits) + fooled(-generated_logits)), {**metrics, **means}

    return Objective(
        loss, reads=Denoises(fake), density=density, network=Trained("fake"), shares=shared(samples, block)
    )


def regression(generator: Parameterization, distance: Distance | None = None) -> Objective:
    """DMD's regression on pairs of noise z and the teacher's sample y from it: loss = d(G(z), y).

    Facts:
        loss: d(G(z), y)
        networks: model (the generator)
        optimum: the teacher's deterministic sampler
        paper: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", eq. 9, with LPIPS

    Args:
        generator: parameterization of the network "model", defined at t_max.
        distance: d of two batches -> `[B]`; the mean square if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. The batch holds "x" (y) and either "start" (z, drawn by
        `samplers.prior`) or "noise", as in the pairs of `reflow_pairs`. Metrics: "t" `[B]`.

    Raises:
        ValueError: when called, if the batch has neither "start" nor "noise".
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
