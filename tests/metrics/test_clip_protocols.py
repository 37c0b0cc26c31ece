"""Frechet distances of clips: what the networks see, which files are refused, and a record from films."""

import json

import jax
import numpy as np
import pytest
import scipy.linalg
from PIL import Image

from diffusion.experiments.evaluation import comparison, records
from diffusion.metrics import clip_protocols, clip_sets
from diffusion.metrics.inception_weights import WeightsError
from diffusion.models import interchange
from diffusion.models.image_encoders.videomae import VideoMAE
from diffusion.recipe import ConfigError

NETWORK = VideoMAE(width=8, depth=1, heads=2, hidden=8, size=8, patch=4, frames=4, last_epsilon=1e-5)
TINY = clip_protocols.PROTOCOLS["cd-fvd"]._replace(name="tiny", network="a tiny VideoMAE", frames=4, size=8)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), np.zeros((1, 4, 8, 8, 3), np.float32))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.3, shapes)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("videomae") / "tiny"
    interchange.save(folder, NETWORK, params)
    return folder


@pytest.mark.extended
def test_a_record_of_clips_is_the_distance_of_their_features_and_is_measured_again(
    tmp_path, monkeypatch, encoder, params
):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(clip_protocols.PROTOCOLS, "tiny", TINY)
    rng = np.random.default_rng(1)
    made = rng.integers(0, 256, (20, 4, 8, 8, 3), np.uint8)
    real = rng.integers(0, 200, (15, 4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "made.npz", made)
    for i, clip in enumerate(real):
        (tmp_path / "real" / f"{i:02}").mkdir(parents=True)
        for j, frame in enumerate(clip):
            Image.fromarray(frame).save(tmp_path / "real" / f"{i:02}" / f"{j}.png")
    request = comparison.Request(
        f"{tmp_path}/made.npz", f"{tmp_path}/real", "tiny", encoder=str(encoder), metrics=("fid",)
    )
    record = records.measure(request)
    apply = jax.jit(lambda x: NETWORK.apply({"params": params}, x).pooled)
    x, y = (np.asarray(apply(clips.astype(np.float32) / 255), np.float64) for clips in (made, real))
    root = np.real(scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)))
    distance = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    figure = record["figures"]["cd_fvd"]
    assert figure["value"] == pytest.approx(distance, rel=1e-3)
    assert (figure["samples"], figure["reference"], figure["standard_error"] > 0) == (20, 15, True)
    assert record["protocol"]["frames"] == 4 and record["weights"]["network"].startswith("VideoMAE of width 8")
    assert "published figures are of 2,048" in record["warnings"][0]
    records.write(tmp_path / "result.json", record)
    assert not records.verify(tmp_path / "result.json")
    with pytest.raises(ConfigError, match=r"--encoder is missing: .* a tiny VideoMAE"):
        comparison.space_of(request._replace(encoder=""))


def test_networks_see_bytes_in_their_own_range():
    clips = np.zeros((1, 16, 5, 4, 3), np.uint8)
    for name, protocol in clip_protocols.PROTOCOLS.items():
        small = protocol._replace(size=6)
        ends = [clip_protocols.prepared(small, clips + np.uint8(byte)) for byte in (0, 255)]
        assert ends[0].shape == (1, 16, 6, 6, 3) and ends[0].dtype == np.float32
        np.testing.assert_allclose([each.mean() for each in ends], (0, 1) if name == "cd-fvd" else (-1, 1), atol=1e-6)
        assert json.loads(json.dumps(clip_protocols.described(protocol)))["name"] == name
    with pytest.raises(ValueError, match=r"\[1, 15, 5, 4, 3\]. Valid: \[B, 16"):
        clip_protocols.prepared(clip_protocols.PROTOCOLS["fvd"], clips[:, :15])


def test_a_grey_clip_has_three_equal_channels():
    clips = np.random.default_rng(0).integers(0, 256, (1, 16, 5, 4, 1)).astype(np.uint8)
    small = clip_protocols.PROTOCOLS["fvd"]._replace(size=6)
    prepared = clip_protocols.prepared(small, clips)
    assert prepared.shape == (1, 16, 6, 6, 3)
    np.testing.assert_array_equal(prepared, clip_protocols.prepared(small, np.concatenate([clips] * 3, axis=4)))


def test_frames_stay_in_their_clips():
    clips = np.arange(32, dtype=np.uint8).reshape(2, 16, 1, 1, 1) * np.ones((5, 4, 3), np.uint8)
    found = clip_protocols.prepared(clip_protocols.PROTOCOLS["cd-fvd"]._replace(size=6), clips)
    np.testing.assert_allclose(found.mean((2, 3, 4)), np.arange(32).reshape(2, 16) / 255, atol=1e-6)


@pytest.mark.parametrize(
    "name, frechet, number",
    [("fvd", "fvd", 0), ("stylegan-v", "fvd", 2048), ("stylegan-v-128", "fvd", 2048), ("cd-fvd", "cd_fvd", 2048)],
)
def test_clips_are_compared_in_the_features_of_a_network_and_a_preparation(name, frechet, number):
    protocol = clip_protocols.PROTOCOLS[name]
    assert (protocol.frames, protocol.size) == (16, 224)
    assert protocol.every == (8 if name.endswith("128") else 1)  # fvd2048_128f_subsample8f
    assert protocol.resize == ("bilinear_tf1" if name == "fvd" else "bilinear_torch")
    assert protocol.scaling == ("b / 255" if name == "cd-fvd" else "2 b / 255 - 1")
    space = clip_protocols.space(protocol, clip_protocols.ClipNetwork("a network", None, 7, "0a"))
    how = {name: getattr(protocol, name) for name in ("frames", "every", "resize", "scaling", "size")}
    assert space.identity == {"features": "a network", "weights": "0a", **how}
    assert (space.frechet, space.usual, space.dimensions, space.rounding) == (frechet, number, 7, protocol.rounding)


def test_a_file_of_the_authors_has_their_epsilon_in_all_norms(monkeypatch, tmp_path):
    """1e-6: partial(nn.LayerNorm, eps=1e-6) of VideoMAE V2's code, the last norm too; a folder says its own."""
    seen = []
    monkeypatch.setattr(VideoMAE, "clone", lambda self, **changes: seen.append(changes) or self)
    monkeypatch.setattr(clip_protocols.interchange, "load", lambda path, family="": (NETWORK, {"a": np.zeros(2)}))
    assert clip_protocols._videomae(tmp_path / "authors.pt").dimensions == 8
    assert seen == [{"epsilon": 1e-6, "last_epsilon": 1e-6}]
    clip_protocols._videomae(tmp_path)
    assert len(seen) == 1


def test_a_network_of_other_clips_is_refused(encoder, tmp_path):
    with pytest.raises(WeightsError, match=r"the clips of cd-fvd: this encoder takes floats \[B, 4, 8, 8, 3"):
        clip_protocols.load(clip_protocols.PROTOCOLS["cd-fvd"], encoder)
    with pytest.raises(WeightsError, match="There is no file of I3D weights"):
        clip_protocols.load(clip_protocols.PROTOCOLS["fvd"], tmp_path / "none.safetensors")


def test_a_source_of_clips_is_opened_by_its_entry():
    spec = '{"name": "moving_drawings", "frames": 16, "side": 8, "number": 3}@test'
    found = comparison.opened(spec, comparison.Request(protocol="fvd"))
    assert (found.count, found.shape) == (3, (16, 8, 8, 3))
    assert found.read(1, 3).shape == (2, 16, 8, 8, 3)
    same = clip_sets.from_array(found.read(0, 3), 16)
    np.testing.assert_array_equal(same.read(2, 3), found.read(2, 3))
