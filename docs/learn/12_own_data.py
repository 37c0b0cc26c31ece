# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 12. Your own data
#
# Most research data are not a standard dataset of pictures. Here you train on time series from a Gaussian process,
# whose exact denoiser is known, and then on a folder of files that are read on demand. You also check that an
# interrupted run on your data resumes bit for bit.

# %%
import pathlib
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image
from sklearn.datasets import load_digits

from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.data import sources
from diffusion.experiments.sampling.run_samples import sample
from diffusion.experiments.train import train
from diffusion.recipe import Recipe, Training
from diffusion.training.checkpointing import checkpoints

plt.style.use("course.mplstyle")
schedule = schedules.rectified_flow()
density = timesteps.uniform_density(schedule)
folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## A record
#
# A dataset is a sequence of records: `{"x": float32 array of any shape}`, or `{"image": uint8 [H, W, C], "label": int}`
# for pictures. The sequence can be a list or any object with `len` and `[i]`. Each of our series has 24 values of a
# damped random oscillation, a Gaussian process with covariance
#
# $$
# K_{ij} = \exp\!\left(-\frac{|i - j|}{8}\right) \cos\!\left(\frac{\pi\, |i - j|}{5}\right)
# $$
#
# The scale matters: schedules assume that the data have a variance of about one. Divide your data by their standard
# deviation, and multiply the samples by it.

# %%
lag = np.abs(np.subtract.outer(np.arange(24), np.arange(24)))
K = np.exp(-lag / 8) * np.cos(lag * np.pi / 5)
root = np.linalg.cholesky(K)
series = (np.random.default_rng(0).standard_normal((20_000, 24)) @ root.T).astype(np.float32)
records = [{"x": row} for row in series]

# %% [markdown]
# ## A network for them
#
# A network is any object with `init` and `apply`, or a plain function. We write a perceptron ourselves. The library has
# networks for points, series, sets and volumes, among them a transformer for sequences:
# [models](../models.md#points-series-sets-volumes-and-video).


# %%
class Perceptron(nn.Module):
    """A perceptron with two hidden layers; sines and cosines encode the time."""

    width: int = 256

    @nn.compact
    def __call__(self, x, t, condition=None):
        waves = [f(2.0**k * jnp.pi * t[:, None]) for k in range(-2, 4) for f in (jnp.sin, jnp.cos)]
        hidden = jnp.concatenate([x, *waves], axis=1)
        for _ in range(2):
            hidden = nn.silu(nn.Dense(self.width)(hidden))
        return nn.Dense(x.shape[1])(hidden)


def recipe(data, network, steps, optimizer=None):
    return Recipe(
        schedule=schedule,
        objective=objectives.flow_matching(density),
        network=network,
        data=data,
        training=Training(optimizer=optimizer),
        config={
            "train.steps": steps,
            "train.batch_size": 256,
            "train.log_every": steps,
            "checkpoint.every": max(steps // 2, 1),
            "ema.decay": 0.995,
            "sample.steps": 30,
            "sample.number": 4000,
            "sample.batch_size": 4000,
        },
    )


network = Perceptron()
own = recipe(records, network, 2500, optax.adam(optax.cosine_decay_schedule(2e-3, 2500)))
assert train(own, folder / "series") == 0
made = sample(own, folder / "series")

# %% tags=["picture"]
figure, panels = plt.subplots(1, 3, figsize=(7.5, 2.6))
for panel, rows, title in zip(panels, (series, made), ("data", "samples of the model")):
    panel.plot(rows[:5].T, linewidth=1.2)
    panel.set(title=title, xlabel="step of the series", ylim=(-4.5, 4.5))
panels[0].set_ylabel("value")
covariance = lambda rows: [np.mean([np.mean(rows[:, i] * rows[:, i + d]) for i in range(24 - d)]) for d in range(16)]
panels[2].plot(K[0, :16], color="C5", linestyle="--", label="exact")
panels[2].plot(covariance(made), marker=".", label="samples")
panels[2].set(title="covariance by distance", xlabel="distance in steps")
panels[2].legend()
plt.show()
assert np.abs(covariance(made) - K[0, :16]).max() < 0.12

# %% [markdown]
# ## Is the denoiser correct as well?
#
# Since $x_0$ and $x_t$ are jointly Gaussian, the optimal denoiser is linear. With
# $\operatorname{Cov}(x_0, x_t) = \alpha K$ and $\operatorname{Cov}(x_t) = \alpha^2 K + \sigma^2 I$,
#
# $$
# \mathbb{E}[x_0 \mid x_t] = \alpha K \left(\alpha^2 K + \sigma^2 I\right)^{-1} x_t
# $$
#
# We load the moving average of the parameters, convert the network with
# [`parameterizations.denoiser`](../../diffusion/parameterizations/network_outputs.py), and compare it with the optimal
# denoiser.

# %%
params, _ = checkpoints.load_ema(folder / "series")
denoise = parameterizations.denoiser(
    lambda *inputs: network.apply(params, *inputs), schedule, parameterizations.velocity()
)
random = np.random.default_rng(1)
for time in (0.2, 0.5, 0.8):
    alpha, sigma = 1 - time, time
    x_0 = random.standard_normal((2000, 24)) @ root.T
    x_t = alpha * x_0 + sigma * random.standard_normal(x_0.shape)
    exact = x_t @ (alpha * K @ np.linalg.inv(alpha**2 * K + sigma**2 * np.eye(24))).T
    found = denoise(jnp.asarray(x_t, jnp.float32), time).x0
    error = float(np.sqrt(np.mean((found - exact) ** 2)))
    best = float(np.sqrt(np.mean((exact - x_0) ** 2)))
    print(f"t = {time}: error of the best denoiser {best:.3f}, distance of ours from it {error:.3f}")
    assert error < 0.5 * best

# %% [markdown]
# ## A folder that is read on demand
#
# If data do not fit into memory, write a class with two methods, `__len__` and `__getitem__`. The order of the examples
# in a run is a function of the seed and the step. Therefore the class needs no state, and several threads may read from
# it (`data.threads`). We write digits to PNG files and read them back.


# %%
class Folder:
    """The pictures in the subfolders of a folder; the name of the subfolder is the label."""

    def __init__(self, path):
        self.files = sorted(path.glob("*/*.png"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        file = self.files[i]
        return {"image": np.array(Image.open(file))[..., None], "label": int(file.parent.name)}


pictures, labels = load_digits(return_X_y=True)
for i in range(200):
    place = folder / "pictures" / str(labels[i])
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pictures[i] * (255 / 16)).astype(np.uint8).reshape(8, 8)).save(place / f"{i:04}.png")
source = Folder(folder / "pictures")
print(len(source), "pictures;", source[0]["image"].shape, source[0]["label"])

# %% [markdown]
# The library has such a source, [`data.sources.class_folders`](../../diffusion/data/sources/picture_files.py). It also
# resizes pictures, names damaged files, and can split a folder into parts. In a config it is
# `config.data.source = {"name": "class_folders", "path": "pictures"}`. [The page on data](../data.md) describes the
# sources for captions, tar shards, Parquet files and arrays. The records of `class_folders` are equal to ours:

# %%
ready = sources.class_folders(folder / "pictures")
print(ready.spec.size, "pictures;", ready.spec.shape, ready.spec.classes)
assert len(ready) == len(source)
for i in range(len(ready)):
    assert (ready[i]["image"] == source[i]["image"]).all() and ready[i]["label"] == source[i]["label"]

# %% [markdown]
# ## Stopped and resumed
#
# If a run stops after 20 steps and resumes until step 40, its parameters equal those of an uninterrupted run of 40
# steps, bit for bit. The checkpoint stores the index of the next example, and all random numbers are functions of this
# index, the step and the seed.


# %%
class Tiny(nn.Module):
    """A perceptron with one hidden layer, on pixels."""

    @nn.compact
    def __call__(self, x, t, condition=None):
        rows = jnp.concatenate([x.reshape(len(x), -1), t[:, None]], axis=1)
        return nn.Dense(64)(nn.silu(nn.Dense(64)(rows))).reshape(x.shape)


for steps in (20, 40):
    assert train(recipe(source, Tiny(), steps), folder / "stopped") == 0
assert train(recipe(source, Tiny(), 40), folder / "straight") == 0
a, b = (checkpoints.load_ema(folder / name, 40)[0] for name in ("stopped", "straight"))
same = jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)
print("the same bits:", all(jax.tree.leaves(same)))
assert all(jax.tree.leaves(same))

# %% [markdown]
# ## Summary
#
# - A dataset is any sequence of records, and a record can have any shape. Scale the data to variance one.
# - First train on synthetic data that resemble yours and have a known answer (a Gaussian process, a mixture), and
#   compare.
# - The library has sources for folders, captions, shards, tables and arrays: [data](../data.md).
#
# **Try it**: hold out a fifth of the pictures in the folder, so that a new picture moves no other picture between the
# two parts. (With a split by position it would.)


# %% tags=["solution"]
def held_out(file):
    """Whether a file is held out: one in five, by its name alone."""
    return sum(file.name.encode()) % 5 == 0


before = {file.name for file in source.files if held_out(file)}
digit = Image.fromarray((pictures[200] * (255 / 16)).astype(np.uint8).reshape(8, 8))
digit.save(folder / "pictures" / str(labels[200]) / "0000_new.png")
after = {file.name for file in Folder(folder / "pictures").files if held_out(file)}
print(
    f"{len(before)} of {len(source)} pictures are held out; a new picture changes {len((before ^ after) - {'0000_new.png'})}"
)
assert (before ^ after) <= {"0000_new.png"} and 20 < len(before) < 60

# %% [markdown]
# Next: [13. A paper's experiment, end to end](13_a_papers_experiment.ipynb)
