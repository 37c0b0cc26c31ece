"""The pipelines of Stable Cascade: stage C makes latents from a prompt, stage B the autoencoder's, stage A the picture.

diffusers publishes them as two folders, "NAME-prior" with stage C and "NAME" with stages B and A. Either opens both,
if they stand side by side; `StableCascadeCombinedPipeline.save_pretrained` writes one folder with all.
"""

import pathlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.stable_cascade.network import StableCascade
from diffusion.text.encoding import Encoder, encode, pooled

PRIOR = "-prior"  # the end of the name of stage C's folder
FACTOR = Fraction(128, 3)  # pixels for a latent of stage C: diffusers' 42.67
SECOND = {"vae": "vqgan", "decoder": "decoder", "second_scheduler": "scheduler"}  # the parts of stages B and A


def stable_cascade(prompts: Sequence[str], clip: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text", "pooled"} of Stable Cascade, for both stages.

    Args:
        prompts: B texts.
        clip: ViT-bigG's text tower with its projection, `masked=True, norm=False`.
        **how: further arguments of `encode`.
    """
    texts = encode(prompts, clip, **how)
    return {"text": texts.tokens, "pooled": pooled(texts)}


def _in_one_folder(folder: pathlib.Path, part: str) -> pathlib.Path:
    """A part's folder, as the combined pipeline of diffusers saves it."""
    return folder / SECOND.get(part, f"prior_{part}")


def _in_two_folders(folder: pathlib.Path, part: str) -> pathlib.Path:
    """A part's folder: stage C and the text encoder in NAME-prior, and the rest in NAME.

    Raises:
        FileNotFoundError: if the other of the two is missing.
    """
    name = folder.absolute().name.removesuffix(PRIOR)
    half = folder.absolute().with_name(name if part in SECOND else name + PRIOR)
    if not half.is_dir():
        raise FileNotFoundError(
            f"{half} does not exist. Stable Cascade is two folders, {name} and {name}{PRIOR}; put them, or links to "
            "them, side by side"
        )
    return half / SECOND.get(part, part)


def _objection(denoiser: Any) -> str:
    return "" if getattr(denoiser, "text_width", 1) else "clip_text_in_channels, which stage C has and stage B has not"


def _kind(usual: kinds.Usual, steps: int, place: Callable[[pathlib.Path, str], pathlib.Path]) -> kinds.Kind:
    return kinds.Kind(
        "StableCascade",
        kinds.Prompts((kinds.Reader("", {"masked": True, "norm": False}),), stable_cascade),
        usual,
        kinds.DenoiserNetwork(StableCascade, "prior", lambda denoiser: 3, _objection),
        files=kinds.Files(place=place),
        second_stage=kinds.SecondStage("decoder", "second_scheduler", steps, FACTOR, 1024),
    )


KINDS = {
    "StableCascadeCombinedPipeline": _kind(kinds.Usual(60, 4.0), 12, _in_one_folder),
    "StableCascadePriorPipeline": _kind(kinds.Usual(20, 4.0), 10, _in_two_folders),
    "StableCascadeDecoderPipeline": _kind(kinds.Usual(20, 4.0), 10, _in_two_folders),
}
