"""An arena in a browser, as a voter meets it, and the command around it."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from diffusion.experiments.arena import __main__ as arena_command
from diffusion.experiments.arena.__main__ import begun, conclude
from diffusion.recipe import extensions
from tests import browser, commands
from tests.experiments.arena import made_arena

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.slow
def test_the_next_command_names_what_the_datasets_need(monkeypatch):
    """The code of one's own dataset, and the folder of the prepared ones."""
    monkeypatch.setattr(extensions, "extended", ["mine.py"])
    next_command = lambda data_dir: arena_command.next_command(pathlib.Path("runs/arena"), data_dir)
    assert next_command("") == "diffusion arena --out=runs/arena --extend=mine.py"
    assert next_command("/data/tfds") == "diffusion arena --out=runs/arena --data_dir=/data/tfds --extend=mine.py"


@pytest.mark.extended
def test_the_scores_of_an_arena_without_a_page(tmp_path, capsys):
    arena, _ = begun(tmp_path / "arena", [made_arena.run(tmp_path / name, 10) for name in "ab"], {})
    conclude(arena, [], tmp_path / "arena")
    assert "there are no votes yet" in capsys.readouterr().out
    line = '{"voter": "ana", "comparison": 1, "choice": "first", "left": "second"}\n'
    (tmp_path / "arena" / "votes.jsonl").write_text(line)
    done = commands.run("diffusion", "arena", f"--out={tmp_path / 'arena'}", "--scores")
    assert done.returncode == 0 and "Scores" in done.stdout and "wrote " in done.stdout, done.stderr
    assert (tmp_path / "arena" / "scores.csv").exists()


@pytest.fixture
def command(tmp_path):
    """A running `diffusion arena` of two runs: (process, its address)."""
    names = [made_arena.run(tmp_path / name, brightness) for name, brightness in (("dark", 10), ("bright", 200))]
    words = [f"--runs={','.join(names)}", f"--out={tmp_path / 'arena'}", "--port=0", "--number=5"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "diffusion", "arena", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=dict(os.environ),
    )  # fmt: skip
    address = next(found[0] for line in process.stdout if (found := re.search(r"http://[\d.:]+", line)))
    yield process, address
    process.kill()
    process.wait(20)
    process.stdout.close()


def press(page, *keys):
    for key in keys:
        page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))", key)


def counted(page, text):
    page.until(f"return document.getElementById('count').textContent === '{text}' && !waiting")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not browser.installed(), reason=browser.MISSING)
def test_a_voter_chooses_by_keyboard_goes_back_and_goes_on(command, tmp_path):
    process, address = command
    with browser.open() as page:
        page.visit(address)
        page.type("#name", "ana<Enter>")
        counted(page, "0 of 5")
        page.screenshot(tmp_path / "page.png")
        looks = "return [...document.images].map(image => [image.naturalWidth, getComputedStyle(image).imageRendering])"
        assert page.run(looks) == [[8, "pixelated"]] * 2
        press(page, "ArrowLeft")
        counted(page, "1 of 5")
        press(page, "ArrowRight")
        counted(page, "2 of 5")
        press(page, "Backspace")
        counted(page, "1 of 5")
        press(page, "ArrowDown")
        counted(page, "2 of 5")
        page.click("#right")
        counted(page, "3 of 5")
        addresses = " ".join(page.requests())
        assert "dark" not in addresses and "bright" not in addresses
        page.visit("about:blank")
        page.visit(address)
        page.type("#name", "ana<Enter>")  # who comes back goes on
        counted(page, "3 of 5")
        press(page, "ArrowLeft")
        counted(page, "4 of 5")
        press(page, "ArrowLeft")
        page.until("return !document.getElementById('end').hidden")
        press(page, "Backspace")
        counted(page, "4 of 5")
        page.visit("about:blank")
        page.visit(address)
        page.type("#name", "ben<Enter>")
        counted(page, "0 of 5")
        assert page.errors() == []
    votes = made_arena.lines(tmp_path / "arena")
    assert [line["voter"] for line in votes] == ["ana"] * 8
    assert [line["choice"] == line["left"] for line in votes if line["choice"] not in ("tie", "withdrawn")] == [
        True, False, False, True, True,
    ]  # fmt: skip
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "wrote " in rest and "Continue with: diffusion arena" in rest, rest
    assert len((tmp_path / "arena" / "votes.csv").read_text().splitlines()) == 1 + 4


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not browser.installed(), reason=browser.MISSING)
def test_no_vote_is_on_pictures_that_nobody_sees(command, tmp_path):
    _, address = command
    with browser.open() as page:
        page.visit(address)
        page.type("#name", "ana\u200b<Enter>")  # no printable name
        page.until("return !document.getElementById('error').hidden && !waiting")
        page.run("document.getElementById('name').value = ''")
        page.type("#name", "anab<Backspace><Enter>")
        counted(page, "0 of 5")
        page.run("window.real = load; load = (image, address) => real(image, address.replace('/picture', '/nowhere'))")
        press(page, "ArrowLeft")  # the vote counts, and the next pair does not load
        page.until("return !document.getElementById('error').hidden && !waiting")
        page.run("load = real")
        press(page, "ArrowLeft")  # loads it again
        page.until("return document.getElementById('error').hidden && !waiting")
        counted(page, "1 of 5")
        press(page, "ArrowRight")
        counted(page, "2 of 5")
    lines = made_arena.lines(tmp_path / "arena")
    assert [line["voter"] for line in lines] == ["ana"] * 2
