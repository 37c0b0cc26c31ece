"""The page in a browser, and its API: what a visitor does, two at once, and one who leaves.

It needs the environment of `make playground-env`, and chromium.
"""

import base64
import contextlib
import functools
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion import text_to_image
from diffusion.adapters import ip_adapter_files
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate
from diffusion.io import pictures
from diffusion.recipe import Recipe
from diffusion.training.checkpointing import checkpoints
from tests import browser, commands
from tests.experiments.run.test_image_prompt_tuning import encoder
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines
from tests.text_to_image.test_attached import net, picture as control_picture

PYTHON = commands.ROOT / ".venv-playground/bin/python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not browser.installed(), reason=browser.MISSING),
    pytest.mark.skipif(not PYTHON.exists(), reason="gradio's environment is not there: make playground-env"),
]
DOCS = (commands.ROOT / "docs/playground.md").read_text()
PATIENCE = 300  # seconds for what is compiled on a busy machine


class Served:
    """A page that is served: its address, and what its terminal says."""

    def __init__(self, address, log, out, server):
        self.address, self._log, self.out, self._server = address, log, out, server

    @property
    def said(self):
        return self._log.read_text()

    @contextlib.contextmanager
    def paused(self):
        """What is clicked meanwhile is there once it goes on, however slow the browser is."""
        self._server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(signal.SIGCONT)

    def until_said(self, words, seconds=PATIENCE):
        ends = time.monotonic() + seconds
        while words not in self.said:
            assert time.monotonic() < ends, self.said
            time.sleep(0.05)

    def ask(self, **parameters):
        """What the API answers: (files in base64, or None; the error, or None)."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        place = f"{self.address}/gradio_api/call/v2/generate"
        body = urllib.request.Request(place, json.dumps(parameters).encode(), {"Content-Type": "application/json"})
        with opener.open(body, timeout=PATIENCE) as answer:
            event = json.load(answer)["event_id"]
        with opener.open(f"{place}/{event}", timeout=PATIENCE) as answer:
            said = answer.read().decode()
        kind, data = re.findall(r"event: (\w+)\ndata: (.*)", said)[-1]
        return (json.loads(data)[0], None) if kind == "complete" else (None, data)


@contextlib.contextmanager
def serving(place, *words):
    place.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = place / "log.txt"
    out = place / "out"
    command = [PYTHON, "-m", "experiments.playground", *words, f"--port={port}", f"--out={out}"]
    with open(log, "w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=commands.ROOT)
    served = Served(f"http://127.0.0.1:{port}", log, out, server)
    try:
        served.until_said(f"open {served.address}")
        time.sleep(1)
        yield served
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def run(tmp_path_factory, compilation_cache):
    """The folder of a tiny digits run."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    command = [sys.executable, "-m", "experiments.train", "--config=configs/digits.py:tiny", f"--workdir={folder}"]
    subprocess.run(command, check=True, cwd=commands.ROOT, capture_output=True, timeout=600)
    return folder


@pytest.fixture(scope="module")
def digits(run, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("digits"), f"--workdir={run}") as served:
        yield served


@pytest.fixture(scope="module")
def page():
    with browser.open() as window:
        yield window


@functools.cache
def samples(run):
    """(labels, seeds) -> the samples of `experiments.sample`."""
    params, _ = checkpoints.load_ema(run)
    return functools.partial(generate.generator(Recipe.from_config(workdir.read_config(run), (8, 8, 1))).images, params)


def expected(run, label, seed):
    return samples(run)(np.array([label], np.int32), np.array([seed], np.uint32))[0]


def visit(page, served):
    page.visit("about:blank")
    _ = page.requests(), page.errors()
    page.visit(served.address)
    page.until("return document.querySelector('#make')", 60)
    page.until("return document.querySelector('.live.empty')", 60)


def put(page, css, value):
    """Writes into a field, and leaves it, so that the page takes it."""
    page.run("const e = document.querySelector(arguments[0]); e.value = ''; e.focus(); e.select?.()", css)
    page.type(css, f"{value}<Tab>")


def choose(page, name, value):
    """Chooses in a drop-down list, by its text."""
    page.click(f"#{name} input")
    named = f"e => e.innerText.replace('\u2713', '').trim() === '{value}'"
    option = f"[...document.querySelectorAll('#{name} [role=option]')].find({named})"
    page.until(f"return {option}", 30)
    page.run(f"const o = {option}; o.scrollIntoView(); o.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")
    page.until(f"return document.querySelector('#{name} input').value === '{value}'", 30)


def made(page, seconds=PATIENCE):
    """Waits for the pictures; returns them as arrays."""
    page.until("return document.querySelector('.live.done, .live.refused')", seconds)
    assert page.texts(".live.refused") == []
    shown = page.run("return [...document.querySelectorAll('.live .made img')].map(image => image.src)")
    read = lambda address: np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
    return [read(address) for address in shown]


WATCH = """
  window.seen = [];
  new MutationObserver(() => {
    const live = document.querySelector('.live[data-step]');
    if (live && window.seen.at(-1) !== live.dataset.step) window.seen.push(live.dataset.step);
  }).observe(document.body, {childList: true, subtree: true, attributes: true});
"""


def test_a_picture_is_seen_at_each_step_and_is_the_commands(page, digits, run):
    visit(page, digits)
    page.run(WATCH)
    choose(page, "label", 3)
    put(page, "#seed input", 5)
    page.click("#make")
    (picture,) = made(page)
    wanted = expected(run, 3, 5)
    assert np.ptp(wanted) > 50
    np.testing.assert_allclose(picture[..., :1].astype(int), wanted, atol=1)
    seen = page.run("return window.seen").copy()
    assert len(seen) >= 2 and seen == sorted(set(seen)) and seen[-1] == "4", seen
    assert page.count(".live .strip img") == 4
    page.until("return document.querySelectorAll('#gallery .thumbnail-item').length === 1", 30)
    # The file is the same picture, and everything came from this machine.
    np.testing.assert_array_equal(pictures.read(digits.out / "5.png"), picture)
    away = {address for address in page.requests() if not address.startswith(("data:", "blob:", digits.address))}
    assert away == set() and page.errors() == []


def test_settings_load_back_from_the_gallery_and_from_a_file(page, digits):
    visit(page, digits)
    choose(page, "label", 7)
    put(page, "#seed input", 11)
    page.click("#make")
    made(page)
    put(page, "#seed input", 99)
    put(page, "#steps input[type=number]", 9)
    page.until("return document.querySelector('#gallery .thumbnail-item')", 30)
    page.click("#gallery .thumbnail-item")
    page.until("return document.querySelector('#load')?.offsetParent", 30)
    page.run("document.querySelector('#load').click()")
    fields = lambda: page.run(
        "return ['#seed input', '#steps input[type=number]', '#label input'].map("
        "css => document.querySelector(css).value)"
    )
    page.until("return document.querySelector('#seed input').value === '11'", 30)
    assert fields() == ["11", "4", "7"]
    visit(page, digits)
    assert fields()[0] == "0" and page.count("#gallery .thumbnail-item") == 0  # another visit has its own gallery
    page.run("document.querySelector('#reload button').click()")
    page.until("return document.querySelector('#file input[type=file]')", 30)
    page.type("#file input[type=file]", str(digits.out / "11.png"))
    page.until("return document.querySelector('#seed input').value === '11'", 30)
    assert fields() == ["11", "4", "7"]


@pytest.fixture
def picture(tmp_path):
    """(path, array) of a picture of 8 x 8."""
    array = np.repeat(np.random.default_rng(0).integers(0, 255, (8, 8, 1)), 3, axis=-1).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "picture.png")
    return tmp_path / "picture.png", array


def start_from(page, path):
    page.run("document.querySelector('#start button').click()")
    page.until("return document.querySelector('#brush input[type=file]')", 30)
    page.type("#brush input[type=file]", str(path))
    page.until(
        "return document.querySelector('#brush canvas').width !== 300 && "
        "document.querySelector('#brush canvas').offsetParent",
        30,
    )


def test_the_brush_marks_what_is_painted_and_the_rest_stays(page, digits, picture):
    path, array = picture
    visit(page, digits)
    start_from(page, path)
    page.drag("#brush canvas", (0.1, 0.1), (0.1, 0.9))
    page.click("#make")
    (found,) = made(page)
    np.testing.assert_array_equal(found[:, 4:], array[:, 4:])
    assert (found[:, 0] != array[:, 0]).mean() > 0.7


def load_settings(page, path, seed):
    """Uploads a picture that was made here, whose seed the form has not, and waits until the form has it."""
    page.run("for (const b of document.querySelectorAll('#file button[aria-label=Clear]')) b.click()")
    if not page.run("return document.querySelector('#file')?.offsetParent"):
        page.run("document.querySelector('#reload button').click()")
    page.until("return document.querySelector('#file input[type=file]')", 30)
    page.type("#file input[type=file]", str(path))
    page.until(f"return document.querySelector('#seed input').value === '{seed}'", 30)


def test_the_settings_of_a_picture_replace_the_picture_to_start_from(page, digits, picture):
    """Also where there is none, and where the same one was removed since; a file that a browser cannot show is said."""
    path, _ = picture
    shown = lambda: page.run("return !!document.querySelector('#brush canvas').offsetParent")
    visit(page, digits)
    put(page, "#seed input", 71)
    page.click("#make")
    made(page)
    start_from(page, path)
    page.drag("#brush canvas", (0.1, 0.1), (0.1, 0.9))
    put(page, "#seed input", 72)
    with digits.paused():
        page.run("document.querySelector('.live').classList.remove('done')")
        page.click("#make")
    made(page)
    load_settings(page, digits.out / "71.png", 71)
    page.until("return !document.querySelector('#brush canvas').offsetParent", 30)
    for _ in range(2):
        put(page, "#seed input", 99)
        load_settings(page, digits.out / "72.png", 72)
        page.until("return document.querySelector('#brush canvas').offsetParent", 30)
        page.run("document.querySelector('#brush .remove').click()")
        assert not shown()
    drawing = path.with_suffix(".tif")
    Image.open(path).save(drawing)
    page.type("#brush input[type=file]", str(drawing))
    page.until("return document.querySelector('#brush .unshown').offsetParent", 30)
    put(page, "#seed input", 73)
    page.run("document.querySelector('.live').classList.remove('done')")
    page.click("#make")
    made(page)
    assert pictures.settings_of(digits.out / "73.png")["mask"] is None


def test_what_is_refused_is_said_in_words(page, digits, tmp_path):
    large = tmp_path / "large.png"
    Image.new("RGB", (16, 16), "red").save(large)
    visit(page, digits)
    start_from(page, large)
    page.click("#make")
    page.until("return document.querySelector('.live.refused')", 60)
    assert "the picture with its margins has 16 x 16 pixels, but digits makes only 8 x 8" in page.texts(".live")[0]


def test_two_visitors_at_once_get_their_own_pictures(page, digits, run):
    with browser.open() as other:
        for window, label, seed in ((page, 2, 21), (other, 8, 22)):
            visit(window, digits)
            choose(window, "label", label)
            put(window, "#seed input", seed)
        page.click("#make")
        other.click("#make")
        for window, label, seed in ((page, 2, 21), (other, 8, 22)):
            (found,) = made(window)
            np.testing.assert_allclose(found[..., :1].astype(int), expected(run, label, seed), atol=1)
            window.until("return document.querySelectorAll('#gallery .thumbnail-item').length === 1", 30)


def long_one(page, served, seed):
    visit(page, served)
    put(page, "#seed input", seed)
    put(page, "#steps input[type=number]", 250)
    put(page, "#batch input[type=number]", 16)
    page.click("#make")
    page.until("return Number(document.querySelector('.live[data-step]')?.dataset.step) > 2", PATIENCE)


def test_closing_the_tab_stops_the_work(digits):
    with browser.open() as leaving:
        long_one(leaving, digits, 31)
    digits.until_said("seed 31, 16 at once: stopped after", 60)
    assert int(re.search(r"seed 31, .* stopped after (\d+) steps", digits.said)[1]) < 250
    assert not (digits.out / "31.png").exists()


def test_stop_stops_and_the_page_goes_on(page, digits):
    long_one(page, digits, 41)
    with digits.paused():
        page.click("#stop")
    digits.until_said("seed 41, 16 at once: stopped after", 60)
    page.until("return document.querySelector('.live.stopped')", 60)
    assert page.texts(".live .status")[0].startswith("stopped after step")
    put(page, "#steps input[type=number]", 4)
    put(page, "#batch input[type=number]", 1)
    page.click("#make")
    assert len(made(page)) == 1


def test_stop_ends_what_waits_in_line(page, digits):
    long_one(page, digits, 43)
    with browser.open() as waiting:
        visit(waiting, digits)
        put(waiting, "#seed input", 144)
        waiting.click("#make")
        waiting.until("return /queue/.test(document.querySelector('#live').innerText)", 60)
        waiting.click("#stop")
        time.sleep(1)
        page.click("#stop")
        waiting.until("return document.querySelector('.live.refused')", 60)
        assert "Stopped before the first step" in waiting.texts(".live")[0]
        assert not (digits.out / "144.png").exists()
        put(waiting, "#steps input[type=number]", 4)
        waiting.click("#make")
        waiting.until("return document.querySelector('.live.done')", PATIENCE)


SCROLLED = """
  const scrolls = (way, whole, shown) => /auto|scroll/.test(way) && whole > shown;
  return [...document.querySelectorAll('.gradio-container *')].filter(e => {
    const style = getComputedStyle(e);
    return e.offsetParent && (scrolls(style.overflowX, e.scrollWidth, e.clientWidth)
      || scrolls(style.overflowY, e.scrollHeight, e.clientHeight));
  }).map(e => e.outerHTML.slice(0, 100));
"""


@pytest.mark.parametrize("width", [400, 1300])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fills_the_window_and_nothing_in_it_scrolls(page, digits, dark, width):
    try:
        page.resize(width, 850, dark)
        visit(page, digits)
        assert page.run("return document.documentElement.scrollWidth") == width
        assert page.run("return document.querySelector('.gradio-container').offsetWidth") == width
        assert page.run(SCROLLED) == []
        page.run("for (const b of document.querySelectorAll('#start button, #reload button')) b.click()")
        page.until("return document.querySelector('#brush .stage')?.offsetParent", 30)
        assert page.run(SCROLLED) == []
        ground = page.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == dark
    finally:
        page.resize(1280, 900)


def test_the_api_takes_the_same_parameters(digits, run, picture):
    found, error = digits.ask(label=4, seed=51)
    assert error is None and len(found) == 1
    file = io.BytesIO(base64.b64decode(found[0]))
    np.testing.assert_allclose(np.asarray(Image.open(file))[..., :1].astype(int), expected(run, 4, 51), atol=1)
    assert json.loads(Image.open(file).text[pictures.KEY])["label"] == 4
    path, array = picture
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    coded = lambda array: base64.b64encode(png(array)).decode()
    (painted,), _ = digits.ask(label=4, image=base64.b64encode(path.read_bytes()).decode(), mask=coded(mask))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(painted))))[4:], array[4:])
    for wrong, words in (
        ({"prompt": "a cat"}, "digits receives a class and reads no prompt: without a text model"),
        ({"image": coded(array), "mask": coded(mask[:3])}, "but its picture has 8 x 8"),
        ({"batch": 10**8}, "batch = 100000000. Valid: "),
        ({"image": "/etc/hostname"}, "did not arrive completely"),
    ):
        assert words in digits.ask(**wrong)[1]


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def image_adapter(place, model):
    """The file of an IP-Adapter for a model, with its image encoder beside."""
    encoder(place / "image_encoder")
    denoiser = text_to_image.described(model).denoiser
    module = ip_adapter_files.fresh(denoiser, 10, tokens=2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 10)))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    params = tree.unflatten([drawn(f"adapter {i}", *leaf.shape) * 0.3 for i, leaf in enumerate(leaves)])
    ip_adapter_files.save(place / "style.safetensors", module, params, denoiser)
    return place / "style.safetensors"


def test_pictures_follow_controls_image_prompts_regions_and_words(page, tmp_path, compilation_cache):
    """Uploads to the fields of two attachments, beside a region and a word: the picture is the one of `generate`."""
    model = made_pipelines.folder("sd", tmp_path / "sd")
    attachments = {"edges": net("edges", tmp_path / "edges"), "style": image_adapter(tmp_path / "ip", model)}
    edges, left = tmp_path / "edges.png", tmp_path / "left.png"
    Image.fromarray(control_picture("edges")).save(edges)
    Image.fromarray(np.repeat([[255, 0]], 8, 1).repeat(16, 0).astype(np.uint8)).save(left)
    Image.new("RGB", (24, 24), "red").save(tmp_path / "large.png")
    named = [f"--attach={name}={path}" for name, path in attachments.items()]
    field = lambda name, part: f'[id="{name}: {part}"]'

    def upload(name, path):
        page.type(f"{field(*name)} input[type=file]", str(path))
        page.until(f"return document.querySelector('{field(*name)} img')", 30)

    with serving(tmp_path / "page", f"--model={model}", *named) as served:
        visit(page, served)
        put(page, "#prompt textarea", "a cat")
        put(page, "#regions textarea", "the red car:mask=left.png")
        put(page, "#words textarea", "cat")
        choose(page, "sampler", "ddim")
        for css, value in (("#steps", 4), ("#guidance", 2), ("#height", 16), ("#width", 16), ("#seed", 7)):
            put(page, f"{css} input[type=number]", value)
        page.run("for (const b of document.querySelectorAll('#controls button, #of_regions button')) b.click()")
        page.until(f"return document.querySelector('{field('style', 'mask')} input[type=file]')", 30)
        page.until("return document.querySelector('#masks input[type=file]')", 30)
        page.type("#masks input[type=file]", str(left))
        page.until("return document.querySelector('#masks').innerText.includes('left')", 30)
        upload(("edges", "picture"), edges)
        put(page, "#width input[type=number]", 24)
        page.click("#make")
        page.until("return document.querySelector('.live.refused')", 60)
        assert "16 x 24" in page.texts(".live")[0] and "16 x 16" in page.texts(".live")[0]
        put(page, "#width input[type=number]", 16)
        upload(("style", "picture"), tmp_path / "large.png")
        upload(("style", "mask"), left)
        put(page, f"{field('edges', 'weight')} input[type=number]", 0.75)
        put(page, f"{field('edges', 'from')} input[type=number]", 0.3)
        page.click("#make")
        page.until("return !document.querySelector('.live.refused')", 60)
        (found,) = made(page)
        said = pictures.settings_of(served.out / "7.png")["controls"]
        assert [one["attachment"] for one in said] == ["edges", "style"]
        assert (said[0]["weight"], tuple(said[0]["times"])) == (0.75, (0.3, 1.0))
    loaded = text_to_image.load(model, attachments=attachments)
    how = {"steps": 4, "guidance": 2.0, "height": 16, "width": 16, "sampler": "ddim", "seeds": [7]}
    how |= {"regions": [("the red car", str(left))], "words": ["cat"]}
    controls = [
        ("edges", str(edges), 0.75, (0.3, 1.0)),
        ("style", str(tmp_path / "large.png"), 1.0, (0.0, 1.0), str(left)),
    ]
    wanted = text_to_image.generate(loaded, "a cat", controls=controls, **how)[0]
    assert np.abs(found.astype(int) - wanted).max() <= 1
    for fewer in (controls[:1], controls[1:]):
        other = text_to_image.generate(loaded, "a cat", controls=fewer, **how)[0]
        assert (np.abs(other.astype(int) - wanted) > 1).mean() > 0.05


def test_the_documented_examples_run(tmp_path, compilation_cache):
    """A text-to-image model: by curl and by gradio's client, as docs/playground.md has it."""
    model = made_pipelines.folder("sd", tmp_path / "sd")
    with serving(tmp_path / "page", f"--model={model}") as served:
        here = lambda text: text.replace("http://127.0.0.1:7860", served.address)
        shell = here(re.search(r"```sh\n(curl.*?)```", DOCS, re.DOTALL)[1])
        done = subprocess.run(["bash", "-euc", shell], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        first = pictures.settings_of(tmp_path / "cat.png")
        assert (first["prompt"], first["seed"], first["steps"]) == ("a cat on a mat", 42, 20)
        program = here(re.search(r"```python\n(.*?)```", DOCS, re.DOTALL)[1])
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([PYTHON, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        edited = pictures.settings_of(tmp_path / "dog.png")
        assert edited["prompt"] == "a dog on a mat" and edited["strength"] == 0.6
        found, error = served.ask(prompt="a cat", height=18, width=16)
        assert found is None and "height = 18 must be a multiple of 4" in error
        found, error = served.ask(prompt="a cat", height=2**15, width=2**15)
        assert "1 picture of 32768 x 32768 (height x width) would need about" in error
    again = [sys.executable, "-m", "experiments.sample", f"--again={tmp_path / 'cat.png'}", f"--out={tmp_path}"]
    done = subprocess.run(again, cwd=commands.ROOT, capture_output=True, text=True, timeout=600)
    assert "the same bytes" in done.stdout or "within the 8" in done.stdout, done.stdout + done.stderr
    assert pathlib.Path(tmp_path / "cat_again.png").exists()
