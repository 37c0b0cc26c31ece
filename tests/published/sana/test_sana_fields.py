"""Fields of SANA's config."""

import pytest

from diffusion.published.sana import Sana, table


@pytest.mark.parametrize(
    ("fields", "span"),
    [
        ({}, 0),
        ({"sample_size": 64, "interpolation_scale": 1.0}, 64),
        ({"sample_size": 128, "interpolation_scale": 2.0}, 64),
        ({"sample_size": 64, "patch_size": 2, "interpolation_scale": 0.5}, 64),
    ],
)
def test_positions_lie_in_the_number_of_patches_over_their_scale(fields, span):
    module = table.CONFIG.build(fields)
    assert module.span == span
    assert table.CONFIG.build(table.CONFIG.describe(module)) == module


def test_the_authors_files_name_the_embedding_of_the_guidance_cfg():
    theirs = {row.ours: row.theirs for row in table.table(Sana(depth=1, strength=True), "original")}
    assert theirs["strength_embedding/hidden/kernel"] == "cfg_embedder.mlp.0.weight"
    assert theirs["timestep_embedding/out/bias"] == "t_embedder.mlp.2.bias"
