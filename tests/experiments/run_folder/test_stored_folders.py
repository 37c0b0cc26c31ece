"""Plain folders and files of a store: what is fetched and sent, when, and what a cut or a wrong name leaves."""

import fcntl
import os
import pathlib
import shutil
import sys
import types

import pytest

from diffusion.experiments import command_line, command_words, config_flag, stored_paths
from diffusion.experiments.run_folder import stored_folders, stored_runs
from diffusion.experiments.run_folder.mirror import Mirror
from diffusion.io import stores
from diffusion.io.stores import StoreError
from tests.object_stores import DiskStore, every_tenth, store

ADDRESS = "s3://bucket/data"
FILES = {"a/1.png": b"one", "a/2.png": b"two", "b/3.png": b"three", "names.csv": b"1,2,3"}


class Bucket:
    """A store of its own, and the calls that this process makes of it; `before` acts on each."""

    def __init__(self, root: pathlib.Path, monkeypatch):
        self.root, self.before, self.calls = root, None, []
        monkeypatch.setattr(stores, "connect", self.connect)
        monkeypatch.setenv("DIFFUSION_CACHE", str(root / "cache"))
        for name, content in FILES.items():
            self.put(f"data/{name}", content)

    def connect(self, address: str):
        system = DiskStore(self.root / "store", self.before)
        system.calls = self.calls
        return store(system, address.partition("://")[2])

    def put(self, name: str, content: bytes) -> None:
        path = self.root / "store" / "bucket" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    def fetched(self) -> list[str]:
        """The objects that were fetched since the last question."""
        names = sorted(path.removeprefix("bucket/") for name, path in self.calls if name == "fetch")
        self.calls.clear()
        return names


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    return Bucket(tmp_path, monkeypatch)


def fetch(address: str = ADDRESS) -> pathlib.Path:
    folder = stored_folders.Input(address)
    folder.fetch()
    return folder.path


def here(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_fetched_and_then_what_has_changed_alone(bucket):
    folder = fetch()
    assert here(folder) == FILES and bucket.fetched() == sorted(f"data/{name}" for name in FILES)
    assert fetch() == folder and bucket.fetched() == []
    bucket.put("data/a/1.png", b"eno")  # of the same size
    bucket.put("data/c/4.png", b"four")
    (bucket.root / "store/bucket/data/b/3.png").unlink()
    (folder / "names.csv").write_bytes(b"1,")  # damaged here
    fetch()
    assert bucket.fetched() == ["data/a/1.png", "data/c/4.png", "data/names.csv"]
    assert here(folder) == {"a/1.png": b"eno", "a/2.png": b"two", "c/4.png": b"four", "names.csv": b"1,2,3"}


def test_a_folder_is_fetched_by_one_command_at_a_time(bucket):
    """Another command could not even share the lock while files are fetched, and none holds it afterwards."""
    lock = stored_folders.local(ADDRESS).with_name(".data.lock")
    refused = []

    def try_to_share(path):
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(path)

    bucket.before = lambda number, name, path: try_to_share(path) if name == "fetch" else None
    fetch()
    assert len(refused) == len(FILES)
    try_to_share("afterwards")
    assert len(refused) == len(FILES)


def test_one_object_is_fetched_without_its_neighbours(bucket):
    path = fetch("s3://bucket/data/a/1.png")
    assert path.read_bytes() == b"one" and bucket.fetched() == ["data/a/1.png"]
    assert [file.name for file in path.parent.iterdir() if not file.name.startswith(".")] == ["1.png"]
    fetch("s3://bucket/data/a/1.png")
    assert bucket.fetched() == []


def test_a_run_is_fetched_as_a_run(bucket):
    mirror = Mirror("s3://bucket/run")
    mirror.folder.mkdir(parents=True)
    with mirror.held():
        (mirror.folder / "config.json").write_text("{}")
    shutil.rmtree(bucket.root / "cache")
    folder = fetch("s3://bucket/run")
    assert folder == stored_runs.local("s3://bucket/run") and (folder / "config.json").read_text() == "{}"


def test_a_store_that_fails_every_tenth_call_gives_all(bucket):
    for number in range(40):
        bucket.put(f"data/{number}", b"%d" % number)
    bucket.before = every_tenth
    assert len(here(fetch())) == len(FILES) + 40


@pytest.mark.parametrize("cut", range(3, 7))
def test_a_fetch_that_is_cut_off_goes_on_where_it_was(bucket, monkeypatch, cut):
    monkeypatch.setattr(stored_folders, "THREADS", 1)

    def down(number, name, path):
        if number >= cut:
            raise PermissionError("the key has expired")

    bucket.before = down
    with pytest.raises(StoreError, match="the key has expired"):
        fetch()
    done = [name for name, _ in bucket.calls[: cut - 1]].count("fetch")
    bucket.before = None
    bucket.calls.clear()
    assert here(fetch()) == FILES and len(bucket.fetched()) == len(FILES) - done


@pytest.mark.parametrize("seconds, writes", [(-1.0, 5), (1e9, 1)])
def test_what_is_fetched_is_recorded_from_time_to_time_and_at_the_end(bucket, monkeypatch, seconds, writes):
    """For a kill that no handler sees: after each of the four files, or only at the end."""
    monkeypatch.setattr(stored_folders, "RECORDED", seconds)
    write, recorded = stored_folders._write, []
    monkeypatch.setattr(stored_folders, "_write", lambda path, have: recorded.append(len(have)) or write(path, have))
    fetch()
    assert len(recorded) == writes and recorded[-1] == len(FILES)


def test_a_run_whose_files_go_while_they_are_read_is_tried_five_times(bucket, monkeypatch):
    tried = []

    def gone(copy, snapshot, is_ours, every=False):
        tried.append(snapshot)
        raise FileNotFoundError("state.safetensors")

    holder = types.SimpleNamespace(token="another machine's")
    monkeypatch.setattr(stored_runs, "latest", lambda store: types.SimpleNamespace(number=3, holder=holder))
    monkeypatch.setattr(stored_runs, "fetch", gone)
    with pytest.raises(FileNotFoundError, match=r"state\.safetensors"):
        stored_runs.Reading("s3://bucket/run")
    assert len(tried) == 5


def test_nothing_there_and_a_disk_that_is_too_small_are_said_before_anything_is_fetched(bucket, monkeypatch):
    with pytest.raises(StoreError, match=r"s3://bucket/date holds no objects\. Check its spelling"):
        fetch("s3://bucket/date")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=15))
    with pytest.raises(StoreError, match=r"has 16 bytes to fetch, and the disk .* has 15 free\. Set DIFFUSION_CACHE"):
        fetch()
    assert bucket.fetched() == []


@pytest.mark.parametrize("name", ["../../outside", "a/../../../outside", "a//b", "./a"])
def test_an_object_whose_name_leads_out_is_refused(bucket, monkeypatch, name):
    monkeypatch.setattr(stores.Store, "versions", lambda self: {name: (3, "1")})
    with pytest.raises(StoreError, match="whose name is not the path of a file below a folder"):
        fetch()
    assert bucket.fetched() == [] and not (bucket.root / "outside").exists()


def test_an_empty_object_that_marks_a_folder_is_no_file(bucket, monkeypatch):
    find = DiskStore.find
    marked = lambda self, path, detail=False: find(self, path, detail) | {"bucket/data/a/": {"size": 0, "ETag": "1"}}
    monkeypatch.setattr(DiskStore, "find", lambda self, path, detail=False: marked(self, path, True))
    assert here(fetch()) == FILES


def test_an_output_is_sent_in_the_order_of_writing_and_nothing_else(bucket):
    old = stored_folders.local("s3://bucket/out") / "old"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of an earlier command")
    assert stored_folders.Output("s3://bucket/out").send() == 1
    bucket.calls.clear()
    output = stored_folders.Output("s3://bucket/out")
    for time, name in enumerate(("shards/2", "shards/1", "complete.json", "shards/.half.new")):
        path = output.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
        os.utime(path, (time, time))
    assert output.send() == 3
    sent = [path for name, path in bucket.calls if name == "send"]
    assert sent == ["bucket/out/shards/2", "bucket/out/shards/1", "bucket/out/complete.json"]
    assert (bucket.root / "store/bucket/out/shards/1").read_bytes() == b"shards/1"


@pytest.mark.parametrize("ends", ["killed", "cut off"])
def test_what_an_interrupted_command_left_is_sent_by_the_one_that_resumes(bucket, monkeypatch, ends):
    first = stored_folders.Output("s3://bucket/out")
    first.path.mkdir()
    for name in ("1", "2"):
        (first.path / name).write_bytes(name.encode())
        os.utime(first.path / name, (int(name), int(name)))
    if ends == "cut off":  # at the second file
        with monkeypatch.context() as patch:
            patch.setattr(DiskStore, "put_file", _only_the_first(DiskStore.put_file))
            with pytest.raises(StoreError):
                first.send()
    second = stored_folders.Output("s3://bucket/out")
    (second.path / "3").write_bytes(b"3")
    assert second.send() == (3 if ends == "killed" else 2)
    assert here(bucket.root / "store/bucket/out") == {"1": b"1", "2": b"2", "3": b"3"}
    assert stored_folders.Output("s3://bucket/out").send() == 0


def _only_the_first(put_file):
    def put(self, lpath, rpath):
        if not rpath.endswith("/1"):
            raise ConnectionError("no route to the store")
        put_file(self, lpath, rpath)

    return put


def test_an_output_that_is_one_file_is_one_object(bucket):
    output = stored_folders.Output("s3://bucket/plans/plan.json")
    output.path.write_text("{}")
    assert output.send() == 1 and (bucket.root / "store/bucket/plans/plan.json").read_text() == "{}"


def test_the_home_folder_of_a_command_line_is_that_of_the_user(monkeypatch):
    """bash passes --workdir=~/runs as it stands: it reads ~ only where a word begins with it."""
    monkeypatch.setenv("HOME", "/home/ann")
    words = [
        "train",
        "--workdir=~/runs/a",
        "--out",
        "~/b",
        "--data.dir=~",
        "--prompt=~5 dogs",
        "--config={'path': '~'}",
    ]
    home = ["--workdir=/home/ann/runs/a", "--out", "/home/ann/b", "--data.dir=/home/ann"]
    assert command_words.with_home(words) == ["train", *home, *words[5:]]
    parsed = []
    monkeypatch.setattr(config_flag, "_checks", [lambda argv: parsed.extend(argv)])
    monkeypatch.setattr(command_line.flags, "FLAGS", lambda argv: sys.exit(3))
    with pytest.raises(SystemExit):
        command_line._parse(["train", "--workdir=~/runs/a"])
    assert parsed == ["train", "--workdir=/home/ann/runs/a"]


@pytest.mark.parametrize("form", [["--config.data.dir=s3://bucket/data"], ["--config.data.dir", "s3://bucket/data"]])
def test_addresses_of_a_command_line_become_local_paths(bucket, form):
    words = ["train", "--config=digits", *form, "--workdir=s3://bucket/run", "--out=s3://bucket/out"]
    local, inputs, outputs = stored_paths._with_local_folders(words)
    folder = str(stored_folders.local(ADDRESS))
    assert " ".join(local[2:-2]).replace("=", " ") == f"--config.data.dir {folder}"
    assert local[-2:] == ["--workdir=s3://bucket/run", f"--out={stored_folders.local('s3://bucket/out')}"]
    assert [folder.address for folder in inputs] == [ADDRESS] and bucket.fetched() == []
    assert [output.address for output in outputs] == ["s3://bucket/out"]


def test_addresses_within_an_entry_of_several_fields_become_local_paths(bucket):
    word = """--config.data.source={"name": "class_folders", "path": "s3://bucket/data", 'other': 'gs://b/c'}"""
    (local,), inputs, _ = stored_paths._with_local_folders([word])
    paths = [str(stored_folders.local(address)) for address in (ADDRESS, "gs://b/c")]
    assert local == word.replace(ADDRESS, paths[0]).replace("gs://b/c", paths[1])
    assert [str(folder.path) for folder in inputs] == paths


@pytest.mark.parametrize("word", ["--extend=s3://bucket/mine.py", "--config=gs://bucket/mine.py", "--help"])
def test_code_is_not_taken_from_a_store_and_help_connects_to_none(bucket, word):
    words = ["train", word, "--workdir=s3://bucket/run", *(["--out=s3://bucket/out"] if word == "--help" else [])]
    assert stored_paths._with_local_folders(words) == (words, [], []) and bucket.calls == []
