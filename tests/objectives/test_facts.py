"""What objectives say of themselves: a run reads these facts, and no loss shows a wrong one. Expected by hand."""

import pytest

from diffusion import couplings, objectives, parameterizations, schedules, timesteps
from diffusion.objectives.objective import Denoises

V = parameterizations.velocity()
UNIFORM = timesteps.uniform_density(schedules.rectified_flow())


def test_a_condition_that_is_dropped_twice_is_kept_with_the_product_of_both_chances():
    once = objectives.with_condition_dropout(objectives.flow_matching(UNIFORM), null=10, rate=0.1)
    assert once.condition_dropout == pytest.approx(0.1)
    twice = objectives.with_condition_dropout(once, null=10, rate=0.3)
    assert twice.condition_dropout == pytest.approx(1 - 0.9 * 0.7)


def test_contrasted_blocks_fit_the_blocks_of_the_coupling():
    assert objectives.contrastive_flow_matching(UNIFORM, block=6).block == 6
    paired = objectives.contrastive_flow_matching(UNIFORM, block=6, coupling=couplings.optimal_transport(4))
    assert paired.block == 12


def test_who_learns_from_whom():
    student = objectives.latent_consistency_distillation(V, V, null=3)
    # The loss guides its teacher itself, by the scale 1 + w that the student receives.
    assert student.teacher.scale == 1.0 and student.strength == (3.0, 15.0)
    halved = objectives.progressive_distillation(V, V, 4, teacher_scale=2.0)
    assert halved.reads == Denoises(V) and halved.teacher.scale == 2.0
    fooling = objectives.adversarial_generator(V, V, UNIFORM, UNIFORM)
    assert fooling.density is UNIFORM and fooling.teacher is not None
    assert fooling.second.network == "discriminator" and fooling.second.logit
