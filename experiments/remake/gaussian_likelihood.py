"""Bits per dimension by Song et al.'s probability flow, on a Gaussian whose density is known.

Along an eigenvector of variance lambda, the flow scales x by (v_T / v_0)^1/2 with v_t = alpha_t^2 lambda + sigma_t^2.
At every x, the probes therefore estimate the trace of the matrix G = U diag(ln(v_T / v_0) / 2) U^T. The estimate by one
probe of random signs has the variance 2 (sum_ij G_ij^2 - sum_i G_ii^2).
"""

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import scipy.fft

from diffusion import schedules
from diffusion.experiments.evaluation import plots
from diffusion.experiments.remake import exact_mixtures
from diffusion.experiments.remake.claims import Published, Remake
from diffusion.flows import likelihood, ode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, DEVIATION, ROWS, TOLERANCE = 32, 0.5, 64, 1e-5
SDES = {"VP": schedules.variance_preserving, "sub-VP": schedules.sub_vp, "VE": schedules.variance_exploding}
BIAS = "{}: bits per dimension, less the exact ones"
SPREAD = "{}: standard deviation over probes, over the exact one"


@functools.cache
def pictures(side: int) -> exact_mixtures.Mixture:
    """A Gaussian of `side^2` pixels, whose variances fall as 1 / frequency^2 in the cosine basis."""
    frequency = np.maximum(np.hypot(*np.meshgrid(np.arange(side), np.arange(side), indexing="ij")), 1).ravel()
    power = DEVIATION**2 * frequency**-2 / np.mean(frequency**-2)
    cosines = np.asarray(scipy.fft.dct(np.eye(side), norm="ortho", axis=0))
    return exact_mixtures.Mixture(np.ones(1), np.zeros((1, side**2)), power[None], np.kron(cosines, cosines).T[None])


def probe_deviation(data: exact_mixtures.Mixture, schedule: schedules.NoiseSchedule) -> float:
    """The standard deviation of bits per dimension that are estimated by one probe of random signs."""
    ends = [
        float(schedule.alpha(t)) ** 2 * np.asarray(data.variances[0]) + float(schedule.sigma(t)) ** 2
        for t in (schedule.t_min, schedule.t_max)
    ]
    axes = np.eye(data.means.shape[1]) if data.axes is None else np.asarray(data.axes[0])
    G = (axes * np.log(ends[1] / ends[0]) / 2) @ axes.T
    return math.sqrt(2 * (np.sum(G**2) - np.sum(np.diag(G) ** 2))) / (len(G) * math.log(2))


def errors(sde: str, key: jax.Array, data: exact_mixtures.Mixture, rows: int) -> jax.Array:
    """Bits per dimension `[rows]` of samples, each estimated by one probe, minus the exact values."""
    schedule, dims = SDES[sde](), data.means.shape[1]
    x = exact_mixtures.draw(data, key, rows)
    probes = likelihood.rademacher(jax.random.split(jax.random.fold_in(key, 1), rows), (dims,))
    solver = ode.dormand_prince(schedule.t_min, schedule.t_max, TOLERANCE, TOLERANCE)
    denoise = exact_mixtures.denoiser(data, schedule)

    @jax.jit
    def difference(x, probes):
        estimate = likelihood.log_likelihood(denoise, schedule, x, solver, likelihood.hutchinson(probes))
        exact = exact_mixtures.log_density(data, x)
        return likelihood.bits_per_dim(estimate.log_density, dims) - likelihood.bits_per_dim(exact, dims)

    return difference(x, probes)


def measure(part: str, quick: bool) -> Mapping[str, Any]:
    """The figures of one SDE and one batch of samples and probes, and the errors themselves."""
    sde, batch = part.split(", batch ")
    data = pictures(8 if quick else SIDE)
    key = jax.random.fold_in(jax.random.key(int(batch)), list(SDES).index(sde))
    rows = np.asarray(errors(sde, key, data, 8 if quick else ROWS), np.float64)
    deviation = probe_deviation(data, SDES[sde]())
    return {
        BIAS.format(sde): rows.mean(),
        SPREAD.format(sde): np.sqrt(np.mean(rows**2)) / deviation,
        "errors": rows,
        "exact deviation": deviation,
    }


def draw(parts: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draws the errors of each SDE over all batches, and the normal density with the exact standard deviation."""
    figure = plots.blank(10, 3, "constrained")
    for axes, colour, sde in zip(figure.subplots(1, len(SDES)), plots.COLOURS, SDES):
        rows = [part for name, part in parts.items() if name.startswith(f"{sde},")]
        deviation = rows[0]["exact deviation"]
        axes.hist(np.concatenate([row["errors"] for row in rows]), 24, density=True, color=colour, alpha=0.5)
        x = np.linspace(-4, 4, 200) * deviation
        axes.plot(x, np.exp(-((x / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi)), color="black")
        axes.set(title=sde, xlabel="error in bits per dimension", yticks=[])
        plots.style(axes)
    return figure


REMAKE = Remake(
    name="gaussian_likelihood",
    title="Bits per dimension of an exact Gaussian by the probability flow, and their spread over probes",
    paper='Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", '
    "arXiv 2011.13456",
    place=(
        "the estimator of bits per dimension, which the paper calls unbiased; compared to the two digits that the "
        "paper prints"
    ),
    source=(
        "the authors' likelihood.py: RK45 with rtol = atol = 1e-5 from t = 1e-5, one probe of random signs per example"
    ),
    published=[
        *(Published(BIAS.format(sde), 0, 0.005) for sde in SDES),
        *(Published(SPREAD.format(sde), 1, 0) for sde in SDES),
    ],
    parts=[f"{sde}, batch {batch}" for sde in SDES for batch in range(4)],
    measure=measure,
    minutes=5,
    unstated=[
        "the data. We use a Gaussian of 32 x 32 pixels whose variances decrease as 1 / frequency^2, with a "
        "standard deviation of 0.5, instead of CIFAR-10 and trained networks.",
        "the spread over probes. We use Hutchinson's formula (1990): 2 (|G|^2 - |diag G|^2) for probes of random "
        "signs.",
        "how the step size is controlled. We control each example by its own error, in the angle of the process, "
        "and not a whole batch in t.",
    ],
    differs=(
        "The 256 probes for sub-VP spread more, by chance. The error of each example equals the error of its "
        "probe, -(z^T G z - tr G) / (D ln 2), to 2e-5 bits with VP and sub-VP and to 3e-4 with VE. Neither the "
        "solver nor the divergence therefore adds an error."
    ),
    left_out="The bits per dimension of CIFAR-10 in the paper, because they need the trained networks.",
    draw=draw,
)
