"""Terms on a network's features, against their formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.objectives import feature_losses, projectors
from diffusion.objectives.inputs import apart

SCHEDULE = schedules.rectified_flow()
BASE = objectives.flow_matching(timesteps.uniform_density(SCHEDULE))
KEYS = jax.random.split(jax.random.key(0), 6)
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
FEATURES = np.random.default_rng(1).normal(size=(6, 4, 5)).astype(np.float32)
TARGETS = np.random.default_rng(2).normal(size=(6, 4, 5)).astype(np.float32)


def run(objective, features, step=0, /, **networks):
    """On a network whose features after k blocks are k times these, with projectors that change nothing."""

    def model(x, t, c, features=(), all_of=features):
        return (0.5 * x, tuple(k * all_of for k in features)) if features else 0.5 * x

    networks = {"model": model, "term": lambda h, shape: h, "term_2": lambda h, shape: h, **networks}
    return objective(networks, SCHEDULE, KEYS, {"x": jnp.asarray(X), "condition": None}, step)


def plain():
    return BASE({"model": lambda x, t, c: 0.5 * x}, SCHEDULE, KEYS, {"x": jnp.asarray(X)}, 0)[0]


def of_targets(x, clock, condition):
    return jnp.asarray(TARGETS)


def cosines(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_alignment_is_minus_the_mean_cosine_to_the_encoder_of_clean_data():
    calls = []

    def encoder(x, clock, condition):
        calls.append(x)
        return jnp.asarray(TARGETS)

    losses, metrics = run(objectives.added(BASE, objectives.alignment()), jnp.asarray(FEATURES), encoder=encoder)
    expected = cosines(FEATURES, TARGETS).mean(1)
    np.testing.assert_allclose(metrics["term"], -expected, rtol=1e-5)
    np.testing.assert_allclose(losses, plain() - 0.5 * expected, rtol=1e-5)
    np.testing.assert_array_equal(calls[0], X)


def test_structured_alignment_adds_relations_of_tokens_and_a_critic():
    """By hand; the critic's parameter moves by its own loss alone, the features by the rest alone."""
    term = objectives.structured_alignment(0.3, 0.2, layer=1, weight=1.0)
    objective = objectives.added(BASE, term)
    assert set(objective.heads) == {"term", "term_critic"} and objective.beside.encoder

    def of(scale, features):
        judge = lambda h, shape: scale * h.sum(-1, keepdims=True)
        return run(objective, features, encoder=of_targets, term_critic=judge)[1]["term"]

    value = of(jnp.asarray(0.5), jnp.asarray(FEATURES))
    unit = lambda h: h / np.linalg.norm(h, axis=-1, keepdims=True)
    relations = lambda h: np.einsum("bnd,bmd->bnm", unit(h), unit(h))
    structure = ((relations(FEATURES) - relations(TARGETS)) ** 2).mean((1, 2))
    soft = lambda logits: np.log1p(np.exp(logits)).mean(1)
    fake = 0.5 * FEATURES.sum(-1)
    real = 0.5 * TARGETS.sum(-1)
    own = 0.5 * (soft(-real) + soft(fake))
    expected = -cosines(FEATURES, TARGETS).mean(1) + 0.3 * structure + 0.2 * (soft(-fake) + own)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    by_critic, by_features = jax.grad(lambda *both: of(*both).sum(), (0, 1))(jnp.asarray(0.5), jnp.asarray(FEATURES))
    gate = lambda logits: 1 / (1 + np.exp(-logits))
    judged = 0.1 * (-TARGETS.sum(-1) * gate(-real) + FEATURES.sum(-1) * gate(fake))
    np.testing.assert_allclose(by_critic, judged.mean(1).sum(), rtol=1e-4)
    plainly = jax.grad(lambda h: of_parts(h).sum())(jnp.asarray(FEATURES))
    np.testing.assert_allclose(by_features, plainly, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="structure = -1 must not be negative"):
        objectives.structured_alignment(-1, 0.0)


def of_parts(h):
    """The parts of that term that reach features h, `[B]`."""
    unit = lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True)
    relations = lambda h: jnp.einsum("bnd,bmd->bnm", unit(h), unit(h))
    y = jnp.asarray(TARGETS)
    cosine = (unit(h) * unit(y)).sum(-1).mean(1)
    structure = jnp.square(relations(h) - relations(y)).mean((1, 2))
    return -cosine + 0.3 * structure + 0.2 * jax.nn.softplus(-0.5 * h.sum(-1)).mean(1)


@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_normalised_targets_are_what_differs_between_tokens(size):
    """As the authors' code of iREPA: (y - a mean) / (std + 1e-6) over the tokens, std with Bessel's correction."""
    term = objectives.alignment(normalisation=0.6)
    targets = size * TARGETS.astype(np.float64)
    encoder = lambda *_: jnp.asarray(targets, jnp.float32)
    _, metrics = run(objectives.added(BASE, term), jnp.asarray(FEATURES), encoder=encoder)
    y = (targets - 0.6 * targets.mean(1, keepdims=True)) / (targets.std(1, keepdims=True, ddof=1) + 1e-6)
    np.testing.assert_allclose(metrics["term"], -cosines(FEATURES, y).mean(1), rtol=1e-4)


def test_alignment_of_equal_features_is_minus_one_and_moves_features_alone():
    def term(features, targets):
        return run(objectives.added(BASE, objectives.alignment()), features, encoder=lambda *_: targets)[1][
            "term"
        ].sum()

    along = jnp.asarray(3 * TARGETS)
    np.testing.assert_allclose(term(along, jnp.asarray(TARGETS)), -6, rtol=1e-6)
    by_features, by_targets = jax.grad(term, (0, 1))(along, jnp.asarray(TARGETS))
    np.testing.assert_allclose(by_features, 0, atol=1e-6)
    assert np.abs(jax.grad(term)(jnp.asarray(FEATURES), jnp.asarray(TARGETS))).max() > 1e-2
    np.testing.assert_array_equal(by_targets, 0)
    assert np.isfinite(jax.grad(term)(jnp.zeros((6, 4, 5)), jnp.asarray(TARGETS))).all()


def test_a_weight_that_decays_is_the_authors_from_epoch_to_epoch():
    """SRA's train.py: 2 x 0.1^((epoch - 149) / 1000 + 1) after epoch 149, 0.2 up to there; of 10 steps an epoch."""
    term = objectives.self_alignment(parameterizations.velocity(), decay=(1490, 10_000))
    weights = [float(feature_losses._weight(term, 10 * epoch)) for epoch in (0, 149, 249, 1149)]
    authors = [2 * 0.1 ** ((epoch - 149) / 1000 + 1 if epoch > 149 else 1) for epoch in (0, 149, 249, 1149)]
    np.testing.assert_allclose(weights, authors, rtol=1e-6)
    with pytest.raises(ValueError, match=r"decay = \(10, 0\) must be a first step and a positive number of steps"):
        objectives.self_alignment(parameterizations.velocity(), decay=(10, 0))


@pytest.mark.parametrize("term", [
    objectives.alignment(weight=0.0), objectives.alignment(until=7), objectives.dispersive(2, 3, weight=0.0)
], ids=["alignment", "after its end", "dispersive"])  # fmt: skip
def test_a_term_without_weight_leaves_the_objective_as_it_is(term):
    losses, metrics = run(objectives.added(BASE, term), jnp.asarray(FEATURES), 7, encoder=of_targets)
    np.testing.assert_array_equal(losses, plain())
    assert np.abs(metrics["term"]).max() > 0.01
    if term.until:
        assert np.abs(run(objectives.added(BASE, term), FEATURES, 6, encoder=of_targets)[0] - plain()).max() > 0.01


@pytest.mark.parametrize(
    "make",
    [
        objectives.alignment,
        lambda layer, **more: objectives.structured_alignment(1.0, 0.0, layer, **more),
        lambda layer, **more: objectives.dispersive(layer, 2, **more),
        lambda layer, **more: objectives.self_alignment(parameterizations.velocity(), layer, **more),
        lambda layer, **more: objectives.early_prediction(parameterizations.velocity(), layer, **more),
    ],
)
def test_a_term_has_its_chosen_layer_weight_end_and_projector(make):
    term = make(3, weight=0.7, until=9)
    assert (term.layers[0], term.weight, term.until) == (3, 0.7, 9)
    if term.projector is not None:
        mine = projectors.mlp(5)
        assert make(3, projector=mine).projector is mine


def test_terms_add_up_and_each_has_the_features_of_its_layer():
    both = objectives.added(BASE, objectives.dispersive(2, 3), objectives.alignment(layer=1))
    assert (
        both.blocks.features == (2, 1)
        and both.beside.encoder
        and both.examples.block == 3
        and set(both.heads) == {"term_2"}
    )
    losses, metrics = run(both, jnp.asarray(FEATURES), encoder=of_targets)
    alone = run(objectives.added(BASE, objectives.dispersive(1, 3)), jnp.asarray(2 * FEATURES))[1]["term"]
    np.testing.assert_array_equal(metrics["term"], alone)
    np.testing.assert_allclose(losses, plain() + 0.5 * metrics["term"] + 0.5 * metrics["term_2"], rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_dispersive_is_its_formula_within_each_block(temperature):
    """The log of the mean of exp(-|h_i - h_j|^2 / (D temperature)) over the full matrix of pairs."""
    term = objectives.dispersive(1, 3, temperature)
    _, metrics = run(objectives.added(BASE, term), jnp.asarray(FEATURES))
    flat = FEATURES.reshape(6, -1)
    for block in (slice(0, 3), slice(3, 6)):
        h = flat[block]
        distances = [((a - b) ** 2).sum() / 20 for a in h for b in h]
        expected = np.log(np.mean(np.exp(-np.array(distances) / temperature)))
        np.testing.assert_allclose(metrics["term"][block], expected, rtol=1e-5)


def test_dispersive_pushes_features_apart():
    value = lambda h: run(objectives.added(BASE, objectives.dispersive(1, 2)), h)[1]["term"].sum()
    h = jnp.array([[1.0], [2.0]] * 3)
    slope = jax.grad(value)(h)
    assert slope[0, 0] > 0 > slope[1, 0]  # descending moves them away from each other
    np.testing.assert_allclose(slope.sum(), 0, atol=1e-6)


def test_self_alignment_follows_the_average_at_a_lower_noise():
    """The features of this network are its own input: those of the average are x_s = (1 - s) x_0 + s eps."""
    velocity = parameterizations.velocity()
    seen = {}

    def network(name):
        def apply(x, clock, condition, features=()):
            seen[name] = (x, clock, features)
            return (x, (x[:, None],)) if features else x

        return apply

    term = objectives.self_alignment(velocity, layer=1, teacher_layer=4, interval=0.4, beta=0.1)
    networks = {"model": network("model"), "target": network("target"), "term": lambda h, shape: h}
    objective = objectives.added(BASE, term)
    batch = {"x": jnp.asarray(X), "condition": None}
    metrics = objective(networks, SCHEDULE, KEYS, batch, 0)[1]
    x_t = np.asarray(seen["model"][0], np.float64)
    t = np.asarray(metrics["t"], np.float64)[:, None]
    s = np.asarray(seen["target"][1], np.float64)[:, None]
    assert (s >= 0).all() and ((s == 0) | (s > t - 0.4)).all() and (s < t).all() and np.ptp(t - s) > 0.05
    x_s = (1 - s) * X + s * (x_t - (1 - t) * X) / t
    np.testing.assert_allclose(seen["target"][0], x_s, rtol=1e-3, atol=1e-5)
    assert seen["target"][2] == (4,)
    error = np.abs(x_t - x_s)
    expected = np.where(error < 0.1, error**2 / 0.2, error - 0.05).mean(1)
    np.testing.assert_allclose(metrics["term"], expected, rtol=1e-3, atol=1e-6)
    scaled = lambda a: {**networks, "target": lambda *x, features: (0.0, (a * x[0][:, None],))}
    assert jax.grad(lambda a: objective(scaled(a), SCHEDULE, KEYS, batch, 0)[0].sum())(1.0) == 0


def test_self_alignment_rebuilds_the_input_of_any_network():
    """Of EDM's: c_in x_s and ln(sigma_s) / 4 at the same noise, under the condition, down to the least sigma."""
    schedule, interval, rng = schedules.edm(), 0.4, np.random.default_rng(4)
    eps, t = rng.normal(size=(6, 3)), np.array([2.5e-5, 0.1, 0.3, 0.5, 0.8, 1.0])
    c_in = lambda sigma: 1 / np.sqrt(sigma**2 + 0.25)
    sigma_t = 80 * t[:, None]
    x = jnp.asarray(c_in(sigma_t) * (X + sigma_t * eps), jnp.float32)
    calls = []

    def target(x, clock, condition, features=()):
        calls.append((x, clock, condition))
        return x, (jnp.zeros((6, 4, 5)),)

    term = objectives.self_alignment(parameterizations.edm(0.5), interval=interval)
    batch = {"x": jnp.asarray(X), "condition": jnp.arange(6)}
    read = (jnp.asarray(FEATURES),), lambda h: h, x, jnp.asarray(t, jnp.float32)
    term.loss(feature_losses.Seen(*read, {"target": target}, schedule, batch, KEYS))
    ((x_s, clock, condition),) = calls
    sigma = np.exp(4 * np.asarray(clock, np.float64))[:, None]
    s = sigma[:, 0] / 80
    assert (s <= t * (1 + 1e-5)).all() and (s > np.maximum(t - interval, 0)).all() and np.ptp(t - s) > 0.1
    np.testing.assert_allclose(sigma[0], 0.002, rtol=1e-5)
    np.testing.assert_allclose(x_s, c_in(sigma) * (X + sigma * eps), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(condition, batch["condition"])


def test_the_draws_of_a_term_are_none_of_the_objective():
    """Of one key, `uniform` is the normal distribution's function of `normal`: the same number, drawn twice."""
    drawn, seen = [], []

    def draw(read):
        seen.append((read.x, read.t))
        drawn.append(jax.vmap(jax.random.uniform)(read.keys))
        return jnp.zeros(6)

    run(objectives.added(BASE, *(objectives.Term(draw, (layer,), 1.0) for layer in (1, 2))), jnp.asarray(FEATURES))
    x_t, t = (np.asarray(value, np.float64) for value in seen[0])
    shares = scipy.stats.norm.cdf((x_t - (1 - t[:, None]) * X) / t[:, None])
    for u in map(np.asarray, drawn):
        assert (np.abs(u[:, None] - np.c_[shares, t]) > 1e-5).all()
    split = jax.random.key_data(jax.vmap(lambda key: jax.random.split(key, 8))(KEYS))
    assert (jax.random.key_data(apart(KEYS, 1))[:, None] != split).any(-1).all()


def test_terms_of_two_blocks_compare_within_both():
    both = objectives.added(BASE, objectives.dispersive(1, 4), objectives.dispersive(2, 6))
    assert both.examples.block == 12


def test_a_critic_has_one_logit_for_each_token():
    objective = objectives.added(BASE, objectives.structured_alignment(0.3, 0.2))
    params = jax.eval_shape(lambda key: objective.heads["term_critic"].init(key, 5, 7), jax.random.key(0))
    shapes = [params[f"dense_{i}"]["kernel"].shape for i in range(3)]
    assert shapes == [(7, 512), (512, 512), (512, 1)]


def test_projectors_are_the_published_ones():
    h = jnp.asarray(np.random.default_rng(3).normal(size=(2, 6, 5)), jnp.float32)
    three = projectors.mlp(7)
    params = three.init(jax.random.key(0), 5, 4)
    silu = lambda a: a / (1 + np.exp(-a))
    a = np.asarray(h) @ np.asarray(params["dense_0"]["kernel"])
    a = silu(silu(a) @ np.asarray(params["dense_1"]["kernel"])) @ np.asarray(params["dense_2"]["kernel"])
    np.testing.assert_allclose(three.apply(params, h, (4, 6, 3)), a, rtol=1e-4, atol=1e-5)

    around = projectors.convolution()
    params = around.init(jax.random.key(0), 5, 4)
    padded = np.pad(np.asarray(h).reshape(2, 2, 3, 5), ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = np.asarray(params["kernel"])
    grid = [
        sum(padded[:, i + k, j + m] @ kernel[k, m] for k in range(3) for m in range(3))
        for i in (0, 1)
        for j in range(3)
    ]
    expected = np.stack(grid, 1) + np.asarray(params["bias"])
    np.testing.assert_allclose(around.apply(params, h, (4, 6, 3)), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no grid"):
        around.apply(params, h, (4, 4, 3))


def test_a_last_layer_is_modulated_by_its_own_input():
    """c = silu(h), (shift, scale) = dense(silu(c)), out = dense(s rms(c) (1 + scale) + shift)."""
    drawn = np.random.default_rng(4).normal
    h, width = drawn(size=(2, 6, 5)).astype(np.float32), 4
    sizes = jax.eval_shape(lambda key: projectors.final_layer().init(key, 5, width), jax.random.key(0))
    params = jax.tree.map(lambda leaf: drawn(size=leaf.shape).astype(np.float32), sizes)
    silu = lambda a: a / (1 + np.exp(-a))
    dense = lambda name, a: a @ params[name]["kernel"] + params[name]["bias"]
    c = silu(np.float64(h))
    shift, scale = np.split(dense("modulation", silu(c)), 2, axis=-1)
    normed = params["norm"]["scale"] * c / np.sqrt(np.square(c).mean(-1, keepdims=True) + 1e-6)
    found = projectors.final_layer().apply(params, jnp.asarray(h), (4, 6, 3))
    np.testing.assert_allclose(found, dense("dense", normed * (1 + scale) + shift), rtol=1e-4, atol=1e-4)


def test_tokens_become_the_pixels_of_their_patches_row_by_row():
    """Of 2 x 3 patches of 2 x 2 pixels with 3 channels; pixel (i, j) tells its place."""
    picture = np.arange(4 * 6 * 3, dtype=np.float32).reshape(1, 4, 6, 3)
    patches = [picture[0, i : i + 2, j : j + 2].reshape(-1) for i in (0, 2) for j in (0, 2, 4)]
    np.testing.assert_array_equal(projectors.untokens(jnp.asarray([patches]), (4, 6, 3)), picture)


def test_projectors_begin_with_the_published_draws():
    """Glorot's uniform kernels of dense layers, PyTorch's uniform ones of the convolution, and no last layer."""

    def spans(leaf, bound):
        leaf = np.asarray(leaf, np.float64)
        assert 0.98 * bound < np.abs(leaf).max() <= bound * (1 + 1e-6)
        assert abs(leaf.mean()) < 5 * bound / np.sqrt(3 * leaf.size)

    begun = lambda projector, *sizes: jax.jit(lambda key: projector.init(key, *sizes))(jax.random.key(0))
    params = begun(projectors.mlp(300), 20, 50)
    for i, (inputs, outputs) in enumerate([(20, 300), (300, 300), (300, 50)]):
        spans(params[f"dense_{i}"]["kernel"], np.sqrt(6 / (inputs + outputs)))
        assert not np.any(params[f"dense_{i}"]["bias"])
    params = begun(projectors.convolution(5), 20, 300)
    for leaf in params.values():
        spans(leaf, 1 / np.sqrt(20 * 25))
    params = begun(projectors.final_layer(), 4, 6)
    assert {name: {part: (leaf.shape, leaf.min(), leaf.max()) for part, leaf in layer.items()}
            for name, layer in params.items()} == {
        "norm": {"scale": ((4,), 1, 1)},
        "modulation": {"kernel": ((4, 8), 0, 0), "bias": ((8,), 0, 0)},
        "dense": {"kernel": ((4, 6), 0, 0), "bias": ((6,), 0, 0)},
    }  # fmt: skip


@pytest.mark.parametrize("call, message", [
    (lambda: objectives.dispersive(1, 1), "block = 1"),
    (lambda: objectives.dispersive(0, 2), "layer = 0"),
    (lambda: objectives.alignment(layer=0), "layer = 0"),
    (lambda: objectives.self_alignment(parameterizations.velocity(), interval=0.0), "interval = 0"),
    (lambda: projectors.mlp(0), "hidden = 0"),
    (lambda: projectors.convolution(2), "side = 2"),
    (lambda: objectives.dispersive(1, 2, 0.0), "temperature = 0"),
    (lambda: run(objectives.added(BASE, objectives.dispersive(1, 4)), jnp.asarray(FEATURES)),
     "is not a multiple of block"),
    (lambda: run(objectives.added(BASE, objectives.alignment()), jnp.asarray(FEATURES)), "named 'encoder'"),
    (lambda: run(objectives.added(BASE, objectives.alignment()), jnp.asarray(FEATURES),
                 encoder=lambda x, t, c: jnp.zeros((6, 9, 5))), "9 tokens for a picture, but layer 8 .* has 4"),
    (lambda: objectives.added(BASE, objectives.dispersive(1, 2))(
        {"model": lambda x, t, c, features: x}, SCHEDULE, KEYS, {"x": X}, 0), r"\(output, features\)"),
    (lambda: objectives.added(
        objectives.Objective(lambda networks, *_: (networks["model"](X, X, None), networks["model"](X, X, None))),
        objectives.dispersive(1, 2))(
        {"model": lambda x, t, c, features: (x, (x,))}, SCHEDULE, KEYS, {"x": X}, 0), "2 times"),
    (lambda: objectives.added(objectives.mean_flow(timesteps.uniform_density(SCHEDULE)), objectives.dispersive(1, 2)),
     "differentiates it"),
])  # fmt: skip
def test_impossible_terms_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
