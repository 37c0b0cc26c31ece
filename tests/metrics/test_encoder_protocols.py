"""Distances in an encoder's features: which network, which pictures it sees, what its files hold, and the command."""

import json
import pickle

import jax
import numpy as np
import pytest
import scipy.linalg
from PIL import Image
from safetensors.numpy import load_file, save_file

from diffusion.experiments.evaluation import comparison, records
from diffusion.metrics import (
    encoder_protocols,
    frechet,
    image_sets,
    kernel_distance,
    manifold,
    mind,
    references,
    statistics,
)
from diffusion.metrics.inception_weights import WeightsError
from diffusion.metrics.statistics import StatisticsError
from diffusion.models import interchange
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.recipe import ConfigError

NETWORK = DINOv2(width=32, depth=2, heads=4, hidden=64, size=28, patch=7, offset=0.1)
TINY = encoder_protocols.PROTOCOLS["dgm-eval"]._replace(
    name="tiny", network="a tiny DINOv2", module=lambda: NETWORK, dimensions=32, size=21, overlap_rows=45
)


def made(module, seed=0):
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 28, 28, 3), np.float32))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.3, shapes)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    interchange.save(folder, NETWORK, made(NETWORK))
    return folder


@pytest.fixture(scope="module")
def space(encoder):
    """The features, of which the tests share the compiled program."""
    return encoder_protocols.space(encoder_protocols.load(TINY, encoder))


def against(folder, name, space):
    """The distance of a.npz to a reference."""
    reference = references.open_reference(str(folder / name))
    measured = comparison.measure(image_sets.open_set(str(folder / "a.npz")), reference, space, ("fid",))
    return measured["figures"]["fd"]["value"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(encoder_protocols.PROTOCOLS, "tiny", TINY)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, top, (50, 24, 20, 3), dtype=np.uint8) for name, top in (("a", 256), ("b", 200))}
    for name, array in images.items():
        np.savez(tmp_path / f"{name}.npz", array)
    return tmp_path, images


@pytest.mark.extended
@pytest.mark.parametrize("name", encoder_protocols.PROTOCOLS)
def test_a_protocol_is_of_a_network_with_its_features(name):
    protocol = encoder_protocols.PROTOCOLS[name]
    module = protocol.module()
    family = interchange.FAMILIES[protocol.family]
    assert family.build(family.describe(module)) == (module.clone(offset=0.0) if hasattr(module, "offset") else module)
    image = jax.ShapeDtypeStruct((2, protocol.size, protocol.size, 3), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    found = jax.eval_shape(lambda params, x: protocol.features(module, params, x), params, image)
    assert found.shape == (2, protocol.dimensions)
    assert json.loads(json.dumps(encoder_protocols.described(protocol)))["name"] == name


PILLOW, FLOATS = "Pillow's bicubic, bytes", "bicubic, antialiased, floats"


@pytest.mark.parametrize(
    "name, size, resize, rounding, reports, neighbours, rows, edm2",
    [  # dgm-eval: its README; edm2: calculate_metrics.py; cmmd: embedding.py; FDr: eval_all_fds.py
        ("dgm-eval", 224, PILLOW, "round(y * 255)", ("fid", "kid", "pr", "dc"), 5, 10_000, "fd_dinov2"),
        ("edm2-dinov2", 224, FLOATS, "clip(x * 127.5 + 128)", ("fid",), 3, 0, "fd_dinov2"),
        ("cmmd", 336, f"centre square, {PILLOW}", "round(y * 255)", ("cmmd",), 3, 0, ""),
        ("cmmd-siglip2", 384, f"centre square, {PILLOW}", "round(y * 255)", ("cmmd",), 3, 0, ""),
        ("fdr-convnext", 224, FLOATS, "round(y * 255)", ("fid",), 3, 0, ""),
        ("fdr-mae", 224, FLOATS, "round(y * 255)", ("fid",), 3, 0, ""),
    ],
)
def test_a_protocol_measures_as_its_authors_do(name, size, resize, rounding, reports, neighbours, rows, edm2):
    protocol = encoder_protocols.PROTOCOLS[name]
    assert (protocol.size, protocol.resize, protocol.rounding, protocol.reports) == (size, resize, rounding, reports)
    assert (protocol.neighbours, protocol.overlap_rows, protocol.edm2) == (neighbours, rows, edm2)


def test_pictures_are_prepared_as_by_pillow():
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(image[0])
    dgm = encoder_protocols.prepared(encoder_protocols.PROTOCOLS["dgm-eval"], image)
    whole = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(dgm[0], whole / 127.5 - 1, atol=1e-6)
    cmmd = encoder_protocols.prepared(encoder_protocols.PROTOCOLS["cmmd"], image)
    square = np.asarray(picture.crop((0, 5, 30, 35)).resize((336, 336), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(cmmd[0], square / 127.5 - 1, atol=1e-6)
    edm2 = encoder_protocols.prepared(encoder_protocols.PROTOCOLS["edm2-dinov2"], image)
    channel = Image.fromarray(image[0, :, :, 1].astype(np.float32)).resize((224, 224), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(edm2[0, :, :, 1], np.asarray(channel) / 127.5 - 1, atol=1e-5)
    grey = encoder_protocols.prepared(encoder_protocols.PROTOCOLS["dgm-eval"], image[..., :1])
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


@pytest.mark.parametrize("protocol", encoder_protocols.PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_pictures_are_compared_in_the_features_of_a_network_and_a_preparation(protocol):
    space = encoder_protocols.space(encoder_protocols.Encoder(protocol, NETWORK, {}, "0a"))
    how = {"resize": protocol.resize, "size": protocol.size}
    assert space.identity == {"features": protocol.network, "weights": "0a", **how}
    assert (space.rounding, space.dimensions, space.edm2) == (protocol.rounding, protocol.dimensions, protocol.edm2)
    rules = (5, 10_000) if protocol.name == "dgm-eval" else (3, 0)  # Stein et al. 2023, appendix; the others say none
    assert (space.neighbours, space.overlap_rows) == rules


@pytest.mark.parametrize("field, other", [("num_attention_heads", 8), ("layer_norm_eps", 1e-5)])
def test_a_config_of_another_network_of_the_same_shapes_is_named_by_its_field(field, other):
    family = interchange.FAMILIES["Dinov2Model"]
    config = family.describe(NETWORK)
    assert encoder_protocols._other_config(family, NETWORK, config) == ""
    said = f"its config.json has {field} = {other!r}, not {config[field]!r}"
    assert encoder_protocols._other_config(family, NETWORK, {**config, field: other}) == said


@pytest.mark.extended
def test_figures_are_those_of_the_networks_features(files, encoder):
    folder, images = files
    metrics = ("fid", "kid", "pr", "dc", "cmmd", "mind")
    request = comparison.Request(f"{folder}/a.npz", f"{folder}/b.npz", "tiny", encoder=str(encoder), metrics=metrics)
    record = records.measure(request)
    figures = record["figures"]
    params = made(NETWORK)
    resized = {
        name: np.stack([np.asarray(Image.fromarray(i).resize((21, 21), Image.Resampling.BICUBIC)) for i in array])
        for name, array in images.items()
    }
    apply = jax.jit(lambda x: TINY.features(NETWORK, params, x))
    x, y = (np.asarray(apply(np.float32(resized[name]) / 127.5 - 1), np.float64) for name in "ab")
    root = np.real(scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)))
    distance = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert figures["fd"]["value"] == pytest.approx(distance, rel=1e-3)
    assert figures["fd"]["space"] == "a tiny DINOv2"
    assert figures["kd"]["value"] == pytest.approx(kernel_distance.mmd2(kernel_distance.cubic, x, y).value, rel=1e-3)
    assert figures["cmmd"]["value"] == pytest.approx(kernel_distance.cmmd(x, y).value, rel=1e-3)
    assert figures["mind"]["value"] == pytest.approx(mind.mind(x, y).value, rel=1e-3)
    assert (figures["precision"]["k"], figures["precision"]["samples"]) == (5, 45)
    drawn = np.random.default_rng(0)
    x, y = (rows[np.sort(drawn.permutation(50)[:45])] for rows in (x, y))
    overlap = manifold.overlap(x, y, manifold_k=5)
    for name in ("precision", "recall", "density", "coverage"):
        assert figures[name]["value"] == pytest.approx(getattr(overlap, name), abs=0.03)
    assert record["protocol"]["name"] == "tiny" and record["weights"]["network"] == "a tiny DINOv2"
    records.write(folder / "result.json", record)
    assert not records.verify(folder / "result.json")


@pytest.mark.extended
def test_another_network_is_refused_by_the_first_tensor_that_differs(files, encoder, tmp_path):
    wider = NETWORK.clone(hidden=96)
    interchange.save(tmp_path / "wider", wider, made(wider))
    with pytest.raises(WeightsError, match=r"a tiny DINOv2: encoder.layer.0.mlp.fc1.weight has the shape \[96, 32\]"):
        encoder_protocols.load(TINY, tmp_path / "wider")
    registers = NETWORK.clone(registers=4)
    interchange.save(tmp_path / "registers", registers, made(registers))
    with pytest.raises(WeightsError, match=r"it has no embeddings.register_tokens, which the file has"):
        encoder_protocols.load(TINY, tmp_path / "registers")
    tensors = load_file(encoder / "model.safetensors")
    del tensors["layernorm.bias"]
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match=r"layernorm.bias \[32\] is missing"):
        encoder_protocols.load(TINY, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        encoder_protocols.load(TINY, tmp_path / "none")
    # The same shapes, and another network by its config.
    config = json.loads((encoder / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes())
    (other / "config.json").write_text(json.dumps({**config, "num_attention_heads": 8}))
    with pytest.raises(WeightsError, match="num_attention_heads = 8, not 4"):
        encoder_protocols.load(TINY, other)


def test_a_single_file_holds_the_network_of_its_folder(encoder):
    one, two = (encoder_protocols.load(TINY, path) for path in (encoder, encoder / "model.safetensors"))
    assert one.digest == two.digest


@pytest.mark.extended
def test_statistics_for_other_programs_and_of_other_programs(files, encoder, space):
    folder, _ = files
    request = comparison.Request(reference=f"{folder}/b.npz", protocol="tiny", encoder=str(encoder))
    made_here = comparison.make_reference(request, folder / "ours.npz")
    with np.load(folder / "ours.npz") as arrays:  # NumPy's default refuses pickles
        mean, covariance, rows = arrays["mu"], arrays["sigma"], arrays["reps"]
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(rows.T), rtol=1e-4, atol=1e-6)
    assert made_here.count == 50
    measured = lambda name: against(folder, name, space)
    expected = measured("b.npz")
    assert measured("ours.npz") == pytest.approx(expected, rel=1e-6)
    # dgm-eval keeps a pickle of its settings beside the features.
    np.savez(folder / "dgm.npz", model="dinov2", reps=rows.astype(np.float64), hparams=np.array({"nimages": 50}))
    assert measured("dgm.npz") == pytest.approx(expected, rel=1e-6)
    np.savez(folder / "edm.npz", mu=mean, sigma=covariance)
    assert measured("edm.npz") == pytest.approx(expected, rel=1e-6)
    # EDM2's calculate_metrics.py pickles {"num_images", "fid": {"mu", "sigma"}, "fd_dinov2": {"mu", "sigma"}}.
    others = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    edm2 = {"num_images": 50, "fid": others, "fd_dinov2": {"mu": mean, "sigma": covariance}}
    (folder / "edm2.pkl").write_bytes(pickle.dumps(edm2))
    assert measured("edm2.pkl") == pytest.approx(expected, rel=1e-6)
    comparison.make_reference(request, folder / "ours.pkl")
    theirs = pickle.loads((folder / "ours.pkl").read_bytes())
    assert theirs["num_images"] == 50 and set(theirs) == {"num_images", "fd_dinov2"}
    np.testing.assert_allclose(theirs["fd_dinov2"]["sigma"], covariance, rtol=1e-6)
    assert measured("ours.pkl") == pytest.approx(expected, rel=1e-6)
    pixels = comparison.Request(reference=f"{folder}/b.npz", features="pixels")
    with pytest.raises(ConfigError, match="EDM2's tools know no distance in the features of pixels"):
        comparison.make_reference(pixels, folder / "pixels.pkl")


@pytest.mark.parametrize("number", [{"num_images": 5}, {}])
def test_a_covariance_of_edm2_is_that_of_its_images(number, tmp_path):
    """Exactly, whether the file has the number of images or not."""
    sigma = np.array([[2.0, 0.5], [0.5, 1.0]])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({**number, "fid": {"mu": np.ones(2), "sigma": sigma}}))
    read = statistics.read(tmp_path / "a.pkl")
    assert read.count == number.get("num_images") and read.moments["2"].mean.tolist() == [1, 1]
    np.testing.assert_allclose(frechet.covariance(read.moments["2"]), sigma, rtol=1e-12)


@pytest.mark.parametrize(
    "table, message",
    [({"num_images": 5}, "statistics; EDM2 names"), ({"fid": {"mu": np.zeros(3)}}, "fid.* is not a table"),
     ({"num_images": "5", "fid": {}}, "num_images = '5'"),
     ({"fid": {"mu": np.zeros(3), "sigma": np.eye(2)}}, "fid: the mean has the shape"),
     ({name: {"mu": np.zeros(3), "sigma": np.eye(3)} for name in ("fid", "fd")}, "both have 3 dimensions"),
     ({"fid": {"mu": np.zeros(3), "sigma": -np.eye(3)}}, "is not symmetric,.*negative diagonal")],
)  # fmt: skip
def test_pickles_that_hold_no_statistics_are_refused(tmp_path, table, message):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(table))
    with pytest.raises(StatisticsError, match=message):
        statistics.read(tmp_path / "a.pkl")


@pytest.mark.extended
def test_statistics_of_another_space_are_refused(files, space):
    folder, _ = files
    np.savez(folder / "inception.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(StatisticsError, match=r"2,048 features .* the 32 features of a tiny DINOv2"):
        against(folder, "inception.npz", space)
    pixels = comparison.Request(reference=f"{folder}/b.npz", features="pixels")
    comparison.make_reference(pixels, folder / "pixels.safetensors")
    with pytest.raises(StatisticsError, match=r"'pixels, flattened', but needed with 'a tiny DINOv2'\. Choose"):
        against(folder, "pixels.safetensors", space)
    inception = comparison.Request(reference=f"{folder}/b.npz", features="pixels")
    made_there = comparison.make_reference(inception, folder / "there.safetensors")
    there = made_there._replace(
        description={**made_there.description, "space": {"weights": "91f2", "resize": "bilinear_tf1"}}
    )
    statistics.write(folder / "there.safetensors", there)
    with pytest.raises(StatisticsError, match=r"'Inception-v3', but needed with 'a tiny DINOv2'\. Choose"):
        against(folder, "there.safetensors", space)
    np.savez(folder / "short.npz", reps=np.zeros((1, 32)))
    with pytest.raises(StatisticsError, match=r"\[1, 32\]"):
        against(folder, "short.npz", space)


def test_the_command_asks_for_the_network(files):
    folder, _ = files
    request = comparison.Request(f"{folder}/a.npz", f"{folder}/b.npz", "dgm-eval")
    with pytest.raises(ConfigError, match=r"--encoder is missing: .* DINOv2 ViT-L/14"):
        comparison.run(request)
    with pytest.raises(ConfigError, match="takes no --inception"):
        comparison.run(request._replace(inception="x.pth"))
    with pytest.raises(ConfigError, match="--encoder is valid only with --protocol=dgm-eval"):
        comparison.run(request._replace(protocol="adm", encoder="x"))
    with pytest.raises(ConfigError, match="torch-fidelity, dgm-eval, edm2-dinov2, cmmd, cmmd-siglip2"):
        comparison.run(request._replace(protocol=""))
