"""What data are where a config says nothing, and numbers on which orders, caches and made pictures depend."""

import inspect

import pytest

from diffusion.data import (
    augmentation,
    buckets,
    controls,
    digits,
    gaussian_processes,
    keyed_permutation,
    latent_cache,
    pipeline,
    series_masks,
    shapes,
    sources,
    transforms,
)
from diffusion.data.shapes import arrangements, drawing, motions, scenes, spoilt, templates
from diffusion.data.sources import made_drawings, manifold_points, series, sound_clips

ROWS = {"split": "train", "x": "", "classes": (), "condition": (), "caption": "", "side": 0}
STREAM = ROWS | {"window": 1000, "seed": 0}
VARIED = ROWS | {"varied": ()}
LEVELS = {"mels": 0, "window": 256, "hop": 64, "shaped": False}
DEFAULTS = [
    (augmentation.edm_augmentation, {"probability": 0.12, "mirror": True}),  # Karras et al. 2022, table 6: CIFAR-10
    (buckets.within, {"multiple": 64, "least": 512, "most": 2048, "share": 0.9}),
    (buckets.widest, {"multiple": 64, "least": 256, "most": 1024}),
    (controls.edges, {"low": 100.0, "high": 200.0, "blur": 1.0}),  # the thresholds of the ControlNets' edges
    (controls.sketch, {"blur": 3.0}),
    (controls.downsampled, {"factor": 8}),
    (transforms.crop, {"padding": 4}),
    (series_masks.gaps, {"least": 0.1, "most": 0.7, "longest": 12}),
    (
        gaussian_processes.stationary,
        {
            "channels": 1, "correlation": 0.6, "noise": 0.05, "share": 0.5, "scale": 10.0, "period": 12.0,
            "period_scale": 1.0,
        },
    ),
    (pipeline.batches, {"start": 0, "augment": (), "shuffle": True, "damaged": "stop", "order": 2}),
    (sources.arrays, {"split": "train", "x": "", "classes": (), "condition": ()}),
    (sources.clip_folder, {"split": "train", "rate": 8.0, "stored_rate": 0.0}),
    (sources.clip_shards, {"split": "train", "rate": 8.0}),
    (sources.mixture, {"weights": ()}),
    (sources.tar_stream, STREAM),
    (sources.parquet_stream, STREAM),
    (sources.mesh_clouds, {"split": "train", "points": 128, "draws": 1, "classes": ()}),
    (sources.paced, {"paces": (1, 2), "seed": 0}),
    (sources.painted, {"least": 0.1, "most": 0.6, "seed": 0}),
    (sources.parquet, VARIED),
    (sources.array_records, VARIED),
    (sources.tar_shards, VARIED),
    (sources.huggingface, VARIED),
    (sources.picture_folder, VARIED | {"x": "image"}),
    (sources.class_folders, {"split": "train", "side": 0, "classes": (), "varied": ()}),
    (sources.series_windows, {"split": "train", "stride": 1, "held_out": 0.2, "columns": (), "mean": (), "std": ()}),
    (sources.prose, {"split": "train", "length": 128, "packages": ("numpy", "scipy")}),
    (sources.text_file, {"split": "train", "length": 128, "alphabet": " abcdefghijklmnopqrstuvwxyz"}),
    (sources.wav_folder, {"split": "train"} | LEVELS),
    (sources.tfds, {"folder": "", "side": 0, "varied": ()}),
    (scenes.Shares, {"kinds": (0.5, 0.18, 0.26, 0.06), "styles": (0.8, 0.1, 0.1)}),
    (motions.Setting, {"two": 0.4, "radii": (6.0, 6.6), "tilted": False, "span": 0}),
]  # fmt: skip


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_numbers_on_which_orders_and_made_data_depend():
    """Another number would be other data under the same name, or another order of the same ones."""
    assert (digits.ORDER_KEY, digits.FRACTIONS) == (59, {"train": 0.7, "validation": 0.1, "test": 0.2})
    assert (pipeline.ORDER, pipeline.SORTED, keyed_permutation.ROUNDS) == (2, 2**24, 10)
    assert (latent_cache.FORMAT, latent_cache.PARTS) == (1, {"moments": 2, "mean": 1})
    assert (arrangements.SEED, motions.SEED, sound_clips.SEED) == (2027, 2029, 2029)
    assert (made_drawings.SEED, made_drawings.SPELLING_SEED, made_drawings.SPELLED) == (2028, 2031, (3, 4))
    assert manifold_points.SEEDS == series.SEEDS == {"train": 2026, "test": 2027}
    assert (arrangements.STREAMS, motions.STREAMS["withheld"]) == ({"train": 0, "test": 1}, 2)


def test_numbers_on_which_drawings_depend():
    """Models were trained, and figures measured, on drawings of these sizes, colours and shares."""
    assert shapes.SIZES == {"train": 20_000, "validation": 1000, "test": 2000, "withheld": 1000}
    assert shapes.SEED == 2026 and shapes.TRAIN_SHARES == ((0.34, 0.18, 0.42, 0.06), (0.65, 0.13, 0.22))
    assert drawing.PALETTE == {
        "red": (214, 40, 40), "orange": (240, 125, 20), "yellow": (242, 200, 30), "green": (48, 155, 70),
        "cyan": (30, 185, 210), "blue": (40, 80, 210), "purple": (125, 55, 170), "pink": (240, 110, 175),
    }  # fmt: skip
    assert drawing.PAPERS == ((250, 247, 240), (240, 244, 250), (243, 249, 241), (248, 242, 247))
    assert (drawing.NIGHT, motions.BAR) == ((20, 18, 36), (120, 120, 128))
    assert drawing.RADII == {"small": (6.0, 6.6), "medium": (9.3, 9.9), "large": (13.0, 13.6)}
    assert (drawing.RADIUS_OF_MANY, drawing.RADIUS_OF_TWO, drawing.PLACES) == ((6, 6.6), (8.5, 9.9), (16, 32, 48))
    assert scenes.STATED == {"colour": 0.92, "shape": 0.92, "size": 0.6, "position": 0.7, "relation": 0.75}
    turned = ("diamond", "star", "heart", "cross", "moon", "circle", "square", "triangle")
    assert scenes.WITHHELD == set(zip(("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"), turned))
    assert len(scenes.WORDS) == len(set(scenes.WORDS)) == 40 and scenes.WITHHELD_WORDS < set(scenes.WORDS)
    assert arrangements.SHARES == ((0.3, 0.25, 0.45, 0.0), (0.7, 0.15, 0.15))
    assert (arrangements.OVER, arrangements.GAP, arrangements.SEEN, arrangements.FARTHER) == (0.6, 6, 0.5, 48)
    assert motions.SPEEDS == {"slowly": (12, 18), "quickly": (30, 40)} and motions.STREAMS["test"] == 1
    assert motions.TURNS == {"slowly": (0.15, 0.25), "quickly": (0.5, 0.9)} and motions.FLIGHT == (70, 110)
    assert motions.WITHHELD == {("square", "bounces"), ("star", "moves"), ("heart", "turns"), ("moon", "hides")}
    assert (motions.ROWS, motions.LEAST, motions.CLEAR) == ((18, 46), 8, 0.4)
    assert (spoilt.NUMBER, spoilt.SHARES, spoilt.DEVIATIONS, spoilt.COVERED) == (300, (0.35, 0.65), (1.5, 3), 0.8)
    assert templates.OFFSETS == tuple(x / 2 for x in range(-4, 5)) and (templates.STEP, templates.TURN) == (1.04, 7.5)
