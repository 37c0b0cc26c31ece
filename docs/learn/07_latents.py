# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 7. Latents
#
# Large image models do not diffuse pixels. An autoencoder maps each picture to a smaller array, the latent, and the
# diffusion model learns the distribution of the latents. Here the autoencoder is linear, so its error has a formula.
# You see why latents must be scaled, and how the autoencoder limits the quality of the samples.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import small_training
from sklearn.datasets import load_digits

from diffusion import objectives, parameterizations, samplers, schedules, timesteps
from diffusion.metrics import frechet
from diffusion.models.autoencoders import autoencoder_kl, latent_space

plt.style.use("course.mplstyle")
schedule = schedules.rectified_flow()

# %% [markdown]
# ## The best linear autoencoder
#
# Let $m$ be the mean of the data, and let the matrix $V$ have $k$ orthonormal columns. The encoder is
# $z = V^\top (x - m)$, and the decoder is $m + V z$. The squared error is the variance outside the span of $V$:
#
# $$
# \mathbb{E}\,|x - (m + V z)|^2 = \operatorname{Tr} C - \operatorname{Tr} V^\top C V,
# $$
#
# where $C$ is the covariance of the data. It is smallest if the columns of $V$ are the eigenvectors of the $k$ largest
# eigenvalues, and then equals the sum of the other eigenvalues.
#
# These columns are the principal components. For digits of 64 pixels, 16 numbers keep most of the variance.

# %%
digits = load_digits().data / 8 - 1  # in [-1, 1]
order = np.random.default_rng(0).permutation(len(digits))
train, held_out = digits[order[:1300]], digits[order[1300:]]
mean = train.mean(0)
values, vectors = np.linalg.eigh(np.cov(train.T, bias=True))
values, vectors = values[::-1], vectors[:, ::-1]
K = 16
V = vectors[:, :K]
encode = lambda x: (x - mean) @ V
decode = lambda z: mean + z @ V.T
lost = ((train - decode(encode(train))) ** 2).sum(1).mean()
print(f"lost by {K} of 64 numbers: {lost:.3f}, sum of the other eigenvalues: {values[K:].sum():.3f}")
print(f"that is {lost / values.sum():.0%} of the variance")
assert abs(lost - values[K:].sum()) < 1e-6

# %% [markdown]
# ## Why latents are scaled
#
# A schedule assumes that the data have a variance of about one. Let the latents have standard deviation $s$, and
# rewrite the equation of [notebook 1](01_forward_process.ipynb):
#
# $$
# x_t = \alpha z + \sigma \varepsilon = s \left(\alpha\, \frac{z}{s} + \frac{\sigma}{s}\, \varepsilon\right)
# $$
#
# So unscaled latents are equivalent to latents of variance one under a schedule with $\sigma / s$ in place of $\sigma$:
# the log-SNR is shifted by $2 \ln s$. With $s = 0.1$, $x_t$ is almost pure noise at nearly all times. With $s = 10$, it
# is almost free of noise at nearly all times. The network learns little in either case. For Gaussian latents, the
# fraction of the variance that remains unknown given $x_t$ is $\sigma^2 / (\alpha^2 s^2 + \sigma^2)$.
# [`schedules.shifted`](../../diffusion/schedules/derived.py) builds the shifted schedule. Scaling the latents with
# [`models.autoencoders.latent_space.to_diffusion`](../../diffusion/models/autoencoders/latent_space.py) is simpler.
# (The number 0.18215 in Stable Diffusion's config is this scale, $1 / s$.)

# %%
t = jnp.linspace(0.001, 0.999, 200)
figure, panel = plt.subplots(figsize=(6.2, 2.7))
for s in (0.1, 1.0, 10.0):
    moved = schedules.shifted(schedule, 1 / s)
    unknown = schedule.sigma(t) ** 2 / (schedule.alpha(t) ** 2 * s**2 + schedule.sigma(t) ** 2)
    same = moved.sigma(t) ** 2 / (moved.alpha(t) ** 2 + moved.sigma(t) ** 2)
    assert jnp.allclose(unknown, same, atol=1e-5)
    panel.plot(t, unknown, label=f"latents of deviation {s:g}")
panel.set(
    xlabel="t  (0 data, 1 noise)", ylabel="share that $x_t$ does not tell", title="where there is something to learn"
)
panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Diffusion in pixels and in latents
#
# We train the same perceptron for the same number of steps, once on 64 pixels and once on 16 scaled latents. We sample
# from both, decode the latents, and measure the Fréchet distance to held-out digits. We also measure the
# reconstructions of real digits: they show the best distance that this autoencoder allows.

# %%
deviation = encode(train).std(0)  # one scale per channel
latents = np.asarray(latent_space.to_diffusion(jnp.asarray(encode(train)), tuple((1 / deviation).tolist()), 0.0))
spaces = {"pixels": jnp.asarray(train, jnp.float32), "latents": jnp.asarray(latents, jnp.float32)}
objective = objectives.flow_matching(timesteps.uniform_density(schedule))
keys = jax.random.split(jax.random.key(3), 1000)
plan = timesteps.plan(timesteps.uniform(schedule, steps=40))
drawn = {}
for name, data in spaces.items():
    params, losses = small_training.train(
        objective,
        schedule,
        small_training.init(jax.random.key(1), data.shape[1], width=192),
        lambda key, number, data=data: data[jax.random.randint(key, (number,), 0, len(data))],
        steps=4000,
    )
    network = lambda x, t, condition, params=params: small_training.perceptron(params, x, t)
    denoise = parameterizations.denoiser(network, schedule, parameterizations.velocity())
    noise = samplers.prior(schedule, keys, (data.shape[1],))
    drawn[name] = np.asarray(samplers.sample(samplers.heun(), denoise, schedule, noise, plan, keys))
pictures = {
    "pixels": drawn["pixels"],
    "latents": decode(np.asarray(latent_space.from_diffusion(drawn["latents"], tuple((1 / deviation).tolist()), 0.0))),
    "reconstructed": decode(encode(train)),
}

# %% tags=["picture"]
moments = lambda rows: frechet.update(frechet.init(64), rows)
reference = moments(held_out)
floor = frechet.frechet_distance(moments(train[:497]), reference)
figure, panels = plt.subplots(3, 10, figsize=(7.5, 2.6))
for row, (name, rows) in zip(panels, pictures.items()):
    ratio = frechet.frechet_distance(moments(np.clip(rows[:497], -1, 1)), reference) / floor
    print(f"{name:14} Fréchet distance {ratio:.1f} times the floor")
    for panel, image in zip(row, rows):
        panel.imshow(image.reshape(8, 8), cmap="gray_r", vmin=-1, vmax=1)
        panel.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"{name}\n{ratio:.1f}", fontsize=8)
plt.show()

# %% [markdown]
# The latent model is close to the limit: almost all of its distance comes from the autoencoder, and little from the
# diffusion model. The model of pixels has the smaller distance here, since 64 pixels are few and a linear autoencoder
# is poor. But a picture of 256x256 pixels has 196,608 numbers. A trained autoencoder compresses them to 4,096 with a
# hardly visible error, and a network that diffuses these latents costs a small fraction of a network on pixels.
#
# ## A real autoencoder
#
# Autoencoders for large images are convolutional, and their latents keep the two spatial axes. The encoder returns a
# Gaussian for each latent instead of a point:
# [`models.autoencoders.autoencoder_kl.AutoencoderKL`](../../diffusion/models/autoencoders/autoencoder_kl.py). A
# perceptual and an adversarial loss make its errors hard to see ([latents](../latents.md)). The same three lines of
# code encode and decode. Here `jax.eval_shape` computes only the shapes, without parameters.

# %%
vae = autoencoder_kl.AutoencoderKL(widths=(8, 16), layers=1, latent_channels=2, picture_channels=1, groups=4, scale=1.0)


def there_and_back(images):
    params = vae.init(jax.random.key(0), images)["params"]
    posterior = vae.apply({"params": params}, images, method="encode")
    z = latent_space.to_diffusion(latent_space.draw(posterior, keys[:4]), vae.scale, vae.shift)
    back = vae.apply({"params": params}, latent_space.from_diffusion(z, vae.scale, vae.shift), method="decode")
    return z, back


z, back = jax.eval_shape(there_and_back, jnp.zeros((4, 8, 8, 1)))
print("picture", (4, 8, 8, 1), "-> latent", z.shape, "-> picture", back.shape)

# %% [markdown]
# ## Summary
#
# - A latent diffusion model consists of two models. Measure the reconstructions first, since they limit the quality of
#   the samples.
# - Scale latents to unit variance, or shift the schedule. Both have the same signal-to-noise ratios; only scaling also
#   gives the network inputs of variance about one.
#
# **Try it**: plot the distance of the reconstructions for latents of 1 to 64 numbers. How many numbers are needed to
# bring it below twice the floor?

# %% tags=["solution"]
ceilings = []
for k in range(1, 65):
    W = vectors[:, :k]
    rebuilt = mean + (train - mean) @ W @ W.T
    ceilings.append(frechet.frechet_distance(moments(np.clip(rebuilt[:497], -1, 1)), reference) / floor)
figure, panel = plt.subplots(figsize=(4.6, 2.7))
panel.plot(range(1, 65), ceilings, label="reconstructions")
panel.axhline(1, color="C5", linestyle="--", label="the floor")
panel.set(
    xlabel="numbers of a latent", ylabel="Fréchet distance / floor", yscale="log", title="the ceiling of a latent model"
)
panel.legend()
plt.show()
enough = 1 + next(k for k in range(64) if ceilings[k] < 2)
print(f"with 16 numbers {ceilings[15]:.1f} times the floor; below twice the floor from {enough} numbers on")
assert abs(ceilings[63] - 1) < 1e-6 and ceilings[3] > ceilings[15] > ceilings[39]

# %% [markdown]
# Next: [8. Text](08_text.ipynb)
