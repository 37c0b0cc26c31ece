"""The layers of two streams and of one, written out in float64 numpy, one example at a time."""

import jax
import numpy as np
import pytest

from diffusion.models.layers.joint_blocks import JointBlock, MixedTimes, PictureBlock, SingleBlock
from tests.models.dit_oracle import gelu, silu
from tests.published.conftest import same_numbers  # noqa: F401
from tests.published.equations import (
    applied,
    attention,
    close,
    dense,
    normal,
    normalised,
    out_of_heads,
    rms,
    swiglu,
    turned,
)

B, WORDS, PATCHES, WIDTH, HEADS = 2, 2, 3, 8, 2
SIZE = WIDTH // HEADS
OTHERS = np.array([False, True, True])  # the tokens of the picture that have the second time
SEEN = np.array([[True, False, True, True, True], [True, True, True, False, True]])


def vectors_of(p, c, others=None, given=None):
    """The vectors of adaLN, [K, 1, D], or [K, N, D] for tokens of two times; c has one condition for each time."""
    if given is not None:
        return given[:, None]
    first, *second = (dense(p["dense"], vector)[:, None] for vector in c)
    return np.where(others[:, None], second[0], first) if second else first


def read(x, shift, scale):
    return normalised(x, 1e-6) * (1 + scale) + shift


def entered(p, x, vectors):
    """(q, k, v, *further parts) [N, H, S] before and behind the norms of queries and keys."""
    plain = np.moveaxis(dense(p["qkv"], read(x, *vectors[:2])), 1, 0)
    names = ("query_norm", "key_norm") if "query_norm" in p else ()
    return plain, [*(rms(a, 1e-6) * p[name]["scale"] for name, a in zip(names, plain)), *plain[len(names) :]]


def left(p, x, mixed, vectors):
    """x + gate out(mixed), then x + gate mlp(x)."""
    x = x + vectors[2] * out_of_heads(p["attention"]["out"], mixed)
    h = read(x, *vectors[3:5])
    gated = "bias" not in p["mlp"]["out"]
    return x + vectors[5] * (
        swiglu(p["mlp"], h) if gated else dense(p["mlp"]["out"], gelu(dense(p["mlp"]["hidden"], h)))
    )


def in_heads(tokens):
    return tokens.reshape(len(tokens), HEADS, SIZE)


def joint(p, x, text, c, others, angles, entries, last):
    """The two streams of one example after a layer; `entries` are those of the example."""
    given = entries.get("vectors", (None, None))
    vectors = vectors_of(p["image"].get("modulation"), c, others, given[0])
    theirs = vectors_of(p["text"].get("modulation"), c[:1], given=given[1])
    plain, picture = entered(p["image"]["attention"], x, vectors)
    words = entered(p["text"]["attention"], text, theirs)[1]
    q, k, v = (np.concatenate(pair) for pair in zip(words, picture))
    if angles is not None:
        q, k = turned(q, angles), turned(k, angles)
    shown = np.ones((len(q), len(k)), bool)
    shown[:] = entries.get("seen", True)
    if entries.get("identity"):
        shown[WORDS:, WORDS:] &= np.eye(PATCHES, dtype=bool)
    mixed = attention(q, k, v, shown)
    own = mixed[WORDS:].copy()
    for keys, values, weight, query_scale, key_scale in entries.get("extra_joint", ()):
        both = np.concatenate([rms(plain[1], 1e-6) * key_scale, in_heads(keys)])
        more = attention(rms(plain[0], 1e-6) * query_scale, both, np.concatenate([plain[2], in_heads(values)]))
        own += weight[:, None, None] * more
    new = x
    if "self_attention" in p:
        q, k, v = entered(p["self_attention"], x, vectors[6:])[1]
        alone = v if entries.get("identity") else attention(q, k, v)
        new = new + vectors[8] * out_of_heads(p["self_attention"]["out"], alone)
    new = left(p["image"], new, own, vectors)
    for keys, values, weight in entries.get("extra", ()):
        new = new + weight[:, None] * attention(picture[0], in_heads(keys), in_heads(values)).reshape(x.shape)
    after = text if last else left(p["text"], text, mixed[:WORDS], theirs)
    if entries.get("skip"):
        new, after = x, text
    return new + entries.get("residual", 0), after


def single(p, x, c, others, angles, entries):
    """The stream of one example after a layer; `others` are its tokens with the second time."""
    shift, scale, gate = vectors_of(p.get("modulation"), c, others, entries.get("vectors"))
    (q, k, v), h = np.split(np.array(entered(p["attention"], x, (shift, scale))[1]), [3])
    mixed = attention(turned(q, angles), turned(k, angles), v, entries.get("seen"))
    out = p["attention"]["out"]
    parts = [mixed, *(gelu(h) if "bias" in out else silu(h[:3]) * h[3:])]
    x = x + gate * (np.einsum("pnhs,phsd->nd", parts, out["kernel"]) + out.get("bias", 0))
    x[WORDS:] += entries.get("residual", 0)
    return x


def prompts(*scales):
    """Two image prompts of one and two tokens; the first has one weight for all queries."""
    return tuple(
        (normal(B, number, WIDTH), normal(B, number, WIDTH), normal(B, weights), *(normal(B, SIZE) for _ in scales))
        for number, weights in ((1, 1), (2, PATCHES))
    )


def condition(times):
    """A condition of one time or of two for a picture's tokens, and the vectors of each example."""
    vectors = normal(B, times, WIDTH)
    c = MixedTimes(vectors[:, 0], vectors[:, 1], OTHERS) if times == 2 else vectors[:, 0]
    return c, np.float64(vectors)


def example(entries, b):
    return jax.tree.map(lambda a: a[b] if a.dtype == bool else np.float64(a[b]), entries)


JOINT = {
    "two times": {"qk_norm": True, "turns": True, "times": 2, "entries": {"seen", "residual", "skip", "extra"}},
    "Stable Diffusion 3.5": {"qk_norm": True, "dual": True, "entries": {"identity", "extra_joint"}},
    "the last": {"last": True, "entries": {"identity", "seen"}},
    "FLUX.2": {"qk_norm": True, "gated": True, "turns": True, "entries": {"vectors"}},
}


@pytest.mark.parametrize("name", JOINT)
def test_a_layer_of_two_streams_is_its_equations(name):
    form = JOINT[name]
    dual, last, gated = (form.get(option, False) for option in ("dual", "last", "gated"))
    block = JointBlock(HEADS, form.get("qk_norm", False), dual, last, "auto", "float32", gated)
    x, text = normal(B, PATCHES, WIDTH), normal(B, WORDS, WIDTH)
    c, vectors = condition(form.get("times", 1))
    angles = normal(WORDS + PATCHES, SIZE // 2) if form.get("turns") else None
    entries = {
        "seen": SEEN,
        "identity": np.array([True, False]),
        "skip": np.array([False, True]),
        "residual": normal(B, PATCHES, WIDTH),
        "vectors": (normal(B, 6, WIDTH), normal(B, 6, WIDTH)),
        "extra": prompts(),
        "extra_joint": prompts("query", "key"),
    }
    entries = {key: value for key, value in entries.items() if key in form["entries"]}
    p, ((new, after), _) = applied(block, (x, text), c, angles, entries)
    for b in range(B):
        streams = np.float64(x[b]), np.float64(text[b])
        expected = joint(p, *streams, vectors[b], OTHERS, angles, example(entries, b), last)
        close(new[b], expected[0])
        close(after[b], expected[1])


SINGLE = {
    "two times": {"times": 2, "entries": {"residual"}},
    "one time": {"entries": {"seen"}},
    "FLUX.2": {"gated": True, "entries": {"vectors", "seen", "residual"}},
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_layer_of_one_stream_is_its_equations(name):
    form = SINGLE[name]
    x, angles = normal(B, WORDS + PATCHES, WIDTH), normal(WORDS + PATCHES, SIZE // 2)
    c, vectors = condition(form.get("times", 1))
    others = np.concatenate([np.full(WORDS, False), OTHERS])
    c = c._replace(others=others) if form.get("times") == 2 else c
    entries = {"seen": SEEN, "residual": normal(B, PATCHES, WIDTH), "vectors": normal(B, 3, WIDTH)}
    entries = {key: value for key, value in entries.items() if key in form["entries"]}
    p, (new, _) = applied(SingleBlock(HEADS, "auto", "float32", form.get("gated", False)), x, c, angles, entries)
    for b in range(B):
        close(new[b], single(p, np.float64(x[b]), vectors[b], others, angles, example(entries, b)))


def test_a_layer_of_the_picture_is_that_of_its_stream():
    x, c = normal(B, PATCHES, WIDTH), normal(B, WIDTH)
    p, (new, _) = applied(PictureBlock(HEADS, "auto", "float32"), x, c)
    p = p["image"]
    for b in range(B):
        vectors = vectors_of(p["modulation"], [np.float64(c[b])])
        q, k, v = entered(p["attention"], np.float64(x[b]), vectors)[1]
        close(new[b], left(p, np.float64(x[b]), attention(q, k, v), vectors))
