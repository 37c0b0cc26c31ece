"""The gate of the page: limits who may send requests and how large they are, before a request is read.

Another page that is open in the visitor's browser can send requests to this machine. If that page's host name resolves
to 127.0.0.1 (DNS rebinding), the page can also read the answers. In both cases a header names the foreign host.
"""

import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

BODY = 2**25  # the most bytes in a request's body: all its pictures and masks in base64, or one uploaded file
LOCAL = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::")


class Gate:
    """ASGI middleware that refuses requests from other origins, to other host names, or with bodies above `BODY`.

    Args:
        app: the application that answers the accepted requests.
        host: the name or address at which the page is served; with 0.0.0.0 or ::, any address of the machine.
    """

    def __init__(self, app: Any, host: str):
        self._app = app
        self._any_address = host in WILDCARDS
        here = socket.gethostname().lower()
        self._names = {*LOCAL, host.lower()} | (
            {here, f"{here}.local", socket.getfqdn().lower()} if self._any_address else set()
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):  # messages of the server itself
            return await self._app(scope, receive, send)
        refusal = self._refusal(scope)
        if refusal is None:
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        status, words = refusal
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": f"{words}\n".encode()})

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        """(HTTP status, reason) if the request is refused; None if it is accepted."""
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        names = [name for name, _ in pairs]
        if repeated := [name for name in ("host", "origin", "content-length") if names.count(name) > 1]:
            return 400, f"the header {repeated[0]!r} occurs more than once"
        headers = dict(reversed(pairs))  # the first of several equal headers counts
        host = headers.get("host", "")
        if not self._ours(host):
            return 403, f"this page is not served under the name {host[:100]!r}; open it at the address in its terminal"
        if not _same_origin(headers, host):
            return 403, "requests from other pages are not answered"
        return _too_large(headers)

    def _ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            ipaddress.ip_address(name)  # an address is safe; after DNS rebinding, a browser sends a name
        except ValueError:
            return False
        return self._any_address


def _same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Whether a request comes from this page, or from a program; browsers name the origin of other pages."""
    if "origin" in headers and headers["origin"].lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        return False
    return headers.get("sec-fetch-site") in (None, "same-origin", "none") or headers.get("sec-fetch-mode") == "navigate"


def _too_large(headers: Mapping[str, str]) -> tuple[int, str] | None:
    if "transfer-encoding" in headers:
        return 411, "Content-Length is missing: send the length of the body"
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        return 400, f"Content-Length is {length[:20]!r}, which is not a number"
    large = len(length) > 20 or int(length) > BODY  # Python refuses to convert thousands of digits
    return (413, f"the body has {length[:20]} bytes; at most {BODY:,} are accepted") if large else None
