"""Transfers files to a machine that accepts some megabytes at a time: they are cut into pieces, and joined there.

    python -m benchmarks.gpu.carry cut --out=.carry --megabytes=48 data=/data/tfds/cifar10 inception.safetensors wheels
    python -m benchmarks.gpu.carry put .carry/0 --store=/root/store --into=/root/carried    # there, once for each piece

The first command packs files and folders (NAME=PATH renames one) into the files .carry/0, .carry/1, ... The second
command stores one piece, in any order, and unpacks all of them when the last one has arrived. It ends with status 0
when everything is in --into, and with 75 while pieces are missing. The same commands bring files back.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from benchmarks.gpu.stages import UNFINISHED

MEGABYTE = 10**6
# Debian 12's Python 3.11.2 has no filters of tarfile; `cut` has made the archive, and the pieces' digests are checked.
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
HEADER = 1000  # the most bytes of a piece's first line, which count as a part of its size


def cut(paths: Mapping[str, pathlib.Path], out: pathlib.Path, size: int) -> list[pathlib.Path]:
    """Packs files and folders into pieces; a piece is a line of JSON about itself, and a part of a tar archive.

    Args:
        paths: {name on the other machine: file or folder here}.
        out: the folder of the pieces; the pieces of an earlier call are removed.
        size: the most bytes of a piece.

    Returns:
        The pieces, in order.

    Raises:
        FileNotFoundError: if one of the paths does not exist.
        ValueError: if the size leaves no bytes beside the first line.
    """
    for path in paths.values():
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there")
    if size <= 2 * HEADER:
        raise ValueError(f"pieces of {size} bytes are too small: more than {2 * HEADER} are needed")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.iterdir():
        if old.name.isdigit():
            old.unlink()
    with tempfile.TemporaryFile(dir=out) as archive_file:
        with tarfile.open(fileobj=archive_file, mode="w") as archive:
            for name, path in paths.items():
                archive.add(path, arcname=name)
        count = -(-archive_file.tell() // (size - HEADER))
        archive_file.seek(0)
        name = hashlib.file_digest(archive_file, "sha256").hexdigest()
        archive_file.seek(0)
        for number in range(count):
            part = archive_file.read(size - HEADER)
            header = {"number": number, "count": count, "of": name, "sha256": hashlib.sha256(part).hexdigest()}
            (out / str(number)).write_bytes(json.dumps(header).encode() + b"\n" + part)
    return [out / str(number) for number in range(count)]


def put(piece: pathlib.Path, store: pathlib.Path, into: pathlib.Path) -> list[int]:
    """Stores a piece, and unpacks all pieces if none is missing then.

    Args:
        piece: a file that `cut` wrote.
        store: the folder that holds the pieces between calls; pieces of another `cut` are removed.
        into: the folder to unpack into.

    Returns:
        The numbers of the pieces that are missing; [] if everything is unpacked.

    Raises:
        ValueError: if a piece is damaged.
    """
    with open(piece, "rb") as file:
        header = _about(file)
        part = file.read()
    if hashlib.sha256(part).hexdigest() != header["sha256"]:
        raise ValueError(f"{piece} is damaged: carry it again")
    place = store / header["of"]
    for other in store.iterdir() if store.is_dir() else ():
        if other != place:
            shutil.rmtree(other)
    place.mkdir(parents=True, exist_ok=True)
    (place / "part").write_bytes(part)
    (place / "part").replace(place / str(header["number"]))  # an interrupted call leaves no incomplete piece
    missing = [number for number in range(header["count"]) if not (place / str(number)).is_file()]
    if not missing:
        with tempfile.TemporaryFile(dir=store) as archive_file:
            for number in range(header["count"]):
                archive_file.write((place / str(number)).read_bytes())
            archive_file.seek(0)
            with tarfile.open(fileobj=archive_file) as archive:
                archive.extractall(into, **SAFELY)
    return missing


def _about(file: BinaryIO) -> dict:
    try:
        return json.loads(file.readline(HEADER))
    except ValueError as error:
        raise ValueError(f"{getattr(file, 'name', file)} is no piece of `benchmarks.gpu.carry cut`") from error


def main(argv: Iterable[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.carry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    cutting = verbs.add_parser("cut", help="pack files into pieces")
    cutting.add_argument("paths", nargs="+", help="files and folders; NAME=PATH renames one")
    cutting.add_argument("--out", type=pathlib.Path, required=True)
    cutting.add_argument("--megabytes", type=float, default=48.0, help="largest size of a piece")
    putting = verbs.add_parser("put", help="store a piece, and unpack all pieces after the last one")
    putting.add_argument("piece", type=pathlib.Path)
    putting.add_argument("--store", type=pathlib.Path, required=True)
    putting.add_argument("--into", type=pathlib.Path, required=True)
    args = parser.parse_args(argv)
    if args.verb == "cut":
        named = [word.split("=", 1) if "=" in word else (pathlib.Path(word).name, word) for word in args.paths]
        pieces = cut({name: pathlib.Path(path) for name, path in named}, args.out, int(args.megabytes * MEGABYTE))
        print("\n".join(f"{piece}: {piece.stat().st_size / MEGABYTE:.1f} MB" for piece in pieces))
        return 0
    missing = put(args.piece, args.store, args.into)
    print(f"missing: {', '.join(map(str, missing))}" if missing else f"all of it lies in {args.into}")
    return UNFINISHED if missing else 0


if __name__ == "__main__":
    sys.exit(main())
