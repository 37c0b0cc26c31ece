"""The transformer of symbols: against its equations in float64, its published sizes, and what each choice removes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, models

SIZE, WIDTH, HEADS, LENGTH = 7, 16, 2, 5
KINDS = {
    "time": {},
    "time, class": {"num_classes": 3, "condition_width": 6},
    "nothing": {"clock": "none", "tied": True},
    "class": {"clock": "none", "num_classes": 3, "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True},
}
every = pytest.mark.parametrize("kind", KINDS)


def network_of(kind, **fields):
    return models.SymbolTransformer(SIZE, WIDTH, 2, HEADS, **KINDS[kind] | fields)


def inputs(kind):
    x = np.array([[6, 0, 3, 1, 6], [2, 6, 5, 0, 4]], np.int32)
    return x, np.array([0.3, 2.5], np.float32), np.array([0, 2]) if "num_classes" in KINDS[kind] else None


def parameters(network, *arguments):
    """Numbers that are nowhere zero."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)["params"]
    rng = np.random.default_rng(0)

    def leaf(path, shape):
        noise = rng.normal(size=shape.shape)
        scale = path[-1].key == "scale"
        return jnp.asarray(1 + 0.2 * noise if scale else noise / max(np.prod(shape.shape[:-1]), 4) ** 0.5, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def made(kind):
    network = network_of(kind)
    return parameters(network, *inputs(kind)), jax.jit(lambda p, *a: network.apply({"params": p}, *a))


def written_out(params, x, t):
    """The equations of the network of "time", one example, in float64: SEDD's `DDiTBlock`, an operation a line."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    silu = lambda a: a / (1 + np.exp(-a))
    gelu = lambda a: a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
    dense = lambda layer, a: a @ layer["kernel"] + layer["bias"]

    def norm(scale, a):
        centred = a - a.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale

    def rotated(a):
        """Features i and i + 2 of each half of four are a complex number, which turns by n 10000^(-k / 4)."""
        out = a.copy()
        for half in (0, 1):
            for i in (0, 1):
                first, second = 4 * half + i, 4 * half + i + 2
                angles = np.arange(len(a))[:, None] * 10_000.0 ** (-(2 * i + half) / 4)
                number = (a[..., first] + 1j * a[..., second]) * np.exp(1j * angles)
                out[..., first], out[..., second] = number.real, number.imag
        return out

    clock = p["condition"]["timestep_embedding"]
    angles = t * 10_000.0 ** (-np.arange(128) / 128)
    c = silu(dense(clock["out"], silu(dense(clock["hidden"], np.concatenate([np.cos(angles), np.sin(angles)])))))
    h = p["table"][x]
    for i in range(2):
        block = jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"])
        modulation = np.einsum("c,cmd->md", c, block["modulation"]["dense"]["kernel"])
        modulation += block["modulation"]["dense"]["bias"]
        read = norm(block["attention_norm"]["scale"], h) * (1 + modulation[1]) + modulation[0]
        q, k, v = np.einsum("nd,dphs->pnhs", read, block["attention"]["qkv"]["kernel"])
        scores = np.exp(np.einsum("nhs,mhs->hnm", rotated(q), rotated(k)) / np.sqrt(8))
        mixed = np.einsum("hnm,mhs->nhs", scores / scores.sum(-1, keepdims=True), v)
        h = h + modulation[2] * np.einsum("nhs,hsd->nd", mixed, block["attention"]["out"]["kernel"])
        read = norm(block["mlp_norm"]["scale"], h) * (1 + modulation[4]) + modulation[3]
        h = h + modulation[5] * dense(block["mlp"]["out"], gelu(dense(block["mlp"]["hidden"], read)))
    last = p["final_modulation"]["dense"]
    shift, scale = np.einsum("c,cmd->md", c, last["kernel"]) + last["bias"]
    return dense(p["final"], norm(p["final_norm"]["scale"], h) * (1 + scale) + shift)


@pytest.mark.extended
def test_the_network_is_its_equations():
    params, apply = made("time")
    x, t, _ = inputs("time")
    found = apply(params, x, t, None)
    for i in range(2):
        np.testing.assert_allclose(found[i], written_out(params, x[i], float(t[i])), rtol=2e-4, atol=2e-5)


@pytest.mark.extended
def test_a_position_with_probabilities_receives_their_mean_row():
    params, apply = made("time")
    x, t, _ = inputs("time")
    one_hot = jax.nn.one_hot(x, SIZE)
    np.testing.assert_allclose(apply(params, one_hot, t, None), apply(params, x, t, None), rtol=1e-5, atol=1e-6)
    mixed = params | {"table": params["table"].at[6].set(0.25 * params["table"][1] + 0.75 * params["table"][4])}
    soft = np.where((x == 6)[..., None], 0.25 * np.eye(SIZE)[1] + 0.75 * np.eye(SIZE)[4], one_hot).astype(np.float32)
    np.testing.assert_allclose(apply(params, soft, t, None), apply(mixed, x, t, None), rtol=1e-4, atol=1e-5)


@pytest.mark.extended
def test_other_outputs_are_another_last_layer_of_the_same_tokens():
    """Its kernel put in place of that of the symbols: a product of the tokens, whose first columns are the same."""
    x, t, _ = inputs("time")
    params, apply = made("time")
    kernel, bias = params["final"]["kernel"], params["final"]["bias"]
    few = params | {"final": {"kernel": kernel[:, :3], "bias": bias[:3]}}
    found = network_of("time", outputs=3).apply({"params": few}, x, t)
    np.testing.assert_allclose(found, apply(params, x, t, None)[..., :3], rtol=1e-5, atol=1e-5)
    soft = network_of("time", outputs=3).apply({"params": few}, jax.nn.one_hot(x, SIZE), t)
    np.testing.assert_allclose(soft, found, rtol=1e-4, atol=1e-5)
    for fields in ({"outputs": -1}, {"outputs": 3, "tied": True}):
        with pytest.raises(ValueError, match=r"outputs=.* must be 0 \(the symbols\), or positive with tied=False"):
            network_of("time", **fields).init(jax.random.key(0), x, t)


@pytest.mark.extended
def test_a_hollow_network_says_of_a_position_what_the_others_tell():
    params, apply = made("time, class")
    x, t, label = inputs("time, class")
    network = network_of("time, class", hollow=True)
    hollow = jax.jit(lambda *arguments: network.apply({"params": params}, *arguments))
    found = hollow(x, t, label)
    for position in (0, 3):
        unknown = jax.nn.one_hot(x, SIZE).at[:, position].set(1 / SIZE)
        expected = apply(params, unknown, t, label)[:, position]
        np.testing.assert_allclose(found[:, position], expected, rtol=1e-4, atol=1e-5)
    other = x.copy()
    other[:, 2] = (x[:, 2] + 1) % SIZE
    moved = np.abs(hollow(other, t, label) - found).max(-1)
    assert (moved[:, 2] < 1e-6).all() and (np.delete(moved, 2, 1) > 1e-4).all()
    with pytest.raises(ValueError, match="hollow=True: a network of the other positions returns its output alone"):
        network.apply({"params": params}, x, t, label, features=(1,))


def test_published_sizes_have_their_numbers_of_parameters():
    """MDLM's small network: 169.6 million by a published copy; by its card about 130 million beside the embedding."""

    def count(size):
        shapes = jax.eval_shape(
            models.symbol_transformer_preset(size).init, jax.random.key(0), jnp.zeros((1, 8), int), jnp.zeros(1)
        )["params"]
        number = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
        return number(shapes), number(shapes["table"])

    def by_hand(d, blocks, c=128, symbols=50_258):
        block = 2 * d + 4 * d * d + (8 * d * d + 5 * d) + (c + 1) * 6 * d  # norms, attention, MLP, modulation
        clock, last = 257 * c + (c + 1) * c, d + (d + 1) * symbols + (c + 1) * 2 * d
        return symbols * d + clock + blocks * block + last

    total, table = count("small")
    assert round(total / 1e6, 1) == 169.6 and round((total - table) / 1e7) == 13
    assert total == by_hand(768, 12)
    assert count("tiny")[0] == by_hand(512, 8) and count("medium")[0] == by_hand(1024, 24)


@pytest.mark.extended
@pytest.mark.parametrize("kind", [k if k == "nothing" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_every_parameter_has_a_gradient_and_types_are_float32(kind):
    """The score entropy of a masked process, whose data are the two examples without masks."""
    params, apply = made(kind)
    _, _, condition = inputs(kind)
    process = discrete.absorbing(discrete.linear(), SIZE)
    x0 = np.array([[1, 0, 3, 1, 2], [2, 5, 5, 0, 4]], np.int32)
    keys = jax.random.split(jax.random.key(2), 2)

    def loss(params):
        network = lambda x, t, condition: apply(params, x, t, condition)
        predict = discrete.predictor(network, process, discrete.from_logits, condition)
        return discrete.masked_bound(predict, process, keys, x0, jnp.array([0.5, 0.7])).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value) and value > 0
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(gradient))
    narrow = network_of(kind, dtype="bfloat16")
    output, variables = jax.eval_shape(narrow.init_with_output, jax.random.key(0), *inputs(kind))
    assert output.shape == (2, LENGTH, SIZE) and output.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.extended
@every
def test_what_a_choice_leaves_out_is_not_heard_and_has_no_parameters(kind):
    params, apply = made(kind)
    x, t, condition = inputs(kind)
    output = np.asarray(apply(params, x, t, condition))
    assert np.abs(output).max() > 0.1
    other = apply(params, x, t + 1, condition)
    assert (np.abs(other - output).max() > 1e-3) == ("time" in kind)
    if condition is not None:
        assert np.abs(apply(params, x, t, condition[::-1]) - output).max() > 1e-3
    assert ("condition" in params) == ("modulation" in params["blocks"]) == (kind != "nothing")
    assert ("final" in params) == (kind != "nothing")  # tied


@pytest.mark.extended
@every
def test_all_positions_see_all_others_and_examples_do_not_see_each_other(kind):
    params, apply = made(kind)
    x, t, condition = inputs(kind)
    output = np.asarray(apply(params, x, t, condition))
    for position in range(LENGTH):
        changed = x.copy()
        changed[0, position] = (x[0, position] + 1) % SIZE
        other = np.asarray(apply(params, changed, t, condition))
        assert (np.abs(other[0] - output[0]).max(-1) > 1e-5).all(), position
        np.testing.assert_array_equal(other[1], output[1])


@pytest.mark.extended
def test_sincos_positions_are_added_to_the_symbols():
    """Equal symbols differ by where they are; position 0 adds zeros and ones, sin 0 and cos 0."""
    params, _ = made("nothing")
    apply = jax.jit(lambda p, x, positions: network_of("nothing", positions=positions).apply({"params": p}, x),
                    static_argnums=2)  # fmt: skip
    equal = np.full((1, LENGTH), 3)
    rotary, added = (np.asarray(apply(params, equal, positions))[0] for positions in ("rope", "sincos"))
    np.testing.assert_allclose(rotary, np.broadcast_to(rotary[:1], rotary.shape), rtol=1e-4, atol=1e-4)
    assert min(np.abs(added[i] - added[j]).max() for i in range(LENGTH) for j in range(i)) > 1e-2
    states = lambda p, positions: network_of("nothing", positions=positions, tied=False).apply(
        {"params": p | {"final": {"kernel": params["table"].T, "bias": jnp.zeros(SIZE)}}}, equal[:, :1]
    )
    shifted = params | {"table": params["table"] + np.repeat([0.0, 1.0], WIDTH // 2)}
    np.testing.assert_allclose(states(params, "sincos"), states(shifted, "rope"), rtol=1e-5, atol=1e-5)


@pytest.mark.extended
@every
def test_bfloat16_is_close(kind):
    params, apply = made(kind)
    output = apply(params, *inputs(kind))
    narrow = network_of(kind, dtype="bfloat16")
    rounded = jax.jit(lambda p: narrow.apply({"params": p}, *inputs(kind)))(params)
    assert 0 < np.linalg.norm(rounded - output) / np.linalg.norm(output) < 0.1


@pytest.mark.extended
def test_features_stand_beside_the_output():
    params, apply = made("nothing")
    x, t, _ = inputs("nothing")
    output, (second, first) = network_of("nothing").apply({"params": params}, x, t, features=(2, 1))
    np.testing.assert_allclose(output, apply(params, x, t, None), rtol=1e-5, atol=1e-5)
    scaled = second - second.mean(-1, keepdims=True)
    scaled *= params["final_norm"]["scale"] / np.sqrt((scaled**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(scaled @ params["table"].T, output, rtol=1e-4, atol=1e-4)
    assert np.abs(first - second).max() > 1e-2


def test_known_symbols_are_checked_where_a_call_is_traced():
    x, beyond = jnp.zeros((1, LENGTH), jnp.int32), jnp.full((1, LENGTH), SIZE)
    jax.eval_shape(lambda: network_of("nothing").init(jax.random.key(0), x))
    with pytest.raises(ValueError, match=r"the symbols run from 7 to 7\. Valid: 0 \.\. 6, because size=7"):
        jax.eval_shape(lambda: network_of("nothing").init(jax.random.key(0), beyond))


def test_a_symbol_out_of_range_is_no_other_symbol():
    params, apply = made("time")
    x, t, _ = inputs("time")
    for wrong in (SIZE, -1):
        bad = x.copy()
        bad[1, 0] = wrong
        found = np.asarray(apply(params, bad, t, None))
        assert np.isnan(found[1]).all() and np.isfinite(found[0]).all()


@pytest.mark.extended
def test_a_symbol_out_of_range_is_no_other_symbol_of_a_hollow_network():
    params, _ = made("time")
    x, t, _ = inputs("time")
    network = network_of("time", hollow=True)
    apply = jax.jit(lambda x: network.apply({"params": params}, x, t))
    for wrong in (SIZE, -1):
        bad = x.copy()
        bad[1, 0] = wrong
        found = np.asarray(apply(bad))
        assert np.isfinite(found[0]).all() and np.isfinite(found[1, 0]).all()  # a position does not read itself
        assert np.isnan(found[1, 1:]).all()


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
    network = network_of("time", length=LENGTH)
    x, t, _ = inputs("time")
    start = lambda *arguments: jax.eval_shape(lambda: network.init(jax.random.key(0), *arguments))
    with pytest.raises(TypeError, match=r"takes integers, symbols \[B, L\], or prob.*\[B, L, 7\]; got float32 of"):
        start(x.astype(np.float32), t)
    with pytest.raises(ValueError, match=r"takes symbols \[B, L\]; got an array of shape \(5,\)"):
        start(x[0], t)
    with pytest.raises(ValueError, match="this network takes at most length=5 positions; got 10"):
        start(np.tile(x, 2), t)
    with pytest.raises(ValueError, match=r"symbols run from 0 to 7\. Valid: 0 \.\. 6, because size=7"):
        start(x + (x == 6), t)
    with pytest.raises(ValueError, match=r"t \[B\] = \(2,\)"):
        start(x, t[:1])
    with pytest.raises(ValueError, match="num_classes=0"):
        start(x, t, np.arange(2))
    for fields, message in (
        ({"size": 1}, "size=1: a network needs at least 2"),
        ({"width": 12}, "width=12 must be a multiple of 4 heads = 8"),
        ({"clock": "never"}, "clock"),
        ({"length": -1}, r"length=-1 must be 0 \(any\) or positive"),
        ({"condition_width": -1}, r"condition_width=-1 must be 0 \(the width\) or positive"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"depth": 0}, "depth=0 must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            models.SymbolTransformer(**{"size": SIZE, "width": WIDTH, "heads": HEADS} | fields)
    with pytest.raises(ValueError, match="small"):
        models.symbol_transformer_preset("smal")
