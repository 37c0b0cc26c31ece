"""Adversarial diffusion distillation: a student of one or few steps between a teacher and a discriminator."""

__all__ = ["adversarial_discriminator", "adversarial_generator"]

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, mix, player, sum_square, to_the_end
from diffusion.objectives.inputs import normal, pairs, split, times, weighted_mean_square
from diffusion.objectives.objective import Objective, Second, Teacher
from diffusion.objectives.objective_facts import Trained
from diffusion.parameterizations import Parameterization, predict
from diffusion.schedules import NoiseSchedule, at_each
from diffusion.timesteps import Density
from diffusion.weightings import Weighting


def adversarial_generator(
    student: Parameterization,
    teacher: Parameterization,
    student_density: Density,
    density: Density,
    weight: float = 2.5,
    weighting: Weighting | None = None,
) -> Objective:
    """The student's loss: to fool the discriminator, and to agree with the teacher's denoising.

        x = x0_student(alpha_s x_0 + sigma_s eps, s),    x_t = alpha_t x + sigma_t eps'
        loss = -D(x) + weight c(t) mean |x - stop x0_teacher(stop x_t, t)|^2

    Facts:
        loss: -D(x) + weight c(t) mean |x - stop x0_teacher(x_t, t)|^2; with heads, D is the mean over them
        networks: model (the student), teacher, discriminator, features (optional)
        optimum: none by itself: a game with `adversarial_discriminator`
        paper: Sauer et al. 2023, "Adversarial Diffusion Distillation", eq. 1, 2 and 4

    Args:
        student: parameterization of the network "model".
        teacher: parameterization of the network "teacher".
        student_density: distribution of s: the few times at which the student is sampled, t_max among them.
        density: distribution of t.
        weight: lambda of the paper, 2.5 there.
        weighting: (schedule, t) -> c; alpha(t) if None, the paper's "exponential weighting".

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" (the student's time), "adversarial" and
        "distillation", each `[B]`.
    """
    weighting = weighting or (lambda schedule, t: schedule.alpha(t))

    @entry(student, teacher)
    def loss(networks, schedule, keys, batch, step):
        student_keys, time_keys, noise_keys = split(keys, 3)
        condition = batch.get("condition")
        x, s, importance = _student(networks, schedule, student, student_density, student_keys, batch)
        fooled = -_logits(networks, x, condition)
        t, _ = times(density, time_keys, {**batch, "density": density.init()})
        x_t = mix(schedule, t, jax.lax.stop_gradient(x), normal(noise_keys, x))
        judged = jax.lax.stop_gradient(predict(frozen(networks, "teacher"), schedule, teacher, x_t, t, condition).x0)
        distillation = weighted_mean_square(weighting(schedule, at_each(schedule, t, x)), x - judged)
        losses = jnp.mean(fooled, axis=1) + weight * distillation
        return importance * losses, {"t": s, "adversarial": jnp.mean(fooled, axis=1), "distillation": distillation}

    return Objective(
        loss,
        reads=to_the_end(student),
        density=student_density,
        teacher=Teacher(),
        second=Second("discriminator", logit=True, by=adversarial_discriminator),
    )


def adversarial_discriminator(student: Parameterization, student_density: Density, r1: float = 1e-5) -> Objective:
    """The discriminator's hinge loss, with R1 on real data.

        loss = max(0, 1 - D(x_0)) + max(0, 1 + D(stop x)) + r1 |grad D(x_0)|^2

    The gradient is taken with respect to the features where a frozen network "features" makes the discriminator's
    input, as DINO does in the paper; otherwise with respect to x_0.

    Facts:
        loss: max(0, 1 - D(x_0)) + max(0, 1 + D(x)) + r1 |grad D(x_0)|^2; with heads, the mean over them
        networks: discriminator, model (the student), features (optional)
        optimum: D = 1 where p(x_0) > p(x), -1 where it is smaller
        paper: Sauer et al. 2023, "Adversarial Diffusion Distillation", eq. 3; Mescheder et al. 2018 for R1

    Args:
        student: parameterization of the network "model".
        student_density: distribution of the student's times.
        r1: gamma of the paper, >= 0; 1e-5 there; 0 saves the second derivative.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "real" and "fake" (mean logits), each `[B]`.

    Raises:
        ValueError: if r1 is negative.
    """
    if not r1 >= 0:
        raise ValueError(f"adversarial_discriminator: r1 = {r1} must not be negative (1e-5 in the paper)")

    @entry(student)
    def loss(networks, schedule, keys, batch, step):
        condition = batch.get("condition")
        x, s, importance = _student(networks, schedule, student, student_density, keys, batch)
        features = _features(networks, batch["x"], condition)
        # A head's logit of an example depends on that example alone, so that one pass differentiates them all.
        judge = lambda features: _head(networks, features, batch["x"].shape[0], condition)
        real, slope = jax.vjp(judge, features)
        penalty = 0.0
        if r1:
            squares = jax.vmap(lambda of_head: sum(map(sum_square, jax.tree.leaves(slope(of_head)[0]))))
            heads = jnp.broadcast_to(jnp.eye(real.shape[1], dtype=real.dtype)[:, None], (real.shape[1], *real.shape))
            penalty = r1 * jnp.mean(squares(heads), axis=0)
        fake = _logits(networks, jax.lax.stop_gradient(x), condition)
        hinge = jnp.mean(jax.nn.relu(1 - real) + jax.nn.relu(1 + fake), axis=1)
        metrics = {"t": s, "real": jnp.mean(real, axis=1), "fake": jnp.mean(fake, axis=1)}
        return importance * (hinge + penalty), metrics

    return Objective(loss, reads=None, density=student_density, network=Trained("discriminator"))


def _student(networks, schedule: NoiseSchedule, student, density, keys, batch) -> tuple[Array, Array, Array]:
    """The student's samples from noised data, with their times and importance."""
    time_keys, noise_keys = split(keys, 2)
    s, importance = times(density, time_keys, batch)
    x_s = mix(schedule, s, *pairs(noise_keys, batch))
    return predict(player(networks, "model"), schedule, student, x_s, s, batch.get("condition")).x0, s, importance


def _features(networks, x, condition):
    """The discriminator's input for clean data: its features, or x itself if there is no network "features"."""
    return networks["features"](x, jnp.zeros(x.shape[0]), condition) if "features" in networks else x


def _logits(networks, x, condition) -> Array:
    return _head(networks, _features(networks, x, condition), x.shape[0], condition)


def _head(networks, features, size, condition) -> Array:
    """`[B, heads]` logits in float32; the data is clean, and the clock 0."""
    logits = player(networks, "discriminator")(features, jnp.zeros(size), condition)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)).reshape(size, -1)
