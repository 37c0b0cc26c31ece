"""Karras et al.'s figure 1: two branching classes in the plane, and a small network guided by two worse ones.

The data are a mixture of 2,032 Gaussians along the branches of two trees, so that densities and scores are exact. A
network computes a log-density, and its gradient is trained to equal the exact score. Data, networks and training follow
the authors' toy_example.py.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion import guidance, samplers, schedules, timesteps
from diffusion.experiments.evaluation import plots
from diffusion.experiments.remake import exact_mixtures
from diffusion.experiments.remake.claims import Published, Remake
from diffusion.parameterizations import Prediction
from diffusion.training import power_ema

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALE, ORIGIN = np.array([1.3136, 1.3844]), np.array([0.0030, 0.0325])
DEPTH = 7  # generations of branches
BRANCHES = 2**DEPTH - 1  # branches of a tree
BATCH, SIGMA_DATA, SIGMA_MAX, SAMPLES = 4096, 0.5, 5.0, 2**14
CONTOUR = 2.12**2  # nats below the largest density on the authors' grid
MASS = "ground truth: share of the mass inside the contour"
OUTLIERS = "no guidance: more outliers than the ground truth (1: yes)"
CFG_OUTLIERS = "classifier-free guidance: fewer outliers than without guidance (1: yes)"
CFG_COVERAGE = "classifier-free guidance: covers less than without guidance (1: yes)"
AUTO_OUTLIERS = "autoguidance: fewer outliers than without guidance (1: yes)"
AUTO_DENSITY = "autoguidance: larger mean log-density than without guidance (1: yes)"
AUTO_COVERAGE = "autoguidance: covers 95 % of what is covered without guidance (1: yes)"
SAMPLERS = ("ground truth", "no guidance", "classifier-free guidance", "autoguidance")


class Trees(NamedTuple):
    """The data.

    Attributes:
        weights: weights of the components, `[K]`, with any sum.
        means: means of the components, `[K, 2]`.
        covariances: covariances of the components, `[K, 2, 2]`.
        classes: the class of each component, `[K]`, 0 or 1.
        branches: the number of the branch of each component, `[K]`.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    classes: np.ndarray
    branches: np.ndarray

    def chosen(self, classes: tuple[int, ...]) -> exact_mixtures.Mixture:
        """The mixture of some classes."""
        keep = np.isin(self.classes, classes)
        return exact_mixtures.mixture(self.weights[keep], self.means[keep], self.covariances[keep])


@functools.cache
def trees(seed: int = 2) -> Trees:
    """The authors' two trees, each with 127 branches of 8 Gaussians.

    The random numbers are the authors', since they are drawn from the same generator in the same order.
    """
    random = np.random.RandomState(seed)
    rows = []

    def grow(kind, depth, start, angle):
        if depth == DEPTH:
            return
        direction = np.array([np.cos(angle), np.sin(angle)])
        length = 0.292 * 0.8**depth * (1 + 0.2 * random.randn())
        across = np.eye(2) - np.outer(direction, direction)
        shape = np.outer(direction, direction) + across * (0.2 * 0.8**depth / length) ** 2
        size = 0.06 * length * SCALE
        branch = len(rows) // 8
        for share in np.linspace(0.07, 0.93, 8):
            mean = (start + share * length * direction) * SCALE
            rows.append((length * 0.5**depth, mean, shape * np.outer(size, size), kind, branch))
        for sign in (1, -1):
            turn = sign * 0.7**depth * (1 + 0.2 * random.randn())
            grow(kind, depth + 1, start + length * direction, angle + turn)

    for kind in (0, 1):
        grow(kind, 0, ORIGIN, np.pi * (0.25 + kind))
    return Trees(*(np.array(column) for column in zip(*rows)))


def init(key: jax.Array, width: int, layers: int = 4) -> dict[str, Any]:
    """The initial parameters of a network: weights from N(0, 1), and a gain of 0."""
    sizes = [4, *[width] * (layers + 1)]
    keys = jax.random.split(key, layers + 1)
    weights = [jax.random.normal(k, (n, m)) for k, n, m in zip(keys, sizes, sizes[1:])]
    return {"weights": weights, "gain": jnp.zeros([])}


def normalized(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, with the columns of the weights scaled to a root mean square of 1."""
    unit = lambda w: w / (1e-4 + jnp.sqrt(jnp.mean(w**2, 0, keepdims=True)))
    return {"weights": [unit(w) for w in params["weights"]], "gain": params["gain"]}


def log_density(params: dict[str, Any], x: jax.Array, sigma: jax.Array) -> jax.Array:
    """The log-density `[]` of a network at one x `[2]` and sigma `[]`, up to a constant."""
    x = x / jnp.sqrt(SIGMA_DATA**2 + sigma**2)
    y = jnp.concatenate([x, jnp.stack([jnp.log(sigma) / 4, jnp.ones_like(sigma)])])
    weights = normalized(params)["weights"]
    for i, w in enumerate(weights):
        y = (jax.nn.silu(y) / 0.596 if i else y) @ (w / np.sqrt(len(w)))
    return jnp.mean(y**2) * params["gain"] / sigma - jnp.sum(x**2) / 2


def score(params: dict[str, Any], x: jax.Array, sigma: jax.Array) -> jax.Array:
    """The gradient `[B, 2]` of a network's log-density at x `[B, 2]` and sigma `[B]`."""
    return jax.vmap(jax.grad(log_density, argnums=1), (None, 0, 0))(params, x, sigma)


def train(key: jax.Array, width: int, classes: tuple[int, ...], steps: int) -> dict[str, Any]:
    """Trains a network on the exact score of some classes, and returns its moving average."""
    data, schedule = trees().chosen(classes), schedules.edm(0.002, 1e4)
    exact = exact_mixtures.denoiser(data, schedule)
    rate = lambda step: 1e-2 / jnp.sqrt(jnp.maximum(step / 512, 1))
    optimizer, average = optax.adam(rate, 0.9, 0.99), power_ema.power_function(0.010)

    def eps(x, sigma):
        """The exact eps, computed for 16 examples at a time, whose [16, 1016] values fit the processor's cache."""
        parts = (x.reshape(-1, 16, 2), sigma.reshape(-1, 16))
        return jax.lax.map(lambda part: exact(part[0], part[1] / 1e4).eps, parts).reshape(x.shape)

    def loss(params, x, sigma):
        target = -eps(x, sigma) / sigma[:, None]
        return jnp.mean(sigma[:, None] ** 2 * (target - score(params, x, sigma)) ** 2)

    def update(carry, step):
        params, state, mean = carry
        sigma_key, data_key, noise_key = jax.random.split(jax.random.fold_in(key, step), 3)
        sigma = jnp.exp(1.5 * jax.random.normal(sigma_key, (BATCH,)) - 2.3)
        x = exact_mixtures.draw(data, data_key, BATCH)
        x = x + sigma[:, None] * jax.random.normal(noise_key, x.shape)
        params = normalized(params)
        change, state = optimizer.update(jax.grad(loss)(params, x, sigma), state, params)
        params = optax.apply_updates(params, change)
        return (params, state, average.update(mean, params, step)), None

    params = init(jax.random.fold_in(key, steps), width)
    begin = (params, optimizer.init(params), average.init(params))
    return jax.jit(lambda carry: jax.lax.scan(update, carry, jnp.arange(steps))[0])(begin)[2]


def denoiser(params: dict[str, Any], schedule: schedules.NoiseSchedule):
    """The denoiser that belongs to the score of a network."""

    def denoise(x, t):
        sigma = jnp.broadcast_to(jnp.asarray(schedule.sigma(t), x.dtype), x.shape[:1])
        eps = -sigma[:, None] * score(params, x, sigma)
        return Prediction(x - sigma[:, None] * eps, eps)

    return denoise


def contour(data: exact_mixtures.Mixture) -> float:
    """The log-density at the contour, which is 2.12^2 below the largest one on the grid of the authors' figure."""
    axis = jnp.linspace(-0.9, 1.5, 400)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    return float(jax.lax.map(lambda x: exact_mixtures.log_density(data, x), grid.reshape(400, 400, 2)).max()) - CONTOUR


def coverage(data: exact_mixtures.Mixture, points: np.ndarray) -> float:
    """The mass of those branches that receive at least half of their share of the points.

    A point belongs to the branch of its most probable component.
    """
    branches = trees().branches[trees().classes == 0]
    component = jax.lax.map(lambda x: exact_mixtures.posterior(data, x[None])[0].argmax(), jnp.asarray(points))
    share = np.bincount(branches[np.asarray(component)], minlength=BRANCHES) / len(points)
    mass = np.bincount(branches, weights=np.asarray(data.weights), minlength=BRANCHES)
    return float(mass[share >= mass / 2].sum())


def statistics(points: np.ndarray) -> dict[str, float]:
    """The share of samples outside the contour, their coverage, and their mean log-density under the class's data."""
    data = trees().chosen((0,))
    log_p = np.asarray(jax.lax.map(lambda x: exact_mixtures.log_density(data, x[None])[0], jnp.asarray(points)))
    return {
        "outliers": float(np.mean(log_p < contour(data))),
        "coverage": coverage(data, points),
        "log-density": float(log_p.mean()),
    }


def claims(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The published figures, computed from {sampler: its statistics}."""
    truth, none, free, auto = (rows[name] for name in SAMPLERS)
    return {
        MASS: 1 - truth["outliers"],
        OUTLIERS: none["outliers"] > truth["outliers"],
        CFG_OUTLIERS: free["outliers"] < none["outliers"],
        CFG_COVERAGE: free["coverage"] < none["coverage"],
        AUTO_OUTLIERS: auto["outliers"] < none["outliers"],
        AUTO_DENSITY: auto["log-density"] > none["log-density"],
        AUTO_COVERAGE: auto["coverage"] >= 0.95 * none["coverage"],
    }


def measure(part: str, quick: bool) -> Mapping[str, Any]:
    """The figures of one seed, and the statistics and the first 4,096 samples of each sampler."""
    key = jax.random.key(int(part.removeprefix("seed ")))
    keys = jax.random.split(key, 5)
    steps, number = (64, 256) if quick else (4096, SAMPLES)
    schedule = schedules.edm(0.002, SIGMA_MAX)
    main = denoiser(train(keys[0], 64, (0,), steps), schedule)
    bad = denoiser(train(keys[1], 32, (0,), steps // 8), schedule)
    unconditional = denoiser(train(keys[2], 32, (0, 1), steps // 8), schedule)
    truth = exact_mixtures.draw(trees().chosen((0,)), keys[3], number)
    start = truth + SIGMA_MAX * jax.random.normal(keys[4], truth.shape)
    plan = timesteps.plan(timesteps.karras(schedule, 32, 0.002, SIGMA_MAX))
    denoisers = {
        "no guidance": main,
        "classifier-free guidance": guidance.classifier_free(guidance.separately(main, unconditional), 4.0),
        "autoguidance": guidance.autoguidance(main, bad, 3.0),
    }
    noise = jax.random.split(key, number)  # no step draws
    clouds = {"ground truth": truth}
    for name, denoise in denoisers.items():
        clouds[name] = samplers.sample(samplers.heun(), denoise, schedule, start, plan, noise)
    clouds = {name: np.asarray(points) for name, points in clouds.items()}
    rows = {name: statistics(points) for name, points in clouds.items()}
    values = {f"{name}: {what}": value for name, row in rows.items() for what, value in row.items()}
    return claims(rows) | values | {name: points[:4096] for name, points in clouds.items()}


def draw(parts: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draws the samples of the first seed, with their outliers and coverage."""
    figure = plots.blank(12, 3.9, "constrained")
    data = trees()
    for axes, name in zip(figure.subplots(1, 4), SAMPLERS):
        axes.scatter(*data.means[data.classes == 1].T, s=6, color="#dddddd", linewidths=0)
        axes.scatter(*data.means[data.classes == 0].T, s=6, color="#f5c08a", linewidths=0)
        axes.scatter(*parts["seed 0"][name].T, s=1.5, color="black", alpha=0.4, linewidths=0)
        mean = lambda what, name=name: np.mean([part[f"{name}: {what}"] for part in parts.values()])
        title = f"{name}\n{100 * mean('outliers'):.2f} % outside, {100 * mean('coverage'):.0f} % covered"
        axes.set(xlim=(-0.9, 1.5), ylim=(-0.9, 1.5), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
    return figure


REMAKE = Remake(
    name="autoguidance_toy",
    title="Outliers and coverage without guidance, with classifier-free guidance and with autoguidance, in the plane",
    paper='Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", arXiv 2406.02507',
    place="figure 1 and the statements on it in sections 3 and 4; 1 means that a statement holds",
    source="the paper's text; data, networks and training in the authors' toy_example.py",
    published=[
        Published(MASS, 0.99, 0.005),
        *(Published(claim, 1, 0) for claim in (OUTLIERS, CFG_OUTLIERS, CFG_COVERAGE)),
        *(Published(claim, 1, 0) for claim in (AUTO_OUTLIERS, AUTO_DENSITY, AUTO_COVERAGE)),
    ],
    parts=[f"seed {seed}" for seed in range(1)],
    measure=measure,
    minutes=8,
    unstated=[
        "how coverage is measured. We use the mass of the branches (127 in total) that receive at least half of "
        "their share of the samples. Coverage counts as undiminished if it is at least 95 % of the coverage "
        "without guidance.",
        "the number of trainings. We train once, with our seed 0, because the figure shows one training.",
    ],
    differs=(
        "In the picture, the guided samples lie on the branches, and classifier-free guidance loses whole "
        "branches, as in the paper. Measured by the contour, more guided samples than unguided samples lie "
        "outside (28 % with classifier-free guidance and 18 % with autoguidance, compared with 16 % without "
        "guidance): they gather at the ends of branches, and on bridges beyond the contour. Autoguidance covers "
        "78 %, compared with 97 % without guidance and 31 % with classifier-free guidance. Our training uses "
        "other random numbers than that of the authors, whose networks were not available. We trained once."
    ),
    left_out="Naive truncation (figure 1d), because its factor is stated neither in the text nor in the code.",
    draw=draw,
)
