"""The U-Nets' files: single ones are recognised, and what our networks or theirs have no word for is refused."""

import pathlib

import pytest

from diffusion.models import interchange
from diffusion.models.interchange import folders
from diffusion.models.interchange.family import Refusal
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.models.song_unet import SongUNet
from diffusion.models.unet import UNet, unet_preset
from tests.models.interchange import published

SONG = {"img_resolution": 32, "in_channels": 3, "out_channels": 3}
EDM2 = {"img_resolution": 64, "img_channels": 4, "label_dim": 0}
ADM = {
    "image_size": 64,
    "in_channels": 3,
    "model_channels": 64,
    "out_channels": 6,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
}
SMALL = {"block_out_channels": [32, 64], "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listing", "prefix", "family", "name"),
    [
        ("unet_2d_full_cifar10", "", "UNet2DModel", "DDPM, CIFAR-10"),
        ("adm_unet_full_512", "", "ADMUNet", "ADM, ImageNet 512"),
        ("song_unet_full_ddpmpp", "model.", "SongUNet", "DDPM++, CIFAR-10, with classes"),
        ("song_unet_full_dhariwal", "model.", "DhariwalUNet", "ADM of EDM, ImageNet 64"),
        ("edm2_unet_full_xs", "unet.", "EDM2UNet", "EDM2-XS, ImageNet 512"),
    ],
)
def test_a_single_file_is_recognised(listing, prefix, family, name):
    _, shapes = published.listing(listing)
    shapes = {prefix + key: shape for key, shape in shapes.items()}
    if prefix:
        shapes["logvar_linear.weight"] = (1, 128)  # of what stands beside the network
    file = Tensors(pathlib.Path("a.safetensors"), dict.fromkeys(shapes), {key: key for key in shapes}, shapes)
    found = folders.recognise(file, family)
    assert found.family.name == family
    assert found.module == found.family.build(found.family.published[name])


@pytest.mark.parametrize("name", ["UNet2DModel", "ADMUNet", "SongUNet", "DhariwalUNet", "EDM2UNet"])
def test_a_published_network_is_described_as_it_was_built(name):
    family = interchange.FAMILIES[name]
    for config in family.published.values():
        module = family.build(config)
        described = family.describe(module)
        assert family.build(described) == module
        said = {key: described[key] for key in config if key in described}
        assert said == {key: config[key] for key in said} or name == "UNet2DModel"  # whose root of 2 has few digits


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("UNet2DModel", {**SMALL, "act_fn": "elu"}, "act_fn = 'elu' is not supported; supported: 'silu'"),
        ("UNet2DModel", {**SMALL, "down_block_types": ["KDownBlock2D"] * 2}, "blocks of the type 'KDownBlock2D'"),
        ("UNet2DModel", {**SMALL, "up_block_types": ["ResnetUpsampleBlock2D", "UpBlock2D"]}, "one way to change"),
        ("UNet2DModel", {**SMALL, "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}, "the same attention"),
        ("UNet2DModel", {**SMALL, "attn_norm_num_groups": 7}, "middle_groups=7 must be 0, or divide the width 64"),
        (
            "UNet2DModel",
            {**SMALL, "class_embed_type": "projection"},
            "class_embed_type = 'projection' is not supported",
        ),
        ("UNet2DModel", {**SMALL, "mid_block_type": None}, "mid_block_type = None is not supported"),
        ("UNet2DModel", {**SMALL, "time_embedding_type": "fourier"}, "time_embedding_type = 'fourier' is not supp"),
        ("UNet2DModel", {**SMALL, "down_block_types": ["SkipDownBlock2D"] * 2}, r"\(Attn\)SkipUpBlock2D in the rev"),
        ("UNet2DModel", {**SMALL, "block_out_channels": [32]}, "has 1 levels, down_block_types 2"),
        (
            "UNet2DConditionModel",
            {"transformer_layers_per_block": [[1, 2], 1, 1, 1]},
            "must list the layers of the upward half",
        ),
        ("UNet2DConditionModel", {"transformer_layers_per_block": [1, 1]}, "one number for each of 4 levels"),
        ("UNet2DConditionModel", {"class_embed_type": "identity"}, "class_embed_type = 'identity' is not supported"),
        ("UNet2DConditionModel", {"class_embed_type": "projection"}, "Valid: the width"),
        (
            "UNet2DConditionModel",
            {
                "class_embed_type": "projection",
                "addition_embed_type": "text_time",
                "projection_class_embeddings_input_dim": 8,
            },
            "class_embed_type = 'projection' is not supported",
        ),
        ("ADMUNet", {**ADM, "conv_resample": False}, "conv_resample = False"),
        ("ADMUNet", {**ADM, "num_heads": 2, "num_heads_upsample": 4}, "num_heads_upsample = 4"),
        ("ADMUNet", {"image_size": 64}, "the config has no in_channels"),
        ("SongUNet", {**SONG, "channel_mult_emb": 2}, "channel_mult_emb = 2"),
        ("SongUNet", {**SONG, "skip_scale": 1}, "the config sets skip_scale = 1"),
        ("DhariwalUNet", {**SONG, "model_channels": 64}, "fewer than 32 groups"),
        ("DhariwalUNet", {**SONG, "augment_dim": 9}, "augment_dim = 9"),
        ("EDM2UNet", {**EDM2, "use_fp16": True}, "the config sets use_fp16 = True"),
        ("EDM2UNet", {"img_resolution": 64}, "the config has no img_channels"),
    ],
)
def test_a_config_that_our_networks_have_no_word_for_is_refused(family, config, message):
    with pytest.raises(Refusal, match=message):
        interchange.FAMILIES[family].build(config)


def test_a_network_goes_to_the_family_that_has_words_for_it():
    of = lambda module: interchange.families.family_of(module).name
    assert of(unet_preset("ddpm-cifar10")) == of(unet_preset("adm-64", 1000)) == "UNet2DModel"
    assert of(unet_preset("adm-128", 1000)) == "ADMUNet"  # four heads in each level
    assert of(unet_preset("adm-512", 1000)) == "ADMUNet"  # more sinusoids than channels
    assert of(SongUNet(32)) == "SongUNet"
    # What diffusers' NCSN++ became goes back to where it is opened.
    known = interchange.FAMILIES["UNet2DModel"]
    assert of(known.build(known.published["NCSN++, CelebA-HQ 256"])) == "UNet2DModel"
    assert of(SongUNet(32, encoder="skip", decoder="skip", clock="fourier")) == "SongUNet"
    with pytest.raises(Refusal, match="heads = 2 cannot be written in this format"):
        of(UNet((32, 64), 1, heads=2, padding="end"))
    with pytest.raises(Refusal, match=r"clock = 'positional' cannot be written in.*: 'fourier'"):
        interchange.FAMILIES["UNet2DModel"].describe(SongUNet(32))


@pytest.mark.parametrize(
    "field",
    [
        {"middle_attention": False},
        {"middle_groups": 0},
        {"middle_gain": 0.5},
        {"centred": True},
        {"activation": "mish"},
        {"learned_times": 20},
        {"embedding_width": 96},
    ],
)
def test_what_only_diffusers_files_express_is_refused_by_the_others(field):
    """UNet2DModel has both in its config."""
    ((name, value),) = field.items()
    module = unet_preset("adm-64", **field)
    config = interchange.FAMILIES["UNet2DModel"].describe(module)
    assert interchange.FAMILIES["UNet2DModel"].build(config) == module.clone(resolution=64)
    for family in ("ADMUNet", "DhariwalUNet"):
        with pytest.raises(Refusal, match=rf"{name} = {value!r}"):
            interchange.FAMILIES[family].describe(module.clone(num_classes=1000))


@pytest.mark.parametrize(
    ("field", "config"),
    [
        ({"vector_embedding": "time", "vector_width": 1}, {"class_embed_type": "timestep", "num_class_embeds": None}),
        ({"vector_embedding": "identity", "vector_width": 768}, {"class_embed_type": "identity"}),
        ({"middle_groups": 0}, {"attn_norm_num_groups": None}),
        ({"middle_groups": 16}, {"attn_norm_num_groups": 16}),
        ({"middle_gain": 0.8}, {"mid_block_scale_factor": 1.25}),
    ],
)
def test_what_is_added_to_the_time_and_the_middle_are_written_as_diffusers_says(field, config):
    family = interchange.FAMILIES["UNet2DModel"]
    module = unet_preset("adm-64", **field)
    written = family.describe(module)
    assert written | config == written
    assert family.build(written) == module


def test_a_vector_that_diffusers_does_not_add_is_refused():
    for fields in ({"vector_width": 3}, {"vector_width": 1, "vector_embedding": "time", "num_classes": 3}):
        with pytest.raises(Refusal, match="cannot be written in this format with vector_embedding"):
            interchange.FAMILIES["UNet2DModel"].describe(unet_preset("adm-64", **fields))


@pytest.mark.parametrize(
    "field, words",
    [
        ({"time_embedding_type": "learned"}, "needs num_train_timesteps, the number of the times"),
        (
            {"time_embedding_type": "learned", "num_train_timesteps": 0},
            "num_train_timesteps = 0. Valid: a whole number",
        ),
        ({"act_fn": "elu"}, "act_fn = 'elu' is not supported; supported: 'silu', 'gelu', 'relu', 'mish', 'swish'"),
    ],
)
def test_times_without_a_number_and_other_activations_are_refused(field, words):
    family = interchange.FAMILIES["UNet2DModel"]
    config = family.describe(unet_preset("adm-64"))
    with pytest.raises(Refusal, match=words):
        family.build({**config, **field})
    assert family.build({**config, "act_fn": "swish"}) == unet_preset("adm-64")
