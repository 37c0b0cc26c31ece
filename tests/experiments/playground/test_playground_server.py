"""A served page against strangers, by HTTP alone; it needs the environment of `make playground-env`."""

import base64
import contextlib
import http.client
import io
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from tests.experiments.playground.test_playground_page import PYTHON, run, serving
from tests.io.test_picture_files import EPS, declaring, run_programs

__all__ = ["run", "run_programs"]  # fixtures
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="gradio's environment is not there: make playground-env"),
]
CALL = "/gradio_api/call/v2/generate"


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("page"), f"--workdir={run}") as served:
        yield served


@contextlib.contextmanager
def answered(page, method, path, body=None, **headers):
    """The answer to one request, headers as they are named here with "_" for "-"."""
    line = http.client.HTTPConnection(page.address.removeprefix("http://"), timeout=120)
    try:
        line.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            line.putheader(name.replace("_", "-"), value)
        if body is not None and "Content_Length" not in headers:
            line.putheader("Content-Length", str(len(body)))
        line.endheaders(body)
        yield line.getresponse()
    finally:
        line.close()


def status(page, method, path, body=None, **headers):
    with answered(page, method, path, body, **headers) as answer:
        return answer.status


def memory(page):
    """(bytes that the server holds, the most that it held)."""
    said = pathlib.Path(f"/proc/{page._server.pid}/status").read_text()
    return tuple(1024 * int(re.search(rf"{name}:\s+(\d+)", said)[1]) for name in ("VmRSS", "VmHWM"))


def test_other_hosts_and_origins_are_not_answered(page):
    own = page.address.removeprefix("http://")
    body = json.dumps({"label": 1}).encode()
    kind = {"Content_Type": "application/json"}
    assert status(page, "GET", "/") == status(page, "POST", CALL, body, Origin=page.address, **kind) == 200
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/hostname"):
        assert status(page, "GET", path, Host="evil.example") == 403
        assert status(page, "GET", path, Origin="http://evil.example") == 403
    for headers in (
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Origin": f"http://{own.replace('127.0.0.1', 'localhost')}"},
    ):
        for path in (CALL, "/gradio_api/queue/join", "/gradio_api/upload"):
            assert status(page, "POST", path, body, **kind, **headers) == 403
    port = own.partition(":")[2]
    assert status(page, "GET", "/", Host=f"localhost:{port}") == 200


def test_large_bodies_are_refused_before_they_are_read(page):
    _, most = memory(page)
    for path in (CALL, "/gradio_api/upload", "/gradio_api/queue/join"):
        assert status(page, "POST", path, b"{", Content_Length="300000000") == 413
        assert status(page, "POST", path, None, Transfer_Encoding="chunked") == 411
    assert memory(page)[1] - most < 50e6


def test_an_unknown_field_and_a_body_that_is_no_table_are_mistakes_of_the_request(page):
    kind = {"Content_Type": "application/json"}
    for body, words in ((b'{"lable": 1}', "'lable' is not a field. Valid: prompt, "), (b"[", "not valid JSON")):
        with answered(page, "POST", CALL, body, **kind) as answer:
            assert answer.status == 400 and words in json.load(answer)["error"]
    assert page.ask(label=1, seed=3)[1] is None


def test_requests_out_of_range_take_no_memory_and_no_time(page):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    large = base64.b64encode(declaring("PNG", 13_000, 13_000)).decode()
    page.ask(label=1, image=picture, strength=0.5)
    _, most = memory(page)
    for wrong, words in (
        ({"image": picture, "margins": [40_000, 0, 40_000, 0]}, "the picture has 40008 x 40008 pixels"),
        ({"image": picture, "margins": [10**9, 0, 0, 0]}, "margins = [1000000000, 0, 0, 0]. Valid: "),
        ({"image": picture, "resamplings": 10**9}, "resamplings = 1000000000. Valid: "),
        ({"steps": 1_000_000}, "steps = 1000000. Valid: "),
        ({"batch": 10**9}, "batch = 1000000000. Valid: "),
        ({"image": large}, "declares 13000 x 13000 pixels"),
        ({"image": base64.b64encode(EPS).decode()}, "is not a valid picture in one of these formats"),
    ):
        found, error = page.ask(label=1, **wrong)
        assert found is None and words in error
    assert memory(page)[1] - most < 50e6


def test_eps_content_sent_to_the_page_runs_nothing(run, run_programs, tmp_path):
    with serving(tmp_path / "page", f"--workdir={run}") as served:  # it has the stand-in of Ghostscript on its PATH
        for field in ("image", "mask"):
            assert served.ask(label=1, **{field: base64.b64encode(EPS).decode()})[0] is None
    assert run_programs() == ""


def test_a_job_ends_when_its_client_leaves(page):
    body = json.dumps({"label": 1, "seed": 77, "steps": 1000, "batch": 64}).encode()
    with answered(page, "POST", CALL, body, Content_Type="application/json") as answer:
        number = json.load(answer)["event_id"]
    with answered(page, "GET", f"{CALL}/{number}") as answer:
        while b"generating" not in answer.readline():
            pass
    page.until_said("seed 77, 64 at once: by the API: stopped")
    assert not (page.out / "77.png").exists()
    assert page.ask(label=1, seed=78)[1] is None  # the line goes on
