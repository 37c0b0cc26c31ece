"""The configs of Stable Cascade in both directions, what of them is refused, and the names of its authors' files."""

import numpy as np
import pytest

from diffusion.models.interchange import Refusal, folders, rows
from diffusion.published.stable_cascade import PaellaVQ, StableCascade, paella_table, pipeline, table
from tests.published.stable_cascade.facts import FINER, TINY

C, B = table.FAMILY.published.values()


def test_the_defaults_are_stage_c_and_paellas():
    assert table.CONFIG.build(C) == StableCascade()
    assert paella_table.CONFIG.build({}) == PaellaVQ()
    assert paella_table.CONFIG.describe(PaellaVQ())["scale_factor"] == pytest.approx(0.3764, rel=1e-15)


def test_the_way_up_counts_its_levels_from_the_coarsest():
    module = table.CONFIG.build({**B, "up_num_layers_per_block": [6, 28, 5, 2]})
    assert (module.up_layers, module.up_repeats) == ((2, 5, 28, 6), (2, 2, 3, 3))
    assert (module.heads, module.resizing) == ((0, 0, 20, 20), ("convolution",) * 3)
    assert table.CONFIG.build({**B, "num_attention_heads": [-1, -1, 20, 20]}).heads == module.heads
    assert table.CONFIG.build(table.CONFIG.describe(module)) == module


@pytest.mark.parametrize("switches, resizing", [([True], ("bilinear",)), ([False], ("none",))])
def test_a_level_is_halved_where_its_switch_is_set(switches, resizing):
    module = table.CONFIG.build({**C, "switch_level": switches})
    assert module.resizing == resizing and table.CONFIG.describe(module)["switch_level"] == switches


ATTENTION = "SDCascadeAttnBlock"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"patch_size": 3}, "patch=3 must be 1 or 2"),
        ({"kernel_size": 4}, "kernel=4 odd"),
        ({"out_channels": 32}, "out_channels = 32 is not supported; supported: 16"),
        ({"self_attn": False}, "self_attn = False is not supported; supported: True"),
        ({"block_types_per_layer": [[ATTENTION], [ATTENTION]]}, "block_types_per_layer = .* is not supported"),
        ({"num_attention_heads": [32]}, "must have one entry for each level"),
        ({"num_attention_heads": [32, 7]}, "heads=7 does not divide 2048"),
        ({"clip_image_in_channels": None}, "text_width=1280 and image_width=0 must both be positive, or both 0"),
        ({"down_num_layers_per_block": [8]}, r"layers=\(8,\) must be 2 numbers of at least 1"),
        ({"switch_level": [True, True]}, r"resizing=\('bilinear', 'bilinear'\) must be 1 of"),
        ({"timestep_conditioning_type": ["crp"]}, "timestep_conditioning_type = .*crp.* is not supported"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build({**C, **field})


def test_two_ways_of_resizing_cannot_be_written():
    fields = {"widths": (8, 8, 8), "layers": (1,) * 3, "up_layers": (1,) * 3, "repeats": (1,) * 3}
    module = StableCascade(**fields, up_repeats=(1,) * 3, heads=(2,) * 3, resizing=("none", "convolution"))
    with pytest.raises(Refusal, match="all levels have convolutions, or none has"):
        table.CONFIG.describe(module)


@pytest.mark.extended
@pytest.mark.parametrize("module", [TINY, FINER], ids=["c", "b"])
def test_the_authors_files_fuse_attention_and_name_stage_bs_prompt_otherwise(module):
    """As diffusers' convert_stable_cascade_unet_single_file_to_diffusers takes the names apart."""
    leaves = folders.leaves_of(folders.shapes_of(table.FAMILY, module))
    original, ours = (rows.their_shapes(table.table(module, layout), leaves) for layout in ("original", "diffusers"))
    expected = {}
    for name, shape in original.items():
        if "in_proj_" in name:
            kind = name.rpartition("_")[2]
            thirds = (shape[0] // 3, *shape[1:])
            expected |= {name.replace(f"attn.in_proj_{kind}", f"to_{part}.{kind}"): thirds for part in "qkv"}
        else:
            renamed = name.replace("attn.out_proj", "to_out.0").replace("clip_mapper", "clip_txt_pooled_mapper")
            expected[renamed] = shape
    assert expected == ours
    assert ("clip_mapper.weight" in original) == (module is FINER)
    assert sum("in_proj_weight" in name for name in original) == {TINY: 6, FINER: 3}[module]
    fused = [row for row in table.table(module, "original") if row.theirs.endswith("in_proj_weight")]
    assert [row.ours.rpartition("/kernel")[0].rpartition("/")[2] for row in fused[:3]] == ["query", "key", "value"]
    width = module.widths[-1] if module is FINER else module.widths[0]
    assert [row.rows for row in fused[:3]] == [tuple(np.array([0, 1]) * width + i * width) for i in range(3)]


def test_either_of_two_folders_finds_the_parts_of_both(tmp_path):
    """Stage C and the text encoder lie in NAME-prior, stages B and A in NAME, as diffusers publishes them."""
    first, second = tmp_path / "cascade-prior", tmp_path / "cascade"
    for folder in (first, second):
        folder.mkdir()
    for kind in ("StableCascadePriorPipeline", "StableCascadeDecoderPipeline"):
        place = pipeline.KINDS[kind].files.place
        for folder in (first, second):
            assert place(folder, "prior") == first / "prior"
            assert place(folder, "vae") == second / "vqgan"
            assert place(folder, "second_scheduler") == second / "scheduler"
    second.rmdir()
    with pytest.raises(FileNotFoundError, match=r"cascade does not exist\. Stable Cascade is two folders, cascade and"):
        pipeline.KINDS["StableCascadePriorPipeline"].files.place(first, "vae")
    whole = pipeline.KINDS["StableCascadeCombinedPipeline"].files.place
    assert [whole(first, part) for part in ("prior", "vae")] == [first / "prior_prior", first / "vqgan"]
