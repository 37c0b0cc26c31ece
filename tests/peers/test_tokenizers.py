"""Our tokenizers beside transformers', with T5's published normalisation; by `make test-peers` alone."""

import os
import pathlib
import subprocess

import pytest

from tests.text.test_tokenizer import KINDS, compare

HOUSE = pathlib.Path(__file__).parents[2]
PYTHON = HOUSE / ".venv-peers" / "bin" / "python"
pytestmark = pytest.mark.skipif("PEERS_FIXTURES" not in os.environ, reason="needs the peers' environment")


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    """What tests/fixtures/text holds, made anew, with all rules of nmt_nfkc."""
    place = tmp_path_factory.mktemp("vocabularies")
    subprocess.run([PYTHON, "-m", "tests.peers.tokenizers_reference", place, "nmt_nfkc"], cwd=HOUSE, check=True)
    return place


@pytest.mark.parametrize(("kind", "whole"), KINDS)
def test_ids_are_those_of_transformers(kind, whole, vocabularies, tmp_path):
    compare(kind, whole, tmp_path / "folder", vocabularies)
