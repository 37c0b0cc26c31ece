"""Metrics of generated samples, one in each file; most are functions of features `[N, D]` in any space."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.metrics import (
        attribute_reader,
        bootstrap,
        bradley_terry,
        caption_retrieval,
        chunks,
        classifier,
        classifier_accuracy,
        clip_score,
        extrapolation,
        features,
        frechet,
        frechet_error,
        image_sets,
        inception,
        inception_score,
        inception_weights,
        kernel_distance,
        manifold,
        memorisation,
        neighbours,
        pairwise,
        permutation,
        preference,
        protocols,
        reconstruction_error,
        references,
        resizing,
        statistics,
        vector_distances,
        voter_agreement,
    )

__all__ = [
    "attribute_reader",
    "bootstrap",
    "bradley_terry",
    "caption_retrieval",
    "chunks",
    "classifier",
    "classifier_accuracy",
    "clip_score",
    "extrapolation",
    "features",
    "frechet",
    "frechet_error",
    "image_sets",
    "inception",
    "inception_score",
    "inception_weights",
    "kernel_distance",
    "manifold",
    "memorisation",
    "neighbours",
    "pairwise",
    "permutation",
    "preference",
    "protocols",
    "reconstruction_error",
    "references",
    "resizing",
    "statistics",
    "vector_distances",
    "voter_agreement",
]

public.declare(__name__)
