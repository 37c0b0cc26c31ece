"""Parquet files, read a batch of rows at a time; no batch unpacks to more than its file explains.

Some bytes of a file can stand for thousands of millions: a page that is compressed, a number that is repeated, an entry
of a dictionary that each row names. The headers of the pages say how much each unpacks to, so they are read first.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from diffusion.io import budgets, failures, limits, opener

BATCH = 2**25  # bytes that a batch may have, if each of its values is as long as a page
ROWS = 2**14  # most rows of a batch
PARTS = 10**6  # columns of all groups of rows of a file
HEADER = 2**16  # bytes of the header of a page, with the least and the greatest value in it
FIXED = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}  # bytes of a value


def _damaged() -> tuple[type[BaseException], ...]:
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError)


def metadata(path: pathlib.Path, within: pathlib.Path | None = None) -> Any:
    """The metadata of a file: its columns and groups of rows.

    Args:
        path, within: the file, and the folder that it must lie in, as in `opener.open_file`.

    Raises:
        limits.Refused: if it is no sound Parquet file, or declares more rows or parts than a file of its size may have.
        OSError: if it cannot be read.
    """
    import pyarrow.parquet as pq

    path = opener.check(path, within=within)
    try:
        content = pq.read_metadata(path)
    except _damaged() as error:
        if failures.is_machine_failure(error):
            raise
        raise limits.Refused(f"{path} is not an intact Parquet file: {limits.reason(error)}") from error
    groups, columns = content.num_row_groups, content.num_columns
    budget = budgets.Budget(str(path), budgets.unpacked(os.stat(path).st_size), members=PARTS)
    budget.spend(members=groups * columns)
    counts = [content.row_group(group).num_rows for group in range(groups)]
    if min(counts, default=0) < 0 or sum(counts) != content.num_rows:
        raise limits.Refused(
            f"{path} is damaged: it declares {content.num_rows} rows, but its groups have {counts[:5]} rows"
        )
    budget.spend(8 * content.num_rows)
    return content


def batches(
    path: pathlib.Path, columns: Sequence[str] | None, groups: Sequence[int] | None = None, within: Any = None
) -> Iterator[Any]:
    """The record batches of some columns of a file, in order.

    Args:
        path, within: the file, and the folder that it must lie in, as in `opener.open_file`.
        columns: the names of the columns; None for all.
        groups: the numbers of the groups of rows; None for all.

    Raises:
        limits.Refused: if the file is damaged, or unpacks to more than a file of its size may.
        OSError: if it cannot be read.
    """
    import pyarrow.parquet as pq

    header = metadata(path, within)
    path = opener.check(path, within=within)
    groups = range(header.num_row_groups) if groups is None else groups
    try:
        with opener.open_file(path) as file:
            longest = _check_pages(file, header, columns, groups, path)
        rows = max(1, min(ROWS, BATCH // max(longest, 1)))
        wanted = sum(header.row_group(group).num_rows for group in groups)
        budget = budgets.Budget(str(path), budgets.unpacked(os.stat(path).st_size))
        with pq.ParquetFile(path) as content:
            names = None if columns is None else list(columns)
            for batch in content.iter_batches(rows, row_groups=list(groups), columns=names, use_threads=False):
                budget.spend(batch.nbytes)
                wanted -= batch.num_rows
                yield batch
        if wanted:
            raise limits.Refused(f"it has {wanted} rows fewer than it declares")
    except limits.Refused:
        raise
    except _damaged() as error:
        if failures.is_machine_failure(error):
            raise
        raise limits.Refused(f"{path} is not an intact Parquet file: {limits.reason(error)}") from error


# ==== The headers of pages, in Thrift's compact protocol ====


def _check_pages(
    file: BinaryIO, header: Any, columns: Sequence[str] | None, groups: Sequence[int], path: pathlib.Path
) -> int:
    """Refuses pages that unpack to more than the file explains; returns the bytes of the longest value there may be."""
    size = os.fstat(file.fileno()).st_size
    budget = budgets.Budget(str(path), budgets.unpacked(size))
    longest = 1
    chunks = _chunks(file, path)
    for group in groups:
        if len(chunks[group]) != header.num_columns:
            raise limits.Refused(f"{path} is damaged: a group of rows has {len(chunks[group])} columns")
        for number, chunk in enumerate(chunks[group]):
            if columns is not None and chunk.name not in columns:
                continue
            schema = header.schema.column(number)
            width = FIXED.get(schema.physical_type, max(schema.length or 0, 0))
            at, end = chunk.start, chunk.end
            if not 0 <= at <= end <= size:
                raise limits.Refused(
                    f"{path} is damaged: a column lies at bytes {at} to {end}, but the file has {size}"
                )
            biggest = 0
            while at < end:
                file.seek(at)
                length, unpacked, packed, values = _page(file.read(min(HEADER, end - at)), path)
                budget.spend(unpacked + values * (width or 4), members=1)
                biggest = max(biggest, unpacked)
                at += length + packed
                if not width and schema.max_repetition_level:  # one row can have all of its values
                    budget.spend(values * biggest)
            longest = max(longest, width or biggest)
    return longest


class _Chunk(NamedTuple):
    """The position of a column in a group of rows, and the bytes that it declares to unpack to."""

    name: str
    start: int
    end: int
    unpacked: int


def unpacked(path: pathlib.Path, name: str, within: Any = None) -> int:
    """The number of bytes that a column declares to unpack to.

    Args:
        path, within: the file, and the folder that it must lie in, as in `opener.open_file`.
        name: the name of the column.

    Raises:
        limits.Refused, OSError: as in `metadata`.
    """
    with opener.open_file(path, within=within) as file:
        return sum(chunk.unpacked for group in _chunks(file, path) for chunk in group if chunk.name == name)


def _chunks(file: BinaryIO, path: pathlib.Path) -> list[list[_Chunk]]:
    """The columns of each group of rows, from the end of the file.

    pyarrow's own (`RowGroupMetaData.column`) ends the process where their statistics are damaged.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(size - 8 - length, 0))
    try:
        footer, _ = _struct(file.read(length), 0, 0)
        return [[_chunk(column[3]) for column in group[1]] for group in footer.get(4, [])]
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, AttributeError) as error:
        raise limits.Refused(f"{path} is damaged: its columns have no description") from error


def _chunk(column: dict[int, Any]) -> _Chunk:
    """The name, the bytes and the unpacked size of a column, from the fields of its description."""
    start = min(column[9], column.get(11) or column[9])  # the dictionary comes first if there is one
    return _Chunk(column[3][0].decode(), start, start + column[7], max(column[6], 0))


def _page(content: bytes, path: pathlib.Path) -> tuple[int, int, int, int]:
    """(bytes of a page's header, bytes that the page unpacks to, bytes that it has, number of its values)."""
    try:
        fields, length = _struct(content, 0, 0)
        unpacked, packed = fields[2], fields[3]
        values = max((part.get(1, 0) for kind in (5, 7, 8) if isinstance(part := fields.get(kind), dict)), default=0)
    except (IndexError, KeyError, TypeError, RecursionError) as error:
        raise limits.Refused(f"{path} is damaged: a page has no header") from error
    if min(unpacked, packed, values) < 0:
        raise limits.Refused(
            f"{path} is damaged: a page declares negative sizes: {unpacked} bytes unpacked, {packed} packed, {values} "
            "values"
        )
    return length, unpacked, packed, values


def _struct(content: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """The numbers and structs of a struct by their field, and the byte after it."""
    fields: dict[int, Any] = {}
    field = 0
    while head := content[at]:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _number(content, at)
        fields[field], at = _value(content, at, head & 15, depth)
    return fields, at + 1


def _value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """The value of a type of Thrift's compact protocol at a byte, and the byte after it."""
    if depth > 20:
        raise IndexError(depth)
    if kind in (1, 2):  # a truth value stands in its type
        return kind == 1, at
    if kind == 3:
        return content[at], at + 1
    if kind in (4, 5, 6):
        return _number(content, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(content, at)
        if at + length > len(content):
            raise IndexError(length)
        return content[at : at + length], at + length
    if kind in (9, 10):
        head, at = content[at], at + 1
        length = head >> 4
        if length == 15:
            length, at = _varint(content, at)
        items = []
        for _ in range(length):
            item, at = (content[at] == 1, at + 1) if head & 15 in (1, 2) else _value(content, at, head & 15, depth + 1)
            items.append(item)
        return items, at
    if kind == 12:
        return _struct(content, at, depth + 1)
    raise IndexError(kind)


def _number(content: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(content, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The unsigned number of variable length at a byte, and the byte after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise IndexError(at)
