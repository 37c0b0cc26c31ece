"""The kind of a pipeline: what its prompts become, and the facts by which one program makes pictures or clips."""

import pathlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from diffusion import guidance
from diffusion.models.attachment import Attachment
from diffusion.parameterizations import Denoiser


class Attachable(NamedTuple):
    """A published class that makes no pictures itself and is attached to a model that does.

    Attributes:
        words: its description for messages, with the model that it is attached to.
        opened: (its folder, the denoiser, **arguments of `interchange.load`) -> its attachment.
    """

    words: str
    opened: Callable[..., Attachment]


class Reader(NamedTuple):
    """The use of one text encoder in a pipeline.

    Attributes:
        suffix: the end of its folders' names, "text_encoder" + suffix and `vocabulary` + suffix.
        how: arguments of `text.Encoder.from_module`.
        length: length of its texts in tokens, at most the positions of its encoder; 0 for the tokenizer's length.
        optional: whether a folder may lack it.
        left: whether padding stands before its texts; None: as the folder of its tokenizer says.
        family: name of the architecture by which its folder is opened, see `interchange.load`; "" for its config's.
        pad: the token behind its texts by its name in tokenizer_config.json, such as "eos_token"; "" for its pad_token.
        vocabulary: the beginning of the name of the folder with its tokenizer.
    """

    suffix: str = ""
    how: Mapping[str, Any] = {}
    length: int = 0
    optional: bool = False
    left: bool | None = None
    family: str = ""
    pad: str = ""
    vocabulary: str = "tokenizer"

    @property
    def folder(self) -> str:
        """The name of the text encoder's folder in a model."""
        return f"text_encoder{self.suffix}"

    @property
    def tokenizer_folder(self) -> str:
        """The name of its tokenizer's folder in a model."""
        return f"{self.vocabulary}{self.suffix}"


class Usual(NamedTuple):
    """Steps and guidance of a model where a request names none; its folder may state them in sampling.json.

    Attributes:
        steps: steps of the sampler, at least 1.
        guidance: scale of the guidance, or the strength that a distilled denoiser reads; 1 is none.
    """

    steps: int = 30
    guidance: float = 7.5


USUAL = Usual()  # for a model without a folder
LCM = Usual(4, 8.5)  # the defaults of LatentConsistencyModelPipeline, for every latent consistency model


class EditedPictures(NamedTuple):
    """How the pictures that a prompt edits or combines are prepared; the denoiser sees them as further tokens.

    Attributes:
        pixels: number of pixels of a picture: larger ones are reduced to as many.
        divisor: the number that divides the sides of a picture, which is scaled to about `pixels` whatever its size; 0:
            smaller pictures stay as they are, and edges are cut off until the sides fit the latents.
        number: the most pictures of a request; 0: any number.
        needed: whether a request must have one.
        repainted: whether an image that is changed or repainted is also the first of them.
        sized: index of the picture whose size the result has.
        prompt_pixels: the number of pixels of a picture in the prompt, to which it is scaled likewise; 0: the text
            encoder sees none.
        sight: (folder of the model, text encoder) -> (picture uint8 [H, W, 3] -> uint8 [h, w, 3] as the text encoder
            takes it); None: it sees none.
    """

    pixels: int
    divisor: int = 0
    number: int = 0
    needed: bool = False
    repainted: bool = False
    sized: int = 0
    prompt_pixels: int = 0
    sight: Callable[..., Callable[[np.ndarray], np.ndarray]] | None = None


class FirstImage(NamedTuple):
    """How the clips of a pipeline begin with an image of the request.

    Attributes:
        begins: whether its clips begin with the image of the request, whose latents its denoiser sees beside its own.
        masked: whether it then also sees masks of the known frames.
        one_mask: whether it sees, without `masked`, one mask of the known latent frame behind these latents.
        hint: share of that image's latents in every frame of the noise from which its clips are made.
        left_out: number of latent frames at the beginning that are left out of the finished clip.
        sight: (folder of the model, text encoder) -> (picture uint8 [H, W, 3] -> uint8 [h, w, 3] as the text encoder
            takes it), where the text encoder also sees that image, and a black one beside a negative prompt; None: it
            sees none.
        clean: whether its denoiser has a time for each frame, so that the clips may begin with an image whose frame of
            the latent is clean (TI2V-5B of Wan 2.2, LTX-Video, HunyuanVideo that replaces tokens).
        blur: the noise of that frame: blur t^2 times N(0, I), at the time t of the other frames.
    """

    begins: bool = False
    masked: bool = True
    one_mask: bool = False
    hint: float = 0.0
    left_out: int = 0
    sight: Callable[..., Callable[[np.ndarray], np.ndarray]] | None = None
    clean: bool = False
    blur: float = 0.0


class Video(NamedTuple):
    """The properties of a pipeline's clips.

    Attributes:
        frames: number of frames of a clip where a request names none, as in the class's `__call__`.
        size: height and width of a clip in pixels where a request names none.
        rate: frames a second.
        second: the folder of a second denoiser for the times below model_index.json's boundary_ratio; "" for none.
        first: how clips begin with an image.
        fills: whether its denoiser sees a clip and masks of the frames that it makes (VACE); a request may name the
            first frame, or the first and the last.
        timed: whether its denoiser receives the time of each latent frame in seconds: the time of the last frame that
            it stands for.
        rated: whether its denoiser receives the frames a second, which a request may then name.
    """

    frames: int
    size: tuple[int, int]
    rate: float
    second: str = ""
    first: FirstImage = FirstImage()
    fills: bool = False
    timed: bool = False
    rated: bool = False


class Sound(NamedTuple):
    """The sound that a pipeline makes with each clip; its denoiser is a network of {"video", "sound"}.

    Attributes:
        networks: the folders of the networks that turn latents into waveforms.
        shape: (modules, frames, frames a second) -> shape of the sound's latents of one clip; the modules are all
            networks of the model by the names of their folders.
        waveforms: (modules, parameters, latents [B, *shape]) -> waveforms [B, L, 1] or [B, L, 2] in [-1, 1], a pure
            function of the parameters of `networks` by their names.
        sample_rate: modules -> samples of a waveform in a second.
        guides: (branches, schedule, shapes of {"video", "sound"}, scales, names of the branches behind the first) ->
            the guided denoiser. The scales are {"video": {name: scale}, "sound": ...} with the names "text",
            "perturbed" and "apart"; the branches have the same order.
        guidance: scale of the sound's guidance by the text, in the class's `__call__`; 1 is none.
        modality_guidance: scale of the guidance away from a clip and a sound that do not attend to each other (the
            entry "apart" of a condition), in the class's `__call__`; 1 is none.
    """

    networks: tuple[str, ...]
    shape: Callable[[Mapping[str, Any], int, float], tuple[int, ...]]
    waveforms: Callable[[Mapping[str, Any], Mapping[str, Any], Any], Any]
    sample_rate: Callable[[Mapping[str, Any]], int]
    guides: Callable[..., Denoiser]
    guidance: float = 1.0
    modality_guidance: float = 1.0


class SecondStage(NamedTuple):
    """A second denoiser, which makes the autoencoder's latents from the first one's (Stable Cascade's stage B).

    It reads the first stage's latents as "coarse", and the pooled prompt, without guidance.

    Attributes:
        network: the folder of the second denoiser.
        scheduler: the folder of its scheduler.
        steps: number of its steps, at least 1.
        factor: number of the picture's pixels along a side for one of the first stage's latents.
        side: height and width of the pictures that the first stage was trained on, in pixels.
    """

    network: str
    scheduler: str
    steps: int
    factor: Fraction
    side: int


class ControlLoras(NamedTuple):
    """How a LoRA file makes a controlled pipeline of one that sees no picture.

    Attributes:
        pipeline: the class of that pipeline.
        is_control: (shapes of the file's tensors by name, denoiser) -> whether the file does so.
        widened: (denoiser, its parameters or None) -> the denoiser that the file is for, and its parameters.
    """

    pipeline: str
    is_control: Callable[[Mapping[str, tuple[int, ...]], nn.Module], bool]
    widened: Callable[[Any, Any], tuple[Any, Any]]


class Prompts(NamedTuple):
    """What the prompts of a pipeline become.

    Attributes:
        readers: the uses of the text encoders, in the order that `condition` takes them.
        condition: (prompts, *encoders, *connectors, **how) -> condition.
        connectors: the folders of further networks that `condition` takes behind the encoders, as functions of arrays.
        instructed: whether an instruction precedes the prompts, except negative ones; `condition` takes an argument of
            this name.
        zeros: whether its unconditional branch receives zeros where there is no negative prompt.
    """

    readers: tuple[Reader, ...]
    condition: Callable[..., dict[str, Any]]
    connectors: tuple[str, ...] = ()
    instructed: bool = False
    zeros: bool = False


class DenoiserNetwork(NamedTuple):
    """The network that a pipeline samples with.

    Attributes:
        network: its class; None: any.
        folder: the name of its folder.
        multiple: denoiser -> the number that divides the sides of its latents.
        objection: denoiser -> the reason why it belongs to another pipeline, in words after "whose denoiser has"; "" if
            it does not.
        variant: (kind, denoiser) -> the kind with what this denoiser decides, where a class has several.
        strength: whether it must read the strength of the guidance.
        unit_clock: whether the network of a flow receives t in [0, 1], not in [0, 1000].
        jumps: whether it also receives the end of a step, and is thus a flow map.
    """

    network: type[nn.Module] | None = None
    folder: str = "transformer"
    multiple: Callable[[Any], int] = lambda denoiser: denoiser.patch
    objection: Callable[[Any], str] = lambda denoiser: ""
    variant: Callable[["Kind", Any], "Kind"] = lambda kind, denoiser: kind
    strength: bool = False
    unit_clock: bool = False
    jumps: bool = False


class FlowSteps(NamedTuple):
    """How a pipeline sets the steps of a flow itself; the arguments of `schedulers.read` by these names."""

    even: bool = False
    by_steps: bool = False
    bent: bool = False
    by_root: bool = False


class Students(NamedTuple):
    """Steps and guidance of the distilled models of a pipeline, and of those that are not where it expects a student.

    Attributes:
        undistilled: the pair for a denoiser that reads no strength, where the class expects one; None: `Kind.usual`.
        stated: the pair where model_index.json says is_distilled; None: `Kind.usual`.
        schedule: fields of the scheduler's config that such a student has in place of the file's.
        by_scheduler: the pairs for students of few steps, by the sampler of the folder and the shift of its flow, which
            tell such a student.
    """

    undistilled: Usual | None = None
    stated: Usual | None = None
    schedule: Mapping[str, Any] = {}
    by_scheduler: Mapping[tuple[str, float], Usual] = {}


class Guidance(NamedTuple):
    """How a pipeline guides, and the scales of its guidances beside `Kind.usual`, as in its class's `__call__`.

    Attributes:
        guides: (branches, schedule, scale) -> the guided denoiser.
        by_condition: whether `guides` also takes the condition of the prompts.
        guiders: (kind, folder, whether it has a part of a name, steps and guidance) -> the kind and these with what the
            folder's guiders state; None: they are classifier-free, see `model_index.read_guidance`.
        dynamic_scales: (scale, times of the training process [N], steps N) -> the scale of each step, if the class has
            a guidance that changes with the steps; None: it has not.
        image_scale: scale of the guidance by the picture that is edited; 1 is none.
        perturbs: denoiser -> the layer mask "identity" [1, L] of perturbed-attention guidance; None for no such
            guidance.
        perturbed_scale: scale of that guidance; 0 is none.
    """

    guides: Callable[..., Denoiser] = lambda branches, schedule, scale: guidance.classifier_free(branches, scale)
    by_condition: bool = False
    guiders: Callable[..., tuple["Kind", Usual]] | None = None
    dynamic_scales: Callable[[float, np.ndarray, int], np.ndarray] | None = None
    image_scale: float = 1.0
    perturbs: Callable[[Any], np.ndarray] | None = None
    perturbed_scale: float = 0.0


class Pictures(NamedTuple):
    """The pictures that a pipeline takes and makes.

    Attributes:
        side: side of its pictures in pixels, the default of `__call__`, whatever the denoiser's config states; 0: there
            is none.
        sample_size: side of the latents that it was trained on, where that config states none.
        layers: number of layers, pictures with alpha, into which it takes a picture apart where a request names none;
            0: it makes pictures.
        appends: whether its denoiser sees the picture that is edited as further tokens.
        several: how several pictures that its denoiser sees as further tokens are prepared; None: it sees none.
        controlled: whether its denoiser, a transformer, sees the latents of a picture of edges or depths beside x_t.
        fills: whether its denoiser, a transformer, sees a mask and what is not masked; a U-Net's channels say so.
        all_steps: whether a request that changes an image runs all of its steps, which "lcm" and "tcd" lay over the
            times that the strength leaves; otherwise it runs a part of the steps.
    """

    side: int = 0
    sample_size: int = 128
    layers: int = 0
    appends: bool = False
    several: EditedPictures | None = None
    controlled: bool = False
    fills: bool = False
    all_steps: bool = False


class Files(NamedTuple):
    """What is particular in the folder of a pipeline.

    Attributes:
        stated: further fields of model_index.json, with the one value of each that is supported.
        attaches: the folder of a network that the class attaches to its denoiser, such as a ControlNet; "": none.
        place: (folder of the model, name of a part, such as "vae" or "tokenizer_2") -> the part's folder.
    """

    stated: Mapping[str, Any] = {}
    attaches: str = ""
    place: Callable[[pathlib.Path, str], pathlib.Path] = lambda folder, part: folder / part


class Relatives(NamedTuple):
    """The pipelines that training or a LoRA file makes of one.

    Attributes:
        inpainting: the class of its relative whose denoiser sees a mask and what is not masked; "": there is none.
        edits: the class of its relative whose denoiser sees the picture that is edited; "": there is none.
        control_loras: how LoRA files make a controlled pipeline of it; None: there are none.
    """

    inpainting: str = ""
    edits: str = ""
    control_loras: ControlLoras | None = None


class Kind(NamedTuple):
    """One pipeline.

    Attributes:
        family: the beginning of its classes' names, and of its relatives' names.
        prompts: its text encoders, and the condition that they make of the prompts.
        usual: steps and guidance of the class in diffusers 0.42, the defaults of its `__call__`.
        denoiser: its denoiser.
        flow: the steps of a flow that it sets itself.
        students: steps and guidance of its distilled models.
        guidance: its guidance, and further scales.
        pictures: the pictures that it takes and makes.
        files: the particulars of its folder.
        relatives: the pipelines that training or a LoRA file makes of it.
        video: how it makes clips; None: it makes pictures.
        sound: how its clips have a sound; None: they are silent.
        second_stage: a denoiser between this one and the autoencoder; None: there is none.
    """

    family: str
    prompts: Prompts
    usual: Usual
    denoiser: DenoiserNetwork = DenoiserNetwork()
    flow: FlowSteps = FlowSteps()
    students: Students = Students()
    guidance: Guidance = Guidance()
    pictures: Pictures = Pictures()
    files: Files = Files()
    relatives: Relatives = Relatives()
    video: Video | None = None
    sound: Sound | None = None
    second_stage: SecondStage | None = None

    @property
    def decoders(self) -> tuple[str, ...]:
        """The folders of the networks behind the latents, which are float32."""
        return ("vae",) if self.sound is None else ("vae", *self.sound.networks)
