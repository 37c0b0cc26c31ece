"""The factors of a part of a leaf, from those of another part: what is selected, and where zeros stand."""

import types

import numpy as np
import pytest

from diffusion.adapters import lora_updates

RNG = np.random.default_rng(0)
ALL = slice(None)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def place(leaf, at):
    return types.SimpleNamespace(leaf=leaf, row=types.SimpleNamespace(at=at))


LEAF = (2, 5, 3, 4)  # layers, inputs, outputs [3, 4]
# the part of the factors, the part of the layer of a file, the parts of A and of B that remain
SELECTED = {
    "a layer of all": ((), (1,), (1,), (1,)),
    "one of three parts of a layer": ((), (1, ALL, 2), (1,), (1, ALL, 2)),
    "the same layer": ((1,), (1,), (), ()),
    "a part of the same layer": ((1,), (1, ALL, 2), (), (ALL, 2)),
    "the same part of all layers": ((ALL, ALL, 2), (0, ALL, 2), (0,), (0,)),
    "the same slice of outputs": ((1, ALL, ALL, slice(0, 2)), (1, ALL, ALL, slice(0, 2)), (), ()),
    "another layer": ((0,), (1,), None, None),
    "another part": ((ALL, ALL, 0), (1, ALL, 2), None, None),
    "another slice": ((1, ALL, ALL, slice(0, 2)), (1, ALL, ALL, slice(2, 4)), None, None),
}


@pytest.mark.parametrize("case", SELECTED)
@pytest.mark.parametrize("rank", [1, 2])
def test_the_factors_of_a_part_are_those_of_its_layers_and_outputs(case, rank):
    at, other, of_down, of_up = SELECTED[case]
    index = (*at, *[ALL] * (len(LEAF) - len(at)))
    leaf = random(*LEAF)[index]
    layers = () if at and isinstance(at[0], int) else LEAF[:1]
    down, up = random(*layers, LEAF[1], rank), random(*layers, rank, *leaf.shape[len(layers) + 1 :])
    selected = lora_updates._selected({"down": down, "up": up}, at, place(LEAF, other), fused=False)
    if of_down is None:
        assert selected is None
    else:
        np.testing.assert_array_equal(selected[0], down[of_down])
        np.testing.assert_array_equal(selected[1], up[of_up])


# the part of the factors, the part of the file's layer, the axes of B that are filled: {axis: (size, the part)}
FILLED = {
    "a part of all layers": ((ALL, ALL, 2, ALL), (1, ALL, ALL, ALL), (ALL, ALL, ALL, ALL), (2, 3, 3, 4), (ALL, ALL, 2)),
    "a part of one layer": ((1, ALL, 2, ALL), (1, ALL, ALL, ALL), (1, ALL, ALL, ALL), (3, 3, 4), (ALL, 2)),
    "a slice": ((1, ALL, ALL, slice(1, 3)), (1, ALL, ALL, ALL), (1, ALL, ALL, ALL), (3, 3, 4), (ALL, ALL, slice(1, 3))),
    "a slice of a part": (
        (1, ALL, 0, slice(1, 3)),
        (1, ALL, ALL, ALL),
        (1, ALL, ALL, ALL),
        (3, 3, 4),
        (ALL, 0, slice(1, 3)),
    ),
    "the same part": ((1, ALL, 2, ALL), (1, ALL, 2, ALL), (1, ALL, 2, ALL), (3, 4), (ALL,)),
}


@pytest.mark.parametrize("case", FILLED)
def test_outputs_that_the_factors_do_not_cover_are_zero(case):
    mine, theirs, whole, shape, at = FILLED[case]
    full = np.zeros(shape, np.float32)
    up = random(*full[at].shape)
    full[at] = up
    layers = LEAF[: isinstance(mine[0], slice)]
    index, filled = lora_updates._filled(list(mine), list(theirs), LEAF, random(*layers, LEAF[1], 3), up)
    assert index == list(whole)
    np.testing.assert_array_equal(filled, full)


def test_a_part_of_a_fused_layer_reads_its_inputs_and_has_zeros_elsewhere():
    down, up = random(2, 5, 3), random(2, 3, 4)
    factors = {"down": down, "up": up}
    at, layer = (ALL, ALL, 2), place(LEAF, (1,))
    assert lora_updates._selected(factors, at, layer, fused=False) is None
    of_layer, filled = lora_updates._selected(factors, at, layer, fused=True)
    np.testing.assert_array_equal(of_layer, down[1])
    np.testing.assert_array_equal(filled, np.stack([0 * up[1], 0 * up[1], up[1]], axis=1))


@pytest.mark.parametrize("at", [(1, slice(0, 3)), (ALL, slice(0, 3))])
def test_factors_of_some_inputs_are_of_no_layer(at):
    layers = LEAF[: at[0] == ALL]
    factors = {"down": random(*layers, 3, 2), "up": random(*layers, 2, 3, 4)}
    assert lora_updates._selected(factors, at, place(LEAF, (1,)), fused=True) is None


@pytest.mark.parametrize("rows", [None, (2, 5)])
def test_rows_of_a_layer_stand_among_zeros(rows):
    up = random(3 if rows else 7, 2)
    part = types.SimpleNamespace(theirs=(7, 4), row=types.SimpleNamespace(rows=rows))
    full = lora_updates._among_rows(up, part)
    np.testing.assert_array_equal(full, np.pad(up, ((2, 2), (0, 0))) if rows else up)
