"""The defaults of metrics are those of published figures, written down from the papers and their authors' code.

A seed stands there too: the same files give the same figure in every version.
"""

import inspect
import operator

import numpy as np
import pytest

from diffusion.metrics import (
    attribute_reader,
    attribution,
    backbone_geometry,
    bradley_terry,
    caption_retrieval,
    classifier,
    clip_protocols,
    clip_score,
    clip_sets,
    crps,
    detection,
    encoder_protocols,
    extrapolation,
    i3d,
    inception,
    inception_score,
    inception_weights,
    kernel_distance,
    membership,
    mind,
    neighbours,
    permutation,
    picture_scores,
    reconstruction_error,
    references,
    representation_ratio,
    vbench,
    vector_distances,
)
from diffusion.metrics.prompt_following import geneval, t2i_compbench, t2i_compbench_plus

SETS = {"every": 1, "seed": 0}
DEFAULTS = [
    (attribute_reader.train, {"steps": 3000, "batch_size": 64, "seed": 0}),
    (attribution.trak, {"damping": 1e-3}),
    (bradley_terry.bradley_terry, {"prior": 0.5}),  # Haldane 1956
    (caption_retrieval.train, {"batch_size": 128, "seed": 0}),
    (caption_retrieval.retrieved, {"among": 50, "seed": 0}),
    (classifier.train, {"seed": 0, "steps": 600}),
    (classifier.cached, {"seed": 0}),
    (clip_score.clip_scores, {"weight": 100.0}),
    (clip_sets.open_set, SETS | {"side": 0}),
    (clip_sets.from_array, SETS),
    (clip_sets.from_records, SETS),
    (crps.quantile_form, {"levels": tuple(k / 20 for k in range(1, 20))}),  # Tashiro et al. 2021, appendix D
    (crps.quantile_sum, {"levels": tuple(k / 20 for k in range(1, 20))}),
    (detection.auroc, {"level": 0.95}),
    (extrapolation.extrapolate, {"seed": 0}),
    (inception_score.inception_score, {"seed": 0}),
    (kernel_distance.kid, {"seed": 0}),
    (membership.loss_scores, {"draws": 8}),
    (membership.inversion_scores, {"steps": 10}),  # Duan et al. 2023: t = 100 in steps of 10
    (mind.mind, {"directions": 1000, "seed": 0}),  # Berthet et al. 2026
    (permutation.p_value, {"paired": False}),
    (picture_scores.Scorer, {"compiled": True}),
    (references.Space, {"dimensions": 0, "neighbours": 3, "overlap_rows": 0, "usual": 0, "equal_rows": True}),
    (vector_distances.directions, {"seed": 0}),
    (vbench.Dimension, {"least": 0.0, "most": 1.0, "weight": 1.0, "semantic": False}),
    (geneval.Clause, {"colour": "", "relation": "", "target": 0}),
    # Ghosh et al. 2023, the authors' evaluate_images.py
    (geneval.Rules, {"threshold": 0.3, "counting_threshold": 0.9, "most": 16, "overlap": 1.0, "margin": 0.1}),
    (geneval.relations, {"margin": 0.1}),
    (t2i_compbench.objects_of, {"is_complex": False}),
]


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


RECIPE = ("DIM", "STEPS", "BATCH", "LEARNING_RATE", "WEIGHT_DECAY", "DROPOUT", "LABEL_SMOOTHING")
CONSTANTS = [
    # Labesse et al. 1997, P-SEA: Angstrom from CA to CA, degrees, and residues of a run
    (
        backbone_geometry.RANGES[backbone_geometry.HELIX],
        {"d3": (5.3, 0.5), "d4": (6.4, 0.6), "angle": (89, 12), "dihedral": (50, 20)},
    ),
    (
        backbone_geometry.RANGES[backbone_geometry.STRAND],
        {"d2": (6.7, 0.6), "d3": (9.9, 0.9), "d4": (12.4, 1.1), "angle": (124, 14), "dihedral": (-170, 45)},
    ),
    (backbone_geometry.SHORTEST, {backbone_geometry.HELIX: 5, backbone_geometry.STRAND: 3}),
    (backbone_geometry.BREAK, 2.5),
    (bradley_terry.ELO, 400 / np.log(10)),
    (clip_protocols.PUBLISHED, 2048),  # Unterthiner et al. 2018; Skorokhodov et al. 2022
    (clip_protocols.AUTHORS, 1e-6),
    (extrapolation.POINTS, 15),  # Chong and Forsyth 2020, section 4
    (extrapolation.SMALLEST, 5000),
    (i3d.CLASSES, 400),
    (i3d.EPSILON, 1e-3),
    (inception.SIZE, 299),
    (inception.SMALLEST, 75),
    (inception.EPSILON, 1e-3),
    (inception_weights.CLASSES, 1008),
    (inception_weights.FEATURES, 2048),
    (neighbours.QUANTILES, (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)),
    (reconstruction_error.PEAK, 255.0),
    # Wang et al. 2004: K1, K2, the window and its deviation
    ((reconstruction_error.K1, reconstruction_error.K2), (0.01, 0.03)),
    ((reconstruction_error.WINDOW, reconstruction_error.DEVIATION), (11, 1.5)),
    (
        representation_ratio.FLOORS,
        {"adm": 1.68, "fdr-convnext": 56.87, "dinov2": 14.19, "fdr-mae": 0.04, "siglip": 0.60, "clip": 5.60},
    ),
    # Huang et al. 2024, VBench: dynamic_degree.py, human_action.py, and the table of static_statistics
    ((vbench.SHARE, vbench.SURE, vbench.APART), (0.05, 0.85, 0.1)),
    (
        {name: (d.least, d.most, d.weight) for name, d in vbench.DIMENSIONS.items() if not d.semantic},
        {
            "subject consistency": (0.1462, 1.0, 1.0),
            "background consistency": (0.2615, 1.0, 1.0),
            "temporal flickering": (0.6293, 1.0, 1.0),
            "motion smoothness": (0.706, 0.9975, 1.0),
            "dynamic degree": (0.0, 1.0, 0.5),
            "aesthetic quality": (0.0, 1.0, 1.0),
            "imaging quality": (0.0, 1.0, 1.0),
        },
    ),
    (
        {name: (d.least, d.most, d.weight) for name, d in vbench.DIMENSIONS.items() if d.semantic},
        {
            **dict.fromkeys(
                ("object class", "multiple objects", "human action", "color", "spatial relationship"), (0.0, 1.0, 1.0)
            ),
            "scene": (0.0, 0.8222, 1.0),
            "appearance style": (0.0009, 0.2855, 1.0),
            "temporal style": (0.0, 0.364, 1.0),
            "overall consistency": (0.0, 0.364, 1.0),
        },
    ),
    # Huang et al. 2023 and 2025, T2I-CompBench: 2D_spatial_eval.py, 3D_spatial_eval.py and numeracy_eval.py
    ((t2i_compbench.PHRASES, t2i_compbench.OVERLAP, t2i_compbench.DISTANCE), (8, 0.1, 150.0)),
    ((t2i_compbench_plus.DEPTH_OVERLAP, t2i_compbench_plus.SAME), (0.5, 0.9)),
    (
        t2i_compbench_plus.NUMBERS,
        {"a": 1, "an": 1}
        | {word: n for n, word in enumerate("one two three four five six seven eight".split(), start=1)},
    ),
    (geneval.GREY, 0x99),
    # The recipes of our own networks of features, which the stated figures are from
    ([getattr(classifier, name) for name in RECIPE], [64, 600, 128, 2e-3, 1e-2, 0.3, 0.05]),
    ((attribute_reader.PATCH, attribute_reader.WIDTHS, attribute_reader.DIM), (4, (48, 64, 96), 128)),
    ((attribute_reader.LEARNING_RATE, attribute_reader.WEIGHT_DECAY), (2e-3, 1e-2)),
    ((caption_retrieval.DIM, caption_retrieval.SHARPNESS), (64, 16.0)),
]


@pytest.mark.parametrize("found, expected", CONSTANTS, ids=range(len(CONSTANTS)))
def test_constants_of_protocols(found, expected):
    assert found == expected


PILLOW, FLOATS = "Pillow's bicubic, bytes", "bicubic, antialiased, floats"
SQUARE = "centre square, Pillow's bicubic, bytes"
OF_ENCODERS = {  # features, side of a picture, how it comes to that side and to bytes, k, rows of k, reports
    # Stein et al. 2023 and their dgm-eval; Karras et al. 2024, EDM2; Jayasumana et al. 2024, CMMD; Yang et al. 2026
    "dgm-eval": (1024, 224, PILLOW, "round(y * 255)", 5, 10_000, ("fid", "kid", "pr", "dc"), "fd_dinov2"),
    "edm2-dinov2": (1024, 224, FLOATS, "clip(x * 127.5 + 128)", 3, 0, ("fid",), "fd_dinov2"),
    "cmmd": (768, 336, SQUARE, "round(y * 255)", 3, 0, ("cmmd",), ""),
    "cmmd-siglip2": (1152, 384, SQUARE, "round(y * 255)", 3, 0, ("cmmd",), ""),
    "fdr-convnext": (1024, 224, FLOATS, "round(y * 255)", 3, 0, ("fid",), ""),
    "fdr-mae": (1024, 224, FLOATS, "round(y * 255)", 3, 0, ("fid",), ""),
}
SIGNED = "2 b / 255 - 1"
OF_CLIPS = {  # frames, every, side, resize, scaling, figure, clips
    # Unterthiner et al. 2018; Skorokhodov et al. 2022, StyleGAN-V; Ge et al. 2024, "On the Content Bias"
    "fvd": (16, 1, 224, "bilinear_tf1", SIGNED, "fvd", 0),
    "stylegan-v": (16, 1, 224, "bilinear_torch", SIGNED, "fvd", 2048),
    "stylegan-v-128": (16, 8, 224, "bilinear_torch", SIGNED, "fvd", 2048),
    "cd-fvd": (16, 1, 224, "bilinear_torch", "b / 255", "cd_fvd", 2048),
}
OF_PROMPTS = {  # family, tokens of a prompt, figures
    "clip": ("CLIPModel", 0, {"clip_score": "CLIP score", "score": "scaled cosine"}),
    "pickscore": ("CLIPModel", 77, {"score": "PickScore"}),
    "hpsv2": ("CLIPModel", 77, {"score": "HPS"}),
    "hpsv2-plain": ("CLIPModel", 77, {"score": "HPS"}),
    "siglip": ("SiglipModel", 0, {"score": "probability", "cosine": "cosine"}),
    "imagereward": ("ImageReward", 35, {"score": "ImageReward"}),
}


def test_the_protocols_are_those_of_the_papers():
    fields = operator.attrgetter(
        "dimensions", "size", "resize", "rounding", "neighbours", "overlap_rows", "reports", "edm2"
    )
    assert {name: fields(protocol) for name, protocol in encoder_protocols.PROTOCOLS.items()} == OF_ENCODERS
    fields = operator.attrgetter("frames", "every", "size", "resize", "scaling", "frechet", "clips")
    assert {name: fields(protocol) for name, protocol in clip_protocols.PROTOCOLS.items()} == OF_CLIPS
    fields = operator.attrgetter("family", "length", "figures")
    assert {name: fields(protocol) for name, protocol in picture_scores.PROTOCOLS.items()} == OF_PROMPTS
    for table in (encoder_protocols.PROTOCOLS, clip_protocols.PROTOCOLS):
        assert all(name == protocol.name and protocol.split == "train" for name, protocol in table.items())
        assert all(protocol.notes and protocol.source for protocol in table.values())
