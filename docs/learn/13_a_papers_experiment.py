# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 13. A paper's experiment, end to end
#
# Lipman et al. (2023, "Flow Matching for Generative Modeling") say that straight paths need fewer network evaluations than
# the paths of diffusion, at the same quality. We repeat that experiment in miniature: digits of 8x8 pixels, a small DiT, two
# processes, two seeds, four numbers of steps, with the floor and the spread beside each figure. It has the shape of a real
# study: fix everything but one thing, measure against held-out data, and report even what you did not expect.

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
# ## The question, and what is held fixed
#
# - **Varies**: the path. It is the straight path, [`schedules.rectified_flow`](../../diffusion/schedules/flow.py), or the path
#   of variance preserving diffusion,
#   [`schedules.variance_preserving`](../../diffusion/schedules/variance_preserving.py) (the paper's "VP").
# - **Fixed**: the data and their split, the network ([`models.DiT`](../../diffusion/models/dit.py)), the prediction (the
#   velocity, [`objectives.flow_matching`](../../diffusion/objectives/flow_matching.py)), optimizer, steps, batch, moving
#   average, the solver (Euler's method, where straightness must show).
# - **Measured**: the Fréchet distance of pixels to held-out digits, divided by the distance of real training digits (the
#   floor). At 1 a set of samples is as near to the held-out digits as new real digits are.
#
# The claim has a reason that we can write down. Euler's method with step $h$ has a local error of $h^2/2$ times the acceleration
# of the path. Given $(x_0, \varepsilon)$, the acceleration is $\alpha'' x_0 + \sigma'' \varepsilon$, which is zero on the straight path and not on
# the other. (The paths of the *flow* are means over many such lines, and so are not straight. That is why more than one step
# is needed.)

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
# Each run is a `Recipe`, trained into a folder of its own. The folder can be resumed, sampled and looked at later. In a study
# with a config file, `diffusion sweep` does the same.

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
# All four networks start from the same 497 noises and from the labels of the held-out digits. Since the noise is the same, the
# difference between two paths is less noisy than each figure.

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
# ## The question that a reviewer asks
#
# Is it the path, or the grid? [Notebook 1](01_forward_process.ipynb) says that two schedules are clocks on the same noise
# levels. So we sample both paths by DDIM, which knows nothing of $t$ ([notebook 4](04_samplers_as_solvers.ipynb)), on grids with
# the same noise levels: equal steps of log-SNR from $\sigma / \alpha = 50$ down to 0.02, by
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
# ## The conclusion, as far as it goes
#
# With two evaluations the straight path is better by a factor of 2.5, far outside the spread of the seeds. So the claim seems
# to hold. But read the rest of the tables:
#
# - With 32 evaluations, where the error of the solver is gone, a factor of 1.5 is left. This part comes from the networks:
#   after 600 steps the network of the straight path has learned more (the two losses weigh the noise levels differently), and
#   both are far from the floor.
# - On matched noise levels the factor is 1.6 with four evaluations and 1.5 with 16. So the grid explains nearly all of what
#   straightness seemed to give at few evaluations: equal steps of $t$ are a good grid on the straight path, and a poor one on
#   VP's.
#
# A reader needs to know both, and neither is in the first figure. A paper would need three things more: training until the
# distance stops falling; more seeds, for an interval rather than a spread (`diffusion sweep --table` tests the difference);
# and images rather than 64 pixels. [The page of results](../results.md) says what was measured at larger sizes, and what was
# not.
#
# That is the whole way: a process, a prediction, an objective, a network, a solver, a measure. Each was one line above, and
# each can be yours.
#
# Next: [14. A U-Net with attention](14_unet.ipynb)
