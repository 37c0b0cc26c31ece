"""Few-step objectives teach: after a short training on a two-dimensional mixture, one to four steps sample the data."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from diffusion import flow_maps, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.training.alternating import Average, Player
from diffusion.training.ema import exponential_moving_average
from tests import oracles
from tests.objectives import short_training

pytestmark = pytest.mark.slow

FLOW = schedules.rectified_flow()
EDM = schedules.edm(sigma_max=20.0)
SIGMA_DATA = 1.0
X0 = parameterizations.edm(SIGMA_DATA)
V = parameterizations.v()
LATENT = flow_maps.latent_consistency(V)
STEPS = 3000


class Training(NamedTuple):
    """A training, and the map that it ends with.

    Attributes:
        objective: that of the network "model".
        to_map: (network) -> flow map.
        schedule: the process.
        clocks: 1, or 2 for networks of two times.
        bound: on the distance to the data of one-step samples, and of samples in `few` steps.
        few: number of steps of the second.
        sampler: that of the second.
        networks: beside "model" and "target".
    """

    objective: objectives.Objective
    to_map: Callable
    schedule: schedules.NoiseSchedule
    clocks: int = 1
    bound: tuple[float, float] = (0.1, 0.06)
    few: int = 2
    sampler: samplers.Sampler = samplers.consistency()
    networks: Mapping[str, Callable] = {}


def teacher(schedule, parameterization):
    """The exact denoiser of the data, as a network of this parameterization."""

    def network(params, x, clock, condition=None):
        t = clock if schedule is FLOW else schedule.inverse_log_snr(-8 * clock)
        alpha = schedule.alpha(t)
        sigma = schedule.sigma(t)
        x = x / parameterization.input_scale(schedule, t)[:, None]
        x_0 = oracles.mean_x0(short_training.DATA, alpha, sigma, x)
        eps = oracles.mean_eps(short_training.DATA, alpha, sigma, x)
        return parameterization.target(schedule, t, x_0, eps).astype(jnp.float32)

    return network


def consistency(objective, **fields):
    to_map = lambda network: flow_maps.consistency(network, EDM, X0)
    return Training(objective, to_map, EDM, **fields)


LOG_NORMAL = timesteps.log_normal(EDM, -0.8, 1.6)
pairs = objectives.consistency_times
TRAININGS = {
    "ct": consistency(
        objectives.consistency_training(
            X0, pairs.ramp_density(EDM), pairs.discretised(pairs.square_root_curriculum(STEPS))
        )
    ),
    # A distance that is robust finds a median of what is not symmetric, and two dimensions show it most.
    "ict": consistency(objectives.ict(EDM, X0, STEPS), bound=(0.16, 0.13)),
    "ect": consistency(objectives.ect(EDM, X0, STEPS // 4, sigma_data=SIGMA_DATA, c=1.0), bound=(0.16, 0.13)),
    "consistency_distillation": consistency(
        objectives.consistency_distillation(X0, X0, pairs.ramp_density(EDM), pairs.discretised(lambda step: 40)),
        networks={"teacher": teacher(EDM, X0)},
    ),
    "continuous_consistency": consistency(
        objectives.continuous_consistency(LOG_NORMAL, SIGMA_DATA, warmup=STEPS // 3, c=3.0)
    ),
    "continuous_consistency(teacher)": consistency(
        objectives.continuous_consistency(LOG_NORMAL, SIGMA_DATA, warmup=STEPS // 3, teacher=X0),
        networks={"teacher": teacher(EDM, X0)},
    ),
    "mean_flow": Training(
        objectives.mean_flow(timesteps.uniform_density(FLOW), equal=0.5, p=0.0),
        lambda network: flow_maps.mean_flow(network, FLOW),
        FLOW,
        2,
        (0.08, 0.08),
        sampler=samplers.flow_map(),
    ),
    "improved_mean_flow": Training(
        objectives.improved_mean_flow(timesteps.uniform_density(FLOW), equal=0.5, p=0.0),
        lambda network: flow_maps.mean_flow(network, FLOW),
        FLOW,
        2,
        (0.08, 0.08),
        sampler=samplers.flow_map(),
    ),
    "shortcut": Training(
        objectives.shortcut(64),
        lambda network: flow_maps.shortcut(network, FLOW),
        FLOW,
        2,
        few=4,
        sampler=samplers.flow_map(),
    ),
    "latent_consistency_distillation": Training(
        objectives.latent_consistency_distillation(LATENT, V, null=0),
        lambda network: flow_maps.consistency(network, FLOW, LATENT),
        FLOW,
        networks={"teacher": teacher(FLOW, V)},
    ),
}


def sample(flow_map, schedule, sampler, grid):
    keys = jax.random.split(jax.random.key(7), (2, short_training.SAMPLES))
    x = samplers.prior(schedule, keys[0], (2,))
    return jax.jit(lambda x: samplers.sample(sampler, flow_map, schedule, x, timesteps.plan(grid), keys[1]))(x)


@pytest.mark.parametrize("name", list(TRAININGS))
def test_trained_for_a_short_time_few_steps_sample_the_data(name):
    training = TRAININGS[name]
    trained = short_training.train(
        {"model": Player(training.objective, "model", short_training.optimizer(steps=STEPS))},
        {"model": short_training.parameters(clocks=training.clocks), **{name: () for name in training.networks}},
        training.schedule,
        steps=STEPS,
        size=512,
        apply=training.networks,
        averages={"target": Average("model", exponential_moving_average(0.95, warmup=False))},
        extend=lambda key, batch: {**batch, "condition": jnp.zeros(len(batch["x"]), jnp.int32)},
    )
    flow_map = training.to_map(trained["ema"])
    t = training.schedule.t_max
    one = short_training.distance(sample(flow_map, training.schedule, samplers.flow_map(), [t, 0.0]))
    grid = [t, t / 10, 0.0] if training.schedule is EDM else timesteps.uniform(training.schedule, training.few)
    few = short_training.distance(sample(flow_map, training.schedule, training.sampler, grid))
    print(f"{name}: one step {one:.4f}, {len(grid) - 1} steps {few:.4f}")
    assert one < training.bound[0]
    assert few < training.bound[1]


def test_progressive_distillation_halves_the_steps_and_keeps_the_samples():
    """From sixteen steps of the exact denoiser to two of the student, which the denoiser itself cannot do in two."""
    student = short_training.parameters()
    params = ()
    apply = teacher(FLOW, V)
    for N in (8, 4, 2):
        objective = objectives.progressive_distillation(V, V, N)
        trained = short_training.train(
            {"model": Player(objective, "model", short_training.optimizer(steps=1500))},
            {"model": student, "teacher": params},
            FLOW,
            steps=1500,
            apply={"teacher": apply},
        )
        student = params = trained["ema"].args[0]
        apply = short_training.network

    def distance(network, steps):
        denoise = parameterizations.denoiser(network, FLOW, V)
        return short_training.distance(sample(denoise, FLOW, samplers.ddim(), timesteps.uniform(FLOW, steps)))

    exact = lambda x, t, condition: teacher(FLOW, V)((), x, t)
    sixteen = distance(exact, 16)
    two = distance(exact, 2)
    found = distance(trained["ema"], 2)
    print(f"progressive: {found:.4f} in two steps; the teacher {sixteen:.4f} in sixteen, {two:.4f} in two")
    assert found < sixteen + 0.03 < two


def generator_samples(network):
    flow_map = flow_maps.consistency(network, EDM, X0)
    return sample(flow_map, EDM, samplers.flow_map(), [EDM.t_max, 0.0])


def judging(params, x, clock, condition=None, features=None):
    """A network of three outputs: a denoiser's, and the logit of its discriminator as the features of a block."""
    output = short_training.network(params, x, clock)
    return output[:, :2] if features is None else (output[:, :2], (output[:, 2:],))


FORWARD = objectives.f_divergences.forward_kl
GENERATORS = {
    "dmd": lambda: objectives.distribution_matching(X0, X0, X0, LOG_NORMAL),
    "f-distill": lambda: objectives.distribution_matching(X0, X0, X0, LOG_NORMAL, f=FORWARD, block=1, adversarial=0.01),
    "sida": lambda: objectives.score_identity(X0, X0, X0, LOG_NORMAL, block=1, adversarial=0.01),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_matched_scores_make_a_one_step_generator(name):
    weighting = weightings.edm(SIGMA_DATA)
    judges = {} if name == "dmd" else {"block": 1, "adversarial": 1.0}
    trained = short_training.train(
        {
            "score": Player(
                objectives.fake_score(X0, X0, weighting, LOG_NORMAL, **judges),
                "fake",
                short_training.optimizer(steps=4000),
            ),
            "generator": Player(GENERATORS[name](), "model", short_training.optimizer(1e-3, steps=800), every=5),
        },
        {"model": short_training.parameters(), "fake": short_training.parameters(1, outputs=3), "teacher": ()},
        EDM,
        steps=4000,
        apply={"teacher": teacher(EDM, X0), "fake": judging},
    )
    found = short_training.distance(generator_samples(trained["ema"]))
    print(f"{name}: {found:.4f}")
    assert found < 0.1


def test_adversarial_distillation_makes_a_one_step_generator():
    times = timesteps.Density(
        tuple, lambda state, keys, index: (jnp.ones(len(keys)), jnp.ones(len(keys))), lambda state, t, losses: state
    )
    discriminator = lambda params, x, clock, condition: short_training.network(params, x, clock)[:, 0]
    trained = short_training.train(
        {
            "discriminator": Player(
                objectives.adversarial_discriminator(X0, times, r1=0.1), "discriminator", short_training.optimizer()
            ),
            "generator": Player(
                objectives.adversarial_generator(X0, X0, times, LOG_NORMAL, weight=0.5),
                "model",
                short_training.optimizer(1e-3),
            ),
        },
        {"model": short_training.parameters(), "teacher": (), "discriminator": short_training.parameters(1, outputs=1)},
        EDM,
        steps=3000,
        apply={"teacher": teacher(EDM, X0), "discriminator": discriminator},
    )
    found = short_training.distance(generator_samples(trained["ema"]))
    print(f"adversarial: {found:.4f}")
    assert found < 0.2
