"""PyTorch's DataLoader with the same pictures, decoding, flips and crops as in benchmarks/input_pipeline.py.

    PYTHON -m benchmarks.peers.input_pipeline FOLDER SIDE BATCH WORKERS

The folder holds files/CLASS/*.jpg, the same files in train.tar, and the decoded squares in array.npy. The program reads
lines. It answers "FORMAT" (files, tar or array) with the images per second of one epoch, which begins when the workers
are running, and "sum FORMAT" with the sum of all bytes, without flips and crops.
"""

import io
import pathlib
import sys
import tarfile
import time

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

PADDING = 4


def square(image: Image.Image, side: int) -> np.ndarray:
    """The centre square of a picture by ADM's rule, as in `diffusion.data.transforms.square`; uint8 [side, side, 3]."""
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


class Pictures(Dataset):
    """A map-style dataset of (picture, uint8 [side, side, 3]; label); `augment` flips and crops pictures at random."""

    def __init__(self, folder: str, form: str, side: int, augment: bool):
        self.side, self.augment, self.form = side, augment, form
        self.paths = sorted(pathlib.Path(folder, "files").glob("*/*.jpg"))
        self.tar = pathlib.Path(folder, "train.tar")
        if form == "tar":
            with tarfile.open(self.tar) as archive:
                members = [member for member in archive if member.name.endswith(".jpg")]
                self.spans = [(member.offset_data, member.size) for member in members]
        self.array = np.load(pathlib.Path(folder, "array.npy"), mmap_mode="r") if form == "array" else None
        self.file = None
        self.rng = np.random.default_rng()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int):
        image = self.picture(row)
        if self.augment:
            if self.rng.random() < 0.5:
                image = image[:, ::-1]
            down, right = self.rng.integers(0, 2 * PADDING + 1, 2)
            image = np.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), "reflect")
            image = image[down : down + self.side, right : right + self.side]
        return torch.from_numpy(np.array(image)), row % 10

    def picture(self, row: int) -> np.ndarray:
        if self.array is not None:
            return self.array[row]
        if self.form == "tar":
            if self.file is None:
                self.file = open(self.tar, "rb")  # opened here, so that each worker has a separate file
            start, size = self.spans[row]
            self.file.seek(start)
            content = io.BytesIO(self.file.read(size))
        else:
            content = self.paths[row]
        with Image.open(content) as image:
            return square(image.convert("RGB"), self.side)


def main(folder: str, side: str, batch: str, workers: str) -> None:
    """Answers each line of input until the input ends."""
    torch.set_num_threads(1)
    loaders = {}
    print(f"torch {torch.__version__} DataLoader", flush=True)
    for line in sys.stdin:
        *sum_words, form = line.split()
        data = Pictures(folder, form, int(side), augment=not sum_words)
        if sum_words:
            print(sum(int(data.picture(row).astype(np.int64).sum()) for row in range(len(data))), flush=True)
            continue
        if form not in loaders:
            loaders[form] = DataLoader(
                data, int(batch), shuffle=True, drop_last=True, num_workers=int(workers), persistent_workers=True
            )
            for _ in loaders[form]:  # starts the workers
                pass
        began = time.perf_counter()
        images = sum(len(x) for x, _ in loaders[form])
        print(images / (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
