# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 11. Your own objective
#
# You have an idea for a loss. Before you train a large model, derive the network that minimizes it, and check the
# result on data where the answer is known. Here a change that looks harmless, from squared to absolute error, leads to
# a model of the wrong distribution. You see this in a derivation, in a test that takes seconds, and in samples. Then we
# train with a correct new objective as a run, from Python, with checkpoints.

# %%
import pathlib
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import small_training
from exact_mixture import TWO_MODES

from diffusion import objectives, parameterizations, samplers, schedules, timesteps
from diffusion.experiments.sampling.run_samples import sample
from diffusion.experiments.train import train
from diffusion.objectives.inputs import noised
from diffusion.recipe import Recipe, Training

plt.style.use("course.mplstyle")
schedule = schedules.rectified_flow()
density = timesteps.uniform_density(schedule)

# %% [markdown]
# ## An objective is a function
#
# ```
# loss(networks, schedule, keys, batch, step) -> (losses [B], metrics)
# ```
#
# [`objectives.inputs.noised`](../../diffusion/objectives/inputs.py) draws a time and noise for each example from the
# key of that example. [`objectives.Objective`](../../diffusion/objectives/objective.py) adds the properties that
# samplers and the training loop need. Here only the density of the times differs from its default. We vary the power p
# of the error: $p = 2$ is flow matching, [`objectives.flow_matching`](../../diffusion/objectives/flow_matching.py).


# %%
def velocity_error(power):
    """An objective: the error of the velocity to some power."""

    def loss(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch)
        error = networks["model"](x_t, t, None) - (eps - x_0)
        return importance * jnp.mean(jnp.abs(error) ** power, axis=-1), {"t": t}

    return objectives.Objective(loss, density=density)


# %% [markdown]
# ## What would a perfect network predict?
#
# Many pairs $(x_0, \varepsilon)$ lead to the same point $(x_t, t)$, but the network can predict only one number there.
# Let $Y = \varepsilon - x_0$ be the velocity of a pair. The best prediction depends on the power:
#
# $$
# \begin{aligned}
# \arg\min_u \mathbb{E}\,|u - Y|^2 &= \text{mean of } Y & &\text{(set the derivative } 2\, \mathbb{E}(u - Y) \text{ to zero)} \\
# \arg\min_u \mathbb{E}\,|u - Y| &= \text{median of } Y & &\text{(set } P(Y < u) - P(Y > u) \text{ to zero)}
# \end{aligned}
# $$
#
# The flow needs the mean: only the mean velocity gives the correct marginals ([notebook 3](03_score_and_flow.ipynb)).
# At $t = 1$, $x_t$ is the noise, and $Y = \varepsilon - x_0$ is $x_t - x_0$. So the mean velocity is $x_t$ minus the
# mean of the data, and the median velocity is $x_t$ minus their **median**. Our data have two modes with weights 0.4
# and 0.6, and their median lies in the larger mode. So already in the first step, the L1 model moves all samples
# towards the larger mode.

# %%
x_0 = TWO_MODES.sample(jax.random.key(0), 100_000)
print(f"mean of the data {float(x_0.mean()):.2f}, median {float(jnp.median(x_0)):.2f}")

trained = {}
for power in (2, 1):
    params = small_training.init(jax.random.key(1), dims=1)
    trained[power], losses = small_training.train(
        velocity_error(power), schedule, params, TWO_MODES.sample, steps=3000, batch=512
    )
near_the_end = jnp.full(5, 0.999)
points = jnp.linspace(-1, 1, 5)[:, None]
for power, params in trained.items():
    estimate = points - small_training.perceptron(params, points, near_the_end)
    print(f"power {power}: x_t - velocity at t = 0.999 is {estimate.mean():.2f}")

# %% [markdown]
# As derived, the network with power 2 predicts the mean, and the network with power 1 the median. We now compare
# samples of both with the exact density.

# %% tags=["picture"]
plan = timesteps.plan(timesteps.uniform(schedule, steps=50))
keys = jax.random.split(jax.random.key(2), 20_000)
noise = samplers.prior(schedule, keys, (1,))
line = jnp.linspace(-2.2, 2.2, 300)[:, None]
figure, panels = plt.subplots(1, 2, sharey=True, figsize=(7.5, 2.7))
share = {}
for panel, (power, params) in zip(panels, trained.items()):
    network = lambda x, t, condition, params=params: small_training.perceptron(params, x, t)
    denoise = parameterizations.denoiser(network, schedule, parameterizations.velocity())
    x = samplers.sample(samplers.heun(), denoise, schedule, noise, plan, keys)
    share[power] = float((x < 0).mean())
    panel.hist(x[:, 0], jnp.linspace(-2.2, 2.2, 90), density=True, alpha=0.4, label="samples")
    panel.plot(line[:, 0], jnp.exp(TWO_MODES.log_density(line)), color="C1", label="exact density")
    panel.set(title=f"|error|^{power}: {share[power]:.0%} in the left bump (data: 40 %)", xlabel="x")
panels[0].set_ylabel("density")
panels[0].legend(loc="upper left")
plt.show()
assert abs(share[2] - 0.4) < 0.03 < abs(share[1] - 0.4)

# %% [markdown]
# The loss of the wrong model fell just as smoothly. Only the comparison with the exact answer reveals the mistake. In
# the library every objective has such a test, and `tests/objectives/objective_cases.py` states the optimum of each.
#
# ## A correct new objective, trained as a run
#
# Which changes keep the mean as the minimizer? Any positive weight $w(x_t, t)$ does, since it does not move the minimum
# at a point. We give less weight to times at which the velocity is hard to predict:
# $w(t) = 1 / (\mathbb{E}\,|Y - \mathbb{E}[Y \mid x_t]|^2 + 0.1)$, computed from the exact answer on a grid of times.
# This weight makes the noise of the gradient more uniform over $t$.


# %%
def hardness(time):
    """E|Y - E[Y | x_t]|^2 for Y = eps - x_0, estimated from samples."""
    keys = jax.random.split(jax.random.key(3), 2)
    x_0 = TWO_MODES.sample(keys[0], 20_000)
    eps = jax.random.normal(keys[1], x_0.shape)
    right = TWO_MODES.denoise((1 - time) * x_0 + time * eps, 1 - time, time)
    return jnp.mean((eps - x_0 - (right.eps - right.x0)) ** 2)


grid = jnp.linspace(0.0, 1.0, 41)
variance = jax.lax.map(hardness, jnp.clip(grid, 1e-3))


def evened(networks, schedule, keys, batch, step):
    """Flow matching with more weight on times at which the velocity is predictable."""
    x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch)
    error = networks["model"](x_t, t, None) - (eps - x_0)
    weight = 1 / (jnp.interp(t, grid, variance) + 0.1)
    return importance * weight * jnp.mean(error**2, axis=-1), {"t": t}


# %% [markdown]
# Your own network is any object with `init` and `apply`. A `Recipe` holds the parts of a run, and `train` runs it: it
# writes checkpoints, metrics and the config into a folder. If the run was interrupted, the same call continues it.


# %%
class Perceptron(nn.Module):
    """A perceptron with three layers."""

    width: int = 128

    @nn.compact
    def __call__(self, x, t, condition=None):
        waves = [f(2.0**k * jnp.pi * t[:, None]) for k in range(-2, 4) for f in (jnp.sin, jnp.cos)]
        hidden = jnp.concatenate([x, *waves], axis=1)
        for _ in range(2):
            hidden = nn.silu(nn.Dense(self.width)(hidden))
        return nn.Dense(x.shape[1])(hidden)


records = [{"x": row} for row in np.asarray(TWO_MODES.sample(jax.random.key(4), 20_000), np.float32)]
recipe = Recipe(
    schedule=schedule,
    objective=objectives.Objective(evened, density=density),
    network=Perceptron(),
    parameterization=parameterizations.velocity(),
    data=records,
    training=Training(optimizer=optax.adam(2e-3)),
    config={
        "train.steps": 2000,
        "train.batch_size": 512,
        "train.log_every": 500,
        "checkpoint.every": 1000,
        "sample.steps": 30,
        "sample.number": 4000,
        "sample.batch_size": 4000,
    },
)
folder = pathlib.Path(tempfile.mkdtemp()) / "run"
assert train(recipe, folder) == 0
print("in the folder:", sorted(path.name for path in folder.iterdir()))

# %%
x = sample(recipe, folder)
left = float((x < 0).mean())
levels = np.linspace(0.02, 0.98, 49)
gap = np.abs(np.quantile(x, levels) - np.quantile(np.asarray(x_0), levels)).mean()
print(f"{left:.0%} in the left bump; mean distance of quantiles {gap:.3f}")
assert abs(left - 0.4) < 0.05 and gap < 0.1

# %% [markdown]
# ## Summary
#
# - Derive the minimizer of a loss first. A weight does not change it, but another power of the error does.
# - Write the objective as a function, and test it where $\mathbb{E}[\text{target} \mid x_t]$ is known.
# - To use the function in a config, pass its file with `--extend=my_file.py`; [extend](../extend.md#an-objective) shows
#   the code.
#
# **Try it**: set the power to 1.5. Does the share of the left mode lie between the shares for the powers 1 and 2?

# %% tags=["solution"]
params, _ = small_training.train(
    velocity_error(1.5),
    schedule,
    small_training.init(jax.random.key(1), dims=1),
    TWO_MODES.sample,
    steps=3000,
    batch=512,
)
network = lambda x, t, condition: small_training.perceptron(params, x, t)
denoise = parameterizations.denoiser(network, schedule, parameterizations.velocity())
share[1.5] = float((samplers.sample(samplers.heun(), denoise, schedule, noise, plan, keys) < 0).mean())
for power in (1, 1.5, 2):
    print(f"power {power}: {share[power]:.0%} in the left bump")
assert share[1] < share[1.5] < share[2]

# %% [markdown]
# Next: [12. Your own data](12_own_data.ipynb)
