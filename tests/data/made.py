"""Small datasets on disk, made of given examples: shared by the tests of data and of reliability."""

import io

import tensorflow_datasets as tfds
from PIL import Image


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def write(folder, features, examples, file_format="array_record", version="1.2.0", called="made"):
    """Prepares a dataset "made" of these examples, in their order: the split "train", or splits by their names."""
    splits = examples if isinstance(examples, dict) else {"train": examples}

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = called
        VERSION = tfds.core.Version(version)
        url_infos = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            yield from enumerate(splits[split])

    Made(data_dir=str(folder), file_format=file_format).download_and_prepare()
    return str(folder)


def image_feature(**options):
    return tfds.features.Image(**({"shape": (4, 4, 3), "encoding_format": "png"} | options))
