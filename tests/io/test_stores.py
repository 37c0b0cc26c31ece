"""Object stores: what is tried again, what is an answer, and who has created an object."""

import sys
import types

import pytest

from diffusion.io import stores
from tests.object_stores import DiskStore, every_tenth, store


@pytest.mark.parametrize(
    ("word", "is_one"),
    [
        ("s3://bucket/run", True), ("gs://bucket", True), ("s3://", False), ("s3:///", False),
        ("gs:/bucket/run", False), ("hdfs://host/run", False), ("file:///tmp/run", False), ("runs/digits", False),
        ("", False),
    ],
)  # fmt: skip
def test_what_is_an_address(word, is_one):
    assert stores.is_address(word) == is_one


def test_objects_are_written_read_listed_and_removed(tmp_path):
    objects = store(DiskStore(tmp_path))
    (tmp_path / "file").write_bytes(b"of a file")
    objects.write("a/1", b"one")
    objects.send("a/b/2", tmp_path / "file")
    objects.write("c/3", b"three")
    assert objects.names("a") == ["a/1", "a/b/2"] and objects.names("d") == []
    assert objects.read("a/1") == b"one" and objects.read("a/b/2") == b"of a file"
    objects.fetch("c/3", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"three"
    objects.remove(["a/1", "never there", "c/3"])
    assert objects.names("a") == ["a/b/2"]
    with pytest.raises(FileNotFoundError):
        objects.read("a/1")
    with pytest.raises(FileNotFoundError):
        objects.fetch("a/1", tmp_path / "fetched")


def test_a_store_that_knows_no_folder_of_the_prefix_has_nothing_there(tmp_path):
    class Unlisted(DiskStore):
        def find(self, path):
            raise FileNotFoundError(path)

    assert store(Unlisted(tmp_path), pause=lambda seconds: pytest.fail("it waited")).names("leases") == []


@pytest.mark.parametrize(
    "info, version",
    [
        ({"ETag": "a", "generation": "1", "mtime": 3.0}, "a"),
        ({"generation": "1", "etag": "b", "mtime": 3.0}, "1"),
        ({"ETag": None, "generation": "", "etag": "b", "mtime": 3.0}, "b"),
        ({"mtime": 3.0}, "3.0"),
        ({}, ""),
    ],
)
def test_the_version_of_an_object_is_what_its_store_says_of_the_content(tmp_path, info, version):
    """A folder that some tools mark by an empty object of its name is none."""

    class Listing(DiskStore):
        def find(self, path, detail=False):
            return {"bucket/run/a": {"size": 3, **info}, "bucket/run/folder/": {"size": 0, **info}}

    assert store(Listing(tmp_path)).versions() == {"a": (3, version)}


def test_a_store_that_fails_every_tenth_call_does_everything(tmp_path):
    system = DiskStore(tmp_path, every_tenth)
    waits = []
    objects = store(system, pause=waits.append)
    for number in range(50):
        objects.write(f"a/{number:02d}", b"%d" % number)
    assert [objects.read(name) for name in objects.names("a")] == [b"%d" % number for number in range(50)]
    assert len(waits) == len(system.calls) // 10 >= 10
    assert all(stores.WAITS[0] <= wait < 2 * stores.WAITS[0] for wait in waits)  # the second attempt succeeds


def test_a_store_that_keeps_failing_is_given_up_after_growing_waits(tmp_path):
    def down(number, name, path):
        raise OSError(28, "No space left on device")

    waits = []
    with pytest.raises(stores.StoreError, match=r"s3://bucket/run could not write a: OSError: .*No space left"):
        store(DiskStore(tmp_path, down), pause=waits.append).write("a", b"")
    assert len(waits) == 5
    assert all(wait <= actual < 2 * wait for wait, actual in zip((0.5, 1, 2, 4, 8), waits))


@pytest.mark.parametrize("error", [PermissionError("Forbidden"), FileNotFoundError("no such bucket")])
def test_what_no_other_attempt_would_change_is_said_at_once(tmp_path, error):
    def refused(number, name, path):
        raise error

    objects = store(DiskStore(tmp_path, refused), pause=lambda seconds: pytest.fail("it waited"))
    with pytest.raises(stores.StoreError, match=str(error)):
        objects.write("a", b"")


def test_of_two_creators_one_succeeds(tmp_path):
    first, second = store(DiskStore(tmp_path)), store(DiskStore(tmp_path))
    assert first.create("a", b"first") and not second.create("a", b"second")
    assert first.read("a") == b"first"


@pytest.mark.parametrize("is_done", [True, False])
def test_a_creator_whose_answer_is_lost_looks_whose_the_object_is(tmp_path, is_done):
    """As a connection that breaks before, or after, the store has done what it was asked for."""

    class Breaking(DiskStore):
        def pipe_file(self, path, value, mode="overwrite"):
            breaks = not any(name == "create" for name, _ in self.calls)
            if is_done or not breaks:
                super().pipe_file(path, value, mode)
            if breaks or is_done:
                self.calls.append(("create", path))
                raise ConnectionError("reset by peer")

    objects = store(Breaking(tmp_path))
    assert objects.create("a", b"mine")
    assert objects.read("a") == b"mine"


def test_the_faults_of_a_library_are_tried_again_as_those_of_the_system_are(tmp_path):
    """Which need not be an OSError, as those of botocore are not."""

    class Fault(Exception):
        pass

    class Failing(DiskStore):
        """Each operation fails twice: with the library's error, and with the system's."""

        def _begin(self, name, path):
            place = super()._begin(name, path)
            if len(self.calls) % 3:
                raise Fault("throttled") if len(self.calls) % 3 == 1 else ConnectionError("reset by peer")
            return place

    waits = []
    objects = stores.Store(Failing(tmp_path), "bucket/run", "s3://bucket/run", (Fault,), waits.append)
    objects.write("a", b"one")
    assert objects.read("a") == b"one" and len(waits) == 4
    never = lambda number, name, path: (_ for _ in ()).throw(Fault("throttled"))
    failing = stores.Store(DiskStore(tmp_path, never), "bucket/run", "s3://bucket/run", (Fault,), waits.append)
    with pytest.raises(stores.StoreError, match="could not read a: Fault: throttled"):
        failing.read("a")


def test_a_creator_looks_whose_the_object_is_after_a_fault_of_the_library(tmp_path):
    class Fault(Exception):
        pass

    class Breaking(DiskStore):
        def pipe_file(self, path, value, mode="overwrite"):
            super().pipe_file(path, value, mode)
            raise Fault("the answer is lost")

    fail = lambda seconds: pytest.fail("it waited")
    assert stores.Store(Breaking(tmp_path), "bucket/run", "s3://bucket/run", (Fault,), fail).create("a", b"mine")


def test_a_store_of_an_address_lists_what_is_there_now(tmp_path, monkeypatch):
    """Listings that are kept, and clients that are shared with another process, show the objects of before."""
    system, asked = DiskStore(tmp_path), []
    filesystem = lambda scheme, **options: asked.append((scheme, options)) or system
    fault = type("Fault", (Exception,), {})
    monkeypatch.setitem(sys.modules, "fsspec", types.SimpleNamespace(filesystem=filesystem))
    monkeypatch.setitem(sys.modules, "s3fs", types.ModuleType("s3fs"))
    for module in ("botocore", "botocore.exceptions", "aiohttp"):
        names = ("BotoCoreError", "ClientError")
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**dict.fromkeys(names, fault)))
    objects = stores.connect("s3://bucket/run/")
    assert asked == [("s3", {"use_listings_cache": False, "skip_instance_cache": True})]
    objects.write("a", b"one")
    assert (tmp_path / "bucket/run/a").read_bytes() == b"one" and objects.names("") == ["a"]
    assert system.calls == [("write", "bucket/run/a"), ("list", "bucket/run")]  # a store takes no stroke for another
    system._before = lambda number, name, path: (_ for _ in ()).throw(fault("throttled"))
    objects._pause = lambda seconds: None
    with pytest.raises(stores.StoreError, match="s3://bucket/run/ could not read a: Fault: throttled"):
        objects.read("a")


@pytest.mark.parametrize(("address", "library"), [("s3://bucket/run", "s3fs"), ("gs://bucket/run", "gcsfs")])
def test_a_missing_library_is_named_with_its_remedy(address, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(stores.StoreError, match=rf"{library}.*pip install 'jax-diffusion\[stores\]'"):
        stores.connect(address)
