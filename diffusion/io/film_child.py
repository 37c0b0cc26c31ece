"""The program that decodes films in a process of its own, which has no network, no files and little memory.

    python film_child.py        # the standard input is a socket: requests and films come in, answers go out

FFmpeg reads files of many kinds in C, and some kinds name other files or hosts. In this process FFmpeg knows only the
formats in `FORMATS` and no protocol, and can open nothing, because the process may have no further descriptor. The
program imports nothing of the package `diffusion`.
"""

import array
import importlib
import io
import json
import os
import pkgutil
import resource
import socket
import struct
from collections.abc import Iterator
from typing import Any

import av
import av.error
import numpy

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"  # FFmpeg's names of .mp4, .mov, .mkv, .webm, .avi
MEMORY = 2**30  # bytes that the process may allocate beyond those that it has at its start
PIXELS = 2**23, 2**26  # limit of a frame in a small file, 4096 x 2048, and in a large one, 8192 x 8192
BYTES_A_PIXEL = 8  # pixels that a frame may have for each byte of its file, beyond the first of `PIXELS`
SECONDS = 60  # CPU seconds that a request may take, to which are added
SECONDS_A_BYTE = 2e-6  # CPU seconds for each byte of the film


class Ended(Exception):
    """The process that sends the requests has gone."""


def main() -> None:
    """Answers requests until the socket is closed."""
    for module in pkgutil.walk_packages(av.__path__, "av."):  # later, no file of a module could be opened
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    asking = socket.socket(fileno=0)
    held = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize() if os.path.exists("/proc") else 0
    if held:
        most, _ = _within_hard_limit(resource.RLIMIT_DATA, held + MEMORY)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        while True:
            _answer(asking)
    except (Ended, ConnectionError):
        return


def _within_hard_limit(kind: int, most: int) -> tuple[int, int]:
    """(the limit, at most the hard limit that the machine may have set, as login nodes do; that hard limit)."""
    _, hard = resource.getrlimit(kind)
    return most if hard == resource.RLIM_INFINITY else min(most, hard), hard


def _answer(asking: socket.socket) -> None:
    """Answers one request, after the process has given up the right to open files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, most), most))
    head, descriptors = _received(asking)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))  # no file and no socket can be opened after this
    content = os.fdopen(descriptors[0], "rb") if descriptors else io.BytesIO(_exactly(asking, head["length"]))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime + SECONDS + SECONDS_A_BYTE * head["length"]
    # The hard limit stays, because a later request may be allowed more.
    resource.setrlimit(resource.RLIMIT_CPU, _within_hard_limit(resource.RLIMIT_CPU, int(seconds) + 1))
    try:
        with content:
            for said, pixels in {"about": _about, "read": _read}[head["do"]](content, head):
                _send(asking, said, pixels)
    except (av.error.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        damaged = "is damaged or cut short: " if isinstance(error, av.error.FFmpegError) else ""
        _send(asking, {"end": True, "error": damaged + (str(error) or type(error).__name__)})


def _send(asking: socket.socket, said: dict[str, Any], pixels: bytes = b"") -> None:
    text = json.dumps(said).encode()
    asking.sendall(struct.pack("<Q", len(text)) + text)
    asking.sendall(pixels)


def _received(asking: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request, and the descriptor of its film where it comes with one."""
    size = array.array("i").itemsize
    data, ancillary, _, _ = asking.recvmsg(8, socket.CMSG_LEN(size))
    if not data:
        raise Ended
    data += _exactly(asking, 8 - len(data))
    descriptors = array.array("i")
    for _, _, part in ancillary:
        descriptors.frombytes(part[: len(part) - len(part) % size])
    return json.loads(_exactly(asking, struct.unpack("<Q", data)[0])), list(descriptors)


def _exactly(asking: socket.socket, length: int) -> bytes:
    """The next `length` bytes of the socket."""
    content = bytearray(length)
    rest = memoryview(content)
    while rest:
        count = asking.recv_into(rest)
        if not count:
            raise Ended
        rest = rest[count:]
    return bytes(content)


def _opened(content: Any, head: dict[str, Any]) -> Any:
    """The film that FFmpeg has opened, and its stream of pictures."""
    low, high = PIXELS
    pixels = min(max(low, BYTES_A_PIXEL * head["length"]), high)
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "none", "max_pixels": str(pixels)}
    try:
        film = av.open(content, options=options)
    except av.error.FFmpegError as error:
        raise ValueError(f"is not a film, or is truncated: {error}") from error
    if not film.streams.video:
        raise ValueError("has no pictures, only other streams")
    stream = film.streams.video[0]
    if stream.height * stream.width > pixels:
        raise ValueError(
            f"declares {stream.height} x {stream.width} pixels, but a film file of its size has at most {pixels:,}"
        )
    stream.codec_context.options = {"max_pixels": str(pixels)}
    return film, stream


class _Content:
    """The bytes of a film; once `described` is True, reads return zeros, because only the positions count then."""

    def __init__(self, content: Any):
        self._content = content
        self.described = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as a file returns them."""
        if not self.described:
            return self._content.read(size)
        at = self._content.tell()
        rest = max(self._content.seek(0, os.SEEK_END) - at, 0)
        length = rest if size < 0 else min(size, rest)
        self._content.seek(at + length)
        return bytes(length)

    def seek(self, *where: int) -> int:
        """Goes to a position, as a file does."""
        return self._content.seek(*where)

    def tell(self) -> int:
        """The position, as a file returns it."""
        return self._content.tell()


def _about(content: Any, head: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The sizes, the rate and the times of the frames; packets are counted one by one, and none is decoded.

    If the film has a table of all its frames, as an MP4 file has, the content of the frames is not read.
    """
    content = _Content(content)
    film, stream = _opened(content, head)
    content.described = 0 < stream.frames == len(getattr(stream, "index_entries", ()))
    with film:
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        stamps, count = [], 0
        for packet in film.demux(stream):
            if not packet.size:
                continue
            count += 1
            if not packet.is_discard:
                stamps.append(packet.pts)
            if count > head["frames"]:
                raise ValueError(f"holds more than {head['frames']:,} frames: split it into several files")
        base = stream.time_base
        said = {"height": stream.height, "width": stream.width, "rate": rate, "declared": stream.frames}
        base = [base.numerator, base.denominator] if base else [0, 1]
        yield {"end": True, **said, "count": count, "stamps": stamps, "base": base}, b""


def _read(content: Any, head: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The requested frames, each as soon as it is decoded; frames after them are not decoded."""
    film, stream = _opened(content, head)
    wanted = set(head["numbers"])
    shape = None
    damage = None
    with film:
        try:
            for number, frame in enumerate(film.decode(stream)):
                if number in wanted:
                    pixels = frame.to_ndarray(format="rgb24")
                    if head.get("viewed", True) and frame.rotation % 90 == 0:  # counterclockwise
                        pixels = numpy.ascontiguousarray(numpy.rot90(pixels, frame.rotation // 90))
                    shape = shape or pixels.shape
                    if pixels.shape != shape:
                        raise ValueError(f"has frames of different sizes, {shape[:2]} and {pixels.shape[:2]} pixels")
                    yield {"number": number, "shape": shape}, pixels.tobytes()
                if number >= head["numbers"][-1]:
                    break
        except av.error.FFmpegError as error:
            damage = str(error)
    yield {"end": True, "damage": damage}, b""


if __name__ == "__main__":
    main()
