"""What is seen of a walk, as HTML with its pictures inside."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffusion.text_to_image import Frame
from experiments.playground.request import coloured

COLUMNS, THUMBNAIL = 8, 112  # of the strip: pictures, and their larger side in pixels
EMPTY = '<div class="live empty"><p>Pictures appear here, step by step.</p></div>'


class Strip:
    """The way to a picture: the prediction of x_0 at some steps, evenly apart, kept small."""

    def __init__(self):
        self._seen: list[tuple[int, float, list[str]]] = []
        self.walked = self._columns = 0

    def add(self, frame: Frame) -> None:
        """Keeps a frame if it is one of those that are shown."""
        self.walked = frame.step
        self._columns = min(COLUMNS, frame.steps)
        shown = {round(i * (frame.steps - 1) / (COLUMNS - 1)) + 1 for i in range(COLUMNS)}
        if frame.step in shown:
            self._seen.append((frame.step, frame.t, [address(picture, THUMBNAIL) for picture in frame.pictures]))

    def html(self, seeds: Sequence[int]) -> str:
        """A row for each picture."""
        times = "".join(f"<span>{t:.2f}</span>" for _, t, _ in self._seen)
        rows = "".join(
            '<div class="row">'
            + "".join(
                f'<img src="{pictures[row]}" alt="seed {seed}, step {step}" title="step {step}">'
                for step, _, pictures in self._seen
            )
            + "</div>"
            for row, seed in enumerate(seeds)
        )
        return (
            f'<div class="strip" style="--columns:{self._columns}"><h3>What was expected on the way, at each time t'
            f'</h3><div class="row times">{times}</div>{rows}</div>'
        )


def progress(
    frame: Frame, seeds: Sequence[int], strip: Strip, notes: Sequence[str], seconds: float, stopped: bool = False
) -> str:
    """The pictures as they are expected to become, how far the walk is, and the way until here."""
    state = "done" if frame.step == frame.steps else "stopped" if stopped else "going"
    said = "stopped after " if state == "stopped" else ""
    told = (
        f"{frame.steps} steps in {seconds:.1f} s"
        if state == "done"
        else f"{said}step {frame.step} of {frame.steps}, t = {frame.t:.2f}, {seconds:.1f} s"
    )
    figures = "".join(
        f'<figure><img src="{address(picture)}" alt="the picture of seed {seed}"><figcaption>seed {seed}</figcaption>'
        "</figure>"
        for seed, picture in zip(seeds, frame.pictures)
    )
    side = "one" if len(seeds) == 1 else "few" if len(seeds) <= 4 else "many"
    return (
        f'<div class="live {state}" data-step="{frame.step}" data-steps="{frame.steps}">'
        f'<progress value="{frame.step}" max="{frame.steps}" aria-label="steps"></progress>'
        f'<p class="told" role="status">{told}</p>{"".join(f"<p class=note>{html.escape(note)}</p>" for note in notes)}'
        f'<div class="made {side}">{figures}</div>{strip.html(seeds)}</div>'
    )


def refused(message: str) -> str:
    """Why nothing is made, in words."""
    return f'<div class="live refused" role="alert"><p><b>Not made.</b> {html.escape(message)}</p></div>'


def waiting(message: str) -> str:
    """What is done before the first step."""
    return (
        f'<div class="live going"><progress aria-label="steps"></progress><p class="told" role="status">'
        f"{html.escape(message)}</p></div>"
    )


def address(picture: np.ndarray, most: int = 0) -> str:
    """A data URL of uint8 [H, W, C], made smaller where a side is more than `most`."""
    image = Image.fromarray(coloured(picture))
    file = io.BytesIO()
    if most and max(image.size) > most:
        image.thumbnail((most, most))
    image.save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
