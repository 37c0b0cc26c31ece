"""Karras et al.'s statements on solvers and steps around their figure 2, on a Gaussian whose flow is known exactly.

The paper's figure shows the FID of trained networks. Its statements on the errors of steps, and on their lengths, are
measured here on a Gaussian with the spectrum of natural pictures. Along an eigenvector of variance lambda, its flow is
x(sigma) = x(80) sqrt((lambda + sigma^2) / (lambda + 80^2)).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import samplers, schedules, timesteps
from diffusion.experiments.evaluation import plots
from diffusion.experiments.remake.claims import Published, Remake
from diffusion.experiments.remake.exact_mixtures import Mixture, denoiser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
EVALUATIONS = (11, 19, 35, 79, 159, 255)  # evaluations of Heun's method in 6 to 128 steps
SOLVERS = {"Euler": samplers.euler, "Heun": samplers.heun}
RHOS = tuple(range(1, 11))
EQUAL = "{}: rho of 1 to 10 with the most equal errors of steps"
ORDER = "{}: order of the error of a step"
BETTER = "Heun, eq. 5: less error than Euler, {}'s own steps, at each NFE (1: yes)"
STRAIGHTER = "sigma(t) = t: less error than {}'s ODE at each NFE (1: yes)"
LARGE_RHO = "rho = 5, 7 and 10: less error at the end than rho = 3, 35 NFE (1: yes)"


def picture_spectrum(side: int = 32, deviation: float = 0.5) -> np.ndarray:
    """Variances `[side^2]` that fall as 1 / frequency^2, with a mean of deviation^2."""
    cycles = np.fft.fftfreq(side, 1 / side)
    power = 1 / np.maximum(np.hypot(*np.meshgrid(cycles, cycles)), 1).ravel() ** 2
    return deviation**2 * power / power.mean()


def variance_exploding(sigma_max: float) -> schedules.NoiseSchedule:
    """Song et al.'s VE as in the paper's table 1: sigma^2 is linear in t, which is scaled to [0, 1]."""
    return schedules.from_alpha_sigma(jnp.ones_like, lambda t: sigma_max * jnp.sqrt(t))


def own_steps(name: str, steps: int) -> tuple[schedules.NoiseSchedule, np.ndarray]:
    """The ODE of "VP" or "VE" and its times in table 1, `[steps + 1]`, of which the last is 0."""
    if name == "VP":
        return schedules.variance_preserving(), np.append(np.linspace(1, 1e-3, steps), 0)
    schedule = variance_exploding(100.0)
    return schedule, np.append((0.02 / 100) ** (2 * np.arange(steps) / (steps - 1)), 0)


def end_error(solver: str, schedule: schedules.NoiseSchedule, grid: np.ndarray, variances: np.ndarray) -> float:
    """The root mean square error at the end of the grid; at its first time, each coordinate equals sigma."""
    start = float(jnp.exp(-schedule.log_snr(grid[0]) / 2))
    x = jnp.full((1, len(variances)), start * schedule.alpha(grid[0]))
    exact = start * np.sqrt(variances / (variances + start**2))
    return float(np.sqrt(np.mean((_solved(solver, schedule, x, grid, variances)[0] - exact) ** 2)))


def step_errors(solver: str, rho: float, steps: int, variances: np.ndarray) -> np.ndarray:
    """The root mean square errors `[steps - 1]` of single steps of eq. 5 with sigma(t) = t.

    Each step starts on a line of the exact flow. The last step, to sigma = 0, is left out.
    """
    schedule = schedules.edm(SIGMA_MIN, SIGMA_MAX)
    grid = timesteps.karras(schedule, steps, SIGMA_MIN, SIGMA_MAX, rho)[:-1]
    spread = np.sqrt(variances + (SIGMA_MAX * grid[:, None]) ** 2)  # standard deviation of x at each time
    step = jax.jit(lambda x, t, s: _step(solver, schedule, variances, x, t, s))
    ends = np.stack([step(x[None], t, s)[0] for x, t, s in zip(spread, grid, grid[1:])])
    return np.sqrt(np.mean((ends - spread[1:]) ** 2, axis=1))


def step_order(solver: str, variance: float = 0.25, sigma: float = 0.5, length: float = 1e-3) -> float:
    """The order of a step's error: log2(error of a step of `length` in sigma / error of a step of half the length)."""
    schedule = schedules.edm(SIGMA_MIN, SIGMA_MAX)
    variances = np.array([variance])

    def error(h):
        x = jnp.full((1, 1), np.sqrt(variance + sigma**2))
        end = _step(solver, schedule, variances, x, sigma / SIGMA_MAX, (sigma - h) / SIGMA_MAX)
        return abs(float(end[0, 0]) - np.sqrt(variance + (sigma - h) ** 2))

    return float(np.log2(error(length) / error(length / 2)))


def measure(part: str, quick: bool) -> Mapping[str, Any]:
    """The figures of one part: "single steps", "rho", "VP" or "VE"."""
    evaluations = EVALUATIONS[:2] if quick else EVALUATIONS
    variances = picture_spectrum(8 if quick else 32)
    with jax.enable_x64(True):
        edm = schedules.edm(SIGMA_MIN, SIGMA_MAX)
        grid = lambda schedule, steps, rho=7.0: timesteps.karras(schedule, steps, SIGMA_MIN, SIGMA_MAX, rho)
        if part == "single steps":
            values = {}
            for solver in SOLVERS:
                unequal = [np.std(np.log(step_errors(solver, rho, 18, variances))) for rho in RHOS]
                values |= {
                    ORDER.format(solver): step_order(solver),
                    EQUAL.format(solver): RHOS[int(np.argmin(unequal))],
                    f"{solver}: spread": np.array(unequal),
                }
            return values
        if part == "rho":
            errors = {rho: end_error("Heun", edm, grid(edm, 18, rho), variances) for rho in RHOS}
            return {
                LARGE_RHO: all(errors[rho] < errors[3] for rho in (5, 7, 10)),
                "error": np.array(list(errors.values())),
            }
        schedule = schedules.variance_preserving() if part == "VP" else variance_exploding(SIGMA_MAX)
        published_errors = [end_error("Euler", *own_steps(part, nfe), variances) for nfe in evaluations]
        better = [end_error("Heun", schedule, grid(schedule, (nfe + 1) // 2), variances) for nfe in evaluations]
        straight = [end_error("Heun", edm, grid(edm, (nfe + 1) // 2), variances) for nfe in evaluations]
        return {
            BETTER.format(part): all(b < o for b, o in zip(better, published_errors)),
            STRAIGHTER.format(part): all(s < b for s, b in zip(straight, better)),
            "Euler, own steps": np.array(published_errors),
            "Heun, eq. 5": np.array(better),
            "Heun, eq. 5, sigma(t) = t": np.array(straight),
        }


def draw(parts: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draws the final error against NFE for the ODEs of VP and VE and against rho, and the spread of step errors."""
    figure = plots.blank(12, 3.4, "constrained")
    panels = figure.subplots(1, 4)
    for axes, name in zip(panels, ("VP", "VE")):
        curves = {key: value for key, value in parts[name].items() if np.ndim(value)}
        for colour, (key, errors) in zip(plots.COLOURS, curves.items()):
            axes.loglog(EVALUATIONS[: len(errors)], errors, "o-", color=colour, label=key, markersize=3)
        axes.set(title=f"{name}", xlabel="network evaluations", ylabel="RMS error at the end")
        axes.legend(fontsize=7)
    panels[2].semilogy(RHOS, parts["rho"]["error"], "o-", color=plots.COLOURS[0], markersize=3)
    panels[2].set(title="Heun, 35 evaluations", xlabel="rho", ylabel="RMS error at the end")
    for colour, solver in zip(plots.COLOURS, SOLVERS):
        spread = parts["single steps"][f"{solver}: spread"]
        panels[3].plot(RHOS, spread, "o-", color=colour, label=solver, markersize=3)
    panels[3].set(title="Single steps", xlabel="rho", ylabel="std of ln(error of a step)")
    panels[3].legend(fontsize=7)
    for axes in panels:
        plots.style(axes)
    return figure


def _solved(solver, schedule, x, grid, variances):
    data = Mixture(np.ones(1), np.zeros((1, len(variances))), variances[None])
    keys = jax.random.split(jax.random.key(0), len(x))
    return samplers.sample(SOLVERS[solver](), denoiser(data, schedule), schedule, x, timesteps.plan(grid), keys)


def _step(solver, schedule, variances, x, t, s):
    """One step of a sampler from x at t to s."""
    data = Mixture(np.ones(1), np.zeros((1, len(variances))), variances[None])
    plan = timesteps.Plan(jnp.stack([jnp.asarray(t)]), jnp.stack([jnp.asarray(s)]), jnp.zeros(1, bool))
    sampler = SOLVERS[solver]()
    noise = jnp.zeros((sampler.draws, *x.shape))  # an empty array, since these solvers are deterministic
    return sampler.step(sampler.init(x, schedule, plan), denoiser(data, schedule), schedule, plan, 0, noise).x


REMAKE = Remake(
    name="edm_solvers",
    title="Errors of solvers, steps and ODEs around EDM's figure 2, on an exact Gaussian",
    paper='Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv 2206.00364',
    place="the statements on figure 2 in section 3; 1 means that a statement holds",
    source="the paper's text",
    published=[
        Published(ORDER.format("Euler"), 2, 0.5),
        Published(ORDER.format("Heun"), 3, 0.5),
        Published(EQUAL.format("Euler"), 3, 0.5),
        Published(EQUAL.format("Heun"), 3, 0.5),
        Published(LARGE_RHO, 1, 0),
        *(Published(claim.format(name), 1, 0) for name in ("VP", "VE") for claim in (BETTER, STRAIGHTER)),
    ],
    parts=["single steps", "rho", "VP", "VE"],
    measure=measure,
    minutes=1,
    unstated=[
        "the data. We use a Gaussian of 1,024 values whose variances decrease as 1 / frequency^2, with sigma_data "
        "= 0.5, instead of CIFAR-10 and its networks.",
        "the solver and the number of steps in the statement on rho = 3. We use 18 steps with both solvers. We "
        "call errors most equal if the standard deviation of their logarithms is smallest.",
        "the measure of error. We use the root mean square distance from the exact end of the flow, instead of "
        "the FID.",
    ],
    differs=(
        "With 11 evaluations, Heun's method has a larger error than Euler's for both ODEs. From 19 evaluations "
        "on, its error is smaller: with 255 evaluations, 17 times smaller (VP) and 10 times smaller (VE). The ODE "
        "of VP, which keeps the variance near 1, has a 2.6 to 5.3 times smaller error than sigma(t) = t in our "
        "experiment, because for a Gaussian the paths do not curve as between separate pictures. The ODE of VE "
        "has a 4.8 to 700 times larger error than sigma(t) = t, as the paper says. The errors of Euler's steps "
        "are most equal at rho = 5, and those of Heun's steps at 3."
    ),
    left_out="The savings in NFE (7.3, 300 and 3.2 times), because they compare trained networks at equal FID.",
    draw=draw,
)
