# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 13. A paper's experiment, end to end
#
# Lipman et al. (2023, "Flow Matching for Generative Modeling") report that straight paths need fewer network
# evaluations than diffusion paths for the same quality. We repeat this experiment on a small scale: digits of 8x8
# pixels, a small DiT, two processes, two seeds, and four numbers of steps. Every figure comes with the floor and the
# spread. The structure is that of a real study: vary one thing and fix everything else, compare with held-out data, and
# also report what you did not expect.

# %%
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from diffusion import models, objectives, parameterizations, samplers, schedules, timesteps
from diffusion.experiments.train import train
from diffusion.metrics import frechet
from diffusion.recipe import Recipe, Training
from diffusion.training.checkpointing import checkpoints

plt.style.use("course.mplstyle")

# %% [markdown]
# ## The question and the fixed settings
#
# - **Varied**: the path. It is the straight path, [`schedules.rectified_flow`](../../diffusion/schedules/flow.py), or
#   the path of variance-preserving diffusion,
#   [`schedules.variance_preserving`](../../diffusion/schedules/variance_preserving.py) (the paper's "VP").
# - **Fixed**: the data and their split, the network ([`models.DiT`](../../diffusion/models/dit.py)), the prediction
#   (the velocity, [`objectives.flow_matching`](../../diffusion/objectives/flow_matching.py)), the optimizer, the number
#   of steps, the batch size, the moving average, and the solver (Euler's method, for which straight paths should help
#   most).
# - **Measured**: the Fréchet distance of pixels between samples and held-out digits, divided by the same distance for
#   real training digits (the floor). At a value of 1, samples are as close to the held-out digits as real digits are.
#
# There is a theoretical reason for the claim. Euler's method with step $h$ has a local error of $h^2/2$ times the
# acceleration of the path. Given $(x_0, \varepsilon)$, the acceleration is $\alpha'' x_0 + \sigma'' \varepsilon$. It is
# zero on the straight path, but not on the other path. (The velocity of the *flow* is a mean over many such paths, so
# the paths of the flow are not straight. This is why more than one step is needed.)

# %%
digits, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(digits))
records = [
    {"image": np.round(digits[i] * (255 / 16)).astype(np.uint8).reshape(8, 8, 1), "label": int(labels[i])}
    for i in order
]
data, held_out = records[:1300], records[1300:]
pixels = lambda rows: np.stack([row["image"].ravel() for row in rows]) / 127.5 - 1


def moments(rows):
    return frechet.update(frechet.init(64), rows)


reference = moments(pixels(held_out))
random = np.random.default_rng(1)
floors = [frechet.frechet_distance(moments(pixels(data)[random.permutation(1300)[:497]]), reference) for _ in range(20)]
floor = np.mean(floors)
print(f"floor, 497 real training digits against 497 held out: {floor:.3f} +- {np.std(floors):.3f}")

# %% [markdown]
# ## The runs
#
# Each run is a `Recipe` that trains in its own folder. From this folder, you can later resume the run, sample from it
# and inspect it. With a config file, `diffusion sweep` does the same.

# %%
STEPS = 600
paths = {"straight": schedules.rectified_flow(), "VP diffusion": schedules.variance_preserving()}
network = models.DiT(patch=2, width=64, depth=2, heads=4, num_classes=10)
velocity = parameterizations.velocity(parameterizations.time(1000.0))


def recipe(path, seed):
    schedule = paths[path]
    return Recipe(
        schedule=schedule,
        objective=objectives.flow_matching(timesteps.uniform_density(schedule, strata=64), clock=velocity.clock),
        network=network,
        parameterization=velocity,
        training=Training(optimizer=optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 100, STEPS))),
        data=data,
        held_out=held_out,
        config={
            "seed": seed,
            "train.steps": STEPS,
            "train.batch_size": 64,
            "train.log_every": STEPS,
            "checkpoint.every": STEPS,
            "ema.decay": 0.99,
        },
    )


folder = pathlib.Path(tempfile.mkdtemp())
averages = {}
for path in paths:
    for seed in (0, 1):
        run = folder / f"{path}_{seed}".replace(" ", "_")
        assert train(recipe(path, seed), run) == 0
        averages[path, seed], _ = checkpoints.load_ema(run)
        print(f"{path:13} seed {seed}: trained")

# %% [markdown]
# ## The measurement
#
# We sample from all four networks with the same 497 noise arrays and with the labels of the held-out digits. Since the
# noise is the same, the difference between two paths varies less than each figure.

# %%
keys = jax.random.split(jax.random.key(7), len(held_out))
classes = {"label": jnp.array([row["label"] for row in held_out])}
counts = (2, 4, 8, 32)


def sampler_of(path, sampler, grid):
    """A compiled function from parameters to samples; all start from the same draws of N(0, I)."""
    schedule = paths[path]
    plan = timesteps.plan(grid)
    noise = schedule.sigma(plan.t[0]) * jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys)

    @jax.jit
    def draw(params):
        denoise = parameterizations.denoiser(
            lambda *inputs: network.apply(params, *inputs), schedule, velocity, classes
        )
        return samplers.sample(sampler, denoise, schedule, noise, plan, keys)

    return draw


def measured(x):
    """The distance of samples to the held-out digits, in units of the floor."""
    return frechet.frechet_distance(moments(np.clip(np.asarray(x).reshape(-1, 64), -1, 1)), reference) / floor


images, times_floor = {}, {}
for path in paths:
    for n in counts:
        draw = sampler_of(path, samplers.euler(), timesteps.uniform(paths[path], steps=n))
        for seed in (0, 1):
            images[path, seed, n] = draw(averages[path, seed])
            times_floor[path, seed, n] = measured(images[path, seed, n])

# %% tags=["picture"]
figure, panels = plt.subplots(1, 2, width_ratios=(1, 1.1), figsize=(7.5, 3.2))
for path, color in zip(paths, ("C0", "C1")):
    both = np.array([[times_floor[path, seed, n] for n in counts] for seed in (0, 1)])
    panels[0].plot(counts, both.mean(0), marker=".", color=color, label=path)
    panels[0].fill_between(counts, both.min(0), both.max(0), color=color, alpha=0.25)
panels[0].axhline(1, color="C5", linestyle="--", label="real digits (floor)")
panels[0].set(xlabel="network evaluations (Euler steps)", ylabel="Fréchet distance / floor", xscale="log", yscale="log")
panels[0].set_xticks(counts, [str(n) for n in counts])
panels[0].minorticks_off()
panels[0].legend()
rows = [np.concatenate([np.asarray(images[path, 0, 4][i, ..., 0]) for i in range(5)], axis=1) for path in paths]
panels[1].imshow(np.concatenate(rows), cmap="gray_r", vmin=-1, vmax=1)
panels[1].set(xticks=[], yticks=[3.5, 11.5], title="four evaluations, the same noise and class")
panels[1].set_yticklabels(paths)
plt.show()

# %%
print("evaluations  " + "".join(f"{path:>24}" for path in paths))
for n in counts:
    cells = ["  ".join(f"{times_floor[path, seed, n]:6.2f}" for seed in (0, 1)) for path in paths]
    print(f"{n:11}  " + "".join(f"{cell:>24}" for cell in cells))
for n in (2, 4):
    assert max(times_floor["straight", s, n] for s in (0, 1)) < min(times_floor["VP diffusion", s, n] for s in (0, 1))

# %% [markdown]
# ## A reviewer's question
#
# Does the difference come from the path or from the grid? [Notebook 1](01_forward_process.ipynb) shows that two
# schedules are two clocks for the same noise levels. So we sample both paths with DDIM, which depends only on the noise
# levels and not on $t$ ([notebook 4](04_samplers_as_solvers.ipynb)). Both grids have the same noise levels: equal steps
# of log-SNR from $\sigma / \alpha = 50$ down to 0.02, from
# [`timesteps.uniform_log_snr`](../../diffusion/timesteps/grids.py).

# %%
matched = {}
for path in paths:
    for n in (4, 16):
        grid = timesteps.uniform_log_snr(paths[path], n, sigma_min=0.02, sigma_max=50.0)
        draw = sampler_of(path, samplers.ddim(), grid)
        for seed in (0, 1):
            matched[path, seed, n] = measured(draw(averages[path, seed]))
for n in (4, 16):
    cells = ["  ".join(f"{matched[path, seed, n]:6.2f}" for seed in (0, 1)) for path in paths]
    print(f"{n:11}  " + "".join(f"{cell:>24}" for cell in cells))

# %% [markdown]
# ## The conclusion and its limits
#
# With two evaluations the straight path is better by a factor of 2.5, a difference far larger than the spread over the
# seeds. So the claim seems to hold. But the rest of the tables shows more:
#
# - With 32 evaluations, where the solver has hardly any error, a factor of 1.5 remains. This part comes from the
#   networks: after 600 steps the network of the straight path has learned more (the two losses weight the noise levels
#   differently), and both networks are far from the floor.
# - With four evaluations, the factor is 1.7 with equal steps of $t$, and 1.6 with the same noise levels; with 16
#   evaluations at the same noise levels it is 1.5. So with four evaluations, most of the advantage comes from the
#   networks, and a part of the rest from the grid: equal steps of $t$ are a better grid for the straight path than for
#   the VP path. We did not separate these parts for two evaluations.
#
# A reader needs to know both findings, and the first figure shows neither. A paper would need three more things:
# training until the distance stops falling; more seeds, for an interval rather than a spread (`diffusion sweep --table`
# tests the difference); and images with more than 64 pixels. [The page of results](../results.md) says what was
# measured at larger sizes, and what was not.
#
# These are the parts of a study: a process, a prediction, an objective, a network, a solver and a metric. Each was one
# line above, and you can replace each of them with your own.
#
# Next: [14. A U-Net with attention](14_unet.ipynb)
