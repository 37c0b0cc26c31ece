# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 14. A U-Net with attention
#
# The DiT of [notebook 6](06_dit.ipynb) uses the spatial structure of a picture only in its patches and positions.
# DDPM's U-Net is built on it: convolutions connect neighbouring pixels, and treat a stroke the same way at every
# position. Here you write a U-Net in plain JAX, layer by layer. You check that it computes the same function as the
# library's [`models.UNet`](../../diffusion/models/unet.py) with the same parameters, and train it on digits.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import small_digits
import small_training

from diffusion import models, objectives, parameterizations, schedules, timesteps

plt.style.use("course.mplstyle")
WIDTH, GROUPS, HEADS, CLASSES = 16, 8, 2, small_digits.CLASSES

# %% [markdown]
# ## A convolution is nine matrix products
#
# At each pixel, a convolution computes a linear function of the neighbouring pixels. The function is the same at every
# pixel:
#
# $$ y_{h,w} = b + \sum_{i=0}^{2} \sum_{j=0}^{2} x_{h+i-1,\; w+j-1}\, W_{ij} $$
#
# Each $W_{ij}$ is a matrix from the channels of $x$ to the channels of $y$. So we shift the picture in nine ways,
# concatenate the nine results along the channels, and multiply once. The picture is padded with zeros. With a stride of
# 2 only every second pixel is computed, which halves the side length.


# %%
def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def conv(p, x, stride=1):
    height, width = x.shape[1:3]
    size, _, inputs, outputs = p["kernel"].shape
    x = jnp.pad(x, [(0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)])
    shifted = [x[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    neighbours = jnp.concatenate(shifted, axis=-1)
    return neighbours @ p["kernel"].reshape(size * size * inputs, outputs) + p["bias"]


# %% [markdown]
# ## The residual block
#
# Deep networks are easier to train if each block adds to its input: $h \leftarrow h + f(h)$. In DDPM, $f$ applies norm,
# SiLU and convolution, twice. The norm standardizes groups of channels over all pixels of a picture
# ([`models.layers.convolutions.GroupNorm`](../../diffusion/models/layers/convolutions.py)). The vector $e$ encodes the
# time and the class. A dense layer maps $e$ to one number for each channel, which is added between the two
# convolutions. The last convolution is initialized at zero, so each block starts as the identity.


# %%
def group_norm(p, x):
    batch, height, width, channels = x.shape
    h = x.reshape(batch, height * width, GROUPS, channels // GROUPS)
    h = h - h.mean((1, 3), keepdims=True)
    h = h / jnp.sqrt((h**2).mean((1, 3), keepdims=True) + 1e-5)
    return h.reshape(x.shape) * p["scale"] + p["bias"]


def residual(p, x, e):
    h = conv(p["conv_1"], jax.nn.silu(group_norm(p["norm_1"], x)))
    h = h + dense(p["time"], jax.nn.silu(e))[:, None, None, :]
    h = conv(p["conv_2"], jax.nn.silu(group_norm(p["norm_2"], h)))
    return h + (conv(p["shortcut"], x) if "shortcut" in p else x)  # where the number of channels changes


# %% [markdown]
# ## Attention between pixels
#
# A convolution sees a neighbourhood of 3x3 pixels. The two loops of an 8 are further apart. Attention connects every
# pixel with every other pixel. Each pixel $n$ has a query, a key and a value in each head:
#
# $$ y_n = \sum_m \operatorname{softmax}_m\!\left(\frac{q_n \cdot k_m}{\sqrt{S}}\right) v_m $$
#
# where $S$ is the length of a query. The cost grows with the square of the number of pixels, so U-Nets use attention
# only at low resolutions. [Notebook 6](06_dit.ipynb) explains this layer in detail.


# %%
def attention_weights(p, tokens):
    q, k, v = jnp.einsum("bnd,dahs->abnhs", tokens, p["kernel"]) + p["bias"][:, None, None]
    scores = jnp.einsum("bnhs,bmhs->bhnm", q, k) / q.shape[-1] ** 0.5
    return jax.nn.softmax(scores, axis=-1), v


def attend(p, x):
    tokens = group_norm(p["norm"], x).reshape(len(x), -1, x.shape[-1])
    weights, v = attention_weights(p["qkv"], tokens)
    mixed = jnp.einsum("bhnm,bmhs->bnhs", weights, v)
    return x + (jnp.einsum("bnhs,hsd->bnd", mixed, p["out"]["kernel"]) + p["out"]["bias"]).reshape(x.shape)


# %% [markdown]
# ## The U
#
# On the way down, the network halves the side length, so each convolution sees more of the picture. On the way up, it
# doubles the side length again. Fine structure is lost at the lowest resolution. Therefore every block on the way up
# also reads an output of the way down at the same size, by a **skip connection**. Sines and cosines of many frequencies
# encode the time, since a network can hardly resolve a single number between 0 and 1000.


# %%
def sinusoid(t, size):
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(size // 2) / (size // 2))
    return jnp.concatenate([jnp.cos(t[:, None] * frequencies), jnp.sin(t[:, None] * frequencies)], axis=1)


def unet(p, x, t, label):
    """(x_t [B, 8, 8, 1], the clock [B] in 0 .. 1000, classes [B], of which 10 is "none") -> [B, 8, 8, 1]."""
    e = dense(p["time_out"], jax.nn.silu(dense(p["time_hidden"], sinusoid(t, WIDTH))))
    e = e + jnp.concatenate([p["classes"], jnp.zeros((1, 4 * WIDTH))])[label]
    skips = [conv(p["conv_in"], x)]
    skips.append(residual(p["down_0_block_0"], skips[-1], e))
    skips.append(conv(p["down_0_resample"], skips[-1], stride=2))  # 4 x 4 from here on
    skips.append(attend(p["down_1_block_0_attention"], residual(p["down_1_block_0"], skips[-1], e)))

    h = residual(p["middle_block_0"], skips[-1], e)
    h = attend(p["middle_attention"], h)
    h = residual(p["middle_block_1"], h, e)

    joined = lambda h: jnp.concatenate([h, skips.pop()], axis=-1)
    h = attend(p["up_1_block_0_attention"], residual(p["up_1_block_0"], joined(h), e))
    h = attend(p["up_1_block_1_attention"], residual(p["up_1_block_1"], joined(h), e))
    h = conv(p["up_1_resample"], h.repeat(2, axis=1).repeat(2, axis=2))  # 8 x 8 again
    h = residual(p["up_0_block_0"], joined(h), e)
    h = residual(p["up_0_block_1"], joined(h), e)
    return conv(p["conv_out"], jax.nn.silu(group_norm(p["norm_out"], h)))


# %% [markdown]
# ## Parameters, and the same network in the library
#
# Parameters are arrays in nested dictionaries. We use the library's names, so both networks accept the same dictionary.


# %%
def init(key):
    keys = iter(jax.random.split(key, 64))
    normal = lambda shape, fan: jax.random.normal(next(keys), shape) / fan**0.5
    dense = lambda m, n: {"kernel": normal((m, n), m), "bias": jnp.zeros(n)}
    conv = lambda m, n, size=3: {"kernel": normal((size, size, m, n), size**2 * m), "bias": jnp.zeros(n)}
    norm = lambda m: {"scale": jnp.ones(m), "bias": jnp.zeros(m)}
    zero = lambda layer: jax.tree.map(jnp.zeros_like, layer)

    def residual(m, n):
        layers = {"norm_1": norm(m), "conv_1": conv(m, n), "time": dense(4 * WIDTH, n)}
        layers |= {"norm_2": norm(n), "conv_2": zero(conv(n, n))}
        return layers if m == n else layers | {"shortcut": conv(m, n, 1)}

    def attention(m):
        qkv = {"kernel": normal((m, 3, HEADS, m // HEADS), m), "bias": jnp.zeros((3, HEADS, m // HEADS))}
        out = {"kernel": jnp.zeros((HEADS, m // HEADS, m)), "bias": jnp.zeros(m)}
        return {"norm": norm(m), "qkv": qkv, "out": out}

    a, b = WIDTH, 2 * WIDTH  # channels of the two levels
    return {
        "time_hidden": dense(a, 4 * a),
        "time_out": dense(4 * a, 4 * a),
        "classes": normal((CLASSES, 4 * a), 1),
        "conv_in": conv(1, a),
        "down_0_block_0": residual(a, a),
        "down_0_resample": conv(a, a),
        "down_1_block_0": residual(a, b),
        "down_1_block_0_attention": attention(b),
        "middle_block_0": residual(b, b),
        "middle_attention": attention(b),
        "middle_block_1": residual(b, b),
        "up_1_block_0": residual(b + b, b),
        "up_1_block_0_attention": attention(b),
        "up_1_block_1": residual(b + a, b),
        "up_1_block_1_attention": attention(b),
        "up_1_resample": conv(b, b),
        "up_0_block_0": residual(b + a, a),
        "up_0_block_1": residual(a + a, a),
        "norm_out": norm(a),
        "conv_out": zero(conv(a, 1)),
    }


def moved(params, key, scale):
    """The initial parameters plus random numbers, so that no layer is zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten([a + scale * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys)])


params = init(jax.random.key(0))
print(f"{sum(a.size for a in jax.tree.leaves(params)):,} parameters")

library = models.UNet(
    widths=(WIDTH, 2 * WIDTH),
    blocks=1,
    attention_levels=(1,),
    num_classes=CLASSES,
    in_channels=1,
    out_channels=1,
    groups=GROUPS,
    heads=HEADS,
)
x = jax.random.normal(jax.random.key(1), (8, 8, 8, 1))
t = jnp.linspace(0, 1000, 8)
label = jnp.array([0, 1, 2, 3, 4, 8, 9, 10])
random = moved(params, jax.random.key(2), 0.02)
ours = jax.jit(unet)(random, x, t, label)
theirs = jax.jit(library.apply)({"params": random}, x, t, label)
print(f"outputs of size {float(jnp.abs(ours).max()):.2f}; largest difference {float(jnp.abs(ours - theirs).max()):.1e}")
assert jnp.abs(ours).max() > 0.1 and jnp.abs(ours - theirs).max() < 1e-6
assert (jax.jit(unet)(params, x, t, label) == 0).all()  # the last layer starts at zero

# %% [markdown]
# ## Training
#
# We use the loop of `small_training.py` again. The network predicts the velocity of the straight path
# ([`objectives.flow_matching`](../../diffusion/objectives/flow_matching.py)). For guidance
# ([notebook 5](05_guidance.ipynb)), the class is dropped with probability 0.1
# ([`objectives.with_condition_dropout`](../../diffusion/objectives/conditioning.py)). `small_digits.py` provides the
# digits, a classifier that judges samples, and the Fréchet distance to held-out digits.

# %%
STEPS = 700
schedule = schedules.rectified_flow()
velocity = parameterizations.velocity(parameterizations.time(1000.0))  # the network's clock is 1000 t
objective = objectives.with_condition_dropout(
    objectives.flow_matching(timesteps.uniform_density(schedule), clock=velocity.clock), null=CLASSES, rate=0.1
)
params, losses = small_training.train(
    objective, schedule, params, small_digits.draw, steps=STEPS, batch=64, network=unet, rate=3e-3
)
print(f"mean loss of the first 50 steps {losses[:50].mean():.3f}, of the last 200 {losses[-200:].mean():.3f}")

# %% tags=["picture"]
pictures = small_digits.samples(unet, params, schedule, velocity, scales=(1.0, 2.0))
small_digits.draw_rows(pictures)

# %%
recognised = small_digits.judge(pictures)
assert recognised["samples, w = 2"] > 0.9

# %% [markdown]
# Both rows of samples start from the same noise, and each column is one class. Guidance makes the classes easier to
# recognize and increases the distance, as in [notebook 6](06_dit.ipynb).
#
# ## What does a pixel attend to?
#
# The attention layer in the middle of the network has 16 pixels with 32 channels. We plot its weights for one noised
# digit and four of the pixels, averaged over the heads. If a pixel attended equally to all pixels, every weight would
# be 1/16.


# %%
def middle_weights(p, x, t, label):
    """The weights of the attention in the middle, [B, heads, 16, 16]."""
    e = dense(p["time_out"], jax.nn.silu(dense(p["time_hidden"], sinusoid(t, WIDTH)))) + p["classes"][label]
    h = residual(p["down_0_block_0"], conv(p["conv_in"], x), e)
    h = residual(p["down_1_block_0"], conv(p["down_0_resample"], h, stride=2), e)
    h = residual(p["middle_block_0"], attend(p["down_1_block_0_attention"], h), e)
    tokens = group_norm(p["middle_attention"]["norm"], h).reshape(len(x), -1, h.shape[-1])
    return attention_weights(p["middle_attention"]["qkv"], tokens)[0]


time = 0.4
digit = small_digits.held_out[small_digits.held_out_labels == 8][:1]
x_t = (1 - time) * digit + time * jax.random.normal(jax.random.key(4), digit.shape)
weights = middle_weights(params, x_t, jnp.array([1000 * time]), jnp.array([8]))[0].mean(0)
figure, panels = plt.subplots(1, 5, figsize=(7.5, 2.0))
panels[0].imshow(x_t[0, :, :, 0], cmap="gray_r")
panels[0].set(title="x_t, at t = 0.4", xticks=[], yticks=[])
for panel, pixel in zip(panels[1:], (1, 5, 10, 14)):
    shown = panel.imshow(weights[pixel].reshape(4, 4), cmap="viridis", vmin=0, vmax=float(weights.max()))
    panel.scatter(
        pixel % 4, pixel // 4, marker="s", s=60, facecolors="none", edgecolors="w", label="the pixel that looks"
    )
    panel.set(xticks=[], yticks=[], title=f"pixel {pixel}")
figure.colorbar(shown, ax=panels[4], label="weight")
figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", facecolor="0.6", frameon=True)
plt.show()
assert jnp.allclose(weights.sum(1), 1, atol=1e-5)

# %% [markdown]
# ## Summary
#
# - A U-Net has four parts: convolutions connect near pixels, attention connects distant ones, skip connections keep
#   fine structure, and a vector of time and class enters every block.
# - The block of ADM differs in two lines: the vector scales and shifts the output of the norm, and the resolution
#   changes inside a block (`scale_shift` and `resample` of [`models.UNet`](../../diffusion/models/unet.py)).
# - A network that you write yourself needs nothing from the library: any function of $(x_t, t, \text{condition})$
#   works.
#
# **Try it**: write `conv` with `jax.lax.conv_general_dilated`, as the library does, and check that the outputs of the
# network stay the same.


# %% tags=["solution"]
def conv_by_xla(p, x, stride=1):
    border = [(len(p["kernel"]) // 2,) * 2] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, p["kernel"], (stride,) * 2, border, dimension_numbers=layout) + p["bias"]


nine_products, conv = conv, conv_by_xla
same = jax.jit(lambda *inputs: unet(*inputs))(random, x, t, label)
conv = nine_products
print(f"largest difference {float(jnp.abs(same - ours).max()):.1e}")
assert jnp.abs(same - ours).max() < 1e-6

# %% [markdown]
# Next: [15. Symbols](15_symbols.ipynb)
