"""Liu et al.'s reflow from eight Gaussians to two moons: costs and straightness by iteration; five seeds at once."""

import functools
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion import objectives, parameterizations, samplers, schedules, timesteps
from diffusion.experiments.evaluation import plots
from diffusion.experiments.remake.c2ot_moons import eight_gaussians, moons
from diffusion.experiments.remake.claims import Published, Remake
from diffusion.experiments.remake.jit_toy import ReLUNet
from diffusion.experiments.remake.point_training import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS, ITERATIONS, STEPS, BATCH, PAIRS = 5, 3, 5000, 512, 8192
POWERS = (1, 2, 4)
COST = "{}: E|Z_1 - Z_0|^{} is not above that of the pairs it is trained on (1: yes)"
STRAIGHTER = "{}: straighter than {} (1: yes)"
EULER = "{}: one Euler step is nearer to the flow's end than with {} (1: yes)"
NAMES = tuple(f"{k + 1}-rectified flow" for k in range(ITERATIONS))


class Flow(NamedTuple):
    """The paths of a trained flow from new noise.

    Attributes:
        path: the paths from noise to data, `[steps + 1, N, 2]`.
        euler: the end of one Euler step from the same noise, `[N, 2]`.
    """

    path: jax.Array
    euler: jax.Array


def straightness(path: jax.Array) -> jax.Array:
    """S = int E|(Z_1 - Z_0) - dZ_t/dt|^2 dt, `[]`, of paths `[steps + 1, N, 2]` in equal steps; 0 if straight."""
    steps = len(path) - 1
    velocity = steps * (path[1:] - path[:-1])
    return jnp.mean(jnp.sum((path[-1] - path[0] - velocity) ** 2, -1))


def cost(noise: jax.Array, data: jax.Array, power: int) -> jax.Array:
    """E|Z_1 - Z_0|^power, `[]`, of pairs `[N, 2]`."""
    return jnp.mean(jnp.linalg.norm(data - noise, axis=-1) ** power)


def independent_batch(key: jax.Array, batch: int) -> dict[str, jax.Array]:
    """A batch of independent pairs."""
    data_key, noise_key = jax.random.split(key)
    return {"x": moons(data_key, batch)[0], "noise": eight_gaussians(noise_key, batch)}


def rectified(key: jax.Array, batch: Any, steps: int, number: int, solver_steps: int) -> Flow:
    """Trains a flow on the pairs that `batch` draws, and solves it from `number` new noises."""
    schedule, network = schedules.rectified_flow(), ReLUNet(2, width=64)
    init_key, train_key, start_key = jax.random.split(key, 3)
    params = network.init(init_key, jnp.zeros((1, 2)), jnp.zeros(1))
    objective = objectives.reflow(timesteps.uniform_density(schedule))
    params = train(objective, schedule, network.apply, params, optax.adam(1e-3), batch, steps, train_key)
    model = lambda x, clock, condition: network.apply(params, x, clock, condition)
    denoise = parameterizations.denoiser(model, schedule, parameterizations.velocity())
    start = eight_gaussians(start_key, number)
    keys = jax.random.split(start_key, number)  # no step draws
    plan = timesteps.plan(timesteps.uniform(schedule, solver_steps))
    path = samplers.sample_trajectory(samplers.heun(), denoise, schedule, start, plan, keys)[1].x
    one = timesteps.plan(timesteps.uniform(schedule, 1))
    return Flow(path, samplers.sample(samplers.euler(), denoise, schedule, start, one, keys))


def run(key: jax.Array, steps: int, batch: int, number: int, solver_steps: int) -> dict[str, jax.Array]:
    """The costs, the straightness and the error of one Euler step after each iteration of reflow, for one seed."""
    keys = jax.random.split(key, ITERATIONS + 1)
    first = independent_batch(keys[-1], 8 * number)
    costs = {"independent pairs": [cost(first["noise"], first["x"], power) for power in POWERS]}
    draw = functools.partial(independent_batch, batch=batch)
    values = {}
    for k, name in enumerate(NAMES):
        flow = rectified(keys[k], draw, steps, number, solver_steps)
        ends = {"noise": flow.path[0], "x": flow.path[-1]}
        costs[name] = [cost(ends["noise"], ends["x"], power) for power in POWERS]
        values[f"{name}: S"] = straightness(flow.path)
        values[f"{name}: Euler"] = jnp.sqrt(jnp.mean(jnp.sum((flow.euler - flow.path[-1]) ** 2, -1)))
        values[f"{name}: path"] = flow.path[:, :128]
        draw = lambda key, ends=ends: jax.tree.map(lambda a: a[jax.random.randint(key, (batch,), 0, number)], ends)
    return values | {f"{name}: cost": jnp.stack(row) for name, row in costs.items()}


def falls(after: np.ndarray, before: np.ndarray) -> bool:
    """Whether the mean of `after` `[seeds]` lies more than two standard errors of the difference below `before`."""
    change = after - before
    return bool(change.mean() < -2 * change.std(ddof=1) / np.sqrt(len(change)))


def claims(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The published statements, checked by the values of all seeds; each array of values is `[seeds, ...]`."""
    figures = {}
    for before, name in zip(("independent pairs", *NAMES), NAMES):
        for column, power in enumerate(POWERS):
            after, trained_on = (values[f"{row}: cost"][:, column] for row in (name, before))
            figures[COST.format(name, power)] = not falls(trained_on, after)
    for before, name in itertools.pairwise(NAMES):
        figures[STRAIGHTER.format(name, before)] = falls(values[f"{name}: S"], values[f"{before}: S"])
        figures[EULER.format(name, before)] = falls(values[f"{name}: Euler"], values[f"{before}: Euler"])
    return {name: float(holds) for name, holds in figures.items()}


def measure(part: str, quick: bool) -> Mapping[str, Any]:
    """The published statements, the means over the seeds, and the paths of the first seed."""
    steps, batch, number, solver_steps = (20, 32, 64, 4) if quick else (STEPS, BATCH, PAIRS, 50)
    seeds = jax.random.split(jax.random.key(0), SEEDS)
    values = jax.jit(jax.vmap(lambda key: run(key, steps, batch, number, solver_steps)))(seeds)
    values = {name: np.asarray(value) for name, value in values.items()}
    means = {name: value.mean() for name, value in values.items() if value.ndim == 1}
    means |= {
        f"{name}: E|Z_1 - Z_0|^{power}": values[f"{name}: cost"][:, column].mean()
        for name in ("independent pairs", *NAMES)
        for column, power in enumerate(POWERS)
    }
    return claims(values) | means | {name: values[f"{name}: path"][0] for name in NAMES}


def draw(parts: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draws the paths of each iteration, with their straightness."""
    figure = plots.blank(9, 3.4, "constrained")
    values = parts[PART]
    for axes, name in zip(figure.subplots(1, ITERATIONS), NAMES):
        path = values[name]
        axes.plot(path[..., 0], path[..., 1], color="#999999", linewidth=0.4)
        axes.scatter(*path[0].T, s=3, color=plots.COLOURS[1], linewidths=0)
        axes.scatter(*path[-1].T, s=3, color=plots.COLOURS[0], linewidths=0)
        axes.set(xlim=(-7, 7), ylim=(-7, 7), aspect="equal", xticks=[], yticks=[])
        axes.set_title(
            f"{name}\nS {values[name + ': S']:.3g}, one step off by {values[name + ': Euler']:.2g}", fontsize=9
        )
    return figure


PART = "five seeds"
REMAKE = Remake(
    name="reflow_toy",
    title="Transport costs and straightness of rectified flows by iteration",
    paper='Liu et al. 2022, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow", '
    "arXiv 2209.03003",
    place=(
        "the statements of the abstract: non-increasing convex transport costs, increasingly straight paths, few "
        "steps; 1 means that a statement holds"
    ),
    source="the paper's text",
    published=[
        *(Published(COST.format(name, power), 1, 0) for name in NAMES for power in POWERS),
        *(Published(STRAIGHTER.format(name, before), 1, 0) for before, name in itertools.pairwise(NAMES)),
        *(Published(EULER.format(name, before), 1, 0) for before, name in itertools.pairwise(NAMES)),
    ],
    parts=[PART],
    measure=measure,
    minutes=6,
    unstated=[
        "the data. We use the data in the figure of Cheng and Schwing: eight Gaussians to two moons.",
        "the network and its training. We train five dense layers of width 64 with ReLUs for 5,000 steps of Adam "
        "with a learning rate of 1e-3 and a batch of 512. Each iteration has 8,192 pairs, from 50 steps of Heun's "
        "method.",
        "when a figure decreases or increases. We require that its mean over five seeds changes by more than two "
        "standard errors of the difference. A cost that does not increase in this sense counts as non-increasing.",
    ],
    left_out=(
        "The bound on S by the number of iterations, because we could not read its theorem in the text of the paper."
    ),
    draw=draw,
)
