"""Metrics of generated samples, one in each file; most are functions of features `[N, D]` in any space."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.metrics import (
        attribute_reader as attribute_reader,
        attribution as attribution,
        backbone_geometry as backbone_geometry,
        bootstrap as bootstrap,
        bradley_terry as bradley_terry,
        caption_retrieval as caption_retrieval,
        classifier as classifier,
        classifier_accuracy as classifier_accuracy,
        clip_protocols as clip_protocols,
        clip_score as clip_score,
        clip_sets as clip_sets,
        credible_intervals as credible_intervals,
        crps as crps,
        detection as detection,
        encoder_protocols as encoder_protocols,
        extrapolation as extrapolation,
        features as features,
        frechet as frechet,
        frechet_error as frechet_error,
        i3d as i3d,
        image_sets as image_sets,
        inception as inception,
        inception_score as inception_score,
        inception_weights as inception_weights,
        kernel_distance as kernel_distance,
        manifold as manifold,
        membership as membership,
        memorisation as memorisation,
        mind as mind,
        neighbours as neighbours,
        ngrams as ngrams,
        pairwise as pairwise,
        permutation as permutation,
        picture_scores as picture_scores,
        point_clouds as point_clouds,
        preference as preference,
        prompt_following as prompt_following,
        protocols as protocols,
        reconstruction_error as reconstruction_error,
        references as references,
        representation_ratio as representation_ratio,
        resizing as resizing,
        statistics as statistics,
        vbench as vbench,
        vector_distances as vector_distances,
        voter_agreement as voter_agreement,
        vqa_score as vqa_score,
    )

public.declare(__name__, elsewhere={"chunks": "diffusion.arrays"})
