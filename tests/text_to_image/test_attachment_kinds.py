"""Which reader an attachment's folder or file has, and what a job makes of its controls."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.interchange.family import Refusal
from diffusion.published.pipeline_kinds import Attachable
from diffusion.text_to_image import attached, canvas, jobs
from diffusion.text_to_image.picture_controls import Control


@pytest.fixture
def readers(monkeypatch):
    """(what is recognised as what, calls of the readers)."""
    kinds, calls = {}, []
    opened = lambda name: lambda *arguments, **how: calls.append((name, arguments, how)) or name
    redux = Attachable("Redux", opened("redux"))
    monkeypatch.setattr(attached.pipelines, "attachable", lambda path: redux if kinds.get(path) == "redux" else None)
    monkeypatch.setattr(attached.ip_adapter_files, "recognised", lambda path: kinds.get(path) == "ip")
    monkeypatch.setattr(attached.ip_adapter, "opened", opened("ip"))
    return kinds, calls


def test_each_kind_of_folder_has_its_reader(readers, monkeypatch):
    kinds, calls = readers
    kinds |= {"a": "redux", "b": "ip"}
    for path, name in (("a", "redux"), ("b", "ip")):
        assert attached.load(path, "denoiser", "base", dtype="bfloat16") == name
        assert calls[-1] == (name, (path, "denoiser"), {"dtype": "bfloat16"})
    network = types.SimpleNamespace(attachment=lambda params, denoiser, base: (params, denoiser, base))
    asked = []
    monkeypatch.setattr(
        attached.interchange, "load", lambda path, **how: asked.append((path, how)) or (network, "params")
    )
    assert attached.load("c", "denoiser", "base", dtype="bfloat16") == ("params", "denoiser", "base")
    assert asked == [("c", {"dtype": "bfloat16"})]


def test_what_is_no_attachment_or_of_another_base_is_refused_with_its_path(readers, monkeypatch):
    loaded = [types.SimpleNamespace()]
    monkeypatch.setattr(attached.interchange, "load", lambda path, **how: (loaded[0], "params"))
    with pytest.raises(Refusal, match="c holds a SimpleNamespace, which is not an attachment"):
        attached.load("c", "denoiser", "base")

    def refuses(params, denoiser, base):
        raise ValueError("of another width")

    loaded[0] = types.SimpleNamespace(attachment=refuses)
    with pytest.raises(ValueError, match=r"c.*of another width"):
        attached.load("c", "denoiser", "base")


def test_a_job_sees_each_control_with_its_weight_times_kind_and_mask(monkeypatch):
    """By the program that encodes its picture; a kind of a union stands beside what both branches see."""
    encode = lambda vae, attachment, picture: ((attachment, picture.sum()), (attachment, 0.0))
    monkeypatch.setattr(jobs, "program", lambda model, course, name, make: encode)
    mask = np.ones((1, 4, 4), np.float32) / 2
    controls = (
        canvas.OpenedControl("edges", np.full((1, 2, 2, 3), 1.0), Control("edges", None, 0.5, times=(0.2, 0.9)), mask),
        canvas.OpenedControl("union", np.full((1, 2, 2, 3), 2.0), Control("union", None, mode=3), None),
    )
    job = types.SimpleNamespace(controls=controls, course=None)
    first, second = jobs.Job.attached(job, types.SimpleNamespace(params={"vae": None}))
    assert first.attachment == "edges" and first.inputs == (("edges", 12.0), ("edges", 0.0))
    assert first.weight == np.float32(0.5) and second.weight == 1 and second.mask is None
    np.testing.assert_allclose(first.times, [0.2, 0.9], rtol=1e-6)
    np.testing.assert_array_equal(first.mask, mask)
    for branch, whole in zip(second.inputs, (24.0, 0.0)):
        assert branch[0] == ("union", whole)
        np.testing.assert_array_equal(branch[1], jnp.array([3], jnp.int32))
    assert jobs.Job.attached(types.SimpleNamespace(controls=()), None) == ()
