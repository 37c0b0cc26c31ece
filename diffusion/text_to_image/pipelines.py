"""Text-to-image and text-to-video models as diffusers publishes them: a denoiser, an autoencoder, text encoders and a
scheduler.

| class in model_index.json      | denoiser                 | receives                                               |
|--------------------------------|--------------------------|--------------------------------------------------------|
| StableDiffusionPipeline        | U-Net                    | CLIP's tokens                                          |
| LatentConsistencyModelPipeline | U-Net                    | CLIP's tokens, the guidance                            |
| StableDiffusionInstructPix2Pix | U-Net of eight channels  | CLIP's tokens, the picture that is edited              |
| StableDiffusionXLPipeline      | U-Net                    | the tokens of two CLIPs, a pooled vector, sizes        |
| StableDiffusionXLInstruct..    | U-Net of eight channels  | the same, and the picture that is edited               |
| StableDiffusion3Pipeline       | MM-DiT                   | two CLIPs and T5, two pooled vectors                   |
| FluxPipeline                   | Flux                     | T5, CLIP's pooled vector, the guidance it was made for |
| ChromaPipeline                 | Flux, one approximator   | T5 and where its padding begins                        |
| Flux2Pipeline                  | FLUX.2 with a strength   | three layers of Mistral 3, tokens of edited pictures   |
| Flux2KleinPipeline             | FLUX.2                   | three layers of Qwen 3, the same                       |
| QwenImagePipeline              | Qwen-Image               | Qwen 2.5 VL's tokens                                   |
| ZImagePipeline                 | Z-Image                  | Qwen 3's tokens                                        |
| Lumina2Pipeline                | Lumina-Image 2           | Gemma 2's tokens behind a system's prompt              |
| SanaPipeline                   | SANA                     | Gemma 2's tokens behind an instruction                 |
| SanaSprintPipeline             | SANA with a strength     | the same, the guidance it was made for                 |
| FluxFillPipeline               | Flux of 96 channels      | as Flux, the mask and what is not masked               |
| FluxControlPipeline            | Flux of 32 channels      | as Flux, the picture of edges or depths                |
| FluxKontextPipeline            | Flux                     | as Flux, tokens of the picture that is edited          |
| PixArtAlphaPipeline            | DiT with cross-attention | T5 (120 tokens); of 1024 pixels, sizes                 |
| PixArtSigmaPipeline            | DiT with cross-attention | T5 (300 tokens); ours, CLIP's tokens                   |
| LTXPipeline                    | LTX-Video, of clips      | T5 (128 tokens), a first frame                         |
| LTXImageToVideoPipeline        | LTX-Video, of clips      | the same                                               |
| LTXConditionPipeline           | LTX-Video, of clips      | T5 (256 tokens), a first frame, times of its frames    |
| HunyuanVideoPipeline           | HunyuanVideo, of clips   | Llama 3, CLIP's pooled vector, the guidance            |
| CogVideoXPipeline              | CogVideoX, of clips      | T5 (226 tokens)                                        |
| CogVideoXImageToVideoPipeline  | CogVideoX of 32 channels | the same, a first frame                                |
| WanPipeline                    | Wan, of clips; or two    | umT5                                                   |
| WanImageToVideoPipeline        | Wan of 36 channels       | umT5, a first frame, in 2.1 also as CLIP sees it       |

Each is one line of KINDS.
"""

__all__ = ["Kind", "Reader", "Usual", "distilled", "kind_of", "published"]

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from diffusion import guidance, text
from diffusion.adapters import redux_prompt
from diffusion.models.cogvideox import CogVideoX
from diffusion.models.flux2 import Flux2
from diffusion.models.hunyuan_video import HunyuanVideo
from diffusion.models.interchange.family import Refusal
from diffusion.models.interchange.schedulers import Process
from diffusion.models.ltx_video import LTXVideo
from diffusion.models.lumina2 import Lumina2
from diffusion.models.qwen_image import QwenImage
from diffusion.models.sana import Sana
from diffusion.models.wan import Wan
from diffusion.models.z_image import ZImage
from diffusion.parameterizations import Denoiser
from diffusion.text_to_image.video_models import Video

HIDDEN = {"skip": 1, "norm": False}  # CLIP's states as SDXL and SD 3 read them


class Reader(NamedTuple):
    """The use of one text encoder in a pipeline.

    Attributes:
        suffix: the end of its folders' names, "text_encoder" + suffix and "tokenizer" + suffix.
        how: arguments of `text.Encoder.of`.
        length: length of its texts in tokens, at most the positions of its encoder; 0 for the tokenizer's length.
        optional: whether a folder may lack it.
        left: whether padding stands before its texts.
    """

    suffix: str = ""
    how: Mapping[str, Any] = {}
    length: int = 0
    optional: bool = False
    left: bool = False


class Usual(NamedTuple):
    """Steps and guidance of a model where a request names none; its folder may state them in sampling.json.

    Attributes:
        steps: steps of the sampler, at least 1.
        guidance: scale of the guidance, or the strength that a distilled denoiser reads; 1 is none.
    """

    steps: int = 30
    guidance: float = 7.5

    def overridden(self, steps: int | None, guidance: float | None) -> "Usual":
        """These values, overridden by those that a request names."""
        return Usual(self.steps if steps is None else steps, self.guidance if guidance is None else guidance)


USUAL = Usual()  # for a model without a folder


class Kind(NamedTuple):
    """One pipeline.

    Attributes:
        family: the beginning of its classes' names, and of its relatives' names.
        denoiser: the name of the denoiser's folder.
        readers: the uses of the text encoders, in the order that `condition` takes them.
        condition: (prompts, *encoders, **how) -> condition.
        multiple: denoiser -> the number that divides the sides of its latents.
        usual: steps and guidance of the class in diffusers 0.42, the defaults of its `__call__`.
        image_guidance: scale of the guidance by the picture that is edited, in the same `__call__`; 1 is none.
        undistilled: the same for a denoiser that reads no strength, where the class expects one; None: `usual`.
        unit_clock: whether the network of a flow receives t in [0, 1], not in [0, 1000].
        by_steps: whether the shift of its flow depends on their number, too, as FLUX.2's does; see `schedulers.read`.
        even, bent: whether it sets the steps of a flow itself, see `schedulers.read`.
        instructed: whether prompts, but no negative ones, stand behind an instruction; `condition` takes that name.
        strength: whether its denoiser must read the strength of the guidance.
        zeros: whether its unconditional branch receives zeros where there is no negative prompt.
        appends: whether its denoiser sees the picture that is edited as further tokens.
        several: the most pixels of each of several pictures that its denoiser sees as further tokens where a request
            has some, to which larger ones are scaled; 0: it sees none.
        controlled: whether its denoiser, a transformer, sees the latents of a picture of edges or depths beside x_t.
        fills: whether its denoiser, a transformer, sees a mask and what is not masked; a U-Net's channels say so.
        approximated: whether one network makes the vectors of all layers of its denoiser.
        network: class of its denoiser; None: any.
        guides: (branches, schedule, scale) -> the guided denoiser.
        student: steps and guidance where model_index.json says is_distilled; None: `usual`.
        students: steps and guidance of a student of few steps, by the shift of its flow, which tells it.
        inpainting: the class of its relative whose denoiser sees a mask and what is not masked; "": there is none.
        edits: the class of its relative whose denoiser sees the picture that is edited; "": there is none.
        video: how it makes clips; None: it makes pictures.
        paired: the same where a patch of its denoiser has two frames.
    """

    family: str
    denoiser: str
    readers: tuple[Reader, ...]
    condition: Callable[..., dict[str, Any]]
    multiple: Callable[[nn.Module], int]
    usual: Usual
    image_guidance: float = 1.0
    undistilled: Usual | None = None
    unit_clock: bool = False
    even: bool = False
    bent: bool = False
    by_steps: bool = False
    instructed: bool = False
    strength: bool = False
    zeros: bool = False
    appends: bool = False
    several: int = 0
    controlled: bool = False
    fills: bool = False
    approximated: bool = False
    network: type[nn.Module] | None = None
    guides: Callable[..., Denoiser] = lambda branches, schedule, scale: guidance.classifier_free(branches, scale)
    student: Usual | None = None
    students: Mapping[float, Usual] = {}
    inpainting: str = ""
    edits: str = ""
    video: Video | None = None
    paired: Video | None = None


def _halvings(module: Any) -> int:
    return 2 ** (len(module.widths) - 1)


def _patch(module: Any) -> int:
    return module.patch


SD = Kind(
    "StableDiffusion",
    "unet",
    (Reader(),),
    text.stable_diffusion,
    _halvings,
    Usual(50, 7.5),
    inpainting="StableDiffusionInpaintPipeline",
    edits="StableDiffusionInstructPix2PixPipeline",
)
ALONE = {"inpainting": "", "edits": ""}
EDITS = SD._replace(usual=Usual(100, 7.5), image_guidance=1.5, **ALONE)
LCM = SD._replace(family="LatentConsistencyModel", usual=Usual(4, 8.5), **ALONE)
XL = Kind(
    "StableDiffusionXL",
    "unet",
    (Reader(how=HIDDEN), Reader("_2", HIDDEN)),
    text.stable_diffusion_xl,
    _halvings,
    Usual(50, 5.0),
    zeros=True,
    inpainting="StableDiffusionXLInpaintPipeline",
    edits="StableDiffusionXLInstructPix2PixPipeline",
)
XL_EDITS = XL._replace(usual=Usual(100, 5.0), image_guidance=1.5, **ALONE)
XL_INPAINT = XL._replace(usual=Usual(50, 7.5))
SD_3 = Kind(
    "StableDiffusion3",
    "transformer",
    (Reader(how=HIDDEN), Reader("_2", HIDDEN), Reader("_3", length=256, optional=True)),
    text.stable_diffusion_3,
    _patch,
    Usual(28, 7.0),
)
# FLUX.1-dev reads a strength; FLUX.1-schnell does not, and its card has 4 steps without guidance.
FLUX = Kind(
    "Flux",
    "transformer",
    (Reader(), Reader("_2", length=512)),
    text.flux,
    lambda module: 2,  # its patches
    Usual(28, 3.5),
    undistilled=Usual(4, 1.0),
    unit_clock=True,
    even=True,
)
FLUX_FILL = FLUX._replace(usual=Usual(50, 30.0), undistilled=None, fills=True)
FLUX_CONTROL = FLUX._replace(undistilled=None, controlled=True, strength=True)
KONTEXT = FLUX._replace(undistilled=None, appends=True, strength=True)
CHROMA = Kind(
    "Chroma",
    "transformer",
    (Reader(how={"masked": True}, length=512),),
    text.chroma,
    FLUX.multiple,
    Usual(35, 5.0),
    unit_clock=True,
    even=True,
    approximated=True,
)
# diffusers writes pos + w (pos - neg), without guidance at w = 0: our scales are one more.
Z_IMAGE = Kind(
    "ZImage",
    "transformer",
    (Reader(how={"masked": True, "layers": (-2,)}, length=512),),
    text.z_image,
    FLUX.multiple,
    Usual(50, 6.0),
    unit_clock=True,
    even=True,
    network=ZImage,
    students={3.0: Usual(8, 1.0)},  # Z-Image-Turbo
)
FLUX2_KLEIN = Kind(
    "Flux2Klein",
    "transformer",
    (Reader(how={"masked": True, "layers": (9, 18, 27)}, length=512),),
    text.flux2_klein,
    lambda module: 1,
    Usual(50, 4.0),
    unit_clock=True,
    even=True,
    by_steps=True,
    network=Flux2,
    several=1024**2,
    student=Usual(4, 1.0),
)
FLUX2 = FLUX2_KLEIN._replace(
    family="Flux2",
    readers=(Reader(how={"masked": True, "layers": (10, 20, 30)}, length=512, left=True),),
    condition=text.flux2,
    strength=True,
    student=None,
)
QWEN_IMAGE = Kind(
    "QwenImage",
    "transformer",
    (Reader(how={"masked": True}, length=34 + 512),),
    text.qwen_image,
    FLUX.multiple,
    Usual(50, 4.0),
    unit_clock=True,
    even=True,
    network=QwenImage,
    guides=functools.partial(guidance.renormalised, patch=2),
)
LUMINA2 = Kind(
    "Lumina2",
    "transformer",
    (Reader(how={"masked": True, "layers": (-2,)}, length=256),),
    text.lumina2,
    FLUX.multiple,
    Usual(30, 4.0),
    unit_clock=True,
    even=True,
    network=Lumina2,
    guides=functools.partial(guidance.renormalised, axis=-2),  # along the columns
    instructed=True,
)
SANA = Kind(
    "Sana",
    "transformer",
    (Reader(how={"masked": True}, length=300),),
    text.sana,
    _patch,
    Usual(20, 4.5),
    network=Sana,
    instructed=True,
)
SANA_SPRINT = SANA._replace(family="SanaSprint", usual=Usual(2, 4.5), unit_clock=True, strength=True)
PIXART_ALPHA = Kind("PixArt", "transformer", (Reader(how={"masked": True}, length=120),), text.pixart, _patch,
                    Usual(20, 4.5))  # fmt: skip
PIXART_SIGMA = PIXART_ALPHA._replace(readers=(Reader(how={"masked": True}, length=300),))
WAN_CLIPS = Video(81, (480, 832), 16.0, second="transformer_2")
WAN = Kind(
    "Wan",
    "transformer",
    (Reader(how={"masked": True}, length=512),),
    text.wan,
    FLUX.multiple,
    Usual(50, 5.0),
    network=Wan,
    video=WAN_CLIPS,
)
WAN_FROM_IMAGE = WAN._replace(video=WAN_CLIPS._replace(begins=True))
LTX_CLIPS = Video(161, (512, 704), 25.0, clean=True)
LTX = Kind(
    "LTX",
    "transformer",
    (Reader(length=128),),
    text.ltx_video,
    lambda module: 1,
    Usual(50, 3.0),
    even=True,
    network=LTXVideo,
    video=LTX_CLIPS,
)
LTX_CONDITION = LTX._replace(
    readers=(Reader(how={"masked": True}, length=256),),
    even=False,
    bent=True,
    video=LTX_CLIPS._replace(timed=True, blur=0.15),
)
COGVIDEOX_CLIPS = Video(49, (480, 720), 8.0, masked=False)
COGVIDEOX = Kind(
    "CogVideoX",
    "transformer",
    (Reader(length=226),),
    text.cogvideox,
    _patch,
    Usual(50, 6.0),
    network=CogVideoX,
    video=COGVIDEOX_CLIPS,
    paired=Video(81, (768, 1360), 16.0, masked=False),  # by the card of CogVideoX 1.5
)
COGVIDEOX_FROM_IMAGE = COGVIDEOX._replace(
    video=COGVIDEOX_CLIPS._replace(begins=True), paired=COGVIDEOX.paired._replace(begins=True)
)
HUNYUAN_VIDEO = Kind(
    "HunyuanVideo",
    "transformer",
    (Reader(how={"masked": True, "layers": (-3,)}, length=95 + 256), Reader("_2")),
    text.hunyuan_video,
    FLUX.multiple,
    Usual(50, 6.0),
    unit_clock=True,
    even=True,
    network=HunyuanVideo,
    video=Video(129, (720, 1280), 24.0),
)
KINDS = {
    "StableDiffusionPipeline": SD,
    "StableDiffusionImg2ImgPipeline": SD,
    "StableDiffusionInpaintPipeline": SD,
    "StableDiffusionInstructPix2PixPipeline": EDITS,
    "LatentConsistencyModelPipeline": LCM,
    "LatentConsistencyModelImg2ImgPipeline": LCM,
    "StableDiffusionXLPipeline": XL,
    "StableDiffusionXLImg2ImgPipeline": XL,
    "StableDiffusionXLInpaintPipeline": XL_INPAINT,
    "StableDiffusionXLInstructPix2PixPipeline": XL_EDITS,
    "StableDiffusion3Pipeline": SD_3,
    "FluxPipeline": FLUX,
    "FluxFillPipeline": FLUX_FILL,
    "FluxControlPipeline": FLUX_CONTROL,
    "FluxKontextPipeline": KONTEXT,
    "ChromaPipeline": CHROMA,
    "ZImagePipeline": Z_IMAGE,
    "Flux2Pipeline": FLUX2,
    "Flux2KleinPipeline": FLUX2_KLEIN,
    "QwenImagePipeline": QWEN_IMAGE,
    "Lumina2Pipeline": LUMINA2,
    "Lumina2Text2ImgPipeline": LUMINA2,  # its first name
    "SanaPipeline": SANA,
    "SanaSprintPipeline": SANA_SPRINT,
    "PixArtAlphaPipeline": PIXART_ALPHA,
    "PixArtSigmaPipeline": PIXART_SIGMA,
    "LTXPipeline": LTX,
    "LTXImageToVideoPipeline": LTX,
    "LTXConditionPipeline": LTX_CONDITION,
    "CogVideoXPipeline": COGVIDEOX,
    "CogVideoXImageToVideoPipeline": COGVIDEOX_FROM_IMAGE,
    "HunyuanVideoPipeline": HUNYUAN_VIDEO,
    "WanPipeline": WAN,
    "WanImageToVideoPipeline": WAN_FROM_IMAGE,
}


def kind_of(name: str, folder: pathlib.Path) -> Kind:
    """The kind of a pipeline's class; the folder is for the message.

    Raises:
        Refusal: for another class; names its known relatives.
    """
    if name in KINDS:
        return KINDS[name]
    if name == redux_prompt.CLASS:
        raise Refusal(
            f"{folder} is FLUX.1 Redux, which is attached to a FLUX.1: text_to_image.load(.., attachments={{'look': "
            "FOLDER}), --attach=look=FOLDER, and --controls=look:PICTURE"
        )
    family = max((kind.family for kind in KINDS.values() if name.startswith(kind.family)), key=len, default=None)
    relatives = [other for other, kind in KINDS.items() if kind.family == family]
    hint = f" Its family has {', '.join(relatives)}." if relatives else ""
    raise Refusal(f"{folder} is a {name}, which is not supported; supported: {', '.join(KINDS)}.{hint}")


def distilled(denoiser: nn.Module) -> bool:
    """Whether a denoiser reads the strength of the guidance, and so takes no negative prompt."""
    return bool(getattr(denoiser, "strength", False) or getattr(denoiser, "strength_width", 0))


def published(kind: Kind, process: Process, denoiser: nn.Module, student: bool = False) -> Usual:
    """Steps and guidance with which a model was published, as far as its folder shows.

    | the folder has                                           | steps | guidance  | source                            |
    |----------------------------------------------------------|-------|-----------|-----------------------------------|
    | Euler's schedulers, "trailing", epsilon prediction       | 1     | none      | cards of SD-Turbo and SDXL-Turbo  |
    | LCMScheduler, a denoiser that reads the strength         | 4     | 8.5       | LatentConsistencyModelPipeline    |
    | LCMScheduler, another denoiser (LCM merged, PixArt-LCM)  | 4     | none      | cards of the LCM-LoRAs            |
    | a Flux without guidance_embeds                           | 4     | none      | card of FLUX.1-schnell            |
    | is_distilled (`student`)                                 | 4     | none      | its published use                 |
    | a Z-Image whose flow is shifted by 3                     | 8     | none      | 8 evaluations, by diffusers' page |
    | anything else                                            | `kind.usual`      | the pipeline's `__call__`         |
    """
    few = process.sampler in ("euler", "euler_ancestral") and process.fields.get("timestep_spacing") == "trailing"
    if few and process.prediction == "epsilon":
        return Usual(1, 1.0)
    if process.sampler == "lcm" and not process.fields.get("trigonometric"):
        return LCM.usual if distilled(denoiser) else LCM.usual._replace(guidance=1.0)
    if student and kind.student is not None:
        return kind.student
    if (few_steps := kind.students.get(process.fields.get("shift"))) is not None:
        return few_steps
    return kind.usual if kind.undistilled is None or distilled(denoiser) else kind.undistilled
