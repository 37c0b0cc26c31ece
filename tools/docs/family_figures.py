"""Draws a picture for each family of functions, which shows its effect on small data with known denoisers.

    python -m tools.docs.family_figures
    python -m tools.docs.family_figures --families=samplers,guidance --folder=/tmp/pictures

The commands write schedules.png, objectives.png, samplers.png, guidance.png, steering.png, manifolds.png and
symbols.png in docs/images. The data of most pictures are mixtures of Gaussians in the plane, whose denoisers are exact
(tests/oracles.py). Nothing is trained, so that the pictures are the same each time.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl import app, flags, logging
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from diffusion import couplings, guidance, manifolds, samplers, schedules, steering, timesteps
from diffusion.experiments.evaluation import plots
from diffusion.experiments.evaluation.plots import BLUE, FAINT, INK, ORANGE
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import exact_denoiser
from tools.docs import symbol_processes

GREY, GREEN, RED = "#8a8f98", "#3a8a4d", "#c0392b"
COLORS = (BLUE, ORANGE, GREEN, RED, "#8e5ea2", "#7a4a12", "#1aa39a", "#d16ba5", "#6b7280", "#b5a02c")
FLOW = schedules.rectified_flow()


def schedules_picture() -> Figure:
    """Draws alpha, sigma and log-SNR of the schedules against t, and one mixture under three of them at six times."""
    by_name = {
        "rectified_flow": FLOW,
        "cosine": schedules.cosine(),
        "linear_beta": schedules.linear_beta(),
        "scaled_linear": schedules.scaled_linear(),
        "sigmoid": schedules.sigmoid(),
        "sub_vp": schedules.sub_vp(),
        "variance_exploding": schedules.variance_exploding(),
        "edm": schedules.edm(),
    }
    near = {"cosine": " (near: trigonometric)", "linear_beta": " (near: variance_preserving)"}
    figure = Figure(figsize=(11, 8.6), dpi=110, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1.9))
    panels = above.subplots(1, 3)
    t = np.linspace(1e-3, 1, 400)
    for (name, schedule), color in zip(by_name.items(), COLORS):
        style = "--" if name in ("scaled_linear", "sub_vp", "sigmoid") else "-"
        for panel, curve in zip(panels, (schedule.alpha, schedule.sigma, schedule.log_snr)):
            panel.plot(t, np.asarray(curve(t)), style, color=color, linewidth=1.5, label=name + near.get(name, ""))
    for panel, title in zip(panels, (r"$\alpha(t)$", r"$\sigma(t)$", r"$\log\,\alpha^2/\sigma^2$")):
        panel.set(xlabel="t  (0 data, 1 noise)", xlim=(0, 1))
        panel.set_title(title, fontsize=11)
        plots.style(panel)
    panels[1].set(yscale="log", ylim=(5e-3, 120))
    panels[2].set_ylim(-12, 12)
    above.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=4)
    shown, times = ("rectified_flow", "linear_beta", "variance_exploding"), (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    below.suptitle(
        "a mixture of three Gaussians under $x_t = \\alpha x_0 + \\sigma\\,\\varepsilon$, "
        "each picture in units of $\\sqrt{\\alpha^2 + \\sigma^2}$",
        fontsize=11,
    )
    data = oracles.three_gaussians()
    random = np.random.default_rng(0)
    x0, component = _draw(data, 450, random)
    x0 = 1.3 * x0
    eps = random.standard_normal(x0.shape)
    for row, name in zip(below.subplots(len(shown), len(times)), shown):
        for panel, t in zip(row, times):
            alpha = float(by_name[name].alpha(t))
            sigma = float(by_name[name].sigma(t))
            x = (alpha * x0 + sigma * eps) / np.hypot(alpha, sigma)
            panel.scatter(*x.T, s=3, c=np.array([BLUE, ORANGE, GREEN])[component], linewidths=0, alpha=0.7)
            _square(panel, 3.0)
            panel.set_title(f"t = {t:g}", fontsize=8, pad=2) if name == shown[0] else None
        row[0].set_ylabel(name, fontsize=9)
    return figure


def samplers_picture() -> Figure:
    """Draws trajectories of six samplers with at most eight network evaluations, over the exact flow in grey."""
    names = {
        "ddim": samplers.ddim(),
        "heun": samplers.heun(),
        "dpmpp_2m": samplers.dpmpp_2m(),
        "unipc": samplers.unipc(),
        "dpm_solver_3": samplers.dpm_solver_3(),
        "ddpm": samplers.ddpm(),
    }
    data = oracles.three_gaussians()
    evaluations = 8
    x = jnp.asarray(scipy.stats.norm.ppf(scipy.stats.qmc.Sobol(2, seed=3).random(16)))
    exact = _trajectory(samplers.rk4(), exact_denoiser(data, FLOW), x, timesteps.uniform(FLOW, 200))
    figure = Figure(figsize=(11, 7.6), dpi=110, layout="constrained")
    for panel, (name, sampler) in zip(figure.subplots(2, 3).ravel(), names.items()):
        steps = max(steps for steps in range(1, evaluations + 1) if sampler.nfe(steps) <= evaluations)
        grid = timesteps.uniform(FLOW, steps)
        path = _trajectory(sampler, exact_denoiser(data, FLOW), x, grid)[:, : 4 if sampler.draws else None]
        _contours(panel, data)
        panel.add_collection(LineCollection(exact.swapaxes(0, 1), colors=GREY, linewidths=1.0))
        panel.add_collection(LineCollection(path.swapaxes(0, 1), colors=BLUE, linewidths=1.0))
        panel.scatter(*path[1:-1].reshape(-1, 2).T, s=7, color=BLUE, linewidths=0)
        panel.scatter(*path[0].T, s=12, facecolors="white", edgecolors=INK, linewidths=0.8, zorder=3)
        panel.scatter(*exact[-1].T, s=26, facecolors="none", edgecolors=GREY, linewidths=1.2, zorder=3)
        panel.scatter(*path[-1].T, s=14, color=RED, linewidths=0, zorder=4)
        error = np.sqrt(np.mean(np.sum((path[-1] - exact[-1, : path.shape[1]]) ** 2, axis=-1)))
        kind = "stochastic, four samples" if sampler.draws else f"{error:.3f} from the exact flow"
        panel.set_title(f"{name}: {steps} steps, {sampler.nfe(steps)} evaluations\n{kind}", fontsize=9.5)
        _square(panel, 2.5)
    return figure


def objectives_picture() -> Figure:
    """Draws the exact targets of denoising, of flow matching with two couplings, and of flow maps."""
    near = oracles.three_gaussians()
    random = np.random.default_rng(1)
    data = near._replace(means=2 * near.means, variances=0.6 * near.variances)
    figure = Figure(figsize=(11, 3.5), dpi=110, layout="constrained")
    field, independent, transport, jumps = figure.subplots(1, 4)

    alpha, sigma = 0.6, 0.4
    axis = np.linspace(-2.8, 2.8, 15)
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    x0 = np.asarray(oracles.mean_x0(data, alpha, sigma, jnp.asarray(x)))
    _contours(field, data)
    field.quiver(*x.T, *(x0 - x).T, color=BLUE, angles="xy", scale_units="xy", scale=2.5, width=0.005)
    field.set_title("denoising, t = 0.4:\nfrom $x_t$ towards $E[x_0\\,|\\,x_t]$", fontsize=9.5)

    eps, (data_points, _) = random.standard_normal((32, 2)), _draw(data, 32, random)
    keys = jax.random.split(jax.random.key(0), 32)
    matched = np.asarray(couplings.optimal_transport(32)(keys, jnp.asarray(data_points), jnp.asarray(eps)))
    for panel, noise, title in (
        (independent, eps, "flow matching, independent pairs,\nand the flow that it learns"),
        (transport, matched, "the same pairs matched by\nminibatch optimal transport"),
    ):
        _contours(panel, data)
        panel.add_collection(LineCollection(np.stack([noise, data_points], axis=1), colors=FAINT, linewidths=0.8))
        panel.scatter(*noise.T, s=8, facecolors="white", edgecolors=INK, linewidths=0.6)
        panel.scatter(*data_points.T, s=8, color=BLUE, linewidths=0, zorder=3)
        panel.set_title(title, fontsize=9.5)
    start = jnp.asarray(scipy.stats.norm.ppf(scipy.stats.qmc.Sobol(2, seed=3).random(8)))
    path = _trajectory(samplers.rk4(), exact_denoiser(data, FLOW), start, timesteps.uniform(FLOW, 100))
    independent.add_collection(LineCollection(path.swapaxes(0, 1), colors=ORANGE, linewidths=1.6, zorder=4))

    _contours(jumps, data)
    jumps.add_collection(LineCollection(path.swapaxes(0, 1), colors=GREY, linewidths=1.2))
    for i in (0, 40, 70):
        jumps.quiver(
            *path[i].T,
            *(path[-1] - path[i]).T,
            color=BLUE,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.005,
            alpha=0.35 + 0.6 * i / 100,
        )
    jumps.scatter(*path[0].T, s=12, facecolors="white", edgecolors=INK, linewidths=0.8, zorder=3)
    jumps.set_title("flow maps (consistency, MeanFlow):\nfrom any $x_t$ to where its flow ends", fontsize=9.5)
    for panel in (field, independent, transport, jumps):
        _square(panel, 3.2)
    return figure


def guidance_picture() -> Figure:
    """Draws samples of one class out of two, with each kind of guidance."""
    means = np.array([[-1.3, 0.9], [-0.2, 1.5], [1.0, 0.9], [-1.0, -0.7], [0.2, -0.1], [1.3, -0.8]])
    axes = [[[0.10, 0.04], [0.04, 0.06]], [[0.05, -0.02], [-0.02, 0.09]], [[0.12, 0.0], [0.0, 0.05]]]
    class_of = lambda rows, spread=0.0: oracles.mixture(
        np.full(len(rows), 1 / len(rows)), means[rows], [np.add(axes[k % 3], spread * np.eye(2)) for k in rows]
    )
    one = class_of([0, 1, 2])
    both = class_of([0, 1, 2, 3, 4, 5])
    cond = exact_denoiser(one, FLOW)
    uncond = exact_denoiser(both, FLOW)
    worse = exact_denoiser(class_of([0, 1, 2], 0.25), FLOW)
    branches = guidance.separately(cond, uncond)
    cases = {
        "no guidance": cond,
        "classifier_free, w = 2": guidance.classifier_free(branches, 2.0),
        "classifier_free, w = 4": guidance.classifier_free(branches, 4.0),
        "w = 4, for t in [0.2, 0.7]": guidance.classifier_free(branches, 4.0, (0.2, 0.7)),
        "rescaled, w = 4": guidance.rescaled(branches, FLOW, 4.0),
        "adaptive_projected, w = 4": guidance.adaptive_projected(branches, FLOW, 4.0),
        "classifier_free_plus_plus, 0.8": guidance.classifier_free_plus_plus(branches, 0.8),
        "autoguidance, w = 2": guidance.autoguidance(cond, worse, 2.0),
    }
    x = jnp.asarray(scipy.stats.norm.ppf(scipy.stats.qmc.Sobol(2, seed=0).random(512)))
    grid = timesteps.uniform(FLOW, 50)
    figure = Figure(figsize=(11, 5.9), dpi=110, layout="constrained")
    for panel, (name, denoise) in zip(figure.subplots(2, 4).ravel(), cases.items()):
        samples = _trajectory(samplers.ddim(), denoise, x, grid)[-1]
        _contours(panel, both, GREY)
        _contours(panel, one, BLUE)
        panel.scatter(*samples.T, s=4, color=ORANGE, linewidths=0, alpha=0.8, zorder=3)
        _square(panel, 2.6)
        panel.set_title(name, fontsize=9.5)
    return figure


def steering_picture() -> Figure:
    """Draws samples of a mixture tilted by a reward, of a guided class and of a product of two mixtures.

    The contours show the intended density. Sums of scores miss it, and the samplers of `steering` correct them.
    """
    data = oracles.three_gaussians()
    left, right = (data._replace(weights=np.array(weights)) for weights in ([0.6, 0.35, 0.05], [0.05, 0.35, 0.6]))
    log_p = lambda mixture, x: oracles.log_density(mixture, 1.0, 0.0, x)
    centre = np.array([0.4, 0.2])
    log_reward = lambda x: -jnp.sum((x - centre) ** 2, -1) / (2 * 0.5**2)
    denoise, a, b = (exact_denoiser(mixture, FLOW) for mixture in (data, left, right))
    pulled = guidance.posterior_sampling(denoise, FLOW, log_reward)
    branches = guidance.separately(a, b)
    added = lambda x_t, t: _sum_of_scores(branches(x_t, t), x_t, t)
    number, ancestral, euler = 16, samplers.ddpm(), samplers.euler_maruyama()
    coarse = timesteps.plan(timesteps.uniform(FLOW, 40))
    fine = timesteps.plan(np.linspace(0.98, 0, 121))
    tilted = lambda x: log_p(data, x) + log_reward(x)
    guided = lambda x: 3 * log_p(left, x) - 2 * log_p(right, x)
    product = lambda x: log_p(left, x) + log_p(right, x)
    plain = lambda denoise, plan=coarse: lambda x, keys: samplers.sample(ancestral, denoise, FLOW, x, plan, keys)
    twisted = lambda **more: (
        lambda x, keys: steering.twisted(
            ancestral, denoise, FLOW, x, coarse, keys, steering.tilt(log_reward), number=number, **more
        )
    )
    corrected = lambda exponents, plan, scale=1.0: (
        lambda x, keys: steering.corrected(euler, branches, exponents, FLOW, scale * x, plan, keys, number=number)
    )
    cases = {
        "the data": (lambda x: log_p(data, x), plain(denoise)),
        "a reward: its gradient alone": (tilted, plain(pulled)),
        "a reward: twisted": (tilted, twisted()),
        "a reward: twisted, with the gradient": (tilted, twisted(proposal=pulled)),
        "w = 3: classifier_free": (guided, plain(guidance.classifier_free(branches, 3.0))),
        "w = 3: corrected": (guided, corrected((3.0, -2.0), coarse)),
        "a product: sum of scores": (product, lambda x, keys: plain(added, fine)(0.98 * x / 2**0.5, keys)),
        "a product: corrected": (product, corrected((1.0, 1.0), fine, 0.98 / 2**0.5)),
    }
    figure = Figure(figsize=(11, 5.9), dpi=110, layout="constrained")
    for panel, (name, (log_density, run)) in zip(figure.subplots(2, 4).ravel(), cases.items()):
        start, sampling, choice = jax.random.split(jax.random.key(0), (3, 512 * number))
        samples = jax.jit(run)(jax.vmap(lambda key: jax.random.normal(key, (2,)))(start), sampling)
        if isinstance(samples, steering.Particles):
            samples = steering.drawn(samples, choice[:512])
        _levels(panel, log_density, BLUE)
        panel.scatter(*np.asarray(samples[:512]).T, s=4, color=ORANGE, linewidths=0, alpha=0.8, zorder=3)
        _square(panel, 2.6)
        panel.set_title(name, fontsize=9.5)
    return figure


def manifolds_picture() -> Figure:
    """Draws the density and samples of a wrapped normal on the sphere, the torus and the Poincare ball."""
    keys = jax.random.split(jax.random.key(0), 300)
    figure = Figure(figsize=(11, 3.9), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3)
    axis = np.linspace(-1, 1, 240)
    plane = np.stack(np.meshgrid(axis, axis), -1)
    inside = (plane**2).sum(-1) < 0.995
    disc = np.where(inside[..., None], plane, 0)
    front = lambda x: np.concatenate([x, np.sqrt(1 - (x**2).sum(-1, keepdims=True))], -1)
    angles = np.pi * plane
    cases = (
        (
            "sphere(2), scale = 0.4, seen from above",
            manifolds.sphere(2),
            np.array([0.36, 0.48, 0.8]),
            0.4,
            front(disc),
            1,
        ),
        ("torus(2), scale = 0.7", manifolds.torus(2), np.array([2.4, -0.6]), 0.7, angles, np.pi),
        ("poincare(2), scale = 0.5", manifolds.poincare(2), np.array([0.5, 0.3]), 0.5, disc, 1),
    )
    for panel, (title, manifold, mean, scale, grid, half) in zip(panels, cases):
        normal = manifolds.wrapped_normal(manifold, mean, scale)
        density = np.exp(np.asarray(normal.log_density(jnp.asarray(grid))))
        shown = density if half > 1 else np.where(inside, density, np.nan)
        panel.imshow(shown, extent=(-half, half, -half, half), origin="lower", cmap="Blues", vmin=0)
        draws = np.asarray(normal.sample(keys))
        draws = draws[draws[:, 2] > 0] if draws.shape[1] == 3 else draws
        panel.scatter(*draws[:, :2].T, s=5, color=ORANGE, linewidths=0)
        _square(panel, half)
        panel.set_title(title, fontsize=10)
    return figure


FAMILIES = {
    "schedules": schedules_picture,
    "objectives": objectives_picture,
    "samplers": samplers_picture,
    "guidance": guidance_picture,
    "steering": steering_picture,
    "manifolds": manifolds_picture,
    "symbols": symbol_processes.picture,
}


def _draw(data: oracles.Mixture, number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a mixture, `[number, 2]`, and the component of each, `[number]`."""
    component = random.choice(len(data.weights), number, p=data.weights)
    stretched = random.standard_normal((number, 2)) * np.sqrt(data.variances)[component]
    return data.means[component] + np.einsum("nij,nj->ni", np.asarray(data.axes)[component], stretched), component


def _trajectory(sampler: samplers.Sampler, denoise, x, grid: np.ndarray) -> np.ndarray:
    """The samples before the first of N steps and after each step, `[N + 1, B, 2]`."""
    keys = jax.random.split(jax.random.key(0), len(x))
    run = jax.jit(lambda x: samplers.sample_trajectory(sampler, denoise, FLOW, x, timesteps.plan(grid), keys)[1])
    return np.asarray(run(x).x)


def _sum_of_scores(predictions: tuple[Prediction, ...], x_t, t) -> Prediction:
    """The prediction whose score is the sum of the predictions' scores."""
    eps = sum(prediction.eps for prediction in predictions)
    return Prediction((x_t - FLOW.sigma(t) * eps) / FLOW.alpha(t), eps)


def _contours(panel: Axes, data: oracles.Mixture, color: str = GREY) -> None:
    """Draws the contours that enclose half and nine tenths of the data's mass."""
    _levels(panel, lambda x: oracles.log_density(data, 1.0, 0.0, x), color)


def _levels(panel: Axes, log_density, color: str) -> None:
    """Draws the contours that enclose half and nine tenths of a density's mass; it need not be normalised."""
    axis = np.linspace(-4, 4, 200)
    points = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    values = np.asarray(log_density(points))
    density = np.exp(values - values.max())
    sorted_mass = np.sort(density)[::-1]
    levels = [sorted_mass[np.searchsorted(np.cumsum(sorted_mass) / sorted_mass.sum(), share)] for share in (0.9, 0.5)]
    panel.contour(axis, axis, density.reshape(200, 200), levels, colors=color, linewidths=0.8, alpha=0.6)


def _square(panel: Axes, half: float) -> None:
    panel.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[], aspect="equal")
    for spine in panel.spines.values():
        spine.set_color("#d0d0d0")


def main(argv: list[str]) -> None:
    """Draws the pictures that the flags name."""
    logging.set_verbosity(logging.ERROR)  # JAX would warn about missing backends
    folder = pathlib.Path(flags.FLAGS.folder)
    for family in flags.FLAGS.families:
        with jax.enable_x64(True):
            figure = FAMILIES[family]()
        plots.save(figure, folder / f"{family}.png")
        print(folder / f"{family}.png")


if __name__ == "__main__":
    flags.DEFINE_list("families", list(FAMILIES), f"families to draw, out of {', '.join(FAMILIES)}")
    flags.DEFINE_string("folder", "docs/images", "folder for the pictures")
    app.run(main)
