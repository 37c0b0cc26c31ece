"""The same network out of each kind of file, and files that are damaged, hostile, or hold something else."""

import hashlib
import os
import struct
import time
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from diffusion.io import limits, torch_files
from diffusion.metrics import inception_weights
from tests.metrics import torch_writer as writer

STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_4": "Conv2d_4a_3x3",
    "mixed_2.tower_1.conv_2": "Mixed_5d.branch3x3dbl_3",
    "mixed_3.conv": "Mixed_6a.branch3x3",
    "mixed_6.tower.conv_1": "Mixed_6d.branch7x7_2",
    "mixed_8.tower_1.conv_3": "Mixed_7a.branch7x7x3_4",
    "mixed_10.tower_2_conv": "Mixed_7c.branch_pool",
    "mixed_9.tower_1_mixed_conv_1": "Mixed_7b.branch3x3dbl_3b",
}


def peak() -> int:
    """The most memory that this process has held so far, in bytes."""
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.fixture(scope="module")
def tensors():
    """The network with made-up weights, under its canonical names, with the last layer."""
    random = np.random.default_rng(0)
    numbers = random.random(2**20, np.float32)
    made = {}
    for name, shape in inception_weights.CONVOLUTIONS.items():
        for part in ("weight", "beta", "mean", "var"):
            sides = shape if part == "weight" else shape[:1]
            made[f"{name}.{part}"] = np.resize(np.roll(numbers, random.integers(2**20)), sides)
    made["output.weight"] = np.resize(numbers, (1008, 2048))
    made["output.bias"] = numbers[:1008].copy()
    return made


def peer_names(tensors):
    """pytorch-fid's names, with what else its files hold."""
    parts = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    to_peer = {name: peer for name, peer, *_ in inception_weights._ROWS}
    found = {}
    for name, array in tensors.items():
        layer, part = name.rsplit(".", 1)
        if layer == "output":
            found[f"fc.{part}"] = array
            continue
        found[f"{to_peer[layer]}.{parts[part]}"] = array
        if part == "var":
            found[f"{to_peer[layer]}.bn.weight"] = np.ones_like(array)
            found[f"{to_peer[layer]}.bn.num_batches_tracked"] = np.array(7)
    return found


def below(prefix, tensors):
    return {name if name.startswith("output") else f"{prefix}{name}": array for name, array in tensors.items()}


FORMS = {
    "pytorch-fid, zip": lambda path, t: writer.archive(path, *writer.state(peer_names(t))),
    "pytorch-fid, stream": lambda path, t: writer.stream(
        path, *writer.state(peer_names(t)), [array.size for array in peer_names(t).values()]
    ),
    "TorchScript": lambda path, t: writer.archive(path, *writer.script(below("layers.", t)), root="any"),
    "TorchScript, wrapped": lambda path, t: writer.archive(path, *writer.script(below("net.layers.", t))),
    "safetensors": lambda path, t: safetensors.numpy.save_file(t, path),
    "safetensors, pytorch-fid": lambda path, t: safetensors.numpy.save_file(peer_names(t), path),
}


@pytest.fixture(scope="module")
def expected(tensors):
    """Digests by the definition: sha256 over names in order, dtypes, shapes and bytes."""
    digests = []
    for last in (False, True):
        total = hashlib.sha256()
        for name in sorted(name for name in tensors if name.startswith("output") == last):
            total.update(f"{name} <f4 {list(tensors[name].shape)}\n".encode() + tensors[name].tobytes())
        digests.append(total.hexdigest())
    return digests


REWRITTEN = ("pytorch-fid, stream", "TorchScript, wrapped", "safetensors, pytorch-fid")  # another form's tensors


@pytest.mark.extended
@pytest.mark.parametrize("form", [pytest.param(n, marks=pytest.mark.slow if n in REWRITTEN else ()) for n in FORMS])
def test_each_form_gives_the_same_tensors_and_digest(form, tensors, expected, tmp_path):
    FORMS[form](tmp_path / "file", tensors)
    found = inception_weights.read(tmp_path / "file")
    assert [found.digest, found.logits_digest] == expected
    assert found.tensors.keys() == tensors.keys()
    for name in ("conv.weight", "mixed_10.tower_2_conv.var", "output.weight"):
        np.testing.assert_array_equal(found.tensors[name], tensors[name])


@pytest.mark.extended
def test_a_copy_without_the_last_layer_is_the_same_network(tensors, expected, tmp_path):
    safetensors.numpy.save_file({k: v for k, v in tensors.items() if not k.startswith("output")}, tmp_path / "file")
    found = inception_weights.read(tmp_path / "file")
    assert found.digest == expected[0] and found.logits_digest is None and len(found.tensors) == 376


@pytest.mark.extended
def test_what_is_saved_is_read_as_it_was(tensors, tmp_path):
    weights = inception_weights._weights(tensors)
    inception_weights.save(tmp_path / "copy.safetensors", weights)
    found = inception_weights.read(tmp_path / "copy.safetensors")
    assert found[1:] == weights[1:] and found.tensors.keys() == tensors.keys()


@pytest.mark.extended
def test_a_change_of_one_number_changes_the_digest(tensors):
    name = "mixed_7.tower.conv_1.weight"
    changed = tensors[name].copy()
    changed[0, 0, 0, 3] = np.nextafter(changed[0, 0, 0, 3], 2, dtype=np.float32)
    weights = inception_weights._weights({**tensors, name: changed})
    assert weights.digest != inception_weights._weights(tensors).digest
    assert inception_weights.describe(weights.digest) == "unknown weights"


@pytest.mark.parametrize(("name", "peer"), STEM.items())
def test_names_of_both_worlds(name, peer):
    assert next(row[1] for row in inception_weights._ROWS if row[0] == name) == peer


# ==== Files that hold something else ====


def test_a_missing_file_says_how_to_get_one(tmp_path):
    words = r"no file of Inception weights at .*gone.pth.*pt_inception-2015-12-05-6726825d.pth.*inception-2015-12-05.pt"
    with pytest.raises(inception_weights.WeightsError, match=words):
        inception_weights.read(tmp_path / "gone.pth")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(inception_weights.WeightsError, match="no file of Inception weights"):
            inception_weights.read(path)


@pytest.mark.parametrize("content", [
    b"", b"PK\x03\x04", b"PK" + bytes(100), b"\x80\x02K\x01.", b"GIF89a" + bytes(99), b"\x80\x03csys\nexit\n)R.",
    struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"{}", torch_files.MAGIC, torch_files.MAGIC + b"\x80\x02",
    torch_files.MAGIC + b"\x80\x02M\xe9\x03.\x80\x02].\x80\x02}.\x80\x02].",
])  # fmt: skip
def test_what_is_no_such_file_is_refused(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(inception_weights.WeightsError, match="file"):
        inception_weights.read(tmp_path / "file")


@pytest.mark.extended
def test_a_truncated_file_is_refused(tensors, tmp_path):
    for form in ("pytorch-fid, zip", "pytorch-fid, stream", "safetensors"):
        FORMS[form](tmp_path / "file", tensors)
        content = (tmp_path / "file").read_bytes()
        (tmp_path / "file").write_bytes(content[: len(content) // 2])
        with pytest.raises(inception_weights.WeightsError):
            inception_weights.read(tmp_path / "file")


@pytest.mark.extended
@pytest.mark.parametrize(("change", "words"), [
    ({"Mixed_5b.branch1x1.bn.weight": np.full(64, 1.1, np.float32)}, "torchvision's Inception has one"),
    ({"Mixed_5b.branch1x1.conv.weight": np.zeros((64, 192, 3, 3), np.float32)}, r"\[64, 192, 3, 3\]\. Valid: float32"),
    ({"Mixed_5b.branch1x1.bn.bias": np.zeros(64, np.float16)}, "is float16"),
    ({"Mixed_5b.branch1x1.bn.bias": np.full(64, np.nan, np.float32)}, "not finite"),
    ({"Mixed_5b.branch1x1.bn.running_var": np.full(64, -1, np.float32)}, "variance below 0"),
    ({"fc.weight": np.zeros((1000, 2048), np.float32)}, r"fc.weight is float32 \[1000, 2048\]"),
    ({"Mixed_5b.branch1x1.conv.weight": None}, "1 of 376 tensors are missing; .* Mixed_5b.branch1x1.conv.weight"),
])  # fmt: skip
def test_another_network_is_refused(change, words, tensors, tmp_path):
    changed = peer_names(tensors) | change
    safetensors.numpy.save_file({k: v for k, v in changed.items() if v is not None}, tmp_path / "file")
    with pytest.raises(inception_weights.WeightsError, match=words):
        inception_weights.read(tmp_path / "file")


# ==== Hostile files ====

SMALL = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def little_memory():
    """No refusal needs more than a moment's memory, whatever is declared."""
    before = peak()
    yield
    assert peak() - before < 2**26


def read_pickle(path, body, **options):
    """Reads an archive of this pickle, with the storage "0" of six numbers."""
    writer.archive(path, writer.whole(body), [SMALL.tobytes()], **options)
    return torch_files.read(path)


def test_the_small_writer_is_understood(tmp_path):
    found = read_pickle(tmp_path / "file", writer.dictionary({"a": writer.tensor("0", "float32", (2, 3))}))
    np.testing.assert_array_equal(found["a"], SMALL)
    turned = writer.dictionary({"a": writer.tensor("0", "float32", (2, 2), strides=(1, 3), offset=1)})
    np.testing.assert_array_equal(read_pickle(tmp_path / "file", turned)["a"], SMALL.T[1:])


@pytest.mark.parametrize("called", [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch", "load"),
                                    ("subprocess", "Popen"), ("torch._utils", "_rebuild_device_tensor_from_numpy"),
                                    ("torch.jit._pickle", "__dict__"), ("__torch__", "x\nos system")])  # fmt: skip
@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_a_pickle_that_calls_something_is_refused_and_nothing_is_called(called, layout, tmp_path):
    mark = tmp_path / "called"
    body = writer.name(*called) + writer.tuple_of(writer.text(f"touch {mark}")) + b"R"
    if layout == "zip":
        writer.archive(tmp_path / "file", writer.whole(body), [])
    else:
        writer.stream(tmp_path / "file", writer.whole(body), [], [])
    with pytest.raises(inception_weights.WeightsError, match=r"names|damaged|step"):
        inception_weights.read(tmp_path / "file")
    assert not mark.exists()


def test_a_class_of_torchscript_can_not_be_called(tmp_path):
    body = writer.name("__torch__.os", "system") + writer.tuple_of(writer.text("true")) + b"R"
    with pytest.raises(limits.Refused, match="calls system"):
        read_pickle(tmp_path / "file", body)


@pytest.mark.parametrize("name", ["archive/../../x", "/etc/passwd", "archive//x", "..", "archive/a\\b"])
def test_an_archive_whose_names_lead_out_is_refused(name, tmp_path):
    with pytest.raises(limits.Refused, match="leads out of its folder"):
        read_pickle(tmp_path / "file", b"}", extra={name: b""})


@pytest.mark.parametrize("key", ["../data.pkl", "7", "", "../../../../etc/passwd"])
def test_a_storage_that_is_not_there_is_refused(key, tmp_path):
    with pytest.raises(limits.Refused, match="damaged"):
        read_pickle(tmp_path / "file", writer.dictionary({"a": writer.tensor(key, "float32", (2, 3))}))


@pytest.mark.parametrize("tensor", [
    dict(shape=(10**12,)), dict(shape=(10**12, 10**12)), dict(shape=(2, 3), strides=(3, 1), offset=1),
    dict(shape=(2, 4)), dict(shape=(2, 3), offset=-1), dict(shape=(-2, 3)), dict(shape=(2, 3), strides=(-3, 1)),
    dict(shape=(10**9, 10**9), strides=(0, 0)), dict(shape=(2, 3), strides=(10**30, 1)),
    dict(shape=(2, 3), strides=(1,)), dict(shape=(1,) * 40), dict(shape=(2, 3), dtype="float64"),
    dict(shape=(2, 3), kind="QInt8Storage"), dict(shape=(10**30,)),
])  # fmt: skip
def test_a_tensor_that_is_larger_than_its_storage_is_refused(tensor, tmp_path, little_memory):
    described = {"dtype": "float32", "strides": (1,) * len(tensor["shape"]), **tensor}
    with pytest.raises(limits.Refused, match=r"declares the shape|whole numbers|names|damaged"):
        read_pickle(tmp_path / "file", writer.dictionary({"a": writer.tensor("0", **described)}))


@pytest.mark.extended
def test_compressed_tensors_are_refused_before_they_grow(tmp_path, little_memory):
    body = writer.whole(writer.dictionary({"a": writer.tensor("0", "float32", (2, 3))}))
    zeros = bytes(2**22)
    writer.archive(tmp_path / "file", body, [zeros] * 64, compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "file").stat().st_size < 2**20
    with pytest.raises(limits.Refused, match="compressed"):
        torch_files.read(tmp_path / "file")


def test_an_archive_that_declares_more_than_it_holds_is_refused(tmp_path, little_memory):
    writer.archive(tmp_path / "file", writer.whole(b"}"), [b"x" * 16])
    content = bytearray((tmp_path / "file").read_bytes())
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)  # of data/0, in the table of contents
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(limits.Refused, match="declares 2 GiB of tensors"):
        torch_files.read(tmp_path / "file")


def test_a_stream_that_declares_more_than_it_holds_is_refused(tmp_path, little_memory):
    for count in (2**60, 7, -1):
        writer.stream(tmp_path / "file", *writer.state({"a": SMALL}), [count])
        with pytest.raises(limits.Refused, match="declares a storage of"):
            torch_files.read(tmp_path / "file")


def test_a_huge_file_is_not_read(tmp_path, little_memory):
    with open(tmp_path / "file", "wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(inception_weights.WeightsError, match="has 1 TiB; at most 1 GiB are read"):
        inception_weights.read(tmp_path / "file")
    with pytest.raises(limits.Refused, match="has 1 TiB; at most 4 GiB are read"):
        torch_files.read(tmp_path / "file")


@pytest.mark.extended
@pytest.mark.parametrize("body", [
    b"r\xff\xff\xff\x7f}",  # a memo of 2^31 places
    b"\x8e" + struct.pack("<Q", 2**62),  # bytes without end
    b"\x8a\x04\x00\x00\x00\x7f" + b"}",  # a number
    b"X\xff\xff\xff\x7f",  # a word without end
    b"}" * 1_000_010,  # steps without end
    b"t", b"e", b"u", b"R", b"b", b"Q", b"0", b"a", b"s", b"h\x07", b"\x93", b"\x81", b"\x85", b"",
    b"]}s", b"}]]s", b"(K\x01u", b"}(K\x01u", b"})NNs", b"K\x01K\x02b", b"K\x01Q",
    b"\x97", b"\x82\x01", b"i" + b"os\nsystem\n", b"(" + b"os\nsystem\n" + b"o",  # other ways to name and call
], ids=range(30))  # fmt: skip
def test_a_pickle_that_makes_no_sense_is_refused(body, tmp_path, little_memory):
    with pytest.raises(limits.Refused):
        read_pickle(tmp_path / "file", body + b"0")


@pytest.mark.parametrize(
    "body",
    [
        b"}q\x00" + writer.text("a") + b"h\x00s",  # a dictionary that holds itself
        b"}q\x00"
        + b"".join(
            b"}" + writer.text("a") + b"h%cs" % i + writer.text("b") + b"h%cs" % i + b"q%c" % (i + 1) for i in range(60)
        ),  # 60 of them, each twice in the next
    ],
    ids=["itself", "doubling"],
)
def test_containers_without_end_are_refused(body, tmp_path, little_memory):
    with pytest.raises(limits.Refused, match="its nesting may be endless"):
        read_pickle(tmp_path / "file", body)


def test_what_a_small_file_multiplies_is_refused_at_once(tmp_path, little_memory):
    """A dictionary that holds itself 60,000 times; long keys over many short ones; one state of many objects."""
    entries = b"".join(writer.text(f"{i}") + b"h\x00" for i in range(60_000))
    long = writer.text("k" * 10**6)
    tensor = writer.tensor("0", "float32", (2, 3))
    below = b"}(" + b"".join(writer.text(f"{i}") + b"h\x01" for i in range(1000)) + b"u"
    state = b"}q\x01(" + b"".join(writer.text(f"{i}") + b"N" for i in range(1000)) + b"u"
    for body, words in (
        (b"}q\x00(" + entries + b"u", "its nesting may be endless"),
        (tensor + b"q\x01}" + long + below + b"s", "characters in total"),
        (state + b"](" + b"}h\x01b" * 2000 + b"e", "copies more than"),
    ):
        begun = time.process_time()
        with pytest.raises(limits.Refused, match=words):
            read_pickle(tmp_path / "file", body)
        assert time.process_time() - begun < 5


def test_a_tensor_of_many_sides_is_refused_before_they_are_counted(tmp_path, little_memory):
    sides = b"(" + b"K\x01" * 10**5 + b"tq\x01"
    storage = (
        writer.tuple_of(
            writer.text("storage"),
            writer.name("torch", "FloatStorage"),
            writer.text("0"),
            writer.text("cpu"),
            writer.integer(6),
        )
        + b"Q"
    )
    made = writer.name("torch._utils", "_rebuild_tensor_v2") + writer.tuple_of(storage, b"K\x00", b"h\x01", b"h\x01")
    with pytest.raises(limits.Refused, match="100000 sides and 100000 strides"):
        read_pickle(tmp_path / "file", sides + made + b"R")


def test_a_key_that_takes_forever_to_hash_is_refused(tmp_path, little_memory):
    body = b"}" + b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"Ns"
    with pytest.raises(limits.Refused, match="a tuple as a key"):
        read_pickle(tmp_path / "file", body)
