"""Runs whose folder is an object store's address or a mounted bucket are refused in a sentence, and leave no files."""

import builtins
import errno
import fcntl
import os
import pathlib

import pytest

from configs import digits
from diffusion.experiments import train
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.recipe import ConfigError, fields
from tests.reliability.driver import train_command

ADDRESSES = ["hdfs://host/run", "gs:/bucket/run", "file:///tmp/run"]


class MountedStore:
    """A bucket that is mounted as a folder, and lacks one operation of a file system.

    A store puts, gets, lists and deletes complete objects, which lie as files under `root`. An operation of the
    operating system without a counterpart in the store fails below `root`, as under gcsfuse, s3fs and Mountpoint. With
    `silently` the operation reports success, but does nothing.
    """

    def __init__(self, root, monkeypatch, lacking, silently=False):
        self.root, self.lacking, self.silently = root, lacking, silently
        for module, name, check in (
            (os, "rename", self.rename),
            (os, "replace", self.replace),
            (os, "fsync", self.fsync),
            (fcntl, "flock", self.lock),
            (builtins, "open", self.open),
            (os, "open", self.open),
        ):
            real = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *args, real=real, check=check, **rest: check(real, *args, **rest))

    def list(self):
        """The names of the objects; a store has no empty folders."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def within(self, path):
        path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
        return pathlib.Path(path).is_relative_to(self.root)

    def fails(self, operation, number):
        if operation != self.lacking:
            return False
        if not self.silently:
            raise OSError(number, os.strerror(number))
        return True

    def rename(self, real, old, new, **options):
        if not (self.within(old) and os.path.isdir(old) and self.fails("rename", errno.ENOTSUP)):
            real(old, new, **options)

    def replace(self, real, old, new, **options):
        if not (self.within(old) and self.fails("replace", errno.ENOSYS)):
            real(old, new, **options)

    def fsync(self, real, file):
        if not (self.within(file if isinstance(file, int) else file.fileno()) and self.fails("fsync", errno.EINVAL)):
            real(file)

    def lock(self, real, file, how):
        if not (self.within(file.fileno()) and self.fails("lock", errno.ENOLCK)):
            real(file, how)

    def open(self, real, path, mode="r", *args, **options):
        appends = bool(mode & os.O_APPEND) if isinstance(mode, int) else "a" in mode
        if appends and not isinstance(path, int) and self.within(path) and self.fails("append", errno.ENOTSUP):
            mode = mode & ~os.O_APPEND | os.O_TRUNC if isinstance(mode, int) else mode.replace("a", "w")
        return real(path, mode, *args, **options)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("append", "cannot append to a file"),
        ("rename", "cannot rename a folder"),
        ("lock", r"cannot lock a file \(flock\)"),
        ("replace", r"cannot replace a file by another"),
        ("fsync", r"cannot flush a file to disk \(fsync\)"),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_a_mounted_bucket_is_refused_by_the_operation_that_it_lacks(tmp_path, monkeypatch, lacking, words, new):
    """The bucket is refused before the state is traced, by the function that trains."""
    if not new:
        (tmp_path / "bucket").mkdir()
        (tmp_path / "bucket/mine").write_text("kept")
    store = MountedStore(tmp_path / "bucket", monkeypatch, lacking)
    monkeypatch.setattr(train.sharding, "abstract", lambda *_: pytest.fail("the state was traced"))
    folder = tmp_path / "bucket" / ("run" if new else "")
    with pytest.raises(WorkdirError, match=words) as error:
        train.run(digits.get_config("tiny"), folder)
    assert "Filestore" in str(error.value) and "mounted as a folder" in str(error.value)
    assert [name for name in store.list() if name != ".lock"] == ([] if new else ["mine"])
    assert folder.exists() == (not new)


@pytest.mark.parametrize("lacking", ["append", "rename", "replace"])
def test_a_store_that_reports_false_success_is_refused_too(tmp_path, monkeypatch, lacking):
    store = MountedStore(tmp_path, monkeypatch, lacking, silently=True)
    with pytest.raises(WorkdirError, match="though it claims to"), workdir.lock(tmp_path / "run"):
        pass
    assert store.list() == []


def test_a_file_system_that_lacks_nothing_is_taken(tmp_path, monkeypatch):
    store = MountedStore(tmp_path, monkeypatch, lacking=None)
    with workdir.lock(tmp_path / "run"):
        assert store.list() == ["run/.lock"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_disk_is_not_taken_for_a_store(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with pytest.raises(WorkdirError, match=os.strerror(number)) as error, workdir.lock(tmp_path):
        pass
    assert "bucket" not in str(error.value)


@pytest.mark.extended
@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_refused_before_anything_is_made(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkdirError, match="no append, no rename and no locks"):
        train.run(digits.get_config("tiny"), address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", [*ADDRESSES, "gs://bucket/run", "s3://bucket/run"])
@pytest.mark.parametrize("field", ["data.dir", "init_from.path"])
def test_addresses_of_data_and_weights_are_refused(address, field):
    config = digits.get_config()
    config.update_from_flattened_dict({field: address})
    with pytest.raises(ConfigError, match=rf"config.{field} = '{address}'.*local or shared file system"):
        fields.check(config)


def test_paths_that_look_a_little_like_addresses_are_taken():
    for path in ("runs/a:b", "C:/runs", "/data/x:/y", "", "runs"):
        config = digits.get_config()
        config.data.dir = path
        fields.check(config)


@pytest.mark.slow
def test_addresses_on_the_command_line(driver, tmp_path):
    """Every command refuses an address for every path with one sentence and status 2, and makes no folder "gs:"."""
    run = f"--workdir={tmp_path / 'run'}"
    for command in (
        train_command("gs:/bucket/run"),
        train_command(tmp_path / "run", {"data.dir": "hdfs://bucket/data"}),
        ["experiments.train", "--config=configs/digits.py", "--workdir", "hdfs://bucket/run"],
        ["experiments.sample", run, "--out=gs:/bucket/out"],
        ["experiments.sample", "--workdir=gs://"],
        ["experiments.evaluate", "--workdir=hdfs://bucket/run"],
    ):
        result = driver.run(*command, cwd=tmp_path)
        assert result.status == 2 and result.out == "", result
        assert "no append, no rename and no locks" in result.err and "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []
