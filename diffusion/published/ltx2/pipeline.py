"""Clips with their sound by LTX-2: from prompts to frames and waveforms, as LTX2Pipeline of diffusers makes them.

from diffusion.io import clips
from diffusion.published.ltx2 import pipeline
model = pipeline.load("LTX-2")
made = pipeline.generate(model, ["a dog barks at the sea"], seeds=[0])
clips.write_mp4("dog.mp4", made.clips[0], made.rate, (made.sounds[0], made.sample_rate))
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import guidance, parameterizations, samplers
from diffusion.arrays import pytrees
from diffusion.data.transforms import to_uint8
from diffusion.io import opener
from diffusion.models import interchange
from diffusion.models.autoencoders import latent_space
from diffusion.models.interchange import schedulers
from diffusion.models.interchange.family import Refusal
from diffusion.models.layers import layer_masks
from diffusion.published.ltx2.guidance import SCALES, Scales, guided, needed
from diffusion.published.ltx2.network import SOUND_CELL, SPECTRA
from diffusion.text.encoding import Encoder, encode
from diffusion.text.tokenizer import Tokenizer

CLASS = "LTX2Pipeline"
PARTS = {
    "transformer": "LTX2VideoTransformer3DModel",
    "connectors": "LTX2TextConnectors",
    "vae": "AutoencoderKLLTX2Video",
    "audio_vae": "AutoencoderKLLTX2Audio",
    "vocoder": "LTX2Vocoder",
    "text_encoder": "",
}
"""The folders of the networks, and the families by which they are opened; "" for the family of the config."""
LENGTH = 1024  # tokens of a prompt
PERTURBED = (28,)
"""The layers that the published guidance perturbs, 0 for the first."""
ELSEWHERE = {CLASS: "makes clips with their sound. Open it in Python: diffusion.published.ltx2.pipeline.load"}
"""The class that text_to_image does not open, and the function that does."""


@dataclasses.dataclass(frozen=True, eq=False)
class LTX2Model:
    """A folder of LTX-2.

    Attributes:
        modules: its networks, by the names of their folders.
        params: their parameters, likewise.
        process: the diffusion process.
        encoder: Gemma 3, whose tokens have the states after all layers side by side.
        programs: its compiled functions, by names that tell them apart.
    """

    modules: Mapping[str, nn.Module]
    params: Mapping[str, Any]
    process: schedulers.Process
    encoder: Encoder
    programs: dict[Hashable, Callable] = dataclasses.field(default_factory=dict)

    def compiled(self, name: Hashable, function: Callable) -> Callable:
        """A function as a compiled program, which the model keeps under this name."""
        return self.programs.setdefault(name, jax.jit(function))

    def apply(self, part: str, *arguments: Any, **how: Any) -> Any:
        """The value of a network's call; `how` may name its method."""
        call = self.compiled((part, *how.items()), functools.partial(self.modules[part].apply, **how))
        return call({"params": self.params[part]}, *arguments)


def load(folder: str | pathlib.Path, *, dtype: str = "float32", length: int = LENGTH, **how: Any) -> LTX2Model:
    """Loads a folder that `LTX2Pipeline.save_pretrained` wrote.

    Args:
        folder: the folder.
        dtype: "float32" or "bfloat16", the type of the denoiser, the connectors and the text encoder.
        length: number of tokens of a prompt, which the connectors' registers divide.
        **how: further arguments of `interchange.load` for every network.

    Raises:
        FileNotFoundError: if a file is missing.
        Refusal: for another pipeline, or a config that is not supported.
    """
    folder = pathlib.Path(folder).expanduser()
    name = opener.read_table(folder / "model_index.json").get("_class_name")
    if name != CLASS:
        raise Refusal(f"{folder} is a {name}; this opens a {CLASS}, of prompts.")
    modules, params = {}, {}
    for part, family in PARTS.items():
        wide = "float32" if part in ("vae", "audio_vae", "vocoder") else dtype
        module, params[part] = interchange.load(folder / part, family, dtype=wide, **how)
        modules[part] = module.clone(dtype=wide) if hasattr(module, "dtype") else module
    process = schedulers.read(opener.read_table(folder / "scheduler" / "scheduler_config.json"), "", True)
    tokenizer = Tokenizer.open(folder / "tokenizer", length)._replace(left=True)
    states = tuple(range(modules["text_encoder"].depth + 1))
    encoder = Encoder.from_module(
        tokenizer, modules["text_encoder"], params["text_encoder"], masked=True, layers=states
    )
    return LTX2Model(modules, params, process, encoder)


def condition(model: LTX2Model, prompts: Sequence[str]) -> dict[str, Array]:
    """{"text", "sound_text"} of prompts: what the connectors make of all states of Gemma 3."""
    embeddings = encode([prompt.strip() for prompt in prompts], model.encoder)
    text, sound_text = model.apply("connectors", embeddings.tokens, jnp.asarray(embeddings.mask))
    return {"text": text, "sound_text": sound_text}


class Course(NamedTuple):
    """The sizes and settings of a trajectory.

    Attributes:
        shape: shapes of the latents of one example, {"video": (F, h, w, C), "sound": (L, C')}.
        rate: frames a second.
        steps: number of steps.
        scales: scales of the guidance of each modality.
        perturbed: layers that the guidance perturbs.
    """

    shape: dict[str, tuple[int, ...]]
    rate: float
    steps: int
    scales: Mapping[str, Scales]
    perturbed: tuple[int, ...]


def course(
    model: LTX2Model,
    frames: int = 121,
    size: tuple[int, int] = (512, 768),
    rate: float = 24.0,
    steps: int = 30,
    scales: Mapping[str, Scales] = SCALES,
    perturbed: Sequence[int] = PERTURBED,
) -> Course:
    """The course of a request; the arguments are those of `generate`.

    Raises:
        ValueError: for frames or sides that the autoencoder cannot make.
    """
    vae, network = model.modules["vae"], model.modules["transformer"]
    if (frames - 1) % vae.time_factor or frames < 1:
        raise ValueError(f"frames = {frames}. Valid: 1 + {vae.time_factor} n, such as {1 + 2 * vae.time_factor}")
    if any(side < 2 * vae.factor or side % vae.factor for side in size):
        raise ValueError(f"size = {size} must be multiples of {vae.factor}, at least {2 * vae.factor}")
    length = round(frames / rate * SPECTRA / SOUND_CELL)
    shape = {
        "video": (1 + (frames - 1) // vae.time_factor, *(side // vae.factor for side in size), network.channels),
        "sound": (max(length, 1), network.sound_channels),
    }
    return Course(shape, float(rate), steps, scales, tuple(perturbed))


def latents(
    model: LTX2Model, course: Course, noise: Mapping[str, Array], positive: dict[str, Array], negative: dict[str, Array]
) -> dict[str, Array]:
    """The latents at the end of a trajectory, as the denoiser has them.

    Args:
        model: the model.
        course: its sizes and settings.
        noise: numbers of N(0, I), [B, ...] of the shapes of the course.
        positive: the condition of the prompts.
        negative: the condition of the negative prompts, which a guidance by text needs.
    """
    network, shape = model.modules["transformer"], course.shape
    batch = len(noise["sound"])
    names = tuple(name for name in needed(course.scales) if name != "perturbed" or network.perturbed)
    plain = layer_masks.mask(batch, network.depth, ())
    base = {**positive, "rate": jnp.full(batch, course.rate), "identity": plain, "apart": np.zeros(batch, bool)}
    others = {
        "text": lambda: base | negative,
        "perturbed": lambda: base | {"identity": layer_masks.mask(batch, network.depth, course.perturbed)},
        "apart": lambda: base | {"apart": np.ones(batch, bool)},
    }
    conditions = (base, *(others[name]() for name in names))
    tokens = int(np.prod(shape["video"][:3]))
    trajectory = schedulers.trajectory(model.process, "", course.steps, tokens)
    schedule, parameterization = model.process.schedule, trajectory.clocked(model.process.parameterization)
    keys = jax.vmap(jax.random.key)(jnp.arange(batch))  # of the sampler, which draws nothing

    def sampled(params: Any, x: Array, conditions: tuple) -> Array:
        apply = lambda x, clock, condition: network.apply({"params": params}, x, clock, condition)
        vectors_network = pytrees.vector_network(apply, shape)
        if names:
            branches = guidance.together(vectors_network, schedule, parameterization, conditions)
        else:
            branches = guidance.separately(
                parameterizations.denoiser(vectors_network, schedule, parameterization, conditions[0])
            )
        denoise = guided(branches, schedule, shape, course.scales, names)
        return samplers.sample(trajectory.sampler, denoise, schedule, x, trajectory.plan, keys)

    program = model.compiled(("latents", batch, str(course)), sampled)
    x = program(model.params["transformer"], trajectory.start * pytrees.pack(dict(noise)), conditions)
    return pytrees.unpack(x, shape)


def decoded(model: LTX2Model, z: Mapping[str, Array]) -> tuple[np.ndarray, np.ndarray]:
    """(frames uint8 [B, F, H, W, 3], waveforms float32 [B, L, 2] in [-1, 1]) of the denoiser's latents."""
    vae, params = model.modules["vae"], model.params["vae"]
    decode = model.compiled("clips", lambda params, z: vae.in_parts(vae, params, "decode")(z))
    frames = to_uint8(decode(params, latent_space.from_diffusion(z["video"], vae.scale, vae.shift)))
    spectrograms = model.apply("audio_vae", model.modules["audio_vae"].latents(z["sound"]), method="decode")
    return np.asarray(frames), np.asarray(model.apply("vocoder", spectrograms))


class ClipsWithSound(NamedTuple):
    """Clips and their sounds.

    Attributes:
        clips: frames, uint8 [B, F, H, W, 3].
        sounds: waveforms, float32 [B, L, 2] in [-1, 1].
        rate: frames a second.
        sample_rate: samples a second.
    """

    clips: np.ndarray
    sounds: np.ndarray
    rate: float
    sample_rate: int


def generate(
    model: LTX2Model, prompts: Sequence[str], *, negative: str = "", seeds: Sequence[int] = (0,), **settings: Any
) -> ClipsWithSound:
    """Makes clips of prompts, with their sound.

    Args:
        model: a model that `load` returned.
        prompts: B texts.
        negative: the negative prompt, for all.
        seeds: B numbers, or one for all.
        **settings: further arguments of `course`: `frames` (121), 1 + 8 n; `size` (512, 768), height and width,
            multiples of 32; `rate` (24), frames a second; `steps` (30); `scales`, those of the guidance of "video" and
            "sound", see `guidance`; `perturbed` (28,), the layers that it perturbs.

    Raises:
        ValueError: for a size that the autoencoder cannot make, or another number of seeds.
    """
    seeds = list(seeds) * len(prompts) if len(seeds) == 1 else list(seeds)
    if isinstance(prompts, str) or len(seeds) != len(prompts):
        raise ValueError(f"prompts must be a list of texts, with one seed or one for each; got {len(seeds)} seeds")
    settled = course(model, **settings)
    both = condition(model, [*prompts, *[negative] * len(prompts)])
    positive, other = ({name: jnp.split(array, 2)[i] for name, array in both.items()} for i in (0, 1))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    draw = lambda key: jax.random.normal(key, pytrees.packed_shape(settled.shape))
    noise = pytrees.unpack(jax.vmap(draw)(keys), settled.shape)
    frames, sounds = decoded(model, latents(model, settled, noise, positive, other))
    return ClipsWithSound(frames, sounds, settled.rate, model.modules["vocoder"].sample_rate)
