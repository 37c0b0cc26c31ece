"""Features gathered, kept, interrupted and gone on with; and the files of statistics, ours and others'."""

import json
import types
import warnings

import numpy as np
import pytest
import safetensors.numpy

from diffusion.metrics import clip_sets, features, frechet, image_sets, inception, protocols, references, statistics
from diffusion.metrics.image_sets import ImageSetError
from diffusion.metrics.statistics import StatisticsError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (1300, 3, 4, 3), dtype=np.uint8)


def space(name="a", calls=None, dies_after=None):
    """Two taps of a random linear map; counts the images that it sees, and may die."""
    weights = np.random.default_rng(1).normal(size=(36, 5)).astype(np.float32)
    calls = [] if calls is None else calls

    def extract(batch):
        if dies_after is not None and sum(calls) >= dies_after:
            raise KeyboardInterrupt
        calls.append(len(batch))
        rows = batch.reshape(len(batch), -1) / np.float32(255) @ weights
        return {"main": rows, "small": rows[:, :2] ** 2}

    identity = {"weights": name, "resize": "x"}
    return references.Space(extract, ("main", "small"), "main", "clip(x * 127.5 + 128)", identity)


def exact(images):
    """Mean and sum of squares by their definition, in float64."""
    rows = space().extract(images)["main"]
    rows = rows.astype(np.float64)
    return rows, rows.mean(axis=0), (rows - rows.mean(axis=0)).T @ (rows - rows.mean(axis=0))


def same(a, b):
    for tap in a.statistics.moments:
        for x, y in zip(a.statistics.moments[tap], b.statistics.moments[tap]):
            np.testing.assert_array_equal(x, y)
    for tap in a.rows:
        np.testing.assert_array_equal(a.rows[tap], b.rows[tap])


def test_all_images_count(images):
    """1,300 are two chunks and a part of one: none is dropped."""
    found = references.gather(image_sets.from_array(images), space(), keep=("main",))
    assert found.seconds > 0
    rows, mean, m2 = exact(images)
    assert found.statistics.count == 1300 and found.statistics.moments["small"].count == 1300
    np.testing.assert_allclose(found.rows["main"], rows, rtol=1e-6)
    np.testing.assert_allclose(found.statistics.moments["main"].mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.statistics.moments["main"].m2, m2, rtol=1e-9, atol=1e-9)


@pytest.mark.extended
@pytest.mark.parametrize("dies_after", [1, 512, 1024])
def test_a_killed_gathering_goes_on_bit_for_bit(images, tmp_path, monkeypatch, dies_after):
    monkeypatch.setattr(references, "SAVE_SECONDS", -1)
    straight = references.gather(image_sets.from_array(images), space(), ("main",), tmp_path / "straight")
    calls = []
    with pytest.raises(KeyboardInterrupt):
        references.gather(image_sets.from_array(images), space(calls=calls, dies_after=dies_after), ("main",), tmp_path)
    done = sum(calls)
    calls = []
    found = references.gather(image_sets.from_array(images), space(calls=calls), ("main",), tmp_path)
    assert done >= dies_after and done + sum(calls) == 1300 and found.from_disk == done
    same(straight, found)


def test_rows_written_after_the_last_moments_are_dropped(images, tmp_path, monkeypatch):
    """A process may die between the two files."""
    monkeypatch.setattr(references, "SAVE_SECONDS", -1)
    with pytest.raises(KeyboardInterrupt):
        references.gather(image_sets.from_array(images), space(dies_after=512), ("main",), tmp_path)
    (rows,) = tmp_path.glob("*.main.float32")
    rows.write_bytes(rows.read_bytes() + b"\1" * 77)
    found = references.gather(image_sets.from_array(images), space(), ("main",), tmp_path)
    np.testing.assert_allclose(found.rows["main"], exact(images)[0], rtol=1e-6)


def test_what_is_kept_is_found_only_for_the_same(images, tmp_path):
    first = image_sets.from_array(images)
    other = images.copy()
    other[700, 0, 0, 0] ^= 1
    calls = []
    references.gather(first, space(calls=calls), (), tmp_path)
    assert sum(calls) == 1300
    references.gather(first, space(calls=calls), (), tmp_path)
    assert sum(calls) == 1300  # found
    references.gather(image_sets.from_array(other), space(calls=calls), (), tmp_path)
    assert sum(calls) == 2600  # another image
    references.gather(first, space("b", calls=calls), (), tmp_path)
    assert sum(calls) == 3900  # other weights
    found = references.gather(first, space(calls=calls), ("main",), tmp_path)
    assert sum(calls) == 5200  # rows were not kept
    references.gather(first, space(calls=calls), (), tmp_path)
    assert sum(calls) == 5200 and found.from_disk == 0


def test_floats_that_are_rounded_in_another_way_are_other_images(images, tmp_path):
    floats = image_sets.from_array(images[:20].astype(np.float32) / 127.5 - 1 + 0.006)  # nearer to the next byte
    for rounding, to_byte in (("clip(x * 127.5 + 128)", np.round), ("floor(y * 255)", np.floor)):
        found = references.gather(floats, space()._replace(rounding=rounding), ("main",), tmp_path)
        x = np.float32((floats.read(0, 20) + 1) * 127.5)
        expected = space().extract(np.clip(to_byte(x), 0, 255).astype(np.uint8))["main"]
        np.testing.assert_allclose(found.rows["main"], expected, rtol=1e-6, atol=1e-6)


def test_bytes_need_no_rounding_so_that_all_protocols_find_their_features(images, tmp_path):
    calls, bytes_ = [], image_sets.from_array(images[:20])
    first = references.gather(bytes_, space(calls=calls), ("main",), tmp_path)
    other = space(calls=calls)._replace(rounding="floor(y * 255)")
    again = references.gather(bytes_, other, ("main",), tmp_path)
    assert (first.from_disk, again.from_disk, calls) == (0, 20, [20])
    np.testing.assert_array_equal(again.rows["main"], first.rows["main"])


def test_statistics_without_a_description_are_those_of_as_many_features():
    """A file of two networks, whose second has the five features of this space."""
    rng = np.random.default_rng(3)
    moments = {str(number): frechet.moments(rng.normal(size=(9, number))) for number in (3, 5)}
    stored = references.Reference("both.pkl", statistics.Statistics(moments, None, {}), None)
    found = references.in_space(stored, space()._replace(dimensions=5))
    np.testing.assert_array_equal(found.statistics.moments["main"].mean, moments["5"].mean)
    assert [*found.statistics.moments] == ["main"]
    with pytest.raises(StatisticsError, match=r"both.pkl has statistics of 3 and 5 features .* the 4 features of"):
        references.in_space(stored, space()._replace(dimensions=4))


def test_the_rows_of_clips_are_found_again(tmp_path):
    """40 clips of 32 frames are three chunks, of 16 clips each, and not one of 512."""
    clips = np.random.default_rng(2).integers(0, 256, (40, 32, 2, 2, 3), dtype=np.uint8)
    flat = lambda batch: {"main": batch.reshape(len(batch), -1)[:, :3].astype(np.float32)}
    frames = references.Space(flat, ("main",), "main", "clip(x * 127.5 + 128)", {"weights": "a"})
    first, again = (references.gather(clip_sets.from_array(clips, 32), frames, ("main",), tmp_path) for _ in range(2))
    assert first.from_disk == 0 and again.from_disk == 40
    np.testing.assert_array_equal(again.rows["main"], flat(clips)["main"])


def test_what_is_kept_has_all_taps_or_is_gathered_again(images, tmp_path):
    calls = []
    every = space(calls=calls)
    few = every._replace(taps=("main",), extract=lambda batch: {"main": every.extract(batch)["main"]})
    pictures = image_sets.from_array(images)
    for one, taps, seen in ((few, {"main"}, 1300), (every, {"main", "small"}, 2600), (few, {"main", "small"}, 2600)):
        assert references.gather(pictures, one, ("main",), tmp_path).statistics.moments.keys() == taps
        assert sum(calls) == seen


@pytest.mark.parametrize("which", ["*.safetensors", "*.main.float32"])
def test_damage_of_what_is_kept_is_seen(images, tmp_path, which):
    calls = []
    good = references.gather(image_sets.from_array(images), space(calls=calls), ("main",), tmp_path)
    good = good._replace(rows={"main": np.array(good.rows["main"])})
    (path,) = tmp_path.glob(which)
    data = bytearray(path.read_bytes())
    data[-100] ^= 64
    path.write_bytes(bytes(data))
    again = references.gather(image_sets.from_array(images), space(calls=calls), ("main",), tmp_path)
    assert sum(calls) == 2600
    same(good, again)


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda x: np.where(np.arange(len(x))[:, None, None, None] == 600, np.nan, x), "image 88 of this batch .* NaN"),
        (lambda x: x * 100, "floats from -1"),
        (lambda x: (x + 1) / 2, "may be meant in"),
    ],
)
def test_floats_that_cannot_be_meant(images, change, match):
    x = change(images.astype(np.float32) / 127.5 - 1)
    with pytest.raises(ImageSetError, match=match):
        references.gather(image_sets.from_array(x.astype(np.float32)), space())


def test_floats_are_rounded_as_the_protocol_says(images):
    x = images.astype(np.float32) / 127.5 - 1
    found = references.gather(image_sets.from_array(x), space(), ("main",))
    np.testing.assert_array_equal(found.rows["main"], space().extract(images)["main"])


def test_bytes_that_were_floats_and_too_few_images(images):
    with pytest.raises(ImageSetError, match="all bytes are 0 or 1"):
        references.gather(image_sets.from_array((images[:5] > 99).astype(np.uint8)), space())
    dark = images.copy()
    dark[references.CHUNK :] = 1  # the first chunk says whether bytes were scaled: a later one may be dark
    references.gather(image_sets.from_array(dark), space())
    bright = dark.astype(np.float32) / 127.5 - 1
    bright[references.CHUNK :] = 0.5
    references.gather(image_sets.from_array(bright), space())  # likewise of floats
    with pytest.raises(ImageSetError, match="at least 2"):
        references.gather(image_sets.from_array(images[:1]), space())


@pytest.mark.parametrize(
    "shape, number", [((8, 8, 3), 512), ((16, 8, 8, 3), 32), ((121, 8, 8, 3), 4), ((999, 2, 2, 3), 1)]
)
def test_a_chunk_has_about_512_pictures_or_frames(shape, number):
    assert references._chunk(types.SimpleNamespace(shape=shape)) == number


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_features_of_inception_are_the_same_for_the_same_weights_and_preparation(protocol):
    net = types.SimpleNamespace(digest="0a", params=None)
    space = references.inception_space(net, protocol, ("2048", "logits"))
    how = {"resize": protocol.resize, "scaling": protocol.scaling, "size": 299}
    assert space.identity == {"weights": "0a", **how} and space.rounding == protocol.rounding
    assert (space.main, space.taps, space.usual) == ("2048", ("2048", "logits"), 50_000)
    assert (space.frechet, space.edm2, space.name) == ("fid", "fid", "Inception-v3")
    # The evaluators of ADM and torch-fidelity print precision and recall, and draw no rows for them.
    assert space.equal_rows == (protocol.name not in ("adm", "torch-fidelity"))


# ==== Files of statistics ====


@pytest.fixture
def made(images):
    return references.gather(image_sets.from_array(images), space()).statistics


def test_ours_round_trip(made, tmp_path):
    statistics.write(tmp_path / "a.safetensors", made)
    found = statistics.read(tmp_path / "a.safetensors")
    assert found.count == 1300 and found.description == made.description
    same(references.Gathered(made, {}, 0, 0), references.Gathered(found, {}, 0, 0))


@pytest.mark.parametrize("change", [
    {"count": "many"}, {"count": -1}, {"count": 1e9}, {"taps": "ab"}, {"taps": [["a"]]}, {"taps": [None]},
    {"space": [1]}, {"rows": None}, {"rows": {"a": {}}}, {"format": [1]}, {"format": True}, {"images": "many"},
])  # fmt: skip
def test_statistics_that_say_of_themselves_what_no_reader_takes_are_refused(made, tmp_path, change):
    """With a checksum that fits: who alters a file can make one."""
    about = {"format": 1, "count": 3, "taps": [], **made.description, **change}
    about["sha256"] = statistics._digest(about, {})
    safetensors.numpy.save_file({}, tmp_path / "a.safetensors", {"statistics": json.dumps(about)})
    with pytest.raises(StatisticsError, match="Valid: "):
        statistics.read(tmp_path / "a.safetensors")


def test_statistics_of_other_types_are_refused(tmp_path):
    header = json.dumps({"a.mean": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(StatisticsError, match=r"a\.mean is F8_E4M3, not F64"):
        statistics.read(tmp_path / "a.safetensors")


def test_another_protocol_or_network_is_refused_by_its_fields(made):
    statistics.require_same("ref", made, space().identity)
    with pytest.raises(
        StatisticsError, match=r"another protocol.*weights: made with 'a', but needed with 'b'"
    ) as caught:
        statistics.require_same("ref", made, space("b").identity)
    assert "resize" not in str(caught.value)
    net = inception.Inception({}, "0" * 64, False)
    tf, torch = (references.inception_space(net, protocols.PROTOCOLS[name]).identity for name in ("adm", "pytorch-fid"))
    assert len(statistics.differences(tf, torch)) == 2  # resize and scaling
    assert statistics.differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == [
        "b: made with 2, but needed with None",
        "c: made with None, but needed with 3",
    ]
    assert not statistics.differences(tf, references.inception_space(net, protocols.PROTOCOLS["edm"]).identity)


def test_every_flipped_bit_is_seen(made, tmp_path):
    path = tmp_path / "a.safetensors"
    statistics.write(path, made)
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        data = bytearray(whole)
        data[place] ^= 16
        path.write_bytes(bytes(data))
        with pytest.raises(StatisticsError):
            statistics.read(path)


def test_foreign_files(images, tmp_path):
    rows, mean, m2 = exact(images)
    sigma = m2 / 1299
    np.savez(tmp_path / "fid.npz", mu=mean, sigma=sigma)
    np.savez(tmp_path / "adm.npz", arr_0=images[:30], mu=mean.astype(np.float32), sigma=sigma, mu_s=mean, sigma_s=sigma)
    plain = references.open_reference(str(tmp_path / "fid.npz"))
    assert plain.images is None and plain.statistics.count is None and list(plain.statistics.moments) == ["5"]
    adm = references.open_reference(str(tmp_path / "adm.npz"))
    assert adm.images.count == 30 and list(adm.statistics.moments) == ["5", "spatial"]
    other = frechet.update(frechet.init(5), rows[:900])
    whole = frechet.update(frechet.init(5), rows)
    expected = frechet.frechet_distance(other, whole)
    assert frechet.frechet_distance(other, plain.statistics.moments["5"]) == pytest.approx(expected, rel=1e-9)
    statistics.require_same("adm", adm.statistics, space().identity)  # does not say how it was made


def test_files_that_are_no_statistics(images, tmp_path):
    _, mean, m2 = exact(images)
    bad = {
        "nan": (mean, np.where(m2 > 0, np.nan, m2), "NaN"),
        "shape": (mean, m2[:3], "shape"),
        "skew": (mean, m2 + np.triu(np.ones((5, 5))) * m2.max(), "not symmetric"),
        "minus": (mean, -m2, "diagonal"),
        "ints": (mean.astype(int), m2, "floating-point numbers"),
        "huge": (mean, np.triu(np.full((5, 5), 1e308)) - np.tril(np.full((5, 5), 1e308), -1), "not symmetric"),
    }
    for name, (mu, sigma, match) in bad.items():
        np.savez(tmp_path / f"{name}.npz", mu=mu, sigma=sigma)
        with pytest.raises(StatisticsError, match=match), warnings.catch_warnings():
            warnings.simplefilter("error")
            statistics.read(tmp_path / f"{name}.npz")
    for scale in (1e-12, 1e6):  # what is symmetric depends on how large it is
        skewed = m2 / m2.max() * scale * (1 + 1e-3 * np.triu(np.ones((5, 5)), 1))
        np.savez(tmp_path / "skewed.npz", mu=mean, sigma=skewed)
        with pytest.raises(StatisticsError, match="not symmetric"):
            statistics.read(tmp_path / "skewed.npz")
        rounded = m2 / m2.max() * scale * (1 + 1e-6 * np.triu(np.ones((5, 5)), 1))
        np.savez(tmp_path / "rounded.npz", mu=mean, sigma=rounded)
        assert list(statistics.read(tmp_path / "rounded.npz").moments) == ["5"]
    np.savez(tmp_path / "pickled.npz", mu=mean, sigma=np.array([{"a": 1}], dtype=object))
    (tmp_path / "a.pkl").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    safetensors.numpy.save_file({"x": mean}, tmp_path / "x.safetensors")
    text = json.dumps({"format": 2, "sha256": "", "count": 2, "taps": []})
    safetensors.numpy.save_file({"x": mean}, tmp_path / "new.safetensors", {"statistics": text})
    np.savez(tmp_path / "mu.npz", mu=mean)
    for name, match in [
        ("pickled.npz", "pickles"),
        ("a.pkl", "is a pickle"),
        ("x.safetensors", "no statistics"),
        ("new.safetensors", "format 2;"),
        ("mu.npz", "holds mu"),
        ("no.npz", "does not exist|cannot be"),
        ("no.safetensors", "cannot be read"),
    ]:
        with pytest.raises((StatisticsError, ImageSetError), match=match):
            references.open_reference(str(tmp_path / name))


def test_a_function_is_a_space(images):
    found = references.function_space(features.pixels(None, None))
    rows = found.extract(images[:5])["features"]
    np.testing.assert_array_equal(rows, images[:5].reshape(5, -1) / np.float32(255))
    assert found.identity["unit"] == "[0, 1]"


@pytest.mark.parametrize(
    "main, identity, name",
    [
        ("2048", {"features": "mine"}, "Inception-v3"),
        ("features", {"features": "pixels"}, "pixels"),
        ("features", {}, "features"),
    ],
)
def test_a_space_has_the_name_of_its_features(main, identity, name):
    assert references.Space(lambda batch: {}, (main,), main, "clip(x * 127.5 + 128)", identity).name == name


def test_an_npz_holds_the_moments_and_the_features_by_the_names_of_other_programs(images, tmp_path):
    """mu and sigma as pytorch-fid reads them, and reps [N, D] as the evaluation of DGM."""
    rows = space().extract(images[:40])["main"]
    moments = {"main": frechet.moments(rows)}
    written = statistics.Statistics(moments, 40, {"space": {"weights": "a"}})
    statistics.write_npz(tmp_path / "a.npz", written, "main", rows)
    with np.load(tmp_path / "a.npz") as stored:
        assert sorted(stored) == ["mu", "reps", "sigma", "space"]
        np.testing.assert_allclose(stored["mu"], rows.astype(np.float64).mean(0), rtol=1e-6)
        np.testing.assert_allclose(stored["sigma"], np.cov(rows.astype(np.float64).T), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(stored["reps"], rows)
        assert json.loads(str(stored["space"])) == {"weights": "a"}
