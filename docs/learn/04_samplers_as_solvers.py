# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 4. Samplers as solvers
#
# Most samplers solve the probability flow ODE numerically. Network evaluations are expensive, so a good solver comes
# close to the exact solution with few of them. Here the denoiser is exact, so every error comes from the solver. You
# measure the order of each solver, and see the effect of the integration variable and of the grid.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from exact_mixture import THREE_CLUSTERS as DATA

from diffusion import parameterizations, samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from diffusion.schedules import left_broadcast

jax.config.update("jax_enable_x64", True)  # so that errors below 1e-7 are visible
plt.style.use("course.mplstyle")
schedule = schedules.cosine()
denoise = DATA.denoiser(schedule)

# %% [markdown]
# ## Why DDIM is Euler's method in the right variable
#
# Divide $x_t = \alpha x_0 + \sigma \varepsilon$ by $\alpha$, and call $r = \sigma / \alpha$ the noise level. For fixed
# $(x_0, \varepsilon)$, $x_t / \alpha = x_0 + r \varepsilon$ is a straight line in $r$ with slope $\varepsilon$. So in
# the variable $y = x_t / \alpha$ the probability flow is
#
# $$
# \frac{dy}{dr} = \mathbb{E}[\varepsilon \mid x_t]
# $$
#
# without any other term. Euler's method in $r$ holds $\varepsilon$ constant during a step:
#
# $$
# y_s = y_t + (r_s - r_t)\, \varepsilon \quad\Longleftrightarrow\quad x_s = \alpha_s x_0 + \sigma_s \varepsilon, \qquad x_0 = \frac{x_t - \sigma_t \varepsilon}{\alpha_t}
# $$
#
# This is [`samplers.ddim`](../../diffusion/samplers/ddpm.py). If all data are the same point, $\varepsilon$ is constant
# along each path, and a step of any length is exact. Euler's method in $t$,
# [`samplers.euler`](../../diffusion/samplers/runge_kutta.py), is not exact.

# %%
POINT = 0.7


def one_point(x, t):
    """The exact denoiser if all data are the same point."""
    alpha, sigma = (left_broadcast(coefficient(jnp.asarray(t)), x) for coefficient in (schedule.alpha, schedule.sigma))
    return Prediction(jnp.full_like(x, POINT), (x - alpha * POINT) / sigma)


keys = jax.random.split(jax.random.key(0), 256)
x = jax.random.normal(jax.random.key(1), (256, 2))
one_step = timesteps.plan(np.array([0.9, 0.1]))
for name, sampler in {"ddim": samplers.ddim(), "euler in t": samplers.euler()}.items():
    end = samplers.sample(sampler, one_point, schedule, x, one_step, keys)
    exact = schedule.alpha(0.1) * POINT + schedule.sigma(0.1) * one_point(x, 0.9).eps
    print(f"{name:10} one step from t = 0.9 to 0.1: largest error {float(jnp.abs(end - exact).max()):.1e}")
    if name == "ddim":
        assert jnp.allclose(end, exact, atol=1e-6)

# %% [markdown]
# ## Measuring the order
#
# A method of order $p$ has an error of $c\, h^p$, where $h$ is the length of a step: twice as many steps make the error
# $2^p$ times smaller. On logarithmic axes, the error against the number of steps is a straight line of slope $-p$. We
# integrate from $t = 0.8$ to 0.15 on the mixture, and compare with 4,000 steps of the classical Runge-Kutta method of
# order four.
#
# - [`samplers.ddim`](../../diffusion/samplers/ddpm.py) evaluates one slope per step: order 1;
# - [`samplers.heun`](../../diffusion/samplers/runge_kutta.py) evaluates two slopes per step: order 2;
# - [`samplers.dpmpp_2m`](../../diffusion/samplers/dpmpp.py) evaluates one new slope and reuses the slope of the last
#   step: order 2;
# - [`samplers.unipc`](../../diffusion/samplers/unipc.py) evaluates one new slope, reuses that of the last step, and
#   adds a corrector: order 3;
# - [`samplers.rk4`](../../diffusion/samplers/runge_kutta.py) evaluates four slopes per step: order 4.

# %%
start, stop = 0.8, 0.15
begin = schedule.alpha(start) * DATA.sample(jax.random.key(2), 256) + schedule.sigma(start) * x


def solve(sampler, grid):
    run = jax.jit(lambda x: samplers.sample(sampler, denoise, schedule, x, timesteps.plan(grid), keys))
    return run(begin)


reference = solve(samplers.rk4(), np.linspace(start, stop, 4001))
error = lambda end: float(jnp.sqrt(((end - reference) ** 2).sum(1).mean()))

# %% tags=["picture"]
solvers = {
    "ddim": (samplers.ddim(), 1),
    "heun": (samplers.heun(), 2),
    "dpmpp_2m": (samplers.dpmpp_2m(), 2),
    "unipc": (samplers.unipc(), 3),
    "rk4": (samplers.rk4(), 4),
}
counts = np.array([4, 8, 16, 32, 64, 128])
per_step = {name: sampler.nfe(2) - sampler.nfe(1) for name, (sampler, _) in solvers.items()}
figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.2))
measured = {}
for name, (sampler, _) in solvers.items():
    errors = np.array([error(solve(sampler, np.linspace(start, stop, n + 1))) for n in counts])
    measured[name] = errors
    panels[0].loglog(counts, errors, marker=".", label=name)
    panels[1].loglog(per_step[name] * counts, errors, marker=".", label=name)
panels[0].set(xlabel="steps", ylabel="distance from the exact end", title="by steps: the slope is the order")
panels[1].set(xlabel="network evaluations", ylabel="distance from the exact end", title="by what it costs")
panels[0].legend()
plt.show()

# %%
for name, (_, order) in solvers.items():
    slope = -np.polyfit(np.log(counts[-3:]), np.log(measured[name][-3:]), 1)[0]
    print(f"{name:9} measured order {slope:.2f}, by its paper {order}; evaluations per step: {per_step[name]}")
    assert abs(slope - order) < 0.2, name

# %% [markdown]
# The left panel compares solvers at the same number of steps, and the right panel at the same cost. `rk4` needs four
# evaluations per step, `heun` two, and the multistep methods one. So `dpmpp_2m` and `heun` have the same order, but
# `dpmpp_2m` costs less. (`sampler.nfe(steps)` is the cost of a full path, whose last step ends at $\sigma = 0$ and takes
# one evaluation with each of these samplers.) On this smooth part in the middle of the path, `rk4` has the smallest
# error from 16 evaluations on. On the full path, eight evaluations allow fewer than three steps of `rk4`, and with 16
# evaluations the best multistep methods are as good or better. The page [samplers](../samplers.md) has measurements for
# every sampler and grid.
#
# At its first step, a multistep method has no earlier slopes, so this step has order one. The same page says how much
# accuracy each method loses at the ends of the path.
#
# ## The grid matters as much as the solver
#
# We run two solvers for ten and for twenty steps from pure noise to data, on two grids. EDM's schedule has
# $\sigma = 80\, t$. A grid that is uniform in $t$ spends all steps but the last at noise levels where $x_t$ is almost
# pure noise. Karras' grid ([`timesteps.karras`](../../diffusion/timesteps/grids.py)) is uniform in $\sigma^{1/7}$, and
# places its steps where the path bends. [`timesteps.optimal`](../../diffusion/timesteps/optimal.py) computes a grid for
# your own denoiser.

# %%
edm = schedules.edm()
edm_denoise = DATA.denoiser(edm)
far = samplers.prior(edm, keys, (2,)).astype(jnp.float64)


def solve_from_noise(sampler, grid):
    run = jax.jit(lambda x: samplers.sample(sampler, edm_denoise, edm, x, timesteps.plan(grid), keys))
    return run(far)


true_end = solve_from_noise(samplers.heun(), timesteps.karras(edm, 1000))
found = {}
for grid in ("uniform", "karras"):
    for name in ("ddim", "dpmpp_2m"):
        for n in (10, 20):
            end = solve_from_noise(solvers[name][0], getattr(timesteps, grid)(edm, n))
            found[grid, name, n] = float(jnp.sqrt(((end - true_end) ** 2).sum(1).mean()))
        ten, twenty = found[grid, name, 10], found[grid, name, 20]
        print(f"{grid:8} {name:9} distance from the exact end: 10 steps {ten:.3f}, 20 steps {twenty:.3f}")
assert found["karras", "dpmpp_2m", 10] < found["uniform", "dpmpp_2m", 10] / 3
assert found["karras", "dpmpp_2m", 20] < found["karras", "ddim", 20] / 2

# %% [markdown]
# On the uniform grid, the order of the solver hardly matters. On Karras' grid with ten steps, the two solvers are
# equally accurate, since each step is long: an order describes the error of short steps. With twenty steps, the method
# of order 2 is more accurate.
#
# ## Why some samplers add noise
#
# A stochastic sampler needs more steps for the same accuracy, since it also discretizes the noise. But it forgets
# errors: the noise, together with the score term that compensates for it, pulls the distribution of $x_t$ back towards
# $p_t$. So it partly corrects an early error of the network or of a coarse step. We start both kinds of samplers at
# $t = 0.8$, once from the correct distribution and once shifted by 0.5 along each axis, and measure the distance
# between the two means at the end.

# %%
plan = timesteps.plan(np.linspace(start, 0.01, 401))
many = jax.random.split(jax.random.key(5), 4000)
right = schedule.alpha(start) * DATA.sample(jax.random.key(6), 4000)
right += schedule.sigma(start) * jax.random.normal(jax.random.key(7), right.shape)
left_over = {}
for name, sampler in {"heun (the flow)": samplers.heun(), "euler_maruyama (noise)": samplers.euler_maruyama()}.items():
    run = jax.jit(lambda x, s=sampler: samplers.sample(s, denoise, schedule, x, plan, many))
    left_over[name] = float(jnp.linalg.norm(run(right + 0.5).mean(0) - run(right).mean(0)))
    print(f"{name:24} of a move by {0.5 * 2**0.5:.2f} at t = {start}, {left_over[name]:.2f} is left at the end")
assert left_over["euler_maruyama (noise)"] < 0.8 * left_over["heun (the flow)"]

# %% [markdown]
# ## Summary
#
# - The slope of the error shows the order. The docstring of every solver states its order and its integration variable,
#   and a test measures all orders: `tests/samplers/test_sampler_orders.py`.
# - Compare solvers by evaluations, not by steps: `sampler.nfe(steps)`.
# - Below four evaluations, do not look for a better solver. Train a network that jumps
#   ([notebook 9](09_few_step_students.ipynb)).
#
# **Try it**: write Ralston's method as a sampler, and measure its order. [Write a sampler](../tasks/write_sampler.md)
# does this for another method.


# %% tags=["solution"]
def ralston():
    """Ralston's method in t: x_s = x_t + h (k_1 + 3 k_2) / 4, with k_2 at two thirds of the step."""

    def step(state, denoise, schedule, plan, i, noise):
        def slope(x, t):
            alpha_dot, sigma_dot = parameterizations.derivatives(schedule, t, x)
            prediction = denoise(x, t)
            return alpha_dot * prediction.x0 + sigma_dot * prediction.eps, prediction.x0

        t, h = plan.t[i], plan.s[i] - plan.t[i]
        k_1, x0 = slope(state.x, t)
        k_2, _ = slope(state.x + 2 / 3 * h * k_1, t + 2 / 3 * h)
        return samplers.State(state.x + h * (k_1 + 3 * k_2) / 4, x0)

    return samplers.Sampler(lambda x, schedule, plan: samplers.State(x, x), step, draws=0, nfe=lambda steps: 2 * steps)


errors = np.array([error(solve(ralston(), np.linspace(start, stop, n + 1))) for n in counts])
slope = -np.polyfit(np.log(counts[-3:]), np.log(errors[-3:]), 1)[0]
print(f"ralston: measured order {slope:.2f}; error in 32 steps {errors[3]:.1e}, Heun's {measured['heun'][3]:.1e}")
assert abs(slope - 2) < 0.2

# %% [markdown]
# Next: [5. Guidance](05_guidance.ipynb)
