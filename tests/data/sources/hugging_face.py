"""Objects with the interface of Hugging Face's `datasets` 5.2: what of it the library uses, without its dependency."""

import copy
import dataclasses

import numpy as np

from tests.data.made import png
from tests.data.sources import stored


@dataclasses.dataclass
class Image:
    decode: bool = True


@dataclasses.dataclass
class ClassLabel:
    names: list


@dataclasses.dataclass
class Value:
    dtype: str


class Common:
    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    @property
    def column_names(self):
        return list(self.columns)

    def cast_column(self, name, feature):
        assert not feature.decode
        return self._copy(features=self.features | {name: feature})

    def select_columns(self, names):
        return self._copy(
            columns={name: self.columns[name] for name in names}, features={name: self.features[name] for name in names}
        )

    def with_format(self, kind):
        assert kind is None
        return self._copy()

    def _copy(self, **changes):
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__, **changes}
        return other

    def _row(self, k):
        assert not any(isinstance(feature, Image) and feature.decode for feature in self.features.values())
        return {name: values[k] for name, values in self.columns.items()}


class Dataset(Common):
    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        if isinstance(key, int):
            return self._row(key)
        rows = [self._row(k) for k in key]
        return {name: [row[name] for row in rows] for name in self.columns}


class Examples:
    """What `datasets` calls _ex_iterable, with a buffer for shuffling or without; it has the position of a reading."""

    def __init__(self, buffer):
        self._state_dict = None
        if buffer:
            self.buffer_size = buffer


class IterableDataset(Common):
    def __init__(self, columns, features, buffer=0):
        super().__init__(columns, features)
        self.epoch, self._state_dict, self._starting = 0, None, None
        self._ex_iterable = Examples(buffer)

    def __getstate__(self):
        return self.__dict__

    def __setstate__(self, state):
        self.__dict__ = state  # so that a copy shares it, as in `datasets`

    def __iter__(self):
        size = len(next(iter(self.columns.values())))
        buffer = getattr(self._ex_iterable, "buffer_size", 0)
        order = np.random.default_rng(self.epoch).permutation(size) if buffer else np.arange(size)
        examples, start = self._ex_iterable, 0 if self._starting is None else self._starting["examples"]["at"]
        examples._state_dict = {"at": start}
        self._state_dict = {"examples": examples._state_dict, "epoch": self.epoch}
        for at in range(start, size):
            examples._state_dict["at"] += 1
            yield self._row(order[at])

    def take(self, number):
        return self._copy(columns={name: values[:number] for name, values in self.columns.items()})

    def skip(self, number):
        return self._copy(columns={name: values[number:] for name, values in self.columns.items()})

    def state_dict(self):
        return copy.deepcopy(self._state_dict)

    def load_state_dict(self, state):
        self._starting = state  # and it stays, as in `datasets`

    def set_epoch(self, epoch):
        self.epoch = epoch


def points(number, buffer=0):
    """A stream of points."""
    x = [[float(np.cos(i)), float(np.sin(i))] for i in range(number)]
    return IterableDataset({"x": x}, {"x": Value("list")}, buffer)


def pictures(kind=Dataset):
    """The pictures of `stored`, with labels and captions."""
    columns = {
        "image": [{"bytes": png(picture), "path": None} for picture in stored.PICTURES],
        "label": list(stored.LABELS),
        "text": [f"a {stored.NAMES[label]}" for label in stored.LABELS],
    }
    return kind(columns, {"image": Image(), "label": ClassLabel(list(stored.NAMES)), "text": Value("string")})
