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
    sources,
    transforms,
)
from diffusion.data.shapes import arrangements, motions, scenes
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
