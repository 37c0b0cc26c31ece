"""Score-regularised consistency (rCM): continuous consistency distillation plus distribution matching."""

import jax.numpy as jnp

from diffusion.arrays.parameters import traced
from diffusion.objectives.backward_simulation import Simulation, one_step
from diffusion.objectives.continuous_consistency import continuous_consistency
from diffusion.objectives.distribution_matching import distribution_matching
from diffusion.objectives.entry import entry
from diffusion.objectives.inputs import split
from diffusion.objectives.objective import Objective
from diffusion.objectives.objective_facts import Trained
from diffusion.parameterizations import Clock, Parameterization, edm
from diffusion.timesteps import Density


def score_regularised_consistency(
    teacher: Parameterization,
    fake: Parameterization,
    student_density: Density,
    density: Density,
    weight: float = 0.01,
    sigma_data: float = 0.5,
    warmup: int = 1000,
    c: float = 0.1,
    clock: Clock | None = None,
    samples: Simulation | None = None,
    student: Parameterization | None = None,
) -> Objective:
    """The loss of sCD on data, and after the warm-up also the loss of DMD on the student's samples.

        loss = |F - stop(F + g / (|g| + c))|^2 / D + weight mean |x - stop(x - g')|^2

    where F and g are those of `continuous_consistency` with a teacher, and x and g' those of `distribution_matching`.
    The consistency loss covers the teacher's distribution, and the second term improves details. The student may have
    any parameterization; with the teacher's it can start from the teacher's weights, as in the paper. While the
    tangent's unstable part fades in, the authors' code scales the stable part differently from sCM; here it is scaled
    as in sCM.

    Facts:
        loss: |F - stop(F + g / (|g| + c))|^2 / D + weight mean |x - stop(x - g')|^2
        networks: model (the student), teacher, fake (the score of the student's samples)
        optimum: exactly the end of the teacher's flow, where the student's samples have the teacher's distribution
        paper: Zheng et al. 2025, "Large Scale Diffusion Distillation via Score-Regularized Continuous-Time
            Consistency"; factors and values as in the authors' code

    Args:
        teacher: parameterization of the network "teacher".
        fake: parameterization of the network "fake".
        student_density: distribution of the times of sCD; `log_normal(schedule, -0.8, 1.6)` in the authors' code.
        density: distribution of the times at which the scores are compared.
        weight: lambda of the paper, >= 0; 0.01 there.
        sigma_data: standard deviation of the data, > 0.
        warmup: number of steps over which the unstable part of the tangent fades in, and in which the second term is
            left out; 1000 in the authors' code.
        c: constant of the tangent's normalisation; 0.1 in the authors' code.
        clock: the time that the network receives; `log_sigma()` if None.
        samples: simulation that generates the student's samples; `one_step` if None.
        student: parameterization of the network "model", as in `continuous_consistency`; `edm(sigma_data, clock)` if
            None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" and "tangent" of sCD, and "consistency" and
        "score", the two terms, each `[B]`.

    Raises:
        ValueError: if weight, warmup or c is negative; TypeError from the objective, if the network has no forward
            derivative.
    """
    if not traced(weight) and not weight >= 0:
        raise ValueError(f"score_regularised_consistency: weight = {weight} must not be negative (0.01 in the paper)")
    student = edm(sigma_data, clock) if student is None else student
    consistency = continuous_consistency(student_density, sigma_data, warmup, c, clock, teacher, student)
    matching = distribution_matching(student, teacher, fake, density, samples=samples or one_step())

    @entry(student, teacher, fake)
    def loss(networks, schedule, keys, batch, step):
        consistency_keys, matching_keys = split(keys, 2)
        losses, metrics = consistency.loss(networks, schedule, consistency_keys, batch, step)
        matching_batch = {**batch, "density": density.init()}  # the batch holds the state of student_density
        halves, _ = matching.loss(networks, schedule, matching_keys, matching_batch, step)
        score = jnp.where(jnp.asarray(step) >= warmup, 2 * weight, 0.0) * halves
        return losses + score, {**metrics, "consistency": losses, "score": score}

    return Objective(
        loss,
        reads=consistency.reads,
        density=student_density,
        network=Trained(forward_mode=True),
        teacher=matching.teacher,
        second=matching.second,
        shares=matching.shares,
    )
