"""Writes several clips side by side as one animation with a text file of captions, and shows animations on a page."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from diffusion.experiments.evaluation import clip_pictures
from diffusion.io import clips as clip_files, films
from diffusion.io.files import write_text

SHOWN = 16  # clips in an animation
ENLARGED = 3


def write(clips: np.ndarray, path: pathlib.Path, captions: Sequence[str], rate: float) -> None:
    """Writes the first clips as PATH.gif, with PyAV also as PATH.mp4, and their captions as PATH.txt.

    Args:
        clips: uint8 [N, F, H, W, 3].
        path: the path without its ending.
        captions: the N captions.
        rate: frames a second.
    """
    large = clips[:SHOWN].repeat(ENLARGED, 2).repeat(ENLARGED, 3)
    frames = clip_pictures.beside(large)
    clip_files.write_gif(path.with_suffix(".gif"), frames, rate)
    if films.has_library():
        even = np.pad(frames, [(0, 0), *((0, side % 2) for side in frames.shape[1:3]), (0, 0)], mode="edge")
        clip_files.write_mp4(path.with_suffix(".mp4"), even, rate)
    write_text(path.with_suffix(".txt"), "".join(f"{caption}\n" for caption in captions[:SHOWN]))


def embedded(folder: pathlib.Path, titles: Mapping[str, str]) -> list[str]:
    """A section of Markdown for each animation NAME.gif that the folder has, of {NAME: title}."""
    sections = {name: f"## {title[0].upper()}{title[1:]}\n\n![{title}]({name}.gif)" for name, title in titles.items()}
    return [section for name, section in sections.items() if (folder / f"{name}.gif").is_file()]
