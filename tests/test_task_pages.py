"""docs/tasks: every line of shell and of Python on the pages runs, in its order, in an empty folder."""

import ast
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

from diffusion.metrics import inception_weights
from diffusion.package import commands as known
from tests import commands
from tests.reliability.driver import until
from tests.text_to_image import made_pipelines

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs/tasks").glob("*.md"))
NAMES = [page.stem for page in PAGES]
SNIPPET = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+\.py)\n")  # the first line of a snippet that the reader saves under this name
WORDS = 700  # one screen or two


def snippets(page):
    """(language, code) in the order of a page."""
    return SNIPPET.findall(page.read_text())


def lines(code):
    """The words of each command of a shell snippet."""
    return [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_is_short_says_what_can_go_wrong_and_leads_further(page):
    text = page.read_text()
    prose = SNIPPET.sub("", text)
    assert len(prose.split()) < WORDS
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings[-2:] == ["What can go wrong", "Read on"]
    assert "](../" in text.split("\n## Read on\n")[1]
    for language, code in snippets(page):
        if language == "python":
            assert ast.parse(code).body
            continue
        for words in lines(code):
            assert words[0] in ("diffusion", "python", "cp", "rm")
            assert words[0] != "diffusion" or {words[1], " ".join(words[1:3])} & known.purposes().keys()


def test_the_real_commands_are_on_the_pages_that_show_tiny_ones():
    """A reader sees by which word the tiny command becomes the real one."""
    for name, word in (("own_pictures", "--config=photos.py`"), ("compare_objectives", "--sweep=objectives.py`")):
        assert word in (ROOT / f"docs/tasks/{name}.md").read_text()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, in which commands know the library and the files of the reader."""
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    return folder


def executed(name, folder, change=list):
    """Runs a page; returns all that its commands printed.

    Args:
        name: of the page.
        folder: in which it runs.
        change: words of a command -> the words that run in their place.
    """
    printed = []
    for language, code in snippets(ROOT / f"docs/tasks/{name}.md"):
        if language == "python" and (file := FILE.match(code)):
            (folder / file[1]).write_text(code)
            continue
        for words in [["-c", code]] if language == "python" else map(change, lines(code)):
            if words[0] in ("cp", "rm"):
                subprocess.run(words, cwd=folder, check=True)
                continue
            words = words[1:] if words[0] == "python" else words
            done = commands.run(*words, cwd=folder, timeout=600)
            assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            printed.append(done.stdout + done.stderr)
    return "\n".join(printed)


@pytest.mark.slow
def test_own_pictures(folder):
    printed = executed("own_pictures", folder)
    assert "training on photos (train[:90%]): 216 pictures of 2 classes (disc, square), 32 x 32 x 3, in" in printed
    assert "real train[90%:] images" in printed and (folder / "runs/photos/samples.png").is_file()
    for changed, message in (
        (["--config.model.num_classes=10"], "config.model.num_classes = 10, but photos has 2 classes"),
        (
            ['--config.data.source={"name": "class_folders", "path": "photos"}'],
            "config.data.shape = (32, 32, 3), but photos holds examples of (40, 48, 3)",
        ),
        (["--config.data.source.path=photos/nothing"], "photos/nothing: there is no such folder"),
    ):
        done = commands.run("diffusion", "train", "--config=photos.py:tiny", "--workdir=no", *changed, cwd=folder)
        assert done.returncode == 2 and message in done.stderr and not (folder / "no").exists()
        assert message in (ROOT / "docs/tasks/own_pictures.md").read_text()


@pytest.mark.slow
def test_compare_objectives(folder):
    printed = executed("compare_objectives", folder)
    assert "Student's t" in printed and "2 pairs of equal seeds" in printed
    text = (folder / "runs/flow_or_diffusion/comparison.md").read_text()
    assert "schedule.name" in text and "fd_pixels" in text


@pytest.mark.slow
def test_report_fid(folder):
    """With 20 samples of a digits run and a network of Inception's form, whose weights are made."""
    rng = np.random.default_rng(0)
    tensors = {}
    for layer, shape in inception_weights.CONVOLUTIONS.items():
        tensors[f"{layer}.weight"] = (
            rng.standard_normal(shape, np.float32) / np.prod(shape[1:], dtype=np.float32) ** 0.5
        )
        for part, value in (("beta", 0), ("mean", 0), ("var", 1)):
            tensors[f"{layer}.{part}"] = np.full(shape[0], value, np.float32)
    weights = inception_weights.Weights(tensors, inception_weights.digest(tensors), None)
    inception_weights.save(folder / "inception.safetensors", weights)
    done = commands.run("diffusion", "train", "--config=digits:tiny", "--workdir=runs/c10", cwd=folder)
    assert done.returncode == 0, done.stderr

    def change(words):
        words = [word.replace("cifar10@train", "digits@train[:24]").replace("=50000", "=20") for word in words]
        return words + [f"--inception_sha256={weights.digest}"] * ("--inception=inception.safetensors" in words)

    executed("report_fid", folder, change)
    assert '"fid"' in (folder / "fid.json").read_text() and '"fd"' in (folder / "fd.json").read_text()


@pytest.mark.slow
def test_resume_elsewhere(folder):
    assert "going on with runs/moved from step 20 of 40" in executed("resume_elsewhere", folder)


@pytest.mark.slow
def test_published_checkpoint(folder):
    """With a tiny folder of the form of Stable Diffusion's, whose weights are made."""
    made_pipelines.folder("sd", folder / "stable-diffusion-v1-5")
    printed = executed("published_checkpoint", folder)
    assert "ConditionalUNet" in printed and "the same bytes" in printed
    assert (folder / "exported/config.json").is_file() and (folder / "runs/tuned/checkpoints/40").is_dir()


@pytest.mark.slow
def test_write_sampler(folder):
    printed = executed("write_sampler", folder)
    assert len(re.findall(r"^(16|32|64) 0\.000\d+$|^16 0\.00\d+$", printed, re.MULTILINE)) == 3
    assert (folder / "runs/digits/adams_bashforth/report.md").is_file()


@pytest.fixture
def on_path(monkeypatch):
    """`diffusion` and `python` are those of this environment."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.mark.slow
def test_write_launcher(folder, on_path):
    printed = executed("write_launcher", folder)
    assert printed.count("the run has saved, and goes on") == 1
    assert "going on with runs/two from step 40 of 50" in printed


@pytest.mark.slow
def test_a_launcher_of_ones_own_passes_on_signals_and_statuses(folder, on_path):
    """A preempted run of two processes goes on where it saved; mistakes and failures are final."""
    ((_, code),) = [one for one in snippets(ROOT / "docs/tasks/write_launcher.md") if FILE.match(one[1])]
    (folder / "my_launcher.py").write_text(code)
    begun = lambda hosts, *words: subprocess.Popen(
        [sys.executable, "my_launcher.py", *hosts, "--", *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    run = ["diffusion", "train", "--config=digits:tiny", "--workdir=runs/two", "--config.mesh.data=-1"]
    launcher = begun(["localhost"] * 2, *run, "--config.train.steps=100000")
    until((folder / "runs/two/checkpoints/20").is_dir)
    launcher.send_signal(signal.SIGTERM)
    said = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 143, said
    assert "python my_launcher.py localhost localhost -- diffusion train" in said
    steps = max(int(path.name) for path in (folder / "runs/two/checkpoints").iterdir() if path.name.isdigit())
    launcher = begun(["localhost"] * 2, *run, f"--config.train.steps={steps + 20}")
    said = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 0 and f"from step {steps} of {steps + 20}" in said, said
    for hosts, words, status in (
        (["localhost"], run[:3], 2),
        (["localhost"] * 2, ["sh", "-c", 'test "$DIFFUSION_PROCESS_INDEX" = 1 && exit 7; sleep 600'], 7),
    ):
        launcher = begun(hosts, *words, *(["--workdir="] if status == 2 else []))
        said = launcher.communicate(timeout=300)[0]
        assert launcher.returncode == status, said
