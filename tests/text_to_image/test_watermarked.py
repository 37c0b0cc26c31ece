"""A request with a key file starts from marked noise, or marks its pictures; its file says which key file."""

import types
from fractions import Fraction

import jax
import numpy as np
import pytest

from diffusion import watermarks
from diffusion.published.pipeline_kinds import SecondStage
from diffusion.text_to_image import jobs, png, programs
from diffusion.text_to_image.requests import Request
from tests.text_to_image.stand_ins import made_model

VAE = types.SimpleNamespace(factor=2, apply=abs)
MODEL = types.SimpleNamespace(modules={"vae": VAE}, factor=2, channels=4, kind=types.SimpleNamespace(sound=None))


def course(mark):
    trajectory = types.SimpleNamespace(start=3.0)
    return programs.Course((16, 16), trajectory, False, False, 0, (), mark)


@pytest.mark.extended
def test_the_noise_of_a_trajectory_carries_the_watermark(tmp_path):
    mark = watermarks.make(tmp_path / "mark.json", "gaussian_shading", bits=16)
    keys = jax.random.split(jax.random.key(0), 3)
    marked, *rest = programs.begin(MODEL, course(mark), None, keys, None, None)
    plain, *same = programs.begin(MODEL, course(None), None, keys, None, None)
    np.testing.assert_allclose(np.abs(marked), np.abs(plain))
    np.testing.assert_array_equal(jax.random.key_data(rest[0]), jax.random.key_data(same[0]))
    assert (mark.read(np.asarray(marked)).bits == mark.message).all()
    assert mark.read(np.asarray(plain)).p_value.min() > 1e-6


def test_finished_pictures_carry_a_watermark_for_pictures(tmp_path):
    mark = watermarks.make(tmp_path / "mark.json", "spread_spectrum", bits=4, low=2, high=16)
    pictures = np.full((2, 16, 16, 3), 128, np.uint8)
    canvas = types.SimpleNamespace(with_original=lambda pictures: pictures)
    finished = lambda mark: jobs.Job(Request(), canvas, course(mark)).finished(pictures)
    assert (mark.read(finished(mark)).bits == mark.message).all()
    np.testing.assert_array_equal(finished(None), pictures)


def test_a_key_file_is_one_object_and_its_checksum_stands_in_the_picture(tmp_path):
    path = tmp_path / "mark.json"
    mark = watermarks.make(path, "tree_ring")
    assert watermarks.load(path) is watermarks.load(path)  # a program of it is compiled once
    assert mark.identity == watermarks.load(path).identity and len(mark.identity.split()[1]) == 16
    (about,) = png.records(Request(watermark=str(path), steps=2, guidance=1.0, sampler="ddim"), {})
    assert about["files"] == {str(path): png.checksum(str(path))}
    assert png.request({"prompt": "a cat"}, Request()).watermark == ""  # of a file from before
    with pytest.raises(ValueError, match="watermark"):
        Request(watermark=3)


def test_a_watermark_in_the_noise_is_refused_beside_a_part_that_is_kept(tmp_path):
    """The kept part never comes from the marked noise, although sampling starts from noise alone."""
    model = made_model()
    settings = {"image": np.zeros((8, 8, 3), np.uint8), "steps": 2, "guidance": 1.0, "sampler": "ddim"}
    watermarks.make(tmp_path / "noise.json", "gaussian_shading", bits=4)
    watermarks.make(tmp_path / "pictures.json", "spread_spectrum", bits=4, low=2, high=6)
    mask = np.arange(8) < np.full((8, 1), 4)
    for kept in ({"mask": mask}, {"margins": (0, 0, 8, 0)}, {"mask": mask, "kept_noise": "one"}):
        request = lambda mark, kept=kept: Request.make("a", watermark=str(tmp_path / mark), **settings, **kept)
        with pytest.raises(ValueError, match=r"could not be read: .* keeps a part of one"):
            jobs.Job.prepare(model, request("noise.json"))
        assert jobs.Job.prepare(model, request("pictures.json")).course.watermark is not None


def test_a_watermark_in_the_noise_is_refused_before_a_second_stage(tmp_path):
    """A second stage begins at noise of its own, so that nobody finds the first stage's from the picture."""
    one = made_model()
    stage = SecondStage("decoder", "second_scheduler", 2, Fraction(1), 8)
    one.denoiser.channels = 3
    two = one.replaced(kind=one.kind._replace(second_stage=stage))
    watermarks.make(tmp_path / "noise.json", "gaussian_shading", bits=4)
    request = Request.make("a", watermark=str(tmp_path / "noise.json"), steps=2, guidance=1.0, sampler="ddim")
    assert jobs.Job.prepare(one, request).course.watermark is not None
    with pytest.raises(ValueError, match="could not be read: the sampler adds noise of its own"):
        jobs.Job.prepare(two, request)
