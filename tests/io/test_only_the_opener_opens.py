"""Readers open no file by themselves: `diffusion.io.opener` does, and who else may is listed here, with the reason."""

import ast
import pathlib

import pytest

from tests.library_files import example_files, library_files

ROOT = pathlib.Path(__file__).parents[2]

# Calls that open a file to read it, or may; by the last two parts of their names.
OPENS = {
    "open", "io.open", "os.open", "codecs.open", "gzip.open", "bz2.open", "lzma.open", "wave.open", "av.open",
    "tarfile.open", "tarfile.TarFile", "zipfile.ZipFile", "Image.open", "np.load", "np.loadtxt", "np.genfromtxt",
    "np.fromfile", "np.memmap", "format.open_memmap", "mmap.mmap", "pa.memory_map", "pa.OSFile", "safe_open",
    "safetensors.safe_open", "numpy.load_file", "flax.load_file", "Tokenizer.from_file", "ArrayRecordReader",
    "ArrayRecordDataSource", "SentencePieceProcessor", "tensorflow_datasets.builder_from_directory",
    "tfds.builder_from_directory", "linecache.getline",
}  # fmt: skip
METHODS = {"read_text", "read_bytes", "to_text"}  # of a path, whatever it is called
MODULES = {"pq"}  # all of whose functions read
WRITES = set("wax")

# {module: {call: why it may}}
ALLOWED: dict[str, dict[str, str]] = {
    "diffusion/io/opener.py": {"open": "it is the opener", "os.open": "it is the opener"},
    "diffusion/io/film_child.py": {
        "open": "the size of its own process, in /proc",
        "av.open": "what comes by the socket, in a process that can open nothing",
    },
    "diffusion/io/npy.py": {"np.memmap": "a file that the opener has opened"},
    "diffusion/io/npz.py": {"zipfile.ZipFile": "a file that the opener has opened, or bytes"},
    "diffusion/io/parquet_batches.py": {
        "pq.read_metadata": "a path that the opener has checked",
        "pq.ParquetFile": "a path that the opener has checked",
    },
    "diffusion/io/safetensors_files.py": {"np.memmap": "a file that the opener has opened"},
    "diffusion/io/pictures.py": {"Image.open": "a file that the opener has opened, or bytes"},
    "diffusion/data/sources/array_files.py": {"np.memmap": "a file that the opener has opened"},
    "diffusion/data/sources/file_streams.py": {"tarfile.open": "a file that the opener has opened"},
    "diffusion/data/sources/parquet_files.py": {"pa.memory_map": "a file of this user's cache that it has written"},
    "diffusion/data/sources/record_files.py": {"ArrayRecordReader": "a path that the opener has checked"},
    "diffusion/data/sources/tar_files.py": {"tarfile.open": "a file that the opener has opened"},
    "diffusion/data/sources/tfds_records.py": {
        "tensorflow_datasets.builder_from_directory": "a folder that catalog.check_folder has checked"
    },
    "diffusion/__main__.py": {"open": "the null device"},
    "diffusion/experiments/sampling/batches_on_disk.py": {"os.open": "a folder, to lock it"},
    "diffusion/launch/local.py": {"open": "a pipe of its own"},
    "diffusion/data/builder_checksums.py": {".read_text": "the package's own code"},
    "diffusion/data/latent_cache.py": {"ArrayRecordDataSource": "paths that the opener has checked"},
    "diffusion/data/latent_writer.py": {"ArrayRecordReader": "what it has written", "open": "what it has written"},
    "diffusion/data/preparation.py": {".read_text": "what it has written"},
    "diffusion/io/file_systems.py": {".read_text": "what it has written"},
    "diffusion/io/files.py": {"os.open": "to write"},
    "diffusion/io/json_lines.py": {"open": "to see it to the disk", "os.open": "to write"},
    "diffusion/metrics/image_sets.py": {"ArrayRecordDataSource": "a path that the opener has checked"},
    "diffusion/metrics/references.py": {"open": "this user's cache, to write", "np.memmap": "this user's cache"},
    "diffusion/metrics/classifier.py": {".read_bytes": "its own code, whose digest names what is kept"},
    "diffusion/package/commands.py": {".read_text": "the project file of this library's clone"},
    "diffusion/experiments/arena/server.py": {".read_bytes": "the files of its own page, by names that it lists"},
    "diffusion/recipe/extensions.py": {".read_text": "pyproject.toml, whose code is run"},
    "diffusion/recipe/recipes.py": {".read_text": "recipes, which are programs of this library"},
    "diffusion/experiments/few_steps.py": {
        "np.load": "what this command wrote",
        ".read_text": "what this command wrote",
    },
    "diffusion/experiments/init.py": {".read_text": "the template, of this library"},
    "diffusion/experiments/playground/api.py": {".read_bytes": "pictures that it has just made"},
    "diffusion/experiments/playground/form.py": {".read_text": "the files of its own page"},
    "diffusion/experiments/playground/page.py": {".read_text": "the files of its own page"},
    "diffusion/experiments/run/tracking.py": {
        ".read_text": "a name that this run wrote",
        ".read_bytes": "pictures that this run has just made",
    },
    "diffusion/experiments/run_folder/user_code.py": {".read_bytes": "code that is run, for its digest"},
    "diffusion/experiments/run_folder/workdir.py": {
        "open": "the lock of a run, which it makes",
        "os.open": "the lock of a run, which it makes",
        ".read_text": "a token that this run wrote",
    },
    "diffusion/experiments/sweeps/html_report.py": {".read_text": "the files of its own page"},
    "diffusion/experiments/sweeps/runner.py": {"open": "the log that this sweep writes"},
    "diffusion/experiments/sweeps/sweep_folder.py": {"open": "a lock", "os.open": "a lock, which it makes"},
    "diffusion/experiments/sweeps/terminal.py": {"open": "the log that this sweep writes"},
    "examples/text/demo.py": {".read_text": "a note that this command wrote"},
    "examples/text/judge.py": {".read_bytes": "its own code, whose digest names what is kept"},
    "examples/video/clip_judge.py": {".read_bytes": "its own code, whose digest names what is kept"},
    "examples/video/demo_stages.py": {".read_text": "a note that this command wrote"},
    "diffusion/io/torch_files.py": {"zipfile.ZipFile": "bytes that the opener has read"},
    "diffusion/training/runtime/compilation_cache.py": {"open": "what the system says of its processor, in /proc"},
    "diffusion/training/runtime/preemption.py": {"os.open": "the null device, to write to"},
    "diffusion/training/runtime/process_memory.py": {".read_text": "what the system says of its memory, in /proc"},
}


def called(node: ast.Call) -> str:
    """The last two parts of the name of what is called; "" where it has none."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    if isinstance(node.func, ast.Attribute):
        holder = node.func.value
        first = holder.id if isinstance(holder, ast.Name) else holder.attr if isinstance(holder, ast.Attribute) else ""
        return f"{first}.{node.func.attr}"
    return ""


def only_writes(node: ast.Call) -> bool:
    """Whether a call of `open` says, as a constant, that it writes a file anew or at its end."""
    modes = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and str(mode.value)[0] in WRITES for mode in modes)


def openings(source: str) -> set[str]:
    """The calls in a module that open a file to read it."""
    names: set[str] = set()
    if not any(f"{name.rpartition('.')[2]}(" in source for name in (*OPENS, *METHODS)) and "pq." not in source:
        return names  # nothing to parse
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        first, _, last = name.rpartition(".")
        mode = isinstance(node.args[0], ast.Constant) and node.args[0].value in ("r", "rb") if node.args else False
        if (name in OPENS and not (last == "open" and only_writes(node))) or first in MODULES:
            names.add(name)
        elif ("." in name and last in METHODS and first != "opener") or (last == "open" and first and mode):
            names.add(f".{last}")
    return names


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("open(a)", {"open"}), ("open(a, 'rb')", {"open"}), ("open(a, mode=m)", {"open"}), ("open(a, 'r+')", {"open"}),
        ("open(a, 'wb')", set()), ("open(a, mode='a')", set()), ("def f():\n with open(a) as b: pass", {"open"}),
        ("path.read_text()", {".read_text"}), ("folder().joinpath(a).read_bytes()", {".read_bytes"}),
        ("opener.read_text(a)", set()), ("path.open('rb')", {".open"}), ("Tokenizer.open(a)", set()),
        ("archive.open(name)", set()), ("np.load(a)", {"np.load"}), ("np.lib.format.open_memmap(a)",
         {"format.open_memmap"}), ("pq.read_table(a)", {"pq.read_table"}), ("av.open(a, 'w')", set()),
        ("av.open(a)", {"av.open"}), ("safetensors.numpy.load_file(a)", {"numpy.load_file"}), ("os.open(a, b)",
         {"os.open"}),
    ],
)  # fmt: skip
def test_what_counts_as_opening_a_file(source, calls):
    assert openings(source) == calls


@pytest.mark.extended
def test_no_reader_opens_a_file_by_itself():
    by_module = {
        path.relative_to(ROOT).as_posix(): openings(path.read_text()) for path in (*library_files(), *example_files())
    }
    others = {module: calls - ALLOWED.get(module, {}).keys() for module, calls in by_module.items()}
    others = {module: calls for module, calls in others.items() if calls}
    assert others == {}
    assert {module: calls.keys() - by_module.get(module, set()) for module, calls in ALLOWED.items()} == {
        module: set() for module in ALLOWED
    }, "what is allowed is not called any more"
