"""Films are decoded in a child that can open nothing: no neighbour, no socket; it is one, and starts anew."""

import contextlib
import functools
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import types

import numpy as np
import pytest

from diffusion.data import sources
from diffusion.io import clips, film_lengths, films, limits

av = pytest.importorskip("av")

FRAMES = np.broadcast_to(np.uint8(10 * np.arange(9))[:, None, None, None], (9, 16, 16, 3)).copy()


@pytest.fixture
def film(tmp_path):
    clips.write_mp4(tmp_path / "a.mp4", FRAMES, 8)
    return tmp_path / "a.mp4"


def child() -> subprocess.Popen:
    clip = films._reader.child
    assert clip is not None
    return clip.process


def decoded(path):
    """All frames of a film, by PyAV in this process."""
    with av.open(str(path)) as content:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in content.decode(video=0)])


@pytest.mark.extended
@pytest.mark.parametrize("channels", [1, 2])
def test_a_film_has_its_sound(tmp_path, channels):
    """Tones of 500 Hz and 2,000 Hz for a second, whose strongest frequency each channel of the file has, too."""
    rate = 24000
    tones = np.stack([np.sin(2 * np.pi * f * np.arange(rate) / rate) / 2 for f in (500, 2000)[:channels]], axis=1)
    clips.write_mp4(tmp_path / "a.mp4", FRAMES, 8, (tones.astype(np.float32), rate))
    np.testing.assert_array_equal(decoded(tmp_path / "a.mp4").shape, FRAMES.shape)
    with av.open(str(tmp_path / "a.mp4")) as content:
        (stream,) = content.streams.audio
        heard = np.concatenate([frame.to_ndarray() for frame in content.decode(audio=0)], axis=1)
    assert (stream.rate, len(heard)) == (rate, channels) and abs(heard.shape[1] - rate) <= 2048
    middle = heard[:, 4000:16000]
    strongest = np.abs(np.fft.rfft(middle)).argmax(axis=1) * rate / middle.shape[1]
    np.testing.assert_allclose(strongest, (500, 2000)[:channels], atol=2)
    np.testing.assert_allclose(middle.std(axis=1), 0.5 / 2**0.5, rtol=0.02)


@pytest.mark.parametrize("waveform", [np.zeros(5), np.zeros((5, 3)), np.full((5, 1), np.nan)])
def test_a_sound_of_another_shape_is_refused(tmp_path, waveform):
    with pytest.raises(ValueError, match=r"Valid: \[L, 1\] or \[L, 2\], with finite values"):
        clips.write_mp4(tmp_path / "a.mp4", FRAMES, 8, (waveform, 24000))


@pytest.mark.extended
@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3", "g": "4"}])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "mov"])
def test_frames_are_those_that_pyav_decodes(tmp_path, ending, options):
    path = tmp_path / f"a.{ending}"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (32, 48, 3), np.uint8), format="rgb24")
            made.mux(stream.encode(frame))
        made.mux(stream.encode())
    exact = decoded(path)
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(clips.read(source, np.array([0, 3, 11])), exact[[0, 3, 11]])
        about = clips.properties(source)
        assert (about.height, about.width, len(about.times)) == (32, 48, 12)
        np.testing.assert_allclose(about.times, np.arange(12) / 10, atol=2e-3)


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.extended
@pytest.mark.parametrize(
    ("ending", "codec", "options"),
    [("webm", "libvpx", {}), ("mkv", "libx264", {}), ("avi", "libx264", {}), ("mp4", "libx264", FRAGMENTED)],
    ids=["webm", "mkv", "avi", "fragmented"],
)
def test_a_film_that_is_cut_short_is_an_error_wherever_the_cut_is(tmp_path, ending, codec, options):
    path = tmp_path / f"a.{ending}"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as film:
        stream = film.add_stream(codec, rate=10, options={"g": "4"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (32, 48, 3), np.uint8), format="rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    whole = path.read_bytes()
    assert len(clips.properties(path).times) == len(clips.properties(whole).times) == 12
    for share in (0.3, 0.5, 0.7, 0.9, 0.99):
        cut = whole[: int(share * len(whole))]
        path.write_bytes(cut)
        for source in (path, cut):
            with pytest.raises(
                ValueError, match=r"is truncated: by .* [\d,]+ bytes are missing|is not a film, or is truncated"
            ):
                clips.properties(source)


def test_a_film_may_leave_its_size_open(tmp_path):
    """Streams do: every bit of Matroska's size is set, or an MP4's last box has none."""
    segment = film_lengths.SEGMENT
    opened = film_lengths.EBML + b"\x84abcd" + segment
    for size, missing in (
        (b"\x85", 3),
        (b"\xff", 0),
        (b"\x01" + 7 * b"\xff", 0),
        (b"\x40\x02", 0),
        (b"\x10\0\0\x0c", 10),
    ):
        content = opened + size + b"ab"
        assert film_lengths.missing_bytes(io.BytesIO(content), len(content)) == missing
    box = lambda size, kind, content: size.to_bytes(4, "big") + kind + content
    for last, missing in ((0, 0), (10, 0), (30, 20)):
        content = box(12, b"ftyp", b"isom") + box(8, b"free", b"") + box(last, b"mdat", b"ab")
        assert film_lengths.missing_bytes(io.BytesIO(content), len(content)) == missing
    content = box(12, b"ftyp", b"isom") + box(1, b"mdat", (40).to_bytes(8, "big") + b"ab")
    assert film_lengths.missing_bytes(io.BytesIO(content), len(content)) == 22
    content = box(12, b"ftyp", b"isom") + box(1, b"mdat", (2**64 - 1).to_bytes(8, "big") + b"ab")
    (tmp_path / "huge.mp4").write_bytes(content)
    with open(tmp_path / "huge.mp4", "rb") as file:  # a box that ends where no file can
        assert film_lengths.missing_bytes(file, len(content)) == 12 + 2**64 - 1 - len(content)
    for content in (b"", b"RIFF", film_lengths.EBML, film_lengths.EBML + b"\0", opened):
        assert film_lengths.missing_bytes(io.BytesIO(content), len(content)) == 0


def tar(path, content):
    with tarfile.open(path, "w") as archive:
        header = tarfile.TarInfo("0.mp4")
        header.size = len(content)
        archive.addfile(header, io.BytesIO(content))


def sdp(port):
    """A description of a session, at which FFmpeg listens."""
    lines = ("v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 127.0.0.1", "t=0 0", f"m=video {port} RTP/AVP 96",
             "a=rtpmap:96 H264/90000", "")  # fmt: skip
    return "\n".join(lines)


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def bound(port):
    """Whether a UDP socket of this machine has the port."""
    return any(f":{port:04X} " in line for line in open("/proc/net/udp"))


@pytest.mark.extended
def test_a_session_in_the_place_of_a_film_binds_no_port(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    port = free_port()
    tar(tmp_path / "a.tar", sdp(port).encode())
    seen = []
    ended = threading.Event()

    def look():
        while not ended.is_set():
            seen.append(bound(port))
            time.sleep(0.005)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        with pytest.raises(ValueError, match="its mp4 is not a film, or is truncated"):
            sources.clip_shards(str(tmp_path), frames=1, side=8)[0]
    finally:
        ended.set()
        thread.join()
    assert not any(seen)


@pytest.mark.extended
@pytest.mark.parametrize("text", [
    "ffconcat version 1.0\nfile '{film}'\n", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n",
    "concat:{film}", "http://127.0.0.1:9/a.mp4",
])  # fmt: skip
def test_a_list_of_other_films_reads_none_of_them(film, tmp_path, text):
    path = tmp_path / "list.mp4"
    path.write_text(text.format(film=film))
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match="is not a film"):
            clips.properties(source, "list.mp4")


def test_the_child_can_open_nothing():
    """Its limit of descriptors is none at all while it decodes, which the system counts."""
    program = (
        "import resource, socket; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 100))\n"
        "for call in (lambda: open('/dev/null'), socket.socket):\n"
        "    try: call()\n"
        "    except OSError as error: print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["24", "24"]


@pytest.mark.extended
def test_one_child_decodes_many_films(film):
    clips.properties(film)
    first = child().pid
    for _ in range(20):
        assert len(clips.read(film, np.arange(9))) == 9
    assert child().pid == first


@pytest.mark.extended
def test_a_child_that_is_killed_starts_anew(film):
    clips.properties(film)
    first = child()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert len(clips.properties(film).times) == 9 and child().pid != first.pid


@pytest.mark.extended
def test_a_child_that_dies_at_a_film_is_an_error_of_that_film_alone(film, monkeypatch):
    clips.properties(film)
    first = child()
    os.kill(first.pid, signal.SIGSTOP)
    threading.Timer(0.2, lambda: os.kill(first.pid, signal.SIGKILL)).start()
    with pytest.raises(limits.Refused, match=r"a\.mp4 cannot be decoded: its decoder ended \(SIGKILL\)"):
        clips.properties(film)
    assert len(clips.properties(film).times) == 9


def test_a_film_that_takes_too_long_is_refused(film, monkeypatch):
    clips.properties(film)
    first = child()
    os.kill(first.pid, signal.SIGSTOP)
    films._reader.child.socket.settimeout(0.2)
    with pytest.raises(limits.Refused, match="takes longer than a film of its size may"):
        clips.properties(film)
    assert first.poll() is not None


@pytest.mark.parametrize(
    "code, why",
    [
        (-signal.SIGXCPU, "it takes longer than a film of its size may"),
        (-signal.SIGSEGV, "its decoder ended (SIGSEGV)"),
        (1, "its decoder ended (1)"),
    ],
)
def test_a_child_that_ended_at_its_limit_of_seconds_took_too_long(code, why):
    assert films._why(types.SimpleNamespace(end=lambda: code), EOFError()) == why


def test_a_request_that_comes_in_parts_is_read_whole():
    from diffusion.io import film_child

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(1)
        head, text = struct.pack("<Q", 13), b'{"frames": 7}'
        ours.sendall(head[3:] + text)
        parts = types.SimpleNamespace(recvmsg=lambda *_: (head[:3], [], 0, None), recv_into=theirs.recv_into)
        assert film_child._received(parts) == ({"frames": 7}, [])


def test_what_the_child_answers(film):
    from diffusion.io import film_child

    content = film.read_bytes()
    head = {"length": len(content), "numbers": [1, 4], "frames": 9}
    *parts, (end, rest) = film_child._read(io.BytesIO(content), head)
    assert [said for said, _ in parts] == [{"number": number, "shape": (16, 16, 3)} for number in (1, 4)]
    assert b"".join(pixels for _, pixels in parts) == decoded(film)[[1, 4]].tobytes()
    assert (end, rest) == ({"end": True, "damage": None}, b"")
    ((about, _),) = film_child._about(io.BytesIO(content), head)
    assert (about["height"], about["width"], about["rate"], about["count"], about["declared"]) == (16, 16, 8, 9, 9)
    np.testing.assert_allclose(np.array(about["stamps"]) * about["base"][0] / about["base"][1] * 8, np.arange(9))
    with pytest.raises(ValueError, match="holds more than 8 frames"):
        list(film_child._about(io.BytesIO(content), head | {"frames": 8}))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        film_child._send(theirs, {"number": 1}, b"pixels")
        theirs.close()
        assert ours.recv(100) == struct.pack("<Q", 13) + b'{"number": 1}' + b"pixels"
        with pytest.raises(film_child.Ended):
            film_child._received(ours)


@pytest.mark.extended
def test_frames_after_the_last_requested_one_are_not_decoded(monkeypatch):
    from diffusion.io import film_child

    decoded_frames = []

    class Film(contextlib.nullcontext):
        def decode(self, stream):
            for number in range(9):
                decoded_frames.append(number)
                yield types.SimpleNamespace(to_ndarray=lambda format: np.zeros((2, 2, 3), np.uint8), rotation=0)

    monkeypatch.setattr(film_child, "_opened", lambda content, head: (Film(), None))
    assert len(list(film_child._read(None, {"numbers": [1, 4]}))) == 3  # two frames, and the end
    assert decoded_frames == [0, 1, 2, 3, 4]


def test_a_film_has_a_name_in_messages_beside_its_path(film, tmp_path):
    frames, damage = films.read(film, [2, 5], "the film of row 3")
    assert frames.keys() == {2, 5} and damage is None
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no film")
    for read in (functools.partial(films.read, damaged, [0]), functools.partial(films.properties, damaged)):
        with pytest.raises(ValueError, match=r"^the film of row 3 "):
            read("the film of row 3")


@pytest.mark.parametrize("viewed, rotation, quarters", [
    (True, 0, 0), (True, 90, 1), (True, -90, 3), (True, 180, 2), (True, 45, 0), (False, 90, 0), (False, 0, 0),
])  # fmt: skip
def test_frames_are_turned_counterclockwise_by_quarters_where_they_are_viewed(viewed, rotation, quarters, monkeypatch):
    from diffusion.io import film_child

    stored = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    frame = types.SimpleNamespace(to_ndarray=lambda format: stored, rotation=rotation)
    film = type("Film", (contextlib.nullcontext,), {"decode": lambda film, stream: iter([frame])})()
    monkeypatch.setattr(film_child, "_opened", lambda content, head: (film, None))
    said, pixels = next(iter(film_child._read(None, {"numbers": [0], "viewed": viewed})))
    expected = stored
    for _ in range(quarters):  # the last column becomes the first row
        expected = expected.transpose(1, 0, 2)[::-1]
    assert said == {"number": 0, "shape": expected.shape} and pixels == expected.tobytes()


def test_a_child_is_not_shared_with_a_forked_process(film):
    clips.properties(film)
    before = child().pid
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            ok = len(clips.read(film, np.arange(9))) == 9 and child().pid != before
            films._reader.stop()
            os.write(write, b"1" if ok else b"0")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 1) == b"1"
    assert len(clips.read(film, np.arange(9))) == 9 and child().pid == before


@pytest.mark.extended
@pytest.mark.parametrize("limit", ["-t 50", "-d 524288"])  # seconds, KiB
def test_films_are_read_under_a_hard_limit_of_the_machine(film, monkeypatch, limit):
    """Login nodes have one of CPU seconds, which an ordinary user cannot raise."""

    def start(command, **options):
        return subprocess.Popen(["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *command], **options)

    monkeypatch.setattr(films, "subprocess", types.SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
    films._reader.stop()
    try:
        assert len(clips.read(film, np.arange(9))) == 9
    finally:
        films._reader.stop()


class Counted(io.BytesIO):
    """Bytes that count how many of them are read."""

    count = 0

    def read(self, size=-1):
        content = super().read(size)
        self.count += len(content)
        return content


def test_the_frames_of_a_large_film_are_not_read_for_their_times(tmp_path):
    """Their table is enough; the times are those that a film says whose frames are all read."""
    from diffusion.io import film_child

    frames = np.random.default_rng(0).integers(0, 256, (40, 128, 128, 3), np.uint8)
    clips.write_mp4(tmp_path / "a.mp4", frames, 8)
    content = Counted((tmp_path / "a.mp4").read_bytes())
    ((said, _),) = film_child._about(content, {"length": 10**6, "frames": 100})
    assert content.count < len(content.getvalue()) / 2
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert said["stamps"] == [packet.pts for packet in film.demux(video=0) if packet.size]


@pytest.mark.extended
def test_small_films_declare_no_giant_frames(tmp_path):
    """A film of some kilobytes, whose frames have 8 times the pixels that a small file may declare."""
    with av.open(str(tmp_path / "a.mkv"), "w") as made:
        stream = made.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 4096, 4096, "yuv420p"
        frame = av.VideoFrame(4096, 4096, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        made.mux(stream.encode(frame))
        made.mux(stream.encode())
    assert (tmp_path / "a.mkv").stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"a\.mkv (declares 4096 x 4096 pixels|is not a film|is damaged)"):
        clips.properties(tmp_path / "a.mkv")


@pytest.mark.extended
def test_threads_take_turns(film):
    errors = []

    def read(number):
        try:
            np.testing.assert_array_equal(clips.read(film, np.array([number])), exact[[number]])
        except BaseException as error:
            errors.append(error)

    exact = decoded(film)
    threads = [threading.Thread(target=read, args=(k % 9,)) for k in range(18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_film_states_how_its_colours_are_coded(tmp_path):
    """Without it players take BT.709 for films of 720 lines and more, and BT.601 for others (ITU-T H.273: 6)."""
    colour = np.array([32, 192, 64], np.uint8)
    clips.write_mp4(tmp_path / "a.mp4", np.broadcast_to(colour, (2, 16, 16, 3)), 8)
    with av.open(str(tmp_path / "a.mp4")) as content:
        frame = next(content.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (6, 1)
    luma = frame.to_ndarray(format="yuv420p")[: frame.height]
    expected = 16 + colour @ [65.481, 128.553, 24.966] / 255  # 127; by BT.709 it is 144
    assert np.abs(luma - expected).max() < 3


@pytest.mark.parametrize("times, expected, length", [((0.0, 0.1, 0.5), (0, 0.1, 0.5), 0.6), ((), (0, 0.1, 0.2), 0.3)])
def test_a_clip_has_the_times_of_its_film_or_even_ones(times, expected, length, monkeypatch):
    """At 10 frames a second; the last frame is shown for a tenth of a second."""
    film = types.SimpleNamespace(count=3, height=2, width=4, rate=10.0, times=times)
    monkeypatch.setattr(clips.films, "properties", lambda *source: film)
    about = clips.properties(b"film")
    np.testing.assert_allclose([*about.times, about.length], [*expected, length], rtol=1e-9)


def test_the_times_of_frames_begin_at_the_earliest_in_whichever_order_they_are_stored(monkeypatch):
    """Frames that are predicted from both sides are stored after later ones; a tick is 1 / 50 s."""
    said = {"rate": 25.0, "count": 4, "declared": 4, "stamps": [14, 18, 12, 16], "base": (1, 50)}
    said |= {"height": 4, "width": 6}
    monkeypatch.setattr(films, "_asked", lambda *_: said)
    assert films.properties(b"", "a film") == (4, 6, 25.0, 4, (0.0, 0.04, 0.08, 0.12))
    said["stamps"] = [12, None, 14, 16]
    assert films.properties(b"", "a film").times == ()


# ==== The child's program and the reader, in this process ====


@pytest.fixture
def limited(monkeypatch):
    """(the limits of the machine by kind, the limits that were set) of a child's program with its own resources."""
    from diffusion.io import film_child

    hard, was_set = {"files": 900, "seconds": -1, "data": -1}, []
    used = types.SimpleNamespace(ru_utime=3.5, ru_stime=0.25)
    own = types.SimpleNamespace(
        RLIMIT_NOFILE="files", RLIMIT_CPU="seconds", RLIMIT_DATA="data", RUSAGE_SELF="self", RLIM_INFINITY=-1,
        getrlimit=lambda kind: (5, hard[kind]), setrlimit=lambda *arguments: was_set.append(arguments),
        getrusage=lambda who: used, getpagesize=lambda: 4096,
    )  # fmt: skip
    monkeypatch.setattr(film_child, "resource", own)
    return hard, was_set


def answer(monkeypatch, head, content=b"", descriptors=()):
    """What the child sends for one request."""
    from diffusion.io import film_child

    said = []
    monkeypatch.setattr(film_child, "_received", lambda asking: (head, list(descriptors)))
    monkeypatch.setattr(film_child, "_exactly", lambda asking, length: content[:length])
    monkeypatch.setattr(film_child, "_send", lambda asking, *answer: said.append(answer))
    film_child._answer(None)
    return said


@pytest.mark.parametrize("files, seconds", [(900, -1), (900, 50), (40, 100)])
def test_a_film_is_decoded_without_further_files_and_in_seconds_by_its_length(monkeypatch, limited, files, seconds):
    """3.75 seconds are used; 60 and two for a million bytes are added, and rounded up, where the machine allows it."""
    from diffusion.io import film_child

    hard, was_set = limited
    hard |= {"files": files, "seconds": seconds}
    monkeypatch.setattr(film_child, "_read", lambda content, head: iter([(head["do"], content.read())]))
    head = {"do": "read", "length": 10**6}
    assert answer(monkeypatch, head, b"film") == [("read", b"film")]
    most = 66 if seconds < 0 else min(66, seconds)
    assert was_set == [
        ("files", (min(64, files), files)), ("files", (0, files)), ("seconds", (most, seconds)),
    ]  # fmt: skip


def test_a_film_that_comes_with_a_descriptor_is_read_by_it(monkeypatch, limited, tmp_path):
    from diffusion.io import film_child

    (tmp_path / "a.mp4").write_bytes(b"by the descriptor")
    monkeypatch.setattr(film_child, "_about", lambda content, head: iter([({}, content.read())]))
    descriptor = os.open(tmp_path / "a.mp4", os.O_RDONLY)
    assert answer(monkeypatch, {"do": "about", "length": 4}, descriptors=[descriptor]) == [({}, b"by the descriptor")]
    with pytest.raises(OSError):
        os.fstat(descriptor)  # it is closed


@pytest.mark.parametrize("error, text", [
    (ValueError("has no pictures"), "has no pictures"), (MemoryError(), "MemoryError"), ("FFmpeg", "damaged or cut"),
])  # fmt: skip
def test_what_cannot_be_decoded_is_answered_in_words(monkeypatch, limited, error, text):
    from diffusion.io import film_child

    def fails(content, head):
        raise av.error.InvalidDataError(1, "it is wrong") if error == "FFmpeg" else error
        yield

    monkeypatch.setattr(film_child, "_about", fails)
    ((said,),) = answer(monkeypatch, {"do": "about", "length": 0})
    assert said["end"] is True and text in said["error"]
    assert ("cut short" in said["error"]) == (error == "FFmpeg")


@pytest.mark.parametrize("has_proc", [True, False])
def test_the_program_answers_in_a_gibibyte_more_than_it_has_until_its_reader_has_gone(monkeypatch, limited, has_proc):
    """The sixth number of statm counts pages of data."""
    from diffusion.io import film_child

    answered = []

    def one(asking):
        answered.append(asking)
        if len(answered) == 3:
            raise film_child.Ended

    monkeypatch.setattr(film_child.pkgutil, "walk_packages", lambda path, prefix: [types.SimpleNamespace(name="json")])
    monkeypatch.setattr(film_child.socket, "socket", lambda fileno: ("socket", fileno))
    monkeypatch.setattr(film_child.os.path, "exists", lambda path: has_proc)
    monkeypatch.setattr(film_child, "open", lambda path: io.StringIO("1 2 3 4 5 7 8"), raising=False)
    monkeypatch.setattr(film_child, "_answer", one)
    film_child.main()
    most = 7 * 4096 + 2**30
    assert answered == [("socket", 0)] * 3 and limited[1] == ([("data", (most, most))] if has_proc else [])


def test_the_sizes_of_an_avi_and_of_boxes_without_a_head_are_counted():
    missing = lambda content: film_lengths.missing_bytes(io.BytesIO(content), len(content))
    avi = b"RIFF" + struct.pack("<I", 100) + b"AVI "
    assert missing(avi) == 8 + 100 - 12 and missing(avi + bytes(96)) == missing(avi + bytes(99)) == 0
    box = struct.pack(">I4s", 16, b"ftyp") + bytes(8)
    assert missing(box + b"1234567") == 0 and missing(box + struct.pack(">I4s", 20, b"moov")) == 12


class Socket:
    """A socket that notes its end, and fails where it sends."""

    def __init__(self, error=None):
        self.closed, self.error = 0, error

    def close(self):
        self.closed += 1

    def sendall(self, content):
        raise self.error


def child_of(error=None, waits=()):
    made = films._Child.__new__(films._Child)
    made.socket, ended, waits = Socket(error), [], list(waits)

    def wait(seconds=None):
        if waits and isinstance(waits[0], Exception):
            raise waits.pop(0)
        return waits.pop(0) if waits else 0

    made.process = types.SimpleNamespace(wait=wait, kill=lambda: ended.append("killed"), poll=lambda: None, ended=ended)
    return made


def test_a_child_that_does_not_end_is_killed():
    slow = child_of(waits=[subprocess.TimeoutExpired("", 5), -9])
    assert (slow.end(), slow.process.ended, slow.socket.closed) == (-9, ["killed"], 1)
    quick = child_of(waits=[3])
    assert (quick.end(), quick.process.ended, quick.socket.closed) == (3, [], 1)


def test_a_forked_process_leaves_the_child_to_its_parent(monkeypatch):
    reader = films._Reader()
    reader.child = child_of()
    monkeypatch.setattr(films, "_reader", reader)
    films._after_fork()
    assert films._reader is not reader and films._reader.child is None
    assert (reader.child.socket.closed, reader.child.process.returncode) == (1, 0)
    films._after_fork()  # without a child


def test_an_interrupt_ends_the_child_whose_answer_is_nobodys(monkeypatch):
    reader = films._Reader()
    reader.child = made = child_of(KeyboardInterrupt())
    monkeypatch.setattr(films, "_reader", reader)
    monkeypatch.setattr(films.socket, "send_fds", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        films._answered({}, b"", [], "a.mp4", {})
    assert reader.child is None and made.socket.closed == 1


def test_a_film_of_bytes_is_sent_with_its_length(monkeypatch):
    asked = []
    monkeypatch.setattr(films, "has_library", lambda: True)
    monkeypatch.setattr(films, "_require_whole", lambda file, length, name: asked.append((file.read(), length, name)))
    monkeypatch.setattr(films, "_answered", lambda *arguments: asked.append(arguments) or {"end": True})
    frames = {}
    assert films._asked(b"film", "a.mp4", None, {"do": "about"}, frames) == {"end": True}
    assert asked == [(b"film", 4, "a.mp4"), ({"do": "about", "length": 4}, b"film", [], "a.mp4", frames)]


def test_a_loud_sound_is_clipped_and_has_the_rate_of_its_samples(tmp_path):
    """A square wave of two amplitudes, a period of 100 samples, at 1 after the clip."""
    wave = np.where(np.arange(8192)[:, None] % 100 < 50, 3.0, -3.0) * [1, 0.1]
    clips.write_mp4(tmp_path / "a.mp4", FRAMES[:2], 8, (wave, 16000))
    with av.open(str(tmp_path / "a.mp4")) as content:
        (stream,) = content.streams.audio
        heard = np.concatenate([frame.to_ndarray() for frame in content.decode(audio=0)], axis=1)
    assert stream.rate == 16000 and abs(heard.shape[1] - 8192) <= 2048
    np.testing.assert_allclose(heard[:, 3000:6000].std(axis=1), [1, 0.3], rtol=0.1)


@pytest.mark.parametrize("length, pixels", [(100, 2**23), (2**20, 2**23), (2**21, 2**24), (2**24, 2**26)])
def test_a_frame_has_at_most_eight_pixels_for_each_byte_beyond_the_first_eight_million(monkeypatch, length, pixels):
    """And at most 2^26; FFmpeg receives the same limit, and no protocol."""
    from diffusion.io import film_child

    asked = []
    stream = types.SimpleNamespace(height=1, width=pixels, codec_context=types.SimpleNamespace())
    film = types.SimpleNamespace(streams=types.SimpleNamespace(video=[stream]))
    monkeypatch.setattr(film_child.av, "open", lambda content, options: asked.append(options) or film)
    assert film_child._opened("content", {"length": length}) == (film, stream)
    assert asked[0]["protocol_whitelist"] == "none" and asked[0]["max_pixels"] == str(pixels)
    assert stream.codec_context.options == {"max_pixels": str(pixels)}
    stream.width += 1
    with pytest.raises(ValueError, match=f"of its size has at most {pixels:,}"):
        film_child._opened("content", {"length": length})


def test_the_content_of_a_described_film_is_read_as_zeros_up_to_its_end():
    from diffusion.io import film_child

    content = film_child._Content(io.BytesIO(b"abcdefgh"))
    assert content.read(2) == b"ab" and content.tell() == 2
    content.described = True
    assert (content.read(3), content.tell()) == (bytes(3), 5)
    assert (content.read(), content.tell()) == (bytes(3), 8)
    assert (content.read(4), content.read(-1), content.tell()) == (b"", b"", 8)
    content.seek(20)  # beyond the end, where a file has no byte either
    assert content.read() == content.read(4) == b""
    content.seek(-3, 2)
    assert (content.read(9), content.tell()) == (bytes(3), 8)


@pytest.mark.parametrize("count, whole", [(3, False), (4, True), (5, True)])
def test_a_film_has_at_least_as_many_frames_as_its_header_states(count, whole, monkeypatch):
    said = {"rate": 25.0, "count": count, "declared": 4, "stamps": [0, 1, 2], "base": (1, 25), "height": 4, "width": 6}
    monkeypatch.setattr(films, "_asked", lambda *arguments: said)
    if whole:
        assert films.properties(b"", "a film").count == 3
    else:
        with pytest.raises(ValueError, match="a film is truncated: its header states 4 frames, but it holds 3"):
            films.properties(b"", "a film")
