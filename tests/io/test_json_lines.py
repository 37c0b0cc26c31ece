"""Lines of JSON: whole when several write, and cut back to a step."""

import json
import os
import stat
import threading

import pytest

from diffusion.io import json_lines


def test_lines_are_whole_when_many_write(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = {"step": 1, "text": "x" * 3000}
    writers = [threading.Thread(target=lambda: [json_lines.append(path, row) for _ in range(50)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = path.read_text().splitlines()
    assert len(lines) == 200 and all(json.loads(line) == row for line in lines)


def test_values_that_are_not_json_are_refused(tmp_path):
    with pytest.raises(ValueError):
        json_lines.append(tmp_path / "metrics.jsonl", {"loss": float("nan")})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_new_file_may_be_read_by_all_and_written_by_its_owner(tmp_path):
    before = os.umask(0)
    try:
        json_lines.append(tmp_path / "metrics.jsonl", {"step": 1})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "metrics.jsonl").stat().st_mode) == 0o644


def test_rewind_drops_later_and_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    json_lines.rewind(path, 5)  # nothing there yet
    assert not path.exists()
    for step in (2, 4, 6):
        json_lines.append(path, {"step": step})
    first = path.read_text()[: len('{"step": 2}\n{"step": 4}\n')]
    json_lines.rewind(path, 5)
    assert path.read_text() == first
    json_lines.rewind(path, 4)  # the line of the step itself stays
    assert path.read_text() == first
    path.write_text(first + '{"step": 5, "lo')
    json_lines.rewind(path, 5)
    assert path.read_text() == first
    path.write_text(first + '{"step": 5}')  # whole, but for its end of line: the next would stick to it
    json_lines.rewind(path, 5)
    assert path.read_text() == first


@pytest.mark.parametrize("damage", [b'{"step": 2, "lo\n', b"[2]\n", b"\x00\x00\n", b"2\n"])
def test_a_damaged_line_inside_is_named_and_a_torn_last_one_left_out(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
    with pytest.raises(OSError, match=r"metrics\.jsonl: line 2 "):
        json_lines.rows(path)
    path.write_bytes(b'{"step": 1}\n\n{"step": 2}\n{"step": 3, "lo')
    assert json_lines.rows(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("content, complete", [
    (b'{"a": 1}\n{"b"', b'{"a": 1}\n'), (b'{"a": 1}\n', b'{"a": 1}\n'), (b'{"a"', b""), (b"", b""), (b"\n\n1", b"\n\n"),
])  # fmt: skip
def test_a_torn_last_line_is_dropped(tmp_path, content, complete):
    path = tmp_path / "votes.jsonl"
    json_lines.mend(path)
    assert not path.exists()
    path.write_bytes(content)
    json_lines.mend(path)
    assert path.read_bytes() == complete
