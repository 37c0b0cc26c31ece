"""The table of ideal folds: all variants of each class, pairs of whole degrees, and torsions of chains in a batch."""

import hashlib
import json

import jax.numpy as jnp
import numpy as np

from diffusion.data.proteins import backbone, folds
from diffusion.data.proteins.fold_torsions import FOLDS


def test_the_table_has_every_variant_of_each_class_in_turn():
    assert folds.TABLE.shape == (len(FOLDS), 6, 32, 2)
    for row, number, variants in zip(folds.TABLE, folds.NUMBERS, FOLDS.values()):
        assert number == len(variants) <= 6
        for i, angles in enumerate(row):
            np.testing.assert_allclose(np.degrees(angles), variants[i % number], atol=1e-9)
        assert len({tuple(variant) for variant in variants}) == number


def test_variants_are_pairs_of_phi_and_psi_of_32_residues():
    """Those of strands are about (-120, 130), those of helices about (-62, -43): phi is below zero in most."""
    for variants in FOLDS.values():
        for variant in variants:
            angles = np.array(variant)
            assert angles.shape == (32, 2) and np.abs(angles).max() <= 180
            assert np.mean(angles[:, 0] < 0) > 0.8
    strand = np.array(FOLDS["sheet"][0])
    assert np.median(strand[:, 0]) < -110 and np.median(strand[:, 1]) > 110


def test_torsions_of_a_batch_are_those_of_each_chain():
    angles = np.radians(np.array([FOLDS["sheet"][0], FOLDS["hairpin"][1]], np.float32))
    whole = np.concatenate([angles, np.full((2, 32, 1), np.pi, np.float32)], -1)
    chains = jnp.stack([backbone.from_torsions(jnp.asarray(one)) for one in whole])
    both = np.asarray(backbone.torsions_of(chains))
    assert both.shape == (2, 32, 3)
    for found, chain, expected in zip(both, chains, angles):
        np.testing.assert_array_equal(found, backbone.torsions_of(chain))
        np.testing.assert_allclose(found[1:, 0], expected[1:, 0], atol=1e-3)
        np.testing.assert_allclose(found[:-1, 1], expected[:-1, 1], atol=1e-3)
        assert np.isnan(found[0, 0]) and np.isnan(found[-1, 1:]).all()


def test_helices_are_those_of_the_assemblies_and_of_the_convention():
    """IUPAC-IUB 1970 gives the alpha helix -57 and -47 degrees."""
    straight, convention, _ = (variant[0] for variant in FOLDS["helix"])
    for variant in FOLDS["helix_turn_helix"]:
        assert set(variant[:14]) == set(variant[18:]) == {straight}
    assert convention == (-57, -47)


def test_the_table_is_the_one_that_published_figures_are_of():
    """A degree more or less would draw other chains, as sound as these, under the same names."""
    assert hashlib.sha256(json.dumps(FOLDS).encode()).hexdigest() == (
        "c27f178670ad4cd9d23f54a00dd4d1d442ff6f03629b395b7b26dda16834fee1"
    )
