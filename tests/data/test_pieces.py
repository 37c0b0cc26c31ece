"""Pieces of solids by their signed distances: by construction."""

import numpy as np
import pytest

from diffusion.data import level_sets


def solid(*cells):
    """The distance of a solid of single cells: -1 in them, and 1 elsewhere."""
    distance = np.ones((6, 6, 6))
    for cell in cells:
        distance[cell] = -1
    return distance


@pytest.mark.parametrize(
    "cells, number",
    [
        ((), 0),
        (((1, 2, 3),), 1),
        (((1, 2, 3), (1, 2, 4), (1, 3, 4)), 1),  # around a corner
        (((1, 2, 3), (1, 2, 5)), 2),
        (((1, 2, 3), (1, 3, 4)), 2),  # cells that share an edge alone
        (((1, 2, 3), (2, 3, 4), (5, 5, 5)), 3),  # a corner alone
        (((0, 2, 3), (5, 2, 3)), 2),  # the two ends of an axis
    ],
)
def test_cells_that_share_a_face_are_one_piece(cells, number):
    assert level_sets.pieces(solid(*cells)) == number == level_sets.pieces(solid(*cells)[..., None])


def test_a_surface_at_zero_is_outside():
    assert level_sets.pieces(np.minimum(solid((1, 2, 3), (1, 2, 5)), np.where(np.arange(6) == 4, 0, 1))) == 2


@pytest.mark.parametrize(
    "distance, message", [(np.ones((2, 3, 3)), "must be .S, S, S"), (np.full((2, 2, 2), np.nan), "finite")]
)
def test_what_is_no_signed_distance_is_refused(distance, message):
    with pytest.raises(ValueError, match=message):
        level_sets.pieces(distance)
