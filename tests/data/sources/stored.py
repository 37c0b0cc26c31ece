"""The same few pictures in every format of files, for the tests of sources."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter

from tests.data.made import png

NUMBER = 6
PICTURES = np.random.default_rng(0).integers(0, 256, (NUMBER, 4, 4, 3), dtype=np.uint8)
LABELS = [0, 1, 0, 1, 1, 0]
NAMES = ("cat", "dog")


def class_folders(folder):
    for k, (picture, label) in enumerate(zip(PICTURES, LABELS)):
        path = folder / NAMES[label] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture))
    return {"name": "class_folders", "path": str(folder)}


def picture_folder(folder):
    folder.mkdir()
    for k, picture in enumerate(PICTURES):
        (folder / f"{k}.png").write_bytes(png(picture))
    lines = [f"{k}.png,{NAMES[label]},a {NAMES[label]}" for k, label in enumerate(LABELS)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label,caption", *lines]) + "\n")
    return {"name": "picture_folder", "path": str(folder)}


def tar(path, rows, classes=True):
    with tarfile.open(path, "w") as archive:
        for k in rows:
            members = {"png": png(PICTURES[k]), "cls": str(LABELS[k]).encode(), "txt": f"a {NAMES[LABELS[k]]}".encode()}
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{k:04}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def tar_shards(folder):
    folder.mkdir()
    tar(folder / "train-0.tar", range(4))
    tar(folder / "train-1.tar", range(4, NUMBER))
    return {"name": "tar_shards", "path": str(folder)}


def parquet(folder):
    (folder / "data").mkdir(parents=True)
    for part, rows in enumerate((range(2), range(2, NUMBER))):
        pictures = [{"bytes": png(PICTURES[k]), "path": f"{k}.png"} for k in rows]
        table = pa.table({"image": pictures, "label": [LABELS[k] for k in rows], "text": [f"{k}" for k in rows]})
        about = {"info": {"features": {"label": {"names": list(NAMES), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
        pq.write_table(table, folder / f"data/train-{part:05}-of-00002.parquet", row_group_size=2)
    return {"name": "parquet", "path": str(folder)}


def array_records(folder):
    folder.mkdir()
    writer = ArrayRecordWriter(str(folder / "train.array_record"), "group_size:1")
    for picture, label in zip(PICTURES, LABELS):
        buffer = io.BytesIO()
        np.savez(buffer, image=picture, label=label)
        writer.write(buffer.getvalue())
    writer.close()
    return {"name": "array_records", "path": str(folder)}


def arrays(folder):
    folder.mkdir()
    np.savez(folder / "a.npz", image=PICTURES, label=LABELS)
    return {"name": "arrays", "path": str(folder / "a.npz")}


FORMATS = {each.__name__: each for each in (class_folders, picture_folder, tar_shards, parquet, array_records, arrays)}
