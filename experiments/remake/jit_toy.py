"""Li and He's figure 2: a spiral in a plane of a space of D dimensions, by a network that predicts x, eps or v."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion import objectives, parameterizations, samplers, schedules, timesteps
from diffusion.experiments.evaluation import plots
from diffusion.experiments.remake.claims import Published, Remake
from diffusion.experiments.remake.point_training import squared_transport, train
from diffusion.objectives import weightings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIMENSIONS = (2, 8, 16, 512)
PREDICTIONS = {
    "x": parameterizations.clipped_x0(0.05, parameterizations.reversed_time()),
    "eps": parameterizations.epsilon(parameterizations.reversed_time()),
    "v": parameterizations.velocity(parameterizations.reversed_time()),
}
LOSSES = {"x": parameterizations.x0(), "eps": parameterizations.epsilon(), "v": parameterizations.velocity()}
STEPS, BATCH, POINTS = 5000, 256, 1000
REASONABLE, CATASTROPHIC = 0.25, 1.0  # W2, in standard deviations of a coordinate of the spiral
PART = "D = {}, {}-prediction, {}-loss"
X_WORKS = "x-prediction, D = {}: W2 of at most 0.25 (1: yes)"
STRUGGLES = "{}-prediction, D = 16: at least twice the W2 of x-prediction (1: yes)"
FAILS = "{}-prediction, D = 512: W2 above 1, or no sample at all (1: yes)"


class ReLUNet(nn.Module):
    """Five dense layers with ReLUs between them, which take x and the clock."""

    dims: int
    width: int = 256

    @nn.compact
    def __call__(self, x: jax.Array, clock: jax.Array, condition: Any = None) -> jax.Array:
        """The output `[B, D]`."""
        y = jnp.concatenate([x, jnp.broadcast_to(clock, x.shape[:1])[:, None]], -1)
        for _ in range(4):
            y = nn.relu(nn.Dense(self.width)(y))
        return nn.Dense(self.dims)(y)


def spiral(key: jax.Array, number: int) -> jax.Array:
    """Points `[number, 2]` of a spiral with 1.2 turns, whose coordinates have a mean square of about 1."""
    angle = 3 * math.pi * jnp.sqrt(jax.random.uniform(key, (number,), minval=0.05))
    points = angle[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return points / (3 * math.pi * math.sqrt(1.05 / 4))  # the mean of r^2 = angle^2 is 9 pi^2 1.05 / 2


def plane(dims: int) -> np.ndarray:
    """Two orthonormal columns `[dims, 2]`, which span the random plane of the spiral."""
    return np.linalg.qr(np.random.default_rng(0).normal(size=(dims, 2)))[0].astype(np.float32)


def process(predicts: str) -> schedules.NoiseSchedule:
    """The process for a prediction: straight paths, which end before pure noise for eps.

    At pure noise, a prediction of eps determines no velocity.
    """
    schedule = schedules.rectified_flow()
    return schedules.ending_at(schedule, 1 - 1e-3) if predicts == "eps" else schedule


def drawn(network: Callable[..., Any], predicts: str, axes: np.ndarray, keys: jax.Array) -> np.ndarray:
    """Samples `[POINTS, 2]` in the plane of `axes` `[D, 2]`, of a network (x, clock, condition) -> output."""
    schedule = process(predicts)
    denoise = parameterizations.denoiser(network, schedule, PREDICTIONS[predicts])
    start, noise = jax.random.normal(keys[0], (POINTS, len(axes))), jax.random.split(keys[1], POINTS)
    plan = timesteps.plan(np.linspace(schedule.t_max, 0, 51))
    run = jax.jit(lambda x: samplers.sample(samplers.heun(), denoise, schedule, x, plan, noise))
    return np.asarray(run(start)) @ axes


def measure(part: str, quick: bool) -> Mapping[str, Any]:
    """The W2 of one network's samples in the plane, and the samples."""
    words = part.split(", ")
    dims, predicts, weighs = int(words[0].removeprefix("D = ")), *(word.split("-")[0] for word in words[1:])
    axes, parameterization = plane(dims), PREDICTIONS[predicts]
    schedule = process(predicts)
    objective = objectives.denoising(
        parameterization, weightings.constant(LOSSES[weighs]), timesteps.logit_normal(schedule, 0.8, 0.8)
    )
    network = ReLUNet(dims)
    keys = jax.random.split(jax.random.key(0), 5)
    params = network.init(keys[0], jnp.zeros((1, dims)), jnp.zeros(1))
    batch = lambda key: {"x": spiral(key, BATCH) @ axes.T}
    steps = 20 if quick else STEPS
    params = train(objective, schedule, network.apply, params, optax.adam(1e-3), batch, steps, keys[1])
    model = lambda x, clock, condition: network.apply(params, x, clock, condition)
    points = drawn(model, predicts, axes, keys[2:4])
    truth = np.asarray(spiral(keys[4], POINTS))
    finite = bool(np.isfinite(points).all())
    distance = math.sqrt(squared_transport(points, truth)) if finite else math.inf
    return {f"{part}: W2": min(distance, 1e6), "points": np.clip(np.nan_to_num(points), -1e6, 1e6)}


def conclude(values: Mapping[str, float]) -> dict[str, float]:
    """The published statements, checked by the W2 of all networks, {"PART: W2": value}."""
    w2 = lambda dims, predicts: values[PART.format(dims, predicts, "v") + ": W2"]
    return {
        **{X_WORKS.format(dims): w2(dims, "x") <= REASONABLE for dims in DIMENSIONS},
        **{STRUGGLES.format(name): w2(16, name) >= 2 * w2(16, "x") for name in ("eps", "v")},
        **{FAILS.format(name): w2(512, name) > CATASTROPHIC for name in ("eps", "v")},
    }


def draw(parts: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draws the samples in the plane, a row for each prediction and a column for each D."""
    figure = plots.blank(9, 7, "constrained")
    for row, predicts in zip(figure.subplots(3, len(DIMENSIONS)), PREDICTIONS):
        for axes, dims in zip(row, DIMENSIONS):
            part = PART.format(dims, predicts, "v")
            axes.scatter(*parts[part]["points"].T, s=2, color=plots.COLOURS[0], linewidths=0)
            axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
            axes.set_title(f"{predicts}, D = {dims}: W2 {parts[part][part + ': W2']:.2g}", fontsize=9)
    return figure


COMBINATIONS = [PART.format(dims, predicts, "v") for dims, predicts in itertools.product(DIMENSIONS, PREDICTIONS)]
COMBINATIONS += [
    PART.format(512, predicts, weighs) for predicts, weighs in itertools.product(PREDICTIONS, ("x", "eps"))
]

REMAKE = Remake(
    name="jit_toy",
    title="A spiral in D dimensions, by networks that predict x, eps or v",
    paper='Li and He 2025, "Back to Basics: Let Denoising Generative Models Denoise", arXiv 2511.13720',
    place="figure 2 and section 3.3; 1 means that a statement holds",
    source="the paper's text",
    published=[
        *(Published(X_WORKS.format(dims), 1, 0) for dims in DIMENSIONS),
        *(Published(claim.format(name), 1, 0) for claim in (STRUGGLES, FAILS) for name in ("eps", "v")),
    ],
    parts=COMBINATIONS,
    measure=measure,
    conclude=conclude,
    minutes=20,
    unstated=[
        "the spiral. Ours has 1.2 turns, and a mean square of 1 in each coordinate of the plane.",
        "the training. We train for 5,000 steps of Adam with a learning rate of 1e-3 and a batch of 256; the "
        "clock is an additional input.",
        "the density of times, the floor of 0.05 and the 50 steps of Heun's method for the toy example. We use "
        "the values for the paper's pictures. eps-prediction starts at 1e-3 from the noise, because it has no "
        "velocity at the noise.",
        'the meaning of "reasonable", "struggles" and "catastrophic". We call a W2 of at most 0.25 reasonable, '
        "twice the W2 of x-prediction a struggle, and a W2 above 1 a catastrophic failure.",
    ],
    differs=(
        "The samples of x-prediction lie on the spiral in every space, but up to 17 % too far out, so W2 is 0.45 "
        "to 0.58, above the limit of 0.25 that we had fixed. v-prediction has a smaller W2 at D = 2 (0.24), and "
        "blurs as D grows; at D = 512 the spiral is no longer visible, but the samples keep the scale of the "
        "data, and W2 is 0.62. eps-prediction has 1.2 at D = 16, and loses the scale of the plane at 512, for "
        "every loss. x-prediction at D = 512 has 1.3 with the x-loss and 0.36 with the eps-loss. In the picture, "
        "the predictions rank as in the paper; W2 in the plane does not show this order. The exact denoiser has a "
        "W2 of 0.22 at D = 2 with the same sampler and noises, so the limit of 0.25 leaves little room for a "
        "network. We trained each once. Afterwards we trained a few for 25,000 steps: x-prediction then has 0.24, "
        "0.29 and 0.43 at D = 2, 16 and 512, and v-prediction 0.16, 0.18 and 0.61. The verdicts are those after "
        "5,000 steps."
    ),
    left_out=(
        "The nine combinations of prediction and loss, for which the paper prints no toy figure; we measure them "
        "at D = 512."
    ),
    draw=draw,
)
