"""Compares this library's Inception features with those that `inception_reference features` wrote for the same images.

    python -m tests.peers.inception_agreement INCEPTION IMAGES.npy FEATURES.safetensors

Prints, per tap, the relative L2 distance of an image's features (median and largest), and, where there are thousands
of images, the Frechet distance of their first half to their second half by either program's features.
"""

import sys

import numpy as np
import safetensors.numpy

from diffusion.metrics import frechet, inception
from tests.peers.pictures import enlarge, scaled

ENOUGH = 4096  # images, so that a half has more than there are features


def main(weights: str, images: str, features: str) -> None:
    """Prints the comparison."""
    theirs = safetensors.numpy.load_file(features)
    taps = tuple({"2048", *theirs} - {"torchscript", "logits"})
    images = np.load(images)
    ours = inception.extract(inception.load(weights).params, images, taps, lambda batch: scaled(enlarge(batch)))
    for tap in theirs.keys() - {"logits"}:
        mine = ours["2048" if tap == "torchscript" else tap].astype(np.float64)
        away = np.linalg.norm(mine - theirs[tap], axis=1) / np.linalg.norm(theirs[tap], axis=1)
        print(f"{tap}: relative L2 per image, median {np.median(away):.1e}, largest {away.max():.1e}, of {len(away)}")
    if len(images) >= ENOUGH:
        for name, rows in (("ours", ours["2048"]), ("torchscript", theirs["torchscript"])):
            halves = [frechet.update(frechet.init(rows.shape[1]), half) for half in np.array_split(rows, 2)]
            print(f"FID of one half to the other by {name}: {frechet.frechet_distance(*halves):.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
