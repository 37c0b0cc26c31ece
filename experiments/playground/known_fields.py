"""The accepted fields of a request to the HTTP interface: others are refused before gradio reads them."""

import json
from collections.abc import Collection
from typing import Any

from diffusion.io import limits


class Fields:
    """ASGI middleware that answers 400 to a body that is not a JSON object of known fields.

    Args:
        app: the application that answers the accepted requests.
        path: the end of the interface's path; a proxy may put another path before it.
        known: the names of the accepted fields.
    """

    def __init__(self, app: Any, path: str, known: Collection[str]):
        self._app, self._path, self._known = app, path, known

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_here = scope["type"] == "http" and scope["path"].removesuffix("/").endswith(self._path)
        if not is_here or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        content, more = b"", True
        while more:
            message = await receive()
            content += message.get("body", b"")
            more = message.get("more_body", False)
        if why := self._refusal(content):
            body = json.dumps({"error": why}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            return await send({"type": "http.response.body", "body": body})
        again = iter([{"type": "http.request", "body": content, "more_body": False}])

        async def replayed() -> Any:
            return next(again, None) or await receive()

        return await self._app(scope, replayed, send)

    def _refusal(self, content: bytes) -> str:
        """What is wrong with a body; "" if it is valid."""
        try:
            table = limits.parse_json(content, "the body")
        except limits.Refused as error:
            return str(error)
        if not isinstance(table, dict):
            return f"the body is {limits.kind(table)}. Valid: a table of fields"
        unknown = [name for name in table if name not in self._known]
        return f"{limits.short(unknown[0])} is not a field. Valid: {', '.join(self._known)}" if unknown else ""
