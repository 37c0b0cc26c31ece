"""A trajectory as HTML with embedded pictures."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffusion.experiments.playground.source import coloured
from diffusion.text_to_image import Frame

COLUMNS, THUMBNAIL = 8, 112  # the most pictures in a row of the strip, and the length in pixels of their larger side
LARGEST = 512  # pixels, the most that a clip's larger side has on the page, since every step sends all its frames
EMPTY = '<div class="live empty"><p>Pictures appear here, step by step.</p></div>'


class Strip:
    """The trajectory of pictures as thumbnails: the predictions of x_0 at up to `COLUMNS` evenly spaced steps.

    Args:
        rate: the frames per second of clips; 0 for pictures.
    """

    def __init__(self, rate: float = 0.0):
        self.rate = rate
        self._kept: list[tuple[int, float, list[str]]] = []
        self.steps_done = 0
        self._columns = 0

    def add(self, frame: Frame) -> None:
        """Counts a frame, and stores its thumbnails if the strip shows its step."""
        self.steps_done = frame.step
        self._columns = min(COLUMNS, frame.steps)
        if frame.step in {round(i * (frame.steps - 1) / (COLUMNS - 1)) + 1 for i in range(COLUMNS)}:
            self._kept.append(
                (frame.step, frame.t, [address(picture, THUMBNAIL, self.rate) for picture in frame.pictures])
            )

    def html(self, seeds: Sequence[int]) -> str:
        """The HTML of the strip, with one row per picture; `seeds` are the pictures' seeds."""
        times = "".join(f"<span>{t:.2f}</span>" for _, t, _ in self._kept)
        rows = "".join(
            '<div class="row">'
            + "".join(
                f'<img src="{pictures[row]}" alt="seed {seed}, step {step}" title="step {step}">'
                for step, _, pictures in self._kept
            )
            + "</div>"
            for row, seed in enumerate(seeds)
        )
        return (
            f'<div class="strip" style="--columns:{self._columns}"><h3>The prediction of the picture at each time t'
            f'</h3><div class="row times">{times}</div>{rows}</div>'
        )


def progress(
    frame: Frame, seeds: Sequence[int], strip: Strip, notes: Sequence[str], seconds: float, stopped: bool = False
) -> str:
    """The HTML of a running request: the predicted pictures, the number of finished steps and the trajectory so far.

    Args:
        frame: the pictures after the last step.
        seeds: the seeds of the pictures.
        strip: the trajectory so far.
        notes: the sentences to show above the pictures.
        seconds: the seconds since the request began.
        stopped: whether the visitor has stopped the request.
    """
    state = "done" if frame.step == frame.steps else "stopped" if stopped else "going"
    stopped_after = "stopped after " if state == "stopped" else ""
    status = (
        f"{frame.steps} steps in {seconds:.1f} s"
        if state == "done"
        else f"{stopped_after}step {frame.step} of {frame.steps}, t = {frame.t:.2f}, {seconds:.1f} s"
    )
    shown = lambda picture: address(picture, LARGEST if strip.rate else 0, strip.rate)
    figures = "".join(
        f'<figure><img src="{shown(picture)}" alt="the picture of seed {seed}"><figcaption>seed {seed}</figcaption>'
        "</figure>"
        for seed, picture in zip(seeds, frame.pictures)
    )
    side = "one" if len(seeds) == 1 else "few" if len(seeds) <= 4 else "many"
    return (
        f'<div class="live {state}" data-step="{frame.step}" data-steps="{frame.steps}">'
        f'<progress value="{frame.step}" max="{frame.steps}" aria-label="steps"></progress>'
        f'<p class="status" role="status">{status}</p>'
        f"{''.join(f'<p class=note>{html.escape(note)}</p>' for note in notes)}"
        f'<div class="made {side}">{figures}</div>{strip.html(seeds)}</div>'
    )


def refused(message: str) -> str:
    """The HTML that says why no picture is made."""
    return f'<div class="live refused" role="alert"><p><b>Not made.</b> {html.escape(message)}</p></div>'


def waiting(message: str) -> str:
    """The HTML of a message before the first step."""
    return (
        f'<div class="live going"><progress aria-label="steps"></progress><p class="status" role="status">'
        f"{html.escape(message)}</p></div>"
    )


def address(pictures: np.ndarray, most: int = 0, rate: float = 0.0) -> str:
    """The data URL of a picture, or of a clip that plays in a loop.

    Args:
        pictures: a picture, uint8 [H, W, C]; its layers [L, H, W, 4], which are shown side by side; or a clip
            [F, H, W, C].
        most: the length in pixels to which the larger side is reduced; 0 for the full size.
        rate: the frames per second of a clip; 0 for a picture.
    """
    if pictures.ndim == 4 and not rate:
        pictures = np.concatenate(list(pictures), axis=1)
    frames = [Image.fromarray(frame) for frame in coloured(pictures if rate else pictures[None])]
    for frame in frames:
        if most and max(frame.size) > most:
            frame.thumbnail((most, most))
    file = io.BytesIO()
    how = {"save_all": True, "append_images": frames[1:], "duration": round(1000 / rate), "loop": 0} if rate else {}
    frames[0].save(file, "WEBP" if rate else "PNG", **how, **({"quality": 80} if rate else {"compress_level": 1}))
    kind = "webp" if rate else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
