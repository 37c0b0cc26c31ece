"""Arguments of another type or shape end in a sentence: functions that were not called, lists, single keys, modules."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import (
    discrete,
    editing,
    flow_maps,
    guidance,
    likelihood,
    manifolds,
    objectives,
    ode,
    parameterizations,
    pytrees,
    samplers,
    schedules,
    steering,
    timesteps,
    videos,
)
from diffusion.objectives import weightings
from tests.test_slips import (
    CALLED,
    DENOISE,
    FLOW,
    HEUN,
    KEYS,
    OF_ONE,
    PLAN,
    PROCESS,
    STAND_INS,
    V,
    X,
    edited,
    network,
    sample,
    train,
)

ON_SPHERE = jnp.eye(3)[jnp.array([0, 1, 2, 0])]
OFF_SPHERE = 2 * ON_SPHERE


def walked(velocity, x, score=None):
    """The samples of the random walk on the sphere if there is a score, else of Heun's method, from x."""
    field = manifolds.TangentField(manifolds.sphere(2), velocity, score)
    if score is None:
        return samplers.sample(manifolds.geodesic_heun(), field, FLOW, x, PLAN, KEYS)
    schedule = schedules.variance_exploding()
    plan = timesteps.plan(timesteps.uniform(schedule, 3))
    return samplers.sample(manifolds.geodesic_random_walk(), field, schedule, x, plan, KEYS)


MISUSES = {
    **{
        f"{name} of Flax for a network": (
            lambda network=network: parameterizations.denoiser(network, FLOW, V),
            TypeError,
            r"the module Dense of Flax without its parameters\. Valid: lambda x, clock, condition: module\.apply",
        )
        for name, network in {"a module": nn.Dense(2), "apply": nn.Dense(2).apply}.items()
    },
    "a network of the parameters too": (
        lambda: parameterizations.denoiser(lambda parameters, x, t, condition: x, FLOW, V),
        TypeError,
        r"<lambda>\(parameters, x, t, condition\), which does not take these three arguments",
    ),
    **{
        f"a network of {name}": (
            lambda change=change: parameterizations.denoiser(lambda x, t, c: change(x), FLOW, V)(X, 0.5),
            TypeError,
            "the network's output must be an array of floating-point numbers; got an array of " + name,
        )
        for name, change in {"int32": lambda x: x.astype(int), "complex64": lambda x: x + 1j}.items()
    },
    "a denoiser of integers": (
        lambda: sample(denoise=lambda x, t: parameterizations.Prediction(x.astype(int), x)),
        TypeError,
        "the x0 of a denoiser must be an array of floating-point numbers; got an array of int32",
    ),
    "a clock's function": (
        lambda: parameterizations.denoiser(network, FLOW, parameterizations.v(parameterizations.steps)),
        TypeError,
        r"clock must be a function .* parameterizations\.time\(\); got steps\(T\), .* call it",
    ),
    "a schedule for a clock": (
        lambda: parameterizations.denoiser(network, FLOW, parameterizations.v(FLOW)),
        TypeError,
        "clock must be .* type NoiseSchedule",
    ),
    "labels of another batch to denoise": (
        lambda: parameterizations.denoiser(lambda x, t, c: x + c.mean(), FLOW, V, jnp.arange(3))(X, 0.5),
        ValueError,
        r"the condition has an array of shape \(3,\), but x has 4 examples",
    ),
    "a list of labels": (
        lambda: train(batch={"x": X, "condition": [0, 1, 2, 3]}),
        TypeError,
        r'batch\["condition"\] is a list of int\. Valid: an array, jnp\.array\(labels\)',
    ),
    **{
        f"an index {name}": (
            lambda index=index: train(
                batch={"x": X, "index": index},
                objective=objectives.flow_matching(timesteps.uniform_density(FLOW, strata=4)),
            ),
            ValueError,
            r'batch\["index"\], the global index of each example, must have the shape \(4,\)',
        )
        for name, index in {"for all": 0, "of another batch": jnp.arange(3)}.items()
    },
    "noise as a list": (
        lambda: train(batch={"x": X, "noise": [[0.0, 1.0]] * 4}),
        ValueError,
        r'batch\["noise"\].* must have the shape \(4, 2\); got a value of type list',
    ),
    **{
        f"{name} for a weighting": (
            lambda make=make: train(objective=objectives.denoising(V, make(), timesteps.uniform_density(FLOW))),
            TypeError,
            f"weighting must be .* weightings.snr.*{got}.* which does not take these 2 arguments; .* call it",
        )
        for name, got, make in (
            ("the function snr", r"got snr\(\)", lambda: weightings.snr),
            ("the function p2", r"got p2\(k, gamma\)", lambda: weightings.p2),
            ("at_most of the function snr", r"got snr\(\)", lambda: weightings.at_most(weightings.snr, 5.0)),
            ("per_log_snr of the function snr", r"got snr\(\)", lambda: weightings.per_log_snr(weightings.snr)),
            ("a function of t", r"got <lambda>\(t\)", lambda: lambda t: t),
        )
    },
    "constant of a function": (lambda: weightings.constant(parameterizations.v), TypeError, CALLED),
    "learned variance of a function": (
        lambda: parameterizations.learned_variance(parameterizations.v),
        TypeError,
        CALLED,
    ),
    "a sampler for a hook": (lambda: edited(HEUN), TypeError, "after_step must be .* type Sampler"),
    "a hook of x": (
        lambda: edited(lambda x: x),
        TypeError,
        r"after_step must be .* <lambda>\(x\), which does not take",
    ),
    "a hook in another type": (
        lambda: edited(lambda x, s, i, keys: x > 0),
        TypeError,
        "after_step must return samples of float32; got an array of bool",
    ),
    **{
        f"{name} of arrays for shapes": (
            call,
            TypeError,
            r"must be the shape of an array .* such as \(3,\); got an array of float32, shape \(4, 2\)",
        )
        for name, call in {
            "per_leaf": lambda: schedules.per_leaf({"a": FLOW, "b": FLOW}, {"a": X, "b": X}),
            "sizes": lambda: pytrees.sizes_of({"a": X}),
            "unpack": lambda: pytrees.unpack(X, {"a": X}),
        }.items()
    },
    "betas that are none": (
        lambda: schedules.from_betas(np.linspace(-1, 0.5, 1000)),
        ValueError,
        r"got shape \(1000,\), with -1(\n|$)",
    ),
    **{
        f"{steps!r} steps": (
            lambda steps=steps: timesteps.uniform(FLOW, steps),
            ValueError,
            "a sampler takes an integer number of steps, at least 1",
        )
        for steps in ("50", None, np.array([3, 4]), 2.5)
    },
    "traced steps": (
        lambda: jax.jit(lambda steps: timesteps.uniform(FLOW, steps))(3),
        TypeError,
        "steps is traced by jit, grad or vmap",
    ),
    "a traced grid": (
        lambda: jax.jit(lambda grid: timesteps.plan(grid).t)(np.linspace(1, 0, 4)),
        TypeError,
        "plan: grid is traced",
    ),
    **{
        f"a plan of {name}": (lambda grid=grid: timesteps.plan(grid), TypeError, f"plan takes a grid, .*; got {got}")
        for name, grid, got in (
            ("a schedule", FLOW, "a value of type NoiseSchedule"),
            ("a function", timesteps.uniform, "the function uniform"),
            ("None", None, "a value of type NoneType"),
        )
    },
    "repaint of a number of steps": (lambda: editing.repaint(50), ValueError, r"repaint takes a grid, .* shape \(\)"),
    "a shift of indices": (lambda: timesteps.shift(FLOW, [999, 500, 0], 3.0), ValueError, "t = 999 lies outside"),
    "shares of a jump": (
        lambda: editing.repaint(np.linspace(1, 0, 9), 2, 1.5),
        ValueError,
        r"resamplings = 1\.5 must be integers",
    ),
    **{
        f"sdedit with {name}": (
            lambda keys=keys: editing.sdedit(HEUN, DENOISE, FLOW, X, np.linspace(1, 0, 4), 0.5, keys),
            ValueError,
            f"sdedit needs one key for each image.*{words}",
        )
        for name, keys, words in (
            ("one key", KEYS[0], "a single key"),
            ("a raw key", jax.random.PRNGKey(0), "raw keys"),
            ("few keys", KEYS[:3], r"\(3,\)"),
        )
    },
    "sdedit from a time for each image": (
        lambda: editing.sdedit(HEUN, DENOISE, FLOW, X, np.linspace(1, 0, 4), jnp.full(4, 0.5), KEYS),
        ValueError,
        r"t_0 is one time for all images, a number; got an array of float32, shape \(4,\)",
    ),
    **{
        f"slerp to latents {shape}": (
            lambda b=b: editing.slerp(X, b, 0.5),
            ValueError,
            r"second latents, must have the shape \(4, 2\)",
        )
        for shape, b in {"[1, 2]": X[:1], "[2]": X[0], "[4, 1]": X[:, :1]}.items()
    },
    "replacement by a grid": (lambda: editing.replacement(FLOW, PLAN.grid, X, X > 0), TypeError, "plan must be a Plan"),
    "replacement along one noise for all": (
        lambda: edited(editing.replacement_along(FLOW, PLAN, X, X > 0, X[0])),
        ValueError,
        r"noise, a draw for each number of x, must have the shape \(4, 2\), but has \(2,\)",
    ),
    "a null class of another type": (
        lambda: guidance.together(network, FLOW, V, (jnp.arange(4), jnp.full(4, 10.0))),
        ValueError,
        r"an array of int32, shape \(4,\) and an array of float32, shape \(4,\)",
    ),
    "a null text of another length": (
        lambda: guidance.together(network, FLOW, V, (jnp.ones((4, 7, 2)), jnp.ones((4, 5, 2)))),
        ValueError,
        r"Valid: one shape",
    ),
    "labels for the conditions": (
        lambda: guidance.together(network, FLOW, V, jnp.arange(4)),
        TypeError,
        r"conditions must be a tuple .* got an array of int32, shape \(4,\)",
    ),
    "a null class of symbols without a batch": (
        lambda: discrete.together(network, PROCESS, discrete.from_logits, (jnp.arange(4), 10)),
        ValueError,
        "Each needs the same batch axis",
    ),
    "conditions of another batch of symbols": (
        lambda: discrete.together(network, PROCESS, discrete.from_logits, (jnp.arange(3), jnp.arange(3)))(
            jnp.zeros((4, 2), int), 0.5
        ),
        ValueError,
        "x_t has 4 examples, but the conditions have 3",
    ),
    "a scale for each symbol": (
        lambda: discrete.classifier_free(
            discrete.separately(*[lambda x, t: jnp.zeros((4, 2, PROCESS.size))] * 2), jnp.ones(PROCESS.size)
        )(jnp.zeros((4, 2), int), 0.5),
        ValueError,
        "is not a prefix of the shape of x",
    ),
    "a predictor for branches": (lambda: discrete.classifier_free((1, 2), 2.0), TypeError, "discrete.together"),
    **{
        f"{name} of a process's function": (call, TypeError, f"process must be .* the function absorbing; {CALLED}")
        for name, call in {
            "predictor": lambda: discrete.predictor(network, discrete.absorbing, discrete.from_logits),
            "prior": lambda: discrete.prior(discrete.absorbing, KEYS, (2,)),
            "noised": lambda: discrete.noised(discrete.absorbing, KEYS, jnp.zeros((4, 2), int), 0.5),
            "masked_diffusion": lambda: discrete.masked_diffusion(discrete.absorbing, timesteps.uniform_density(FLOW)),
        }.items()
    },
    **{
        f"{name} for a solver": (
            lambda solver=solver: likelihood.log_likelihood(DENOISE, FLOW, X, solver, likelihood.exact()),
            TypeError,
            f"solver must be a Solver, .* got {got}",
        )
        for name, got, solver in (
            ("a grid", "an array of float64", PLAN.grid),
            ("a plan", "a value of type Plan", PLAN),
            ("a function", "the function runge_kutta", ode.runge_kutta),
        )
    },
    "a divergence's function": (
        lambda: likelihood.log_likelihood(DENOISE, FLOW, X, ode.runge_kutta([0.1, 1.0]), likelihood.exact),
        TypeError,
        r"divergence must be .* got exact\(\), which does not take these 2 arguments; .* call it",
    ),
    "a density's function in frames": (lambda: timesteps.per_frame(timesteps.uniform_density, 2), TypeError, CALLED),
    "a share of a frame": (lambda: timesteps.per_frame(PASSED["density"], 2.5), ValueError, "frames = 2.5 must"),
    "one key for draws": (lambda: discrete.draw(KEYS[0], jnp.ones((4, 3))), ValueError, "a draw needs .* a single key"),
    "few keys for draws": (lambda: discrete.draw(KEYS[:3], jnp.ones((4, 3))), ValueError, r"got keys of shape \(3,\)"),
    "one key for pairs": (
        lambda: objectives.reflow_pairs(DENOISE, FLOW, PLAN, KEYS[0], (2,)),
        ValueError,
        "reflow needs one key for each pair; got a single key",
    ),
    "a latent consistency of a function": (
        lambda: flow_maps.latent_consistency(parameterizations.v),
        TypeError,
        CALLED,
    ),
    **{
        f"{name} of other sizes": (
            lambda call=call, x=x: call(x),
            ValueError,
            f"must have the shape .*, but has .*{ends}",
        )
        for name, call, x, ends in (
            ("from_quaternion", manifolds.from_quaternion, jnp.ones((4, 3)), r"3\)"),
            ("to_quaternion", manifolds.to_quaternion, jnp.ones((4, 9)), r"9\)"),
            ("from_rotation_vector", manifolds.from_rotation_vector, jnp.ones((4, 4)), r"4\)"),
            ("hat", manifolds.hat, jnp.ones((4, 2)), r"2\)"),
        )
    },
    "a start off the manifold": (
        lambda: walked(lambda x, t: 0 * x, OFF_SPHERE),
        ValueError,
        r"sphere\(2\): point \[0\], .* violates the condition by 1\. Valid: points are unit vectors; `project` finds",
    ),
    "a start in another space": (
        lambda: walked(lambda x, t: 0 * x, X),
        ValueError,
        r"sphere\(2\): points have shape \[\.\.\., 3\], got \[4, 2\]",
    ),
    "a velocity that would be broadcast": (
        lambda: walked(lambda x, t: x[:, :1], ON_SPHERE),
        ValueError,
        r"the velocity of a tangent field must have the shape \(4, 3\)",
    ),
    "a score that would be broadcast": (
        lambda: walked(lambda x, t: 0 * x, ON_SPHERE, lambda x, t: x[:1]),
        ValueError,
        r"the score of a tangent field must have the shape \(4, 3\)",
    ),
    "a predictor without a reading": (lambda: discrete.predictor(network, PROCESS, None), TypeError, "read must be"),
}


PASSED = STAND_INS | {
    "beta": 1.0,
    "density": timesteps.uniform_density(FLOW),
    "divergence": likelihood.exact(),
    "draw": lambda x0, r, keys: x0,
    "exponents": (0.5, 0.5),
    "first": 0,
    "known": X > 0,
    "log_likelihood": lambda x: x.sum(1),
    "log_probability": lambda x, t: x.sum(1),
    "null": 0,
    "optimizer": optax.sgd(0.1),
    "rate": 0.1,
    "resamplings": 1,
    "schedule": FLOW,
    "shape": (2,),
    "t_0": 0.5,
    "values": X,
}
WRONG = {
    "objective": (objectives.flow_matching, f"objective must be .* the function flow_matching; {CALLED}"),
    "sampler": (samplers.heun, f"sampler must be .* the function heun; {CALLED}"),
    "plan": (PLAN.grid, "plan must be a Plan, .* got an array of float64"),
    "manifold": (manifolds.sphere, f"manifold must be .* the function sphere; {CALLED}"),
}
MODULES = (discrete, editing, guidance, likelihood, manifolds, objectives, samplers, steering, timesteps, videos)
TAKEN = {
    f"{name} of {function.__name__}": (function, name)
    for module in MODULES
    for function in (getattr(module, public) for public in module.__all__)
    for name in WRONG
    if inspect.isfunction(function) and name in inspect.signature(function).parameters
}
# These take a sampler of symbols or only use what they are called with once a batch is there.
LATER = {
    "plan of check_steps",
    "plan of sample_blocks",
    "sampler of check_steps",
    "sampler of diffusion_nft",
    "sampler of policy_gradient",
    "sampler of reward_backpropagation",
    "sampler of sample_blocks",
}


@pytest.mark.parametrize("taken", sorted(TAKEN.keys() - LATER))
def test_every_function_says_what_an_argument_must_be(taken):
    function, name = TAKEN[taken]
    wrong, sentence = WRONG[name]
    arguments = inspect.signature(function).parameters.values()
    needed = [one.name for one in arguments if one.default is one.empty and one.kind is not one.VAR_POSITIONAL]
    passed = {argument: (PASSED | OF_ONE.get(function.__name__, {})).get(argument) for argument in needed}
    if name == "plan" and function is discrete.sample:
        passed |= {"sampler": discrete.ancestral(), "process": PROCESS}
    with pytest.raises(TypeError, match=sentence):
        function(**passed | {name: wrong})


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_ends_in_a_sentence(name):
    call, error, sentence = MISUSES[name]
    with pytest.raises(error, match=sentence):
        jax.eval_shape(call)


def test_a_condition_of_one_row_or_of_numbers_is_shared_by_all_examples():
    shared = lambda condition: parameterizations.denoiser(lambda x, t, c: x + c, FLOW, V, condition)(X, 0.5).x0
    expected = shared(jnp.full((4, 1), 2.0))
    for condition in (jnp.full((1, 1), 2.0), 2.0, jnp.float32(2.0)):
        np.testing.assert_allclose(shared(condition), expected)


def test_the_scale_of_guided_symbols_may_differ_between_examples():
    cond, uncond = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.2, 0.3, 0.5]))
    constant = lambda row: lambda x, t: jnp.broadcast_to(row, (*x.shape, 3))
    branches = discrete.separately(constant(cond), constant(uncond))
    x, t = jnp.zeros((2, 4), int), jnp.full(2, 0.5)
    both = discrete.classifier_free(branches, jnp.array([1.0, 3.0]))(x, t)
    np.testing.assert_allclose(both[0, 0], cond, rtol=1e-6)
    np.testing.assert_allclose(both[1], discrete.classifier_free(branches, 3.0)(x, t)[1], rtol=1e-6)


@pytest.mark.parametrize(
    "weighting", [lambda schedule, t: 1.0, lambda schedule, t, power=2.0: t**power, lambda *at: at[1]]
)
def test_a_weighting_may_have_further_arguments_with_defaults(weighting):
    assert train(objective=objectives.denoising(V, weighting, timesteps.uniform_density(FLOW))).shape == (4,)


def test_a_module_with_its_parameters_is_a_network():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, clock, condition=None):
            return nn.Dense(x.shape[-1])(x)

    module = Net()
    parameters = module.init(jax.random.key(0), X, 0.5)
    for bound in (module.bind(parameters), lambda *inputs: module.apply(parameters, *inputs)):
        assert parameterizations.denoiser(bound, FLOW, V)(X, 0.5).x0.shape == X.shape
