# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 2. What the network predicts: epsilon, x0 or v
#
# A network sees $x_t = \alpha x_0 + \sigma \varepsilon$ and returns one array. Papers let this array stand for the noise, the data,
# or a mixture of the two. For a perfect network the choice makes no difference. For a real one it does, and you will see
# why.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import small_training
from exact_mixture import TWO_MODES

from diffusion import objectives, parameterizations, schedules, timesteps, weightings

plt.style.use("course.mplstyle")
schedule = schedules.cosine()._replace(t_max=0.99)  # why it stops there is said below

# %% [markdown]
# ## One of them gives all of them
#
# $x_t$ is known, and $\alpha x_0 + \sigma \varepsilon = x_t$ is one equation. So an estimate of $\varepsilon$ is an estimate of $x_0$, and the other
# way round. With $v = \alpha \varepsilon - \sigma x_0$ the two equations are a rotation, if $\alpha^2 + \sigma^2 = 1$:
#
# $$
# \begin{aligned}
# \text{from } \varepsilon: & & x_0 &= \frac{x_t - \sigma \varepsilon}{\alpha} \\
# \text{from } x_0: & & \varepsilon &= \frac{x_t - \alpha x_0}{\sigma} \\
# \text{from } v: & & x_0 &= \alpha x_t - \sigma v, \qquad \varepsilon = \sigma x_t + \alpha v
# \end{aligned}
# $$
#
# In the code these are
# [`parameterizations.epsilon`](../../diffusion/parameterizations/targets.py),
# [`parameterizations.x0`](../../diffusion/parameterizations/targets.py) and
# [`parameterizations.v`](../../diffusion/parameterizations/targets.py), and
# [`parameterizations.denoiser`](../../diffusion/parameterizations/network_outputs.py) turns a network into a function
# $(x_t, t) \to$ `Prediction(x0, eps)` by them. Samplers never learn which prediction it was. `denoiser` refuses epsilon
# prediction on a schedule that reaches $\alpha = 0$, where $x_0$ would be $0 / 0$; so we end our schedule at $t = 0.99$.
#
# We make three perfect networks from the exact answer, one of each kind, and read them.

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
# ## What an error becomes
#
# Now let the network be wrong by $\delta$. Every formula above is linear, so the error of $x_0$ is $\delta$ times a factor:
#
# $$
# \begin{aligned}
# \varepsilon: & & |\text{error of } x_0| &= \tfrac{\sigma}{\alpha}\, \delta & &\text{explodes where there is only noise} \\
# x_0: & & |\text{error of } x_0| &= \delta \\
# v: & & |\text{error of } x_0| &= \sigma \delta & &\text{never above } \delta
# \end{aligned}
# $$
#
# For the error of $\varepsilon$, $\alpha$ and $\sigma$ change places: x0 prediction explodes where there is hardly any noise.
# [`weightings.error_scale`](../../diffusion/objectives/weightings.py) is the square of the factor. A loss that is the plain squared
# error of the output is thus a weighted loss on $x_0$, with weight 1 / error_scale: **to choose what is predicted is to
# choose a weight**.

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
# We train the same small perceptron three times, on the same data (two bumps on a line), for the same 2,000 steps. The
# only difference is what it predicts, with weight one on its own output:
# [`objectives.denoising`](../../diffusion/objectives/denoising.py) with
# [`weightings.constant`](../../diffusion/objectives/weightings.py). The loop is in `small_training.py`, thirty lines beside this
# notebook. We then compare each network with the exact $\mathbb{E}[x_0 \mid x_t]$, averaged over $x_t$ from the data.

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
# The picture follows the factors. Near pure noise (right) epsilon prediction is worst in $x_0$, since a small error of $\varepsilon$ is
# divided by $\alpha$. Near the data (left) x0 prediction is worst in $\varepsilon$, since its error is divided by $\sigma$. v is near the
# better of the two at both ends. That is why v is used where $\alpha$ reaches 0 (zero terminal SNR, few-step students).

# %%
late, early = -1, 0
assert measured["epsilon"][0][late] > 2 * measured["v"][0][late]
assert measured["x0"][1][early] > 2 * measured["v"][1][early]
for name, (of_x0, of_eps) in measured.items():
    print(f"{name:8} error of x_0 at t = 0.98: {of_x0[late]:.4f}     error of eps at t = 0.02: {of_eps[early]:.4f}")

# %% [markdown]
# ## The velocity is a fourth name
#
# Flow matching lets the network predict $dx_t/dt = \alpha' x_0 + \sigma' \varepsilon$, which is
# [`parameterizations.velocity`](../../diffusion/parameterizations/targets.py). On the cosine schedule $\alpha' = -\tfrac{\pi}{2} \sigma$ and
# $\sigma' = \tfrac{\pi}{2} \alpha$, nearly (the schedule leaves a little noise at $t = 0$), so the velocity is $v$ times $\pi/2$.
# [`schedules.trigonometric`](../../diffusion/schedules/flow.py) is the schedule for which this is exact.

# %%
circle = schedules.trigonometric()
time = jnp.full(len(x_0), 0.3)
ratio = parameterizations.velocity().target(circle, time, x_0, eps) / kinds["v"].target(circle, time, x_0, eps)
print("velocity / v:", float(jnp.median(ratio)), "   pi / 2:", float(jnp.pi / 2))
assert jnp.allclose(ratio, jnp.pi / 2, rtol=1e-2)

# %% [markdown]
# ## What you take with you
#
# - All predictions hold the same information. The library turns each into `Prediction(x0, eps)` once.
# - They differ in how a network's error is spread over t. That is a weight, and you can choose the weight independently of
#   the prediction: `objectives.denoising(parameterization, weighting, density)`.
#
# **Try it**: train epsilon prediction with the weight of v, `weightings.constant(parameterizations.v())`, and look at the
# left picture again. Which part of the difference was the weight?

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
# Most of the difference at the end was the weight. In the middle the weight of v costs epsilon prediction accuracy.
assert measured["epsilon, weight of v"][0][late] < measured["epsilon"][0][late] / 2

# %% [markdown]
# Next: [3. Score and flow](03_score_and_flow.ipynb)
