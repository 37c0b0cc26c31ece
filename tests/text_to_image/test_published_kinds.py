"""Each pipeline's own settings, as its class in diffusers 0.42 has them: steps, guidance, texts, clocks and clips."""

import json
import pathlib
import types

import pytest

from diffusion import text_to_image
from diffusion.models.interchange.family import Refusal
from diffusion.published.cogvideox import CogVideoX
from diffusion.published.hunyuan_video import HunyuanVideo
from diffusion.text_to_image import pipelines
from diffusion.text_to_image.pipelines import KINDS, Usual
from diffusion.text_to_image.requests import Request
from tests.published.family_facts import stated
from tests.text_to_image import made_pipelines

FACTS, SAME = stated("KINDS"), stated("SAME")
FLAGS = {
    "prompts": ("zeros", "instructed"), "denoiser": ("unit_clock", "strength"), "relatives": ("inpainting", "edits"),
    "flow": ("even", "bent", "by_steps", "by_root"),
    "pictures": ("appends", "layers", "several", "controlled", "fills"),
}  # fmt: skip


def test_every_class_has_its_settings():
    assert set(KINDS) == {*FACTS, *SAME}
    for name, facts in FACTS.items():
        kind = KINDS[name]
        assert kind.usual == Usual(*facts.usual), name
        approximated = {"approximated"} if kind.denoiser.objection(types.SimpleNamespace(approximator=())) else set()
        flags = {flag for part, names in FLAGS.items() for flag in names if getattr(getattr(kind, part), flag)}
        assert flags | approximated == facts.flags, name
        of_chroma = types.SimpleNamespace(approximator=(64, 8, 2))
        assert bool(kind.denoiser.objection(of_chroma)) == (kind.family == "Flux"), name
        assert kind.guidance.image_scale == (1.5 if "InstructPix2Pix" in name else 1.0), name
        assert (kind.denoiser.folder, kind.files.attaches) == (facts.denoiser, facts.attaches), name
        assert kind.guidance.perturbed_scale == facts.perturbed, name
        assert getattr(kind.denoiser.network, "__name__", "") == facts.network, name
        assert name.startswith(kind.family)
        assert (
            kind.pictures.several is None
            or kind.pictures.several.pixels == (640 if kind.pictures.layers else 1024) ** 2
        )
    dynamic = {name for name, kind in KINDS.items() if kind.guidance.dynamic_scales is not None}
    assert dynamic == {"CogVideoXPipeline", "CogVideoXImageToVideoPipeline"}
    assert all(KINDS[name] is KINDS[other] for name, other in SAME.items())
    assert KINDS["StableDiffusionPipeline"].relatives.inpainting == "StableDiffusionInpaintPipeline"
    assert KINDS["StableDiffusionPipeline"].relatives.edits == "StableDiffusionInstructPix2PixPipeline"
    assert KINDS["StableDiffusionXLPipeline"].relatives.inpainting == "StableDiffusionXLInpaintPipeline"
    assert KINDS["StableDiffusionXLPipeline"].relatives.edits == "StableDiffusionXLInstructPix2PixPipeline"


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if facts.readers is not None])
def test_texts_are_as_long_and_of_the_layers_that_the_class_reads(name):
    readers = KINDS[name].prompts.readers
    assert [(reader.suffix, dict(reader.how), reader.length) for reader in readers] == FACTS[name].readers
    assert [reader.optional for reader in readers] == [
        name == "StableDiffusion3Pipeline" and r.suffix == "_3" for r in readers
    ]
    assert [reader.left for reader in readers] == [FACTS[name].left] * len(readers)


def test_clips_have_the_frames_the_size_and_the_rate_of_their_class():
    rest = {"second": "", "begins": False, "clean": False, "timed": False, "blur": 0.0, "masked": True,
            "one_mask": False, "hint": 0.0, "left_out": 0, "fills": False, "rated": False}  # fmt: skip
    for name, kind in KINDS.items():
        clip = FACTS[SAME.get(name, name)].clip
        assert (kind.video is None) == (clip is None), name
        if clip is not None:
            assert (kind.video.frames, kind.video.size, kind.video.rate) == clip[:3], name
            fields = {**kind.video.first._asdict(), **kind.video._asdict()}
            assert {field: fields[field] for field in rest} == rest | clip[3], name
        sound = None if kind.sound is None else (kind.sound.guidance, kind.sound.modality_guidance)
        assert sound == FACTS[SAME.get(name, name)].sound, name


def test_the_clips_of_a_class_follow_its_denoiser():
    """CogVideoX 1.5, by its card, and HunyuanVideo's conditions of an image."""
    for name in ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline"):
        plain, video = (KINDS[name].denoiser.variant(KINDS[name], CogVideoX(frames=frames)).video for frames in (1, 2))
        assert plain is KINDS[name].video
        assert (video.frames, video.size, video.rate, video.first.masked) == (81, (768, 1360), 16.0, False)
        assert video.first.begins == (name == "CogVideoXImageToVideoPipeline")
    kind = KINDS["HunyuanVideoImageToVideoPipeline"]
    assert kind.denoiser.variant(kind, HunyuanVideo(image_condition="latent_concat")) is kind
    replacing = kind.denoiser.variant(kind, HunyuanVideo(image_condition="token_replace"))
    assert replacing.video._replace(first=None) == kind.video._replace(first=None)
    assert replacing.video.first == kind.video.first._replace(clean=True, one_mask=False, left_out=0)
    assert replacing.prompts.condition.keywords == {"every": 4}


def test_latents_have_a_multiple_of_what_the_denoiser_takes_together():
    """Halvings of a U-Net, the patch of a transformer, two pixels of Flux's latents."""
    module = types.SimpleNamespace(widths=(1, 2, 3, 4), patch=7)
    for name, facts in FACTS.items():
        assert KINDS[name].denoiser.multiple(module) == facts.multiple, name


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
        ("LTXPipeline", process("lcm", "flow", stochastic=True), PLAIN, False, (8, 1.0)),
        ("LTXPipeline", process("euler", "flow", stochastic=False), PLAIN, False, (50, 3.0)),
        ("FluxPipeline", process("euler", "flow"), STRENGTH, False, (28, 3.5)),
        ("FluxPipeline", process("euler", "flow"), PLAIN, False, (4, 1.0)),
        ("Flux2KleinPipeline", process("euler", "flow"), PLAIN, True, (4, 1.0)),
        ("Flux2KleinPipeline", process("euler", "flow"), PLAIN, False, (50, 4.0)),
        ("Krea2Pipeline", process("euler", "flow"), PLAIN, True, (8, 1.0)),
        ("Krea2Pipeline", process("euler", "flow"), PLAIN, False, (28, 5.5)),
        ("Flux2Pipeline", process("euler", "flow"), STRENGTH, True, (50, 4.0)),
        ("FluxFillPipeline", process("euler", "flow"), PLAIN, False, (50, 30.0)),
        ("ZImagePipeline", process("euler", "flow", shift=3.0), PLAIN, False, (8, 1.0)),
        ("ZImagePipeline", process("euler", "flow", shift=6.0), PLAIN, False, (50, 6.0)),
        ("HiDreamImagePipeline", process("unipc", "flow", shift=3.0), PLAIN, False, (50, 5.0)),
        ("HiDreamImagePipeline", process("lcm", "flow", shift=6.0, stochastic=True), PLAIN, False, (28, 1.0)),
        ("HiDreamImagePipeline", process("lcm", "flow", shift=3.0, stochastic=True), PLAIN, False, (16, 1.0)),
    ],
)
def test_steps_and_guidance_are_those_that_a_folder_shows(name, process, denoiser, student, expected):
    assert pipelines.published(KINDS[name], process, denoiser, student) == Usual(*expected)


def test_a_class_that_is_not_supported_is_refused_with_its_relatives():
    with pytest.raises(
        Refusal, match=r"a FluxOtherPipeline, which is not supported.*Its family has FluxPipeline, Flux"
    ):
        pipelines.kind_of("FluxOtherPipeline", pathlib.Path("folder"))
    with pytest.raises(Refusal, match=r"Its family has Flux2KleinPipeline, Flux2KleinInpaintPipeline\.$"):
        pipelines.kind_of("Flux2KleinOtherPipeline", pathlib.Path("folder"))
    with pytest.raises(Refusal, match=r"supported: [\w, ]+\.$"):
        pipelines.kind_of("Unheard", pathlib.Path("folder"))
    assert pipelines.kind_of("FluxPipeline", pathlib.Path("folder")) is KINDS["FluxPipeline"]
    assert pipelines.distilled(STRENGTH) and pipelines.distilled(WIDTH) and not pipelines.distilled(PLAIN)
    completed = lambda **named: Request(**named).completed(Usual(30, 7.5)._asdict())
    steps_and_guidance = [(request.steps, request.guidance) for request in (
        completed(), completed(steps=3), completed(guidance=0.0))]  # fmt: skip
    assert steps_and_guidance == [(30, 7.5), (3, 7.5), (30, 0.0)]


@pytest.mark.extended
@pytest.mark.parametrize(
    ("name", "stated", "left"),
    [
        ("flux2", None, True),  # as the folder has it
        ("flux2", "right", False),
        ("hunyuan_video", None, False),
        ("hunyuan_video", "left", True),
        ("sana", "left", False),  # the code of these two pipelines says "right" whatever the folder has
        ("lumina2", "left", False),
        ("krea2", "left", False),  # whose code has the padding behind the prompt
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
