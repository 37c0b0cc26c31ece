"""Records that other code has made are refused; what does not change a record does not count."""

import importlib.util
import sys

import pytest

from diffusion.data import builder_checksums, catalog

BUILDER = '''
"""Two classes of even pictures."""
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

BRIGHT = 200
OTHER = 1


def grey(label):
    """A picture of one value."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), label * BRIGHT, np.uint8)).save(file, "PNG")  # of a class
    return file.getvalue()


def sampler():
    return OTHER


class Even(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "even"

    """Even pictures."""

    VERSION, url_infos = tfds.core.Version("1.0.0"), None

    def _info(self):
        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(10):
            yield i, {"image": grey(i % 2), "label": i % 2}
'''
HARMLESS = {
    "a comment": ("# of a class", "# of its class"),
    "a docstring": ('"""A picture of one value."""', '"""One value."""'),
    "formatting": ("label * BRIGHT, np", "label * (BRIGHT), np"),
    "another function": ("return OTHER", "return OTHER + 1"),
}
CHANGES = {
    "a method": ("range(10)", "range(12)"),
    "a function that it calls": ("np.full((8, 8), label * BRIGHT", "np.full((8, 8), 1 + label * BRIGHT"),
    "a number that this uses": ("BRIGHT = 200", "BRIGHT = 201"),
    "an import": ("from PIL import Image", "import PIL.Image as Image"),
}


@pytest.fixture
def even(tmp_path, monkeypatch):
    """Loads the builder, with a part of its text replaced, under the name "even", from a cache of the test's own."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    number = iter(range(100))

    def load(old="", new=""):
        assert old in BUILDER
        name = f"even_{next(number)}"
        path = tmp_path / f"{name}.py"
        path.write_text(BUILDER.replace(old, new, 1) if old else BUILDER)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # where the source of a class is looked up
        spec.loader.exec_module(module)
        monkeypatch.setitem(catalog.BUNDLED, "even", module.Even)
        return module.Even

    return load


@pytest.mark.parametrize("change", CHANGES)
def test_what_may_change_a_record_changes_the_checksum(even, change):
    assert builder_checksums.checksum(even(*CHANGES[change])) != builder_checksums.checksum(even())


@pytest.mark.parametrize("change", HARMLESS)
def test_what_changes_no_record_does_not(even, change):
    assert builder_checksums.checksum(even(*HARMLESS[change])) == builder_checksums.checksum(even()) != ""


def test_a_class_without_a_source_has_no_checksum():
    assert builder_checksums.checksum(type("Made", (), {})) == ""


def test_records_of_other_code_are_refused_until_the_version_is_raised(even):
    even()
    folder = catalog.find("even")
    even(*HARMLESS["a comment"])
    assert catalog.find("even") == folder
    even(*CHANGES["a number that this uses"])
    with pytest.raises(
        ValueError, match=r"even/1\.0\.0 was prepared by an earlier version of the code of Even\. Raise VERSION"
    ):
        catalog.find("even")
    even('Version("1.0.0")', 'Version("1.1.0")')
    assert catalog.find("even") == folder.with_name("1.1.0")
    (folder / catalog.MADE_BY).unlink()  # prepared before checksums were kept
    even(*CHANGES["a number that this uses"])
    assert catalog.find("even") == folder
