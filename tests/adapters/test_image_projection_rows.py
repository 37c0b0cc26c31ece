"""The projection of an IP-Adapter is known by the shapes in its file; every size here is another number."""

import pytest

from diffusion.adapters import image_projection_rows
from diffusion.models.image_projections import FullProjection, GlobalProjection, Resampler
from diffusion.models.interchange.rows import Mismatch
from diffusion.models.joint_image_projections import TimedResampler

OF_RESAMPLER = {"latents": (1, 3, 6), "proj_in.weight": (6, 5), "proj_out.weight": (4, 6)}
OF_RESAMPLER |= {f"layers.{i}.0.{part}": (2 * 64, 6) for i in range(3) for part in ("to_q.weight", "to_kv.weight")}
OF_RESAMPLER |= {f"layers.{i}.1.1.weight": (7 * 6, 6) for i in range(3)}
SIZES = {"tokens": 3, "inner": 6, "depth": 3, "heads": 2, "ratio": 7}
NARROW = {"tokens": 3, "inner": 1, "depth": 1, "heads": 1, "ratio": 7}
OF_NARROW = {"latents": (1, 3, 1), "proj_in.weight": (1, 5), "proj_out.weight": (4, 1)}
OF_NARROW |= {"layers.0.0.to_q.weight": (64, 1), "layers.0.0.to_kv.weight": (2 * 64, 1), "layers.0.1.1.weight": (7, 1)}
FILES = [
    (GlobalProjection(5, 4, 3), {"proj.weight": (12, 5), "proj.bias": (12,), "norm.weight": (4,)}),
    (GlobalProjection(5, 1, 3), {"proj.weight": (3, 5), "proj.bias": (3,), "norm.weight": (1,)}),
    (FullProjection(5, 4), {"proj.0.weight": (8, 5), "proj.2.weight": (4, 8), "proj.3.weight": (4,)}),
    (Resampler(5, 4, **SIZES), OF_RESAMPLER),
    (Resampler(5, 4, **NARROW), OF_NARROW),
    (TimedResampler(5, 4, **SIZES, time_features=9), OF_RESAMPLER | {"time_embedding.linear_1.weight": (6, 9)}),
]


@pytest.mark.parametrize("projection, shapes", FILES, ids=lambda value: type(value).__name__)
def test_sizes_are_those_of_the_tensors(projection, shapes):
    assert image_projection_rows.read(shapes, "a file") == projection


@pytest.mark.parametrize("projection, shapes", FILES, ids=lambda value: type(value).__name__)
def test_the_rows_name_the_tensors_of_a_file(projection, shapes):
    theirs = {row.theirs for row in image_projection_rows.rows(projection)}
    assert shapes.keys() - {"time_embedding.linear_1.weight"} <= theirs
    assert all(name.endswith((".weight", ".bias")) or name == "latents" for name in theirs)
    both = [row.rows for row in image_projection_rows.rows(projection) if row.theirs.endswith("to_kv.weight")]
    side = getattr(projection, "heads", 0) * 64
    assert both == [(0, side), (side, 2 * side)] * (len(both) // 2)  # keys, then values


def test_what_is_no_projection_is_refused_with_what_it_is():
    few = OF_RESAMPLER | {"layers.0.0.to_q.weight": (63, 6)}
    for shapes, message in (
        ({"proj.2.weight": (4, 4)}, "image_proj is a FaceID adapter"),
        ({"perceiver_resampler.latents": (1, 2, 3)}, "image_proj is a FaceID adapter"),
        ({"latents": (1, 3, 6)}, "image_proj is of a structure not known"),
        (few, r"has 63 rows\. Valid: a multiple of 64, the size of a head"),
        (OF_RESAMPLER | {"latents": (3, 6)}, r"latents has the shape \[3, 6\]\. Valid: 3 axes"),
    ):
        with pytest.raises(Mismatch, match=message):
            image_projection_rows.read(shapes, "a file")
