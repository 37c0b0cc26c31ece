"""The classifier: what it learns, that a seed fixes it, and the file that keeps it."""

import jax
import numpy as np
import pytest

from diffusion.data.digits import digits
from diffusion.metrics import classifier


def real(split):
    images, labels, splits = digits()
    return images[splits == split], labels[splits == split]


@pytest.fixture(scope="module")
def bars():
    """Two classes that a few steps tell apart: a bright upper or lower half, in colour, not square."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    images = rng.integers(0, 80, (64, 6, 9, 3)).astype(np.uint8)
    for image, label in zip(images, labels):
        image[label * 3 : label * 3 + 3] += 150
    with pytest.MonkeyPatch.context() as patch:  # small batches
        patch.setattr(classifier, "BATCH", 16)
        patch.setattr(classifier, "_CHUNK", 32)
        yield images, labels


@pytest.fixture(scope="module")
def small(bars):
    return classifier.train(*bars, seed=0, steps=12)


@pytest.fixture
def quick(monkeypatch):
    """Counts trainings, and makes them short."""
    train, calls = classifier.train, []

    def short(images, labels, seed=0):
        calls.append(seed)
        return train(images, labels, seed, steps=2)

    monkeypatch.setattr(classifier, "train", short)
    monkeypatch.setattr(classifier, "_in_memory", {})
    return calls


@pytest.mark.slow
def test_learns_digits():
    net = classifier.train(*real("train"), steps=120)
    images, labels = real("test")
    assert (classifier.predict(net, images) == labels).mean() > 0.95


@pytest.mark.slow
def test_recognises_98_percent_of_real_test_digits():
    net = classifier.train(*real("train"))
    images, labels = real("test")
    assert (classifier.predict(net, images) == labels).mean() >= 0.975


@pytest.mark.extended
def test_other_shapes_and_uneven_batches(bars, small):
    images, labels = bars
    assert (classifier.predict(small, images) == labels).mean() > 0.9
    features = classifier.features(small, images)
    assert features.shape == (64, classifier.DIM) and features.dtype == np.float32 and np.isfinite(features).all()
    assert classifier.features(small, images[:0]).shape == (0, classifier.DIM)
    assert classifier.predict(small, images[:0]).shape == (0,)


@pytest.mark.extended
def test_no_image_is_dropped_beyond_a_chunk(bars, small):
    images = np.resize(bars[0], (classifier._CHUNK + 1, *bars[0].shape[1:]))
    features = classifier.features(small, images)
    assert len(features) == len(images)
    np.testing.assert_allclose(features[-1], classifier.features(small, images[-1:])[0], atol=1e-5)


@pytest.mark.extended
def test_what_dropout_keeps_stands_for_what_it_drops(bars, small, monkeypatch):
    """With nothing dropped by lot, hidden numbers over 1 - rate, and the cross entropy of labels that are smoothed."""
    images, labels = bars
    monkeypatch.setattr("jax.random.bernoulli", lambda key, p, shape: np.ones(shape, bool))
    found = classifier._loss(small.params, images[:4], labels[:4], None)
    kept = classifier.features(small, images[:4]) / (1 - classifier.DROPOUT)
    logits = kept @ np.asarray(small.params["out"]) + np.asarray(small.params["out_bias"])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = (1 - classifier.LABEL_SMOOTHING) * np.eye(2)[labels[:4]] + classifier.LABEL_SMOOTHING / 2
    np.testing.assert_allclose(found, -(target * log_p).sum(1).mean(), rtol=1e-4)


@pytest.mark.extended
def test_a_seed_fixes_the_classifier(bars):
    train = lambda seed: classifier.train(*bars, seed=seed, steps=3)
    assert train(1).digest == train(1).digest != train(2).digest


@pytest.mark.extended
def test_kept_in_a_file_by_data_and_seed(bars, quick, tmp_path):
    images, labels = bars
    first = classifier.cached(images, labels, folder=tmp_path)
    assert quick == [0] and [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]
    classifier._in_memory.clear()
    again = classifier.cached(images, labels, folder=tmp_path)
    assert quick == [0] and again.digest == first.digest
    np.testing.assert_array_equal(classifier.features(again, images), classifier.features(first, images))
    classifier.cached(images, labels, seed=5, folder=tmp_path)
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    classifier.cached(changed, labels, folder=tmp_path)
    classifier.cached(images, 1 - labels, folder=tmp_path)
    assert quick == [0, 5, 0, 0] and len(list(tmp_path.iterdir())) == 4


@pytest.mark.extended
def test_a_damaged_file_is_trained_over(bars, quick, tmp_path):
    first = classifier.cached(*bars, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    classifier._in_memory.clear()
    with pytest.warns(UserWarning, match="training the classifier again"):
        again = classifier.cached(*bars, folder=tmp_path)
    assert again.digest == first.digest and quick == [0, 0]
    classifier._in_memory.clear()
    classifier.cached(*bars, folder=tmp_path)
    assert quick == [0, 0]


def test_a_folder_that_cannot_be_written_is_no_failure(bars, quick, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="DIFFUSION_CACHE"):
        classifier.cached(*bars, folder=tmp_path / "file")
    classifier.cached(*bars, folder=tmp_path / "file")
    assert quick == [0]  # one process trains once all the same


def test_bad_input(bars, small):
    images, labels = bars
    with pytest.raises(TypeError, match="uint8 images, got float64"):
        classifier.train(images / 255.0, labels)
    with pytest.raises(ValueError, match=r"\[63\]"):
        classifier.train(images, labels[1:])
    with pytest.raises(ValueError, match=r"two classes, counted from 0; got \[0"):
        classifier.train(images, np.zeros(64, int))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        classifier.train(images, labels, steps=0)
    with pytest.raises(TypeError, match="float32"):
        classifier.predict(small, images.astype(np.float32))
    for wrong in (images[..., :1], images.repeat(4, 1), images[0]):
        with pytest.raises(ValueError, match="trained on"):
            classifier.features(small, wrong)


def test_the_class_of_the_largest_bias_where_nothing_else_speaks():
    images = np.zeros((3, 4, 4, 1), np.uint8)
    weights = classifier._init(jax.random.key(0), (4, 4, 1), 3)
    params = {name: np.zeros_like(leaf) for name, leaf in weights.items()} | {"out_bias": np.float32([-2, 3, 1])}
    assert classifier.predict(classifier.Classifier(params, ""), images).tolist() == [1, 1, 1]


def test_the_learning_rate_falls_along_half_a_cosine():
    """Adam's update by an unchanging gradient is the rate itself; a weight of 0 has no decay."""
    optimizer = classifier._optimizer(4)
    params = np.zeros(1, np.float32)
    state = optimizer.init(params)
    rates = []
    for _ in range(4):
        change, state = optimizer.update(np.ones(1, np.float32), state, params)
        rates.append(-float(change[0]))
    expected = classifier.LEARNING_RATE * np.array([1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_a_stored_classifier_is_of_its_images_its_labels_and_its_seed(tmp_path):
    """Trained by a stand-in, whose parameter is the number of trainings so far."""
    trained = []

    def training(images, labels, seed):
        trained.append(seed)
        return classifier._classifier({"w": np.full(1, len(trained), np.float32)})

    images, labels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 4, 3, 1), np.array([0, 1, 1, 0])
    number = lambda *of, seed=0: int(classifier.cached(*of, seed, tmp_path, training).params["w"][0])
    assert number(images, labels) == number(images.copy(), labels) == 1
    assert number(images, labels, seed=5) == 2 and number(255 - images, labels) == 3
    assert number(images, 1 - labels) == 4 and number(images.reshape(4, 3, 4, 1), labels) == 5
    assert number(images, labels) == 1 and trained == [0, 5, 0, 0, 0]
