"""C2ST of posteriors by flow matching and by EDM's diffusion, for three tasks of simulation-based inference."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion import objectives, parameterizations, samplers, schedules, timesteps
from diffusion.experiments.evaluation import plots
from diffusion.experiments.remake.claims import Published, Remake
from diffusion.experiments.remake.point_training import train
from diffusion.experiments.remake.sbi_tasks import TASKS, classifier_accuracy
from diffusion.objectives import weightings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIMULATIONS, OBSERVATIONS, DRAWS = 100_000, 10, 10_000
STEPS, BATCH, RATE, SOLVER_STEPS = 20_000, 256, 1e-3, 32
FLOW, DIFFUSION = "flow matching", "diffusion"
PART, FIGURE = "{}, {}, observation {}", "{}, {}: mean C2ST"
PUBLISHED = {  # scores of the authors' best configuration of Flux1 for 100,000 simulations
    ("two_moons", FLOW): 0.525,
    ("gaussian_linear", FLOW): 0.504,
    ("slcp", FLOW): 0.602,
    ("two_moons", DIFFUSION): 0.523,
    ("gaussian_linear", DIFFUSION): 0.523,
    ("slcp", DIFFUSION): 0.617,
}


class ConditionalResidual(nn.Module):
    """Three residual blocks on a sum of projections of x, of sines and cosines of the clock, and of the observation.

    Attributes:
        width: the width of the residual stream; the hidden layer of a block is four times as wide.
    """

    width: int = 128

    @nn.compact
    def __call__(self, x: jax.Array, clock: jax.Array, condition: jax.Array) -> jax.Array:
        """The output `[B, D]` at x `[B, D]`, the clock `[]` or `[B]`, and the observation `[B, K]`."""
        clock = jnp.broadcast_to(clock, x.shape[:1])[:, None]
        waves = jnp.concatenate([clock, *(f(2.0**k * clock) for k in range(5) for f in (jnp.sin, jnp.cos))], -1)
        y = nn.Dense(self.width)(x) + nn.Dense(self.width)(waves) + nn.Dense(self.width)(condition)
        for _ in range(3):
            y = y + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(y))))
        return nn.Dense(x.shape[-1])(nn.LayerNorm()(y))


def method(name: str) -> tuple:
    """The schedule, the parameterization, the objective and the sampler's times of a method."""
    if name == FLOW:
        schedule, parameterization = schedules.rectified_flow(), parameterizations.velocity()
        objective = objectives.flow_matching(timesteps.uniform_density(schedule))
        return schedule, parameterization, objective, timesteps.uniform(schedule, SOLVER_STEPS)
    schedule, parameterization = schedules.edm(), parameterizations.edm(sigma_data=1.0)
    objective = objectives.denoising(parameterization, weightings.edm(sigma_data=1.0), timesteps.log_normal(schedule))
    return schedule, parameterization, objective, timesteps.karras(schedule, SOLVER_STEPS)


@functools.cache
def posterior_sampler(task: str, name: str, simulations: int, steps: int):
    """Trains one network on simulations.

    Returns:
        A function (key, observation `[K]`, number) -> parameters `[number, D]`, drawn from the network's posterior.
    """
    rng = np.random.default_rng(0)
    parameters = TASKS[task].prior(rng, simulations)
    observations = TASKS[task].simulate(rng, parameters)
    standard = lambda rows: (rows.mean(0), rows.std(0))
    (x_mean, x_scale), (y_mean, y_scale) = standard(parameters), standard(observations)
    x = jnp.asarray((parameters - x_mean) / x_scale, jnp.float32)
    y = jnp.asarray((observations - y_mean) / y_scale, jnp.float32)
    schedule, parameterization, objective, grid = method(name)
    network, keys = ConditionalResidual(), jax.random.split(jax.random.key(0), 2)
    params = network.init(keys[0], x[:1], jnp.zeros(1), y[:1])

    def batch(key):
        rows = jax.random.randint(key, (BATCH,), 0, simulations)
        return {"x": x[rows], "condition": y[rows]}

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    params = train(objective, schedule, network.apply, params, optimizer, batch, steps, keys[1])

    @jax.jit
    def draw(keys, condition):
        model = lambda x, clock, condition: network.apply(params, x, clock, condition)
        rows = jnp.broadcast_to(condition, (len(keys), len(condition)))
        denoise = parameterizations.denoiser(model, schedule, parameterization, rows)
        noise = samplers.prior(schedule, keys, (x.shape[1],))  # no step draws
        return samplers.sample(samplers.heun(), denoise, schedule, noise, timesteps.plan(grid), keys)

    def sample(key, observation, number):
        condition = jnp.asarray((observation - y_mean) / y_scale, jnp.float32)
        return np.asarray(draw(jax.random.split(key, number), condition)) * x_scale + x_mean

    return sample


@functools.cache
def observed(task: str, count: int) -> np.ndarray:
    """Observations `[count, K]` of parameters from the prior."""
    rng = np.random.default_rng(1)
    return TASKS[task].simulate(rng, TASKS[task].prior(rng, count))


def measure(part: str, quick: bool) -> Mapping[str, Any]:
    """The C2ST for one observation, and the first two parameters of some draws.

    One network serves all ten observations of a task and method.
    """
    task, name, observation = part.split(", ")
    number = int(observation.removeprefix("observation ")) - 1
    simulations, steps, draws = (500, 20, 100) if quick else (SIMULATIONS, STEPS, DRAWS)
    sample = posterior_sampler(task, name, simulations, steps)
    observation = observed(task, OBSERVATIONS)[number]
    truth = TASKS[task].posterior(np.random.default_rng([2, number]), observation, draws)
    samples = sample(jax.random.fold_in(jax.random.key(1), number), observation, draws)
    score = classifier_accuracy(truth, samples)
    return {FIGURE.format(task, name): score, "truth": truth[:1000, :2], "samples": samples[:1000, :2]}


def draw(parts: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draws the first two parameters for the first observation, by the exact posterior and by each method."""
    figure = plots.blank(8, 8, "constrained")
    for row, task in zip(figure.subplots(3, 3), TASKS):
        firsts = {name: parts[PART.format(task, name, 1)] for name in (FLOW, DIFFUSION)}
        clouds = {"exact": firsts[FLOW]["truth"]}
        clouds |= {f"{name}: C2ST {v[FIGURE.format(task, name)]:.3f}": v["samples"] for name, v in firsts.items()}
        low, high = clouds["exact"].min(0), clouds["exact"].max(0)
        edge = (high - low) / 10
        for axes, (title, points) in zip(row, clouds.items()):
            axes.scatter(*points.T, s=2, color=plots.COLOURS[0], linewidths=0)
            limits = {"xlim": (low[0] - edge[0], high[0] + edge[0]), "ylim": (low[1] - edge[1], high[1] + edge[1])}
            axes.set(xticks=[], yticks=[], **limits)
            axes.set_title(title, fontsize=9)
        row[0].set_ylabel(task)
    return figure


REMAKE = Remake(
    name="sbi_posteriors",
    title="C2ST of posteriors by flow matching and by diffusion, for three tasks of simulation-based inference",
    paper='GenSBI 2026, "GenSBI: Generative Methods for Simulation-Based Inference in JAX", arXiv 2605.27499',
    place=(
        "mean C2ST over ten observations for Flux1 with 100,000 simulations, best configuration; the paper prints "
        "no spread"
    ),
    source="the authors' best_configurations_summary.md, in their repository of examples",
    published=[Published(FIGURE.format(*pair), value, 0.0005) for pair, value in PUBLISHED.items()],
    parts=[PART.format(*pair, number + 1) for pair in PUBLISHED for number in range(OBSERVATIONS)],
    measure=measure,
    minutes=60,
    unstated=[
        "the network and its training. The authors' transformers are trained for up to 100,000 steps of 1,024 "
        "examples on a GPU. We train an MLP of three residual blocks of width 128 for 20,000 steps of 256 "
        "examples, by Adam with a learning rate that decreases from 1e-3 to 0 by a cosine. We tried no other "
        "network.",
        "the observations. We draw ten from the prior and the simulator. The benchmark has ten fixed "
        "observations, without spiked posteriors of slcp. We draw 10,000 samples from each exact posterior, by "
        "rejection and closed forms.",
        "the sampler. We use 32 steps of Heun's method; the diffusion is that of EDM, with parameters of unit "
        "variance.",
    ],
    differs=(
        "The two values of the diffusion that lie below the published ones are closer to 0.5, and therefore "
        "better. On slcp, both methods fail on the same three of the ten observations (2, 5 and 8: 0.91 to 0.99). "
        "The other seven have means of 0.666 and 0.667, which are still above the published values. We tried one "
        "network and one training. The record was measured while other programs used most of the machine's time."
    ),
    draw=draw,
)
