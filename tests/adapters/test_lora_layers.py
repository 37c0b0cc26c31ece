"""A layer of another library as parts of our leaves: their factors, magnitudes and complete tensors."""

import numpy as np
import pytest

from diffusion.adapters import lora_layers
from diffusion.adapters.lora_layers import Part, Place
from diffusion.models.interchange.rows import CONV, DENSE, Mismatch, Row

RNG = np.random.default_rng(0)
ALL = slice(None)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


# Theirs [8, 5], ours a stack of two kernels [5, 2 heads, 4]; and two parts of rows, one for each of two kernels.
WHOLE = [Place(Row("q", "a/kernel", DENSE, (1,)), (8, 5), (2, 5, 2, 4))]
ROWS = [
    Place(Row("q", f"{name}/kernel", DENSE, (), rows), (8, 5), (5, 4)) for name, rows in (("a", (0, 4)), ("b", (4, 8)))
]


def test_factors_are_split_by_the_rows_of_each_part():
    down, up = random(3, 5), random(8, 3)
    (whole,) = lora_layers.parts_of(WHOLE, [(down, up)], None, 0.5, "layer")
    assert whole[:3] == ("a/kernel", (1,), (2, 5, 2, 4)) and whole.scale == 0.5
    assert whole.factors.keys() == {"down", "up"}
    np.testing.assert_array_equal(whole.factors["down"], down.T)
    np.testing.assert_array_equal(whole.factors["up"], up.T.reshape(3, 2, 4))
    second = random(2, 5), random(8, 2)
    parts = lora_layers.parts_of(ROWS, [(down, up), second], None, 2.0, "layer")
    assert [part.path for part in parts] == ["a/kernel", "b/kernel"]
    for part, rows in zip(parts, (slice(0, 4), slice(4, 8))):
        assert part.factors.keys() == {"down", "up", "down_2", "up_2"} and part.scale == 2.0
        np.testing.assert_array_equal(part.factors["up"], up[rows].T)
        np.testing.assert_array_equal(part.factors["down_2"], second[0].T)
        np.testing.assert_array_equal(part.factors["up_2"], second[1][rows].T)


def test_magnitudes_are_of_the_outputs_of_a_part_or_of_all_inputs():
    pairs, outputs, inputs = [(random(3, 5), random(8, 3))], random(8), random(5)
    (whole,) = lora_layers.parts_of(WHOLE, pairs, ("outputs", outputs), 1.0, "layer")
    np.testing.assert_array_equal(whole.factors["magnitude"], outputs.reshape(2, 4))
    parts = lora_layers.parts_of(ROWS, pairs, ("outputs", outputs), 1.0, "layer")
    np.testing.assert_array_equal([part.factors["magnitude"] for part in parts], outputs.reshape(2, 4))
    (whole,) = lora_layers.parts_of(WHOLE, pairs, ("inputs", inputs), 1.0, "layer")
    np.testing.assert_array_equal(whole.factors["input_magnitude"], inputs)
    assert whole.factors.keys() == {"down", "up", "input_magnitude"}
    with pytest.raises(Mismatch, match=r"layer: its magnitudes are norms over the outputs, .* which a/kernel of this"):
        lora_layers.parts_of(ROWS, pairs, ("inputs", inputs), 1.0, "layer")


def test_magnitudes_of_a_convolution_s_inputs_stand_at_one_pixel():
    place = Place(Row("c", "c/kernel", CONV), (4, 3, 2, 2), (2, 2, 3, 4))
    (part,) = lora_layers.parts_of([place], [(random(1, 3, 2, 2), random(4, 1))], ("inputs", random(3)), 1.0, "layer")
    assert part.factors["input_magnitude"].shape == (1, 1, 3)


@pytest.mark.parametrize("kind", ["difference", "whole"])
def test_a_complete_tensor_is_split_by_the_rows_of_each_part(kind):
    """Axes of length 1 do not count."""
    tensor = random(8, 5)
    for form in (tensor, tensor[:, :, None, None]):
        parts = lora_layers.changed_parts(ROWS, kind, form, 0.5, "layer")
        for part, rows, name in zip(parts, (slice(0, 4), slice(4, 8)), "ab"):
            assert part[:3] == (f"{name}/kernel", (), (5, 4)) and part.scale == 0.5 and part.factors.keys() == {kind}
            np.testing.assert_array_equal(part.factors[kind], tensor[rows].T)
    (whole,) = lora_layers.changed_parts(WHOLE, kind, tensor, 1.0, "layer")
    np.testing.assert_array_equal(whole.factors[kind], tensor.T.reshape(5, 2, 4))
    for wrong in (tensor[:7], tensor.T, tensor.ravel()):
        with pytest.raises(Mismatch, match=r"layer has the shape \[.*\]\. Valid: \[8, 5\]\."):
            lora_layers.changed_parts(WHOLE, kind, wrong, 1.0, "layer")


def test_all_layers_of_a_scan_are_one_stack_in_the_order_of_their_numbers():
    leaf = (3, 4, 5)
    part = lambda i, at=(), scale=0.5: Part("k", (i, *at), leaf, {"up": np.full(2, i)}, scale)
    adapter, scale = lora_layers.stacked([part(2), part(0), part(1)])
    np.testing.assert_array_equal(adapter["k"]["up"], [[0, 0], [1, 1], [2, 2]])
    assert scale == {"k": 0.5}
    parts = [part(i, (ALL, slice(0, 2))) for i in range(3)]
    assert lora_layers.stacked(parts)[1] == {"k[:, :, 0:2]": 0.5}
    for some in ([part(0), part(2)], [part(0), part(1), part(2, scale=1.0)], [part(0), part(1), part(2, (ALL, 3))]):
        assert len(lora_layers.stacked(some)[1]) == len(some)
