"""The HTTP server of an arena: a page, its pictures and the votes; no response reveals which run made a picture.

    GET  /                                   the page
    GET  /turn?voter=ana                     {"turn", "of", "request", "question", "voted"}, the voter's next comparison
    GET  /picture?voter=ana&turn=3&side=left  a PNG file
    POST /vote  {"voter", "turn", "side"}     "left", "right" or "tie"; the answer is the next turn
    POST /undo  {"voter"}                     withdraws the voter's last vote; the answer is its turn

A turn is the position of a comparison in the voter's own order, from 0. The server listens only on this machine.
"""

import http
import io
import json
import pathlib
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from diffusion.experiments.arena import votes as votes_file
from diffusion.experiments.arena.comparisons import Arena
from diffusion.experiments.arena.competitors import Competitor
from diffusion.experiments.arena.votes import FIRST, SECOND, TIE, WITHDRAWN, Vote
from diffusion.io import json_lines, limits

PAGE = pathlib.Path(__file__).parent / "static"
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
NAMES = ("localhost", "127.0.0.1")
BODY = 10_000  # bytes of a request
LEFT, RIGHT = "left", "right"


class Refused(ValueError):
    """A request that has no answer; the message says why."""


class Voting:
    """The turns and votes of all voters; its methods may be called by several threads.

    Args:
        arena: the arena that is served.
        competitors: the opened competitors, in the order of `arena.names`.
        folder: the arena's folder, in which the votes are stored.
    """

    def __init__(self, arena: Arena, competitors: Sequence[Competitor], folder: pathlib.Path):
        self.arena = arena
        self.competitors = competitors
        self.folder = folder
        self._lock = threading.Lock()
        self._turns: dict[str, list[tuple[int, bool]]] = {}
        json_lines.mend(folder / votes_file.FILE)
        self._votes = votes_file.read(folder, len(arena.comparisons))

    def turns(self, voter: str) -> list[tuple[int, bool]]:
        """A voter's order, see `Arena.turns`.

        Raises:
            Refused: for a name that is empty, has more than 40 characters, or begins or ends with a space.
        """
        if not (0 < len(voter) <= 40 and voter.isprintable() and voter == voter.strip()):
            raise Refused("a voter's name must have 1 to 40 printable characters, without a space at either end")
        if voter not in self._turns:
            self._turns[voter] = self.arena.turns(voter)
        return self._turns[voter]

    def turn(self, voter: str) -> dict[str, Any]:
        """A voter's next comparison, as `GET /turn` answers it; "turn" is None after the last comparison."""
        turns = self.turns(voter)
        with self._lock:
            voted = {vote.comparison for vote in votes_file.select_votes(self._votes, voter)}
        turn = next((turn for turn, (number, _) in enumerate(turns) if number not in voted), None)
        request = "" if turn is None else self.arena.comparisons[turns[turn][0]].request
        return {
            "turn": turn,
            "of": len(turns),
            "voted": len(voted),
            "request": request,
            "question": self.arena.question,
        }

    def picture(self, voter: str, turn: Any, side: Any) -> bytes:
        """The PNG file for one side of a turn, without metadata, which could reveal the run."""
        number, first_is_left = self._at(voter, turn)
        if side not in (LEFT, RIGHT):
            raise Refused(f"side={side[:20]}. Valid: {LEFT}, {RIGHT}")
        comparison = self.arena.comparisons[number]
        is_first = (side == LEFT) == first_is_left
        competitor = self.competitors[comparison.first if is_first else comparison.second]
        image = competitor.picture(comparison.pictures[0 if is_first else 1])
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
        return file.getvalue()

    def vote(self, voter: str, turn: Any, side: Any) -> None:
        """Writes a vote, unless the voter has already voted on this comparison."""
        number, first_is_left = self._at(voter, turn)
        choices = {LEFT: FIRST, RIGHT: SECOND, TIE: TIE}
        if not isinstance(side, str) or side not in choices:
            raise Refused(f"side={str(side)[:20]}. Valid: {', '.join(choices)}")
        choice = choices[side] if first_is_left or side == TIE else {LEFT: SECOND, RIGHT: FIRST}[side]
        vote = Vote(voter, number, choice, FIRST if first_is_left else SECOND)
        with self._lock:
            if any(other.comparison == number for other in votes_file.select_votes(self._votes, voter)):
                return  # a key that was pressed twice
            votes_file.add(self.folder, vote)
            self._votes.append(vote)

    def undo(self, voter: str) -> None:
        """Withdraws a voter's latest vote, if there is one."""
        with self._lock:
            cast = votes_file.select_votes(self._votes, voter)
            if cast:
                votes_file.add(self.folder, cast[-1]._replace(choice=WITHDRAWN))
                self._votes.remove(cast[-1])

    def votes(self) -> list[Vote]:
        """All votes that were not withdrawn, in the order in which they were cast."""
        with self._lock:
            return [*self._votes]

    def _at(self, voter: str, turn: Any) -> tuple[int, bool]:
        turns = self.turns(voter)
        if type(turn) is not int or not 0 <= turn < len(turns):
            raise Refused(f"turn={str(turn)[:20]}. Valid: 0 to {len(turns) - 1}")
        return turns[turn]


def serve(voting: Voting, port: int) -> ThreadingHTTPServer:
    """A server that listens on 127.0.0.1; call its `serve_forever` to answer requests.

    Args:
        voting: the turns and votes that the server reads and writes.
        port: the port; 0 for any free port.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._answered(self._get)

        def do_POST(self):
            self._answered(self._post)

        def log_message(self, *_):
            """Prints nothing; by default each request would print a line."""

        def _answered(self, answer):
            try:
                if (self.headers.get("Host") or "").partition(":")[0] not in NAMES:  # DNS rebinding
                    raise Refused("open the page at the address that its terminal shows")
                kind, content = answer()
            except Refused as error:
                return self._send(http.HTTPStatus.BAD_REQUEST, "text/plain", f"{error}\n".encode())
            except FileNotFoundError:
                return self._send(http.HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page\n")
            self._send(http.HTTPStatus.OK, kind, content)

        def _send(self, status, kind, content):
            self.send_response(status)
            self.send_header("Content-Type", kind if kind.startswith("image") else f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def _get(self) -> tuple[str, bytes]:
            address = urlsplit(self.path)
            if address.path in FILES:
                name, kind = FILES[address.path]
                return kind, (PAGE / name).read_bytes()
            query = {name: values[-1] for name, values in parse_qs(address.query).items()}
            voter = query.get("voter", "")
            if address.path == "/turn":
                return _json(voting.turn(voter))
            if address.path == "/picture":
                turn = query.get("turn", "")
                number = int(turn) if turn.isdecimal() and len(turn) < 10 else turn
                return "image/png", voting.picture(voter, number, query.get("side", ""))
            raise FileNotFoundError

        def _post(self) -> tuple[str, bytes]:
            body = _body(self)
            voter = body.get("voter")
            if not isinstance(voter, str):
                raise Refused("voter is missing")
            if self.path == "/vote":
                voting.vote(voter, body.get("turn"), body.get("side"))
            elif self.path == "/undo":
                voting.undo(voter)
            else:
                raise FileNotFoundError
            return _json(voting.turn(voter))

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _json(content: Mapping[str, Any]) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()


def _body(handler: BaseHTTPRequestHandler) -> Mapping[str, Any]:
    """The JSON body of a request. Other content types are refused, since any page in the browser may send them."""
    if handler.headers.get_content_type() != "application/json":
        raise Refused("votes must be sent as application/json")
    length = handler.headers.get("Content-Length", "")
    if not length.isdecimal() or len(length) > 20 or int(length) > BODY:
        raise Refused(f"a vote must have at most {BODY} bytes")
    try:
        content = limits.parse_json(handler.rfile.read(int(length)), "this request")
    except limits.Refused as error:
        raise Refused(str(error)) from error
    if not isinstance(content, dict):
        raise Refused("a vote must be a JSON object, a table of fields")
    return content
