# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 2. What the network predicts: epsilon, x0 or v
#
# A network sees $x_t = \alpha x_0 + \sigma \varepsilon$ and returns one array. In some papers this array is an estimate
# of the noise, in others of the data, or of a combination of both. For a perfect network the choice makes no
# difference. For a trained network it does, and this notebook shows why.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import small_training
from exact_mixture import TWO_MODES

from diffusion import objectives, parameterizations, schedules, timesteps, weightings

plt.style.use("course.mplstyle")
schedule = schedules.ending_at(schedules.cosine(), 0.99)  # the text below says why it stops there

# %% [markdown]
# ## Each prediction determines the others
#
# Since $x_t$ is known, the equation $\alpha x_0 + \sigma \varepsilon = x_t$ turns an estimate of $\varepsilon$ into an
# estimate of $x_0$, and vice versa. A third choice is $v = \alpha \varepsilon - \sigma x_0$. If
# $\alpha^2 + \sigma^2 = 1$, then $(x_t, v)$ is a rotation of $(x_0, \varepsilon)$:
#
# $$
# \begin{aligned}
# \text{from } \varepsilon: & & x_0 &= \frac{x_t - \sigma \varepsilon}{\alpha} \\
# \text{from } x_0: & & \varepsilon &= \frac{x_t - \alpha x_0}{\sigma} \\
# \text{from } v: & & x_0 &= \alpha x_t - \sigma v, \qquad \varepsilon = \sigma x_t + \alpha v
# \end{aligned}
# $$
#
# In the code these are [`parameterizations.epsilon`](../../diffusion/parameterizations/targets.py),
# [`parameterizations.x0`](../../diffusion/parameterizations/targets.py) and
# [`parameterizations.v`](../../diffusion/parameterizations/targets.py), and
# [`parameterizations.denoiser`](../../diffusion/parameterizations/network_outputs.py) uses them to turn a network into
# a function $(x_t, t) \to$ `Prediction(x0, eps)`. Samplers use only this function and do not depend on what the network
# predicts. `denoiser` refuses epsilon prediction on a schedule that reaches $\alpha = 0$, where $x_0$ would be $0 / 0$.
# We therefore end our schedule at $t = 0.99$.
#
# We construct three perfect networks from the exact denoiser, one for each kind of prediction, and convert their
# outputs.

# %%
kinds = {"epsilon": parameterizations.epsilon(), "x0": parameterizations.x0(), "v": parameterizations.v()}
exact = TWO_MODES.denoiser(schedule)


def perfect(kind):
    def network(x, t, condition):
        x0, eps = exact(x, t)[:2]
        return kind.target(schedule, t, x0, eps)

    return network


x_t = jnp.linspace(-2, 2, 9)[:, None]
for time in (0.1, 0.5, 0.9):
    read = [parameterizations.denoiser(perfect(kind), schedule, kind)(x_t, time).x0 for kind in kinds.values()]
    spread = max(float(jnp.abs(one - exact(x_t, time).x0).max()) for one in read)
    print(f"t = {time}: the three estimates of x_0 differ from the exact one by at most {spread:.1e}")
    assert spread < 1e-4

# %% [markdown]
# ## How an error of the output changes $x_0$
#
# Now let the network be wrong by $\delta$. Every formula above is linear, so the error of $x_0$ is $\delta$ times a factor:
#
# $$ \begin{aligned} \varepsilon: & & |\text{error of } x_0| &= \tfrac{\sigma}{\alpha}\, \delta & &\text{grows without
# bound where } \alpha \to 0 \\ x_0: & & |\text{error of } x_0| &= \delta \\ v: & & |\text{error of } x_0| &= \sigma
# \delta & &\text{never above } \delta \end{aligned}
# $$
#
# For the error of $\varepsilon$, $\alpha$ and $\sigma$ change places: with x0 prediction, it grows without bound where
# there is hardly any noise. [`weightings.error_scale`](../../diffusion/objectives/weightings.py) is the square of the
# factor. The plain squared error of the output is therefore a weighted squared error of $x_0$, with weight 1 /
# error_scale: **to choose a prediction is to choose a weighting of the loss**.

# %%
t = jnp.linspace(0.005, 0.985, 300)
alpha, sigma = schedule.alpha(t), schedule.sigma(t)
figure, panels = plt.subplots(1, 2)
for name, kind in kinds.items():
    scale = jnp.sqrt(weightings.error_scale(schedule, t, kind))
    panels[0].plot(t, scale, label=name)
    panels[1].plot(t, scale * alpha / sigma, label=name)
panels[0].set(xlabel="t", ylabel="error of x_0 / error of output", yscale="log", ylim=(0.01, 100))
panels[1].set(xlabel="t", ylabel="error of eps / error of output", yscale="log", ylim=(0.01, 100))
panels[0].legend()
plt.show()
assert jnp.allclose(weightings.error_scale(schedule, t, kinds["epsilon"]), (sigma / alpha) ** 2, rtol=1e-3)
assert jnp.allclose(weightings.error_scale(schedule, t, kinds["v"]), sigma**2, rtol=1e-3)

# %% [markdown]
# ## Three real networks
#
# We train the same small perceptron three times, on the same data (a mixture of two Gaussians on a line), for 2,000
# steps each. Only the prediction differs. Each loss is the unweighted squared error of the output:
# [`objectives.denoising`](../../diffusion/objectives/denoising.py) with
# [`weightings.constant`](../../diffusion/objectives/weightings.py). The training loop is in `small_training.py`, in the
# folder of this notebook. We then compare the estimate of each network with the exact $\mathbb{E}[x_0 \mid x_t]$, as a
# root mean square over $x_t$ drawn from noised data.

# %%
density = timesteps.uniform_density(schedule)
trained = {}
for name, kind in kinds.items():
    objective = objectives.denoising(kind, weightings.constant(kind), density)
    params = small_training.init(jax.random.key(1), dims=1)
    params, losses = small_training.train(objective, schedule, params, TWO_MODES.sample)
    trained[name] = params
    print(f"{name:8} last losses {losses[-200:].mean():.4f} (not comparable: each is in its own space)")

# %% tags=["picture"]
times = jnp.linspace(0.02, 0.98, 25)
keys = jax.random.split(jax.random.key(2), 2)
x_0 = TWO_MODES.sample(keys[0], 4000)
eps = jax.random.normal(keys[1], x_0.shape)


def errors(name):
    """Root mean square error of x_0 and of eps by time."""

    def at(time):
        x_t = schedule.alpha(time) * x_0 + schedule.sigma(time) * eps
        network = lambda *inputs: small_training.perceptron(trained[name], *inputs)
        found = parameterizations.predict(network, schedule, kinds[name], x_t, time)
        right = exact(x_t, time)
        return jnp.sqrt(((found.x0 - right.x0) ** 2).mean()), jnp.sqrt(((found.eps - right.eps) ** 2).mean())

    return jax.lax.map(at, times)


measured = {name: errors(name) for name in kinds}
figure, panels = plt.subplots(1, 2)
for name, (of_x0, of_eps) in measured.items():
    panels[0].plot(times, of_x0, marker=".", label=name)
    panels[1].plot(times, of_eps, marker=".", label=name)
panels[0].set(
    xlabel="t  (0 data, 1 noise)", ylabel="error of x_0", yscale="log", title="trained networks: error of x_0"
)
panels[1].set(xlabel="t  (0 data, 1 noise)", ylabel="error of eps", yscale="log", title="error of eps")
panels[0].legend()
plt.show()

# %% [markdown]
# The picture agrees with the factors above. Near pure noise (right) epsilon prediction is worst in $x_0$, since a small
# error of $\varepsilon$ is divided by $\alpha$. Near the data (left) x0 prediction is worst in $\varepsilon$, since its
# error is divided by $\sigma$. At both ends, v prediction is about as good as the better of the two. This is why v
# prediction is used for schedules on which $\alpha$ reaches 0 (zero terminal SNR) and for few-step students.

# %%
late, early = -1, 0
assert measured["epsilon"][0][late] > 2 * measured["v"][0][late]
assert measured["x0"][1][early] > 2 * measured["v"][1][early]
for name, (of_x0, of_eps) in measured.items():
    print(f"{name:8} error of x_0 at t = 0.98: {of_x0[late]:.4f}     error of eps at t = 0.02: {of_eps[early]:.4f}")

# %% [markdown]
# ## The velocity, a fourth prediction
#
# In flow matching, the network predicts $dx_t/dt = \alpha' x_0 + \sigma' \varepsilon$, which is
# [`parameterizations.velocity`](../../diffusion/parameterizations/targets.py). On the cosine schedule
# $\alpha' = -\tfrac{\pi}{2} \sigma$ and $\sigma' = \tfrac{\pi}{2} \alpha$ hold approximately, so the velocity is about
# $v$ times $\pi/2$. They are not exact because of the offset of the schedule, 0.008, by which the noise grows faster
# near $t = 0$. [`schedules.trigonometric`](../../diffusion/schedules/flow.py) has no offset, and for it this is exact.

# %%
circle = schedules.trigonometric()
time = jnp.full(len(x_0), 0.3)
ratio = parameterizations.velocity().target(circle, time, x_0, eps) / kinds["v"].target(circle, time, x_0, eps)
print("velocity / v:", float(jnp.median(ratio)), "   pi / 2:", float(jnp.pi / 2))
assert jnp.allclose(ratio, jnp.pi / 2, rtol=1e-2)

# %% [markdown]
# ## Summary
#
# - All predictions contain the same information. The library converts each of them to `Prediction(x0, eps)` once.
# - They differ in how the error of the network is distributed over t. This amounts to a weighting of the loss, and you
#   can choose the weighting independently of the prediction:
#   `objectives.denoising(parameterization, weighting, density)`.
#
# **Try it**: train epsilon prediction with the weighting of v prediction, `weightings.constant(parameterizations.v())`,
# and draw the left panel again. How much of the difference does the weighting explain?

# %% tags=["solution"]
weighted = objectives.denoising(kinds["epsilon"], weightings.constant(kinds["v"]), density)
trained["epsilon, weight of v"], _ = small_training.train(
    weighted, schedule, small_training.init(jax.random.key(1), dims=1), TWO_MODES.sample
)
kinds["epsilon, weight of v"] = kinds["epsilon"]
measured["epsilon, weight of v"] = errors("epsilon, weight of v")
figure, panel = plt.subplots(figsize=(4.6, 2.9))
for name in ("epsilon", "epsilon, weight of v", "v"):
    panel.plot(times, measured[name][0], marker=".", label=name)
panel.set(xlabel="t  (0 data, 1 noise)", ylabel="error of x_0", yscale="log", title="what the weight alone changes")
panel.legend()
plt.show()
for name in ("epsilon", "epsilon, weight of v", "v"):
    print(f"{name:20} error of x_0 at t = 0.98: {measured[name][0][late]:.4f}")
# The weighting explains most of the difference near t = 1. In the middle, epsilon prediction is less accurate with it.
assert measured["epsilon, weight of v"][0][late] < measured["epsilon"][0][late] / 2

# %% [markdown]
# Next: [3. Score and flow](03_score_and_flow.ipynb)
