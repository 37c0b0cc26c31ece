"""The update of each kind of LoRA file as a sum by hand, the rank of its scale, and tensors that fit no weight."""

import math

import jax
import numpy as np
import pytest

from diffusion.adapters import lora_kinds
from diffusion.models.interchange.rows import Mismatch

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def product(update, theirs):
    """The elementwise product of the matrices B A of an update's pairs, in the weight's shape."""
    matrices = [up.reshape(len(up), -1) @ down.reshape(len(down), -1) for down, up in update.pairs]
    return math.prod(matrices).reshape(theirs)


def factors(name, matrix, rank):
    """(tensors, product) of a matrix [out, in ..]: the matrix itself, or factors of this rank."""
    if not rank:
        return {name: matrix}, matrix
    up, down = random(len(matrix), rank), random(rank, *matrix.shape[1:])
    return {f"{name}_a": up, f"{name}_b": down}, np.tensordot(up, down, 1)


@pytest.mark.parametrize("pixels", [(), (3, 2)], ids=["linear", "convolution"])
@pytest.mark.parametrize("first, second, rank", [(0, 0, None), (1, 0, 1), (0, 3, 3), (2, 1, 1)])
def test_a_lokr_is_a_kronecker_product(first, second, rank, pixels):
    """Its rank is the second matrix's if this one is factored."""
    small, w1 = factors("lokr_w1", random(2, 3), first)
    large, w2 = factors("lokr_w2", random(4, 5, *pixels), second)
    theirs = (2 * 4, 3 * 5, *pixels)
    update = lora_kinds.update(small | large, theirs, "layer")
    expected = np.einsum("ab,cd...->acbd...", w1, w2).reshape(theirs)
    np.testing.assert_allclose(product(update, theirs), expected, rtol=1e-4, atol=1e-5)
    assert update.rank == rank


def test_a_factored_matrix_of_a_lokr_has_at_most_the_rank_of_the_weight():
    parts = lambda rank: {"lokr_w1": random(2, 3), "lokr_w2_a": random(4, rank), "lokr_w2_b": random(rank, 5)}
    assert lora_kinds.update(parts(15), (8, 15), "layer").rank == 15
    with pytest.raises(Mismatch, match=r"its factors have rank 16\. Valid: at most 15"):
        lora_kinds.update(parts(16), (8, 15), "layer")


def test_a_lokr_of_which_one_matrix_is_trained_is_a_function_of_it():
    w1, w2 = random(2, 3), random(4, 5)
    pairs = lambda w2: lora_kinds.update({"lokr_w1": w1, "lokr_w2": w2}, (8, 15), "layer").pairs
    total = lambda w2: sum(up.sum() * down.sum() for down, up in pairs(w2))
    np.testing.assert_allclose(jax.jit(total)(w2), total(w2), rtol=1e-4)


def test_the_core_of_a_lokr_stands_between_its_second_factors():
    w1, core, up, down = random(2, 3), random(2, 3, 3, 1), random(2, 4), random(3, 5)
    parts = {"lokr_w1": w1, "lokr_t2": core, "lokr_w2_a": up, "lokr_w2_b": down}
    update = lora_kinds.update(parts, (8, 15, 3, 1), "layer")
    w2 = np.einsum("ijhw,io,jn->onhw", core, up, down)
    expected = np.einsum("ab,cdhw->acbdhw", w1, w2).reshape(8, 15, 3, 1)
    np.testing.assert_allclose(product(update, expected.shape), expected, rtol=1e-4, atol=1e-5)
    assert update.rank == 2


@pytest.mark.parametrize("cores", [False, True])
def test_a_loha_is_the_product_of_the_elements_of_two_updates(cores):
    theirs = (4, 5, 3, 1) if cores else (4, 5)
    parts, expected = {}, np.ones(theirs)
    for i in (1, 2):
        up, down = random(2, 4) if cores else random(4, 2), random(2, 5)
        parts |= {f"hada_w{i}_a": up, f"hada_w{i}_b": down}
        if cores:
            parts[f"hada_t{i}"] = random(2, 2, 3, 1)
            expected *= np.einsum("ijhw,io,jn->onhw", parts[f"hada_t{i}"], up, down)
        else:
            expected *= up @ down
    update = lora_kinds.update(parts, theirs, "layer")
    np.testing.assert_allclose(product(update, theirs), expected, rtol=1e-4, atol=1e-5)
    assert update.rank == 2


@pytest.mark.parametrize("ones", [(), (1, 1)], ids=["matrices", "convolutions of one pixel"])
def test_the_core_of_a_locon_stands_between_its_factors(ones):
    down, core, up = random(3, 5), random(2, 3, 3, 1), random(4, 2)
    parts = {"down": down.reshape(*down.shape, *ones), "mid": core, "up": up.reshape(*up.shape, *ones)}
    update = lora_kinds.update(parts, (4, 5, 3, 1), "layer")
    expected = np.einsum("oi,ijhw,jn->onhw", up, core, down)
    np.testing.assert_allclose(product(update, expected.shape), expected, rtol=1e-4, atol=1e-5)
    assert update.rank == 2


A, B, ONE = random(2, 3), random(4, 2), random(4)


@pytest.mark.parametrize("more", [{}, {"mid": random(2, 2, 1)}, {"alpha": ONE[0]}])
def test_a_bias_of_b_stands_beside_a_and_b(more):
    update = lora_kinds.update(
        {"down": A, "up": B, "up_bias": ONE, **more}, (4, 3, *([1] if "mid" in more else [])), "layer"
    )
    assert update.rank == 2


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"down": A},
        {"lokr_w1": A, "lokr_w2": B},
        {"down": A, "up": B, "dora_scale": ONE},
        {"down": A, "up": B, "magnitude": ONE},
    ],
    ids=["alone", "without B", "lokr", "older dora", "dora"],
)
def test_a_bias_of_b_without_a_plain_lora_is_refused(parts):
    with pytest.raises(
        Mismatch, match=r"layer has lora_B\.bias, which is read only beside lora_A and lora_B of a LoRA"
    ):
        lora_kinds.update(parts | {"up_bias": ONE}, (4, 3), "layer")


@pytest.mark.parametrize(
    "parts, names",
    [({}, "alpha or magnitudes"), ({"down": A}, "down"), ({"down": A, "up": B, "hada_w1_a": B}, "down, hada_w1_a, up"),
     ({"lokr_w1": A, "lokr_w2_a": B}, "lokr_w1, lokr_w2_a"), ({"down": A, "up": B, "hada_t1": A}, "down, hada_t1, up")],
    ids=["none", "without B", "two kinds", "half a factor", "another core"],
)  # fmt: skip
def test_tensors_of_no_single_kind_are_refused_by_their_names(parts, names):
    with pytest.raises(
        Mismatch, match=rf"layer has only {names}\. Valid: down and up; hada_w1_a to hada_w2_b; or lokr_w1"
    ):
        lora_kinds.update({**parts, "alpha": ONE[0], "dora_scale": ONE}, (4, 3), "layer")


@pytest.mark.parametrize("theirs, most", [((4, 3), 4), ((3, 4), 4), ((2, 3, 2, 1), 6)])
def test_no_rank_exceeds_the_larger_side_of_the_weight(theirs, most):
    assert lora_kinds.largest_rank(theirs) == most
    parts = lambda rank: {"down": random(rank, *theirs[1:]), "up": random(theirs[0], rank)}
    assert lora_kinds.update(parts(most), theirs, "layer").rank == most
    with pytest.raises(Mismatch, match=rf"layer: its factors have rank {most + 1}\. Valid: at most {most}, the rank"):
        lora_kinds.update(parts(most + 1), theirs, "layer")


@pytest.mark.parametrize(
    "down, up",
    [((2, 4), (5, 2)), ((2, 3), (4, 2)), ((2, 3), (2, 5)), ((0, 3), (5, 0)), ((), (5, 2)), ((2, 3), (5, 1, 2))],
)
def test_factors_that_fit_no_weight_are_refused(down, up):
    with pytest.raises(Mismatch, match=r"do not fit the weight \[5, 3\]\. Valid: \[r, in, \.\.\]"):
        lora_kinds.update({"down": random(*down), "up": random(*up)}, (5, 3), "layer")


@pytest.mark.parametrize(
    "w1, w2", [((2, 3), (3, 5)), ((2, 4), (4, 5)), ((2, 3), (4, 4)), ((2, 0), (4, 5)), ((2,), (4, 15))]
)
def test_matrices_of_another_kronecker_product_are_refused(w1, w2):
    with pytest.raises(Mismatch, match=r"do not multiply to a matrix of shape \[8, 15\]"):
        lora_kinds.update({"lokr_w1": random(*w1), "lokr_w2": random(*w2)}, (8, 15), "layer")


@pytest.mark.parametrize(
    "up, down", [((4, 2), (3, 5)), ((4, 2), ()), ((4,), (2, 5)), ((4, 2), (2,)), ((4, 2, 1), (2, 5))]
)
def test_factors_of_a_lokr_that_do_not_multiply_are_refused(up, down):
    parts = {"lokr_w1": random(2, 3), "lokr_w2_a": random(*up), "lokr_w2_b": random(*down)}
    with pytest.raises(Mismatch, match=r"lokr_w2_a .* and lokr_w2_b .* do not multiply\. Valid: \[out, r\]"):
        lora_kinds.update(parts, (8, 15), "layer")


@pytest.mark.parametrize(
    "core, down, up",
    [((2, 3), (3, 5), (2, 4)), ((2, 3, 1), (3,), (2, 4)), ((2, 3, 1), (3, 5), (2,)), ((3, 3, 1), (3, 5), (2, 4)),
     ((2, 2, 1), (3, 5), (2, 4))],
)  # fmt: skip
def test_a_core_of_other_factors_is_refused(core, down, up):
    with pytest.raises(Mismatch, match=r"a core of shape .* does not fit factors of shapes"):
        lora_kinds._tucker(random(*core), random(*down), random(*up), (4, 5, 1), "layer")


@pytest.mark.parametrize("name, shape, axis", [("magnitude", (3,), "outputs"), ("dora_scale", (3, 1), "outputs"),
                                               ("dora_scale", (1, 3), "inputs")])  # fmt: skip
def test_magnitudes_are_of_the_axis_that_their_shape_says(name, shape, axis):
    values = random(*shape)
    kind, flat = lora_kinds.magnitude({name: values}, (3, 3), "layer")
    assert kind == axis
    np.testing.assert_array_equal(flat, values.ravel())
    sides = (3, 4) if axis == "outputs" else (4, 3)
    assert lora_kinds.magnitude({name: values}, (*sides, 2), "layer")[0] == axis
    with pytest.raises(Mismatch, match=r"magnitudes have the shape .*\. Valid: \[2, 1, \.\.\], .* or \[1, 4, \.\.\]"):
        lora_kinds.magnitude({name: values}, (2, 4), "layer")
    assert lora_kinds.magnitude({"down": values}, (3, 3), "layer") is None
