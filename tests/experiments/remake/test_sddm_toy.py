"""The code of the points, the exact ratios, the steps and the figures of SDDM's toys, each by hand."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete
from diffusion.discrete import predictions, steps as symbol_steps
from diffusion.experiments.remake import sddm_toy as toy

UNIT = 2**15 / 6.0


def bits(cells):
    """`[N, 16]` from the first coordinate's sign to the second one's last bit."""
    return ((np.asarray(cells)[..., None] >> np.arange(toy.COUNTED - 1, -1, -1)) & 1).reshape(len(cells), -1)


def sparse_law():
    """Three cells with their weights."""
    law = np.zeros((toy.CELLS, toy.CELLS))
    law[[3, 200, 17], [9, 9, 255]] = 0.5, 0.2, 0.3
    return law


def test_neighbours_differ_in_one_bit_and_the_sign_is_the_first():
    """256 integers a cell: 2^7 cells on each side of 0, and a step over an edge flips one bit."""
    edges = (np.arange(128) + 0.5) * 256 / UNIT
    cells = toy.encode(np.stack([edges, -edges], 1), UNIT)
    right, left = bits(cells)[:, :8], bits(cells)[:, 8:]
    assert (right[:, 0] == 0).all() and (left[:, 0] == 1).all()
    np.testing.assert_array_equal(right[:, 1:], left[:, 1:])
    assert len({tuple(row) for row in right}) == 128
    assert (np.abs(np.diff(right, axis=0)).sum(1) == 1).all()
    np.testing.assert_allclose(toy.decode(cells, UNIT), np.stack([edges, -edges], 1))


@pytest.mark.parametrize(("name", "draw"), toy.CLOUDS.items())
def test_the_clouds_fit_into_their_code(name, draw):
    points = draw(np.random.default_rng(7), 20_000)
    unit = toy.scale(draw)
    assert points.shape == (20_000, 2) and np.abs(points).max() * unit < 2**15
    middles = toy.decode(toy.encode(points, unit), unit)
    assert np.abs(middles - points).max() <= 129 / unit


def test_the_clouds_by_their_shapes():
    drawn = {name: draw(np.random.default_rng(3), 40_000) for name, draw in toy.CLOUDS.items()}
    radius = {name: np.linalg.norm(points, axis=1) for name, points in drawn.items()}
    assert radius["8gaussians"].mean() == pytest.approx(math.sqrt(16 + 0.25) / 1.414, rel=0.01)
    assert (radius["circles"] < 2.25).mean() == pytest.approx(0.5, abs=0.01)
    assert radius["2spirals"].max() < (3 * math.pi + 0.75) / 3 + 0.5
    assert drawn["2spirals"].mean(0) == pytest.approx([0, 0], abs=0.05)
    squares = {tuple(square) for square in np.floor(drawn["checkerboard"] / 2).astype(int)}
    assert squares == {(i, j) for i, j in itertools.product(range(-2, 2), repeat=2) if (i + j) % 2 == 0}
    assert drawn["pinwheel"].mean(0) == pytest.approx([0, 0], abs=0.05)  # five arms, turned by a fifth
    assert drawn["moons"].mean(0) == pytest.approx([0, 0.3], abs=0.02)  # 2 (1/2, 1/4) - (1, 0.2)


@pytest.mark.extended
def test_noised_laws_and_ratios_by_their_definition():
    """p_t(x) is the sum over x_0 of law(x_0) d^h (1 - d)^(16 - h) with h differing bits and d = (1 - exp(-2 t)) / 2."""
    law, t = sparse_law(), 0.3
    d = (1 - math.exp(-2 * t)) / 2
    sources = np.argwhere(law)

    def density(cell):
        apart = [int(np.bitwise_count(np.array(cell) ^ source).sum()) for source in sources]
        return sum(law[tuple(source)] * d**h * (1 - d) ** (16 - h) for source, h in zip(sources, apart))

    p = toy.noised(jnp.asarray(law, jnp.float32), jnp.float32(t))
    cells = np.array([[3, 9], [0, 0], [201, 8], [128, 77]])
    found = np.asarray(toy.ratios(p, jnp.asarray(cells)))
    for cell, row in zip(cells, found):
        assert float(p[tuple(cell)]) == pytest.approx(density(cell), rel=1e-4)
        for axis, bit in itertools.product(range(2), range(8)):
            flipped = cell.copy()
            flipped[axis] ^= 1 << bit
            assert row[axis, bit] == pytest.approx(density(flipped) / density(cell), rel=1e-4)


@pytest.mark.extended
def test_sddms_step_is_the_librarys_euler_step():
    """In the library's clock u = 1 - exp(-2 t) symbols stay with 1 - u, and du = 2 (1 - u) dt."""
    ratio = jnp.array([[0.02, 0.7, 1.0, 3.0, 40.0]])
    t, duration = 0.4, 0.001
    u = 1 - math.exp(-2 * t)
    process = discrete.uniform(discrete.linear(), 2)
    x = jnp.zeros((1, 5), jnp.int32)
    log_ratios = jnp.stack([jnp.zeros_like(ratio), jnp.log(ratio)], -1)
    predict = lambda x, time: predictions.from_ratios(process, log_ratios, x, time)
    law = symbol_steps.euler_law(predict, process, x, jnp.array([u]), jnp.array([u - 2 * (1 - u) * duration]))
    within = (0.42 < ratio) & (ratio < 2.3)  # the ratios that some data have: d / (1 - d) to (1 - d) / d
    np.testing.assert_allclose(law[..., 1][within], duration * toy.RATES[toy.SDDM](ratio)[within], rtol=1e-3)


def test_the_flow_jumps_to_likelier_bits_alone():
    np.testing.assert_allclose(toy.RATES[toy.FLOW](jnp.array([0.2, 1.0, 3.0])), [0, 0, 2])


@pytest.mark.extended
def test_of_even_bits_sddm_jumps_once_each_and_the_flow_never():
    even = jnp.full((toy.CELLS, toy.CELLS), 1 / toy.CELLS**2)
    start = jax.random.randint(jax.random.key(0), (2000, 2), 0, toy.CELLS)
    end, jumps = toy.reverse(toy.SDDM, even, start, jax.random.key(1), 50)
    assert float(jumps.mean()) == pytest.approx(16, abs=0.4)
    moved = np.bitwise_count(np.asarray(end ^ start)).sum(1).mean()
    assert moved == pytest.approx(16 * (1 - (1 - 2 / 50) ** 50) / 2, abs=0.25)
    end, jumps = toy.reverse(toy.FLOW, even, start, jax.random.key(1), 50)
    assert (end == start).all() and not jumps.any()


@pytest.mark.extended
@pytest.mark.parametrize("method", toy.RATES)
def test_both_arrive_at_the_law_from_its_noise(method):
    """From starts of p_1 the three cells have their weights, up to three deviations and the error of 200 steps."""
    law, number = sparse_law(), 4000
    sources, rng = np.argwhere(law), np.random.default_rng(0)
    clean = sources[rng.choice(3, number, p=law[tuple(sources.T)])]
    flips = rng.random((number, 2, 8)) < (1 - math.exp(-2)) / 2
    start = jnp.asarray(clean ^ (flips @ toy.FLIPS), jnp.int32)
    end, _ = toy.reverse(method, jnp.asarray(law, jnp.float32), start, jax.random.key(2), 200)
    shares = toy.counted(np.asarray(end))[tuple(sources.T)] / number
    np.testing.assert_allclose(shares, law[tuple(sources.T)], atol=0.03)


def test_the_discrepancy_by_all_pairs():
    law = sparse_law()
    cells = np.random.default_rng(0).integers(0, toy.CELLS, (12, 2))
    kernel = lambda a, b: math.exp(-0.1 * int(np.bitwise_count(a ^ b).sum()))
    sources = [(source, law[tuple(source)]) for source in np.argwhere(law)]
    within = np.mean([kernel(a, b) for a, b in itertools.permutations(cells, 2)])
    across = np.mean([sum(w * kernel(a, b) for b, w in sources) for a in cells])
    of_law = sum(v * w * kernel(a, b) for a, v in sources for b, w in sources)
    factor = ((1 + math.exp(-0.1)) / 2) ** 16
    assert toy.discrepancy(cells, law) == pytest.approx(factor * (within - 2 * across + of_law), rel=1e-5)


def test_what_coins_add_by_hand():
    """In two steps of 1/2 a coin differs with 1/2 and jumps once; two draws of it then deviate by 1/2 half the time."""
    assert toy.coins(toy.SDDM, 2, 2) == pytest.approx((16 * 0.25, 16 * 0.5, 16))
    assert toy.coins(toy.FLOW, 2, 2) == (0, 0, 0)


def test_the_deviation_of_repeated_samples_by_hand():
    """A bit that is 1 in one of two samples deviates by 1/2; the first start has two such bits, the second none."""
    repeated = np.array([[[0, 1, 1], [1, 1, 0]], [[1, 0, 1], [1, 0, 1]]])
    assert toy.deviation(repeated) == pytest.approx(0.5)
