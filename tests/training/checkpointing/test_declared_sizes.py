"""What a checkpoint declares of its leaves, byte by byte, before anything of it is opened."""

import pytest

from diffusion.io.limits import Refused
from diffusion.training.checkpointing import validation


def leaf(dtype, *shape):
    return {"shape": list(shape), "dtype": dtype, "checksum": "0"}


def test_the_bytes_of_each_item_are_the_sum_of_its_leaves():
    leaves = {
        "params/blocks/kernel": leaf("float32", 4, 128),
        "params/bias": leaf("int8", 3),
        "params/scalar": leaf("float64"),
        "ema/kernel": leaf("float16", 5),
        "step": leaf("int32"),
        "none": leaf("float32", 0, 7),
    }
    expected = {"params": 4 * 4 * 128 + 3 + 8, "ema": 10, "step": 4, "none": 0}
    assert validation.check_leaves("a file", leaves) == expected
    assert validation.check_leaves("a file", {}) == {}


@pytest.mark.parametrize(
    "leaves, message",
    [
        ([], "a file describes no leaves"),
        ({"params/k": {"shape": [1]}}, "the leaf 'params/k' without a shape or a known type"),
        ({"params/k": {"dtype": "float32"}}, "the leaf 'params/k' without a shape or a known type"),
        ({"params/k": leaf("float31", 1)}, "the leaf 'params/k' without a shape or a known type"),
        ({"params/k": leaf("float32", -1)}, "leaf 'params/k'"),
        ({"../k": leaf("float32", 1)}, r"\.\./k"),
    ],
)
def test_what_is_no_leaf_is_refused_by_its_name(leaves, message):
    with pytest.raises(Refused, match=message):
        validation.check_leaves("a file", leaves)
