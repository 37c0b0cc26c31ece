"""Products of matrices of float32 keep their digits where devices multiply in fewer bits unless they are told."""

import jax
import numpy as np
import pytest

from diffusion import objectives
from diffusion.guidance import measurements
from diffusion.objectives import couplings

X = np.zeros((4, 3), np.float32)
KEYS = jax.random.split(jax.random.key(0), 4)
MATRIX = measurements.matrix(np.arange(6, dtype=np.float32).reshape(2, 3))
CLASSES, ANGLES = np.zeros(4, np.int32), np.zeros((4, 1), np.float32)


def products(program):
    """The precisions of all products of matrices in a program and in the programs within it."""
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.parametrize(
    "function, number",
    [
        (lambda x: couplings.optimal_transport(4)(KEYS, x, x, CLASSES), 1),
        (lambda x: couplings.entropic_plan(x, x, 1.0), 1),
        (lambda x: couplings.conditional_optimal_transport(0.5, 4)(KEYS, x, x, ANGLES), 1),
        (lambda x: objectives.drift(x, x, 1.0), 2),
        (lambda x: MATRIX.inverse(MATRIX.forward(x), x), 4),
        (lambda x: MATRIX.filtered(x, lambda s: s), 2),
    ],
    ids=["transport", "entropic plan", "conditional transport", "drift", "inverse", "filtered"],
)
def test_products_have_full_precision(function, number):
    found = list(products(jax.make_jaxpr(function)(X).jaxpr))
    assert len(found) == number
    assert all(precision is not None and set(precision) == {jax.lax.Precision.HIGHEST} for precision in found)
