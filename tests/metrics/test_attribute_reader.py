"""The reader of attributes on pictures whose attributes are their colours."""

import jax
import numpy as np
import pytest
from scipy.signal import correlate

from diffusion.metrics import attribute_reader


@pytest.fixture(scope="module")
def pictures():
    """Squares of red or green above, and of three greys below."""
    rng = np.random.default_rng(0)
    labels = {"hue": rng.integers(0, 2, 64), "grey": rng.integers(0, 3, 64)}
    images = np.zeros((64, 16, 16, 3), np.uint8)
    images[np.arange(64), :8, :, labels["hue"]] = 200
    images[:, 8:] = np.array([30, 120, 220])[labels["grey"]][:, None, None, None]
    return images, labels


@pytest.fixture(scope="module")
def reader(pictures):
    return attribute_reader.train(*pictures, steps=30, batch_size=16)


@pytest.fixture(scope="module")
def beginner():
    """The reader after two steps, and what it reported."""
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    seen = []
    labels = {"one": np.arange(5) % 2, "other": np.array([0, 3, 1, 1, 2])}
    reader = attribute_reader.train(images, labels, steps=2, batch_size=4, progress=lambda *at: seen.append(at))
    return reader, seen


@pytest.mark.slow
def test_it_reads_what_it_was_taught(pictures, reader):
    images, labels = pictures
    assert reader.classes == {"hue": 2, "grey": 3}
    found = attribute_reader.read(reader, images)
    assert all(np.array_equal(found[name], labels[name]) for name in labels)
    assert attribute_reader.features(reader, images).shape == (64, attribute_reader.DIM)


@pytest.mark.slow
def test_a_picture_is_read_alone_as_among_others(pictures, reader):
    images, _ = pictures
    np.testing.assert_allclose(
        attribute_reader.features(reader, images[5:6]), attribute_reader.features(reader, images)[5:6], atol=1e-5
    )
    assert attribute_reader.features(reader, images[:0]).shape == (0, attribute_reader.DIM)


@pytest.mark.extended
def test_it_is_trained_once_and_kept(beginner, tmp_path):
    reader, _ = beginner
    made = []
    for _ in range(2):
        found = attribute_reader.cached("a", lambda: made.append(1) or reader, tmp_path)
        assert found.digest == reader.digest and found.classes == reader.classes
    assert made == [1]
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    assert attribute_reader.cached("a", lambda: reader, tmp_path).digest == reader.digest


@pytest.mark.extended
def test_what_is_read_is_the_class_of_the_largest_product_with_the_last_layer(beginner):
    reader, _ = beginner
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    last = np.asarray(attribute_reader.hidden(reader.params, images))
    np.testing.assert_allclose(attribute_reader.features(reader, images), last, rtol=1e-4, atol=1e-5)
    least = {"one": [1.0, 0.0], "other": [0.0, 0.0, 0.0, 1.0]}  # of the biases, to tell them from the products
    for bias in (0.0, 1e3):
        params = {**reader.params, **{f"{name}/bias": bias * np.float32(row) for name, row in least.items()}}
        found = attribute_reader.read(reader._replace(params=params), images)
        for name, row in least.items():
            scores = last @ params[f"{name}/out"]
            np.testing.assert_array_equal(found[name], np.argmax(row) if bias else scores.argmax(1))


def test_a_margin_is_over_the_best_other_class():
    """Of scores 1, 4, 2 and 3, -1, 5: the third class is 2 behind, and 2 ahead."""
    params = {"hue/out": np.eye(3), "hue/bias": np.array([0.0, -1, 2])}
    reader = attribute_reader.from_params(params, {"hue": 3})
    margins = attribute_reader.margins(reader, np.array([[1.0, 5, 0], [3, 0, 3]]), {"hue": 2})
    assert margins["hue"].tolist() == [-2, 2]


def test_weights_begin_with_two_over_their_inputs():
    drawn = np.asarray(attribute_reader.he_normal(jax.random.key(0), (400, 25)))
    assert drawn.var() == pytest.approx(2 / 400, rel=5 * np.sqrt(2 / drawn.size))


@pytest.mark.extended
def test_a_shift_refuses_the_share_of_pictures_that_it_was_set_for(beginner):
    """Margins by hand; after the shift by their quantile of order 0.9, one picture in ten is of the class."""
    reader, _ = beginner
    last = np.random.default_rng(2).standard_normal((50, attribute_reader.DIM)).astype(np.float32)
    scores = attribute_reader.logits(reader, last)["other"]
    np.testing.assert_allclose(
        scores, last @ np.asarray(reader.params["other/out"]) + np.asarray(reader.params["other/bias"]), rtol=1e-5
    )
    margins = attribute_reader.margins(reader, last, {"other": 2})["other"]
    by_hand = [row[2] - max(row[0], row[1], row[3]) for row in scores]
    np.testing.assert_allclose(margins, by_hand, rtol=1e-5, atol=1e-6)
    for share in (0.1, 0.5):
        shifted = attribute_reader.shifted(reader, {"other": 2}, -np.quantile(margins, 1 - share))
        classes = attribute_reader.most_probable(shifted, last)
        assert (classes["other"] == 2).sum() == 50 * share
        np.testing.assert_array_equal(classes["one"], attribute_reader.most_probable(reader, last)["one"])
        others = np.delete(scores, 2, axis=1).argmax(1)
        kept = classes["other"] != 2
        np.testing.assert_array_equal(classes["other"][kept], np.array([0, 1, 3])[others[kept]])
        assert shifted.digest != reader.digest and shifted.classes == reader.classes


def test_other_pictures_are_refused(pictures, beginner):
    images, labels = pictures
    reader, _ = beginner
    with pytest.raises(TypeError, match="uint8 pictures, got float32"):
        attribute_reader.read(reader, images.astype(np.float32))
    with pytest.raises(ValueError, match=r"the shape \[24, 16, 3\], but the reader was trained on another size"):
        attribute_reader.read(reader, np.zeros((1, 24, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="sides that are multiples of 8"):
        attribute_reader.read(reader, np.zeros((1, 20, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="each attribute needs one label for each of the 64 pictures"):
        attribute_reader.train(images, {"hue": labels["hue"][:3]})


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.extended
def test_the_layers_are_patches_convolutions_and_what_is_where():
    """Against SciPy's correlations: the kernels' rows are the 3 x 3 neighbours, then the channels."""
    rng = np.random.default_rng(0)
    sizes = (48, 64, 96)
    images = rng.integers(0, 256, (2, 8, 16, 3)).astype(np.uint8)
    shapes = {
        "layer0": (48, 48),
        "layer1": (9 * 48, 64),
        "layer2": (9 * 64, 96),
        "bias0": (48,),
        "bias1": (64,),
        "bias2": (96,),
        "hidden": (1 * 2 * 96, 128),
        "anywhere": (96, 128),
        "hidden_bias": (128,),
    }
    params = {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    found = attribute_reader.hidden(params, images)
    x = images.astype(float) / 127.5 - 1
    patches = [[x[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].reshape(2, -1) for j in range(4)] for i in range(2)]
    x = gelu(np.stack([np.stack(row, 1) for row in patches], 1) @ params["layer0"] + params["bias0"])
    for i, stride in ((1, 2), (2, 1)):
        kernel = params[f"layer{i}"].reshape(3, 3, sizes[i - 1], sizes[i])
        whole = [
            [correlate(np.pad(one, ((1, 1), (1, 1), (0, 0))), kernel[..., k], "valid")[..., 0] for k in range(sizes[i])]
            for one in x
        ]
        x = gelu(np.moveaxis(np.array(whole), 1, -1)[:, ::stride, ::stride] + params[f"bias{i}"])
    there = x.max((1, 2)) @ params["anywhere"] + x.reshape(2, -1) @ params["hidden"] + params["hidden_bias"]
    np.testing.assert_allclose(found, gelu(there), rtol=1e-4, atol=1e-5)


def test_changed_pictures_are_blurred_paler_or_darker_in_their_own_measure():
    """The share that is blurred is seen on a chessboard, where the four neighbours of a place are its opposite."""
    key = jax.random.key(0)
    shape = (400, 4, 4, 1)
    board = np.where(np.indices((4, 4)).sum(0) % 2, 50.0, -50.0)[None, :, :, None]
    grey, paler, mixed = (
        np.asarray(attribute_reader.changed(key, np.broadcast_to(128 + x, shape))) for x in (0, 100.0, board)
    )
    assert np.ptp(grey, axis=(1, 2, 3)).max() == 0
    bright = grey[:, 0, 0, 0] - 128
    contrast = (paler[:, 0, 0, 0] - grey[:, 0, 0, 0]) / 100
    share = (1 - (mixed - grey)[:, 0, 1, 0] / 50 / contrast) / 2
    for values, low, high in ((bright, -8, 8), (contrast, 0.9, 1.1), (share, 0, 0.5)):
        assert low - 1e-5 <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high + 1e-5
    assert np.abs(np.corrcoef([bright, contrast, share]) - np.eye(3)).max() < 0.2


def test_two_steps_of_training_are_reported_and_move_every_layer(beginner):
    reader, seen = beginner
    assert [step for step, _ in seen] == [1, 2] and all(np.isfinite(loss) for _, loss in seen)
    assert reader.classes == {"one": 2, "other": 4} and reader.params["other/out"].shape == (128, 4)
    assert all(np.abs(value).max() > 0 for name, value in reader.params.items() if "bias" in name)  # zeros at first


def test_a_step_is_adamws():
    """Loshchilov and Hutter 2019: Adam's first direction is the gradient's sign, and weights decay beside."""
    params = {"w": np.array([1.0, -2.0, 4.0], np.float32)}
    loss = lambda params, key, gradient: (params["w"] * gradient).sum()
    found = attribute_reader.minimised(
        loss, params, jax.random.key, lambda: (np.float32([3, -1, 0.5]),), 1, 0.5, lambda step, value: None
    )
    expected = params["w"] - 2e-3 * (np.array([1, -1, 1]) + 0.5 * params["w"])
    np.testing.assert_allclose(found["w"], expected, rtol=1e-5)


def test_each_step_has_a_key_of_its_own_and_pictures_with_their_labels(monkeypatch):
    taught = {}

    def minimised(loss, params, keys, batch, *rest):
        taught.update(params=params, keys=[keys(step) for step in range(3)], batches=[batch() for _ in range(3)])
        return params

    monkeypatch.setattr(attribute_reader, "minimised", minimised)
    images, labels = np.arange(20)[:, None, None, None], {"tens": np.arange(20) // 10, "ones": np.arange(20) % 10}
    how = {"change": None, "steps": 3, "batch_size": 16, "seed": 0, "progress": None}
    attribute_reader.fitted(None, lambda key, classes: {}, (images,), labels, **how)
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in taught["keys"]}) == 3
    rows = []
    for (pictures,), labels in taught["batches"]:
        rows.append(pictures[:, 0, 0, 0].tolist())
        np.testing.assert_array_equal(10 * labels["tens"] + labels["ones"], rows[-1])
    assert len(set(map(tuple, rows))) == 3 and len(set(rows[0])) > 5


def test_neighbourhoods_are_row_by_row():
    """Around the places 0 and 2 of a row of four, in a grid of two rows: zeros beyond the border."""
    x = np.arange(1.0, 9.0).reshape(1, 2, 4, 1)
    found = np.asarray(attribute_reader.neighbourhoods(x, 2))
    assert found.shape == (1, 1, 2, 9)
    assert found[0, 0].tolist() == [[0, 0, 0, 0, 1, 2, 0, 5, 6], [0, 0, 0, 2, 3, 4, 6, 7, 8]]
