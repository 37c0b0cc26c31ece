"""What objectives say of themselves: a run reads these facts, and no loss shows a wrong one. Expected by hand."""

import dataclasses
import inspect
import pickle
import types
from unittest.mock import ANY

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import couplings, flow_maps, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.objectives import autoencoding, conditioning, image_text, representation_autoencoder
from diffusion.objectives.end_to_end import Latents
from diffusion.objectives.objective import Denoises, Jumps, Objective, Second, Stages, Teacher
from diffusion.objectives.objective_facts import RECORDS, flat

V = parameterizations.velocity()
X0 = parameterizations.x0()
FLOW = schedules.rectified_flow()
UNIFORM = timesteps.uniform_density(FLOW)
OTHER = timesteps.uniform_density(schedules.cosine())
EDM = schedules.edm()
PLAIN = {
    "channels": None,
    "times": 1,
    "forward_mode": False,
    "trains": "model",
    "kind": "backbone",
    "teacher": None,
    "second": None,
    "strength": None,
    "interval": False,
    "augmentations": 0,
    "condition_dropout": 0.0,
    "masks": 0,
    "masks_vary": False,
    "block": 1,
    "features": (),
    "terms": (),
    "aligned": (),
    "heads": {},
    "early": None,
    "encoder": False,
    "autoencoder": False,
    "score": True,
    "judges": None,
    "perceptual": False,
    "trains_schedule": False,
    "prompts": {},
    "pairs": False,
}
critic = lambda by: Second("critic", by=by, optional=True, separate=True)
MEAN_FLOW = {"times": 2, "forward_mode": True}
TRANSPORT = couplings.optimal_transport(4)
EULER = "steps along the velocity that the network predicts"
consistency = lambda parameterization, one_step=False: (flow_maps.consistency, parameterization.name, one_step)
pairs = lambda schedule, t, step: (t, 0.8 * t)
ALIGNED = objectives.added(objectives.flow_matching(UNIFORM), objectives.alignment())
PROJECTOR = objectives.projectors.mlp(4)
LATENTS = Latents(dict, dict, jnp.zeros(4), jnp.ones(4))

# Each objective, made by the test that reads it; how its network is read; its density (None: one that it makes, or
# none); and what is not PLAIN.
FACTS = {
    "adversarial_discriminator": lambda: (
        objectives.adversarial_discriminator(V, UNIFORM),
        None,
        UNIFORM,
        {"trains": "discriminator"},
    ),
    "adversarial_generator(features)": lambda: (
        objectives.adversarial_generator(X0, V, UNIFORM, OTHER, noise_density=OTHER, blocks=(2, 3)),
        consistency(X0),
        UNIFORM,
        {
            "teacher": Teacher(),
            "second": Second("discriminator", by=objectives.adversarial_discriminator, separate=True, features=(2, 3)),
        },
    ),
    "adversarial_generator": lambda: (
        objectives.adversarial_generator(X0, V, UNIFORM, OTHER),
        consistency(X0),
        UNIFORM,
        {"teacher": Teacher(), "second": Second("discriminator", True, objectives.adversarial_discriminator)},
    ),
    "alpha_flow": lambda: (
        objectives.alpha_flow(UNIFORM, 100, guidance=objectives.Guidance(3, dropout=0.3)),
        (flow_maps.mean_flow, "velocity", False),
        UNIFORM,
        MEAN_FLOW | {"condition_dropout": 0.3},
    ),
    "cd": lambda: (objectives.cd(EDM, X0, V, 18), consistency(X0), None, {"teacher": Teacher()}),
    "consistency_distillation": lambda: (
        objectives.consistency_distillation(X0, V, UNIFORM, pairs),
        consistency(X0),
        UNIFORM,
        {"teacher": Teacher()},
    ),
    "consistency_training": lambda: (objectives.consistency_training(X0, UNIFORM, pairs), consistency(X0), UNIFORM, {}),
    "continuous_consistency": lambda: (
        objectives.continuous_consistency(UNIFORM),
        consistency(parameterizations.edm()),
        UNIFORM,
        {"forward_mode": True},
    ),
    "continuous_consistency(teacher)": lambda: (
        objectives.continuous_consistency(UNIFORM, teacher=V),
        consistency(parameterizations.edm()),
        UNIFORM,
        {"forward_mode": True, "teacher": Teacher()},
    ),
    "contrastive_flow_matching": lambda: (
        objectives.contrastive_flow_matching(UNIFORM, block=6, coupling=TRANSPORT),
        Denoises(parameterizations.velocity()),
        UNIFORM,
        {"block": 12, "score": False},  # the least that both blocks divide
    ),
    "ct": lambda: (objectives.ct(EDM, X0, 100), consistency(X0), None, {}),
    "denoising": lambda: (objectives.denoising(X0, weightings.constant(X0), UNIFORM), Denoises(X0), UNIFORM, {}),
    "distribution_matching": lambda: (
        objectives.distribution_matching(X0, V, V, UNIFORM),
        consistency(X0, one_step=True),
        UNIFORM,
        {"teacher": Teacher(), "second": Second("fake", False, objectives.fake_score)},
    ),
    "distribution_matching(f)": lambda: (
        objectives.distribution_matching(X0, V, V, UNIFORM, f=objectives.f_divergences.forward_kl, block=3),
        consistency(X0, one_step=True),
        UNIFORM,
        {"teacher": Teacher(), "second": Second("fake", False, objectives.fake_score, features=(3,))},
    ),
    "drifting": lambda: (objectives.drifting(X0, 0.5, 4), consistency(X0, one_step=True), None, {"block": 4}),
    "ect": lambda: (objectives.ect(EDM, X0, 50), consistency(X0), None, {}),
    "fake_score": lambda: (
        objectives.fake_score(V, X0, weightings.constant(X0), UNIFORM),
        Denoises(X0),
        UNIFORM,
        {"trains": "fake"},
    ),
    "flow_matching": lambda: (
        objectives.flow_matching(UNIFORM, TRANSPORT),
        Denoises(parameterizations.velocity()),
        UNIFORM,
        {"block": 4, "score": False},
    ),
    "guidance_distillation": lambda: (
        objectives.guidance_distillation(X0, V, weightings.constant(X0), UNIFORM),
        Denoises(X0),
        UNIFORM,
        {"teacher": Teacher()},
    ),
    "guidance_distillation(scales)": lambda: (
        objectives.guidance_distillation(X0, V, weightings.constant(X0), UNIFORM, (0.5, 3.0), 3),
        Denoises(X0),
        UNIFORM,
        {"teacher": Teacher(scale=1.0), "strength": (1.5, 4.0)},
    ),
    "hybrid": lambda: (
        objectives.hybrid(X0, UNIFORM, 100),
        Denoises(parameterizations.learned_variance(X0)),
        UNIFORM,
        {},
    ),
    "ict": lambda: (objectives.ict(EDM, X0, 100), consistency(X0), None, {}),
    "improved_mean_flow": lambda: (
        objectives.improved_mean_flow(UNIFORM),
        (flow_maps.mean_flow, "velocity", False),
        UNIFORM,
        MEAN_FLOW,
    ),
    "improved_mean_flow(guided)": lambda: (
        objectives.improved_mean_flow(
            UNIFORM, guidance=objectives.GuidanceInputs(3, 6.0, dropout=0.3), velocity_layer=2, projector=PROJECTOR
        ),
        (flow_maps.mean_flow, "velocity", False),
        UNIFORM,
        MEAN_FLOW
        | {
            "condition_dropout": 0.3,
            "strength": (1.0, 6.0),
            "interval": True,
            "features": (2,),
            "heads": {"velocity": objectives.Head(2, PROJECTOR.init, PROJECTOR.apply, target=0)},
        },
    ),
    # The loss guides its teacher itself, by the scale 1 + w that the student receives.
    "latent_consistency_distillation": lambda: (
        objectives.latent_consistency_distillation(X0, V, null=3, guidance=(2.0, 14.0)),
        consistency(X0),
        None,
        {"teacher": Teacher(scale=1.0), "strength": (3.0, 15.0)},
    ),
    "latent_consistency_distillation(one scale)": lambda: (
        objectives.latent_consistency_distillation(X0, V, null=3, guidance=1.0),
        consistency(X0),
        None,
        {"teacher": Teacher(scale=1.0)},
    ),
    "mean_flow": lambda: (objectives.mean_flow(UNIFORM), (flow_maps.mean_flow, "velocity", False), UNIFORM, MEAN_FLOW),
    "mean_flow(guided)": lambda: (
        objectives.mean_flow(UNIFORM, guidance=objectives.Guidance(3, dropout=0.3)),
        (flow_maps.mean_flow, "velocity", False),
        UNIFORM,
        MEAN_FLOW | {"condition_dropout": 0.3},
    ),
    "progressive_distillation": lambda: (
        objectives.progressive_distillation(X0, V, 4, stage=50, teacher_scale=2.0),
        Denoises(X0),
        None,
        {"teacher": Teacher(scale=2.0, stages=Stages(50, (4, 2, 1)))},
    ),
    "progressive_adversarial": lambda: (
        objectives.progressive_adversarial(X0, V, 4, 50, teacher_scale=2.0),
        Denoises(X0),
        None,
        {
            "teacher": Teacher(scale=2.0, stages=Stages(50, (4, 2, 1))),
            "second": Second("judge", by=objectives.transition_judge),
        },
    ),
    "transition_judge": lambda: (objectives.transition_judge(X0, V, 4, 50), None, None, {"trains": "judge"}),
    "reflow": lambda: (
        objectives.reflow(UNIFORM, X0),
        Denoises(X0),
        UNIFORM,
        {"teacher": Teacher(pairs=True), "score": False},
    ),
    "reward_backpropagation": lambda: (
        objectives.reward_backpropagation(X0, (1.0, 0.5, 0.0), objectives.near_value(0.5)),
        Denoises(X0),
        None,
        {},
    ),
    "diffusion_nft": lambda: (
        objectives.diffusion_nft(
            X0, weightings.constant(X0), UNIFORM, (1.0, 0.0), objectives.near_value(0.5), 4, V, divergence=0.1
        ),
        Denoises(X0),
        UNIFORM,
        {"teacher": Teacher(), "block": 4},
    ),
    "diffusion_nft(alone)": lambda: (
        objectives.diffusion_nft(X0, weightings.constant(X0), UNIFORM, (1.0, 0.0), objectives.near_value(0.5), 4),
        Denoises(X0),
        UNIFORM,
        {"block": 4},
    ),
    "adjoint_matching": lambda: (
        objectives.adjoint_matching(X0, V, weightings.constant(X0), (1.0, 0.0), objectives.near_value(0.5), 0.5),
        Denoises(X0),
        None,
        {"teacher": Teacher()},
    ),
    "adjoint_sampling": lambda: (
        objectives.adjoint_sampling(X0, weightings.constant(X0), UNIFORM, (1.0, 0.0), objectives.funnel(3)),
        Denoises(X0),
        UNIFORM,
        {},
    ),
    "log_variance": lambda: (
        objectives.log_variance(X0, (1.0, 0.0), objectives.funnel(3), 4),
        Denoises(X0),
        None,
        {"block": 4},
    ),
    "policy_gradient": lambda: (
        objectives.policy_gradient(X0, (1.0, 0.5, 0.0), objectives.near_value(0.5), 4, V, beta=0.1),
        Denoises(X0),
        None,
        {"teacher": Teacher(), "block": 4},
    ),
    "policy_gradient(alone)": lambda: (
        objectives.policy_gradient(X0, (1.0, 0.5, 0.0), objectives.near_value(0.5), 4, V),
        Denoises(X0),
        None,
        {"block": 4},
    ),
    "with_reward_weights": lambda: (
        objectives.with_reward_weights(objectives.reflow(UNIFORM, X0), objectives.near_value(0.5), 1.0),
        Denoises(X0),
        UNIFORM,
        {"teacher": Teacher(pairs=True), "score": False},
    ),
    "diffusion_dpo": lambda: (
        objectives.diffusion_dpo(X0, V, weightings.constant(X0), UNIFORM, 0.5),
        Denoises(X0),
        UNIFORM,
        {"teacher": Teacher(), "pairs": True},
    ),
    "trajectory_regression": lambda: (
        objectives.trajectory_regression(X0, V, (1.0, 0.5, 0.0), 2),
        consistency(X0),
        None,
        {"teacher": Teacher(bidirectional=True)},
    ),
    "distribution_matching(noised_chunks)": lambda: (
        objectives.distribution_matching(X0, V, V, UNIFORM, samples=objectives.noised_chunks((1.0, 0.5, 0.0), 2)),
        consistency(X0),
        UNIFORM,
        {"teacher": Teacher(bidirectional=True), "second": Second("fake", False, objectives.fake_score)},
    ),
    "regression": lambda: (
        objectives.regression(X0),
        consistency(X0, one_step=True),
        None,
        {"teacher": Teacher(pairs=True)},
    ),
    "schroedinger_bridge": lambda: (
        objectives.schroedinger_bridge(0.7, UNIFORM, TRANSPORT),
        EULER,
        UNIFORM,
        {"block": 4, "score": False, "channels": 2},
    ),
    "score_identity": lambda: (
        objectives.score_identity(X0, V, V, UNIFORM),
        consistency(X0, one_step=True),
        UNIFORM,
        {"teacher": Teacher(), "second": Second("fake", False, objectives.fake_score)},
    ),
    "score_identity(discriminator)": lambda: (
        objectives.score_identity(X0, V, V, UNIFORM, block=4, adversarial=0.1),
        consistency(X0, one_step=True),
        UNIFORM,
        {"teacher": Teacher(), "second": Second("fake", False, objectives.fake_score, features=(4,))},
    ),
    "score_regularised_consistency": lambda: (
        objectives.score_regularised_consistency(X0, V, UNIFORM, OTHER),
        consistency(parameterizations.edm()),
        UNIFORM,
        {"forward_mode": True, "teacher": Teacher(), "second": Second("fake", False, objectives.fake_score)},
    ),
    "shortcut": lambda: (objectives.shortcut(16), (flow_maps.shortcut, "velocity", False), None, {"times": 2}),
    "stochastic_interpolant": lambda: (
        objectives.stochastic_interpolant(objectives.interpolants.smooth_bridge(), UNIFORM),
        EULER,
        UNIFORM,
        {"score": False, "channels": 2},
    ),
    "stochastic_interpolant(denoiser)": lambda: (
        objectives.stochastic_interpolant(objectives.interpolants.smooth_bridge(), UNIFORM, ("denoiser",)),
        None,
        UNIFORM,
        {"score": False, "channels": 1},
    ),
    "truncated_consistency": lambda: (
        objectives.truncated_consistency(X0, V, UNIFORM, pairs),
        consistency(X0),
        UNIFORM,
        {"teacher": Teacher()},
    ),
    "variational_bound": lambda: (
        objectives.variational_bound(X0, UNIFORM, 1e-3, objectives.decoders.gaussian()),
        Denoises(X0),
        UNIFORM,
        {"trains_schedule": True},
    ),
    "added": lambda: (
        objectives.added(objectives.flow_matching(UNIFORM, TRANSPORT), objectives.dispersive(3, 2)),
        Denoises(parameterizations.velocity()),
        UNIFORM,
        {"block": 4, "score": False, "features": (3,), "terms": ("term",)},
    ),
    "with_augmentation": lambda: (
        objectives.with_augmentation(objectives.regression(X0), objectives.Augmentation(lambda key, x: (x, x), 9)),
        consistency(X0, one_step=True),
        None,
        {"augmentations": 9, "teacher": Teacher(pairs=True)},
    ),
    "masked_denoising": lambda: (
        objectives.masked_denoising(X0, weightings.constant(X0), UNIFORM, patch=4),
        Denoises(X0),
        UNIFORM,
        {"masks": 4},
    ),
    "with_masked_copy": lambda: (
        objectives.with_masked_copy(objectives.denoising(X0, weightings.constant(X0), UNIFORM), patch=4),
        Denoises(X0),
        UNIFORM,
        {"masks": 4, "masks_vary": True},
    ),
    "with_pictures": lambda: (
        objectives.with_pictures(objectives.flow_matching(UNIFORM)),
        Denoises(parameterizations.velocity()),
        UNIFORM,
        {"block": None},
    ),
    "with_condition_dropout": lambda: (
        objectives.with_condition_dropout(objectives.mean_flow(UNIFORM), null=3, rate=0.2),
        (flow_maps.mean_flow, "velocity", False),
        UNIFORM,
        MEAN_FLOW | {"condition_dropout": 0.2},
    ),
    "with_dropout": lambda: (
        objectives.with_dropout(objectives.mean_flow(UNIFORM)),
        (flow_maps.mean_flow, "velocity", False),
        UNIFORM,
        MEAN_FLOW,
    ),
    "with_trained_schedule": lambda: (
        objectives.with_trained_schedule(objectives.variational_bound(X0, UNIFORM), schedules.Trained(dict, dict)),
        Denoises(X0),
        UNIFORM,
        {"trains_schedule": True, "heads": {"schedule": objectives.Head(None, ANY, dict)}},
    ),
    "with_prior_preservation": lambda: (
        objectives.with_prior_preservation(objectives.denoising(X0, weightings.constant(X0), UNIFORM)),
        Denoises(X0),
        UNIFORM,
        {},
    ),
    "with_padding": lambda: (
        objectives.with_padding(objectives.denoising(X0, weightings.constant(X0), UNIFORM), (4,)),
        Denoises(X0),
        UNIFORM,
        {},
    ),
    "concept_direction": lambda: (
        objectives.concept_direction(X0, UNIFORM, "a", "b", "c", "d"),
        Denoises(X0),
        UNIFORM,
        {"prompts": {"target": "a", "neutral": "b", "positive": "c", "negative": "d"}},
    ),
    "concept_slider": lambda: (
        objectives.concept_slider(X0, UNIFORM, "a", "c", "d"),
        Denoises(X0),
        UNIFORM,
        {"prompts": {"target": "a", "neutral": "a", "positive": "c", "negative": "d"}},
    ),
    "erased_concept": lambda: (
        objectives.erased_concept(X0, UNIFORM, "a"),
        Denoises(X0),
        UNIFORM,
        {"prompts": {"target": "a", "neutral": "", "positive": "", "negative": "a"}},
    ),
    "with_uncertainty": lambda: (
        objectives.with_uncertainty(objectives.denoising(X0, weightings.constant(X0), UNIFORM)),
        Denoises(X0),
        UNIFORM,
        {},
    ),
    "end_to_end": lambda: (
        objectives.end_to_end(ALIGNED, LATENTS, condition_dropout=0.1),
        Denoises(V),
        UNIFORM,
        {
            "autoencoder": True,
            "block": None,
            "condition_dropout": pytest.approx(0.1),
            "encoder": True,
            "features": (8,),
            "heads": {"autoencoder": objectives.Head(None, ANY, ANY, follow=ANY), "term": ANY},
            "perceptual": True,
            "second": critic(objectives.end_to_end_critic),
            "terms": ("term",),
            "aligned": ("term",),
        },
    ),
    "end_to_end_critic": lambda: (objectives.end_to_end_critic(), None, None, {"trains": "critic"}),
    "autoencoding.kl_autoencoder": lambda: (
        autoencoding.kl_autoencoder(),
        None,
        None,
        {"kind": "autoencoder", "block": None, "second": critic(autoencoding.patch_critic), "perceptual": True},
    ),
    "autoencoding.vq_autoencoder": lambda: (
        autoencoding.vq_autoencoder(),
        None,
        None,
        {"kind": "autoencoder", "block": None, "second": critic(autoencoding.patch_critic), "perceptual": True},
    ),
    "autoencoding.reconstruction_objective": lambda: (
        autoencoding.reconstruction_objective(dict, {}, 0.5, 0),
        None,
        None,
        {"kind": "autoencoder", "block": None, "second": critic(autoencoding.patch_critic), "perceptual": True},
    ),
    "representation_autoencoder.rae_decoder": lambda: (
        representation_autoencoder.rae_decoder(),
        None,
        None,
        {
            "kind": "decoder",
            "block": None,
            "encoder": True,
            "second": critic(representation_autoencoder.rae_critic),
            "perceptual": True,
        },
    ),
    "autoencoding.critic_of": lambda: (
        autoencoding.critic_of("hinge", 0, dict, None, ()),
        None,
        None,
        {"trains": "critic"},
    ),
    "representation_autoencoder.rae_critic": lambda: (
        representation_autoencoder.rae_critic(),
        None,
        None,
        {"trains": "critic"},
    ),
    "autoencoding.patch_critic": lambda: (autoencoding.patch_critic(), None, None, {"trains": "critic"}),
    "image_text.contrastive_pretraining": lambda: (
        image_text.contrastive_pretraining(),
        None,
        None,
        {"kind": "towers", "block": None},
    ),
}


def test_every_objective_is_listed():
    is_objective = lambda value: inspect.isfunction(value) and inspect.signature(value).return_annotation is Objective
    names = {name for name in objectives.__all__ if is_objective(getattr(objectives, name))}
    for module in (autoencoding, image_text, representation_autoencoder):
        defined = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        part = module.__name__.rpartition(".")[2]
        names |= {f"{part}.{value.__name__}" for value in defined if is_objective(value)}
    assert len(names) > 20 and names <= set(FACTS), names - set(FACTS)


@pytest.mark.parametrize("name", list(FACTS))
def test_facts(name):
    objective, reads, density, others = FACTS[name]()
    if isinstance(reads, tuple) and not isinstance(reads, Denoises):
        assert isinstance(objective.reads, Jumps)
        flow_map, parameterization, one_step = reads
        assert objective.reads.flow_map.func is flow_map and objective.reads.one_step is one_step
        assert objective.reads.parameterization.name == parameterization
    elif reads == EULER:
        assert isinstance(objective.reads, Jumps) and objective.reads.parameterization is None
    elif reads is None:
        assert objective.reads is None
    else:
        assert objective.reads.parameterization.name == reads.parameterization.name
        assert objective.reads.parameterization.channels == reads.parameterization.channels
    if density is not None:
        assert objective.density is density
    facts = {fact: value for fact, value in flat(objective).items() if fact in PLAIN}
    assert facts == {**PLAIN, **others, "condition_dropout": pytest.approx(others.get("condition_dropout", 0.0))}


def test_consistency_objectives_of_a_paper_carry_the_density_of_its_times():
    for name in ("cd", "ct", "ict", "ect"):
        assert isinstance(FACTS[name]()[0].density, timesteps.Density)
    for name in ("regression", "shortcut", "progressive_distillation", "latent_consistency_distillation"):
        assert FACTS[name]()[0].density is None


def test_a_condition_that_is_dropped_twice_is_kept_with_the_product_of_both_chances():
    once = objectives.with_condition_dropout(objectives.flow_matching(UNIFORM), null=10, rate=0.1)
    assert once.condition.dropout == pytest.approx(0.1)
    twice = objectives.with_condition_dropout(once, null=10, rate=0.3)
    assert twice.condition.dropout == pytest.approx(1 - 0.9 * 0.7)


def test_contrasted_blocks_fit_the_blocks_of_the_coupling():
    assert objectives.contrastive_flow_matching(UNIFORM, block=6).examples.block == 6
    assert objectives.contrastive_flow_matching(UNIFORM, block=3).examples.block == 3
    paired = objectives.contrastive_flow_matching(UNIFORM, block=6, coupling=couplings.optimal_transport(4))
    assert paired.examples.block == 12


def test_a_training_in_stages_has_as_many_steps_as_its_stages_or_fewer():
    stages = FACTS["progressive_distillation"]()[0].teacher.stages
    stages.check(150)
    with pytest.raises(
        ValueError, match="151 training steps are more than the stages allow: 3 stages of 50 steps have 150"
    ):
        stages.check(151)


def test_scales_that_a_network_is_trained_for_have_both_ends():
    student = FACTS["latent_consistency_distillation"]()[0]
    for scale in (3.0, 8.0, 15.0):
        student.check_scale(scale)
    for scale in (1.0, 2.99, 15.01):
        with pytest.raises(ValueError, match="the objective trains the network for scales from 3 to 15"):
            student.check_scale(scale)


def test_no_guidance_needs_no_condition_dropout():
    plain = objectives.flow_matching(UNIFORM)
    plain.check_scale(1)
    with pytest.raises(ValueError, match=r"never sees the null condition in training \(condition_dropout = 0\)"):
        plain.check_scale(1.5)
    objectives.with_condition_dropout(plain, null=3, rate=0.1).check_scale(1.5)
    with pytest.raises(ValueError, match="a flow map is guided during its training"):
        FACTS["mean_flow(guided)"]()[0].check_scale(1.5)


def test_a_guided_teacher_and_pairs_are_what_the_objective_says():
    Teacher(scale=2.0).check(2.0, 0)
    Teacher().check(7.5, 0)  # the run guides it
    Teacher(pairs=True).check(1.0, 1)
    with pytest.raises(ValueError, match=r"guides its teacher itself\. Valid: 2"):
        Teacher(scale=2.0).check(3.0, 0)
    with pytest.raises(ValueError, match="makes 0 pairs, but the objective learns from pairs"):
        Teacher(pairs=True).check(1.0, 0)
    with pytest.raises(ValueError, match="makes 5 pairs, but the objective learns from none"):
        Teacher().check(1.0, 5)


def test_times_of_latent_consistency_are_those_of_the_paper():
    """T = 1000, 50 steps of the solver: no time below 1/1000, and the nearest of the others is 1/50."""
    parameters = inspect.signature(objectives.latent_consistency_distillation).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert [defaults[name] for name in ("T", "solver_steps", "c", "shift")] == [1000, 50, 0.001, 1.0]
    student = objectives.latent_consistency_distillation(V, V, null=0, solver_steps=1)
    network = lambda x, clock, condition: jnp.zeros_like(x)
    batch = {"x": jnp.zeros((4, 2)), "condition": jnp.zeros(4, int)}
    keys = jax.random.split(jax.random.key(0), 4)
    networks = dict.fromkeys(("model", "target", "teacher"), network)
    _, metrics = student(networks, schedules.rectified_flow(), keys, batch, 0)
    np.testing.assert_allclose(metrics["s"], 1 / 1000, rtol=1e-6)
    np.testing.assert_allclose(metrics["t"], 1.0)


def test_players_are_those_that_the_objective_plays_with():
    alone, taught, playing = (FACTS[name]()[0] for name in ("ct", "consistency_distillation", "adversarial_generator"))
    alone.check_players(False, None)
    taught.check_players(True, None)
    playing.check_players(True, "discriminator")
    with pytest.raises(ValueError, match="the objective uses no teacher"):
        alone.check_players(True, None)
    with pytest.raises(ValueError, match="learns from a teacher"):
        taught.check_players(False, None)
    with pytest.raises(ValueError, match="has no second player, but the run has one that trains 'fake'"):
        alone.check_players(False, "fake")
    for other in ("fake", None):
        with pytest.raises(
            ValueError, match=rf"'discriminator', but this one trains {other!r}.*e\.g\. adversarial_discriminator"
        ):
            playing.check_players(True, other)


def test_samples_are_read_as_the_network_was_trained():
    edm = parameterizations.edm()
    variance = parameterizations.learned_variance(X0)
    FACTS["denoising"]()[0].check_parameterization(X0, FLOW)
    with pytest.raises(ValueError, match="predicts 'x0', but sampling would read its output as 'edm'"):
        FACTS["denoising"]()[0].check_parameterization(edm, FLOW)
    FACTS["autoencoding.patch_critic"]()[0].check_parameterization(edm, FLOW)  # makes no samples
    of_any = dataclasses.replace(FACTS["denoising"]()[0], reads=Denoises(None))
    of_any.check_parameterization(edm, FLOW)
    with pytest.raises(ValueError, match=r"as many channels as the data has.*a learned variance, such as hybrid"):
        of_any.check_parameterization(variance, FLOW)


def test_a_parameterization_is_what_it_computes_and_not_its_name():
    """sigma_data and the clock of the sampling were not compared, and a copy under another name was refused."""
    trained = lambda prediction: dataclasses.replace(FACTS["denoising"]()[0], reads=Denoises(prediction))
    edm = trained(parameterizations.edm(sigma_data=0.5))
    edm.check_parameterization(parameterizations.edm(sigma_data=0.5)._replace(name="mine"), FLOW)
    with pytest.raises(ValueError, match="as 'edm' with other arguments or another clock"):
        edm.check_parameterization(parameterizations.edm(sigma_data=1.0), FLOW)
    velocity = trained(parameterizations.velocity(parameterizations.steps()))
    velocity.check_parameterization(parameterizations.velocity(parameterizations.steps()), FLOW)
    for other in (parameterizations.time(), parameterizations.steps(10)):
        with pytest.raises(ValueError, match="as 'velocity' with other arguments or another clock"):
            velocity.check_parameterization(parameterizations.velocity(other), FLOW)


def test_a_flow_map_reads_its_network_with_its_own_clocks():
    """Its parameterization has the default clock, whatever clock the run names."""
    mean_flow = dataclasses.replace(FACTS["denoising"]()[0], reads=Jumps(lambda: None, parameterizations.velocity()))
    mean_flow.check_parameterization(parameterizations.velocity(parameterizations.steps()), FLOW)
    with pytest.raises(ValueError, match="predicts 'velocity', but sampling would read its output as 'x0'"):
        mean_flow.check_parameterization(X0, FLOW)


def test_a_micro_batch_is_a_whole_number_of_blocks():
    objective = objectives.contrastive_flow_matching(UNIFORM, block=4)
    objective.check_rows(8)
    objectives.flow_matching(UNIFORM).check_rows(7)
    with pytest.raises(ValueError, match=r"block = 4 does not divide the 6 examples.*e\.g\. 2"):
        objective.check_rows(6)
    objective.check_rows(16, devices=4)
    with pytest.raises(ValueError, match=r"block = 4 does not divide the 2 examples.* each of 4 devices has.*e\.g\. 2"):
        objective.check_rows(8, devices=4)


def test_a_network_receives_what_the_objective_passes():
    plain = objectives.flow_matching(UNIFORM)
    guided = dataclasses.replace(plain, condition=objectives.Condition(strength=(1.0, 3.0)))
    interval = dataclasses.replace(plain, condition=objectives.Condition(strength=(1.0, 3.0), interval=True))
    augmented = dataclasses.replace(plain, condition=objectives.Condition(augmentations=9))
    network = types.SimpleNamespace
    for objective, fits, other, words in [
        (
            plain,
            network(),
            network(kind="autoencoder"),
            "kind 'backbone', but this network is of the kind 'autoencoder'",
        ),
        (plain, network(times=1), network(times=2), "times = 2, but the objective passes 1"),
        (
            dataclasses.replace(plain, network=objectives.Trained(times=2)),
            network(times=2),
            network(),
            "times = 1, but the objective passes 2",
        ),
        (guided, network(strength=True), network(), "strength of guidance, but the network does not receive it"),
        (interval, network(strength=True, interval=True), network(strength=True), "interval of guidance, but"),
        (augmented, network(augmentations=9), network(augmentations=8), "augmentations = 9"),
    ]:
        objective.check_network(fits)
        with pytest.raises(ValueError, match=words):
            objective.check_network(other)


def test_a_sampler_takes_what_the_objective_trains():
    denoiser = objectives.flow_matching(UNIFORM)
    dependent = objectives.flow_matching(UNIFORM, coupling=TRANSPORT)
    jumps = FACTS["consistency_distillation"]()[0]
    denoiser.check_sampler(samplers.ddpm())
    dependent.check_sampler(samplers.heun())
    jumps.check_sampler(samplers.flow_map())
    for objective, sampler, words in [
        (denoiser, samplers.flow_map(), "takes a flow map, which this objective does not train"),
        (jumps, samplers.heun(), "trains a flow map"),
        (dependent, samplers.ddpm(), "adds noise and therefore needs the score"),
    ]:
        with pytest.raises(ValueError, match=words):
            objective.check_sampler(sampler)


def test_the_null_condition_names_entries_that_the_condition_has():
    condition = {"label": jnp.array([3, 4]), "vector": jnp.ones((2, 2))}
    nulls = [
        (None, {"label": [0, 0], "vector": np.zeros((2, 2))}),
        (10, {"label": [10, 10], "vector": np.zeros((2, 2))}),
        ({"vector": jnp.full(2, 5.0)}, {"label": [0, 0], "vector": np.full((2, 2), 5.0)}),
    ]
    for null, expected in nulls:
        jax.tree.map(np.testing.assert_array_equal, conditioning.null_of(condition, null), expected)
    np.testing.assert_array_equal(conditioning.null_of(jnp.array([3, 4]), 10), [10, 10])
    with pytest.raises(ValueError, match=r"has the entries text, .*\. Valid: \['label', 'vector'\]"):
        conditioning.null_of(condition, {"text": 0})


def test_a_batch_without_what_is_learned_from_is_refused():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.ones((2, 3))
    flow = schedules.rectified_flow()
    networks = {"model": lambda x, t, condition: x}
    plain = objectives.flow_matching(UNIFORM)
    dropped = objectives.with_condition_dropout(plain, None, 0.5)
    guided = objectives.mean_flow(UNIFORM, guidance=objectives.Guidance(None))
    latent = objectives.latent_consistency_distillation(V, V, None)
    for objective, batch, error, words in [
        (plain, {"y": x}, ValueError, "the batch must hold the data as \"x\"; its entries are \\['y'\\]"),
        (plain, x, TypeError, "batch"),
        (plain, {"x": x, "text": x}, ValueError, "objective reads text from the batch"),
        (dropped, {"x": x}, ValueError, "condition dropout needs a condition"),
        (guided, {"x": x}, ValueError, "guidance needs a condition"),
        (latent, {"x": x}, ValueError, "distils guidance, which needs a condition"),
    ]:
        with pytest.raises(error, match=words):
            objective(networks, flow, keys, batch, 0)


@pytest.mark.parametrize("make", [lambda: objectives.ict(EDM, X0, 100), lambda: objectives.ect(EDM, X0, 100)])
def test_consistency_training_draws_the_log_normal_times_of_its_papers(make):
    """ln(sigma / alpha) of mean -1.1 and deviation 2 within ln 0.002 .. ln 80: a median of -1.1, quartiles 1.35 off."""
    density = make().density
    t, _ = density.sample(density.init(), jax.random.split(jax.random.key(0), 4000), jnp.arange(4000))
    quartiles = np.quantile(np.log(80 * np.asarray(t)), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [-2.45, -1.1, 0.25], atol=0.08)


def test_progressive_distillation_draws_every_step():
    keys = jax.random.split(jax.random.key(0), 64)
    players = {"model": lambda x, t, condition: x, "teacher": lambda x, t, condition: x}
    _, metrics = objectives.progressive_distillation(V, V, 4)(
        players, schedules.rectified_flow(), keys, {"x": jnp.ones((64, 1))}, 0
    )
    assert set(np.asarray(metrics["t"]).tolist()) == {0.25, 0.5, 0.75, 1.0}


def test_a_coupling_pairs_each_example_alone_and_leaves_noise_that_depends_on_the_data():
    plain = couplings.Coupling(lambda keys, x0, eps: eps)
    assert plain.block == 1 and plain.independent is False


def test_a_caption_is_found_beside_the_others_of_its_picture_alone():
    """Cosines of 1 and 0.8 with the own captions, 0 and 0.6 with the other."""
    images = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    model = lambda x, clock, condition: (np.eye(2, dtype=np.float32), images, np.float32(1.0))
    batch = {"x": np.ones((2, 2, 2, 3), np.float32), "condition": None}
    metrics = image_text.contrastive_pretraining()({"model": model}, None, None, batch, 0)[1]
    np.testing.assert_array_equal(metrics["found"], [1, 1])


@pytest.mark.parametrize("name", RECORDS)
def test_a_fact_by_itself_acts_for_one_version_and_names_its_record(name):
    """A keyword of `Objective`, one of `dataclasses.replace`, and an attribute, as before there were records."""
    record, field = RECORDS[name]
    value = object()
    loss = lambda *inputs: None
    with pytest.warns(DeprecationWarning, match=rf"'{name}' of an objective .*: {record}=objectives\.\w+\({field}="):
        made = Objective(loss, **{name: value})
    with pytest.warns(DeprecationWarning, match=f"{record}=objectives"):
        replaced = dataclasses.replace(Objective(loss), **{name: value})
    assert getattr(getattr(made, record), field) is value and made == replaced
    with pytest.warns(DeprecationWarning, match=rf"objective\.{record}\.{field}"):
        assert getattr(made, name) is value
    assert Objective(loss) == dataclasses.replace(made, **{record: getattr(Objective(loss), record)})


def test_what_is_no_fact_is_refused():
    with pytest.raises(
        TypeError, match=r"Objective has no fact 'time'. Valid: beside, blocks, buffer, condition, density"
    ):
        Objective(lambda *inputs: None, time=2)
    with pytest.raises(AttributeError, match="'Objective' object has no attribute 'time'"):
        _ = Objective(lambda *inputs: None).time
    plain = Objective(lambda *inputs: None)
    assert pickle.loads(pickle.dumps(dataclasses.replace(plain, loss=max))) == dataclasses.replace(plain, loss=max)
    assert all(len(record._fields) <= 12 for record in (plain.network, plain.condition, plain.blocks, plain.beside))
    assert len(dataclasses.fields(plain)) == 13


def test_constants_that_a_trace_holds_are_compared():
    """Two clocks of one form, by tables of other values; and one form by two formulas."""
    places, squares = jnp.linspace(0, 1, 5), jnp.arange(5.0) ** 2
    table = lambda values: parameterizations.velocity(lambda _, t: jnp.interp(t, places, values))
    alike = lambda one, other: parameterizations.reads_alike(one, other, schedules.cosine())
    assert alike(table(squares), table(squares)) and not alike(table(squares), table(2 * squares))
    assert alike(parameterizations.velocity(lambda schedule, t: t + t), parameterizations.velocity(lambda _, t: 2 * t))
    assert not alike(parameterizations.velocity(lambda _, t: 3 * t), parameterizations.velocity(lambda _, t: 2 * t))


def test_two_channels_are_read_as_two():
    """A network that learns a variance returns the estimate and the variance, and is compared by both."""
    learned = parameterizations.learned_variance
    alike = lambda one, other: parameterizations.reads_alike(one, other, schedules.cosine())
    slower = learned(parameterizations.epsilon(lambda schedule, t: 2 * t))
    assert alike(learned(parameterizations.epsilon()), learned(parameterizations.epsilon()))
    assert alike(learned(parameterizations.epsilon(lambda schedule, t: t + t)), slower)
    assert not alike(learned(parameterizations.epsilon()), slower)
    assert not alike(learned(parameterizations.epsilon()), learned(parameterizations.v()))
    assert not alike(learned(parameterizations.epsilon()), parameterizations.epsilon())
    halves = lambda schedule, t, x_t, output: parameterizations.Prediction(x_t - output[..., :2], x_t + output[..., 2:])
    wholes = lambda schedule, t, x_t, output: parameterizations.Prediction(
        -output[..., :2] + x_t, output[..., 2:] + x_t
    )
    form = parameterizations.epsilon()._replace(channels=2)
    assert alike(form._replace(to_prediction=halves), form._replace(to_prediction=wholes))
