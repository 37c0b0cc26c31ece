"""Two runs of made pictures for the tests of an arena."""

import json

import numpy as np

from diffusion.io import pictures


def run(folder, brightness, labels=(0, 1, 2, 0, 1, 2), side=8):
    """A run folder with samples of one brightness: picture i has i added to it."""
    folder.mkdir(parents=True)
    values = brightness + np.arange(len(labels), dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (len(labels), side, side, 3))
    np.savez(folder / "samples.npz", images=images, labels=np.array(labels))
    return str(folder)


def prompted(folder, brightness, prompts, side=8):
    """A folder of PNG files as text to image writes them."""
    folder.mkdir(parents=True)
    for i, prompt in enumerate(prompts):
        picture = np.full((side, side, 3), brightness + i, np.uint8)
        pictures.write(folder / f"{i:03}.png", picture, {"prompt": prompt})
    return str(folder)


def lines(folder):
    """The lines of votes.jsonl."""
    return [json.loads(line) for line in (folder / "votes.jsonl").read_text().splitlines()]
