# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 1. The forward process
#
# A diffusion model learns to undo noise. So we first define how noise is added. One equation is enough: nearly every
# Gaussian diffusion process in the literature has this form, with its own two functions of time:
#
# $$
# x_t = \alpha(t)\, x_0 + \sigma(t)\, \varepsilon, \qquad \varepsilon \sim \mathcal{N}(0, I), \qquad t \text{ from } 0 \text{ (data) to } 1 \text{ (noise)}
# $$
#
# In this notebook you see how $\alpha$ and $\sigma$ change a distribution, why only their ratio matters, and how this
# equation relates to the familiar Markov chain of many small steps.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from exact_mixture import TWO_MODES

from diffusion import schedules

plt.style.use("course.mplstyle")

# %% [markdown]
# ## Three schedules
#
# A schedule is an object that holds the functions $\alpha$ and $\sigma$:
# [`schedules.NoiseSchedule`](../../diffusion/schedules/noise_schedule.py). These three are common in papers:
#
# - [`schedules.cosine`](../../diffusion/schedules/cosine.py): $\alpha^2 + \sigma^2 = 1$, so if the data have variance
#   one, $x_t$ has variance one at every $t$.
# - [`schedules.rectified_flow`](../../diffusion/schedules/flow.py): a straight line from data to noise,
#   $\alpha = 1 - t$ and $\sigma = t$.
# - [`schedules.edm`](../../diffusion/schedules/variance_exploding.py): $\alpha = 1$, and $\sigma$ grows to 80.

# %%
named = {"cosine": schedules.cosine(), "rectified_flow": schedules.rectified_flow(), "edm": schedules.edm()}
t = jnp.linspace(0.001, 0.999, 400)
figure, panels = plt.subplots(1, 3)
for name, schedule in named.items():
    panels[0].plot(t, schedule.alpha(t), label=name)
    panels[1].plot(t, schedule.sigma(t), label=name)
    panels[2].plot(t, schedule.log_snr(t), label=name)
panels[0].set(xlabel="t", ylabel="alpha", title="what is left of the data")
panels[1].set(xlabel="t", ylabel="sigma", yscale="log", ylim=(3e-3, 100), title="how much noise there is")
panels[2].set(xlabel="t", ylabel="log(alpha² / sigma²)", ylim=(-12, 12), title="log signal-to-noise ratio")
panels[0].legend()
plt.show()

# %% [markdown]
# ## The distribution at time t
#
# Take data whose distribution we know: a mixture of two Gaussians on a line. Within one component, $x_0$ is Gaussian. A
# sum of independent Gaussians is Gaussian too, its mean is the sum of the means, and its variance is the sum of the
# variances:
#
# $$
# x_0 \sim \mathcal{N}(\mu, s^2) \quad\Longrightarrow\quad x_t \sim \mathcal{N}(\alpha \mu,\; \alpha^2 s^2 + \sigma^2)
# $$
#
# So $p_t$ is again a mixture of two Gaussians: $\alpha$ moves the means towards 0, and $\sigma$ makes the components
# wider. (The class `Mixture` in `exact_mixture.py`, in the folder of this notebook, computes this density.) We draw
# samples of $x_t$ with the equation at the top and compare their histogram with the exact density.

# %% tags=["picture"]
schedule = schedules.rectified_flow()
keys = jax.random.split(jax.random.key(0), 2)
x_0 = TWO_MODES.sample(keys[0], 50_000)
eps = jax.random.normal(keys[1], x_0.shape)
line = jnp.linspace(-3.5, 3.5, 300)[:, None]
figure, panels = plt.subplots(1, 4, sharey=True)
for panel, time in zip(panels, (0.0, 0.3, 0.6, 1.0)):
    x_t = schedule.alpha(time) * x_0 + schedule.sigma(time) * eps
    exact = jnp.exp(TWO_MODES.log_density(line, schedule.alpha(time), schedule.sigma(time)))
    panel.hist(x_t[:, 0], 80, density=True, alpha=0.35, label="drawn")
    panel.plot(line, exact, color="C1", label="exact p_t")
    panel.set(title=f"t = {time}", xlabel="x_t", xlim=(-3.5, 3.5))
panels[0].set_ylabel("density")
panels[3].legend(loc="upper right")
plt.show()

# %%
for time in (0.0, 0.3, 0.6, 1.0):
    alpha = schedule.alpha(time)
    sigma = schedule.sigma(time)
    drawn = (alpha * x_0 + sigma * eps).var()
    exact = alpha**2 * x_0.var() + sigma**2
    print(f"t = {time}: variance drawn {drawn:.3f}, alpha² Var(x_0) + sigma² = {exact:.3f}")
    assert abs(drawn - exact) < 0.02

# %% [markdown]
# With rectified flow, $x_1$ contains no information about the data: $\alpha(1) = 0$, and $p_1$ is exactly
# $\mathcal{N}(0, 1)$. Sampling starts at $t = 1$, since we can draw from $\mathcal{N}(0, 1)$ without knowing the data.
#
# ## Where is the Markov chain?
#
# DDPM writes the process as a thousand small steps,
# $x_i = \sqrt{1 - \beta_i}\, x_{i-1} + \sqrt{\beta_i}\, \varepsilon_i$. Substitute each step into the next one. The
# factors in front of $x_0$ multiply. Each step also scales the earlier noise down and adds new noise:
#
# $$
# \begin{aligned}
# \alpha_i &= \alpha_{i-1} \sqrt{1 - \beta_i} & &\Longrightarrow & \alpha_i^2 &= \textstyle\prod_{j \le i} (1 - \beta_j) \\
# \sigma_i^2 &= (1 - \beta_i)\, \sigma_{i-1}^2 + \beta_i & &\Longrightarrow & \sigma_i^2 &= 1 - \alpha_i^2
# \end{aligned}
# $$
#
# The last equation follows by induction: if $\sigma_{i-1}^2 = 1 - \alpha_{i-1}^2$, then
# $(1 - \beta)(1 - \alpha^2) + \beta = 1 - (1 - \beta)\, \alpha^2$. So a single draw from the equation at the top
# replaces the chain of a thousand steps. [`schedules.from_betas`](../../diffusion/schedules/discrete.py) computes
# $\alpha$ and $\sigma$ from the $\beta_i$. We run 400 steps of the chain, draw the same $x_t$ directly, and compare the
# two distributions.

# %%
betas = np.linspace(1e-4, 0.02, 1000)
ddpm = schedules.from_betas(betas)


def one_step(x, step):
    beta, key = step
    return jnp.sqrt(1 - beta) * x + jnp.sqrt(beta) * jax.random.normal(key, x.shape), None


steps = 400
x_chain, _ = jax.lax.scan(one_step, x_0, (jnp.asarray(betas[:steps]), jax.random.split(jax.random.key(1), steps)))
time = steps / 1000  # step i of T is at t = i / T
x_jump = ddpm.alpha(time) * x_0 + ddpm.sigma(time) * eps
levels = jnp.linspace(0.01, 0.99, 99)
gap = jnp.abs(jnp.quantile(x_chain, levels) - jnp.quantile(x_jump, levels)).max()
print(f"400 steps against one jump: the 1 % to 99 % quantiles differ by at most {gap:.3f}")
assert gap < 0.04

# %% [markdown]
# ## Only the ratio matters
#
# If two schedules have the same ratio $\alpha / \sigma$ at two times, their $x_t$ are equal up to a factor:
#
# $$
# \frac{x_t}{\alpha} = x_0 + \frac{\sigma}{\alpha}\, \varepsilon
# $$
#
# So a schedule is a clock: it determines the time at which each noise level occurs. For three times t of `cosine`, we
# find the time at which `edm` has the same log-SNR, with the method `inverse_log_snr` of
# [`schedules.NoiseSchedule`](../../diffusion/schedules/noise_schedule.py), and compare $x_t / \alpha$.

# %%
cosine, edm = named["cosine"], named["edm"]
for time in (0.2, 0.5, 0.8):
    same = edm.inverse_log_snr(cosine.log_snr(jnp.asarray(time)))
    a = (cosine.alpha(time) * x_0 + cosine.sigma(time) * eps) / cosine.alpha(time)
    b = (edm.alpha(same) * x_0 + edm.sigma(same) * eps) / edm.alpha(same)
    print(f"cosine at t = {time} is edm at t = {float(same):.4f}; largest difference {float(jnp.abs(a - b).max()):.1e}")
    assert jnp.allclose(a, b, atol=1e-3)

# %% [markdown]
# ## Summary
#
# - The functions $\alpha(t)$ and $\sigma(t)$ define a Gaussian diffusion process. For training, one equation draws
#   $x_t$ at any t.
# - $p_t$ changes from the data distribution to a Gaussian from which we can draw samples.
# - VP diffusion, VE diffusion and flow matching go through the same noise levels. They differ only in the scale of
#   $x_t$ and in the clock.
#
# **Try it**: define your own schedule with [`schedules.from_alpha_sigma`](../../diffusion/schedules/coefficients.py)
# and repeat the histograms. The page [schedules](../schedules.md) lists all schedules of the library.

# %% tags=["solution"]
own = schedules.from_alpha_sigma(lambda t: (1 - t) ** 2, lambda t: jnp.sqrt(t))
figure, panels = plt.subplots(1, 4, sharey=True)
for panel, time in zip(panels, (0.0, 0.3, 0.6, 1.0)):
    x_t = own.alpha(time) * x_0 + own.sigma(time) * eps
    exact = jnp.exp(TWO_MODES.log_density(line, own.alpha(time), own.sigma(time)))
    panel.hist(x_t[:, 0], 80, density=True, alpha=0.35, label="drawn")
    panel.plot(line, exact, color="C1", label="exact p_t")
    panel.set(title=f"t = {time}", xlabel="x_t", xlim=(-3.5, 3.5))
panels[0].set_ylabel("density")
panels[3].legend(loc="upper right")
plt.show()
assert abs(x_t.var() - 1) < 0.02  # at t = 1, N(0, 1)

# %% [markdown]
# Next: [2. What the network predicts](02_predictions.ipynb)
