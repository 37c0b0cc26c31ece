"""Films (MP4, WebM ...) by a child process that decodes them, one for each process that reads; see `film_child`."""

import atexit
import importlib.util
import io
import json
import math
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from diffusion.io import film_lengths, limits, opener

INSTALL = "pip install 'jax-diffusion[video]'"
"""Command that installs what reads and writes films."""
PROGRAM = pathlib.Path(__file__).with_name("film_child.py")
WAIT = 3600.0  # s for an answer; the child's own limit, of computing, is shorter
FRAMES = 10**6  # most frames of a film: nine hours at 30 a second


class Frames(NamedTuple):
    """The times at which the frames of a film appear.

    Attributes:
        height, width: height and width of a stored frame in pixels; a film may state that it is shown turned.
        rate: frames a second, on average.
        count: number of frames that the film shows or skips.
        times: the time of each frame in seconds after the first, increasing; () where the film does not say them.
    """

    height: int
    width: int
    rate: float
    count: int
    times: tuple[float, ...]


def has_library() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def properties(source: str | os.PathLike | bytes, name: str, within: pathlib.Path | None = None) -> Frames:
    """The times at which the frames of a film appear; no frame is decoded.

    Args:
        source: path of the file, or its content.
        name: the name of the film in messages.
        within: the folder that the file must lie in, as in `opener.open_file`.

    Raises:
        ValueError: if it is no whole film, takes too much memory or time, or PyAV is not installed.
        OSError: if it cannot be read.
    """
    said = _asked(source, name, within, {"do": "about", "frames": FRAMES}, {})
    if not 0 < said["rate"] < np.inf:
        raise ValueError(f"{name} does not state how many frames a second it has")
    if said["count"] < said["declared"]:
        raise ValueError(
            f"{name} is truncated: its header states {said['declared']} frames, but it holds {said['count']}"
        )
    stamps = said["stamps"]
    times = ()
    if stamps and None not in stamps:
        first, (up, down) = min(stamps), said["base"]
        times = tuple(float((stamp - first) * up / down) for stamp in sorted(stamps))
    return Frames(said["height"], said["width"], said["rate"], len(stamps), times)


def read(
    source: str | os.PathLike | bytes,
    numbers: list[int],
    name: str,
    within: pathlib.Path | None = None,
    viewed: bool = True,
) -> tuple[dict[int, np.ndarray], str | None]:
    """Some frames of a film.

    Args:
        source, name, within: the film, its name in messages, and the folder that it must lie in, as in `properties`.
        numbers: the numbers of the frames, increasing.
        viewed: whether frames are turned as the film states, by quarters; False: as they are stored.

    Returns:
        ({number: frame, uint8 [H, W, 3]} for the frames that exist, the damage after them or None).

    Raises:
        ValueError, OSError: as in `properties`.
        limits.Refused: for more frames than the memory holds.
    """
    frames: dict[int, np.ndarray] = {}
    said = _asked(source, name, within, {"do": "read", "numbers": numbers, "viewed": viewed}, frames)
    return frames, said["damage"]


# ==== The child ====


class _Child:
    """A process that decodes, and the socket to it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(WAIT)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is the reader's
            )

    def end(self) -> int:
        """Ends the process; returns its exit status."""
        self.socket.close()
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class _Reader:
    """The child of this process, one request after another; none before the first film."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: _Child | None = None

    def stop(self) -> None:
        """Ends the child."""
        child, self.child = self.child, None
        if child:
            child.end()


_reader = _Reader()


def _after_fork() -> None:
    """A forked process starts its own child; the parent's child keeps serving the parent."""
    global _reader
    if _reader.child:
        _reader.child.socket.close()
        _reader.child.process.returncode = 0  # not this process's to wait for
    _reader = _Reader()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _reader.stop())


def _asked(
    source: str | os.PathLike | bytes,
    name: str,
    within: pathlib.Path | None,
    request: dict[str, Any],
    frames: dict[int, np.ndarray],
) -> dict[str, Any]:
    """The last answer of the child; frames that come before it are put into `frames`."""
    if not has_library():
        raise ValueError(
            f"{name} can only be read with PyAV, which is not installed. Install it: {INSTALL}; or use a GIF"
        )
    if isinstance(source, bytes):
        _require_whole(io.BytesIO(source), len(source), name)
        said = _answered({**request, "length": len(source)}, source, [], name, frames)
    else:
        with opener.open_file(source, within=within) as file:
            length = os.fstat(file.fileno()).st_size
            _require_whole(file, length, name)
            os.lseek(file.fileno(), 0, os.SEEK_SET)  # the child's position too; a buffered seek may not move it
            said = _answered({**request, "length": length}, b"", [file.fileno()], name, frames)
    if "error" in said:
        raise ValueError(f"{name} {said['error']}")
    return said


def _require_whole(file: BinaryIO, length: int, name: str) -> None:
    missing = film_lengths.missing_bytes(file, length)
    if missing:
        raise ValueError(f"{name} is truncated: by the sizes that it states, {missing:,} bytes are missing at its end")


def _answered(
    request: dict[str, Any], content: bytes, descriptors: list[int], name: str, frames: dict[int, np.ndarray]
) -> dict[str, Any]:
    """The child's last message about a request; the frames that it sends before are added to `frames`."""
    with _reader.lock:
        if _reader.child is None or _reader.child.process.poll() is not None:
            _reader.stop()
            _reader.child = _Child()
        child = _reader.child
        text = json.dumps(request).encode()
        try:
            socket.send_fds(child.socket, [struct.pack("<Q", len(text))], descriptors)
            child.socket.sendall(text)
            child.socket.sendall(content)
            while True:
                said = json.loads(_exactly(child.socket, struct.unpack("<Q", _exactly(child.socket, 8))[0]))
                if "end" in said:
                    return said
                if not frames:
                    limits.fits(name, limits.array_bytes(name, (len(request["numbers"]), *said["shape"]), 1))
                pixels = _exactly(child.socket, math.prod(said["shape"]))
                frames[said["number"]] = np.frombuffer(pixels, np.uint8).reshape(said["shape"])
        except (OSError, EOFError) as error:
            _reader.child = None
            raise limits.Refused(f"{name} cannot be decoded: {_why(child, error)}.") from error
        except BaseException:  # a Ctrl-C in the middle of an answer: the rest of it is nobody's
            _reader.stop()
            raise


def _why(child: _Child, error: Exception) -> str:
    """The reason why a child has ended."""
    if isinstance(error, TimeoutError):
        child.process.kill()
    code = child.end()
    if code == -signal.SIGXCPU or isinstance(error, TimeoutError):
        return "it takes longer than a film of its size may"
    return f"its decoder ended ({signal.Signals(-code).name if code < 0 else code})"


def _exactly(connection: socket.socket, length: int) -> bytearray:
    """The next `length` bytes of the socket."""
    content = bytearray(length)
    rest = memoryview(content)
    while rest:
        count = connection.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return content
