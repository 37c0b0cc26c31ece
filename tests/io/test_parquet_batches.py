"""What the headers of Parquet's pages say, from bytes that were laid by hand, and what they cost of a budget."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusion.io import budgets, limits, parquet_batches

PATH = pathlib.Path("a.parquet")


def varint(value):
    content = b""
    while value > 127:
        content, value = content + bytes([value & 127 | 128]), value >> 7
    return content + bytes([value])


def struct(fields):
    """A struct of Thrift's compact protocol: numbers of 32 bits and structs, by field."""
    content, last = b"", 0
    for field, value in sorted(fields.items()):
        kind = 12 if isinstance(value, dict) else 5
        content += bytes([(field - last) << 4 | kind])
        content += struct(value) if kind == 12 else varint(2 * value if value >= 0 else -2 * value - 1)
        last = field
    return content + b"\0"


@pytest.mark.parametrize("kind", [5, 7, 8])  # the header of a page of data, of a dictionary, of data of version 2
def test_a_page_says_its_sizes_and_the_number_of_its_values(kind):
    header = struct({1: 0, 2: 300, 3: 200, kind: {1: 70, 2: 0}})
    assert parquet_batches._page(header + b"the page itself", PATH) == (len(header), 300, 200, 70)


def test_a_page_of_an_index_has_no_values():
    assert parquet_batches._page(struct({1: 1, 2: 0, 3: 0, 6: {}}), PATH)[1:] == (0, 0, 0)


@pytest.mark.parametrize("fields", [{2: -300}, {3: -200}, {5: {1: -70}}])
def test_a_negative_size_is_refused(fields):
    header = struct({1: 0, 2: 300, 3: 200, 5: {1: 70}} | fields)
    with pytest.raises(limits.Refused, match=r"a\.parquet is damaged: a page declares negative sizes: .*-\d+"):
        parquet_batches._page(header, PATH)


@pytest.mark.parametrize("content", [b"", struct({1: 0, 2: 300}), struct({1: 0, 2: 300, 3: 200, 5: {1: 70}})[:-2]])
def test_a_page_without_a_whole_header_is_refused(content):
    with pytest.raises(limits.Refused, match=r"a\.parquet is damaged: a page has no header"):
        parquet_batches._page(content, PATH)


@pytest.mark.parametrize(
    "dictionary, start", [({}, 100), ({11: None}, 100), ({11: 0}, 100), ({11: 40}, 40), ({11: 200}, 100)]
)
def test_a_column_begins_with_its_dictionary_if_it_has_one_before_its_data(dictionary, start):
    chunk = parquet_batches._chunk({3: [b"x"], 6: 90, 7: 30, 9: 100} | dictionary)
    assert chunk == ("x", start, start + 30, 90)


@pytest.mark.parametrize("parts, is_read", [(6, True), (5, False)])
def test_columns_count_in_each_group_of_rows(monkeypatch, tmp_path, parts, is_read):
    """Three groups of two columns, of which the reader keeps a description each."""
    pq.write_table(pa.table({"x": [1, 2, 3], "y": [4, 5, 6]}), tmp_path / "a.parquet", row_group_size=1)
    monkeypatch.setattr(parquet_batches, "PARTS", parts)
    if is_read:
        assert parquet_batches.metadata(tmp_path / "a.parquet").num_row_groups == 3
        return
    with pytest.raises(limits.Refused, match=r"a\.parquet"):
        parquet_batches.metadata(tmp_path / "a.parquet")


def test_a_column_unpacks_to_no_fewer_bytes_than_none():
    """Damaged columns would otherwise make up for each other in the sum."""
    assert parquet_batches._chunk({3: [b"x"], 6: -90, 7: 30, 9: 100}).unpacked == 0


COSTS = {  # {type: (values, bytes of the values of a page, bytes that a value takes in memory, longest value)}
    "int64": (pa.int64(), [1, 2, 3], 24, 8, 8),
    "int32": (pa.int32(), [1, 2, 3], 12, 4, 4),
    "bytes of one length": (pa.binary(5), [b"abcde"] * 4, 20, 5, 5),
    "bytes of any length": (pa.binary(), [b"abc", b"a"], 2 * 4 + 4, 4, 2 * 4 + 4),
}


@pytest.fixture
def spent(monkeypatch):
    spends = []

    class Budget(budgets.Budget):
        def spend(self, size=0, members=0):
            spends.append((size, members))

    monkeypatch.setattr(budgets, "Budget", Budget)
    return spends


def checked(path, table, columns=None):
    """The longest value that the pages of a file may have."""
    pq.write_table(table, path, use_dictionary=False, compression="none")
    with open(path, "rb") as file:
        return parquet_batches._check_pages(file, pq.read_metadata(path), columns, [0], path)


@pytest.mark.parametrize("name", COSTS)
def test_a_page_costs_what_it_unpacks_to_and_room_for_its_values(name, spent, tmp_path):
    kind, values, packed, width, longest = COSTS[name]
    table = pa.table({"x": pa.array(values, kind)}, schema=pa.schema([pa.field("x", kind, nullable=False)]))
    assert checked(tmp_path / "a.parquet", table) == longest
    assert spent == [(packed + len(values) * width, 1)]


def test_columns_that_nobody_reads_cost_nothing(spent, tmp_path):
    assert checked(tmp_path / "a.parquet", pa.table({"x": [1, 2], "y": ["a", "b"]}), ["x"]) == 8
    assert len(spent) == 1


def test_one_row_may_have_all_values_of_a_repeated_column_each_as_long_as_the_page(spent, tmp_path):
    longest = checked(tmp_path / "a.parquet", pa.table({"x": pa.array([[b"a", b"b"], [b"c"]])}))
    (page, members), (repeated, _) = spent
    assert (page - 3 * 4, members, repeated) == (longest, 1, 3 * longest)


def test_numbers_of_a_repeated_column_are_as_long_as_they_are(spent, tmp_path):
    assert checked(tmp_path / "a.parquet", pa.table({"x": pa.array([[1, 2], [3]])})) == 8
    assert len(spent) == 1


@pytest.mark.parametrize("kind, content, value", [
    (1, b"", True), (2, b"", False), (3, b"\x85", 0x85),
    (4, varint(7), -4), (5, varint(8), 4), (6, varint(2**40), 2**39),
    (7, bytes(8), None), (8, b"\3abc", b"abc"), (9, b"\x25" + varint(2) + varint(3), [1, -2]),
    (9, b"\x21\1\2", [True, False]), (10, b"\xf3" + varint(16) + bytes(range(16)), list(range(16))),
    (12, struct({2: 9}), {2: 9}),
])  # fmt: skip
def test_each_type_of_thrifts_compact_protocol_has_its_value_and_its_length(kind, content, value):
    """Truth values are 1 and 2 in lists, as "type" is in fields; numbers are in zigzag; 15 elements or more count."""
    assert parquet_batches._value(b"before" + content + b"behind", 6, kind, 0) == (value, 6 + len(content))


def test_a_field_far_behind_the_last_states_its_number():
    content = bytes([5]) + varint(2 * 300) + varint(2 * 7) + bytes([2 << 4 | 5]) + varint(2 * 8) + b"\0"
    assert parquet_batches._struct(content, 0, 0) == ({300: 7, 302: 8}, len(content))


@pytest.mark.parametrize("depth, is_read", [(21, True), (22, False)])
def test_structs_are_nested_at_most_twenty_deep_within_the_first(depth, is_read):
    nested = b"\0"
    for _ in range(depth):
        nested = bytes([1 << 4 | 12]) + nested + b"\0"
    if is_read:
        assert parquet_batches._struct(nested, 0, 0)[1] == len(nested)
    else:
        with pytest.raises(IndexError):
            parquet_batches._struct(nested, 0, 0)


def test_a_number_of_variable_length_has_at_most_ten_bytes():
    """Seven bits each, the lowest first."""
    assert parquet_batches._varint(b"?\x96\x01?", 1) == (150, 3)
    assert parquet_batches._varint(b"\x80" * 9 + b"\x01", 0) == (2**63, 10)
    with pytest.raises(IndexError):
        parquet_batches._varint(b"\x80" * 10 + b"\x01", 0)
