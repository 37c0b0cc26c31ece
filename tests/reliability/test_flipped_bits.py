"""A checkpoint with one flipped bit is refused, unless no reader needs the bit; then all values are the saved ones."""

import re

import jax
import numpy as np
import pytest

from diffusion.training.checkpointing import checkpoint_writer, checkpoints
from tests.training import toys

# Files that are read to restore a state; a flipped bit in one of them is always refused.
READ = {"about/metadata", "training/_METADATA", "training/manifest.ocdbt", "training/d/FILE"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the run folder, the state that it holds as step 0); the state's values do not compress."""
    workdir = tmp_path_factory.mktemp("run")
    state = toys.make_state()._replace(density={"big": jax.random.normal(jax.random.key(0), (2**16,))})
    saver = checkpoint_writer.Checkpoints(workdir)
    saver.save(state)
    saver.close()
    return workdir, state


def restored_with_flips(saved, path, number, seed=0):
    """Flips `number` bits spread over a file, one at a time; yields each bit with the restored state or the error."""
    workdir, state = saved
    sound = path.read_bytes()
    parts = np.array_split(np.arange(8 * len(sound)), min(number, 8 * len(sound)))
    rng = np.random.default_rng(seed)
    try:
        for bit in (int(rng.choice(part)) for part in parts):
            damaged = bytearray(sound)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                yield bit, checkpoints.restore(workdir, 0, state)[0]
            except checkpoints.DamagedCheckpoint as error:
                yield bit, error
    finally:
        path.write_bytes(sound)


def files(workdir):
    """The checkpoint's files, the largest first."""
    found = [path for path in (workdir / "checkpoints/0").rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(found, key=lambda path: -path.stat().st_size)


@pytest.mark.extended
def test_no_flipped_bit_of_the_values_passes(saved):
    largest = files(saved[0])[0]
    assert largest.stat().st_size > 200_000
    results = list(restored_with_flips(saved, largest, 50))
    assert len(results) == 50
    assert not [bit for bit, result in results if not isinstance(result, checkpoints.DamagedCheckpoint)]
    assert toys.equal(checkpoints.restore(saved[0], 0, saved[1])[0], saved[1])  # the repaired file is read again


@pytest.mark.extended
def test_a_flipped_bit_elsewhere_is_refused_or_changes_nothing(saved):
    workdir, state = saved
    root = workdir / "checkpoints/0"
    refused = set()
    unread = set()
    for path in files(workdir)[1:]:
        name = re.sub(r"[0-9a-f]{32}", "FILE", str(path.relative_to(root)))
        if name.split("/")[0] in ("params", "ema"):
            continue  # their files have the form of those in "training"
        for bit, result in restored_with_flips(saved, path, 3):
            if isinstance(result, checkpoints.DamagedCheckpoint):
                refused.add(name)
            else:
                assert toys.equal(result, state), (name, bit)
                unread.add(name)
    assert refused >= READ and not unread & READ, (refused, unread)
