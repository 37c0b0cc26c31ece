# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 9. Students that need few steps
#
# With fewer than four evaluations no solver is accurate ([notebook 4](04_samplers_as_solvers.ipynb)): the path bends,
# and a long straight step leaves it. So we train a network that jumps: it receives two times, $t$ and $s$, and predicts
# where the path through $x_t$ is at time $s$. Here you derive MeanFlow, train it, and compare its jumps with the exact
# flow of a mixture.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import small_training
from exact_mixture import THREE_CLUSTERS as DATA

from diffusion import flow_maps, objectives, parameterizations, samplers, schedules, timesteps

plt.style.use("course.mplstyle")
schedule = schedules.rectified_flow()
exact = DATA.denoiser(schedule)

# %% [markdown]
# ## What one step of a perfect denoiser does
#
# At $t = 1$ rectified flow has $x_t = \varepsilon$, which contains no information about the data. So the best estimate
# $\mathbb{E}[x_0 \mid x_1]$ is the mean of all data, and one Euler step moves every sample to this mean. This is not an
# error of the network, which was trained to predict exactly this mean. A student is trained to predict something else.

# %%
keys = jax.random.split(jax.random.key(0), 2000)
noise = samplers.prior(schedule, keys, (2,))
solve = lambda denoise, sampler, steps: samplers.sample(
    sampler, denoise, schedule, noise, timesteps.plan(timesteps.uniform(schedule, steps)), keys
)
one_step = solve(exact, samplers.euler(), 1)
true_end = solve(exact, samplers.rk4(), 300)
print("after one step of the exact denoiser: mean", one_step.mean(0), "standard deviation", one_step.std(0))
assert jnp.allclose(one_step, DATA.weights @ DATA.means, atol=1e-4)

# %% [markdown]
# ## The mean velocity
#
# Let $u(x_t, t, s)$ be the mean velocity along the path between $s$ and $t$. A jump with this velocity is exact:
#
# $$
# x_s = x_t - (t - s)\, u(x_t, t, s), \qquad (t - s)\, u = \int_s^t v(x_r, r)\, dr
# $$
#
# Differentiate the integral with respect to $t$, along the path, with $s$ fixed:
#
# $$
# u + (t - s)\, \frac{du}{dt} = v \quad\Longrightarrow\quad u = v - (t - s)\, \frac{du}{dt}, \qquad \frac{du}{dt} = \Big(v \cdot \nabla_x + \frac{\partial}{\partial t}\Big) u
# $$
#
# The right side needs no integral. It needs the velocity $v$ of the flow, and one directional derivative of the
# network, in the direction $(v, 1, 0)$ of $(x, t, s)$. The velocity $\varepsilon - x_0$ of one pair can replace $v$,
# since its mean given $x_t$ is $v$, and the formula is linear in $v$. Forward-mode differentiation computes the
# derivative at about the cost of one more evaluation. The network is regressed on the right side, with a stopped
# gradient: [`objectives.mean_flow`](../../diffusion/objectives/mean_flow.py) (Geng et al. 2025).
#
# For $s = t$ this loss is flow matching. So one network learns both the flow and its jumps. We use the variant
# [`objectives.improved_mean_flow`](../../diffusion/objectives/mean_flow.py) of the same authors: the direction of its
# derivative contains the network's own velocity $u(x_t, t, t)$ instead of the velocity of one pair, so the target is
# less noisy. Half of the examples have $s = t$ (`equal=0.5`), and `p=0.0` selects the plain squared error.

# %%
density = timesteps.uniform_density(schedule)
objective = objectives.improved_mean_flow(density, equal=0.5, p=0.0)
teacher = objectives.flow_matching(density)
params = {}
params["flow matching"], _ = small_training.train(
    teacher, schedule, small_training.init(jax.random.key(1), 2), DATA.sample, steps=2500, batch=512
)


def slow(params, x, times, condition=None):
    """The perceptron with low frequencies: the loss differentiates with respect to time, which amplifies high ones."""
    return small_training.perceptron(params, x, jax.tree.map(lambda time: time / 8, times))


params["MeanFlow"], losses = small_training.train(
    objective,
    schedule,
    small_training.init(jax.random.key(1), 2, times=2),
    DATA.sample,
    steps=6000,
    batch=512,
    network=slow,
)

# %% [markdown]
# [`flow_maps.mean_flow`](../../diffusion/flows/flow_maps.py) converts such a network to a flow map,
# $(x_t, t, s) \to x_s$. Only the samplers of flow maps accept it:
# [`samplers.flow_map`](../../diffusion/samplers/flow_map.py). We start the student and the exact flow from the same
# noise, and compare their end points.

# %%
velocity = lambda x, t, condition: small_training.perceptron(params["flow matching"], x, t)
denoise = parameterizations.denoiser(velocity, schedule, parameterizations.velocity())
jump = flow_maps.mean_flow(lambda *inputs: slow(params["MeanFlow"], *inputs), schedule)
distance = lambda x: float(jnp.sqrt(((x - true_end) ** 2).sum(1).mean()))
counts = (1, 2, 4, 8, 16)
by_euler = [distance(solve(denoise, samplers.euler(), n)) for n in counts]
by_jumps = [distance(solve(jump, samplers.flow_map(), n)) for n in counts]
for n, a, b in zip(counts, by_euler, by_jumps):
    print(f"{n:2} evaluations: distance from the exact end, Euler {a:.3f}, jumps {b:.3f}")
assert by_jumps[0] < by_euler[0] / 2

# %% tags=["picture"]
figure, panels = plt.subplots(1, 4, figsize=(7.5, 2.4), width_ratios=(1, 1, 1, 1.25))
shown = {
    "exact flow, 300 steps": true_end,
    "flow matching, 1 step": solve(denoise, samplers.euler(), 1),
    "MeanFlow, 1 jump": solve(jump, samplers.flow_map(), 1),
}
for panel, (name, x) in zip(panels, shown.items()):
    panel.scatter(*x.T, s=2, alpha=0.6)
    panel.set(title=name, xlim=(-2.5, 2.8), ylim=(-2, 3), xlabel="first axis")
panels[0].set_ylabel("second axis")
panels[3].loglog(counts, by_euler, marker=".", label="flow matching, Euler")
panels[3].loglog(counts, by_jumps, marker=".", label="MeanFlow, jumps")
panels[3].set(xlabel="evaluations", ylabel="distance from exact end")
panels[3].set_xticks(counts, [str(n) for n in counts])
panels[3].legend(fontsize=7.5)
plt.show()

# %% [markdown]
# ## What the picture shows, and what the student costs
#
# - One jump reaches the three clusters, although many points lie between them, while one Euler step gives nearly a
#   single point. The error of one jump equals that of eight Euler steps.
# - The two curves approach each other: with many steps, the student has hardly any advantage over the flow. The error
#   of the student comes from its training rather than from the step size, so more steps reduce it little.
# - Here MeanFlow was trained more than twice as long, and it needs a forward-mode derivative, which some attention
#   kernels lack.
#
# There are other few-step students. Consistency models jump only to $t = 0$. Distillation learns from a trained flow.
# Shortcut models learn to make two of their steps in one. [The page on students](../students.md) compares their cost
# and quality, and [the page on objectives](../objectives.md) lists the properties of each.
#
# **Try it**: for an exact flow map, the jump from 1 to 0 equals the jump from 1 to 1/2 followed by the jump from 1/2 to
# 0. How far apart are the two results for the trained map? (To train a consistency model instead of MeanFlow, see
# `objectives.consistency_training` and [`objectives.ct`](../../diffusion/objectives/consistency.py).)

# %% tags=["solution"]
half = jnp.full(len(noise), 0.5)
one, zero = jnp.ones(len(noise)), jnp.zeros(len(noise))
at_once = jump(noise, one, zero)
in_two = jump(jump(noise, one, half), half, zero)
apart = float(jnp.sqrt(((at_once - in_two) ** 2).sum(1).mean()))
print(
    f"one jump and two jumps end {apart:.3f} apart; from the exact end {distance(at_once):.3f} and {distance(in_two):.3f}"
)
assert apart < by_euler[0] / 2

# %% [markdown]
# Next: [10. Evaluation, and how FID misleads](10_evaluation.ipynb)
