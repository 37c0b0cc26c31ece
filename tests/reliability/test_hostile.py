"""Hostile run and checkpoint folders are refused in one sentence, before anything large or foreign is opened.

The attacks are false sizes, names and links that lead out of a folder, and configs that name code.
"""

import gc
import json
import os
import pathlib
import pickle
import shutil
import struct
import sys

import jax
import numpy as np
import pytest
import tensorstore

from diffusion.experiments.run_folder import workdir
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.recipe import ConfigError
from diffusion.recipe.values import plain
from diffusion.training import ema, optimizers, state, warm_start
from diffusion.training.checkpointing import checkpoint_writer, checkpoints
from tests import commands
from tests.reliability.hostile import HUGE, Called, little_memory  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]


def command(module, *words):
    """Runs a command; returns its exit status and the lines that it wrote to standard error."""
    done = commands.run("-m", module, *map(str, words))
    return done.returncode, done.stderr


# ==== Checkpoints ====


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run folder with a checkpoint at step 3, of a state with two parameters."""
    folder = tmp_path_factory.mktemp("run")
    optimizer = optimizers.adamw(1e-3)
    average = ema.exponential_moving_average(0.9)
    params = {"kernel": np.arange(2048, dtype=np.float32).reshape(64, 32), "bias": np.ones(3, np.float32)}
    made = state.create(jax.tree.map(jax.numpy.asarray, params), optimizer, average)
    saver = checkpoint_writer.Checkpoints(folder)
    saver.save(made._replace(step=jax.numpy.asarray(3, "int32")))
    saver.close()
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the run folder, with which a test may tamper."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def change_about(run, change):
    """Rewrites the checkpoint's description with a valid checksum, as an attacker can."""
    path = run / "checkpoints/3/about/metadata"
    about = json.loads(path.read_text())["about"]
    change(about)
    path.write_text(json.dumps({"about": about, "sha256": checkpoints.digest(about)}))


def change_array(run, name, change):
    """Rewrites the description of an array in the checkpoint's moving average."""
    folder = run / "checkpoints/3/ema"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}).result()
    described = json.loads(store[f"{name}/.zarray"])
    change(described)
    store[f"{name}/.zarray"] = json.dumps(described).encode()


@pytest.mark.extended
def test_an_untouched_checkpoint_is_read(run):
    params, step = checkpoints.load_ema(run)
    assert step == 3 and params["kernel"].shape == (64, 32)


@pytest.mark.parametrize("name", ["ema/../../x", "/etc/passwd", "ema//x", "ema/..", "ema/a\\b", "ema/a\0b", ""])
def test_a_leaf_whose_name_leads_out_is_refused(run, name):
    change_about(run, lambda about: about["leaves"].update({name: about["leaves"]["ema/bias"]}))
    with pytest.raises(checkpoints.DamagedCheckpoint, match="leads out of its folder"):
        checkpoints.load_ema(run)


@pytest.mark.parametrize("shape", [[HUGE, HUGE], [10**30], [2**62, 2]])
def test_a_giant_declared_shape_says_how_much_and_how_much_there_is(run, shape):
    change_about(run, lambda about: about["leaves"]["ema/bias"].update(shape=shape))
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"declares \S+ [EP]iB, and this machine has \S+ [GT]iB of"):
        checkpoints.load_ema(run)


@pytest.mark.parametrize("leaf", [{"shape": [-1]}, {"shape": "3"}, {"shape": [1.5]}, {"shape": [True]}, {"dtype": "x"},
                                  {"dtype": None, "shape": None}, {"shape": {"a": 1}}])  # fmt: skip
def test_a_leaf_without_a_true_shape_or_type_is_refused(run, leaf):
    change_about(run, lambda about: about["leaves"]["ema/bias"].update(leaf))
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"ema/bias|altered"):
        checkpoints.load_ema(run)


def test_a_leaf_without_a_checksum_is_not_believed(run):
    change_about(run, lambda about: about["leaves"]["ema/bias"].pop("checksum"))
    with pytest.raises(checkpoints.DamagedCheckpoint, match="leaf 'ema/bias' were altered"):
        checkpoints.load_ema(run)


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"about": [], "sha256": ""}', "[" * 100_000, "\x00", "{",
                                     '{"about": {"format": "x", "step": 3}, "sha256": ""}'])  # fmt: skip
def test_an_about_of_another_form_is_refused(run, content):
    (run / "checkpoints/3/about/metadata").write_text(content)
    with pytest.raises(checkpoints.DamagedCheckpoint, match="about"):
        checkpoints.load_ema(run)


def test_an_about_of_many_bytes_is_not_read(run, monkeypatch):
    with open(run / "checkpoints/3/about/metadata", "r+b") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"has 1 TiB; at most 64 MiB are read"):
        checkpoints.load_ema(run)


@pytest.mark.parametrize("changes", [
    {"shape": [HUGE]},  # more than the checkpoint declares
    {"shape": [2**62]},
    {"chunks": [HUGE]},  # a chunk is allocated whole
    {"shape": [-3]},
    {"shape": "three"},
    {"dtype": "no type"},
])  # fmt: skip
def test_an_array_that_is_larger_than_declared_is_refused(run, changes):
    change_array(run, "bias", lambda array: array.update(changes))
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"bias|holds arrays of"):
        checkpoints.load_ema(run)


def zstd_of_ones(size):
    """A zstd frame of `size` bytes 1, a multiple of 2^17, in 4 bytes for each 2^17 (RFC 8878, section 3.1.1)."""
    blocks = size >> 17
    headers = np.full(blocks, 1 << 24 | 2**17 << 3 | 1 << 1)  # each block is one byte, repeated 2^17 times
    headers[-1] |= 1  # the last block
    frame = b"\x28\xb5\x2f\xfd" + b"\x00\x38"  # a window of 2^17 bytes, and no size of the content
    return frame + headers.astype("<u4").tobytes()  # a header has three bytes; the fourth is the repeated one


def test_a_chunk_that_unpacks_to_more_than_its_array_is_refused(run):
    """The chunk of an array of 12 bytes unpacks to 1 GiB, over the limit of memory."""
    folder = run / "checkpoints/3/ema"
    small = {"driver": "zarr", "kvstore": {"driver": "memory"}, "dtype": "uint8"}
    metadata = {"shape": [2**20], "chunks": [2**20], "compressor": {"id": "zstd", "level": 1}}
    scratch = tensorstore.open(small | {"metadata": metadata}, create=True).result()
    scratch.kvstore["0"] = zstd_of_ones(2**20)
    assert scratch.read().result().all()  # the frame is valid
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}).result()
    store["bias/0"] = zstd_of_ones(2**30)
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"cannot be read|altered"):
        checkpoints.load_ema(run)


@pytest.mark.parametrize("where", ["_CHECKPOINT_METADATA", "ema/_METADATA", "ema/_sharding", "ema/manifest.ocdbt"])
def test_descriptions_of_many_bytes_are_not_read(run, where):
    os.truncate(run / "checkpoints/3" / where, 2**40)
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r".* has 1 TiB\. Valid: at most 64 MiB for a description"):
        checkpoints.load_ema(run)


@pytest.mark.parametrize("where", ["ema/manifest.ocdbt", "ema/d", "params/_METADATA"])
def test_links_in_a_checkpoint_are_refused(run, tmp_path, where):
    path = run / "checkpoints/3" / where
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(checkpoints.DamagedCheckpoint, match="is a link, which could lead anywhere"):
        checkpoints.load_ema(run)


def test_a_pipe_in_a_checkpoint_does_not_hang(run):
    for where in ("ema/d/pipe", "about/metadata"):
        path = run / "checkpoints/3" / where
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        with pytest.raises(checkpoints.DamagedCheckpoint, match=r"is not a file|is neither a file nor a folder"):
            checkpoints.load_ema(run)


def test_a_checkpoint_of_another_form_is_refused(run):
    """A checkpoint without OCDBT is refused, since there Orbax turns the leaves' names into paths."""
    (run / "checkpoints/3/ema/manifest.ocdbt").unlink()
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"manifest.ocdbt is missing"):
        checkpoints.load_ema(run)


@pytest.mark.parametrize("name", ["..", "3 ", "-1", "+4", "1e3", "٣", "²", "4.damaged", "9" * 40])
def test_only_plain_numbers_are_steps(run, name):
    if name != "..":
        (run / "checkpoints" / name).mkdir()
    assert checkpoints.steps(run) == [3]


def test_a_checkpoint_folder_may_itself_lie_elsewhere(run, tmp_path):
    (run / "checkpoints").rename(tmp_path / "other disk")
    (run / "checkpoints").symlink_to(tmp_path / "other disk")
    assert checkpoints.load_ema(run)[1] == 3


# ==== Weights to start from ====


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("content", [
    pickle.dumps({"w": 1}),
    safetensors({"w": {"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 4]}}, bytes(4)),
    safetensors({"w": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}, bytes(4)),
    struct.pack("<Q", 2**62) + b"{",
    b"",
    b"[" * 1000,
])  # fmt: skip
def test_weights_that_are_no_safetensors_are_refused(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.safetensors' is not a safetensors file"):
        warm_start.read(path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pkl", "weights.npz", "weights.ckpt"])
def test_weights_in_a_format_that_can_hold_code_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(ValueError, match=r"must be a \.safetensors file"):
        warm_start.read(tmp_path / name)


# ==== Configs ====


@pytest.mark.parametrize("value", [
    "!!python/object/apply:os.system ['touch executed']",
    {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["touch executed"]}]},
    {"_target_": "os.system", "command": "touch executed"},
    "cos\nsystem\n(S'touch executed'\ntR.",
    "${eval:__import__('os').system('touch executed')}",
    "configs/digits.py",
])  # fmt: skip
def test_a_config_that_names_code_comes_back_as_data(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"field": value}))
    before = set(sys.modules)
    config = workdir.read_config(tmp_path)
    assert plain(config) == plain({"field": value})
    assert set(sys.modules) == before and not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("content", "words"), [
    (b"import os; os.system('touch executed')", "not valid JSON"),
    (pickle.dumps(Called()), r"config\.json is not UTF-8 text"),
    (b"[" * 200_000, "not valid JSON"),
    (b'{"a": ' * 200_000, "not valid JSON"),
    (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "not valid JSON"),
    (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", "nested more than 64 deep"),
    (b"[1]", "not an object"),
    (b'{"data.name": "digits"}', "an invalid field"),
    (b'{"a": NaN}', "not a finite number"),
    (b'{"a": {"__class__": "subprocess.Popen", "args": ["touch", "executed"]}}', "an invalid field"),
    (b"9" * 5000, "not valid JSON|holds a int"),
])  # fmt: skip
def test_a_config_of_another_form_is_refused(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    gc.disable()  # otherwise other tests' garbage is collected at the deepest call, where too little stack is left
    try:
        with pytest.raises((WorkdirError, ConfigError), match=words):
            workdir.read_config(tmp_path)
    finally:
        gc.enable()
    assert not (tmp_path / "executed").exists()


def test_a_config_that_is_endless_or_a_pipe_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(WorkdirError, match="has 1 TiB; at most 64 MiB"):
        workdir.read_config(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WorkdirError, match="is not a file"):
        workdir.read_config(tmp_path)


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "config.json", "samples.npz", "samples.png",
                                  ".samples.npz.new"])  # fmt: skip
def test_a_run_folder_whose_file_is_a_link_is_refused(tmp_path, name):
    """The file is refused, since a run would write through the link."""
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(WorkdirError, match="is a link to a file"), workdir.lock(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.extended
@pytest.mark.parametrize("module", ["experiments.sample", "experiments.evaluate", "experiments.reproduce"])
def test_commands_refuse_in_one_sentence(tmp_path, module):
    (tmp_path / "config.json").write_text("[" * 200_000)
    status, errors = command(module, f"--workdir={tmp_path}")
    assert status == 2 and "not valid JSON" in errors and "Traceback" not in errors
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "samples.png").symlink_to("/etc/passwd")
    status, errors = command(module, f"--workdir={tmp_path}")
    assert status == 2 and "is a link to a file" in errors and "Traceback" not in errors
