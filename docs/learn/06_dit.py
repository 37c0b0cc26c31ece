# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 6. A DiT, from einsum up
#
# So far the network was a perceptron, and the data were points. A diffusion transformer takes pictures: it cuts a picture
# into patches, treats them as a set of tokens, and lets attention find out what belongs together. Here you write the DiT of
# [Peebles & Xie (2023)](https://arxiv.org/abs/2212.09748) in eighty lines of plain JAX, find that it is the library's
# [`models.DiT`](../../diffusion/models/dit.py) with the same parameters, draw digits with the weights that come with the
# package, and train it from the start.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import small_digits
import small_training

from diffusion import models, objectives, timesteps
from diffusion.experiments.sampling import trained_run

plt.style.use("course.mplstyle")
PATCH, WIDTH, DEPTH, HEADS, CLASSES = 2, 64, 4, 4, small_digits.CLASSES

# %% [markdown]
# ## `einsum`
#
# Every product of this notebook is an `einsum`: each array has a letter for each axis, and a letter that does not occur in the
# result is summed over. `"bnd,de->bne"` is a dense layer for the tokens of a batch:
#
# $$ y_{bne} = \sum_d x_{bnd}\, W_{de} $$
#
# A picture becomes tokens by an `einsum`, too. Rows and columns of pixels have two letters each, the patch and the place
# inside the patch, and only the order of the letters changes.


# %%
def dense(p, x):
    return jnp.einsum("...d,de->...e", x, p["kernel"]) + p["bias"]


def patchify(x):
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, channels)
    return jnp.einsum("bipjqc->bijpqc", x).reshape(batch, -1, PATCH * PATCH * channels)


def unpatchify(tokens, height, width):
    x = tokens.reshape(len(tokens), height // PATCH, width // PATCH, PATCH, PATCH, -1)
    return jnp.einsum("bijpqc->bipjqc", x).reshape(len(tokens), height, width, -1)


digits = jnp.asarray(small_digits.images[:2])
print("a picture", digits.shape[1:], "becomes", patchify(digits).shape[1], "tokens of", patchify(digits).shape[2])
assert (unpatchify(patchify(digits), 8, 8) == digits).all()

# %% [markdown]
# ## Where a token is, and when
#
# A set has no order, so each token is told its place: sines and cosines of its column, then of its row, are added to it. The
# same functions of $t$, with a perceptron behind them, tell the network the time. With $D$ numbers for a place or a time,
#
# $$ w_i = 10000^{-i / n}, \qquad i = 0, \dots, n - 1, \qquad n = D / 2 \text{ for a time}, \; D / 4 \text{ for a row or a column} $$


# %%
def frequencies(n):
    return jnp.exp(-jnp.log(10_000.0) * jnp.arange(n) / n)


def time_features(t, size=256):
    angles = jnp.einsum("b,i->bi", t, frequencies(size // 2))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


def positions(rows, columns):
    row, column = jnp.divmod(jnp.arange(rows * columns), columns)
    angles = jnp.einsum("nk,i->nki", jnp.stack([column, row], axis=1), frequencies(WIDTH // 4))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=2).reshape(rows * columns, WIDTH)


# %% [markdown]
# ## Attention
#
# One product gives all queries, keys and values: the letter $a$ counts the three, $h$ the heads, $s$ the numbers of a head. Each
# query is compared with all keys, the softmax turns the scores into weights, and the values are averaged by them
# ([`models.layers.attention.attention`](../../diffusion/models/layers/attention.py)):
#
# $$ A_{bhnm} = \operatorname{softmax}_m\!\left(\frac{1}{\sqrt{S}} \sum_s q_{bnhs}\, k_{bmhs}\right), \qquad y_{bnhs} = \sum_m A_{bhnm}\, v_{bmhs} $$
#
# Division by $\sqrt{S}$ keeps the scores at the size of one: a sum of $S$ products of independent numbers has variance $S$.


# %%
def attention(p, x):
    q, k, v = jnp.einsum("bnd,dahs->abnhs", x, p["qkv"]["kernel"]) + p["qkv"]["bias"][:, None, None]
    scores = jnp.einsum("bnhs,bmhs->bhnm", q, k) / q.shape[-1] ** 0.5
    mixed = jnp.einsum("bhnm,bmhs->bnhs", jax.nn.softmax(scores, axis=-1), v)
    return jnp.einsum("bnhs,hsd->bnd", mixed, p["out"]["kernel"]) + p["out"]["bias"]


# %% [markdown]
# ## adaLN-zero
#
# How does a block learn the time and the class? One could add them to the tokens. In DiT they set the norm. A vector $c$ of time and class gives
# each block six vectors: a shift $b$, a scale $s$ and a gate $g$ for the attention, and three more for the perceptron
# ([`models.layers.blocks.Block`](../../diffusion/models/layers/blocks.py)):
#
# $$ x \leftarrow x + g \odot f\big((1 + s) \odot \operatorname{norm}(x) + b\big), \qquad (b, s, g) = W c + w, \qquad f = \text{attention, then perceptron} $$
#
# All $W$ and $w$ start at zero. So every gate is zero, and the blocks start as the identity, however many there are: that is the
# "zero" of the name. Figure 5 of the paper compares adaLN-zero with three other ways to use the condition, and it is the best.


# %%
def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def vectors(p, c):
    """Vectors of the condition for every token: [B, D] -> [count, B, 1, D]."""
    return (jnp.einsum("bd,dkw->kbw", c, p["kernel"]) + p["bias"][:, None])[:, :, None]


def block(p, x, c):
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors(p["modulation"]["dense"], c)
    x = x + gate_a * attention(p["attention"], (1 + scale_a) * norm(x) + shift_a)
    h = jax.nn.gelu(dense(p["mlp"]["hidden"], (1 + scale_m) * norm(x) + shift_m))
    return x + gate_m * dense(p["mlp"]["out"], h)


# %% [markdown]
# ## The network
#
# The network has patches, positions, blocks, and a last layer that makes each token a patch again. The blocks differ only in
# their parameters, so these are stacked along a first axis, and `jax.lax.scan` goes along it: one block is compiled, whatever
# the depth.


# %%
def condition_vector(params, t, label):
    p = params["timestep_embedding"]
    time = dense(p["out"], jax.nn.silu(dense(p["hidden"], time_features(t))))
    return jax.nn.silu(time + params["label_embedding"]["embedding"][label])


def dit(params, x, t, label):
    """(x_t [B, H, W, 1], the clock [B] in 0 .. 1000, classes [B], of which 10 is "none") -> [B, H, W, 1]."""
    height, width = x.shape[1:3]
    c = condition_vector(params, t, label)
    tokens = dense(params["patch_embedding"], patchify(x)) + positions(height // PATCH, width // PATCH)
    tokens, _ = jax.lax.scan(lambda tokens, p: (block(p, tokens, c), None), tokens, params["blocks"])
    shift, scale = vectors(params["final_modulation"]["dense"], c)
    return unpatchify(dense(params["final"], (1 + scale) * norm(tokens) + shift), height, width)


# %% [markdown]
# ## The same network in the library
#
# Parameters are arrays in nested dictionaries. With the library's names, both networks take the same dictionary.


# %%
def init(key):
    keys = iter(jax.random.split(key, 16))
    normal = lambda shape, scale: scale * jax.random.normal(next(keys), shape)
    dense = lambda m, n, *stack: {"kernel": normal((*stack, m, n), m**-0.5), "bias": jnp.zeros((*stack, n))}
    zeros = lambda *shape: {"kernel": jnp.zeros(shape), "bias": jnp.zeros((*shape[:-3], *shape[-2:]))}
    size = WIDTH // HEADS
    qkv = {"kernel": normal((DEPTH, WIDTH, 3, HEADS, size), WIDTH**-0.5), "bias": jnp.zeros((DEPTH, 3, HEADS, size))}
    out = {"kernel": normal((DEPTH, HEADS, size, WIDTH), WIDTH**-0.5), "bias": jnp.zeros((DEPTH, WIDTH))}
    return {
        "patch_embedding": dense(PATCH * PATCH, WIDTH),
        "timestep_embedding": {"hidden": dense(256, WIDTH), "out": dense(WIDTH, WIDTH)},
        "label_embedding": {"embedding": normal((CLASSES + 1, WIDTH), 0.02)},
        "blocks": {
            "modulation": {"dense": zeros(DEPTH, WIDTH, 6, WIDTH)},
            "attention": {"qkv": qkv, "out": out},
            "mlp": {"hidden": dense(WIDTH, 4 * WIDTH, DEPTH), "out": dense(4 * WIDTH, WIDTH, DEPTH)},
        },
        "final_modulation": {"dense": zeros(WIDTH, 2, WIDTH)},
        "final": {"kernel": jnp.zeros((WIDTH, PATCH * PATCH)), "bias": jnp.zeros(PATCH * PATCH)},
    }


def moved(params, key, scale):
    """Parameters that are moved at random, so that no layer is zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten([a + scale * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys)])


params = init(jax.random.key(0))
print(f"{sum(a.size for a in jax.tree.leaves(params)):,} parameters")

library = models.DiT(patch=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS, num_classes=CLASSES)
x = jax.random.normal(jax.random.key(1), (8, 8, 8, 1))
t = jnp.linspace(0, 1000, 8)
label = jnp.array([0, 1, 2, 3, 4, 8, 9, 10])
random = moved(params, jax.random.key(2), 0.02)
ours = dit(random, x, t, label)
theirs = library.apply({"params": random}, x, t, label)
print(f"outputs of size {float(jnp.abs(ours).max()):.2f}; largest difference {float(jnp.abs(ours - theirs).max()):.1e}")
assert jnp.abs(ours).max() > 0.1 and jnp.abs(ours - theirs).max() < 1e-6

tokens = jax.random.normal(jax.random.key(3), (8, 16, WIDTH))
first_block = jax.tree.map(lambda a: a[0], params["blocks"])
assert (block(first_block, tokens, condition_vector(params, t, label)) == tokens).all()  # the identity at the start

# %% [markdown]
# ## Digits at once
#
# The package has the weights of this network: the recipe `digits` trained it for 3,000 steps, and predicts the velocity of
# the straight path. Our eighty lines take its dictionary as it is. `small_digits.py` has digits that it has not seen, a judge
# of their class, and the distance to them. The weights know an eleventh class, "none", for guidance
# ([notebook 5](05_guidance.ipynb)).

# %%
run = trained_run.load("digits")
schedule, velocity = run.schedule, run.recipe.parameterization
trained = run.params["params"]
assert jax.tree.map(jnp.shape, trained) == jax.tree.map(jnp.shape, params)

# %% tags=["picture"]
pictures = small_digits.samples(dit, trained, schedule, velocity, scales=(1.0, 2.0))
small_digits.draw_rows(pictures)

# %%
recognised = small_digits.judge(pictures)
assert recognised["samples, w = 2"] > 0.9

# %% [markdown]
# ## Training
#
# The loop that makes such weights is `small_training.py` again, with another network. The loss is
# [`objectives.flow_matching`](../../diffusion/objectives/flow_matching.py), and the class of every tenth digit is dropped
# ([`objectives.with_condition_dropout`](../../diffusion/objectives/conditioning.py)). A tenth of the package's steps shows how
# the loss falls; with 3,000 the pictures are as good as those above.

# %%
STEPS = 300
objective = objectives.with_condition_dropout(
    objectives.flow_matching(timesteps.uniform_density(schedule), clock=velocity.clock), null=CLASSES, rate=0.1
)
_, losses = small_training.train(
    objective, schedule, params, small_digits.draw, steps=STEPS, batch=64, network=dit, rate=2e-3
)
print(f"mean loss of the first 20 steps {losses[:20].mean():.3f}, of the last 100 {losses[-100:].mean():.3f}")
assert losses[-100:].mean() < 0.6 * losses[:20].mean()

# %% [markdown]
# ## What the gates do with the time
#
# Every gate was zero at the start. We draw the mean size of the gates of each block over $t$, for the class 3, and the scales
# of the norm for the last block. The network uses the time: with much noise it computes something else than with little.

# %%
time = jnp.linspace(0.0, 1.0, 60)
c = condition_vector(trained, velocity.clock(schedule, time), jnp.full(60, 3))
figure, panels = plt.subplots(1, 3, figsize=(7.5, 2.7))
for number in range(DEPTH):
    p = jax.tree.map(lambda a, n=number: a[n], trained["blocks"])
    _, _, gate_a, _, scale_m, gate_m = jnp.abs(vectors(p["modulation"]["dense"], c)).mean((2, 3))
    panels[0].plot(time, gate_a, label=f"block {number + 1}")
    panels[1].plot(time, gate_m, label=f"block {number + 1}")
    panels[2].plot(time, scale_m, label=f"block {number + 1}")
panels[0].set(xlabel="t  (0 data, 1 noise)", ylabel="mean |gate|", title="gates of the attention", ylim=(0, None))
panels[1].set(xlabel="t  (0 data, 1 noise)", title="gates of the perceptron", ylim=(0, None))
panels[2].set(
    xlabel="t  (0 data, 1 noise)", ylabel="mean |scale|", title="scales before the perceptron", ylim=(0, None)
)
panels[0].legend()
plt.show()
assert gate_a.min() > 0

# %% [markdown]
# ## What you take with you
#
# - A DiT is four einsums for attention, two dense layers, and norms that the condition sets. Nothing in it knows that its tokens
#   are a picture, apart from patches and positions. So the same blocks make series, clips and sets.
# - adaLN-zero starts a deep network as the identity. It costs parameters rather than time: here a third of a block's weights
#   make its six vectors.
# - What later papers change is small in this code: rotary positions, RMS norms, SwiGLU, normalised queries and keys are options of
#   [`models.DiT`](../../diffusion/models/dit.py), and [`models.lightning_dit_preset`](../../diffusion/models/lightning_dit.py) sets the first three.
#
# **Try it**: take the positions away. What can the network no longer know? Show it without training.

# %% tags=["solution"]
permutation = jax.random.permutation(jax.random.key(5), 16)
# Without positions the tokens are a set: permuted patches give the same output, permuted.
shuffled = lambda x: unpatchify(patchify(x)[:, permutation], 8, 8)


def change_by_permutation():
    return float(jnp.abs(dit(trained, shuffled(x), t, label) - shuffled(dit(trained, x, t, label))).max())


gaps = {"with": change_by_permutation()}
with_positions, positions = positions, lambda rows, columns: 0.0
gaps["without"] = change_by_permutation()
positions = with_positions
for name, gap in gaps.items():
    print(f"{name} positions, permuted patches change the output by up to {gap:.1e}")
assert gaps["without"] < 1e-4 < 0.1 < gaps["with"]

# %% [markdown]
# Next: [7. Latents](07_latents.ipynb)
