"""The slips of a first hour end in a sentence, and nothing of another shape than x's is broadcast."""

import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import (
    couplings,
    discrete,
    editing,
    flow_maps,
    guidance,
    likelihood,
    manifolds,
    objectives,
    ode,
    parameterizations,
    samplers,
    schedules,
    steering,
    timesteps,
    videos,
)
from diffusion.flows.flow_maps import FlowMap
from diffusion.guidance import measurements
from diffusion.manifolds import tangent_field
from diffusion.metrics import frechet
from diffusion.objectives import feature_losses, weightings
from tests.objectives import few_step_cases, objective_cases

FLOW = schedules.rectified_flow()
V = parameterizations.velocity()
KEYS = jax.random.split(jax.random.key(0), 4)
X = jnp.ones((4, 2))
PROCESS = discrete.absorbing(discrete.linear(), 3)
PLAN = timesteps.plan(timesteps.uniform(FLOW, 3))
CALLED = "if it makes the value, call it"


def network(x, clock, condition):
    return 0.5 * x


def optional(x, clock, condition=None):
    return 0.5 * x


MATCHING = objectives.flow_matching(timesteps.uniform_density(FLOW))
DENOISE = parameterizations.denoiser(network, FLOW, V)
MAP = flow_maps.mean_flow(network, FLOW)


HEUN = samplers.heun()
MODEL = {"model": network}
BATCH = {"x": X}


def train(networks=MODEL, schedule=FLOW, keys=KEYS, batch=BATCH, objective=MATCHING):
    return jax.eval_shape(lambda: objective(networks, schedule, keys, batch, 0)[0])


def sample(sampler=HEUN, denoise=DENOISE, schedule=FLOW, x=X, plan=PLAN, keys=KEYS, by=samplers.sample):
    return jax.eval_shape(lambda: by(sampler, denoise, schedule, x, plan, keys))


def of_two(x, t):
    return 0.5 * x


def edited(hook):
    return jax.eval_shape(lambda: samplers.sample(HEUN, DENOISE, FLOW, X, PLAN, KEYS, after_step=hook))


def said(x0):
    """A denoiser of one's own whose estimate has another shape."""
    return lambda x, t: parameterizations.Prediction(x0(x), x)


SLIPS = {
    "bare network": (lambda: train(network), TypeError, "networks must be a mapping .* got the function network"),
    "parameters for a network": (lambda: train({"model": {"w": 1.0}}), TypeError, "'model' must be a function"),
    "misspelt network": (lambda: train({"modle": network}), ValueError, "'model'; it received .'modle'"),
    "array for the batch": (lambda: train(batch=X), TypeError, r"batch must be a mapping .* shape \(4, 2\)"),
    "batch without x": (lambda: train(batch={"image": X}), ValueError, "as \"x\"; its entries are .'image'"),
    "mask": (lambda: train(batch={"x": X, "mask": X}), ValueError, "no objective reads mask from the batch"),
    "integers to train on": (lambda: train(batch={"x": jnp.ones((4, 2), jnp.uint8)}), TypeError, r"1\]; .* uint8"),
    "noise": (lambda: train(batch={"x": X, "noise": X[:, :1]}), ValueError, r"\(4, 2\), but has \(4, 1\)"),
    "one key to train": (lambda: train(keys=jax.random.key(0)), ValueError, "single key. Make them with .*, 4"),
    "raw keys to train": (lambda: train(keys=jax.random.split(jax.random.PRNGKey(0), 4)), ValueError, "PRNGKey .*wrap"),
    "too few keys": (lambda: train(keys=KEYS[:2]), ValueError, r"got keys of shape \(2,\)"),
    "schedule's function": (lambda: train(schedule=schedules.cosine), TypeError, f"rectified_flow.*cosine.*{CALLED}"),
    "dropout": (
        lambda: train(objective=objectives.with_condition_dropout(MATCHING, 0, 0.1)),
        ValueError,
        r'the batch has no "condition" \(labels are one\)',
    ),
    "dropout, one key": (
        lambda: train(keys=KEYS[0], objective=objectives.with_condition_dropout(MATCHING, 0, 0.1)),
        ValueError,
        "single",
    ),
    "coupling": (
        lambda: train(
            objective=objectives.flow_matching(
                timesteps.uniform_density(FLOW), couplings.Coupling(lambda k, x, e: e[:, 0])
            )
        ),
        ValueError,
        r"must have the shape \(4, 2\), but has \(4,\)",
    ),
    "a coupling that is not made": (
        lambda: objectives.flow_matching(timesteps.uniform_density(FLOW), couplings.optimal_transport),
        TypeError,
        r"coupling must be a Coupling.* optimal_transport\(\)",
    ),
    "distance": (
        lambda: train(
            objective=objectives.consistency_training(
                V,
                timesteps.uniform_density(FLOW),
                few_step_cases.near(0.2),
                lambda a, b: ((a - b) ** 2).mean(),
                target="model",
            )
        ),
        ValueError,
        r"one number for each example, must have the shape \(4,\)",
    ),
    "losses": (
        lambda: train(
            objective=objectives.added(MATCHING, feature_losses.Term(lambda seen: jnp.zeros(1), (1,), 0.5)),
            networks={"model": lambda x, clock, condition, features: (x, (x,))},
        ),
        ValueError,
        r"term, one for each example, .* \(4,\), but has \(1,\)",
    ),
    "uncertainty": (
        lambda: train(
            objective=objectives.with_uncertainty(MATCHING),
            networks={"model": network, "uncertainty": lambda x, clock, c: clock[:, None]},
        ),
        ValueError,
        r"has \(4, 1\)",
    ),
    "schedule's function to read by": (
        lambda: parameterizations.denoiser(network, schedules.cosine, V),
        TypeError,
        CALLED,
    ),
    "parameterization's function": (
        lambda: parameterizations.denoiser(network, FLOW, parameterizations.v),
        TypeError,
        CALLED,
    ),
    "parameters to read": (lambda: parameterizations.denoiser({}, FLOW, V), TypeError, "network must be a function"),
    "parameters of a map": (lambda: flow_maps.mean_flow({}, FLOW), TypeError, "network must be a function"),
    "schedule's function of a map": (lambda: flow_maps.shortcut(network, schedules.cosine), TypeError, CALLED),
    "parameters to guide": (lambda: guidance.together({}, FLOW, V, (X, X)), TypeError, "network must be a function"),
    "integers to denoise": (lambda: DENOISE(jnp.ones((4, 2), int), 0.5), TypeError, "x_t must be .* floating-point"),
    "sampler's function": (lambda: sample(samplers.heun), TypeError, f"samplers.heun.*the function heun.*{CALLED}"),
    "network for a denoiser": (lambda: sample(denoise=network), TypeError, "a network becomes a denoiser by"),
    "map for a denoiser": (
        lambda: sample(denoise=MAP),
        TypeError,
        r"takes a denoiser .* got .* FlowMap; .* flow_map\(\)",
    ),
    "picard's map": (lambda: sample(denoise=MAP, by=samplers.picard), TypeError, "takes a denoiser .* got .* FlowMap"),
    "denoiser for a map": (
        lambda: sample(samplers.tcd()),
        TypeError,
        "takes FlowMap, but got the function denoise.*with ddim",
    ),
    "function for a map": (
        lambda: sample(samplers.flow_map(), lambda x, t, s: x),
        TypeError,
        "takes FlowMap, but got the function <lambda>.*a FlowMap of.*of your own",
    ),
    "guidance with memory for a map": (
        lambda: sample(samplers.flow_map(), guidance.Memory(jnp.zeros_like, MAP)),
        TypeError,
        "takes FlowMap, but got a value of type Memory",
    ),
    "unpaired guidance": (
        lambda: sample(denoise=guidance.Unpaired(DENOISE)),
        TypeError,
        r"takes a denoiser \(.*or Memory, but got a value of type Unpaired;.*as ddim",
    ),
    "array for a denoiser": (lambda: sample(denoise=X), TypeError, "got an array of float32.*becomes a denoiser by"),
    "network of two arguments": (lambda: sample(denoise=optional), TypeError, "returns must be a Prediction.*array of"),
    "grid for a plan": (lambda: sample(plan=timesteps.uniform(FLOW, 3)), TypeError, "plan must be a Plan.*array of"),
    "schedule's function to sample": (lambda: sample(schedule=schedules.cosine), TypeError, CALLED),
    "integers to sample": (lambda: sample(x=jnp.ones((4, 2), int)), TypeError, "x must be .*floating-point.*int32"),
    "one key to sample": (lambda: sample(keys=KEYS[0]), ValueError, "single key. Make them with .*, 4"),
    "raw keys to sample": (lambda: sample(keys=jax.random.split(jax.random.PRNGKey(0), 4)), ValueError, "raw keys"),
    "picard": (lambda: sample(plan=timesteps.uniform(FLOW, 3), by=samplers.picard), TypeError, "plan must be a Plan"),
    "picard's keys": (lambda: sample(keys=KEYS[0], by=samplers.picard), ValueError, "a single key"),
    "estimate": (lambda: sample(denoise=said(lambda x: x[:, 0])), ValueError, r"shape of x_t, \(4, 2\); got \(4,\)"),
    "picard's estimate": (
        lambda: sample(denoise=said(lambda x: x[0]), by=samplers.picard),
        ValueError,
        r"shape of x_t, \(4, 2\); got \(2,\)",
    ),
    "map": (
        lambda: sample(samplers.flow_map(), FlowMap(lambda x, t, s: x[0])),
        ValueError,
        r"shape \(4, 2\), but has \(2,\)",
    ),
    "branches": (
        lambda: guidance.separately(DENOISE, said(lambda x: x[:1]))(X, 0.5),
        ValueError,
        r"shape of x_t, \(4, 2\); got \(1, 2\)",
    ),
    "threshold": (
        lambda: guidance.dynamic_threshold(said(lambda x: x[:, 0]), FLOW)(X, 0.5),
        ValueError,
        r"shape of x_t, \(4, 2\); got \(4,\)",
    ),
    "classifier": (
        lambda: guidance.classifier(DENOISE, FLOW, lambda x, t: x)(X, 0.5),
        ValueError,
        r"\(4,\), but has \(4, 2\)",
    ),
    "adaptive": (
        lambda: samplers.adaptive(said(lambda x: x[:, 0]), FLOW, X),
        ValueError,
        r"shape of x_t, \(4, 2\); got \(4,\)",
    ),
    "adaptive's integers": (lambda: samplers.adaptive(DENOISE, FLOW, jnp.ones((4, 2), int)), TypeError, "int32"),
    "likelihood of bytes": (
        lambda: likelihood.log_likelihood(
            DENOISE, FLOW, jnp.ones((4, 2), jnp.uint8), ode.runge_kutta(np.linspace(0, 1, 3)), likelihood.exact()
        ),
        TypeError,
        "uint8",
    ),
    "likelihood of half the flow": (
        lambda: likelihood.log_likelihood(DENOISE, FLOW, X, ode.runge_kutta([0.0, 0.5]), likelihood.exact()),
        ValueError,
        r"ends at time 0\.5, but the prior is the distribution at t_max = 1\. .*ending_at\(schedule, 0\.5\)",
    ),
    "dequantisation with a single key": (
        lambda: likelihood.dequantise(jnp.ones((4, 2), jnp.uint8), KEYS[0]),
        ValueError,
        "dequantisation needs one key for each of the 4 images; got a single key",
    ),
    "a plan beyond the noise": (
        lambda: sample(plan=timesteps.plan([2.0, 1.0, 0.0])),
        ValueError,
        r"t = 2 lies outside the times of this schedule, \[0, 1\]",
    ),
    "a plan of indices": (
        lambda: sample(samplers.ddim(), plan=timesteps.plan(np.array([999, 500, 0]))),
        ValueError,
        "t = 999 lies outside",
    ),
    "a plan up beyond the noise": (
        lambda: sample(plan=timesteps.plan([0.0, 1.0, 1.5])),
        ValueError,
        r"t = 1\.5 lies outside",
    ),
    "noised beyond the noise": (lambda: editing.noised(FLOW, 2.0, X, KEYS), ValueError, "t = 2 lies outside"),
    "noised at the indices of steps": (
        lambda: editing.noised(FLOW, np.array([0, 1, 2, 3]), X, KEYS),
        ValueError,
        "t = 2 lies outside",
    ),
    "noised with a single key": (
        lambda: editing.noised(FLOW, 0.5, X, KEYS[0]),
        ValueError,
        "noise needs one key for each of the 4 images; got a single key",
    ),
    **{
        f"{name} of a measurement without its last axis": (
            lambda likelihood=likelihood: likelihood(lambda x: x[:, :1], X[:, 0])(X),
            ValueError,
            r"measurement y has the shape \(4,\), but A x has \(4, 1\)\. Valid: .* \(1,\) for a measurement that all",
        )
        for name, likelihood in {
            "gaussian_likelihood": lambda operator, y: guidance.gaussian_likelihood(operator, y, 0.1),
            "negative_distance": guidance.negative_distance,
            "quantile_likelihood": guidance.quantile_likelihood,
        }.items()
    },
    **{
        f"{name} of a measurement with one column of two": (
            lambda guide=guide: guide(DENOISE, FLOW, measurements.masked(jnp.array([True, False])), X[:, :1])(X, 0.5),
            ValueError,
            r"measurement y has the shape \(4, 1\), but A x has \(4, 2\)",
        )
        for name, guide in {"pseudoinverse": guidance.pseudoinverse, "proximal": guidance.proximal}.items()
    },
    **{
        f"{name} by a mean over the samples": (
            lambda guide=guide: guide(lambda x0: -jnp.mean(x0**2)),
            ValueError,
            r"log p\(y \| x0\), one number for each sample, must have the shape \(4,\), but has \(\)",
        )
        for name, guide in {
            "posterior_sampling": lambda log_p: guidance.posterior_sampling(DENOISE, FLOW, log_p)(X, 0.5),
            "manifold_preserving": lambda log_p: guidance.manifold_preserving(DENOISE, FLOW, log_p)(X, 0.5),
            "langevin_draw": lambda log_p: steering.langevin_draw(log_p, steps=1, step_size=lambda r: r)(X, 1.0, KEYS),
            "red_diff": lambda log_p: steering.red_diff(DENOISE, FLOW, log_p, X, PLAN, KEYS, optax.sgd(0.1)),
        }.items()
    },
    "guidance of more channels than x has": (
        lambda: guidance.classifier_free(guidance.separately(DENOISE, DENOISE), 2.0, channels=3)(X, 0.5),
        ValueError,
        "channels = 3, but x has 2",
    ),
    "guidance of denoisers that are no branches": (
        lambda: guidance.classifier_free((DENOISE, DENOISE), 2.0)(X, 0.5),
        TypeError,
        r"branches must be guidance\.together\(\.\.\.\) or guidance\.separately.* type tuple",
    ),
    "guidance with its scale as the interval": (
        lambda: guidance.classifier_free(DENOISE, DENOISE, 2.0),
        ValueError,
        r"guidance interval 2\.0\. Valid: a pair",
    ),
    "a null class without a batch": (
        lambda: guidance.together(network, FLOW, V, (jnp.arange(4), 10)),
        ValueError,
        r"shapes \[\[\(4,\)\], \[\(\)\]\]\. Each needs the same batch axis",
    ),
    "a null class of one example": (
        lambda: guidance.together(network, FLOW, V, (jnp.arange(4), jnp.array([10]))),
        ValueError,
        "Each needs the same batch axis",
    ),
    "conditions of another batch": (
        lambda: guidance.together(network, FLOW, V, (jnp.arange(3), jnp.arange(3)))(X, 0.5),
        ValueError,
        "x_t has 4 examples, but the conditions have 3",
    ),
    "labels of another batch": (
        lambda: train(batch={"x": X, "condition": jnp.arange(3)}),
        ValueError,
        r'batch\["condition"\] has an array of shape \(3,\), but x has 4 examples',
    ),
    "a text vector without a batch": (
        lambda: train(batch={"x": X, "condition": {"text": jnp.ones((1, 16))}}),
        ValueError,
        r"array of shape \(1, 16\), but x has 4 examples",
    ),
    **{
        f"{name} of a function for the schedule": (call, TypeError, f"the function cosine.*{CALLED}")
        for name, call in {
            "uniform": lambda: timesteps.uniform(schedules.cosine, 4),
            "polynomial": lambda: timesteps.polynomial(schedules.cosine, 4),
            "beta": lambda: timesteps.beta(schedules.cosine, 4),
            "sigmoid": lambda: timesteps.sigmoid(schedules.cosine, 4),
            "karras": lambda: timesteps.karras(schedules.cosine, 4),
            "trailing": lambda: timesteps.trailing(schedules.cosine, 4),
            "shift": lambda: timesteps.shift(schedules.cosine, np.linspace(1, 0, 4), 1.0),
            "optimal": lambda: timesteps.optimal(DENOISE, schedules.cosine, np.linspace(1, 0, 4), X[None], 2),
            "likelihood.times": lambda: likelihood.times(schedules.cosine, 4),
            "restart_plan": lambda: samplers.restart_plan(schedules.cosine, np.linspace(1, 0, 4), ()),
            "uniform_density": lambda: timesteps.uniform_density(schedules.cosine),
            "discrete_density": lambda: timesteps.discrete_density(schedules.cosine),
            "logit_normal": lambda: timesteps.logit_normal(schedules.cosine),
            "log_normal": lambda: timesteps.log_normal(schedules.cosine),
            "loss_second_moment": lambda: timesteps.loss_second_moment(schedules.cosine),
            "velocity_field": lambda: tangent_field.velocity_field(network, schedules.cosine, manifolds.sphere(1)),
        }.items()
    },
    **{
        f"{name} of a network of two arguments": (
            call,
            TypeError,
            r"network must be a function \(x, .*, condition\) -> output; got of_two\(x, t\), which does not take",
        )
        for name, call in {
            "denoiser": lambda: parameterizations.denoiser(of_two, FLOW, V),
            "together": lambda: guidance.together(of_two, FLOW, V, (X, X)),
            "flow map": lambda: flow_maps.mean_flow(of_two, FLOW),
            "objective": lambda: train({"model": of_two}),
            "objective of two times": lambda: train(
                {"model": of_two}, objective=objectives.mean_flow(timesteps.uniform_density(FLOW))
            ),
            "predictor": lambda: discrete.predictor(of_two, PROCESS, discrete.from_logits),
            "field": lambda: tangent_field.velocity_field(of_two, FLOW, manifolds.sphere(1)),
        }.items()
    },
    **{
        f"{name} with a mask of shares": (
            call,
            TypeError,
            r"mask must be Bool; got an array of float32, shape \(4, 2\)\. Valid: e\.g\. mask > 0\.5",
        )
        for name, call in {
            "replacement": lambda: editing.replacement(FLOW, PLAN, X, X),
            "replacement_along": lambda: editing.replacement_along(FLOW, PLAN, X, X, X),
            "masked": lambda: measurements.masked(X),
        }.items()
    },
    "replacement by a mask without channels": (
        lambda: editing.replacement(FLOW, PLAN, X[..., None], jnp.ones(2, bool))(X[..., None], 0.5, 0, KEYS),
        ValueError,
        r"must have the shape \(4, 2, 1\), but has \(4, 2, 2\)",
    ),
    "replacement by another plan": (
        lambda: edited(editing.replacement_along(FLOW, timesteps.plan([1.0, 0.5, 0.2, 0.0]), X, X > 0, X)),
        ValueError,
        "after_step was made for a plan whose step 0 differs from that of the sampled plan",
    ),
    "replacement by a shorter plan": (
        lambda: edited(editing.replacement_along(FLOW, timesteps.plan([1.0, 0.0]), X, X > 0, X)),
        ValueError,
        "after_step was made for a plan of 1 steps, and the sampled plan has 3",
    ),
    "replacement by a plan that renoises": (
        lambda: edited(editing.replacement(FLOW, editing.repaint(np.linspace(1, 0, 3), 1, 2), X, X > 0)),
        ValueError,
        "after_step was made for a plan of 4 steps, and the sampled plan has 3",
    ),
    "replacement by a plan that renoises in another step": (
        lambda: edited(editing.replacement(FLOW, timesteps.plan([0.5, 1.0, 0.5, 0.0], [True, False, False]), X, X > 0)),
        ValueError,
        "after_step was made for a plan whose step 0 differs",
    ),
    **{
        f"{name} of a plan": (call, TypeError, f"{name} takes a grid, a vector of N \\+ 1 times, but got a Plan")
        for name, call in {
            "plan": lambda: timesteps.plan(PLAN),
            "sdedit": lambda: editing.sdedit(HEUN, DENOISE, FLOW, X, PLAN, 0.5, KEYS),
            "repaint": lambda: editing.repaint(PLAN),
            "shift": lambda: timesteps.shift(FLOW, PLAN, 2.0),
            "optimal": lambda: timesteps.optimal(DENOISE, FLOW, PLAN, X[None], 2),
            "restart_plan": lambda: samplers.restart_plan(FLOW, PLAN, ()),
        }.items()
    },
    **{
        f"{name} with {what}": (call, TypeError, rf"density must be a Density, such as .*; got {got}")
        for name, what, got, call in (
            (
                "flow_matching",
                "a schedule's function",
                "the function rectified_flow.*" + CALLED,
                lambda: objectives.flow_matching(schedules.rectified_flow),
            ),
            ("flow_matching", "a schedule", "a value of type NoiseSchedule", lambda: objectives.flow_matching(FLOW)),
            ("mean_flow", "a schedule", "a value of type NoiseSchedule", lambda: objectives.mean_flow(FLOW)),
            ("masked_diffusion", "a schedule", ".*", lambda: discrete.masked_diffusion(PROCESS, FLOW)),
            (
                "denoising",
                "density and weighting swapped",
                "the function ",
                lambda: objectives.denoising(V, timesteps.uniform_density(FLOW), weightings.snr()),
            ),
        )
    },
    **{
        f"denoising with {what} for the parameterization": (
            call,
            TypeError,
            f"parameterization must be a Parameterization, such as .*; got {got}",
        )
        for what, got, call in (
            (
                "a density",
                "a value of type Density",
                lambda: objectives.denoising(timesteps.uniform_density(FLOW), weightings.snr(), V),
            ),
            (
                "a function",
                "the function v;.*" + CALLED,
                lambda: objectives.denoising(parameterizations.v, weightings.snr(), timesteps.uniform_density(FLOW)),
            ),
        )
    },
    "likelihood of no numbers": (
        lambda: likelihood.bits_per_dim(jnp.zeros(2), np.array([3, 0])),
        ValueError,
        r"dims = \[3 0\], the numbers that an image has, must be at least 1",
    ),
    "distance of features": (
        lambda: frechet.frechet_distance(np.ones((4, 2)), np.ones((4, 2))),
        TypeError,
        r"takes the moments of two sets .* array of float64, shape \(4, 2\)\. Valid: moments\(features\)",
    ),
    "distance of moments to features": (
        lambda: frechet.distance_to(frechet.moments(np.eye(2)))(np.ones((4, 2))),
        TypeError,
        "takes the moments",
    ),
    "prior's schedule": (lambda: samplers.prior(schedules.cosine, KEYS, (2,)), TypeError, CALLED),
    "raw keys of the prior": (
        lambda: samplers.prior(FLOW, jax.random.split(jax.random.PRNGKey(0), 3), (2,)),
        ValueError,
        r"typed ones `\[3\]`.*split\(jax.random.key\(seed\), 3\)",
    ),
    "a sampler's start": (
        lambda: sample(HEUN._replace(init=lambda x, schedule, plan: x)),
        TypeError,
        r"a NamedTuple whose field x is the samples \(4, 2\).*got an array of float32, shape \(4, 2\)",
    ),
    "a sampler's step": (
        lambda: sample(HEUN._replace(step=lambda state, *rest: state.x)),
        TypeError,
        r"it received State\(x=\(4, 2\), x0=\(4, 2\)\), and returned an array of float32, shape \(4, 2\)",
    ),
    "a step with its noises' axis": (
        lambda: sample(HEUN._replace(draws=1, step=lambda state, *rest: state._replace(x=state.x + rest[-1]))),
        TypeError,
        r"and returned State\(x=\(1, 4, 2\), x0=\(4, 2\)\)",
    ),
    "a step in another type": (
        lambda: sample(HEUN._replace(step=lambda state, *rest: state._replace(x=state.x.astype(jnp.bfloat16)))),
        TypeError,
        "the step of a sampler returned bfloat16 for samples of float32. Valid: arguments that are Python's numbers",
    ),
    "no noises": (lambda: sample(HEUN._replace(draws=None)), ValueError, "draws = None .*Valid: .*0 or more"),
    "noises of a share": (lambda: sample(HEUN._replace(draws=1.0)), ValueError, "draws = 1.0"),
    "fewer than no noises": (lambda: sample(HEUN._replace(draws=-1)), ValueError, "draws = -1"),
    "a hook without a result": (
        lambda: samplers.sample(HEUN, DENOISE, FLOW, X, PLAN, KEYS, after_step=lambda *rest: None),
        ValueError,
        r"after_step must return the samples, of shape \(4, 2\); got a value of type NoneType",
    ),
    "a denoiser for branches": (
        lambda: guidance.classifier_free(DENOISE, 2.0)(X, jnp.ones(4)),
        TypeError,
        "got a denoiser, which returns one prediction. Valid: guidance.together",
    ),
    "conditions of two structures": (
        lambda: guidance.together(network, FLOW, V, ({"a": X, "b": X}, {"a": X})),
        ValueError,
        "the conditions differ in structure, .*'b'",
    ),
    "a measurement's function": (
        lambda: guidance.proximal(DENOISE, FLOW, measurements.pooled(2).forward, X),
        TypeError,
        "measurement must be a Measurement, such as .* got the function forward",
    ),
    "a measurement's function, by DDRM": (
        lambda: steering.ddrm(measurements.pooled(2).forward, X),
        TypeError,
        "measurement must be a Measurement",
    ),
    "a measurement for its function": (
        lambda: guidance.gaussian_likelihood(measurements.masked(jnp.array([True, False])), X, 0.1)(X),
        TypeError,
        "operator must be a function x0 -> A.* got a value of type Measurement",
    ),
    "a drawn measurement": (
        lambda: steering.gaussian_draw(measurements.masked(jnp.array([True, False])), X[:, :1])(X, 0.1, KEYS),
        ValueError,
        r"the measurement y has the shape \(4, 1\), but A x has \(4, 2\)",
    ),
    "pixels of a share": (lambda: measurements.pooled(2.5), ValueError, "factor = 2.5 must be an integer"),
    "a row for a matrix": (lambda: measurements.matrix(np.ones(3)), ValueError, r"the shape \(3,\). Valid: \[M, D\]"),
    "one prior for all examples": (
        lambda: likelihood.log_likelihood(
            DENOISE, FLOW, X, ode.runge_kutta([0.1, 1.0]), likelihood.exact(), log_prior=lambda x: -jnp.sum(x**2)
        ),
        ValueError,
        r"log_prior, one number for each example, must have the shape \(4,\), but has \(\)",
    ),
    "one prior for all examples on a manifold": (
        lambda: manifolds.riemannian_log_likelihood(
            tangent_field.TangentField(manifolds.euclidean(2), lambda x, t: -x), X, (0.0, 1.0), lambda x: -jnp.sum(x**2)
        ),
        ValueError,
        r"log_prior, one number for each example, must have the shape \(4,\), but has \(\)",
    ),
    "one key for probes": (lambda: likelihood.rademacher(KEYS[0], (2,)), ValueError, "probes .* a single key"),
    "raw keys for probes": (
        lambda: likelihood.normal(jax.random.split(jax.random.PRNGKey(0), 4), (2,)),
        ValueError,
        r"probes need one key for each example: typed ones `\[4\]`",
    ),
    "steps of a share": (lambda: likelihood.times(FLOW, 4.5), ValueError, "steps = 4.5: .* an integer number"),
    "a sphere of a share": (lambda: manifolds.sphere(2.5), ValueError, "n = 2.5 must be positive and an integer"),
    "a torus of a share": (lambda: manifolds.torus(2.5), ValueError, "n = 2.5 of circle.* an integer"),
    "symbols of a share": (
        lambda: discrete.absorbing(discrete.linear(), 5.5),
        ValueError,
        "absorbing: 5.5 symbols. Valid: at least 2",
    ),
    "a list for a point": (
        lambda: manifolds.wrapped_normal(manifolds.sphere(2), [0.0, 0.0, 1.0], 0.4),
        ValueError,
        r"an array of shape \(3,\) .*; got \[\(\), \(\), \(\)\]",
    ),
    "a time of symbols": (
        lambda: discrete.noised(PROCESS, KEYS, jnp.zeros((4, 2), int), np.array([0.5, 1.5, 0.5, 0.5])),
        ValueError,
        r"t = \[0.5 1.5 0.5 0.5\]: a time lies outside of \[0, 1\]",
    ),
    "prior's keys": (lambda: samplers.prior(FLOW, KEYS[0], (2,)), ValueError, "a single key"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_ends_in_a_sentence(name):
    call, error, sentence = SLIPS[name]
    with pytest.raises(error, match=sentence):
        jax.eval_shape(call)


STAND_INS = {
    "a": 1.0,
    "b": 1.0,
    "branches": guidance.separately(DENOISE, DENOISE),
    "chunk": 1,
    "clips": X,
    "conditions": (X, X),
    "context": X[:, :1],
    "denoise": DENOISE,
    "dimension": 4,
    "factor": 2.0,
    "given": np.array([True, False]),
    "grid": np.linspace(1, 0, 4),
    "images": X,
    "keys": KEYS,
    "log_reward": lambda x: x.sum(1),
    "measurement": measurements.masked(jnp.array([True, False])),
    "memory": X,
    "network": network,
    "noise_std": 0.1,
    "number": 2,
    "parameterization": V,
    "plan": PLAN,
    "sampler": samplers.ddim(),
    "schedule": schedules.cosine,
    "shares": (0.5, 0.5),
    "solver": ode.runge_kutta(np.linspace(0, 1, 3)),
    "steps": 3,
    "tokens": 4,
    "width": 2,
    "window": 2,
    "x": X,
    "y": X,
}
OF_ONE = {
    "align_your_steps": {"network": "stable_diffusion_xl"},
    "rollout_from_memory": {"denoise": lambda memory: DENOISE, "remember": lambda memory, chunk: memory},
}
NO_FACTORY = {
    "Product",
    "Seen",
    "Trained",
    "at_each",
    "error_scale",
    "mean_velocity",
}  # records, and what a factory's result calls
TAKE_A_SCHEDULE = [
    (module.__name__, name)
    for module in (
        editing,
        flow_maps,
        guidance,
        likelihood,
        objectives,
        samplers,
        schedules,
        steering,
        timesteps,
        videos,
    )
    for name in module.__all__
    if name not in NO_FACTORY
    and inspect.isfunction(function := getattr(module, name))
    and "schedule" in inspect.signature(function).parameters
]


@pytest.mark.parametrize("module, name", TAKE_A_SCHEDULE)
def test_every_function_of_a_schedule_says_that_a_factory_was_not_called(module, name):
    function = getattr(importlib.import_module(module), name)
    needed = [
        argument for argument, taken in inspect.signature(function).parameters.items() if taken.default is taken.empty
    ]
    with pytest.raises(TypeError, match=f"the function cosine.*{CALLED}"):
        function(**{argument: (STAND_INS | OF_ONE.get(name, {})).get(argument) for argument in needed})


def test_a_replacement_is_sampled_along_its_plan_in_any_width_and_under_jit():
    wide = timesteps.plan(np.asarray(timesteps.uniform(FLOW, 3), np.float64))
    narrow = timesteps.plan(np.asarray(timesteps.uniform(FLOW, 3), np.float32))

    def run(plan):
        hook = editing.replacement(FLOW, plan, 3 * X, jnp.array([True, False]))
        return samplers.sample(HEUN, DENOISE, FLOW, X, narrow, KEYS, after_step=hook)

    for out in (run(wide), jax.jit(run)(wide)):
        np.testing.assert_allclose(out[:, 0], 3, rtol=1e-6)
        assert np.all(np.abs(out[:, 1]) < 3)


def test_a_replacement_serves_sdedit_which_makes_its_plan_by_itself():
    hook = editing.replacement(FLOW, PLAN, 3 * X, jnp.array([True, False]))
    edited = editing.sdedit(HEUN, DENOISE, FLOW, X, np.linspace(1, 0, 4), 0.5, KEYS, after_step=hook)
    np.testing.assert_allclose(edited[:, 0], 3, rtol=1e-6)


def test_a_half_precision_denoiser_is_read_in_the_type_of_the_samples():
    half = lambda x, t: parameterizations.Prediction(*(part.astype(jnp.bfloat16) for part in DENOISE(x, t)[:2]))
    assert jax.eval_shape(lambda: sample(denoise=half)).dtype == jnp.float32
    assert jax.eval_shape(lambda: sample(samplers.dpmpp_2m(), half)).dtype == jnp.float32


def test_what_is_right_passes():
    assert train().shape == (4,) and sample().shape == (4, 2)
    assert sample(samplers.flow_map(), MAP).shape == (4, 2)
    assert editing.noised(FLOW, 0.5, X[:1], KEYS).shape == (4, 2)


@pytest.mark.parametrize("y", [X, X[:1], X[0]])
def test_all_samples_may_share_a_measurement(y):
    guided = guidance.proximal(DENOISE, FLOW, measurements.masked(jnp.array([True, False])), y)(X / 2, 0.5)
    np.testing.assert_allclose(guided.x0[:, 0], 1)


OTHER = {
    "[B]": lambda y: y[:, 0],
    "[B, B]": lambda y: jnp.tile(y[:, :1], len(y)),
    "[1]": lambda y: y[0, :1],
    "[..., 1]": lambda y: y[..., None],
    "2 C": lambda y: jnp.concatenate([y, y], axis=-1),
    "features": lambda y: (y, y),
}


@pytest.mark.parametrize("shape", OTHER)
@pytest.mark.parametrize("read", ["evaluate", "predict", "map", "together"])
def test_an_output_of_another_shape_is_refused_and_both_are_named(read, shape):
    """x [B, 1] against [B] is [B, B]: it once trained and sampled."""
    x = jnp.ones((4, 1))
    other = lambda x, clock, condition: OTHER[shape](0.5 * x)
    run = {
        "evaluate": lambda: parameterizations.evaluate(other, FLOW, V, x, 0.5),
        "predict": lambda: parameterizations.denoiser(other, FLOW, V)(x, 0.5),
        "map": lambda: flow_maps.mean_flow(other, FLOW)(x, 0.5, 0.2),
        "together": lambda: guidance.together(other, FLOW, V, (jnp.ones(4), jnp.zeros(4)))(x, 0.5),
    }[read]
    with pytest.raises(
        ValueError, match=r"the network returned .* for x of shape \(\d, 1\); .* must have the shape \(\d, 1\)"
    ):
        jax.eval_shape(run)


def test_a_learned_variance_has_twice_the_channels():
    read = parameterizations.learned_variance(V)
    run = lambda other: jax.eval_shape(lambda: parameterizations.denoiser(other, FLOW, read)(X, 0.5))
    assert run(lambda x, t, c: jnp.concatenate([x, x], -1)).variance.shape == X.shape
    with pytest.raises(ValueError, match=r"shape \(4, 2\).*have the shape \(4, 4\), 2 times its channels"):
        run(network)


@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name in few_step_cases.MEMBERS if name != "adversarial_discriminator"])
def test_every_few_step_objective_refuses_an_output_of_another_shape(name):
    """Each in the place of each network that it reads; a discriminator's logits have a shape of their own."""
    cut = lambda returned: (returned[0][:, 0], returned[1]) if isinstance(returned, tuple) else returned[:, 0]
    member = few_step_cases.MEMBERS[name]
    batch = few_step_cases.batch_of(4, (1,))
    players = few_step_cases.networks(member, few_step_cases.parameters_of(member))
    for player in set(players) - {"discriminator"}:
        wrong = players | {player: lambda *inputs, right=players[player], **more: cut(right(*inputs, **more))}
        with pytest.raises(ValueError, match="the network returned"):
            jax.eval_shape(lambda: few_step_cases.run(name, batch, players=wrong))  # noqa: B023


@pytest.mark.parametrize("name", objective_cases.OBJECTIVES)
def test_every_objective_refuses_an_output_of_another_shape(name):
    case = objective_cases.OBJECTIVES[name]
    schedule = objective_cases.SCHEDULES["cosine"]
    right = objective_cases.network_of(case, lambda x, *_: 0.5 * x)

    def wrong(*inputs, **features):
        y = right(*inputs, **features)
        return y[:, :1] if case.features is None else (y[0][:, :1], y[1])

    run = lambda network: jax.eval_shape(
        lambda: objective_cases.losses_of(
            case.make(timesteps.uniform_density(schedule)), network, schedule, KEYS, X, **case.batch(X)
        )
    )
    assert run(right)[0].shape == (4,)
    with pytest.raises(ValueError, match="the network returned"):
        run(wrong)


# What sampling refuses, training refuses first.


@pytest.mark.parametrize("name", ["epsilon", "score", "edm", "v"])
@pytest.mark.parametrize("make", [schedules.rectified_flow, schedules.cosine, schedules.edm])
def test_what_no_denoiser_can_read_is_not_trained(name, make):
    """EDM's parameterization on the rectified flow once trained 1,500 steps, and was refused at sampling."""
    read = getattr(parameterizations, name)()
    schedule = make()
    objective = objectives.denoising(read, lambda schedule, t: jnp.ones_like(t), timesteps.uniform_density(schedule))
    sampled = _outcome(lambda: parameterizations.denoiser(network, schedule, read))
    trained = _outcome(lambda: train(schedule=schedule, objective=objective))
    assert sampled == trained
    assert (sampled is None) == (make is schedules.edm or name == "v")
    assert _outcome(lambda: train(schedule=schedule._replace(t_max=0.99), objective=objective)) is None


# These read no parameterization.
TWO_TIMES = (
    "alpha_flow",
    "shortcut",
    *(f"{name}{more}" for name in ("mean_flow", "improved_mean_flow") for more in ("", "(guided)")),
)


@pytest.mark.parametrize("name", [name for name in few_step_cases.MEMBERS if name not in TWO_TIMES])
def test_every_few_step_objective_is_refused_where_its_networks_cannot_be_read(name):
    """By a clock that is not finite at the end."""
    member = few_step_cases.MEMBERS[name]
    schedule = member.schedule
    players = few_step_cases.networks(member, few_step_cases.parameters_of(member))
    ended = schedule._replace(
        log_snr=lambda t: jnp.where(jnp.asarray(t) < 1, schedule.log_snr(t), -jnp.inf),
        alpha=lambda t: jnp.where(jnp.asarray(t) < 1, schedule.alpha(t), jnp.nan),
    )
    objective = few_step_cases.OBJECTIVES[name]
    if name.startswith("continuous"):
        objective = objectives.continuous_consistency(few_step_cases.UNIFORM)
    if schedule is few_step_cases.FLOW and not name.startswith("continuous"):
        ended = schedule
        objective = _with_edm(name)
    batch = few_step_cases.batch_of(4)
    with pytest.raises(ValueError, match=r"not finite at t = 1|not defined at t = 1"):
        jax.eval_shape(lambda: objective(players, ended, KEYS, batch, 0))


def _with_edm(name):
    """The objective of that name, of networks that EDM's parameterization reads."""
    before = few_step_cases.V
    few_step_cases.V = parameterizations.edm()
    try:
        return few_step_cases.MEMBERS[name].make()
    finally:
        few_step_cases.V = before


def _outcome(run):
    try:
        run()
    except ValueError as error:
        return str(error)
