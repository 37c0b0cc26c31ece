"""Every family of checkpoints: the outputs are the peer's, what is written is what was read, sizes are the published.

The fixtures are written by the peer libraries themselves (`make fixtures`, tests/peers/cases.py). A new network is one
line in CALLS, at its published size one line in LISTINGS, here or in the facts of its family (tests/published).
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.models import interchange
from diffusion.models.interchange import families, folders, rows
from diffusion.published.pixart.network import PixArt
from tests import numpy_programs
from tests.models.interchange import published
from tests.models.interchange.calls import OWN, Call, autoencoder_kl, denoised
from tests.published.family_facts import stated


def autoencoder_vq(apply, inputs):
    codes, indices = apply(inputs["z"], method="quantize")
    return {
        "encoded": apply(inputs["x"], method="encode"),
        "codes": codes,
        "indices": indices,
        "decoded": apply(inputs["z"], method="decode"),
        "decoded_as_is": apply(inputs["z"], quantize=False, method="decode"),
    }


def autoencoder_asymmetric(apply, inputs):
    outputs = autoencoder_kl(apply, inputs)
    if "mask" in inputs:
        outputs["painted"] = apply(inputs["z"], inputs["picture"], inputs["mask"], method="decode")
    return outputs


def autoencoder_dc(apply, inputs):
    return {"encoded": apply(inputs["x"], method="encode"), "decoded": apply(inputs["z"], method="decode")}


def clip_text(apply, inputs):
    plain = apply(inputs["ids"])
    skipped = apply(inputs["ids"], skip=1)
    before = apply(inputs["ids"], skip=1, norm=False)
    masked = apply(inputs["ids"], inputs["mask"])
    return {**plain._asdict(), "before": before.tokens, "skip": skipped.tokens, "masked": masked.tokens}


def clip_vision(apply, inputs):
    return {**apply(inputs["images"])._asdict(), "before": apply(inputs["images"], skip=1).tokens}


def clip_both(apply, inputs):
    texts, images, scale = apply(inputs["ids"], inputs["images"])
    alone = {
        "texts": apply(inputs["ids"], method="encode_text"),
        "images": apply(inputs["images"], method="encode_images"),
    }
    return {**alone, "logits": scale * texts @ images.T}


def convnext(apply, inputs):
    found = {name: apply(images)._asdict() for name, images in inputs.items()}
    return {f"{name}_{kind}": value for name, each in found.items() for kind, value in each.items()}


def image_encoder(apply, inputs):
    outputs = {}
    for name in ("same", "fine", "coarse"):
        patches, pooled = apply(inputs[name])
        outputs |= {f"{name}_patches": patches, f"{name}_pooled": pooled}
    if "masked" in inputs:
        outputs["masked"] = apply(inputs["same"], inputs["masked"]).patches
    return outputs


def videomae(apply, inputs):
    tokens, pooled = apply(inputs["clips"])
    return {"tokens": tokens, "pooled": pooled}


def siglip_towers(apply, inputs):
    alone = {
        "texts": apply(inputs["ids"], method="encode_text"),
        "images": apply(inputs["images"], method="encode_images"),
    }
    return {**alone, "logits": apply(inputs["ids"], inputs["images"])}


def image_reward(apply, inputs):
    return {"reward": apply(inputs["ids"], inputs["mask"], inputs["images"])}


def t5(apply, inputs):
    return {"tokens": apply(inputs["ids"]).tokens, "masked": apply(inputs["ids"], inputs["mask"]).tokens}


def decoder(apply, inputs):
    every = apply(inputs["ids"], layers=range(4)).tokens
    found = {f"state_{i}": state for i, state in enumerate(jnp.split(every, 4, axis=-1))}
    shown = {side: apply(inputs["ids"], inputs[side]).tokens for side in ("right", "left")}
    return found | shown | {"left": shown["left"] * inputs["left"][..., None]}


def dit(net, a):
    return {"output": net(a["x"], a["t"], a["label"])}


def masked(net, a):
    return {**dit(net, a), "masked": net(a["x"], a["t"], {"label": a["label"], "keep": a["keep"]})}


def ncsnpp(net, a):
    return {"output": net(a["x"], jnp.log(a["t"])) / a["t"][:, None, None, None]}


CALLS = {
    "dit": Call(dit, 5e-5, layouts=OWN, longer=True),
    "dit_diffusers": Call(dit, 7e-5, longer=True),
    "u_vit": Call(denoised, 7e-6, longer=True),
    "u_vit_class": Call(denoised, 6e-6, layouts=OWN, longer=True),
    "u_vit_text": Call(denoised, 5e-6, longer=True),
    "dit_original": Call(dit, 2e-5, layouts=OWN),
    "lightning_dit": Call(dit, 3e-6, slow=True, longer=True),
    "lightning_dit_options": Call(dit, 3e-6, longer=True),
    "ddt": Call(dit, 6e-6, longer=True),
    "ddt_head": Call(dit, 8e-6, slow=True, longer=True),
    "mask_dit": Call(masked, 4e-6, longer=True),
    "mdt": Call(masked, 6e-6, longer=True),
    "jit": Call(dit, 4e-6, longer=True),
    "pixnerd": Call(dit, 4e-5, longer=True),
    "clip_text": Call(clip_text, 4e-6, layouts=("", "transformers 5"), longer=True),
    "clip_text_projection": Call(clip_text, 7e-6, layouts=OWN, longer=True),
    "clip_vision": Call(clip_vision, 4e-6, layouts=OWN),
    "clip_vision_tower": Call(clip_vision, 3e-6),
    "t5_gated": Call(t5, 2e-5, layouts=OWN, longer=True),
    "t5_relu": Call(t5, 2e-5, layouts=OWN, longer=True),
    "t5_whole": Call(t5, 3e-5),
    "umt5": Call(t5, 2e-5),
    "decoder_llama": Call(decoder, 8e-6, layouts=OWN, slow=True, longer=True),
    "decoder_mistral": Call(decoder, 9e-6, layouts=OWN, slow=True, longer=True),
    "decoder_qwen2": Call(decoder, 1e-5, layouts=OWN, slow=True),
    "decoder_qwen3": Call(decoder, 9e-6, layouts=OWN, slow=True, longer=True),
    "decoder_qwen3_vl": Call(decoder, 7e-6, layouts=OWN, slow=True, longer=True),
    "decoder_gemma2": Call(decoder, 6e-6, layouts=OWN, longer=True),
    "decoder_gemma3": Call(decoder, 1e-5, layouts=OWN, longer=True),
    "clip_both": Call(clip_both, 6e-6, layouts=OWN, longer=True),
    "clip_original": Call(clip_both, 1e-5, longer=True),
    "dinov2_plain": Call(image_encoder, 4e-6, layouts=OWN, longer=True),
    "dinov2_gated": Call(image_encoder, 4e-6, layouts=OWN, longer=True),
    "dinov2_registers": Call(image_encoder, 4e-6, layouts=OWN, longer=True),
    "dinov3": Call(image_encoder, 4e-6, layouts=OWN, longer=True),
    "dinov3_registers": Call(image_encoder, 4e-6, layouts=OWN, longer=True),
    "dinov3_unbiased": Call(image_encoder, 5e-6, layouts=OWN, longer=True),
    "siglip": Call(image_encoder, 5e-6, layouts=("", "transformers 5"), longer=True),
    "siglip_whole": Call(image_encoder, 5e-6, longer=True),
    "siglip_towers": Call(siglip_towers, 1e-5, "SiglipModel", layouts=OWN, slow=True, longer=True),
    "image_reward": Call(image_reward, 1e-5, slow=True, longer=True),
    "convnext_v1": Call(convnext, 5e-6, longer=True),
    "convnext_v2": Call(convnext, 5e-6, longer=True),
    "mae": Call(image_encoder, 5e-6, layouts=OWN, longer=True),
    "mae_whole": Call(image_encoder, 5e-6, longer=True),
    "ijepa": Call(image_encoder, 4e-6, layouts=OWN),
    **{
        f"videomae{kind}": Call(videomae, 1e-5, slow=kind != "_classifier")
        for kind in ("", "_without_norm", "_classifier")
    },
    "autoencoder_kl_sd": Call(autoencoder_kl, 2e-5, layouts=("", "early diffusers"), slow=True, longer=True),
    "autoencoder_kl_flux": Call(autoencoder_kl, 2e-5, layouts=OWN, longer=True),
    "autoencoder_kl_attention": Call(autoencoder_kl, 9e-6, layouts=OWN, longer=True),
    "autoencoder_kl_uneven": Call(autoencoder_kl, 8e-6, longer=True),
    "autoencoder_kl_original": Call(autoencoder_kl, 2e-5, slow=True, longer=True),
    "autoencoder_kl_asymmetric": Call(autoencoder_asymmetric, 1e-5, layouts=OWN, longer=True),
    "autoencoder_kl_asymmetric_equal": Call(autoencoder_asymmetric, 1e-5, longer=True),
    "autoencoder_kl_asymmetric_larger": Call(autoencoder_asymmetric, 1e-5, longer=True),
    "autoencoder_vq_small": Call(autoencoder_vq, 2e-5, layouts=OWN, longer=True),
    "autoencoder_tiny_small": Call(autoencoder_dc, 5e-6),
    "autoencoder_tiny_flux": Call(autoencoder_dc, 4e-6, longer=True),
    "autoencoder_dc_sana": Call(autoencoder_dc, 6e-6, layouts=OWN, longer=True),
    "autoencoder_dc_paper": Call(autoencoder_dc, 6e-6, layouts=OWN, longer=True),
    "autoencoder_dc_original": Call(autoencoder_dc, 7e-6, slow=True, longer=True),
    "autoencoder_rae_dinov2": Call(autoencoder_dc, 2e-5, layouts=("diffusers, transformers 5",), longer=True),
    "autoencoder_rae_mae": Call(autoencoder_dc, 2e-5, layouts=("diffusers, transformers 5",), slow=True, longer=True),
    "unet_2d_ddpm": Call(denoised, 2e-5, layouts=OWN, longer=True),
    "unet_2d_heads": Call(denoised, 8e-6, layouts=OWN, slow=True, longer=True),
    "unet_2d_centred": Call(denoised, 5e-6, layouts=OWN, slow=True, longer=True),
    "unet_2d_mish": Call(denoised, 1e-5, layouts=OWN, slow=True, longer=True),
    "unet_2d_gelu": Call(denoised, 9e-6, layouts=OWN, slow=True, longer=True),
    "unet_2d_number": Call(denoised, 9e-6, layouts=OWN, slow=True, longer=True),
    "unet_2d_embedding": Call(denoised, 7e-6, layouts=OWN, slow=True, longer=True),
    "unet_2d_adm": Call(denoised, 2e-5, layouts=OWN, longer=True),
    "unet_2d_ncsnpp": Call(ncsnpp, 8e-6, layouts=OWN, slow=True, longer=True),
    "adm_unet_new": Call(denoised, 3e-5, slow=True, longer=True),
    "adm_unet_legacy": Call(denoised, 1e-4, slow=True, longer=True),
    "adm_unet_convolutions": Call(denoised, 2e-5, slow=True, longer=True),
    "song_unet_ddpmpp": Call(denoised, 1e-5, longer=True),
    "song_unet_ncsnpp": Call(denoised, 8e-6, slow=True, longer=True),
    "song_unet_skips": Call(denoised, 1e-5, slow=True, longer=True),
    "song_unet_dhariwal": Call(denoised, 2e-5, slow=True, longer=True),
    "edm2_unet_classes": Call(denoised, 6e-6, longer=True),
    "edm2_unet_options": Call(denoised, 6e-6, slow=True, longer=True),
    **stated("CALLS"),
}
FAST = ("autoencoder_tiny_small",)  # whose outputs are compared in the fast suite
# Families without a fast round trip, and some of each kind: of the others the round trip reads the same tables.
LISTED = (
    "decoder_full_qwen3_4b", "siglip_towers_full_so400m", "image_reward_full", "wan_autoencoder_full",
    "clip_text_big_g", "t5_base", "dinov2_full_small", "dit_xl_2_256", "pixart_xl_2_512", "flux_full_dev", "sana_full",
    "auraflow_full",
)  # fmt: skip
# the family of a listing: names and shapes at the published size
LISTINGS = {
    **dict.fromkeys(("clip_text_large", "clip_original_sd2"), "CLIPTextModel"),
    **dict.fromkeys(("clip_text_big_g", "clip_original_big_g"), "CLIPTextModelWithProjection"),
    **dict.fromkeys(("t5_base", "t5_xxl"), "T5EncoderModel"),
    "umt5_xxl": "UMT5EncoderModel",
    "decoder_full_qwen3_4b": "Qwen3Model",
    "decoder_full_qwen3_vl_4b": "Qwen3VLTextModel",
    "decoder_full_gemma2_2b": "Gemma2Model",
    **{f"dinov2_full_{size}": "Dinov2Model" for size in ("small", "base", "large", "giant")},
    "dinov2_full_registers_large": "Dinov2WithRegistersModel",
    **{f"dinov3_full_{size}": "DINOv3ViTModel" for size in ("large", "7b")},
    "clip_original_both_h": "CLIPModel",
    "siglip_full_so400m": "SiglipVisionModel",
    "siglip_towers_full_so400m": "SiglipModel",
    "image_reward_full": "ImageReward",
    "blip_captioner_full_large": "BlipForConditionalGeneration",
    "convnext_v2_full_base": "ConvNextV2Model",
    "mae_full_large": "ViTMAEModel",
    "ijepa_full_huge": "IJepaModel",
    "videomae_full_giant": "VideoMAEForVideoClassification",
    "dit_xl_2_256": "DiTTransformer2DModel",
    "dit_original_xl_2": "DiT",
    "lightning_dit_full_xl_1": "LightningDiT",
    "ddt_full_xl": "DDT",
    "ddt_head_full_xl": "DiTwDDTHead",
    "mask_dit_full_xl_2": "MaskDiT",
    "mdt_full_xl_2": "MDTv2",
    "jit_full_b_16": "JiT",
    "pixnerd_full_xl_16": "PixNerDiT",
    "u_vit_full_h_2": "UViT",
    "u_vit_full_coco": "UViT",
    **{f"autoencoder_kl_full_{name}": "AutoencoderKL" for name in ("sd15", "sdxl", "sd3", "flux", "original")},
    "autoencoder_kl_asymmetric_full_x1_5": "AsymmetricAutoencoderKL",
    "autoencoder_kl_asymmetric_full_x2": "AsymmetricAutoencoderKL",
    "autoencoder_vq_full_f4": "VQModel",
    "autoencoder_tiny_full_sd": "AutoencoderTiny",
    "autoencoder_vq_full_f8": "VQModel",
    "autoencoder_rae_full_xl": "AutoencoderRAE",
    **{
        f"autoencoder_dc_full_{name}": "AutoencoderDC"
        for name in ("f32c32_sana", "f32c32", "f64c128", "original_sana", "original_f32c32")
    },
    **{f"unet_2d_full_{name}": "UNet2DModel" for name in ("cifar10", "256", "imagenet64", "ncsnpp")},
    **{f"adm_unet_full_{side}": "ADMUNet" for side in (64, 256, 512)},
    "song_unet_full_ddpmpp": "SongUNet",
    "song_unet_full_ncsnpp": "SongUNet",
    "song_unet_full_dhariwal": "DhariwalUNet",
    **{f"edm2_unet_full_{size}": "EDM2UNet" for size in ("xs", "xxl")},
    **stated("LISTINGS"),
}


def slow(names, among):
    return [pytest.param(name, marks=pytest.mark.slow if name in names else ()) for name in among]


def layout_of(family, module, names):
    """The layout of the names: several versions of a library may have published theirs."""
    common = lambda layout: len(names & {row.theirs for row in family.tables[layout](module)})
    return max(family.tables, key=common)


def known(ours, theirs):
    """What of their config ours says, at any depth."""
    both = {key: theirs[key] for key in ours.keys() & theirs.keys() if not key.startswith("_")}
    return {key: known(ours[key], value) if isinstance(value, dict) else value for key, value in both.items()}


def check_outputs(outputs, expected_outputs, within):
    assert outputs.keys() == expected_outputs.keys()
    for key, expected in expected_outputs.items():
        assert outputs[key].shape == expected.shape
        assert np.abs(expected).max() > 0.05, "an output of zeros compares nothing"
        np.testing.assert_allclose(outputs[key], expected, rtol=0, atol=within * np.abs(expected).max())


def check_written(case, call, module, params, place):
    """Writes a network and compares its tensors with those that were read; returns the family."""
    family = interchange.FAMILIES[call.family or folders.family_of(case.config, place)]
    layout = layout_of(family, module, case.shapes.keys())
    interchange.save(place, module, params, layout=layout, family=family.name)
    (file,) = place.glob("*.safetensors")
    written = load_file(file)
    read = case.tensors()
    kept = {key for key in read if not any(re.fullmatch(pattern, key) for pattern in family.ignored)}
    assert written.keys() == kept
    for key in kept:
        np.testing.assert_array_equal(written[key], read[key], err_msg=key)
    return family


@pytest.mark.parametrize("name", slow(CALLS.keys() - FAST, CALLS))
def test_outputs_are_the_peers(name, tmp_path):
    case = published.case(name)
    call = CALLS[name]
    module, params = interchange.load(case.folder(tmp_path), call.family)
    network = lambda params: lambda *arguments, **named: module.apply({"params": params}, *arguments, **named)
    outputs = jax.jit(lambda params, inputs: call.outputs(network(params), inputs))(params, case.inputs)
    check_outputs(outputs, case.outputs, call.within)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.extended if call.longer else ()) for name, call in CALLS.items()]
)
def test_outputs_by_numpy_are_the_peers_and_tensors_are_written_as_read(name, tmp_path):
    """XLA would compile these networks for seconds each."""
    case = published.case(name)
    call = CALLS[name]
    module, params = interchange.load(case.folder(tmp_path / "theirs"), call.family)
    check_written(case, call, module, params, tmp_path / "ours")
    network = lambda params: lambda *arguments, **named: module.apply({"params": params}, *arguments, **named)
    call_all = lambda params, inputs: call.outputs(network(params), inputs)
    check_outputs(numpy_programs.outputs(call_all, params, case.inputs), case.outputs, call.within)


@pytest.mark.slow
def test_a_pixart_with_its_control_net_puts_out_what_diffusers_layers_do(tmp_path):
    """Residual k of two enters after layer k of four."""
    case = published.case("pixart_with_control_net")
    parts = []
    for part, config in case.config.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
        start = f"{part}."
        tensors = {key[len(start) :]: tensor for key, tensor in case.tensors().items() if key.startswith(start)}
        save_file(tensors, tmp_path / part / "diffusion_pytorch_model.safetensors")
        parts.append(interchange.load(tmp_path / part))
    (base, params), (module, own) = parts
    control = module.attachment(own, base, params)
    x, t, text, seen = (jnp.asarray(case.inputs[name]) for name in ("x", "t", "text", "seen"))

    @jax.jit
    def output(weight):
        entries = control.entries(own, jnp.full(2, weight), seen, x, t, t, {"text": text}, params)
        return base.apply({"params": params}, x, t, {"text": text, **entries})

    expected = case.outputs["output"]
    np.testing.assert_allclose(output(1.0), expected, rtol=0, atol=4e-5 * np.abs(expected).max())
    assert np.abs(output(0.0) - expected).max() > 0.1 * np.abs(expected).max()


@pytest.mark.extended
@pytest.mark.parametrize("name", slow({name for name, call in CALLS.items() if call.slow}, CALLS))
def test_what_is_written_is_what_was_read(name, tmp_path):
    case = published.case(name)
    module, params = interchange.load(case.folder(tmp_path / "theirs"), CALLS[name].family)
    family = check_written(case, CALLS[name], module, params, tmp_path / "ours")
    again, _ = interchange.load(tmp_path / "ours", family.name)
    assert again == module
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config.get("architectures", config.get("_class_name")) in ([family.name], family.name)
    read_config = case.config
    if case.config.get("architectures") not in ([family.name], None):  # the class of a whole whose part is read
        del config["architectures"]
        read_config = case.config.get("vision_config", case.config)
    assert known(read_config, config) == known(config, read_config)


@pytest.mark.extended
@pytest.mark.parametrize("name", slow(LISTINGS.keys() - LISTED, LISTINGS))
def test_the_published_size_has_the_published_names_and_shapes(name):
    config, shapes = published.listing(name)
    family = interchange.FAMILIES[LISTINGS[name]]
    module = family.build(config)
    leaves = folders.leaves_of(folders.shapes_of(family, module))
    layout = layout_of(family, module, shapes.keys())
    table = family.tables[layout](module)
    rows.check_cover(table, leaves)
    expected = rows.their_shapes(table, leaves)
    expected |= {key: a.shape for key, a in folders.computed_of(family, module, layout).items()}
    ignored = lambda key: any(re.fullmatch(pattern, key) for pattern in family.ignored)
    assert expected == {key: shape for key, shape in shapes.items() if not ignored(key)}


@pytest.mark.parametrize("strength", [False, True])
def test_a_student_that_receives_its_guidance_survives_writing_and_reading(strength, tmp_path):
    """No PixArt of diffusers receives it: the field and the names are Flux's, and stand where they are needed alone."""
    module = PixArt((8, 8, 4), width=24, depth=2, heads=2, text_width=16, learn_sigma=False, strength=strength)
    shapes = folders.shapes_of(families.family_of(module), module)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    interchange.save(tmp_path / "ours", module, params)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert ("guidance_embeds" in config) == strength
    again, read = interchange.load(tmp_path / "ours")
    assert again == module
    assert ("strength_embedding" in read) == strength
    jax.tree.map(np.testing.assert_array_equal, read, params)


NAMED_DEPTH = re.compile("depth|layer|blocks")


@pytest.mark.parametrize("name", CALLS)
def test_a_depth_beyond_any_network_is_refused_or_has_no_effect(name):
    """The names of 65,536 layers would take a quarter of a minute to list, before the file is seen to lack them."""
    config = published.case(name).config
    if not {"_class_name", "architectures"} & config.keys():
        pytest.skip("an original file, which has no config")
    family = families.find(folders.family_of(config, published.FIXTURES / name))
    module = folders.built(family, config)
    for field, value in config.items():
        *front, last = value if isinstance(value, list) and value else [value]
        if not NAMED_DEPTH.search(field) or type(last) is not int:
            continue
        try:
            deeper = folders.built(family, {**config, field: [*front, 60_000] if isinstance(value, list) else 60_000})
        except interchange.Refusal:
            continue
        assert deeper == module, f"{field} = 60,000 is taken"
