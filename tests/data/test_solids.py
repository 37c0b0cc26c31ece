"""Parametric solids: points on their surfaces and uniform by area, distances and volumes by closed forms."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from diffusion.data import level_sets, solids

NUMBER = 4000
rng = lambda seed=0: np.random.default_rng(seed)
BOX = solids.box((0.5, 0.4, 0.3))
CONE = solids.revolved([(0, -0.5), (0.6, -0.5), (0, 0.7)])
CYLINDER = solids.revolved([(0, -0.5), (0.6, -0.5), (0.6, 0.7), (0, 0.7)])
TORUS = solids.torus(0.6, 0.2)
BALL = solids.superellipsoid((0.5, 0.5, 0.5), 1.0, 1.0)
SPHEROID = solids.superellipsoid((0.8, 0.8, 0.4), 1.0, 1.0)
SLANT = math.hypot(0.6, 1.2)
ECCENTRICITY = math.sqrt(1 - 0.25)
PARTS = {  # the part, its area and its volume
    "box": (BOX, 8 * (0.2 + 0.15 + 0.12), 8 * 0.06),
    "cone": (CONE, math.pi * 0.6 * (0.6 + SLANT), math.pi * 0.36 * 1.2 / 3),
    "cylinder": (CYLINDER, 2 * math.pi * 0.6 * (0.6 + 1.2), math.pi * 0.36 * 1.2),
    "torus": (TORUS, 4 * math.pi**2 * 0.12, 2 * math.pi**2 * 0.6 * 0.04),
    "ball": (BALL, math.pi, math.pi / 6),
    "spheroid": (
        SPHEROID,
        2 * math.pi * 0.64 + math.pi * 0.16 / ECCENTRICITY * math.log((1 + ECCENTRICITY) / (1 - ECCENTRICITY)),
        4 / 3 * math.pi * 0.8 * 0.8 * 0.4,
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_has_its_area_and_its_volume(name):
    part, area, volume = PARTS[name]
    assert part.area == pytest.approx(area, rel=1e-3)
    inside = part.distance(rng().uniform(-1, 1, (20_000, 3))) < 0
    assert abs(8 * inside.mean() - volume) < 5 * 8 * inside.std() / math.sqrt(20_000)


def test_the_nearest_point_of_an_outline_may_be_its_corner():
    """A segment ends where the next one begins: beside it, its line is no surface."""
    beside = np.array([(0.9, 0, -0.9), (0.9, 0, 0.7), (0, 0.9, 0.1), (0, 0, 1.0), (0.9, 0, -0.5), (0, 0.9, 1.1)])
    np.testing.assert_allclose(CYLINDER.distance(beside), [0.5, 0.3, 0.3, 0.3, 0.3, 0.5])
    np.testing.assert_allclose(CONE.distance(np.array([(1.0, 0, -0.8), (0, 0, 1.0), (0, 0.6, -0.7)])), [0.5, 0.3, 0.2])


@pytest.mark.parametrize("name", sorted(PARTS.keys() - {"spheroid"}))
def test_distances_have_gradients_of_length_one_and_reach_the_surface(name):
    part, *_ = PARTS[name]
    points = rng(1).uniform(-1, 1, (500, 3))
    slope = np.stack([part.distance(points + step) - part.distance(points - step) for step in 1e-6 * np.eye(3)], axis=1)
    length = np.linalg.norm(slope, axis=1) / 2e-6
    assert np.quantile(np.abs(length - 1), 0.97) < 1e-4  # but where two points of the surface are equally near
    foot = points - part.distance(points)[:, None] * slope / np.linalg.norm(slope, axis=1, keepdims=True)
    assert np.quantile(np.abs(part.distance(foot)), 0.97) < 1e-4


def test_points_are_uniform_by_area():
    """Each against a marginal that is known; the smallest probability is above 1e-3 for 99 % of seeds."""
    draw = lambda part: part.draw(rng(), NUMBER)
    uniform = lambda values, low, high: stats.kstest(values, "uniform", (low, high - low)).pvalue
    share = lambda found, expected: stats.binomtest(int(found.sum()), NUMBER, expected).pvalue
    ball, cone, box, ring = draw(BALL), draw(CONE), draw(BOX), draw(TORUS)
    spheroid = draw(SPHEROID)
    belt = lambda z: (
        z * np.sqrt(1 + 3 * z**2) + np.arcsinh(math.sqrt(3) * z) / math.sqrt(3)
    )  # area below z of c = a / 2
    tube = np.arctan2(ring[:, 2], np.hypot(*ring[:, :2].T) - 0.6)
    flat = cone[:, 2] == -0.5
    rest = cone[~flat]
    values = {
        "ball, z (Archimedes)": uniform(ball[:, 2], -0.5, 0.5),
        "ball, x": uniform(ball[:, 0], -0.5, 0.5),
        "spheroid, area below z": uniform(belt(spheroid[:, 2] / 0.4), -belt(1.0), belt(1.0)),
        "cone, disc": share(flat, 0.6 / (0.6 + SLANT)),
        "cone, mantle": uniform((0.7 - rest[:, 2]) ** 2, 0, 1.2**2),
        "box, top and bottom": share(np.abs(box[:, 2]) == 0.3, 0.2 / 0.47),
        "box, to the right": share(box[:, 0] == 0.5, 0.12 / 0.94),
        "box, within a face": uniform(box[np.abs(box[:, 2]) == 0.3, 0], -0.5, 0.5),
        "torus, along the tube": uniform(tube + 0.2 / 0.6 * np.sin(tube), -math.pi, math.pi),
    }
    assert min(values.values()) > 1e-3, values


@pytest.mark.parametrize("upright, flat", [(0.3, 1.4), (1.4, 0.3)])
def test_superquadrics_of_unequal_exponents(upright, flat):
    """Area, and shares of octants, bands along z and sides, of a mesh by Barr's angles: z = c sin(v)^upright .."""
    sides = np.array([0.4, 0.8, 0.6])
    part = solids.superellipsoid(sides, upright, flat)
    v, w = np.meshgrid(*2 * [np.linspace(0, math.pi / 2, 500)], indexing="ij")
    across = np.cos(v) ** upright
    mesh = sides * np.stack([across * np.cos(w) ** flat, across * np.sin(w) ** flat, np.sin(v) ** upright], axis=-1)
    corners = [mesh[:-1, :-1], mesh[1:, :-1], mesh[:-1, 1:], mesh[1:, 1:]]
    triangles = np.concatenate([np.stack(corners[i : i + 3]).reshape(3, -1, 3) for i in (0, 1)], axis=1)
    areas = np.linalg.norm(np.cross(triangles[1] - triangles[0], triangles[2] - triangles[0]), axis=1) / 2
    assert part.area == pytest.approx(8 * areas.sum(), rel=0.01)

    def counts(points, weights=None):
        share = np.abs(points) / sides
        cell = 2 * np.digitize(share[:, 2], [0.3, 0.9]) + (share[:, 0] > share[:, 1])
        octant = (points > 0) @ [1, 2, 4] if weights is None else 0  # the mesh is one of the eight
        return np.bincount(6 * octant + cell, weights, minlength=6)

    points = part.draw(rng(), NUMBER)
    expected = np.tile(counts(triangles.mean(0), areas / areas.sum()), 8) * NUMBER / 8
    assert expected.min() > 5
    assert stats.chisquare(counts(points), expected).pvalue > 1e-3
    np.testing.assert_allclose(part.distance(mesh.reshape(-1, 3)[::997]), 0, atol=1e-9)


def test_the_centre_of_a_superquadric_is_inside():
    """Distances along rays: at the centre of a ball that is exact, and on grids of odd sides it is a record's value."""
    for part, radius in ((BALL, 0.5), (SPHEROID, 0.4)):
        near = 10.0 ** -np.arange(1, 25)[:, None] * [0, 0, 1]
        np.testing.assert_allclose(part.distance(near), near[:, 2] - radius, atol=1e-12)
        assert part.distance(np.zeros((1, 3))).tolist() == [-radius]
    assert (BALL.distance(solids.grid(15)) < 0).reshape(15, 15, 15)[5:10, 7, 7].all()


def test_the_two_angles_of_a_torus_are_independent():
    points = solids.torus(0.6, 0.25).draw(np.random.default_rng(0), 4000)
    around = np.arctan2(points[:, 1], points[:, 0])
    outward = np.hypot(points[:, 0], points[:, 1]) - 0.6
    for part in (outward, points[:, 2]):
        for wave in (np.cos(around), np.sin(around)):
            assert abs(np.corrcoef(part, wave)[0, 1]) < 5 / np.sqrt(4000)


def test_parts_have_points_by_their_areas():
    """Two cubes apart, of sides 2 to 1."""
    cubes = [solids.box([0.4] * 3), solids.moved(solids.box([0.2] * 3), (2, 0, 0))]
    points = solids.surface_points(cubes, 2000, np.random.default_rng(0))
    assert abs((points[:, 0] < 1).mean() - 4 / 5) < 5 * np.sqrt(4 / 25 / 2000)


def test_a_union_has_the_outer_surface_alone():
    """Two cubes of side 1 that overlap by half are a box of 1.5 x 1 x 1, of whose 8 units of area its ends have 2."""
    cube = solids.box((0.5, 0.5, 0.5))
    union = [cube, solids.moved(cube, (0.5, 0, 0))]
    points = solids.surface_points(union, NUMBER, rng())
    whole = solids.moved(solids.box((0.75, 0.5, 0.5)), (0.25, 0, 0))
    np.testing.assert_allclose(whole.distance(points), 0, atol=1e-12)
    ends = np.isclose(np.abs(points[:, 0] - 0.25), 0.75)
    assert stats.binomtest(int(ends.sum()), NUMBER, 2 / 8).pvalue > 1e-3
    outside = rng(2).uniform(1, 2, (50, 3))
    np.testing.assert_allclose(solids.signed_distance(union, outside), whole.distance(outside))


def test_every_kind_lies_in_the_cube_with_its_points_on_its_surface():
    for kind in solids.KINDS:
        for seed in range(5):
            solid = solids.draw(kind, rng(seed))
            points = solids.surface_points(solid, 64, rng(seed))
            assert np.abs(points).max() < 0.85, kind
            np.testing.assert_allclose(solids.signed_distance(solid, points), 0, atol=1e-9, err_msg=kind)
            assert (solids.signed_distance(solid, solids.grid(16)) < 0).any(), kind


class Middles:
    """A generator whose uniform numbers are the middles of their ranges."""

    def uniform(self, low, high, size=None):
        middle = (np.asarray(low, float) + np.asarray(high)) / 2
        return middle if size is None else np.full(size, middle)


OUTLINES = {  # where the surface of a kind of middle proportions is
    "cylinder": [(0.45, 0, 0), (0, 0.45, 0.5), (0, 0, 0.575), (0.2, 0.2, -0.575)],
    "cone": [(0.55, 0, -0.625), (0.275, 0, 0), (0, 0, 0.625), (0.3, 0.3, -0.625)],
    "vase": [(0.275, 0, -0.7), (0, 0.5, -0.25 * 0.7), (0.175, 0, 0.475 * 0.7), (0, 0.275, 0.7), (0, 0, -0.7)],
    # a board of 1.3 x 1.2 x 0.18 at a height of 0.55, on legs of 0.18 x 0.18 at its corners, down to -0.55
    "table": [(0, 0, 0.64), (0, 0, 0.46), (0.65, 0, 0.55), (0, -0.6, 0.55), (0.65, 0.6, 0), (0.47, 0.42, 0),
              (-0.47, -0.42, -0.3), (-0.56, 0.51, -0.55)],
    # a seat of 0.9 x 0.85 x 0.17 at -0.05, a back of 0.17 up to 0.7 at its rear, legs of 0.17 x 0.17 down to -0.75
    "chair": [(0, -0.2, 0.035), (0, 0, -0.135), (0.45, 0, -0.05), (0, 0.425, 0.4), (0, 0.255, 0.4), (0.45, 0.34, 0.6),
              (0, 0.34, 0.7), (0.45, 0.34, -0.5), (0.28, -0.34, -0.5), (-0.365, 0.255, -0.5), (-0.365, -0.34, -0.75)],
}  # fmt: skip


@pytest.mark.parametrize("kind", OUTLINES)
def test_the_surface_of_a_kind_is_where_its_proportions_put_it(kind):
    solid = solids.draw(kind, Middles())
    np.testing.assert_allclose(solids.signed_distance(solid, np.array(OUTLINES[kind], float)), 0, atol=1e-9)
    outside = {"table": [(0, 0, 0), (0.3, 0.51, 0)], "chair": [(0, 0, -0.5), (0, 0, 0.4), (0, -0.34, 0.4)]}
    assert (solids.signed_distance(solid, np.array(outside.get(kind, [(0.8, 0.8, 0)]), float)) > 0.05).all()


def test_a_grid_has_the_centres_of_its_cells_with_z_fastest():
    np.testing.assert_allclose(solids.grid(4), list(itertools.product([-0.75, -0.25, 0.25, 0.75], repeat=3)))


def test_the_surface_of_a_grid_is_where_its_sign_changes():
    distance = BALL.distance(solids.grid(16)).reshape(16, 16, 16)
    points = level_sets.crossings(distance, rng(), 300)
    assert points.shape == (300, 3)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 0.5, atol=0.01)  # linear between cells of 1/8
    assert np.abs(points.mean(axis=0)).max() < 0.1
    np.testing.assert_array_equal(level_sets.crossings(np.ones((4, 4, 4, 1)), rng(), 5), np.zeros((5, 3)))
    for wrong, words in ((np.ones((4, 4)), r"\[4, 4\]"), (np.full((4, 4, 4), np.nan), "NaN")):
        with pytest.raises(ValueError, match=words):
            level_sets.crossings(wrong, rng())


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: solids.draw("sphere", rng()), "kind = 'sphere'.*superellipsoid"),
        (lambda: solids.box((1, 0, 1)), "three positive"),
        (lambda: solids.torus(0.2, 0.3), "minor < major"),
        (lambda: solids.superellipsoid((1, 1, 1), 2.0, 1.0), "upright = 2.0"),
        (lambda: solids.revolved([(0.1, 0), (1, 0), (0, 1)]), "on the axis"),
        (lambda: solids.revolved([(0, 0), (0, 1)]), "three corners"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
