"""LTX-2's guidance restated by hand, leaf by leaf."""

import numpy as np
import pytest

from diffusion import schedules
from diffusion.arrays import pytrees
from diffusion.parameterizations import Prediction
from diffusion.published.ltx2.guidance import SCALES, Scales, guided

SHAPE = {"video": (2, 3), "sound": (4,)}
PLACES = {"sound": slice(0, 4), "video": slice(4, 10)}  # in the order of the leaves' names


def branches(t):
    """(x_t, predictions of x0 and eps that agree with it), four of them."""
    rng = np.random.default_rng(0)
    x_t, *x0 = rng.normal(size=(5, 2, 10)).astype(np.float32)
    predictions = tuple(Prediction(one, (x_t - (1 - t) * one) / t) for one in x0)
    return x_t, predictions


def test_each_modality_has_its_scales_and_its_own_deviation():
    """A flow at t = 0.4, where x_t = 0.6 x0 + 0.4 eps."""
    x_t, predictions = branches(0.4)
    scales = {"video": Scales(3.0, 1.5, 2.0, 0.7), "sound": Scales(7.0, 0.5, 4.0, 0.0)}
    names = ("text", "perturbed", "apart")
    stated = {leaf: one._asdict() for leaf, one in scales.items()}
    schedule = schedules.rectified_flow()
    out = guided(lambda x, t: predictions, schedule, SHAPE, stated, names)(x_t, np.full(2, 0.4, np.float32))
    plain, negative, perturbed, apart = (np.float64(one.x0) for one in predictions)
    for leaf, place in PLACES.items():
        one = scales[leaf]
        expected = plain + (one.text - 1) * (plain - negative) + one.perturbed * (plain - perturbed)
        expected = (expected + (one.apart - 1) * (plain - apart))[:, place]
        ratio = plain[:, place].std(1, keepdims=True) / expected.std(1, keepdims=True)
        expected *= one.rescale * ratio + 1 - one.rescale
        np.testing.assert_allclose(out.x0[:, place], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(0.6 * out.x0 + 0.4 * out.eps, x_t, rtol=0, atol=1e-5)


def test_without_guidance_the_prediction_is_the_networks():
    x_t, (only, *_) = branches(0.4)
    denoise = guided(lambda x, t: (only,), schedules.rectified_flow(), SHAPE, {"video": {}, "sound": {}}, ())
    out = denoise(x_t, np.full(2, 0.4, np.float32))
    np.testing.assert_allclose(out.x0, only.x0, rtol=0, atol=1e-6)


def test_another_number_of_branches_is_refused():
    assert SCALES == {"video": (3.0, 1.0, 3.0, 0.7), "sound": (7.0, 1.0, 3.0, 0.7)}
    none = {"video": {}, "sound": {}}
    wrong = guided(lambda x, t: branches(0.4)[1], schedules.rectified_flow(), SHAPE, none, ("text",))
    with pytest.raises(ValueError, match=r"the branches \(condition, text\), one each; got 4 branches"):
        wrong(branches(0.4)[0], np.full(2, 0.4, np.float32))


def test_the_leaves_of_a_pytree_stand_in_the_order_of_their_names():
    packed = pytrees.pack({"video": np.ones((1, 2, 3)), "sound": np.zeros((1, 4))})
    np.testing.assert_array_equal(packed, [[0] * 4 + [1] * 6])
