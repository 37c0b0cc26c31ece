# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 5. Guidance, and why it oversaturates
#
# A conditional model samples $p(x \mid c)$. Guidance strengthens the influence of $c$ beyond that in the data. Samples
# then look clearer and more alike, and at high scales they are oversaturated. On an exact mixture you see which
# distribution guidance is meant to sample, which one it samples, and how far the known corrections help.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from exact_mixture import mixture

from diffusion import guidance, samplers, schedules, timesteps

plt.style.use("course.mplstyle")
schedule = schedules.rectified_flow()

# %% [markdown]
# ## The formula
#
# By Bayes, $\log p(c \mid x) = \log p(x \mid c) - \log p(x) + \text{const}$. To raise the influence of the classifier
# $p(c \mid x)$, define
#
# $$
# \begin{aligned}
# p_w(x) &\propto p(x \mid c)\; p(c \mid x)^{w - 1} \\
# \nabla \log p_w(x) &= \nabla \log p(x \mid c) + (w - 1)\big(\nabla \log p(x \mid c) - \nabla \log p(x)\big)
# \end{aligned}
# $$
#
# The score is $-\varepsilon / \sigma$ ([notebook 3](03_score_and_flow.ipynb)), so the same equation holds for
# $\varepsilon$ and for $x_0$. It needs no classifier:
# [`guidance.classifier_free`](../../diffusion/guidance/classifier_free.py). In the library, guidance combines two
# denoisers into one, so samplers need no change. At $w = 1$ the guided denoiser is exactly the conditional one.
#
# Our data are two classes on a line. Class $c$ has modes at 0.6 and 1.6, and the other class has modes at -0.4 and
# -1.4.

# %%
ours = mixture([0.5, 0.5], [[0.6], [1.6]], [0.35, 0.35])
both = mixture([0.25] * 4, [[0.6], [1.6], [-0.4], [-1.4]], [0.35] * 4)
branches = guidance.separately(ours.denoiser(schedule), both.denoiser(schedule))
keys = jax.random.split(jax.random.key(0), 8000)
noise = samplers.prior(schedule, keys, (1,))
plan = timesteps.plan(timesteps.uniform(schedule, steps=60))
draw = lambda denoise: samplers.sample(samplers.heun(), denoise, schedule, noise, plan, keys)
line = jnp.linspace(-2.5, 6, 400)[:, None]

# %% tags=["picture"]
scales = (1.0, 2.0, 4.0, 8.0)
samples = {w: draw(guidance.classifier_free(branches, w)) for w in scales}
figure, panels = plt.subplots(1, 4, sharey=True)
step = float(line[1, 0] - line[0, 0])
for panel, w in zip(panels, scales):
    tilted = jnp.exp(w * ours.log_density(line) + (1 - w) * both.log_density(line))
    tilted /= tilted.sum() * step
    panel.fill_between(line[:, 0], jnp.exp(both.log_density(line)), color="C5", alpha=0.2, label="all data")
    panel.hist(samples[w][:, 0], jnp.linspace(-2.5, 6, 90), density=True, alpha=0.5, color="C0", label="guided samples")
    panel.plot(line[:, 0], tilted, color="C1", label="what p_w promises")
    panel.set(title=f"w = {w:g}", xlabel="x", xlim=(-2.2, 5))
panels[0].set_ylabel("density")
panels[3].legend(loc="upper right", fontsize=7.5)
plt.show()

# %%
for w in scales:
    x = samples[w]
    print(
        f"w = {w:g}: mean {float(x.mean()):.2f}, standard deviation {float(x.std()):.2f}, beyond all data (x > 2.8): {float((x > 2.8).mean()):.1%}"
    )
assert abs(samples[1.0].mean() - 1.1) < 0.05
assert samples[8.0].mean() > samples[1.0].mean() + 0.5 and samples[8.0].std() < samples[1.0].std()

# %% [markdown]
# The picture shows three things.
#
# 1. At $w = 1$ the samples (blue) follow the distribution of the class.
# 2. $p_w$ (orange) keeps both modes of the class and only removes mass on the side of the other class. The samples do
#    not keep both modes: at $w = 4$, the mode at 0.6, which is nearer to the other class, is empty. This is the loss of
#    diversity.
# 3. The remaining mode becomes narrow and moves outwards. At $w = 8$ it lies where there are hardly any data. In
#    pictures, this effect appears as saturated colours and hard contrast.
#
# ## Why the samples do not follow p_w
#
# At $t = 0$ the formula gives the score of $p_w$. At $t > 0$ it combines the scores of $p_t(x \mid c)$ and $p_t(x)$.
# Each of them is the score of a noised density, and noising does not commute with taking powers: $(p_t)^w$ is not
# $(p^w)_t$. So the guided flow is not the probability flow of $p_w$. Where $x_t$ does not yet show the class, the two
# predictions differ by about the distance between the mean of the class and that of all data, and this difference is
# multiplied by $w - 1$. We measure this guidance term, $(w - 1)\, |x_0^c - x_0^u|$, along the guided paths.

# %%
figure, panels = plt.subplots(1, 2)
for w in (2.0, 4.0, 8.0):
    guided = guidance.classifier_free(branches, w)
    _, way = samplers.sample_trajectory(samplers.heun(), guided, schedule, noise[:500], plan, keys[:500])
    push = []
    for i in range(len(plan.t)):
        conditional, unconditional = branches(way.x[i], plan.t[i])
        push.append((w - 1) * jnp.abs(conditional.x0 - unconditional.x0).mean())
    panels[0].plot(plan.t, jnp.array(push), label=f"w = {w:g}")
    panels[1].plot(plan.t, jnp.abs(way.x0[..., 0]).max(axis=1), label=f"w = {w:g}")
panels[0].set(xlabel="t  (sampling goes from 1 to 0)", ylabel="mean push on x0", title="how hard guidance pushes")
panels[1].axhline(2.7, color="C5", linestyle="--", label="end of the data")
panels[1].set(xlabel="t  (sampling goes from 1 to 0)", ylabel="largest |x0|", title="how far the estimate goes")
panels[0].legend()
panels[1].legend()
plt.show()

# %% [markdown]
# The guidance term is largest at high noise. There the means of the classes already differ, and nothing else is known,
# so with w = 4 and w = 8 the estimate of $x_0$ lies far outside the data ([-2.5, 2.7]) from the first steps on.
# Guidance pushes a sample away from 0.6 before the sampler has settled on one of the modes.
#
# ## Corrections
#
# - **An interval** restricts guidance to intermediate noise levels (Kynkaanniemi et al. 2024): the argument `interval=`
#   of [`guidance.classifier_free`](../../diffusion/guidance/classifier_free.py).
# - **A projection** removes the component of the guidance term that is parallel to the prediction, since this component
#   only makes the prediction larger: [`guidance.adaptive_projected`](../../diffusion/guidance/projected.py).
# - **A weaker version of the model** can replace the unconditional model. The guidance term then points to what the
#   better model does better, and all modes are kept:
#   [`guidance.autoguidance`](../../diffusion/guidance/classifier_free.py) (Karras et al. 2024).

# %%
blurred = mixture([0.5, 0.5], [[0.6], [1.6]], [0.6, 0.6])  # the same class, learned badly
repairs = {
    "none, w = 1": ours.denoiser(schedule),
    "plain, w = 4": guidance.classifier_free(branches, 4.0),
    "interval (0.1, 0.5), w = 4": guidance.classifier_free(branches, 4.0, interval=(0.1, 0.5)),
    "autoguidance, w = 2": guidance.autoguidance(ours.denoiser(schedule), blurred.denoiser(schedule), 2.0),
}
figure, panels = plt.subplots(1, 4, sharey=True)
lower = {}
for panel, (name, denoise) in zip(panels, repairs.items()):
    x = draw(denoise)
    lower[name] = float((x < 1.1).mean())
    panel.fill_between(line[:, 0], jnp.exp(ours.log_density(line)), color="C5", alpha=0.3, label="the class")
    panel.hist(x[:, 0], jnp.linspace(-1, 4, 80), density=True, alpha=0.6, label="samples")
    panel.set(title=name, xlabel="x", xlim=(-1, 4))
    print(
        f"{name:28} share on the side of the lower bump {lower[name]:.0%}, beyond all data {float((x > 2.8).mean()):.1%}"
    )
panels[0].set_ylabel("density")
panels[0].legend(loc="upper right", fontsize=7.5)
plt.show()
assert lower["plain, w = 4"] < lower["interval (0.1, 0.5), w = 4"]
assert lower["autoguidance, w = 2"] > 0.4

# %% [markdown]
# ## Summary
#
# - Guidance is a formula for predictions. It changes the distribution even if the network is perfect. Only at $w = 1$
#   do the samples follow the distribution of the model.
# - So a score that is measured with guidance depends on the model and on the guidance. State the scale, and report more
#   than one scale.
# - [The page on guidance](../guidance.md) lists every guidance method of the library with its paper.
#
# **Try it**: in `classifier_free`, `scale` can be a function of t. Find one that reaches w = 4 at intermediate t and
# keeps both modes.

# %% tags=["solution"]
middle = lambda t: 1 + 3 * jnp.exp(-(((t - 0.3) / 0.12) ** 2))  # 4 at t = 0.3, and 1 at both ends
x = draw(guidance.classifier_free(branches, middle))
figure, panel = plt.subplots(figsize=(4.6, 2.7))
panel.fill_between(line[:, 0], jnp.exp(ours.log_density(line)), color="C5", alpha=0.3, label="the class")
panel.hist(x[:, 0], jnp.linspace(-1, 4, 80), density=True, alpha=0.6, label="samples")
panel.set(title="w(t), 4 at t = 0.3", xlabel="x", ylabel="density", xlim=(-1, 4))
panel.legend()
plt.show()
share = float((x < 1.1).mean())
print(f"share on the side of the lower bump {share:.0%}, beyond all data {float((x > 2.8).mean()):.1%}")
assert share > lower["plain, w = 4"]

# %% [markdown]
# Next: [6. A DiT, from einsum up](06_dit.ipynb), or [10. Evaluation, and how FID misleads](10_evaluation.ipynb), which needs no training.
