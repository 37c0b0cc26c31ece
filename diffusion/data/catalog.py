"""The catalog of datasets: which there are, where they lie on disk, and whether their folders are safe to open."""

import contextlib
import io
import json
import os
import pkgutil
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

from diffusion.data import builder_checksums
from diffusion.io import limits, opener
from diffusion.io.files import cache
from diffusion.package import public

# Datasets that the library makes itself on first use; a new one is a TFDS builder that downloads nothing, and a line:
# the class, or where it is, so that it and TFDS are imported when it is needed.
BUNDLED: dict[str, Any] = {"digits": "diffusion.data.digits:Digits", "shapes": "diffusion.data.shapes:Shapes"}

DEFAULT = "TFDS's default; set data_dir or TFDS_DATA_DIR"
MADE_BY = "made_by.json"  # the file of a bundled dataset that has the checksum of the code that wrote it

# The features that a dataset of images may have. TFDS imports the module of any other class that a folder names.
FEATURES = (
    "BBoxFeature", "ClassLabel", "FeaturesDict", "Image", "LabeledImage", "Scalar", "Sequence", "Tensor", "Text",
)  # fmt: skip

_NAME = re.compile(r"(?P<dataset>\w+)(/(?P<config>(?!\.)[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")


def bundled(name: str) -> Any:
    """The TFDS builder of a dataset out of `BUNDLED`."""
    builder = BUNDLED[name]
    return pkgutil.resolve_name(builder) if isinstance(builder, str) else builder


def bundled_name(name: str, data_dir: str = "") -> str:
    """The key in `BUNDLED` of the dataset that a name means, with or without its version; "" for another dataset.

    Args:
        name, data_dir: name of the dataset and the folder of prepared datasets, as in `find`.
    """
    dataset, colon, version = name.partition(":")
    if data_dir or dataset not in BUNDLED or (colon and version != str(bundled(dataset).VERSION)):
        return ""
    return dataset


def find(name: str, data_dir: str = "") -> Path:
    """Finds the folder of a prepared dataset, and prepares a bundled one on first use; it never downloads.

    A bundled dataset is prepared only in the cache. Nothing is ever written into a folder that the caller names.

    Args:
        name: TFDS name, `dataset[/config][:version]`; the highest version if none is named.
        data_dir: folder of prepared datasets; "" for the default: TFDS_DATA_DIR or else ~/tensorflow_datasets, and for
            the bundled datasets DIFFUSION_CACHE/tfds or else ~/.cache/diffusion/tfds.

    Returns:
        The folder that holds dataset_info.json, features.json and the records.

    Raises:
        ValueError: the name is not of that form, or other code than the builder's has made the bundled dataset.
        FileNotFoundError: it does not exist; the message names where it was looked for, what is there, and how to
            prepare it.
        OSError: a bundled dataset cannot be written.
    """
    parts = _NAME.fullmatch(name)
    if not parts:
        raise ValueError(f"dataset name {name!r} is not of the form dataset[/config][:1.2.3], such as 'cifar10'.")
    if dataset := bundled_name(name, data_dir):
        return _prepared(dataset, cache("tfds"))
    root, origin = _root(data_dir)
    parent = root / parts["dataset"] / (parts["config"] or "")
    versions = [path for path in _folders(parent) if parts["version"] in (None, path.name)]
    if not versions:
        raise FileNotFoundError(_not_found(name, root, origin))
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))))


def root_of(data_dir: str = "") -> Path:
    """The folder of prepared datasets: `data_dir`, or else TFDS_DATA_DIR, or else ~/tensorflow_datasets."""
    return _root(data_dir)[0]


def _root(data_dir: str) -> tuple[Path, str]:
    """(the folder of prepared datasets, the setting that names it)."""
    named = {"data_dir": data_dir, "TFDS_DATA_DIR": os.environ.get("TFDS_DATA_DIR"), DEFAULT: "~/tensorflow_datasets"}
    return next((Path(folder).expanduser(), origin) for origin, folder in named.items() if folder)


def available(root: Path) -> list[str]:
    """Lists the prepared datasets in a folder.

    Args:
        root: folder of prepared datasets; it need not exist.

    Returns:
        Sorted names, `dataset[/config]:version`.
    """
    names = []
    for pattern in ("*", "*/*"):
        parents = sorted(path for path in root.glob(pattern) if path.is_dir())
        names += [f"{parent.relative_to(root)}:{folder.name}" for parent in parents for folder in _folders(parent)]
    return sorted(names)


def check_folder(folder: Path) -> None:
    """Refuses a dataset folder that would run code, or lead out of itself, when it is opened.

    `tfds.builder_from_directory` imports whatever module features.json names, so a folder from elsewhere could run any
    code that is installed; names of features and templates of file names become paths. This reads both files as plain
    JSON first; nothing is imported.

    Args:
        folder: folder of a prepared dataset.

    Raises:
        ValueError: a file is not JSON of TFDS's present form, names a class that is not in `FEATURES`, or a path.
        FileNotFoundError: one of them is missing.
    """
    _check_features(folder / "features.json")
    path = folder / "dataset_info.json"
    content = opener.read_json(path)
    _check_names(path, _values(content, "name", "filepathTemplate", "filepath_template", "fileFormat", "file_format"))


def _check_names(path: Path, names: list[Any]) -> None:
    """Refuses names that would lead elsewhere: each becomes a part of a file's name."""
    for name in names:
        if "/" in str(name):
            raise ValueError(f"{path} states the name {name!r}, which is a path: the folder is damaged or hostile.")
    limits.inside(str(path), map(str, names))


def _check_features(path: Path) -> None:
    """Refuses a description of features that names classes other than TFDS's own, which opening it would import."""
    content = opener.read_json(path)
    # Older forms, and text that is parsed again later, would hide names from this search.
    if not isinstance(content, dict) or "type" in content or _values(content, "jsonFeature", "json_feature"):
        raise ValueError(f"{path} is not in the form that TFDS 4.3 and later write; prepare the dataset again.")
    import tensorflow_datasets as tfds  # imported here: it takes half a second

    classes = [getattr(tfds.features, name) for name in FEATURES]
    allowed = {f"{feature.__module__}.{feature.__qualname__}" for feature in classes}
    for class_name in _values(content, "pythonClassName", "python_class_name"):
        if isinstance(class_name, str) and class_name not in allowed:
            raise ValueError(
                f"{path} names the feature class {class_name!r}. Opening the dataset would import its module, so only "
                f"TFDS's own classes are accepted: {', '.join(FEATURES)}."
            )
    names = [name for features in _values(content, "features") if isinstance(features, dict) for name in features]
    _check_names(path, names)


def _values(content: Any, *keys: str) -> list[Any]:
    """Returns the values of these keys anywhere in nested JSON."""
    if isinstance(content, list):
        return [value for item in content for value in _values(item, *keys)]
    if not isinstance(content, dict):
        return []
    here = [content[key] for key in keys if key in content]
    return here + [value for item in content.values() for value in _values(item, *keys)]


def _folders(parent: Path) -> list[Path]:
    """Returns the folders of the versions of a dataset."""
    folders = [path.parent for path in parent.glob("*/features.json")]
    return [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]


def _prepared(name: str, root: Path) -> Path:
    """Returns the folder of a bundled dataset, made whole or not at all, by however many processes start at once."""
    made_by = bundled(name)
    version = str(made_by.VERSION)
    folder = root / name / version
    if folder.is_dir():
        _check_made_by(made_by, folder)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as scratch:
            builder = made_by(data_dir=scratch, file_format="array_record")
            # TFDS's progress bars are for datasets that take longer than a second.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                builder.download_and_prepare()
            prepared = Path(scratch) / name / version
            (prepared / MADE_BY).write_text(json.dumps({"code": builder_checksums.checksum(made_by)}) + "\n")
            try:
                prepared.rename(folder)
            except OSError:  # the folder is not empty: another process was first, with the same content
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot prepare the bundled dataset {name!r} in {root} ({error.strerror}); set DIFFUSION_CACHE to a "
            "folder that can be written",
        ) from error
    return folder


def _check_made_by(builder: type, folder: Path) -> None:
    """Refuses records that other code has made; this library's own are versioned, and tested against their rule."""
    if builder.__module__.partition(".")[0] == __name__.partition(".")[0] or not (folder / MADE_BY).is_file():
        return
    content = opener.read_json(folder / MADE_BY)
    now = builder_checksums.checksum(builder)
    made_by = content.get("code") if isinstance(content, dict) else None
    if now and made_by and made_by != now:
        raise ValueError(
            f"{folder} was prepared by an earlier version of the code of {builder.__name__}. Raise VERSION in that "
            "class, so that the old records stay beside the new ones, or remove the folder; it is then prepared again."
        )


def _not_found(name: str, root: Path, origin: str) -> str:
    """Says that a dataset is not there, and what to do."""
    if name in BUNDLED:
        entry = json.dumps({"name": "picture_folder", "path": str(root)})
        return (
            f"dataset {name!r} is not in {root} ({origin}), and nothing is written there. Leave data_dir empty for the "
            f"bundled dataset, which is kept in {cache('tfds')}; to train on the pictures of this folder, name it as a "
            f"source: --config.data.source={shlex.quote(entry)}, or class_folders where it has one for each class."
        )
    dataset, _, version = name.partition(":")
    if dataset in BUNDLED and version:
        return (
            f"dataset {name!r} is not in {root} ({origin}); the bundled {dataset!r} has version "
            f"{bundled(dataset).VERSION}, and is found without a version where data_dir is empty."
        )
    there = available(root)
    names = sorted({entry.split(":")[0] for entry in there} | set(BUNDLED))
    near = public.nearest(name.split(":")[0], names, alike=0.6)
    contents = f"it holds {', '.join(there)}" if there else "it holds no dataset" if root.is_dir() else "no such folder"
    hint = f" Did you mean {near!r}?" if near else ""
    return (
        f"dataset {name!r} is not in {root} ({origin}): {contents}; bundled: {', '.join(BUNDLED)}.{hint} Nothing is "
        f"downloaded here. Prepare it once by: diffusion prepare {name} {shlex.quote(f'--data_dir={root}')}, which "
        "runs TensorFlow in an environment of its own (records in the format array_record), or name the folder that "
        "has it (data_dir, or TFDS_DATA_DIR). If a file of yours makes it, name that file: --extend=FILE.py."
    )
