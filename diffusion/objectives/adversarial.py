"""Adversarial diffusion distillation: a student of one or few steps learns from a teacher and a discriminator.

ADD's discriminator sees clean samples, or a frozen network's features of them. LADD's consists of heads on the
teacher's features of noised samples (`blocks`), whose noise levels are drawn from `noise_density`.
"""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.parameters import is_number, traced
from diffusion.arrays.promotion import promoted
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import (
    check_blocks,
    frozen,
    mix,
    player,
    shared_blocks,
    sum_square,
    teacher_features,
    to_the_end,
)
from diffusion.objectives.inputs import normal, pairs, split, times, weighted_mean_square
from diffusion.objectives.objective import Objective, Second, Teacher
from diffusion.objectives.objective_facts import Trained
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization, predict
from diffusion.schedules import NoiseSchedule, at_each
from diffusion.timesteps import Density


def adversarial_generator(
    student: Parameterization,
    teacher: Parameterization,
    student_density: Density,
    density: Density,
    weight: float = 2.5,
    weighting: Weighting | None = None,
    noise_density: Density | None = None,
    blocks: tuple[int, ...] = (),
) -> Objective:
    """The student's loss: it fools the discriminator, and agrees with the teacher's denoising.

        x = x0_student(alpha_s x_0 + sigma_s eps, s),    x_t = alpha_t x + sigma_t eps'
        loss = -D(x) + weight c(t) mean |x - stop x0_teacher(stop x_t, t)|^2

    With blocks, D(x) stands for D(h), where h are the teacher's features after these blocks for the input alpha_r x +
    sigma_r eps''; the gradient flows through them. LADD has no second term.

    Facts:
        loss: -D(x) + weight c(t) mean |x - stop x0_teacher(x_t, t)|^2; with heads, D is the mean over them
        networks: model (the student), teacher, discriminator, features (optional)
        optimum: none by itself: a game with `adversarial_discriminator`
        paper: Sauer et al. 2023, "Adversarial Diffusion Distillation", eq. 1, 2 and 4; Sauer et al. 2024, "Fast
            High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation", for blocks

    Args:
        student: parameterization of the network "model".
        teacher: parameterization of the network "teacher".
        student_density: distribution of s: the few times at which the student is sampled, t_max among them.
        density: distribution of t.
        weight: weight of the distillation term, lambda of the paper; 2.5 there. With 0, as in LADD, the teacher's
            estimate is not computed.
        weighting: (schedule, t) -> c; alpha(t) if None, the paper's "exponential weighting".
        noise_density: distribution of r, the time at which the discriminator sees samples, needed with blocks;
            logit-normal in LADD. More noise shows the discriminator structure, less noise shows it detail.
        blocks: indices, from 1, of the teacher's blocks whose features the discriminator receives as a tuple; () if it
            receives the clean sample.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" (the student's time), "adversarial" and
        "distillation", each `[B]`.

    Raises:
        ValueError: if blocks are given without noise_density, or noise_density without blocks.
    """
    _check("adversarial_generator", noise_density, blocks)
    weighting = weighting or (lambda schedule, t: schedule.alpha(t))

    @entry(student, teacher)
    def loss(networks, schedule, keys, batch, step):
        student_keys, time_keys, noise_keys, *judge_keys = split(keys, 5 if blocks else 3)
        r_keys, eps_keys = judge_keys or (None, None)
        condition = batch.get("condition")
        x, s, importance = _student(networks, schedule, student, student_density, student_keys, batch)
        r = _noise_times(noise_density, r_keys, batch)
        fooled = -_logits(
            networks, _input(networks, schedule, teacher, blocks, r, eps_keys, x, condition), r, condition
        )
        distillation = jnp.zeros_like(importance)
        if not is_number(weight, 0):
            t, _ = times(density, time_keys, {**batch, "density": density.init()})
            x_t = mix(schedule, t, jax.lax.stop_gradient(x), normal(noise_keys, x))
            x0 = jax.lax.stop_gradient(predict(frozen(networks, "teacher"), schedule, teacher, x_t, t, condition).x0)
            distillation = weighted_mean_square(weighting(schedule, at_each(schedule, t, x)), x - x0)
        losses = jnp.mean(fooled, axis=1) + weight * distillation
        return importance * losses, {"t": s, "adversarial": jnp.mean(fooled, axis=1), "distillation": distillation}

    return Objective(
        loss,
        reads=to_the_end(student),
        density=student_density,
        teacher=Teacher(),
        second=Second("discriminator", not blocks, adversarial_discriminator, separate=bool(blocks), features=blocks),
        shares=shared_blocks(blocks) or None,
    )


def adversarial_discriminator(
    student: Parameterization,
    student_density: Density,
    r1: float = 1e-5,
    teacher: Parameterization | None = None,
    noise_density: Density | None = None,
    blocks: tuple[int, ...] = (),
) -> Objective:
    """The discriminator's hinge loss, with the R1 gradient penalty on real data.

        loss = max(0, 1 - D(x_0)) + max(0, 1 + D(stop x)) + r1 |grad D(x_0)|^2

    The penalty's gradient is with respect to the discriminator's input: x_0, the features of the frozen network
    "features" (DINO in the paper), or the teacher's features of `blocks` (LADD). With blocks, data and samples are
    noised to the same time r with different noise.

    Facts:
        loss: max(0, 1 - D(x_0)) + max(0, 1 + D(x)) + r1 |grad D(x_0)|^2; with heads, the mean over them
        networks: discriminator, model (the student), features (optional), teacher (with blocks)
        optimum: D = 1 where p(x_0) > p(x), -1 where it is smaller
        paper: Sauer et al. 2023, "Adversarial Diffusion Distillation", eq. 3; Mescheder et al. 2018 for R1; Sauer et
            al. 2024, "Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation", for blocks

    Args:
        student: parameterization of the network "model".
        student_density: distribution of the student's times.
        r1: weight of the penalty, gamma of the paper, >= 0; 1e-5 there. 0 saves the second derivative.
        teacher: parameterization of the network "teacher", for blocks.
        noise_density: distribution of the time r at which the discriminator sees examples, as in the generator's
            objective.
        blocks: blocks of the teacher whose features the discriminator receives, as in the generator's objective.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "real" and "fake" (mean logits), each `[B]`.

    Raises:
        ValueError: if r1 is negative, only one of blocks and noise_density is given, or blocks have no teacher.
    """
    _check("adversarial_discriminator", noise_density, blocks)
    if not traced(r1) and not r1 >= 0:
        raise ValueError(f"adversarial_discriminator: r1 = {r1} must not be negative (1e-5 in the paper)")
    if blocks and teacher is None:
        raise ValueError(
            f"adversarial_discriminator: blocks = {blocks} are the teacher's, but there is no parameterization of the "
            "teacher. Valid: a teacher, or no blocks"
        )

    @entry(student, teacher if blocks else None)
    def loss(networks, schedule, keys, batch, step):
        condition = batch.get("condition")
        student_keys, *judge_keys = split(keys, 4) if blocks else (keys,)
        r_keys, real_keys, fake_keys = judge_keys or (None,) * 3
        x, s, importance = _student(networks, schedule, student, student_density, student_keys, batch)
        r = _noise_times(noise_density, r_keys, batch)
        see = lambda keys, x: _input(networks, schedule, teacher, blocks, r, keys, x, condition)
        judge = lambda features: _logits(networks, features, r, condition)
        # The logits of an example depend only on that example, so one pass differentiates all of them.
        real, slope = jax.vjp(judge, see(real_keys, batch["x"]))
        penalty = 0.0
        if not is_number(r1, 0):
            squares = jax.vmap(lambda of_head: sum(map(sum_square, jax.tree.leaves(slope(of_head)[0]))))
            heads = jnp.broadcast_to(jnp.eye(real.shape[1], dtype=real.dtype)[:, None], (real.shape[1], *real.shape))
            penalty = r1 * jnp.mean(squares(heads), axis=0)
        fake = judge(see(fake_keys, jax.lax.stop_gradient(x)))
        hinge = jnp.mean(jax.nn.relu(1 - real) + jax.nn.relu(1 + fake), axis=1)
        metrics = {"t": s, "real": jnp.mean(real, axis=1), "fake": jnp.mean(fake, axis=1)}
        return importance * (hinge + penalty), metrics

    return Objective(
        loss,
        reads=None,
        density=student_density,
        network=Trained("discriminator"),
        shares=shared_blocks(blocks) or None,
    )


def _student(networks, schedule: NoiseSchedule, student, density, keys, batch) -> tuple[Array, Array, Array]:
    """The student's samples from noised data, with their times and importance."""
    time_keys, noise_keys = split(keys, 2)
    s, importance = times(density, time_keys, batch)
    x_s = mix(schedule, s, *pairs(noise_keys, batch))
    return predict(player(networks, "model"), schedule, student, x_s, s, batch.get("condition")).x0, s, importance


def _noise_times(density: Density | None, keys, batch) -> Array:
    """The times r `[B]` at which the discriminator sees its examples, and which it receives; 0 for clean ones."""
    if density is None:
        return jnp.zeros(batch["x"].shape[0])
    return times(density, keys, {**batch, "density": density.init()})[0]


def _input(networks, schedule: NoiseSchedule, teacher, blocks, r, keys, x, condition):
    """The discriminator's input: x, a frozen network's features of x, or the teacher's features of x noised to r."""
    if not blocks:
        return networks["features"](x, r, condition) if "features" in networks else x
    return teacher_features(networks, schedule, teacher, blocks, mix(schedule, r, x, normal(keys, x)), r, condition)


def _logits(networks, features, r, condition) -> Array:
    """`[B, heads]` logits in float32."""
    logits = player(networks, "discriminator")(features, r, condition)
    return flattened(logits.astype(promoted(logits.dtype)))


def _check(name: str, noise_density: Density | None, blocks: tuple[int, ...]) -> None:
    if (noise_density is None) != (not blocks):
        given = f"blocks = {blocks}" if blocks else "a noise_density"
        other = "noise_density" if blocks else "blocks"
        raise ValueError(f"{name}: {given} without {other}. Valid: both, for a discriminator of features, or neither")
    check_blocks(name, blocks)
