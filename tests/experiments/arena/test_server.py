"""The server of an arena: blind, each voter apart, every vote on the disk before its answer."""

import io
import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from diffusion.experiments.arena import server
from diffusion.experiments.arena.__main__ import begun
from diffusion.experiments.arena.votes import FIRST, SECOND
from tests.experiments.arena import made_arena

DARK, BRIGHT = 10, 200
CLASSES = ("class 0", "class 1", "class 2")


@pytest.fixture
def place(tmp_path):
    names = [made_arena.run(tmp_path / "dark", DARK), made_arena.run(tmp_path / "bright", BRIGHT)]
    begun(tmp_path / "arena", names, {})
    return tmp_path / "arena"


@pytest.fixture
def ask(place):
    """Sends a request to a running server: (path, body or None, headers) -> (status, type, content)."""
    page = server.serve(server.Voting(*begun(place, [], {}), place), 0)
    thread = threading.Thread(target=page.serve_forever, args=(0.02,), daemon=True)
    thread.start()

    def asked(path, body=None, headers=None):
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if headers is None else headers
        request = urllib.request.Request(f"http://127.0.0.1:{page.server_port}{path}", content, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read()

    yield asked
    page.shutdown()
    page.server_close()


def brightness(content):
    return int(np.asarray(Image.open(io.BytesIO(content)))[0, 0, 0])


def test_votes_name_the_picture_that_was_on_the_chosen_side(ask, place):
    """Whoever always takes the bright one votes for the bright run, on whichever side it was."""
    sides = []
    state = json.loads(ask("/turn?voter=ben")[2])
    request = state.pop("request")
    assert state == {"turn": 0, "of": 6, "voted": 0, "question": "Which picture is better?"} and request in CLASSES
    while state["turn"] is not None:
        shown = {
            side: brightness(ask(f"/picture?voter=ben&turn={state['turn']}&side={side}")[2])
            for side in ("left", "right")
        }
        assert abs(shown["left"] - shown["right"]) == BRIGHT - DARK  # the same picture of both runs, of one class
        side = max(shown, key=shown.get)
        sides.append(side)
        state = json.loads(ask("/vote", {"voter": "ben", "turn": state["turn"], "side": side})[2])
    lines = made_arena.lines(place)
    assert [line["choice"] for line in lines] == [SECOND] * 6 and set(sides) == {"left", "right"}
    assert [line["left"] for line in lines] == [SECOND if side == "left" else FIRST for side in sides]
    assert sorted(line["comparison"] for line in lines) == list(range(6)) and state["voted"] == 6


def test_no_answer_names_a_run(ask):
    for path in ("/", "/page.js", "/page.css", "/turn?voter=ana", "/picture?voter=ana&turn=0&side=left"):
        status, _, content = ask(path)
        assert status == 200 and b"dark" not in content.replace(b"prefers-color-scheme: dark", b"")
        assert b"bright" not in content
    _, kind, content = ask("/picture?voter=ana&turn=0&side=left")
    assert kind == "image/png" and Image.open(io.BytesIO(content)).info == {}


def test_voters_do_not_mix_and_a_vote_is_taken_back(ask, place):
    for voter in ("ana", "ben"):
        assert json.loads(ask("/vote", {"voter": voter, "turn": 0, "side": "tie"})[2])["voted"] == 1
    assert json.loads(ask("/vote", {"voter": "ana", "turn": 0, "side": "left"})[2])["voted"] == 1  # pressed twice
    assert json.loads(ask("/undo", {"voter": "ana"})[2])["turn"] == 0
    assert json.loads(ask("/turn?voter=ben")[2])["turn"] == 1
    assert json.loads(ask("/undo", {"voter": "carl"})[2])["voted"] == 0  # has none
    assert [line["choice"] for line in made_arena.lines(place)] == ["tie", "tie", "withdrawn"]


def test_a_server_that_is_started_again_goes_on(ask, place):
    ask("/vote", {"voter": "ana", "turn": 0, "side": "left"})
    again = server.Voting(*begun(place, [], {}), place)
    assert again.turn("ana")["turn"] == 1 and again.turn("ben")["turn"] == 0 and len(again.votes()) == 1


@pytest.mark.parametrize(
    "path, body, headers, message",
    [("/turn", None, None, "1 to 40 printable"), ("/turn?voter=" + "a" * 41, None, None, "1 to 40 printable"),
     ("/picture?voter=ana&turn=9&side=left", None, None, "turn=9. Valid: 0 to 5"),
     ("/picture?voter=ana&turn=0&side=up", None, None, "side=up"),
     ("/vote", {"voter": "ana", "turn": 0, "side": "up"}, None, "side=up"),
     ("/vote", {"voter": "ana", "turn": "0", "side": "left"}, None, "turn=0"),
     ("/vote", {"turn": 0}, None, "voter is missing"), ("/vote", [1], None, "table of fields"),
     ("/vote", b"{", None, "not valid JSON"), ("/vote", b"x" * 10_001, None, "at most 10000 bytes"),
     ("/vote", b"[" * 9_000, None, "not valid JSON"), ("/picture?voter=ana&turn=" + "9" * 5000, None, None, "turn=9"),
     ("/vote", {"voter": "ana", "turn": 0, "side": "left"}, {"Content-Type": "text/plain"}, "application/json"),
     ("/vote", b"{}", {"Content-Type": "application/json", "Content-Length": "9" * 5000}, "at most 10000 bytes"),
     ("/turn?voter=ana", None, {"Host": "evil.example:80"}, "open the page at the address")],
)  # fmt: skip
def test_other_requests_are_refused_and_nothing_is_written(ask, place, path, body, headers, message):
    status, _, content = ask(path, body, headers)
    assert status == 400 and message in content.decode() and not (place / "votes.jsonl").exists()


def test_a_browser_leaves_the_usual_port_out_of_the_host(ask):
    assert ask("/turn?voter=ana", None, {"Host": "localhost"})[0] == 200


def test_there_is_no_other_page(ask):
    assert ask("/arena.json")[0] == ask("/../arena.json")[0] == ask("/no", {"voter": "ana"})[0] == 404
