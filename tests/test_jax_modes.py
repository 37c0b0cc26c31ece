"""The mathematics under JAX's settings: x64, strict promotion of types, no promotion of ranks, and traced factories."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import (
    caching,
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
    timesteps,
    videos,
    watermarks,
)
from diffusion.arrays import padding
from diffusion.manifolds import heat_kernels
from diffusion.parameterizations import Prediction
from diffusion.sampling import steering
from tests.manifolds.manifold_cases import CASES
from tests.objectives import few_step_cases

FLOW, BETAS = schedules.rectified_flow(), schedules.linear_beta()
GRID = np.linspace(1, 0, 4)
BATCH = 6
MASKED = guidance.measurements.masked(jnp.array([True, False]))
MEASURED = np.ones((BATCH, 2))


def half(x, t):
    return Prediction(x / 2, x / 2)


def sampled(sampler, denoise=half, schedule=FLOW):
    return lambda x, t, keys: samplers.sample(sampler, denoise, schedule, x, timesteps.plan(GRID), keys)


def network(x, clock, condition):
    return x / 2


def drawn(density):
    return lambda x, t, keys: density.sample(density.init(), keys, jnp.arange(BATCH))


def trained(name):
    def losses(x, t, keys):
        more = {"start": x[::-1], "rejected": x, "condition": jnp.arange(BATCH) % 3, "index": jnp.arange(BATCH)}
        return few_step_cases.run(name, {"x": x, **more}, keys=keys)[0]

    return losses


def on_a_table(make):
    """The losses of an objective of v, and what its network receives, on a process of tabulated coefficients."""

    def losses(x, t, keys):
        seen = []
        density = timesteps.discrete_density(BETAS)
        v = parameterizations.v()
        objective = make(density, v) if make is objectives.reflow else make(v, density)
        network = lambda x, clock, condition: seen.append(x) or x / 2
        return objective({"model": network}, BETAS, keys, {"x": x, "noise": x[::-1]}, 0)[0], seen

    return losses


def outputs(function, dtype=jnp.float32):
    """The types of a function of x, t and keys, without running it."""
    x, t = jax.ShapeDtypeStruct((BATCH, 2), dtype), jax.ShapeDtypeStruct((BATCH,), jnp.float32)
    traced = lambda x, t: function(x, t, jax.random.split(jax.random.key(0), BATCH))
    return {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(traced, x, t))}


VP = schedules.cosine()
MEASUREMENTS = {
    "masked": guidance.measurements.masked(np.ones((1, 1), bool)),
    "blurred": guidance.measurements.blurred(0.5),
    "matrix": guidance.measurements.matrix(np.array([[1.0, 2.0]])),
}


def measured(name, solve, dtype=np.float64):
    """A solution for a measurement of pictures `[6, 2, 1, 1]` in another precision than they are."""

    def solved(x, t, keys):
        x, measurement = x[:, :, None, None], MEASUREMENTS[name]
        y = np.ones(jax.eval_shape(measurement.forward, x).shape, dtype)
        return solve(x, keys, measurement, y)

    return solved


def ddrm(x, keys, measurement, y):
    return samplers.sample(steering.ddrm(measurement, y, 0.1), half, VP, x, timesteps.plan(GRID * 0.9), keys)


def daps(x, keys, measurement, y):
    draw = steering.gaussian_draw(measurement, y, 0.1)
    return steering.daps(half, VP, x, timesteps.plan(GRID * 0.9), keys, draw, steps=2)


def mcgdiff(x, keys, measurement, y):
    plan = timesteps.plan(GRID * 0.9)
    return steering.mcgdiff(samplers.ddpm(), half, VP, x, plan, keys, measurement, y, 0.1, number=2)


def likelihood_guidance(x, keys, measurement, y):
    log_likelihood = guidance.gaussian_likelihood(measurement.forward, y, 0.1)
    return guidance.posterior_sampling(half, VP, log_likelihood)(x, 0.5)


def steered(resample=steering.systematic):
    reward = steering.tilt(lambda x: -jnp.sum(x**2, axis=-1))
    plan = timesteps.plan(GRID * 0.9)
    return lambda x, t, keys: steering.twisted(
        samplers.ddpm(), half, VP, x, plan, keys, reward, number=2, resample=resample
    )


def rejected(x, t, keys):
    draw = lambda keys: jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
    outcome = steering.rejected(draw, lambda x: -jnp.sum(x**2, axis=-1), keys)
    return outcome.x, outcome.highest


DENOISE = parameterizations.denoiser(network, FLOW, parameterizations.velocity())
OF_FLOAT32 = {
    "a sampler that needs t_max": sampled(samplers.edm(s_churn=10.0)),
    "a denoiser at a number": lambda x, t, keys: DENOISE(x, 0.5),
    "a flow map between numbers": lambda x, t, keys: flow_maps.mean_flow(network, FLOW)(x, 0.5, 0.25),
    "noise up to a number": lambda x, t, keys: editing.noised(FLOW, 0.5, x, keys),
    "SDEdit": lambda x, t, keys: editing.sdedit(samplers.heun(), DENOISE, FLOW, x, GRID, 0.6, keys),
    "a density with ends": drawn(timesteps.log_normal(schedules.edm())),
    "dequantised bytes": lambda x, t, keys: likelihood.dequantise(jnp.zeros((BATCH, 2), jnp.uint8), keys),
    "a measurement in float64": lambda x, t, keys: guidance.proximal(half, FLOW, MASKED, MEASURED, 0.1)(x, t),
    "a draw about it": lambda x, t, keys: steering.gaussian_draw(MASKED, MEASURED, 0.1)(x, 0.5, keys),
    "a policy with a reference": trained("policy_gradient(target)"),
    "churn up to the end of a table": sampled(samplers.edm(s_churn=10.0), schedule=BETAS),
    "the density at the end of a table": lambda x, t, keys: likelihood.log_likelihood(
        half, BETAS, x, ode.runge_kutta([0.1, 1.0]), likelihood.exact()
    )[:2],
    "the bound at the end of a table": on_a_table(objectives.variational_bound),
    "pairs at the end of a table": on_a_table(objectives.reflow),
    **{f"ddrm of {name}": measured(name, ddrm) for name in MEASUREMENTS},
    "daps": measured("masked", daps),
    "mcgdiff of a matrix": measured("matrix", mcgdiff),
}


@pytest.mark.parametrize("name", OF_FLOAT32)
def test_float32_stays_float32_under_x64(name, x64):
    assert outputs(OF_FLOAT32[name]) == {np.dtype(np.float32)}


def test_path_weights_follow_their_times_in_float64(x64):
    """A perfect denoiser of N(0, 1) gives the same weight to every path: the integral of the density."""
    exact = lambda x, t: Prediction(FLOW.alpha(t) * x / (FLOW.alpha(t) ** 2 + FLOW.sigma(t) ** 2), x)
    log_density = lambda x: -jnp.sum(x**2, axis=-1) / 2
    keys = jax.random.split(jax.random.key(0), 2)
    _, log_weights = samplers.path_weights(exact, FLOW, timesteps.plan(GRID), keys, (3,), log_density)
    np.testing.assert_allclose(log_weights, 1.5 * np.log(2 * np.pi), rtol=1e-13)


def test_a_float64_network_from_a_float32_start_is_refused(x64):
    wide = lambda x, t: Prediction(x * np.float64(0.5), x)
    with pytest.raises(TypeError, match="float64 for x of float32"):
        outputs(sampled(samplers.heun(), wide))
    assert outputs(sampled(samplers.heun(), wide), jnp.float64) == {np.dtype(np.float64)}


def contrasted(x, t, keys):
    objective = objectives.contrastive_flow_matching(timesteps.uniform_density(FLOW))
    return objective({"model": network}, FLOW, keys, {"x": x, "real": np.ones((BATCH, 2), bool)}, 0)[0]


STRICT = {
    "contrasted pairs of what is real": contrasted,
    "a discrete process": lambda x, t, keys: [f(t) for f in BETAS[:6]],
    "unipc": sampled(samplers.unipc(2)),
    "plms": sampled(samplers.plms()),
    "picard": lambda x, t, keys: samplers.picard(samplers.heun(), half, FLOW, x, timesteps.plan(GRID), keys)[0],
    "strata of frames": drawn(timesteps.per_frame(timesteps.uniform_density(FLOW, BATCH), 3)),
    "adaptive times": drawn(timesteps.loss_second_moment(FLOW, 8)),
    **{
        f"{solve.__name__} of {name}": measured(name, solve)
        for name in MEASUREMENTS
        for solve in (ddrm, daps, mcgdiff, likelihood_guidance)
    },
    "particles": steered(),
    "particles of strata": steered(steering.stratified),
    "particles in part": steered(steering.partial(steering.systematic)),
    "rejection": rejected,
    **{
        name: trained(name)
        for name in (
            "drifting",
            "improved_mean_flow(guided)",
            "policy_gradient",
            "progressive_distillation",
            "shortcut",
        )
    },
}


@pytest.mark.parametrize("name", STRICT)
def test_nothing_needs_an_implicit_promotion(name):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert outputs(STRICT[name]) == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ["unipc", "picard", "a discrete process"])
def test_half_precision_is_promoted_where_promotion_is_strict(name):
    with jax.numpy_dtype_promotion("strict"):
        assert outputs(STRICT[name], jnp.bfloat16) == {np.dtype(np.float32)}
        assert FLOW.alpha(jnp.bfloat16(0.5)) == 0.5


@pytest.mark.parametrize("name", [name for name in STRICT if " of " in name or "particles" in name])
def test_steering_needs_no_implicit_promotion_in_float64_either(name, x64):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert outputs(STRICT[name]) == {np.dtype(np.float32)}


GIVEN = np.array([True, False])  # of the two frames, or numbers, of an example
KNOWN = np.ones((BATCH, 2), bool)
SECRET = "0123456789abcdef" * 4


def edited(make):
    """Samples under an `after_step` of the plan, the known values and their mask."""

    def sample(x, t, keys):
        plan = timesteps.plan(GRID)
        return samplers.sample(samplers.ddim(), half, FLOW, x, plan, keys, after_step=make(plan, x))

    return sample


def marked(watermark):
    """The initial noise `[6, 16, 16, 4]` with a watermark."""
    pictures = lambda x: jnp.broadcast_to(x[:, :1, None, None], (BATCH, 16, 16, 4))
    return lambda x, t, keys: watermark.embed(pictures(x), keys)


class Blocks(NamedTuple):
    """A network of two blocks, which double their input."""

    start: jax.Array
    length: int = 2

    def features(self, x):
        return x

    def attended(self):
        return self.start

    def run(self, x, first, last):
        return x * 2 ** (last - first)


def cached(cache):
    """The output of a network through a cache, and the floating-point numbers of its memory, which keep their types."""

    def evaluated(x, t, keys):
        call = lambda through: through(Blocks(x))
        memory = cache.memory(call)
        output, after, _ = cache.apply(memory, call)
        assert jax.tree.map(lambda a: a.dtype, after) == jax.tree.map(lambda a: a.dtype, memory)
        return output

    return evaluated


def on_manifold(name, loss):
    """The losses of an objective on a manifold at copies of one point."""

    def losses(x, t, keys):
        case = CASES[name]
        manifold = case.make()
        point = jnp.asarray(case.origin, x.dtype)
        network = lambda x, clock, condition: x / 2
        prior = None if manifold.uniform else manifolds.wrapped_normal(manifold, point, 1.0)
        objective, schedule = loss(manifold, prior)
        batch = {"x": jnp.broadcast_to(point, (BATCH, *point.shape))}
        return objective({"model": network}, schedule, keys, batch, 0)[0]

    return losses


def geodesic_flow(**more):
    density = timesteps.uniform_density(FLOW)
    return lambda m, prior: (manifolds.riemannian_flow_matching(m, density, prior, **more), FLOW)


def premetric_flow(m, prior):
    return geodesic_flow(premetric=m.distance, premetric_steps=2)(m, prior)


def transported_flow(m, prior):
    return geodesic_flow(coupling=couplings.optimal_transport(2, manifolds.geodesic_cost(m)))(m, prior)


def heat_score(kernel):
    density = timesteps.uniform_density(schedules.edm())
    return lambda m, prior: (manifolds.riemannian_score_matching(kernel(m), density, prior), schedules.edm())


def unmasked(x, t, keys):
    process = discrete.absorbing(discrete.linear(), 4)
    start = jnp.full((BATCH, 2), process.mask, jnp.int32)
    predict = lambda x_t, t: discrete.from_logits(process, jnp.zeros((*x_t.shape, 4), x.dtype), x_t, t)
    symbols, _ = discrete.until_unmasked(discrete.confident(0.9), predict, process, start, keys)
    infilled = discrete.infilling(discrete.ancestral(), np.array([2, 0]), GIVEN)
    discrete.sample(infilled, predict, process, start, timesteps.plan(GRID), keys)
    return predict(symbols, t)


def density_of_real(x, t, keys):
    solver = ode.dormand_prince(0.1, 1.0, most=2)
    return likelihood.log_likelihood(half, FLOW, x, solver, likelihood.exact(), real=KNOWN)[:2]


def corrected(x, t, keys):
    sampler, branches = samplers.padded(samplers.ddpm(), KNOWN), guidance.separately(half)
    particles = steering.corrected(sampler, branches, (1.5,), VP, x, timesteps.plan(GRID * 0.9), keys, number=2)
    return particles.x, particles.log_weights


TYPED = {
    "shares of what is real": lambda x, t, keys: padding.share(KNOWN, x),
    "noise at times": lambda x, t, keys: editing.noised(FLOW, t, x, keys),
    "replacement": edited(lambda plan, x: editing.replacement(FLOW, plan, x, KNOWN)),
    "replacement along one noise": edited(lambda plan, x: editing.replacement_along(FLOW, plan, x, KNOWN, x)),
    "latents between": lambda x, t, keys: editing.slerp(x, x[::-1], t),
    "frames that are given": lambda x, t, keys: videos.fill(
        samplers.ddpm(), half, FLOW, x, timesteps.staggered(GRID, 2, 1), keys, x, GIVEN
    ),
    "a rollout": lambda x, t, keys: videos.rollout(
        samplers.ddpm(), half, FLOW, x, timesteps.plan(GRID), keys, x[:, :1], 2
    ),
    "motion": lambda x, t, keys: videos.motion(x, 8 * jnp.ones(BATCH, jnp.int32)),
    "the rings of a watermark": marked(watermarks.tree_ring(SECRET, 0.25)),
    "the signs of a watermark": marked(watermarks.gaussian_shading(SECRET)),
    "noise by inversion": lambda x, t, keys: watermarks.initial_noise(half, FLOW, x, GRID * 0.9, keys),
    "noise by inversion to alpha = 0": lambda x, t, keys: watermarks.initial_noise(half, FLOW, x, GRID, keys),
    "first_block": cached(caching.first_block(0.1)),
    "tea_cache": cached(caching.tea_cache(0.1)),
    "mag_cache": cached(caching.mag_cache(0.1, [1.0] * 3)),
    "taylor_seer": cached(caching.taylor_seer(3)),
    "measures of a cache": cached(caching.measured(3)),
    **{
        f"flow matching on {name}": on_manifold(name, geodesic_flow())
        for name in ("sphere(2)", "torus(3)", "poincare(2)", "positive_definite(2)", "frames(2)")
    },
    "flow matching along a premetric": on_manifold("sphere(2)", premetric_flow),
    "flow matching of transported pairs": on_manifold("sphere(2)", transported_flow),
    "score matching by Varadhan": on_manifold("sphere(2)", heat_score(heat_kernels.varadhan)),
    "score matching on the torus": on_manifold("torus(3)", heat_score(lambda m: heat_kernels.torus(3))),
    "score matching on the sphere": on_manifold("sphere(2)", heat_score(lambda m: heat_kernels.sphere(2))),
    "the density of what is real": density_of_real,
    "correctors of what is real": corrected,
}
HALF = ("shares of what is real", "noise at times", "replacement along one noise", "latents between", "a rollout")


SLOW = ("flow matching along a premetric", "flow matching of transported pairs", "correctors of what is real",
        "score matching on the sphere", "flow matching on poincare(2)")  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.extended] * (name in SLOW)) for name in TYPED])
def test_no_type_is_promoted_implicitly(name):
    """Neither of float32, nor of float64 along times of float32."""
    for x64, dtype in ((False, jnp.float32), (True, jnp.float32), (True, jnp.float64)):
        with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
            assert outputs(TYPED[name], dtype) == {np.dtype(dtype)}


def test_symbols_are_unmasked_without_an_implicit_promotion():
    with jax.numpy_dtype_promotion("strict"):
        assert outputs(unmasked) == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", HALF)
def test_samples_of_half_precision_are_promoted_to_float32(name):
    with jax.numpy_dtype_promotion("strict"):
        assert outputs(TYPED[name], jnp.bfloat16) == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_in_half_precision_is_promoted(name):
    assert outputs(measured(name, ddrm, jnp.bfloat16)) == {np.dtype(np.float32)}


def test_times_are_chosen_inside_a_compiled_function():
    key = jax.random.split(jax.random.key(0), 1)
    edm = schedules.edm()
    for make in (
        lambda: likelihood.times(FLOW, 3),
        lambda: timesteps.log_normal(edm).sample((), key, jnp.arange(1))[0],
        lambda: timesteps.laplace(FLOW).sample((), key, jnp.arange(1))[0],
    ):
        np.testing.assert_allclose(jax.jit(make)(), make(), rtol=1e-6)


@pytest.mark.parametrize("make", [schedules.cosine, schedules.variance_preserving, schedules.sub_vp])
def test_the_log_snr_falls_from_infinity_at_the_data(make):
    """Its slope there is that of -ln t, or of -2 ln t: -infinity, and no NaN."""
    value, slope = jax.value_and_grad(make().log_snr)(0.0)
    assert (value, slope) == (np.inf, -np.inf)


def symbols(strength):
    """Probabilities `[2, 2, 4]` that a temperature, a nucleus and two guidances make of two predictions."""
    process = discrete.absorbing(discrete.linear(), 4)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 2, 4)), jnp.float32)
    cond, uncond = jax.nn.log_softmax(jnp.where(jnp.arange(4) == process.mask, -jnp.inf, logits))
    of_class = lambda x, t: jnp.sum(1.0 * x, axis=1)
    x, t = jnp.array([[3, 1], [3, 3]]), jnp.array([0.4, 0.7])
    make = {
        "tempered": lambda: discrete.tempered(cond, strength),
        "nucleus": lambda: discrete.nucleus(cond, strength),
        "classifier_free": lambda: discrete.classifier_free(lambda x, t: (cond, uncond), strength)(x, t),
        "classifier": lambda: discrete.classifier(lambda x, t: cond, process, of_class, strength, True)(x, t),
    }
    return {name: jnp.exp(value()) for name, value in make.items()}


def test_strengths_of_symbols_may_be_traced():
    """Mapped, they are those of each number; the derivatives are differences, and not NaN where a symbol cannot be."""
    at = jnp.array([0.6, 0.8])
    mapped = jax.jit(jax.vmap(symbols))(at)
    slope = jax.jit(jax.jacfwd(symbols))(0.7)
    back = jax.jit(jax.grad(lambda w: sum(p[..., 0].sum() for p in symbols(w).values())))(0.7)
    more, less = symbols(0.71), symbols(0.69)
    for i, number in enumerate((0.6, 0.8)):
        for name, expected in symbols(number).items():
            np.testing.assert_allclose(mapped[name][i], expected, atol=1e-6, err_msg=name)
    for name in ("tempered", "classifier_free", "classifier"):
        np.testing.assert_allclose(slope[name], (more[name] - less[name]) / 0.02, atol=2e-3, err_msg=name)
    assert np.isfinite(back)
