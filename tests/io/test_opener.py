"""Only plain files are opened, in their folder, of a size; nothing waits, and nothing else is read."""

import io
import os
import pathlib
import socket
import threading

import pytest

from diffusion.io import limits, opener
from tests.reliability.hostile import little_memory  # noqa: F401


@pytest.fixture
def folder(tmp_path):
    """A folder with one file, beside which lies another."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_bytes(b"inside")
    (tmp_path / "outside.txt").write_bytes(b"outside")
    return tmp_path / "folder"


def ends(call) -> BaseException | None:
    """What a call raises, which must not wait for somebody to open the other end of a pipe."""
    raised: list[BaseException | None] = []

    def run():
        try:
            call()
            raised.append(None)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert raised, "it waits"
    return raised[0]


def test_a_plain_file_is_opened(folder):
    with opener.open_file(folder / "a.txt", within=folder, most=6) as file:
        assert os.get_blocking(file.fileno()) and not os.get_inheritable(file.fileno())
        assert file.read() == b"inside"
    assert opener.read(str(folder / "a.txt")) == b"inside"
    assert opener.check(folder / "a.txt") == folder / "a.txt"


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "endless"])
def test_what_is_no_file_is_refused_at_once(folder, monkeypatch, kind, linked):
    path = folder / "b.txt"
    words = {"pipe": "a named pipe", "socket": "a socket", "device": "a device", "endless": "a device"}[kind]
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            monkeypatch.chdir(folder)  # the address of a socket is short
            bound.bind("b.txt")
        else:
            path.symlink_to("/dev/null" if kind == "device" else "/dev/zero")
        if linked:
            path.rename(folder / "c.txt")
            path.symlink_to("c.txt")
        for call in (opener.open_file, opener.check, opener.read, opener.read_text, opener.read_json):
            error = ends(lambda call=call: call(path))
            assert isinstance(error, limits.Refused) and f"b.txt is not a file, but {words}." in str(error)


def test_a_folder_and_a_missing_file_are_what_the_system_says(folder):
    with pytest.raises(IsADirectoryError, match="folder is a folder, not a file"):
        opener.open_file(folder)
    with pytest.raises(FileNotFoundError):
        opener.open_file(folder / "z.txt")
    with pytest.raises(FileNotFoundError):
        opener.open_file(folder / "z.txt", within=folder)


@pytest.mark.parametrize("name", ["link.txt", "../outside.txt", "sub/link.txt", "deep/outside.txt"])
def test_what_lies_outside_of_the_folder_is_refused(folder, name):
    (folder / "link.txt").symlink_to("../outside.txt")
    (folder / "sub").mkdir()
    (folder / "sub" / "link.txt").symlink_to(folder / "link.txt")
    (folder / "deep").symlink_to(folder.parent)
    with pytest.raises(limits.Refused, match=r"leads out of its folder .*folder, to .*outside\.txt"):
        opener.open_file(folder / name, within=folder)
    assert opener.read(folder / name) == b"outside"  # where the user names the file itself


def test_links_within_the_folder_and_to_the_folder_are_followed(folder):
    (folder / "link.txt").symlink_to("a.txt")
    (folder.parent / "other").symlink_to("folder")
    other = folder.parent / "other"
    assert opener.read(other / "link.txt", within=other) == b"inside"
    assert opener.check(other / "link.txt", within=other) == pathlib.Path(os.path.realpath(folder / "a.txt"))


def test_a_folder_whose_name_begins_alike_is_another(folder):
    (folder.parent / "folder2").mkdir()
    (folder.parent / "folder2" / "b.txt").write_bytes(b"outside")
    with pytest.raises(limits.Refused, match="leads out"):
        opener.open_file(folder / "../folder2/b.txt", within=folder)


def test_a_snapshot_of_hugging_faces_cache_leads_to_its_blobs_and_no_further(tmp_path):
    repository = tmp_path / "hub" / "datasets--someone--pictures"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "0f").write_bytes(b"blob")
    place = repository / "snapshots" / "main" / "data"
    place.mkdir(parents=True)
    (place / "a.txt").symlink_to("../../../blobs/0f")
    (tmp_path / "outside.txt").write_bytes(b"outside")
    (place / "b.txt").symlink_to(tmp_path / "outside.txt")
    for within in (place, place.parent):
        assert opener.read(place / "a.txt", within=within) == b"blob"
        with pytest.raises(limits.Refused, match="leads out"):
            opener.read(place / "b.txt", within=within)


def test_a_folder_that_is_called_so_is_no_cache(tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "0f").write_bytes(b"outside")
    place = tmp_path / "snapshots" / "main"
    place.mkdir(parents=True)
    (place / "c.txt").symlink_to("../../others/0f")
    with pytest.raises(limits.Refused, match="leads out"):
        opener.read(place / "c.txt", within=place)


def test_a_file_over_its_size_is_not_read(folder):
    os.truncate(folder / "a.txt", 2**40)
    with pytest.raises(limits.Refused, match=r"a\.txt has 1 TiB; at most 64 MiB are read"):
        opener.read_text(folder / "a.txt")
    with pytest.raises(limits.Refused, match="at most 5 B are read"):
        opener.open_file(folder / "a.txt", most=5)
    with pytest.raises(limits.Refused, match="at most 5 B are read"):
        opener.check(folder / "a.txt", most=5)
    with pytest.raises(limits.Refused, match="at most"):
        opener.read(folder / "a.txt", most=2**30)


def test_a_file_without_a_size_is_read_up_to_the_limit(folder):
    """Those of /proc have none; so has one that grows meanwhile."""
    assert opener.read("/proc/self/status").startswith(b"Name:")
    with pytest.raises(limits.Refused, match="more than 10 B, the most that is read"):
        opener.read("/proc/self/status", most=10)


def test_a_small_file_takes_little_memory_whatever_the_limit(folder, little_memory):  # noqa: F811
    assert opener.read(folder / "a.txt") == b"inside"


def test_another_file_in_the_place_of_a_checked_one_is_not_read(folder, monkeypatch):
    """Between the look at a file and its opening somebody may put a pipe there: what is open is looked at again."""
    os.mkfifo(folder / "pipe")
    opens = os.open

    def swapped(path, flags, *more, **others):
        os.replace(folder / "pipe", folder / "a.txt")
        return opens(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", swapped)
    error = ends(lambda: opener.open_file(folder / "a.txt"))
    assert isinstance(error, limits.Refused) and "a named pipe" in str(error)


def test_a_link_in_the_place_of_a_checked_file_is_not_followed(folder, monkeypatch):
    (folder / "link").symlink_to("../outside.txt")
    opens = os.open

    def swapped(path, flags, *more, **others):
        os.replace(folder / "link", folder / "a.txt")
        return opens(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(limits.Refused, match="leads out"):
        opener.open_file(folder / "a.txt", within=folder)


def test_links_are_followed_alike_on_systems_without_proc(folder, monkeypatch):
    readlink = os.readlink

    def lacking(path, *more, **others):
        if os.fspath(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return readlink(path, *more, **others)

    monkeypatch.setattr(os, "readlink", lacking)
    assert opener.read(folder / "a.txt", within=folder) == b"inside"
    (folder / "link.txt").symlink_to("../outside.txt")
    with pytest.raises(limits.Refused, match="leads out"):
        opener.open_file(folder / "link.txt", within=folder)


def test_no_descriptor_is_left_open(folder):
    os.mkfifo(folder / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("pipe", "a.txt", "../outside.txt", "."):
        for most in (0, 100):
            try:
                opener.open_file(folder / path, within=folder, most=most).close()
            except (OSError, ValueError):
                pass
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("content", "text"), [(b"a\r\nb\rc\n", "a\nb\nc\n"), (b"\xef\xbb\xbfa", "a"), ("ä".encode(), "ä"), (b"", "")]
)
def test_text_is_utf_8_with_any_ends_of_lines(folder, content, text):
    (folder / "a.txt").write_bytes(content)
    assert opener.read_text(folder / "a.txt") == text


@pytest.mark.parametrize("content, lines", [
    ("", []), ("a", ["a"]), ("a\r\nb\r\n", ["a", "b"]), ("a\n\n", ["a", ""]), ("\n", [""]),
    ("a\u2028b\x85c\x0cd\ne", ["a\u2028b\x85c\x0cd", "e"]),
])  # fmt: skip
def test_lines_end_where_the_file_says_so(folder, content, lines):
    (folder / "lines.txt").write_bytes(content.encode())
    assert opener.read_lines(folder / "lines.txt", within=folder) == lines


def test_text_of_another_encoding_is_refused_with_its_line(folder):
    (folder / "a.txt").write_bytes(b"one\ntw\xf6\n")
    with pytest.raises(limits.Refused, match=r"a\.txt is not UTF-8 text: line 2 has the byte 0xf6\."):
        opener.read_text(folder / "a.txt")


def test_json_is_a_table_where_one_is_needed(folder):
    (folder / "a.txt").write_text('{"a": [1]}')
    assert opener.read_table(folder / "a.txt", within=folder) == {"a": [1]}
    (folder / "a.txt").write_text("[1]")
    assert opener.read_json(folder / "a.txt", within=folder) == [1]
    with pytest.raises(limits.Refused, match="holds list, not a table of fields"):
        opener.read_table(folder / "a.txt")
    (folder / "a.txt").write_text("[" * 100_000)
    with pytest.raises(limits.Refused, match=r"a\.txt is not valid JSON"):
        opener.read_json(folder / "a.txt")


def test_a_field_that_json_names_twice_has_one_value(folder):
    """Programs differ in which of two values they take."""
    (folder / "a.txt").write_text('{"a": 1, "b": {"c": [1], "c": [1]}}')
    assert opener.read_table(folder / "a.txt") == {"a": 1, "b": {"c": [1]}}
    for text in ('{"a": 1, "b": 2, "a": 3}', '[{"b": {"a": 1, "a": null}}]'):
        (folder / "a.txt").write_text(text)
        with pytest.raises(limits.Refused, match=r"a\.txt is not valid JSON: the field 'a' occurs twice"):
            opener.read_json(folder / "a.txt")


def test_a_file_that_grows_is_read_up_to_its_limit_and_no_further(tmp_path, monkeypatch):
    """Ten bytes, one at a time, of a file that states none."""
    (tmp_path / "empty").write_bytes(b"")
    with open(tmp_path / "empty", "rb") as empty:

        class Grown(io.BytesIO):
            def fileno(self):
                return empty.fileno()

        monkeypatch.setattr(opener, "CHUNK", 1)
        monkeypatch.setattr(opener, "open_file", lambda path, **how: Grown(b"0123456789"))
        assert opener.read("a", most=10) == opener.read("a", most=11) == b"0123456789"
        with pytest.raises(limits.Refused, match="a has more than 9 B, the most that is read"):
            opener.read("a", most=9)
