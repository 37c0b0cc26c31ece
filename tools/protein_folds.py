"""Searches for the torsions of ideal protein folds, and prints the table diffusion/data/proteins/fold_torsions.txt.

    python -m tools.protein_folds --starts=96 --steps=400

Helices keep phi = -62 and psi = -43 degrees. Adam finds the torsions of strands and turns, from random starts in the
basins of a Ramachandran plot. The energy that it minimises rewards the hydrogen bonds of a ladder, the distances of
parallel strands, or the packing of axes, and penalises clashes. The search keeps the chains of least energy that differ
from one another. A fold takes half a minute of CPU time.
"""

import argparse
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from diffusion.data.proteins import backbone
from diffusion.metrics.backbone_geometry import rmsd

HELIX, STRAND = (-62.0, -43.0), (-118.0, 132.0)
BASINS = np.array([(-62, -43), (-118, 132), (-70, 150), (57, 45), (80, 5), (-90, 0)], float)
TURNS = (((60, 30), (90, 0)), ((60, -120), (-80, 0)))  # turns of types I' and II' between strands, in degrees
NUMBER = {"hairpin": 5, "helix_turn_helix": 6, "sheet": 4, "beta_alpha_beta": 6, "beta_beta_alpha": 6}
PATTERNS = {  # H helix, E strand, L turn
    "hairpin": "E" * 15 + "L" * 2 + "E" * 15,
    "helix_turn_helix": "H" * 14 + "L" * 4 + "H" * 14,
    "sheet": "E" * 9 + "L" * 2 + "E" * 10 + "L" * 2 + "E" * 9,
    "beta_alpha_beta": "E" * 6 + "L" * 4 + "H" * 12 + "L" * 4 + "E" * 6,
    "beta_beta_alpha": "E" * 6 + "L" * 2 + "E" * 6 + "L" * 4 + "H" * 14,
}
RESIDUES = 32


def distance(a: Array, b: Array) -> Array:
    return jnp.sqrt(jnp.sum((a - b) ** 2, -1) + 1e-6)


def unit(v: Array) -> Array:
    return v / jnp.sqrt(jnp.sum(v**2) + 1e-6)


def axis(ca: Array) -> Array:
    """Points on the axis of a helix: the means of four successive CA atoms."""
    return (ca[:-3] + ca[1:-2] + ca[2:-1] + ca[3:]) / 4


def ladder(full: Array, i: int, j: int, count: int) -> Array:
    """The mean squared error of a ladder of `count` antiparallel pairs (i - k, j + k), in Angstrom.

    For even k, both distances N-O should be 2.95, the length of a hydrogen bond; for odd k, the CA should be 4.6 apart.
    """
    bonded, free = np.arange(0, count, 2), np.arange(1, count, 2)
    first = (distance(full[i - bonded, 0], full[j + bonded, 3]) - 2.95) ** 2
    second = (distance(full[i - bonded, 3], full[j + bonded, 0]) - 2.95) ** 2
    apart = (distance(full[i - free, 1], full[j + free, 1]) - 4.6) ** 2
    return (jnp.sum(first + second) + jnp.sum(apart)) / count


def energy(fold: str, full: Array) -> Array:
    """A measure of how far a chain `[n, 4, 3]` is from its fold, 0 at best."""
    ca = full[:, 1]
    if fold == "hairpin":
        return ladder(full, 14, 17, 15)
    if fold == "sheet":
        return ladder(full, 8, 11, 9) + ladder(full, 20, 23, 9)
    if fold == "helix_turn_helix":
        return jnp.mean((distance(axis(ca[:14]), axis(ca[18:])[::-1]) - 9.2) ** 2)
    if fold == "beta_beta_alpha":
        strand, helix = ca[:14], axis(ca[18:])
        apart = helix.mean(0) - strand.mean(0)
        normal = unit(jnp.cross(ca[0] - ca[5], ca[2] - ca[11]))
        packed = 0.3 * (distance(helix.mean(0), strand.mean(0)) - 10) ** 2 + 0.3 * (jnp.abs(apart @ normal) - 9.5) ** 2
        return ladder(full, 5, 8, 6) + packed + 2 * (1 - jnp.abs(unit(ca[0] - ca[5]) @ unit(helix[-1] - helix[0])))
    first, last, helix = ca[:6], ca[26:], axis(ca[10:22])
    along = unit(first[-1] - first[0])
    across = unit(last.mean(0) - first.mean(0))
    up = helix.mean(0) - (first.mean(0) + last.mean(0)) / 2
    crossover = jnp.cross(across, along)  # the side of the helix in a right-handed crossover
    packed = 0.3 * (up @ crossover - 9.8) ** 2 + 0.05 * (up @ along) ** 2 + 3 * (1 + unit(helix[-1] - helix[0]) @ along)
    return 1.5 * jnp.mean((distance(first, last) - 4.9) ** 2) + packed


def crowding(full: Array) -> Array:
    """The sum of squared clashes: the lengths by which distances are too small.

    Atoms of residues that are no neighbours should be 3.3 Angstrom apart, N and O 2.8. CA atoms of residues that are
    three or more apart in the chain should be 4.6 Angstrom apart.
    """
    atoms = full.reshape(-1, 3)
    residue, kind = np.repeat(np.arange(RESIDUES), 4), np.tile(np.arange(4), RESIDUES)
    bond = np.abs(kind[:, None] - kind) == 3
    pairs = residue[None] - residue[:, None] >= 2
    lack = jnp.maximum(np.where(bond, 2.8, 3.3) - distance(atoms[:, None], atoms), 0)
    ca = full[:, 1]
    far = np.subtract.outer(np.arange(RESIDUES), np.arange(RESIDUES)) >= 3
    lack_of_ca = jnp.maximum(4.6 - distance(ca[:, None], ca), 0)
    return jnp.sum(lack**2 * pairs) + jnp.sum(lack_of_ca**2 * far)


def search(fold: str, starts: int, steps: int, seed: int = 1) -> list[np.ndarray]:
    """The torsions int `[32, 2]`, in degrees, of the best chains; the CA of any two differ by an RMSD above 1 Angstrom.

    Args:
        fold: the name of a fold in `PATTERNS`.
        starts: the number of random starts.
        steps: the steps of Adam from each start.
        seed: the seed of the starts.
    """
    pattern = np.array(list(PATTERNS[fold]))
    turn, strand = pattern == "L", pattern == "E"
    rng = np.random.default_rng(seed)
    base = np.where((pattern == "H")[:, None], HELIX, STRAND)
    first = np.tile(base, (starts, 1, 1))
    first[:, turn] = BASINS[rng.integers(0, len(BASINS), (starts, turn.sum()))]
    for at in (at for at in range(1, RESIDUES - 2) if "".join(pattern[at - 1 : at + 3]) == "ELLE"):
        first[:, at : at + 2] = np.array(TURNS)[rng.integers(0, 2, starts)]
    first += rng.normal(0, 1, first.shape) * np.where(turn, 15, np.where(strand, 8, 0))[:, None]
    base, first = np.radians(base).astype(np.float32), np.radians(first).astype(np.float32)
    free = (turn | strand)[:, None]

    def chain(angles):
        straight = jnp.full((RESIDUES, 1), math.pi)
        return backbone.from_torsions(jnp.concatenate([jnp.where(free, angles, base), straight], -1))

    def loss(angles):
        full = backbone.with_oxygen(chain(angles))
        strain = 0.4 * jnp.sum((1 - jnp.cos(angles - base)) * strand[:, None])
        return energy(fold, full) + 0.5 * crowding(full) + strain

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    @jax.jit
    def minimised(angles):
        def step(carry, _):
            angles, state = carry
            slopes = jnp.nan_to_num(jax.vmap(jax.grad(loss))(angles))
            slopes /= 1e-6 + jnp.sqrt(jnp.sum(slopes**2, (1, 2), keepdims=True))
            updates, state = optimizer.update(slopes, state)
            return (angles + updates, state), None

        (angles, _), _ = jax.lax.scan(step, (angles, optimizer.init(angles)), length=steps)
        return angles, jax.vmap(loss)(angles), jax.vmap(chain)(angles)[:, :, 1]

    angles, losses, ca = map(np.asarray, minimised(first))
    best: list[int] = []
    for i in np.argsort(losses):
        if len(best) < NUMBER[fold] and all(rmsd(ca[i], ca[j]) > 1 for j in best):
            best.append(int(i))
    print(f"# {fold}: energies {np.round(losses[best], 3).tolist()}")
    return [np.round(np.degrees(np.where(free, angles[i], base))).astype(int) for i in best]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=96)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    for fold in PATTERNS:
        for angles in search(fold, arguments.starts, arguments.steps):
            print(f"{fold}: " + " ".join(str((angle + 180) % 360 - 180) for angle in angles.flat))


if __name__ == "__main__":
    main()
