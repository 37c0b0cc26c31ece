# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 9. Students that need few steps
#
# Below four evaluations no solver helps ([notebook 4](04_samplers_as_solvers.ipynb)): the path bends, and a straight step
# misses. So we train a network that jumps: it receives two times, $t$ and $s$, and says where the path from $x_t$ is at $s$. Here
# you derive MeanFlow, train it, and compare its jumps with the exact flow of a mixture.

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
# At $t = 1$ rectified flow has $x_t = \varepsilon$, which says nothing of the data. So the best estimate $\mathbb{E}[x_0 \mid x_1]$ is the mean of all
# data, and one Euler step takes every sample there. This is not a fault of the network: it answers the question it was
# trained on. A student is trained on another question.

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
# Let $u(x_t, t, s)$ be the mean velocity along the path between $s$ and $t$, so that one jump is exact:
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
# The right side needs no integral. It needs the velocity $v$ of the flow, and one derivative of the network in the direction
# $(v, 1, 0)$. The velocity $\varepsilon - x_0$ of one pair can replace $v$, since its mean given $x_t$ is $v$, and the formula is linear
# in it. Forward-mode differentiation gives the derivative for the price of one more evaluation. The network is regressed on the
# right side, with its own derivative held fixed: [`objectives.mean_flow`](../../diffusion/objectives/mean_flow.py) (Geng et al.
# 2025).
#
# For $s = t$ it is flow matching. So one network learns the flow and its jumps.

# %%
density = timesteps.uniform_density(schedule)
objective = objectives.improved_mean_flow(density, equal=0.5, p=0.0)
teacher = objectives.flow_matching(density)
params = {}
params["flow matching"], _ = small_training.train(
    teacher, schedule, small_training.init(jax.random.key(1), 2), DATA.sample, steps=2500, batch=512
)


def slow(params, x, times, condition=None):
    """The perceptron with waves of at most two turns: the loss differentiates by the times, which amplifies fast ones."""
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
# A network that jumps is read as a flow map, $(x_t, t, s) \to x_s$, by
# [`flow_maps.mean_flow`](../../diffusion/flows/flow_maps.py), and only the samplers of flow maps take it:
# [`samplers.flow_map`](../../diffusion/samplers/flow_map.py). We compare where it ends with where the exact flow ends, from
# the same noise.

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
# ## What you see, and what it costs
#
# - One jump finds the three clusters, with blurred edges; one Euler step finds a point. A jump is as near to the exact end as
#   eight Euler steps.
# - The curves come together: with many steps the plain flow needs no student. The student's error comes from its training
#   rather than from its steps, so more steps reduce it little.
# - MeanFlow had more than twice the training here, and a derivative in forward mode (some attention kernels have none).
#
# There are other students. Consistency models jump to $t = 0$ alone; distillation learns from a trained flow; shortcut models
# learn two steps as one. [The page of students](../students.md) compares them by cost and quality, and
# [the page of objectives](../objectives.md) has the facts of each.
#
# **Try it**: an exact flow map composes: the jump from 1 to 0 is the jump from 1 to 1/2, and then to 0. How far is the
# trained map from that? (For a consistency model in place of MeanFlow, see `objectives.consistency_training` and
# [`objectives.ct`](../../diffusion/objectives/consistency.py).)

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
# Next: [10. Evaluation, and how FID lies](10_evaluation.ipynb)
