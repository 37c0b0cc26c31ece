"""Each pipeline's own settings, as its class in diffusers 0.42 has them: steps, guidance, texts, clocks and clips."""

import json
import pathlib
import types

import pytest

from diffusion import text_to_image
from diffusion.models.interchange.family import Refusal
from diffusion.text_to_image import pipelines
from diffusion.text_to_image.pipelines import KINDS, Usual
from tests.text_to_image import made_pipelines

HIDDEN = {"skip": 1, "norm": False}
MASKED = {"masked": True}
# Without what follows from the class's relatives: (steps, guidance), fields that are set.
SETTINGS = {
    "StableDiffusionPipeline": ((50, 7.5), {"edits", "inpainting"}),
    "StableDiffusionInstructPix2PixPipeline": ((100, 7.5), set()),
    "LatentConsistencyModelPipeline": ((4, 8.5), set()),
    "StableDiffusionXLPipeline": ((50, 5.0), {"edits", "inpainting", "zeros"}),
    "StableDiffusionXLInpaintPipeline": ((50, 7.5), {"edits", "inpainting", "zeros"}),
    "StableDiffusionXLInstructPix2PixPipeline": ((100, 5.0), {"zeros"}),
    "StableDiffusion3Pipeline": ((28, 7.0), set()),
    "FluxPipeline": ((28, 3.5), {"unit_clock", "even"}),
    "FluxFillPipeline": ((50, 30.0), {"unit_clock", "even", "fills"}),
    "FluxControlPipeline": ((28, 3.5), {"unit_clock", "even", "controlled", "strength"}),
    "FluxKontextPipeline": ((28, 3.5), {"unit_clock", "even", "appends", "strength"}),
    "ChromaPipeline": ((35, 5.0), {"unit_clock", "even", "approximated"}),
    "ZImagePipeline": ((50, 6.0), {"unit_clock", "even"}),
    "Flux2Pipeline": ((50, 4.0), {"unit_clock", "even", "by_steps", "several", "strength"}),
    "Flux2KleinPipeline": ((50, 4.0), {"unit_clock", "even", "by_steps", "several"}),
    "QwenImagePipeline": ((50, 4.0), {"unit_clock", "even"}),
    "Lumina2Pipeline": ((30, 4.0), {"unit_clock", "even", "instructed"}),
    "AuraFlowPipeline": ((50, 3.5), {"unit_clock"}),
    "KolorsPipeline": ((50, 5.0), set()),
    "SanaPipeline": ((20, 4.5), {"instructed"}),
    "SanaSprintPipeline": ((2, 4.5), {"instructed", "unit_clock", "strength"}),
    "PixArtAlphaPipeline": ((20, 4.5), set()),
    "PixArtSigmaPipeline": ((20, 4.5), set()),
    "LTXPipeline": ((50, 3.0), {"even"}),
    "LTXConditionPipeline": ((50, 3.0), {"bent"}),
    "CogVideoXPipeline": ((50, 6.0), set()),
    "CogVideoXImageToVideoPipeline": ((50, 6.0), set()),
    "HunyuanVideoPipeline": ((50, 6.0), {"unit_clock", "even"}),
    "WanPipeline": ((50, 5.0), set()),
    "WanImageToVideoPipeline": ((50, 5.0), set()),
}
SAME = {  # classes that differ in what they are given, not in their model
    "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionInpaintPipeline": "StableDiffusionPipeline",
    "LatentConsistencyModelImg2ImgPipeline": "LatentConsistencyModelPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
    "Lumina2Text2ImgPipeline": "Lumina2Pipeline",
    "KolorsImg2ImgPipeline": "KolorsPipeline",
    "LTXImageToVideoPipeline": "LTXPipeline",
}
FLAGS = ("zeros", "unit_clock", "even", "bent", "by_steps", "instructed", "strength", "appends", "several",
         "controlled", "fills", "inpainting", "edits")  # fmt: skip


def test_every_class_has_its_settings():
    assert set(KINDS) == {*SETTINGS, *SAME}
    for name, (usual, flags) in SETTINGS.items():
        kind = KINDS[name]
        assert kind.usual == Usual(*usual), name
        approximated = {"approximated"} if kind.objection(types.SimpleNamespace(approximator=())) else set()
        assert {flag for flag in FLAGS if getattr(kind, flag)} | approximated == flags, name
        of_chroma = types.SimpleNamespace(approximator=(64, 8, 2))
        assert bool(kind.objection(of_chroma)) == (kind.family == "Flux"), name
        assert kind.image_guidance == (1.5 if "InstructPix2Pix" in name else 1.0), name
        assert kind.denoiser == (
            "unet" if name.startswith(("Stable", "Latent", "Kolors")) and "3P" not in name else "transformer"
        )
        assert name.startswith(kind.family)
        assert kind.several in (0, 1024**2)
    assert all(KINDS[name] is KINDS[other] for name, other in SAME.items())
    assert KINDS["StableDiffusionPipeline"].inpainting == "StableDiffusionInpaintPipeline"
    assert KINDS["StableDiffusionPipeline"].edits == "StableDiffusionInstructPix2PixPipeline"
    assert KINDS["StableDiffusionXLPipeline"].inpainting == "StableDiffusionXLInpaintPipeline"
    assert KINDS["StableDiffusionXLPipeline"].edits == "StableDiffusionXLInstructPix2PixPipeline"


READERS = {  # (suffix, how, length) of each text encoder, and what is optional or padded on one side
    "StableDiffusionPipeline": [("", {}, 0)],
    "StableDiffusionXLPipeline": [("", HIDDEN, 0), ("_2", HIDDEN, 0)],
    "StableDiffusion3Pipeline": [("", HIDDEN, 0), ("_2", HIDDEN, 0), ("_3", {}, 256)],
    "FluxPipeline": [("", {}, 0), ("_2", {}, 512)],
    "ChromaPipeline": [("", MASKED, 512)],
    "ZImagePipeline": [("", MASKED | {"layers": (-2,)}, 512)],
    "Flux2KleinPipeline": [("", MASKED | {"layers": (9, 18, 27)}, 512)],
    "Flux2Pipeline": [("", MASKED | {"layers": (10, 20, 30)}, 512)],
    "QwenImagePipeline": [("", MASKED, 546)],  # 34 tokens of the template go
    "Lumina2Pipeline": [("", MASKED | {"layers": (-2,)}, 256)],
    "AuraFlowPipeline": [("", MASKED, 256)],
    "KolorsPipeline": [("", MASKED | HIDDEN, 256)],
    "SanaPipeline": [("", MASKED, 300)],
    "PixArtAlphaPipeline": [("", MASKED, 120)],
    "PixArtSigmaPipeline": [("", MASKED, 300)],
    "WanPipeline": [("", MASKED, 512)],
    "LTXPipeline": [("", {}, 128)],
    "LTXConditionPipeline": [("", MASKED, 256)],
    "CogVideoXPipeline": [("", {}, 226)],
    "HunyuanVideoPipeline": [("", MASKED | {"layers": (-3,)}, 351), ("_2", {}, 0)],  # 95 tokens of the template go
}


@pytest.mark.parametrize("name", READERS)
def test_texts_are_as_long_and_of_the_layers_that_the_class_reads(name):
    readers = KINDS[name].readers
    assert [(reader.suffix, dict(reader.how), reader.length) for reader in readers] == READERS[name]
    assert [reader.optional for reader in readers] == [
        name == "StableDiffusion3Pipeline" and r.suffix == "_3" for r in readers
    ]
    right = name in ("SanaPipeline", "Lumina2Pipeline")  # whose code sets the side of the padding
    assert [reader.left for reader in readers] == [False if right else None for _ in readers]


CLIPS = {  # frames, (height, width), frames a second, further fields
    "WanPipeline": (81, (480, 832), 16.0, {"second": "transformer_2"}),
    "WanImageToVideoPipeline": (81, (480, 832), 16.0, {"second": "transformer_2", "begins": True}),
    "LTXPipeline": (161, (512, 704), 25.0, {"clean": True}),
    "LTXConditionPipeline": (161, (512, 704), 25.0, {"clean": True, "timed": True, "blur": 0.15}),
    "CogVideoXPipeline": (49, (480, 720), 8.0, {"masked": False}),
    "CogVideoXImageToVideoPipeline": (49, (480, 720), 8.0, {"masked": False, "begins": True}),
    "HunyuanVideoPipeline": (129, (720, 1280), 24.0, {}),
}


def test_clips_have_the_frames_the_size_and_the_rate_of_their_class():
    assert {name for name, kind in KINDS.items() if kind.video is not None} == {*CLIPS, "LTXImageToVideoPipeline"}
    rest = {"second": "", "begins": False, "clean": False, "timed": False, "blur": 0.0, "masked": True}
    for name, (frames, size, rate, further) in CLIPS.items():
        video = KINDS[name].video
        assert (video.frames, video.size, video.rate) == (frames, size, rate), name
        assert {field: getattr(video, field) for field in rest} == rest | further, name
    paired = {name: kind.paired for name, kind in KINDS.items() if kind.paired is not None}
    assert paired.keys() == {"CogVideoXPipeline", "CogVideoXImageToVideoPipeline"}  # CogVideoX 1.5, by its card
    for name, video in paired.items():
        assert (video.frames, video.size, video.rate, video.masked) == (81, (768, 1360), 16.0, False)
        assert video.begins == (name == "CogVideoXImageToVideoPipeline")


NETWORKS = {
    "ZImagePipeline": "ZImage",
    "Flux2Pipeline": "Flux2",
    "Flux2KleinPipeline": "Flux2",
    "QwenImagePipeline": "QwenImage",
    "Lumina2Pipeline": "Lumina2",
    "AuraFlowPipeline": "AuraFlow",
    "SanaPipeline": "Sana",
    "SanaSprintPipeline": "Sana",
    "WanPipeline": "Wan",
    "LTXPipeline": "LTXVideo",
    "CogVideoXPipeline": "CogVideoX",
    "HunyuanVideoPipeline": "HunyuanVideo",
}


def test_latents_have_a_multiple_of_what_the_denoiser_takes_together():
    """Halvings of a U-Net, the patch of a transformer, two pixels of Flux's latents."""
    module = types.SimpleNamespace(widths=(1, 2, 3, 4), patch=7)
    unets = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "KolorsPipeline")
    patches = (
        "StableDiffusion3Pipeline",
        "SanaPipeline",
        "PixArtSigmaPipeline",
        "CogVideoXPipeline",
        "AuraFlowPipeline",
    )
    ones = ("Flux2Pipeline", "Flux2KleinPipeline", "LTXPipeline")
    expected = {**dict.fromkeys(unets, 8), **dict.fromkeys(patches, 7), **dict.fromkeys(ones, 1)}
    for name in SETTINGS:
        family = next((other for other in expected if KINDS[other].family == KINDS[name].family), None)
        if family or KINDS[name].family == "Flux":
            assert KINDS[name].multiple(module) == (expected[family] if family else 2), name
    for name, network in NETWORKS.items():
        assert KINDS[name].network.__name__ == network


def process(sampler="ddim", prediction="epsilon", **fields):
    return types.SimpleNamespace(sampler=sampler, prediction=prediction, fields=fields)


PLAIN, STRENGTH, WIDTH = (
    types.SimpleNamespace(),
    types.SimpleNamespace(strength=True),
    types.SimpleNamespace(strength_width=4),
)


@pytest.mark.parametrize(
    "name, process, denoiser, student, expected",
    [
        ("StableDiffusionPipeline", process("euler", timestep_spacing="trailing"), PLAIN, False, (1, 1.0)),
        ("StableDiffusionPipeline", process("euler_ancestral", timestep_spacing="trailing"), PLAIN, False, (1, 1.0)),
        ("StableDiffusionPipeline", process("euler", "v", timestep_spacing="trailing"), PLAIN, False, (50, 7.5)),
        ("StableDiffusionPipeline", process("euler", timestep_spacing="leading"), PLAIN, False, (50, 7.5)),
        ("StableDiffusionPipeline", process("ddim", timestep_spacing="trailing"), PLAIN, False, (50, 7.5)),
        ("StableDiffusionPipeline", process("lcm"), WIDTH, False, (4, 8.5)),
        ("StableDiffusionPipeline", process("lcm"), PLAIN, False, (4, 1.0)),
        ("SanaSprintPipeline", process("lcm", trigonometric=True), STRENGTH, False, (2, 4.5)),
        ("FluxPipeline", process("euler", "flow"), STRENGTH, False, (28, 3.5)),
        ("FluxPipeline", process("euler", "flow"), PLAIN, False, (4, 1.0)),
        ("Flux2KleinPipeline", process("euler", "flow"), PLAIN, True, (4, 1.0)),
        ("Flux2KleinPipeline", process("euler", "flow"), PLAIN, False, (50, 4.0)),
        ("Flux2Pipeline", process("euler", "flow"), STRENGTH, True, (50, 4.0)),
        ("FluxFillPipeline", process("euler", "flow"), PLAIN, False, (50, 30.0)),
        ("ZImagePipeline", process("euler", "flow", shift=3.0), PLAIN, False, (8, 1.0)),
        ("ZImagePipeline", process("euler", "flow", shift=6.0), PLAIN, False, (50, 6.0)),
    ],
)
def test_steps_and_guidance_are_those_that_a_folder_shows(name, process, denoiser, student, expected):
    assert pipelines.published(KINDS[name], process, denoiser, student) == Usual(*expected)


def test_a_class_that_is_not_supported_is_refused_with_its_relatives():
    with pytest.raises(
        Refusal, match=r"a FluxOtherPipeline, which is not supported.*Its family has FluxPipeline, Flux"
    ):
        pipelines.kind_of("FluxOtherPipeline", pathlib.Path("folder"))
    with pytest.raises(Refusal, match=r"Its family has Flux2KleinPipeline\.$"):
        pipelines.kind_of("Flux2KleinOtherPipeline", pathlib.Path("folder"))
    with pytest.raises(Refusal, match=r"supported: [\w, ]+\.$"):
        pipelines.kind_of("Unheard", pathlib.Path("folder"))
    assert pipelines.kind_of("FluxPipeline", pathlib.Path("folder")) is KINDS["FluxPipeline"]
    assert pipelines.distilled(STRENGTH) and pipelines.distilled(WIDTH) and not pipelines.distilled(PLAIN)
    usual = Usual(30, 7.5)
    assert (usual.overridden(None, None), usual.overridden(0, None), usual.overridden(None, 0.0)) == (
        usual, (0, 7.5), (30, 0.0))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stated", "left"),
    [
        ("flux2", None, True),  # as the folder has it
        ("flux2", "right", False),
        ("hunyuan_video", None, False),
        ("hunyuan_video", "left", True),
        ("sana", "left", False),  # the code of these two pipelines says "right" whatever the folder has
        ("lumina2", "left", False),
        ("auraflow", None, True),  # as Llama's class does
        ("kolors", None, True),
    ],
)
def test_padding_stands_where_the_folder_says_or_the_pipeline(name, stated, left, tmp_path):
    file = "tokenizer/tokenizer_config.json"
    config = json.loads(made_pipelines.fixture(name)[0]["files"][file])
    config |= {"padding_side": stated} if stated else {}
    folder = made_pipelines.folder(name, tmp_path, {"files": {file: json.dumps(config)}})
    assert text_to_image.described(folder, weights=False).tokenizers["text_encoder"].left is left
