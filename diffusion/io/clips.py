"""Clips of pictures as files: GIF by Pillow; MP4, WebM and others by PyAV (`pip install jax-diffusion[video]`)."""

__all__ = [
    "About", "evenly", "properties", "read", "row", "write", "write_gif", "write_mp4", "write_with_row",
]  # fmt: skip

import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from diffusion.io import budgets, files, films, gif_blocks, limits, opener, pictures, wav
from diffusion.package import public

SHOWN = 8  # the most frames of `row`
CANVAS = 20  # bytes per pixel that Pillow needs to compose an animation, with its copies
COLORS = 6, 1  # BT.601, limited range, which FFmpeg produces; it is stated, since players would otherwise guess
LAYOUTS = {1: "mono", 2: "stereo"}


class About(NamedTuple):
    """The properties that the header of a clip's file states.

    Attributes:
        height, width: height and width of a stored frame in pixels; a film may state that players turn its frames.
        rate: average number of frames per second; for a GIF, the rate of the shortest frame, since a longer frame may
            represent several equal ones.
        times: the times at which frames appear, in seconds after the first, increasing.
        length: length of the clip in seconds.
    """

    height: int
    width: int
    rate: float
    times: tuple[float, ...]
    length: float


def evenly(frames: int, height: int, width: int, rate: float) -> About:
    """The properties of a clip with evenly spaced frames, at `rate` frames per second."""
    return About(height, width, rate, tuple(i / rate for i in range(frames)), frames / rate)


def properties(source: str | os.PathLike | bytes, name: str = "", within: pathlib.Path | None = None) -> About:
    """The properties that a file states; no frame is decoded.

    Args:
        source: path of the file, or its content.
        name: the name of the file in messages; the path by default.
        within: the folder that the file must lie in, as in `opener.open_file`.

    Raises:
        ValueError: if the file is not a complete clip or has too many frames, or if PyAV is needed but not installed.
        OSError: if the file cannot be read.
    """
    name = name or str(source)
    if _is_gif(source):
        blocks = gif_blocks.read(_content(source, within), name)
        ends = np.cumsum(blocks.shown).tolist()
        return About(blocks.height, blocks.width, 1 / min(blocks.shown), (0.0, *ends[:-1]), ends[-1])
    said = films.properties(source, name, within)
    even = evenly(said.count, said.height, said.width, said.rate)
    return even._replace(times=said.times, length=said.times[-1] + 1 / said.rate) if said.times else even


def read(
    source: str | os.PathLike | bytes,
    numbers: np.ndarray,
    name: str = "",
    within: pathlib.Path | None = None,
    viewed: bool = True,
) -> np.ndarray:
    """Some frames of a file, uint8 [K, H, W, 3]; later frames are not decoded.

    Args:
        source: path of the file, or its content.
        numbers: the numbers of the frames, int [K], increasing.
        name: the name of the file in messages; the path by default.
        within: the folder that the file must lie in, as in `opener.open_file`.
        viewed: whether frames are read as a player shows them: turned as the film states, and white where the frames
            of a GIF are transparent; otherwise the stored pixels are returned.

    Raises:
        ValueError: under the conditions of `properties`, or if the file ends before these frames.
        limits.Refused: if the frames need more memory than there is, or than a file of this size may unpack to.
    """
    name = name or str(source)
    wanted = sorted({int(number) for number in numbers})
    frames, damage = (_gif_frames if _is_gif(source) else films.read)(source, wanted, name, within, viewed)
    if damage:
        raise ValueError(f"{name} is damaged or truncated after frame {max(frames, default=-1) + 1}: {damage}")
    if missing := sorted(set(wanted) - set(frames)):
        raise ValueError(
            f"{name} is truncated: its header states {len(properties(source, name, within).times)} frames, and frame "
            f"{missing[0]} is missing"
        )
    return np.stack([frames[int(number)] for number in numbers])


def _gif_frames(
    source: str | os.PathLike | bytes, numbers: list[int], name: str, within: pathlib.Path | None, viewed: bool
) -> tuple[dict[int, np.ndarray], str | None]:
    """(some frames of an animation by number, a description of damage after them or None), as in `films.read`."""
    content = _content(source, within)
    blocks = gif_blocks.read(content, name)
    budget = budgets.Budget(name, budgets.unpacked(len(content)))
    budget.spend(CANVAS * blocks.height * blocks.width)
    budget.spend(blocks.pixels[min(numbers[-1], len(blocks.pixels) - 1)])
    limits.fits(name, limits.array_bytes(name, (len(numbers), blocks.height, blocks.width, 3), 1))
    frames: dict[int, np.ndarray] = {}
    try:
        with pictures.opened(content, name, formats=("GIF",)) as picture:
            for number in numbers:
                picture.seek(number)
                frames[number] = np.asarray(pictures.on_white(picture) if viewed else picture.convert("RGB"))
    except pictures.DAMAGED as error:
        return frames, str(error) or type(error).__name__
    return frames, None


def row(frames: np.ndarray) -> np.ndarray:
    """Up to eight frames of a clip, uint8 [F, H, W, 3], from the first to the last, side by side: [H, K W, 3]."""
    some = np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int)
    return np.concatenate(list(frames[some]), axis=1)


def write_with_row(
    path: str | pathlib.Path,
    frames: np.ndarray,
    rate: float,
    about: Mapping[str, Any],
    sound: tuple[np.ndarray, int] | None = None,
) -> tuple[pathlib.Path, ...]:
    """Writes a clip, and beside it a PNG file with some of its frames, which carries the clip's settings.

    Args:
        path: the PNG file; the clip's file has the same name with another suffix.
        frames: the clip, uint8 [F, H, W, 3].
        rate: frames per second.
        about: the settings, see `pictures.write`.
        sound: the clip's waveform and its sample rate in Hz, see `write_mp4`; None for a silent clip.

    Returns:
        The path of the clip; for a GIF with sound also the path of the WAV file beside it.
    """
    film = write(path, frames, rate, sound)
    pictures.write(path, row(frames), about)
    return (film, film.with_suffix(".wav")) if sound is not None and film.suffix == ".gif" else (film,)


def write(
    path: str | os.PathLike, frames: np.ndarray, rate: float, sound: tuple[np.ndarray, int] | None = None
) -> pathlib.Path:
    """Writes a clip: an MP4 film if PyAV is installed and the sides are even, otherwise a GIF animation.

    The sound of a clip is written into the film, or to a WAV file beside the animation.

    Args:
        path: the file, whose suffix becomes .mp4 or .gif.
        frames: the clip, uint8 [F, H, W, 3].
        rate: frames per second.
        sound: the clip's waveform and its sample rate in Hz, see `write_mp4`; None for a silent clip.

    Returns:
        The path of the clip.
    """
    film = films.has_library() and not (frames.shape[1] % 2 or frames.shape[2] % 2)
    path = pathlib.Path(path).with_suffix(".mp4" if film else ".gif")
    if film:
        write_mp4(path, frames, rate, sound)
        return path
    write_gif(path, frames, rate)
    if sound is not None:
        wav.write(path.with_suffix(".wav"), *sound)
    return path


def write_gif(path: str | os.PathLike, frames: np.ndarray, rate: float) -> None:
    """Writes an animation that repeats, completely or not at all.

    Each frame after the first stores only the box that changes, or one pixel if none changes.

    Args:
        path: the file.
        frames: the clip, uint8 [F, H, W, 3].
        rate: frames per second; GIF rounds the time of a frame to hundredths of a second, of which a frame takes at
            least one.
    """
    shown = [Image.fromarray(frame) for frame in frames]
    canvas = (0, 0, *shown[0].size)
    hundredths = max(round(100 / rate), 1)  # players show a frame without a time for a tenth of a second
    how = {"duration": hundredths * 10, "disposal": 1, "include_color_table": True}
    parts = GifImagePlugin.getheader(_indexed(shown[0]), info={"loop": 0})[0]
    for number, frame in enumerate(shown):  # Image.save would leave out a frame that is equal to the one before
        box = (ImageChops.difference(shown[number - 1], frame).getbbox() or (0, 0, 1, 1)) if number else canvas
        parts += GifImagePlugin.getdata(_indexed(frame.crop(box)), box[:2], **how)
    with files.atomic(pathlib.Path(path)) as file:
        file.write(b"".join([*parts, b";"]))


def _indexed(picture: Image.Image) -> Image.Image:
    """The picture with a palette of at most 256 colours, chosen for this picture.

    The palette covers all colours that occur, even in few pixels, and is refined by k-means. The usual median cut would
    spend most of the palette on a large background, and turn a small red shape crimson.
    """
    return picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)


def write_mp4(
    path: str | os.PathLike, frames: np.ndarray, rate: float, sound: tuple[np.ndarray, int] | None = None
) -> None:
    """Writes an MP4 film in H.264, with any sound in AAC, completely or not at all.

    Args:
        path: the file.
        frames: the clip, uint8 [F, H, W, 3], H and W even.
        rate: frames per second.
        sound: the waveform, float [L, 1] or [L, 2] in [-1, 1], and its sample rate in Hz; None for a silent film.

    Raises:
        ValueError: if PyAV is not installed, a side is odd, or the waveform has another shape.
    """
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(
            f"an MP4 film must have even sides; these frames have {frames.shape[1]} x {frames.shape[2]} pixels"
        )
    if sound is not None and (sound[0].ndim != 2 or sound[0].shape[1] not in (1, 2) or not np.isfinite(sound[0]).all()):
        raise ValueError(f"the waveform has the shape {sound[0].shape}. Valid: [L, 1] or [L, 2], with finite values")
    if not films.has_library():
        raise ValueError(
            f"{path} can only be written with PyAV, which is not installed. Install it: {films.INSTALL}; or write a GIF"
        )
    from fractions import Fraction

    import av

    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"  # every player can show it
        stream.options = {"crf": "14"}
        stream.codec_context.colorspace, stream.codec_context.color_range = COLORS
        audio = None if sound is None else film.add_stream("aac", rate=sound[1], layout=LAYOUTS[sound[0].shape[1]])
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        film.mux(stream.encode())
        if audio is not None and sound is not None:
            planes = np.ascontiguousarray(np.clip(sound[0].T, -1, 1), np.float32)
            waveform = av.AudioFrame.from_ndarray(planes, format="fltp", layout=LAYOUTS[len(planes)])
            waveform.sample_rate = sound[1]
            film.mux(audio.encode(waveform))
            film.mux(audio.encode())
    with files.atomic(pathlib.Path(path)) as file:
        file.write(content.getvalue())


def _is_gif(source: str | os.PathLike | bytes) -> bool:
    return source.startswith(b"GIF8") if isinstance(source, bytes) else pathlib.Path(source).suffix.lower() == ".gif"


def _content(source: str | os.PathLike | bytes, within: pathlib.Path | None) -> bytes:
    return source if isinstance(source, bytes) else opener.read(source, within=within)


public.declare(__name__, renamed={"about": "properties"})
