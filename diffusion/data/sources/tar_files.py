"""WebDataset's tar shards with random access: members with the same stem make a record, whose columns are the suffixes.

    train-000000.tar: 0001.jpg 0001.cls 0001.txt 0002.jpg ...     columns jpg, cls, txt; for 0001.json, "json.KEY"

The headers of a shard are read once, and the positions of its members are stored in DIFFUSION_CACHE. Only the bytes of
the requested record are read from a shard, so a run has the same order as with any other source.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import struct
import tarfile
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

from diffusion.data.sources import splits
from diffusion.data.sources.table_records import Records, stamp_of
from diffusion.io import budgets, files, limits, npy, opener

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
TEXTS = ("txt", "text", "caption")
END = 1024  # the number of zero bytes that end an archive
HEADER = 2**20  # the most bytes of a long name, or of a pax header
MEMBERS = 10**8  # the most members of an archive, each of at least 512 bytes
ANNOUNCES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
             tarfile.SOLARIS_XHDTYPE)  # fmt: skip  # kinds of headers that are read before a member
DAMAGED = (ValueError, LookupError, TypeError, OverflowError, RuntimeError, AttributeError, struct.error)


def tar_shards(
    path: str,
    split: str = "train",
    *,
    x: str | tuple[str, ...] = "",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | tuple[str, ...] = (),
    caption: str = "",
    side: int = 0,
    varied: tuple[int, ...] = (),
    viewed: bool = True,
) -> Records:
    """Opens the tar files in a folder, or the files that match a pattern.

    Args:
        path: a folder, a file, or a pattern such as "shards/train-*.tar".
        split: the split, or a part such as "train[:90%]"; a file's name begins with the name of its split.
        x, label, classes, condition, caption: the columns of the example, the label, the condition and the text, and
            the names of the classes, as in `table_records.Records`; the columns are the suffixes of members' names.
        side: height and width of the squares to which pictures are cropped and scaled; 0 for pictures of one size.
        varied: (H, W) of the samples if pictures keep their sizes; () if all have one size.
        viewed: whether pictures are read as a viewer shows them, as in `transforms.decode_square`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is not a complete tar archive, is compressed, or has records with different members.
    """
    columns = {"x": x, "label": label, "classes": classes, "condition": condition, "caption": caption}
    return Records(TarShards(path, split), split, side=side, varied=varied, viewed=viewed, **columns)


class TarShards:
    """The records of tar files as a table."""

    def __init__(self, path: str, split: str):
        self._paths, self.where, self.name = splits.files_at(path, (".tar",), splits.parse(split).base)
        splits.warn_of_formats(self.where, "archives", COMPRESSED, (".tar",))
        self._within = splits.within(self.where)
        self._members: list[tuple[int, str, dict[str, tuple[int, int]]]] = []  # shard, key, {suffix: (offset, length)}
        for shard, file in enumerate(self._paths):
            opener.check(file, within=self._within)
            for key, members in _index(file, self._within):
                self._members.append((shard, key, members))
        if not self._members:
            raise ValueError(f"{self.where} holds no records: all its archives are empty.")
        suffixes = self._members[0][2]
        for row, (_, _, members) in enumerate(self._members):
            if members.keys() != suffixes.keys():
                raise ValueError(
                    f"{self.place(row)}: its members are {', '.join(sorted(members))}, but the first record has "
                    f"{', '.join(sorted(suffixes))}. All records must have the same members."
                )
        try:
            first = self._value(0, "json") if "json" in suffixes else {}
        except ValueError as error:
            raise ValueError(f"{self.place(0)}: {error}") from error
        keys = [f"json.{key}" for key in first] if isinstance(first, dict) else []
        self.columns = (*(name for name in suffixes if name != "json"), *keys)

    def __len__(self) -> int:
        return len(self._members)

    def place(self, row: int) -> str:
        shard, key, members = self._members[row]
        return f"{self._paths[shard]}, record {key!r} at byte {min(start for start, _ in members.values())}"

    def record_name(self, row: int) -> str:
        """The name of a record: the name of its shard and its key, "SHARD/KEY"."""
        shard, key, _ = self._members[row]
        return f"{self._paths[shard].name}/{key}"

    def record_length(self, row: int) -> int:
        """The number of bytes of a record's members that are neither texts nor labels, such as a picture."""
        members = self._members[row][2].items()
        return sum(length for name, (_, length) in members if name.rpartition(".")[2] not in (*TEXTS, "cls", "json"))

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        return [{name: self._value(row, name) for name in columns} for row in rows]

    def column(self, name: str) -> Sequence[Any]:
        values = []
        for row in range(len(self)):
            try:
                values.append(self._value(row, name))
            except ValueError as error:
                raise ValueError(f"{self.place(row)}: {error}.") from error
        return values

    def stamp(self) -> Any:
        return stamp_of(self._paths)

    def _value(self, row: int, name: str) -> Any:
        suffix, _, key = name.partition(".") if name.startswith("json.") else (name, "", "")
        shard, _, members = self._members[row]
        start, length = members[suffix]
        content = os.pread(_kept_open(str(self._paths[shard]), self._within).fileno(), length, start)
        if len(content) != length:
            raise ValueError(f"its {suffix} is truncated")
        value = value_of(suffix, content)
        if key and key not in value:
            raise ValueError(f"its json has no key {key!r}, only {', '.join(value)}")
        return value[key] if key else value


def value_of(suffix: str, content: bytes) -> Any:
    """The value of a member of a shard, by its suffix.

    Args:
        suffix: "jpg", "cls", "txt", "json", "npy" ...
        content: the bytes of the member.

    Raises:
        ValueError: if the content does not fit the suffix.
    """
    kind = suffix.rpartition(".")[2]
    try:
        if kind == "npy":
            return npy.decoded(content, f"its {suffix}")
        if kind == "json":
            return limits.parse_json(content, f"its {suffix}")
        if kind == "cls":
            return int(content)
        return content.decode().strip() if kind in TEXTS else content
    except UnicodeDecodeError as error:
        wrong = f"the byte 0x{content[error.start]:02x} at {error.start} of it"
        raise ValueError(f"its {suffix} is not in UTF-8: {wrong}. If it is in Latin-1, convert it") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"its {suffix} cannot be read: {error}") from error


class Strict(tarfile.TarInfo):
    """The header of a member, which is checked more strictly than by tarfile.

    A tarfile.ReadError is raised for a damaged header, for a header that is missing before the archive's end mark, for
    a header longer than `HEADER`, for a negative size, and for a sparse member, which declares more than it holds.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        at = tarfile_.offset
        try:
            member = super().fromtarfile(tarfile_)
        except (tarfile.EOFHeaderError, tarfile.ReadError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:  # TarFile would treat it as the end, except at the first member
            raise tarfile.ReadError(f"{error} at byte {at:,}") from None
        except DAMAGED as error:  # raised by damaged fields of a header or a pax header
            raise tarfile.ReadError(f"{limits.reason(error)} at byte {at:,}") from error
        if member.issparse():
            raise tarfile.ReadError(f"a sparse member at byte {at:,}; sparse members are not supported")
        if member.size < 0 or tarfile_.offset <= at:
            raise tarfile.ReadError(f"a member of a negative size at byte {at:,}")
        return member

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Checks the size in a header before the announced bytes are read into memory."""
        if self.size < 0:
            raise tarfile.ReadError(f"a member of a negative size at byte {self.offset:,}")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"a sparse member at byte {self.offset:,}; sparse members are not supported")
        if self.type in ANNOUNCES and self.size > HEADER:
            raise tarfile.ReadError(f"a header of {limits.size(self.size)} at byte {self.offset:,}")
        return super()._proc_member(archive)  # type: ignore[misc]


@functools.lru_cache(maxsize=1024)
def _kept_open(file: str, within: pathlib.Path | None) -> BinaryIO:
    """A file that stays open, so that `os.pread` can read it from any thread."""
    return opener.open_file(file, within=within)


def _index(file: pathlib.Path, within: pathlib.Path | None) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """The positions of a shard's members, by record; they are read from the cache if the file is unchanged."""
    stamp = hashlib.sha256(json.dumps([str(file.absolute()), stamp_of([file])]).encode()).hexdigest()[:32]
    place = files.cache("tar_index") / f"{stamp}.members.json"  # earlier versions wrote STAMP.json, without left_out
    cached = _cached(place)
    if cached is None:
        with opener.open_file(file, within=within) as content:
            cached = _scan(content, file)
        with contextlib.suppress(OSError):  # the index works without a cache
            place.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(place, json.dumps(cached._asdict()))
    if cached.left_out:
        warn_of_left_out(file, cached.left_out)
    return cached.records


def _cached(place: pathlib.Path) -> "_Members | None":
    """The cached index; None if there is none, or its file is damaged."""
    try:
        noted = json.loads(opener.read(place))
        records = [(key, {name: (first, size) for name, (first, size) in at.items()}) for key, at in noted["records"]]
        return _Members(records, [*noted["left_out"]])
    except (OSError, *DAMAGED):
        return None


def warn_of_left_out(file: pathlib.Path, members: Sequence[str]) -> None:
    """Warns that members of an archive are not read: links, and all but the last member with the same name."""
    warnings.warn(
        f"{file}: members are left out ({len(members)}, e.g. {members[0]}): links, which have no content, and all but "
        "the last of one name. Write files in place of links (tar --dereference --hard-dereference), each with a name "
        "of its own",
        stacklevel=3,
    )


class _Members(NamedTuple):
    """The members of an archive.

    Attributes:
        records: the records as (key, {suffix: (offset, size) of the member}).
        left_out: the names of members that are not read, see `warn_of_left_out`.
    """

    records: list[tuple[str, dict[str, tuple[int, int]]]]
    left_out: list[str]


def _scan(content: BinaryIO, file: pathlib.Path) -> _Members:
    """The members of an archive, from its headers."""
    left_out: list[str] = []
    records: dict[str, dict[str, tuple[int, int]]] = {}
    size = os.fstat(content.fileno()).st_size
    end = 0
    last = "none"
    budget = budgets.Budget(str(file), size, members=MEMBERS)
    try:
        with tarfile.open(fileobj=content, mode="r:", tarinfo=Strict) as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                budget.spend(members=1)
                if not member.isfile():
                    left_out += [] if member.isdir() else [member.name]
                    continue
                end = member.offset_data + member.size
                if end > size:
                    break
                last = member.name
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                record = records.setdefault(f"{folder}/{stem}" if folder else stem, {})
                left_out += [member.name] if suffix.lower() in record else []
                record[suffix.lower()] = (member.offset_data, member.size)
    except tarfile.ReadError as error:
        if not records and not isinstance(error.__cause__, DAMAGED):
            content.seek(0)
            compressed = content.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
            compressed = "; it is compressed, and has no random access: unpack it" if compressed else ""
            raise ValueError(f"{file} is not a tar archive ({error}){compressed}.") from None
        if "at byte" in str(error) and not isinstance(error.__context__, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
            last_complete = f"the last member that is whole is {last}"
            raise ValueError(f"{file} is damaged: {error}; {last_complete}. Copy the file again.") from None
        end = size + 1
    content.seek(max(size - END, 0))
    ended = not any(content.read())
    if end > size or not ended:
        raise ValueError(
            f"{file} is truncated at byte {size:,}: the last complete member is {last}. Copy the file again."
        )
    return _Members(list(records.items()), left_out)
