# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 3. Score and flow
#
# The denoiser of the last notebook estimates the noise in $x_t$. This notebook shows that the estimate is the score,
# the gradient of $\log p_t$, up to a factor. The score defines an ordinary differential equation that transports noise
# to data, and a family of stochastic differential equations. All of them have the same marginal distribution at each
# time. We check each statement on the exact mixture.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from exact_mixture import THREE_CLUSTERS as DATA

from diffusion import likelihood, ode, samplers, schedules, timesteps

plt.style.use("course.mplstyle")
schedule = schedules.rectified_flow()
denoise = DATA.denoiser(schedule)

# %% [markdown]
# ## The score is the noise, up to a factor
#
# Given $x_0$, $x_t$ is Gaussian with mean $\alpha x_0$ and standard deviation $\sigma$, so
# $\nabla \log p(x_t \mid x_0) = -(x_t - \alpha x_0) / \sigma^2 = -\varepsilon / \sigma$. The density $p_t(x)$ is the
# mean of $p(x \mid x_0)$ over $x_0$. Differentiate under the integral and divide by $p_t$:
#
# $$
# \begin{aligned}
# \nabla p_t(x) &= \mathbb{E}_{x_0}\big[\, p(x \mid x_0)\, \nabla \log p(x \mid x_0) \,\big] \\
# \nabla \log p_t(x) &= \mathbb{E}\big[\, \nabla \log p(x \mid x_0) \;\big|\; x_t = x \,\big] = -\frac{\mathbb{E}[\varepsilon \mid x_t = x]}{\sigma}
# \end{aligned}
# $$
#
# This is Tweedie's formula. So a network that was trained to predict the noise also predicts the score:
# [`parameterizations.score`](../../diffusion/parameterizations/targets.py). We compare
# $-\mathbb{E}[\varepsilon \mid x] / \sigma$ with the gradient of the exact log-density, computed by automatic
# differentiation.

# %%
x = 1.5 * jax.random.normal(jax.random.key(0), (500, 2))
for time in (0.2, 0.5, 0.8):
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    differentiated = jax.grad(lambda x, a=alpha, s=sigma: DATA.log_density(x, a, s).sum())(x)
    from_noise = -denoise(x, time).eps / sigma
    gap = float(jnp.abs(differentiated - from_noise).max())
    print(f"t = {time}: largest difference {gap:.1e}")
    assert gap < 1e-3

# %% [markdown]
# ## The flow
#
# For fixed $(x_0, \varepsilon)$, $x_t$ moves along a path with velocity $\alpha' x_0 + \sigma' \varepsilon$. Many such
# paths cross at a point $x$. Their mean velocity,
#
# $$
# u(x, t) = \alpha'\, \mathbb{E}[x_0 \mid x] + \sigma'\, \mathbb{E}[\varepsilon \mid x],
# $$
#
# carries the same amount of mass across every surface as the paths together do. Therefore $dx/dt = u$ has the same
# marginals $p_t$ (the continuity equation holds for the mean velocity because it is linear in the flux). This is the
# **probability flow ODE**, [`probability_flow.velocity`](../../diffusion/flows/probability_flow.py) (which uses another
# clock). For a stochastic differential equation with drift $f x$ and diffusion coefficient $g$, the same velocity is
# $u = f x - \tfrac{1}{2} g^2\, \nabla \log p_t$. We check that the two formulas agree.

# %%
derivative = lambda coefficient, time: jax.grad(coefficient)(jnp.asarray(time))
for time in (0.2, 0.5, 0.8):
    x0, eps = denoise(x, time)[:2]
    u = derivative(schedule.alpha, time) * x0 + derivative(schedule.sigma, time) * eps
    score = -eps / schedule.sigma(time)
    other = schedule.drift(time) * x - schedule.diffusion(time) ** 2 / 2 * score
    print(f"t = {time}: largest difference {float(jnp.abs(u - other).max()):.1e}")
    assert jnp.allclose(u, other, atol=1e-3)

# %% [markdown]
# ## Many processes, one distribution
#
# A sampler may also add noise if the score term compensates for it. For every $h \ge 0$, the equation
#
# $$
# dx = \Big(f x - \frac{g^2 + h^2}{2}\, \nabla \log p_t\Big)\, dt + h\, dw \qquad \text{(backwards in time)}
# $$
#
# has the same marginals $p_t$, since the additional score term cancels the Laplacian that the noise adds to the
# Fokker-Planck equation. With $h = 0$ it is the probability flow, which
# [`samplers.heun`](../../diffusion/samplers/runge_kutta.py) solves. With $h = g$ it is the reverse process of Anderson
# (1982), which [`samplers.euler_maruyama`](../../diffusion/samplers/stochastic_interpolant.py) solves. We run both from
# the same initial noise.

# %% tags=["picture"]
keys = jax.random.split(jax.random.key(1), 3000)
noise = samplers.prior(schedule, keys, (2,))
plan = timesteps.plan(timesteps.uniform(schedule, steps=200))
ways = {
    "the flow": samplers.sample_trajectory(samplers.heun(), denoise, schedule, noise, plan, keys),
    "with noise": samplers.sample_trajectory(samplers.euler_maruyama(), denoise, schedule, noise, plan, keys),
}
SHOWN = 4
figure, panels = plt.subplots(1, 3, figsize=(7.5, 3.0))
grid = jnp.stack(jnp.meshgrid(jnp.linspace(-3, 3, 80), jnp.linspace(-2.5, 3, 80)), axis=-1)
density = jnp.exp(DATA.log_density(grid.reshape(-1, 2))).reshape(80, 80)
for panel, (name, (end, trajectory)) in zip(panels, ways.items()):
    panel.contour(grid[..., 0], grid[..., 1], density, levels=5, colors="C5", linewidths=0.6)
    panel.plot(*trajectory.x[:, :SHOWN].transpose(2, 0, 1), linewidth=0.7)
    panel.scatter(*noise[:SHOWN].T, s=14, color="white", edgecolors="k", zorder=3, label="noise")
    panel.scatter(*end[:SHOWN].T, s=14, color="C3", zorder=3, label="end")
    panel.plot([], [], color="C5", linewidth=0.6, label="density of the data")
    panel.set(title=f"{name}: {SHOWN} of 3,000", xlabel="first axis", ylabel="second axis")
fresh = DATA.sample(jax.random.key(2), 3000)
bins = jnp.linspace(-2.5, 2.5, 50)
panels[2].hist(fresh[:, 0], bins, density=True, alpha=0.3, color="C5", label="data")
for name, (end, _) in ways.items():
    panels[2].hist(end[:, 0], bins, density=True, histtype="step", label=name)
panels[0].legend(loc="lower left", fontsize=7)
panels[2].set(title="where they end", xlabel="first axis", ylabel="density")
panels[2].legend(loc="upper left")
plt.show()

# %%
levels = jnp.linspace(0.02, 0.98, 49)
gap = lambda a, b: float(jnp.abs(jnp.quantile(a, levels, axis=0) - jnp.quantile(b, levels, axis=0)).mean())
floor = gap(fresh, DATA.sample(jax.random.key(3), 3000))
print(f"mean distance of quantiles: two sets of data {floor:.3f}")
for name, (end, _) in ways.items():
    print(f"{name}: {gap(end, fresh):.3f}")
    assert gap(end, fresh) < 4 * floor + 0.01

# %% [markdown]
# ## The flow knows the density
#
# Along a path of the flow, the density changes by the divergence of the velocity:
#
# $$
# \frac{d}{dt} \log p_t(x(t)) = -\operatorname{div} u \quad\Longrightarrow\quad \log p_0(x(0)) = \log p_1(x(1)) + \int_0^1 \operatorname{div} u \; dt
# $$
#
# (Write the continuity equation $\partial p / \partial t + \operatorname{div}(p\, u) = 0$ and follow a point that moves
# with the flow.) So a trained diffusion model has a likelihood, computed by
# [`likelihood.log_likelihood`](../../diffusion/flows/likelihood.py). Here we can compare it with the exact density.

# %%
points = DATA.sample(jax.random.key(4), 200)
solver = ode.runge_kutta(likelihood.times(schedule, 60, t_start=1e-4))
found = likelihood.log_likelihood(denoise, schedule, points, solver, likelihood.exact()).log_density
right = DATA.log_density(points)
print(f"mean log-density: by the flow {found.mean():.4f}, exact {right.mean():.4f}")
print(f"largest difference over 200 points: {float(jnp.abs(found - right).max()):.4f}")
assert jnp.abs(found - right).max() < 0.02

# %% [markdown]
# ## Summary
#
# - Denoiser, score and velocity contain the same information: each is a linear function of any other and of $x_t$.
# - Sampling means solving a differential equation from $t = 1$ to $t = 0$. The next notebook does this in as few steps
#   as possible.
# - `probability_flow` integrates in the angle $\operatorname{atan2}(\sigma, \alpha)$, where neither end is singular.
#
# **Try it**: replace `rectified_flow` by `cosine`. The paths change, but the histogram stays the same.

# %% tags=["solution"]
cosine = schedules.cosine()
with_cosine = DATA.denoiser(cosine)
plan = timesteps.plan(timesteps.uniform(cosine, steps=200))
end, trajectory = samplers.sample_trajectory(samplers.heun(), with_cosine, cosine, noise, plan, keys)
figure, panels = plt.subplots(1, 2, figsize=(6.0, 2.9))
for name, path in {"rectified flow": ways["the flow"][1], "cosine": trajectory}.items():
    for i in range(SHOWN):
        label = name if i == 0 else None
        panels[0].plot(*path.x[:, i].T, color="C0" if name == "cosine" else "C1", linewidth=0.8, label=label)
panels[0].set(title="the same noises, two schedules", xlabel="first axis", ylabel="second axis")
panels[0].legend()
panels[1].hist(fresh[:, 0], bins, density=True, alpha=0.3, color="C5", label="data")
panels[1].hist(end[:, 0], bins, density=True, histtype="step", label="cosine")
panels[1].set(title="where they end", xlabel="first axis", ylabel="density")
panels[1].legend(loc="upper left")
plt.show()
print(f"cosine: mean distance of quantiles {gap(end, fresh):.3f}")
assert gap(end, fresh) < 4 * floor + 0.01

# %% [markdown]
# Next: [4. Samplers as solvers](04_samplers_as_solvers.ipynb)
