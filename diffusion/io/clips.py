"""Clips of pictures as files: GIF by Pillow; MP4, WebM and others by PyAV (`pip install jax-diffusion[video]`)."""

__all__ = [
    "About", "about", "evenly", "has_library", "read", "row", "write", "write_gif", "write_mp4", "write_with_row",
]  # fmt: skip

import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from diffusion.io import files, gif_blocks, limits, pictures

SHOWN = 8  # frames of `row`
INSTALL = "pip install 'jax-diffusion[video]'"


class About(NamedTuple):
    """What a file of a clip says of itself.

    Attributes:
        height, width: in pixels.
        rate: frames a second: the average, and in a GIF, where equal frames may be one that is shown for longer, that
            of its shortest frame.
        times: when each frame appears, in seconds after the first, increasing.
        length: of the whole, in seconds.
    """

    height: int
    width: int
    rate: float
    times: tuple[float, ...]
    length: float


def evenly(frames: int, height: int, width: int, rate: float) -> About:
    """What a clip of frames at equal distances says of itself."""
    return About(height, width, rate, tuple(i / rate for i in range(frames)), frames / rate)


def has_library() -> bool:
    """Whether PyAV is installed, which all but GIF needs."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def about(source: str | os.PathLike | bytes, name: str = "") -> About:
    """What a file says of itself. All of a film is read for the times of its frames, and nothing of it decoded.

    Args:
        source: path of the file, or its content.
        name: of it, for messages; the path by default.

    Raises:
        ValueError: if it is no whole clip, or PyAV is needed and not installed.
        OSError: if it cannot be read.
    """
    name = name or str(source)
    if _is_gif(source):
        with _gif(source, name) as picture:
            shown = []
            try:
                for number in range(getattr(picture, "n_frames", 1)):
                    picture.seek(number)
                    shown.append((picture.info.get("duration", 0) or 100) / 1000)  # without one, as browsers do
            except pictures.DAMAGED as error:
                raise ValueError(f"{name} is damaged or cut short: {error}") from error
            ends = np.cumsum(shown).tolist()
            return About(picture.height, picture.width, 1 / min(shown), (0.0, *ends[:-1]), ends[-1])
    with _film(source, name) as film:
        stream = film.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if not rate:
            raise ValueError(f"{name} does not say how many frames a second it has")
        packets = [packet for packet in film.demux(stream) if packet.size]
        if len(packets) < stream.frames:
            raise ValueError(
                f"{name} is cut short: it has {stream.frames} frames by its header, and {len(packets)} are there"
            )
        stamps = [packet.pts for packet in packets if not packet.is_discard]
        even = evenly(len(stamps), int(stream.height), int(stream.width), rate)
        if not stamps or None in stamps:
            return even
        times = [float((stamp - min(stamps)) * stream.time_base) for stamp in sorted(stamps)]
        return even._replace(times=tuple(times), length=times[-1] + 1 / rate)


def read(source: str | os.PathLike | bytes, numbers: np.ndarray, name: str = "") -> np.ndarray:
    """Some frames of a file, uint8 [K, H, W, 3]; no more of it than up to the last of them is decoded.

    Args:
        source: path of the file, or its content.
        numbers: int [K], increasing, of the frames.
        name: of it, for messages; the path by default.

    Raises:
        ValueError: as `about`, or if the file ends before these frames.
        limits.Refused: for more frames than the memory holds.
    """
    name = name or str(source)
    wanted = {int(number) for number in numbers}
    fits = lambda height, width: limits.fits(name, limits.array_bytes(name, (len(wanted), height, width, 3), 1))
    found: dict[int, np.ndarray] = {}
    try:
        if _is_gif(source):
            with _gif(source, name) as picture:
                fits(picture.height, picture.width)
                for number in sorted(wanted):
                    picture.seek(number)
                    found[number] = np.asarray(picture.convert("RGB"))
        else:
            with _film(source, name) as film:
                fits(int(film.streams.video[0].height), int(film.streams.video[0].width))
                for number, frame in enumerate(film.decode(video=0)):
                    if number in wanted:
                        found[number] = frame.to_ndarray(format="rgb24")
                    if number >= max(wanted):
                        break
    except (*pictures.DAMAGED, *_errors()) as error:
        raise ValueError(f"{name} is damaged or cut short after frame {max(found, default=-1) + 1}: {error}") from error
    if missing := sorted(wanted - set(found)):
        raise ValueError(
            f"{name} is cut short: it has {len(about(source, name).times)} frames by its header, and frame "
            f"{missing[0]} is gone"
        )
    return np.stack([found[int(number)] for number in numbers])


def row(frames: np.ndarray) -> np.ndarray:
    """Up to eight frames of a clip, uint8 [F, H, W, 3], from the first to the last beside each other: [H, K W, 3]."""
    some = np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int)
    return np.concatenate(list(frames[some]), axis=1)


def write_with_row(path: str | pathlib.Path, frames: np.ndarray, rate: float, about: Mapping[str, Any]) -> pathlib.Path:
    """Writes a clip, and beside it a PNG file of some of its frames, which carries its settings.

    Args:
        path: of the PNG file; the clip has its name, and an end of its own.
        frames: uint8 [F, H, W, 3].
        rate: frames a second.
        about: settings, see `pictures.write`.

    Returns:
        The path of the clip.
    """
    film = write(path, frames, rate)
    pictures.write(path, row(frames), about)
    return film


def write(path: str | os.PathLike, frames: np.ndarray, rate: float) -> pathlib.Path:
    """Writes a clip: an MP4 film where PyAV is installed and the sides are even, else a GIF animation.

    Args:
        path: of the file; its ending becomes .mp4 or .gif.
        frames: uint8 [F, H, W, 3].
        rate: frames a second.

    Returns:
        The path.
    """
    film = has_library() and not (frames.shape[1] % 2 or frames.shape[2] % 2)
    path = pathlib.Path(path).with_suffix(".mp4" if film else ".gif")
    (write_mp4 if film else write_gif)(path, frames, rate)
    return path


def write_gif(path: str | os.PathLike, frames: np.ndarray, rate: float) -> None:
    """Writes an animation that repeats, whole or not at all; of a frame what changes, and never less than a pixel.

    Args:
        path: of the file.
        frames: uint8 [F, H, W, 3].
        rate: frames a second; GIF has hundredths of a second.
    """
    shown = [Image.fromarray(frame) for frame in frames]
    whole = (0, 0, *shown[0].size)
    how = {"duration": round(100 / rate) * 10, "disposal": 1, "include_color_table": True}
    parts = GifImagePlugin.getheader(_indexed(shown[0]), info={"loop": 0})[0]
    for number, frame in enumerate(shown):  # not by Image.save, which leaves out a frame that is equal to the last
        box = (ImageChops.difference(shown[number - 1], frame).getbbox() or (0, 0, 1, 1)) if number else whole
        parts += GifImagePlugin.getdata(_indexed(frame.crop(box)), box[:2], **how)
    with files.whole(pathlib.Path(path)) as file:
        file.write(b"".join([*parts, b";"]))


def _indexed(picture: Image.Image) -> Image.Image:
    """The picture with a palette of its own, of 256 colours at most."""
    return picture.convert("P", palette=Image.Palette.ADAPTIVE)


def write_mp4(path: str | os.PathLike, frames: np.ndarray, rate: float) -> None:
    """Writes an MP4 film of H.264, whole or not at all.

    Args:
        path: of the file.
        frames: uint8 [F, H, W, 3], H and W even.
        rate: frames a second.

    Raises:
        ValueError: if PyAV is not installed, or a side is odd.
    """
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"an MP4 film has even sides, and these frames are {frames.shape[1]} x {frames.shape[2]}")
    av = _library(str(path))
    from fractions import Fraction

    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"  # what every player shows
        stream.options = {"crf": "14"}
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        film.mux(stream.encode())
    with files.whole(pathlib.Path(path)) as file:
        file.write(content.getvalue())


def _library(name: str) -> Any:
    try:
        import av
    except ImportError:
        raise ValueError(f"{name} needs PyAV, which is not installed. Install it: {INSTALL}; or use GIF") from None
    return av


def _errors() -> tuple[type[BaseException], ...]:
    """What PyAV raises for a damaged file; nothing without it."""
    if not has_library():
        return ()
    import av

    return (av.error.FFmpegError,)


def _is_gif(source: str | os.PathLike | bytes) -> bool:
    return source.startswith(b"GIF8") if isinstance(source, bytes) else pathlib.Path(source).suffix.lower() == ".gif"


def _gif(source: str | os.PathLike | bytes, name: str) -> Image.Image:
    try:
        picture = pictures.opened(source if isinstance(source, bytes) else os.fspath(source), name, formats=("GIF",))
    except ValueError as error:
        raise ValueError(f"{name} is no GIF animation, or is cut short: {error}") from error
    try:
        gif_blocks.require_whole(picture.fp, name)  # type: ignore[arg-type]
    except ValueError:
        picture.close()
        raise
    return picture


def _film(source: str | os.PathLike | bytes, name: str) -> Any:
    av = _library(name)
    if not isinstance(source, bytes) and not pathlib.Path(source).is_file():
        raise FileNotFoundError(f"{name}: there is no such file.")
    try:
        film = av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except av.error.FFmpegError as error:
        raise ValueError(f"{name} is no film, or is cut short: {error}") from error
    if not film.streams.video:
        film.close()
        raise ValueError(f"{name} has no pictures, only other streams")
    return film
