"""Measures an autoencoder by comparing its reconstructions with the original pictures.

PSNR and SSIM compare each picture with its own reconstruction. rFID is the Frechet distance between the two sets in
Inception features under a published protocol; it shows blur and invented texture. The reconstructions are decoded from
the mean of the posterior, and rounded to bytes. Many published figures use draws from the posterior, which differ
little from its mean if its deviation is small.
"""

import hashlib
import json
import time
from typing import NamedTuple

import jax
import numpy as np

from diffusion.arrays import chunks
from diffusion.experiments.evaluation import comparison
from diffusion.experiments.evaluation.figures import HIGHER
from diffusion.experiments.evaluation.image_metrics import called
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.metrics import bootstrap, references
from diffusion.metrics.image_sets import ImageSet, ImageSetError
from diffusion.metrics.reconstruction_error import WINDOW, psnr, ssim
from diffusion.training.runtime import progress

BATCH = 16  # pictures that are decoded at once
UNMEASURED = {"features": {"features": "none: picture by picture", "dimensions": 0}, "protocol": None, "weights": None}


class Reconstructions(NamedTuple):
    """The reconstructions of a set of pictures, which are computed when they are read."""

    images: ImageSet
    errors: dict[str, np.ndarray]  # {"psnr", "ssim"}: the values of the pictures, float64 [N]; NaN until they are read


def reconstruct(autoencoder: autoencoder_folders.Autoencoder, originals: ImageSet) -> Reconstructions:
    """The reconstructions of a set of pictures.

    Args:
        autoencoder: the autoencoder.
        originals: the pictures, uint8 [N, H, W, C], of a size that the autoencoder takes.

    Raises:
        ImageSetError: for pictures of another type.
        ConfigError: for pictures of another size or number of channels.
    """
    name = originals.record["images"]
    if originals.record["dtype"] != "uint8":
        raise ImageSetError(
            f"{name} holds {originals.record['dtype']}, but reconstructions are compared with bytes. Valid: uint8."
        )
    autoencoder_folders.latent(autoencoder, originals.shape)
    figures = {"psnr": jax.jit(psnr)}
    if min(originals.shape[:2]) >= WINDOW:
        figures["ssim"] = jax.jit(ssim)
    program = autoencoder_folders.reconstruction(autoencoder)
    errors = {figure: np.full(originals.count, np.nan) for figure in figures}

    def measured(pictures):
        decoded = program(pictures)
        return decoded, {figure: function(decoded, pictures) for figure, function in figures.items()}

    def read(start, stop):
        pictures = autoencoder_folders.channels(originals.read(start, stop), autoencoder.module.picture_channels)
        decoded, values = chunks.applied(measured, pictures, BATCH)
        for figure in figures:
            errors[figure][start:stop] = values[figure]
        return decoded

    known = json.dumps([originals.fingerprint, autoencoder.record], sort_keys=True)
    record = {
        "images": f"{name} through {autoencoder.path}",
        "kind": "reconstructions",
        "dtype": "uint8",
        "autoencoder": autoencoder.record,
    }
    shape = (*originals.shape[:2], autoencoder.module.picture_channels)
    fingerprint = hashlib.sha256(known.encode()).hexdigest()
    return Reconstructions(ImageSet(originals.count, shape, read, fingerprint, record, originals.stamp), errors)


def run(request: comparison.Request, fresh: bool = False) -> dict:
    """Measures the autoencoder of a request.

    Returns:
        A record in the form of `comparison.run`, with the figures "psnr", "ssim" and "rfid" (or "rfd", in pixels).
        Pictures with a side below 11 pixels have no SSIM. rFID needs a protocol and its network; without them its value
        is None, with the reason under "why".
    """
    began = time.perf_counter()
    autoencoder = autoencoder_folders.load(request.autoencoder)
    reference = references.open_reference(request.reference, request.data_dir, request.size)
    if reference.images is None:
        raise ImageSetError(
            f"--reference={request.reference} holds only statistics, but an autoencoder is measured on pictures. "
            "Valid: a folder of pictures, an .npz file or NAME@SPLIT."
        )
    measures_distance = bool(request.inception) or request.features == "pixels"
    space, description = comparison.space_of(request) if measures_distance else (None, UNMEASURED)
    results = reconstruct(autoencoder, reference.images)
    if space is None:
        record = lambda images: {**images.record, "fingerprint": images.fingerprint, "count": images.count}
        distance = {"rfid": {"value": None, "why": "value not measured: it needs --inception and --protocol"}}
        measured = {"warnings": [], "reference": record(reference.images), "samples": record(results.images)}
    else:
        measured = comparison.measure(
            results.images, reference, space, ("fid",), request.seed, folder=references.cache_folder(), fresh=fresh
        )
        distance = {called(space, "rfid"): measured.pop("figures")[called(space, "fid")]}
    _complete(results)
    errors = {name: {**mean(values), "better": HIGHER} for name, values in results.errors.items()}
    seconds = {**measured.get("seconds", {}), "total": time.perf_counter() - began}
    return {"figures": {**errors, **distance}, **measured, **description, "seconds": seconds}


def mean(values: np.ndarray) -> dict:
    """The mean of a figure of each picture, as `bootstrap.mean`; None with the reason where pictures have no error."""
    figure = bootstrap.mean(values)
    if not (exact := int(np.isinf(values).sum())):
        return figure
    why = f"value not finite: {exact:,} of {len(values):,} pictures equal their originals"
    return {**figure, "value": None, "why": why}


def _complete(results: Reconstructions) -> None:
    """Measures the pictures that were not read because their features were in the cache."""
    count = results.images.count
    with progress.bar("reconstructing", count, "pictures") as advance:
        for first in range(0, count, BATCH):
            stop = min(first + BATCH, count)
            if np.isnan(results.errors["psnr"][first:stop]).any():
                results.images.read(first, stop)
            advance(stop)
