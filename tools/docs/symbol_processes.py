"""Draws the processes of symbols: how each process changes one symbol and a sequence, and how a sampler reverses it.

`python -m tools.docs.family_figures --families=symbols` writes the picture. The data are the 24 rotations of one
staircase of eight symbols, so that the exact predictor is a sum over 24 sequences. Nothing is trained.
"""

__all__ = ["picture"]

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from diffusion import discrete, timesteps
from diffusion.discrete.metric_paths import AnyPath

SYMBOLS, LENGTH, STEPS = 8, 24, 48
STAIRCASE = np.repeat(np.arange(SYMBOLS), LENGTH // SYMBOLS)
DATA = np.stack([np.roll(STAIRCASE, shift) for shift in range(LENGTH)])
SYMBOL = 2  # the symbol whose law is drawn
MASK = "#e4e6ea"


def processes() -> dict[str, AnyPath]:
    """The processes to draw, by their labels in the picture."""
    schedule = discrete.linear()
    return {
        "absorbing": discrete.absorbing(schedule, SYMBOLS + 1),
        "token_masks": discrete.token_masks(np.geomspace(0.3, 4.0, SYMBOLS)),
        "uniform": discrete.uniform(schedule, SYMBOLS),
        "mixture": discrete.mixture(schedule, np.array([8, 4, 2, 1, 1, 2, 4, 8]) / 30),
        "rate_process,\nneighbours": discrete.rate_process(schedule, 12 * discrete.banded_rates(SYMBOLS)),
        "rate_process,\nGaussian": discrete.rate_process(schedule, 4 * discrete.gaussian_rates(SYMBOLS, 0.3)),
        "metric_path": discrete.metric_path(discrete.line_distances(SYMBOLS), scale=40.0),
    }


def picture() -> Figure:
    """Draws a row for each process: the law of one symbol, a sequence that is noised, and a sample from noise."""
    named = processes()
    figure = Figure(figsize=(9.6, 11.2), dpi=100, layout="constrained")
    panels = figure.subplots(len(named), 3, width_ratios=(1.1, 1, 1))
    titles = (f"$q(x_t \\mid x_0 = {SYMBOL})$", "a sequence, noised", "a sample of the exact predictor")
    for row, (name, process) in zip(panels, named.items()):
        row[0].set_ylabel(name, fontsize=10)
        _law(row[0], process)
        _sequences(row[1], process, noised(process), (0, 1))
        _sequences(row[2], process, sampled(process), (1, 0))
    for panel, title in zip(panels[0], titles):
        panel.set_title(title, fontsize=10)
    panels[-1, 0].set_xlabel("t  (0 data, 1 noise)", fontsize=9)
    panels[-1, 1].set_xlabel("position", fontsize=9)
    panels[-1, 2].set_xlabel("position", fontsize=9)
    return figure


def noised(process: AnyPath) -> np.ndarray:
    """One sequence, noised to the times of a grid from 0 to 1 with the same random numbers: `[STEPS + 1, LENGTH]`."""
    keys = jax.random.split(jax.random.key(1), 1)
    at = lambda t: discrete.noised(process, keys, jnp.asarray(DATA[:1], jnp.int32), t[None])[0]
    return np.asarray(jax.lax.map(at, jnp.linspace(0, 1, STEPS + 1, dtype=jnp.float32)))


def predictor(process: AnyPath) -> discrete.Predictor:
    """The exact log p(x_0 | x_t) of the rotations of the staircase."""
    data = jnp.asarray(DATA, jnp.int32)
    one_hot = jax.nn.one_hot(data, process.size)

    def predict(x: jax.Array, t: jax.Array) -> jax.Array:
        q = process.marginal(jnp.broadcast_to(data, (len(x), *data.shape)), t)  # [B, 24, L, K]
        here = jnp.take_along_axis(q, x[:, None, :, None], -1)[..., 0]
        weights = jax.nn.softmax(jnp.log(here).sum(-1))
        return jnp.log(jnp.einsum("bn,nlk->blk", weights, one_hot))

    return predict


def sampled(process: AnyPath) -> np.ndarray:
    """A sample at the times of a grid from 1 to 0, which are the sampler's steps: int `[STEPS + 1, LENGTH]`."""
    sampler = discrete.metric_flow() if isinstance(process, discrete.MetricPath) else discrete.ancestral()
    keys_of = lambda i: jax.random.split(jax.random.fold_in(jax.random.key(2), i), 1)
    x = discrete.prior(process, jax.random.split(jax.random.key(3), 1), (LENGTH,))
    states, grid = [x], np.linspace(1, 0, STEPS + 1)
    step = jax.jit(
        lambda x, t, s, keys: discrete.sample(
            sampler, predictor(process), process, x, timesteps.Plan(t[None], s[None], jnp.zeros(1, bool)), keys
        )
    )
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        states.append(step(states[-1], jnp.float32(t), jnp.float32(s), keys_of(i)))
    return np.concatenate(states)


def _law(panel: Axes, process: AnyPath) -> None:
    """Draws q(x_t | x_0 = SYMBOL) against t."""
    t = jnp.linspace(0, 1, 120, dtype=jnp.float32)
    law = np.asarray(process.marginal(jnp.full(len(t), SYMBOL), t))
    panel.imshow(
        law.T,
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=(0, 1, process.size - 0.5, -0.5),
    )
    labels = [str(k) for k in range(SYMBOLS)] + ["mask"] * (process.size - SYMBOLS)
    panel.set_yticks([0, SYMBOL, SYMBOLS - 1, *range(SYMBOLS, process.size)])
    panel.set_yticklabels([labels[k] for k in panel.get_yticks().astype(int)], fontsize=8)
    panel.set_xticks([0, 0.5, 1])
    panel.tick_params(labelsize=8, length=2)


def _sequences(panel: Axes, process: AnyPath, rows: np.ndarray, ends: tuple[int, int]) -> None:
    """Draws sequences below each other; symbols are colours, and the mask is grey."""
    colours = ListedColormap([*colormaps["viridis"](np.linspace(0, 1, SYMBOLS)), MASK][: process.size])
    panel.imshow(rows, aspect="auto", interpolation="nearest", cmap=colours, vmin=-0.5, vmax=process.size - 0.5)
    panel.set(xticks=[], yticks=[0, STEPS])
    panel.set_yticklabels([f"t = {t}" for t in ends], fontsize=8)
    panel.tick_params(length=0)
