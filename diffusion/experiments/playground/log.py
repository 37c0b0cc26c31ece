"""What the terminal of the page shows."""

import time

from diffusion.experiments.playground.page_request import PageRequest


def line(request: PageRequest, what: str) -> None:
    """Writes a line about a request, with the time.

    Args:
        request: of a visitor.
        what: became of it.
    """
    print(f"{time.strftime('%H:%M:%S')} {request}: {what}", flush=True)
