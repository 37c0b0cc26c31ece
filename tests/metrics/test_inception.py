"""The network against one written in NumPy, against PyTorch's numbers for made-up weights, and, where the real weights
are at hand (DIFFUSION_INCEPTION names the file), against PyTorch's numbers for them."""

import os
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from diffusion.metrics import inception, inception_weights
from tests.metrics import inception_oracle as oracle
from tests.peers import pictures

FIXTURE = safetensors.numpy.load_file(pathlib.Path(__file__).parents[1] / "fixtures/inception.safetensors")
DIMS = {"64": 64, "192": 192, "768": 768, "2048": 2048, "logits": 1008}
# Of each tap, the largest distance from the network in NumPy and from pytorch-fid: ten times what is measured on one
# CPU, rounded up to one digit, for another rounds otherwise; 1e-5 at most.
WITHIN = {
    "64": (3e-6, 5e-6),
    "192": (4e-6, 6e-6),
    "768": (4e-6, 6e-6),
    "2048": (6e-6, 8e-6),
    "spatial": (9e-6, 1e-5),
    "logits": (7e-6, 9e-6),
}
SIZES = [(75, 75), (107, 139)]  # with one pixel after the last block, and with 2 x 3 of them


def distance(ours, theirs):
    """The largest relative L2 distance of an image's features."""
    ours = np.asarray(ours, np.float64)
    theirs = np.asarray(theirs, np.float64)
    return (np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max()


def images(height, width, count=2):
    return pictures.scaled(pictures.pictures(count, max(height, width)))[:, :height, :width]


def channels_first(height, width):
    return images(height, width).transpose(0, 3, 1, 2).astype(np.float64)


@pytest.fixture(scope="module")
def made():
    """pytorch-fid's state with made-up weights: those that the network in NumPy asks for, of no picture."""
    state = {}
    oracle.network(state, channels_first(75, 75)[:0], pictures.weight)
    return state


@pytest.fixture(scope="module")
def network(made, tmp_path_factory):
    """The same weights, read by the product from a file with pytorch-fid's names."""
    path = tmp_path_factory.mktemp("weights") / "made.safetensors"
    safetensors.numpy.save_file(made, path)
    return inception.load(path)


@pytest.fixture(scope="module")
def params(network):
    return network.params


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_tap_equals_the_network_in_numpy(made, params, size):
    found = inception.features(params, images(*size), inception.TAPS)
    assert set(found) == set(inception.TAPS)
    expected = oracle.network(made, channels_first(*size))
    for tap, values in found.items():
        assert distance(values, expected[tap]) < WITHIN[tap][0], tap


@pytest.mark.extended
@pytest.mark.parametrize("size", SIZES)
def test_every_tap_equals_pytorch_fid_with_made_up_weights(params, size):
    found = inception.features(params, images(*size), inception.TAPS)
    for tap, values in found.items():
        theirs = FIXTURE[f"made/{size[0]}x{size[1]}/{tap}"]
        assert values.shape == theirs.shape and values.dtype == np.float32
        assert distance(values, theirs) < WITHIN[tap][1], tap


@pytest.mark.extended
def test_layers_follow_one_another_as_in_the_network_in_numpy(monkeypatch):
    """With an eighth of the channels, and layers in NumPy: which layer reads what, where taps are, and folded norms."""
    layer, rng, state = oracle.layer, np.random.default_rng(0), {}
    few = lambda state, name, x, outputs, kernel, **options: layer(state, name, x, outputs // 8, kernel, **options)
    monkeypatch.setattr(oracle, "layer", few)

    def weight(name, shape):
        if name.endswith("bn.weight"):
            return np.ones(shape)
        if name.endswith("running_var"):
            return rng.uniform(0.5, 2, shape)
        if name.startswith("fc"):
            return rng.normal(size=(1008, 256)[: len(shape)])
        return rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5

    x = rng.uniform(-1, 1, (1, 3, 75, 75))
    expected = oracle.network(state, x, weight)
    parts = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    tensors = {f"{ours}.{part}": state[f"{theirs}.{other}"] for ours, theirs, *_ in inception_weights._ROWS
               for part, other in parts.items()}  # fmt: skip
    monkeypatch.setattr(inception, "jnp", types.SimpleNamespace(
        asarray=np.asarray, float32=np.float32, concatenate=np.concatenate, dot=lambda a, b, precision: a @ b
    ))  # fmt: skip
    params = inception.fold(tensors | {"output.weight": state["fc.weight"]})

    def conv(params, name, x, stride=1, pad=True):
        kernel = params[f"{name}.kernel"]
        sides = tuple(side // 2 for side in kernel.shape[:2]) if pad else (0, 0)
        y = oracle.convolution(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), stride, sides)
        return np.maximum(y.transpose(0, 2, 3, 1) + params[f"{name}.bias"], 0)

    def pooled(x, reduce, stride, pad):
        return oracle.pool(x.transpose(0, 3, 1, 2), reduce, stride, pad).transpose(0, 2, 3, 1)

    def pixel_convs(params, block, x, names, pool=None):
        average = pooled(x, np.mean, 1, 1) if pool is not None else x
        return [conv(params, f"{block}.{name}", average if i == pool else x) for i, name in enumerate(names)]

    monkeypatch.setattr(inception, "_conv", conv)
    monkeypatch.setattr(inception, "_pixel_convs", pixel_convs)
    monkeypatch.setattr(inception, "_max_pool", lambda x, stride: pooled(x, np.max, stride, int(stride == 1)))
    found = inception.features.__wrapped__(params, x.transpose(0, 2, 3, 1), inception.TAPS)
    for tap in inception.TAPS:
        assert distance(found[tap], expected[tap]) < 1e-5, tap


def test_a_last_batch_is_filled_up_and_then_cut(monkeypatch):
    """With the mean of a picture as its features."""
    sizes = []
    features = lambda params, x, taps: sizes.append(len(x)) or {tap: x.mean((1, 2)) for tap in taps}
    monkeypatch.setattr(inception, "features", features)
    x = np.linspace(-1, 1, 5, dtype=np.float32)[:, None, None, None] * np.ones((75, 75, 3), np.float32)
    prepared = []
    prepare = lambda batch: prepared.append(len(batch)) or batch
    found = inception.extract({}, x, ["64", "2048"], prepare, batch_size=2)
    assert sizes == [2, 2, 2] and prepared == [2, 2, 1] and found.keys() == {"64", "2048"}
    for values in found.values():
        np.testing.assert_allclose(values, x[:, 0, 0], atol=1e-6)


def test_the_network_has_the_published_number_of_parameters(made):
    """Keras counts 21,802,784 in its Inception-v3 without the top, whose batch norms have no scale either."""
    state = {k: v for k, v in made.items() if not k.endswith("bn.weight") and not k.startswith("fc")}
    assert sum(array.size for array in state.values()) == 21_802_784
    ours = sum(np.prod(shape) + 3 * shape[0] for shape in inception_weights.CONVOLUTIONS.values())
    assert ours == 21_802_784 and len(inception_weights.CONVOLUTIONS) == 94


@pytest.mark.extended
def test_shapes_at_the_published_size(params):
    found = jax.eval_shape(lambda x: inception.features(params, x, inception.TAPS), jnp.zeros((3, 299, 299, 3)))
    assert {tap: value.shape for tap, value in found.items()} == {
        tap: (3, dim) for tap, dim in (DIMS | {"spatial": 17 * 17 * 7}).items()
    }


@pytest.mark.parametrize("size", [(35, 35), (8, 8), (3, 4)])
def test_average_pool_leaves_the_padding_out(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    expected = oracle.pool(x.transpose(0, 3, 1, 2), np.mean, pad=1).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(inception._average_pool(x), expected, atol=1e-6)
    np.testing.assert_allclose(inception._average_pool(np.ones_like(x)), 1, rtol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 7), (8, 8), (3, 10)])
def test_max_pool(size, stride):
    x = -1 - np.random.default_rng(1).random((2, *size, 3)).astype(np.float32)  # zeros in the padding would win
    expected = oracle.pool(x.transpose(0, 3, 1, 2), np.max, stride, pad=int(stride == 1)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(inception._max_pool(x, stride), expected.astype(np.float32))


@pytest.mark.extended
@pytest.mark.parametrize(("kernel", "stride", "pad"), [
    ((1, 1), 1, True), ((3, 3), 1, True), ((5, 5), 1, True), ((1, 7), 1, True), ((7, 1), 1, True),
    ((3, 3), 1, False), ((3, 3), 2, False),
])  # fmt: skip
def test_convolution(kernel, stride, pad):
    random = np.random.default_rng(2)
    for size in [(9, 9), (8, 11)]:
        x = random.normal(size=(2, *size, 4))
        weights = random.normal(size=(5, 4, *kernel))
        bias = random.normal(size=5)
        sides = tuple(k // 2 for k in kernel) if pad else (0, 0)
        expected = oracle.convolution(x.transpose(0, 3, 1, 2), weights, stride, sides).transpose(0, 2, 3, 1) + bias
        layer = {"a.kernel": weights.transpose(2, 3, 1, 0).astype(np.float32), "a.bias": bias.astype(np.float32)}
        found = inception._conv(layer, "a", x.astype(np.float32), stride, pad)
        np.testing.assert_allclose(found, np.maximum(expected, 0), atol=2e-5)


@pytest.mark.extended
def test_batches_are_filled_up_without_changing_a_feature(params):
    x = images(75, 75, 5)
    pairs = inception.extract(params, x, inception.TAPS, batch_size=2)
    threes = inception.extract(params, x, inception.TAPS, batch_size=3)
    for tap in inception.TAPS:
        assert len(pairs[tap]) == 5 and distance(pairs[tap], threes[tap]) < 1e-6
    last = inception.extract(params, x[[4, 0]], inception.TAPS, batch_size=2)
    for tap in inception.TAPS:  # who stands beside an image, if anyone, does not matter at all
        np.testing.assert_array_equal(last[tap][0], pairs[tap][4])


@pytest.mark.extended
def test_images_are_prepared_batch_by_batch(params):
    seen = []

    def prepare(batch):
        seen.append(len(batch))
        return pictures.scaled(batch)

    found = inception.extract(params, pictures.pictures(5, 75), inception.TAPS, prepare=prepare, batch_size=2)
    assert seen == [2, 2, 1]
    expected = inception.extract(params, images(75, 75, 5), inception.TAPS, batch_size=2)
    np.testing.assert_array_equal(found["2048"], expected["2048"])


@pytest.mark.parametrize(("x", "error", "words"), [
    (np.zeros((2, 74, 75, 3), np.float32), ValueError, r"sides of at least 75 \(299 for published numbers\)"),
    (np.zeros((2, 75, 75, 1), np.float32), ValueError, r"\[B, H, W, 3\]"),
    (np.zeros((75, 75, 3), np.float32), ValueError, r"\[B, H, W, 3\]"),
    (np.zeros((2, 75, 75, 3), np.uint8), TypeError, "float32 images in"),
    (np.zeros((2, 75, 75, 3), np.float64), TypeError, "float32 images in"),
    (np.full((2, 75, 75, 3), 255, np.float32), ValueError, r"in \[-1, 1\], got numbers from 255 to 255"),
    (np.full((2, 75, 75, 3), np.nan, np.float32), ValueError, "got numbers from nan to nan"),
    (np.full((2, 75, 75, 3), -np.inf, np.float32), ValueError, "got numbers from -inf"),
    (np.zeros((0, 75, 75, 3), np.float32), ValueError, "at least one image"),
])  # fmt: skip
def test_what_is_no_image_is_refused(params, x, error, words):
    with pytest.raises(error, match=words):
        inception.extract(params, x)


def test_another_tap_is_refused(params):
    with pytest.raises(ValueError, match=r"unknown taps: 1024\. Valid: 64, 192, 768, 2048, spatial, logits"):
        inception.extract(params, images(75, 75), ("2048", "1024"))
    with pytest.raises(ValueError, match="at least one tap"):
        inception.extract(params, images(75, 75), ())


def test_logits_where_there_are_none_are_refused(params):
    without = {name: array for name, array in params.items() if name != "output.kernel"}
    with pytest.raises(ValueError, match=r"no logits.*pt_inception-2015-12-05-6726825d.pth"):
        inception.extract(without, images(75, 75), ("logits",))


def test_made_up_weights_are_unknown_and_refused_by_those_who_need_the_real_ones(network):
    about = inception.record(network)
    assert about["network"] == "unknown weights" and about["sha256"] == network.digest and about["logits_sha256"]
    with pytest.raises(inception.WeightsError, match=f"{network.digest}; published numbers are computed with"):
        inception.require_known(network)


# ==== The real weights ====


@pytest.fixture(scope="module")
def real():
    path = os.environ.get("DIFFUSION_INCEPTION")
    if not path:
        pytest.skip("DIFFUSION_INCEPTION does not name the file of the real weights")
    return inception.load(path)


def test_the_real_weights_are_known(real):
    inception.require_known(real)
    assert inception.record(real)["network"] == "FID Inception-v3, 2015-12-05"


def test_the_real_features_equal_those_of_pytorch(real):
    theirs = {name[5:]: values for name, values in FIXTURE.items() if name.startswith("real/")}
    taps = tuple(tap for tap in theirs if tap != "torchscript")
    assert set(taps) == set(inception.TAPS) - {"logits"}
    found = inception.extract(real.params, pictures.scaled(pictures.pictures(len(theirs["2048"]))), taps, batch_size=7)
    for tap in taps:
        assert distance(found[tap], theirs[tap]) < 1e-4, tap
    assert distance(found["2048"], theirs["torchscript"]) < 1e-4


def test_weights_are_folded_without_a_program_for_each_shape(monkeypatch, caplog):
    """k / sqrt(var + epsilon) and beta - mean / sqrt(var + epsilon), by hand."""
    monkeypatch.setattr(inception_weights, "CONVOLUTIONS", {"c": None})
    tensors = {f"c.{part}": np.full(7, value, np.float32) for part, value in (("var", 4), ("mean", 3), ("beta", 1))}
    tensors["c.weight"] = np.arange(7 * 11 * 13 * 17, dtype=np.float32).reshape(7, 11, 13, 17)
    with jax.log_compiles():
        folded = inception.fold(tensors)
    assert "Compiling" not in caplog.text
    root = np.sqrt(4 + inception.EPSILON)
    np.testing.assert_allclose(folded["c.kernel"], tensors["c.weight"].transpose(2, 3, 1, 0) / root, rtol=1e-6)
    np.testing.assert_allclose(folded["c.bias"], np.full(7, 1 - 3 / root), rtol=1e-6)
