import asyncio
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from diffusion.training import state
from diffusion.training.checkpointing import checkpoint_writer, checkpoints, description
from diffusion.training.checkpointing.checkpoint_writer import Checkpoints
from diffusion.training.checkpointing.checkpoints import CheckpointError, DamagedCheckpoint, MismatchedCheckpoint
from tests import rights
from tests.training import toys

KEY = jax.random.key(3)


def host(tree):
    return jax.tree.map(lambda x: np.array(x), tree)


def train(state, first, last):
    for k in range(first, last):
        state, _ = toys.make_step()(state, toys.batch(k), KEY)
    return state


@pytest.mark.parametrize("processes, waits", [(1, []), (2, ["a"]), (3, ["a"])])
def test_several_processes_wait_for_each_other(processes, waits, monkeypatch):
    passed = []
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(checkpoint_writer.multihost_utils, "sync_global_devices", passed.append)
    checkpoint_writer._barrier("a")
    assert passed == waits


@pytest.mark.parametrize("process, prunes", [(0, 1), (1, 0), (2, 0)])
def test_the_first_process_alone_removes_checkpoints(process, prunes, tmp_path, monkeypatch):
    saver = Checkpoints(tmp_path)
    saver.close()
    pruned = []
    monkeypatch.setattr(saver, "_prune", lambda: pruned.append(1))
    monkeypatch.setattr(saver, "_writing", 3)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    saver.wait()
    assert len(pruned) == prunes


def save_all(workdir, wanted, **options):
    """Trains to each wanted step in turn and saves; returns the states on the host."""
    state = toys.make_state()
    at = 0
    seen = {}
    saver = Checkpoints(workdir, **{"keep": 10, **options})
    for step in wanted:
        state = train(state, at, step)
        at = step
        seen[step] = host(state)
        saver.save(state, {"examples": 16 * step})
    saver.close()
    return seen


def test_the_folder_keeps_a_link_and_drops_what_leads_up(tmp_path, monkeypatch):
    """A run on a linked disk keeps the name that its user gave it."""
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "disk")
    assert checkpoints.folder(tmp_path / "linked" / "run") == tmp_path / "linked" / "run" / "checkpoints"
    assert checkpoints.folder("run") == tmp_path / "disk" / "run" / "checkpoints"
    assert checkpoints.folder("../disk/run") == tmp_path / "disk" / "run" / "checkpoints"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run folder with checkpoints of steps 2, 4 and 6, to be copied and not changed."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, save_all(workdir, (2, 4, 6))


@pytest.fixture
def run_folder(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "run")
    return tmp_path / "run", saved[1]


def values_file(workdir, step, item="params"):
    """The largest file of an item's database: small arrays lie in it whole."""
    return max((workdir / "checkpoints" / str(step) / item / "d").iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.extended
def test_saved_state_comes_back_bit_for_bit(saved):
    workdir, states = saved
    for step, expected in states.items():
        state, about = checkpoints.restore(workdir, step, toys.make_state(seed=9))
        assert toys.equal(state, expected)
        assert about["step"] == step and about["examples"] == 16 * step


def test_a_checkpoint_has_no_name_before_its_description_is_made(tmp_path, monkeypatch):
    """Hashing is off the train loop's path: `save` returns before it, and the folder gets its name after it."""
    begun, go = threading.Event(), threading.Event()
    described = checkpoint_writer._described

    def slow(*args):
        begun.set()
        assert go.wait(60)
        return described(*args)

    monkeypatch.setattr(checkpoint_writer, "_described", slow)
    saver = Checkpoints(tmp_path)
    saver.save(toys.make_state())
    assert begun.wait(60)
    assert checkpoints.steps(tmp_path) == []
    go.set()
    saver.close()
    assert checkpoints.steps(tmp_path) == [0]
    assert checkpoints.restore(tmp_path, 0, toys.make_state(seed=9))[1]["step"] == 0


@pytest.mark.parametrize("process, written", [(0, ["metadata"]), (1, [])])
def test_every_process_makes_the_description_and_the_first_writes_it(tmp_path, monkeypatch, process, written):
    calls = []
    monkeypatch.setattr(jax, "process_index", lambda: process)
    save = description.DescriptionSave(lambda: calls.append(process))
    asyncio.run(description.DescriptionHandler()._write(tmp_path, save.make))
    assert calls == [process] and os.listdir(tmp_path) == written


def test_a_description_that_cannot_be_made_fails_the_save(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "_described", lambda *_: 1 / 0)
    saver = Checkpoints(tmp_path)
    saver.save(toys.make_state())
    with pytest.raises(CheckpointError, match=r"Could not write the checkpoint .*0: ZeroDivisionError"):
        saver.close()
    assert checkpoints.steps(tmp_path) == []


@pytest.mark.extended
def test_a_run_is_named_from_another_folder(run_folder, tmp_path, monkeypatch):
    """TensorStore refuses a path with "..". Behind a link ".." is the folder above its target, as for every program."""
    workdir, states = run_folder
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    monkeypatch.chdir(workdir / "checkpoints")
    for relative in ("..", "../../run", "../../link/../../run"):
        assert toys.equal(checkpoints.restore(relative, 6, toys.make_state(seed=9))[0], states[6])
        with contextlib.closing(Checkpoints(relative)) as saver:
            saver.save(train(toys.make_state(), 0, 1))
        assert checkpoints.steps(workdir)[0] in (1, 2)


@pytest.mark.extended
def test_frozen_networks_are_saved_with_the_state(tmp_path):
    """A run needs its teacher to go on, wherever the teacher's own files are by then."""
    state = toys.make_state()._replace(frozen={"teacher": toys.init(jax.random.key(5))})
    with contextlib.closing(Checkpoints(tmp_path)) as saver:
        saver.save(state)
    again, _ = checkpoints.restore(tmp_path, 0, jax.tree.map(jnp.zeros_like, state))
    assert toys.equal(again, host(state))
    with pytest.raises(MismatchedCheckpoint, match="'frozen/teacher"):
        checkpoints.restore(tmp_path, 0, toys.make_state())


@pytest.mark.extended
def test_resumed_equals_uninterrupted(saved):
    """Parameters, average and optimizer, bit for bit; the average is not reset to the parameters."""
    workdir, states = saved
    state, _ = checkpoints.restore(workdir, 4, toys.make_state(seed=9))
    assert not toys.equal(state.ema, state.params)
    assert toys.equal(train(state, 4, 6), states[6])


@pytest.mark.extended
def test_saving_does_not_see_later_steps(tmp_path):
    """The state is donated to the next step while the writer still works."""
    saver = Checkpoints(tmp_path, keep=100)
    state = toys.make_state()
    seen = {}
    for k in range(6):
        state = train(state, k, k + 1)
        seen[k + 1] = host(state)
        saver.save(state)
    saver.close()
    for step, expected in seen.items():
        assert toys.equal(checkpoints.restore(tmp_path, step, toys.make_state())[0], expected)


def test_the_best_checkpoint_stays_beside_the_latest_and_every_so_many():
    saver = object.__new__(Checkpoints)
    saver.keep, saver.keep_every, saver.best = 2, 10, 15
    assert saver.superfluous([5, 10, 15, 20, 25, 30]) == [5]
    saver.best, saver.keep_every = None, 0
    assert saver.superfluous([5, 10, 15]) == [5] and saver.superfluous([5, 10]) == []


@pytest.mark.extended
def test_policy_keeps_the_last_and_the_milestones(tmp_path):
    save_all(tmp_path, (1, 2, 3, 4, 5), keep=2, keep_every=2)
    assert checkpoints.steps(tmp_path) == [2, 4, 5]


@pytest.mark.extended
def test_a_checkpoint_is_on_the_disk_before_an_older_one_is_removed(tmp_path, monkeypatch):
    """A crash of the machine loses what the kernel has not written: with keep = 1 that would be all of the run."""
    synced, fsync, rename = set(), os.fsync, pathlib.Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: (synced.add(os.fstat(file).st_ino), fsync(file))[1])
    removals = []

    def removing(path, target):
        if str(target).endswith(".removed.orbax-checkpoint-tmp"):
            kept = [file for file in (tmp_path / "checkpoints" / "2").rglob("*") if file.is_file()]
            removals.append((path.name, [file.name for file in kept if file.stat().st_ino not in synced], len(kept)))
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", removing)
    save_all(tmp_path, (1, 2), keep=1)
    ((step, lost, number),) = removals
    assert step == "1" and lost == [] and number > 10


@pytest.mark.extended
def test_the_best_is_kept_besides(tmp_path):
    """From when it is named on; one that is no longer the best goes as any other."""
    state = toys.make_state()
    saver = Checkpoints(tmp_path, keep=1)
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4)):
        state = train(state, step - 1, step)
        saver.save(state)
        saver.best = best
        saver.wait()
        assert checkpoints.steps(tmp_path) == sorted({best, step})
    saver.close()


def test_the_first_process_alone_records_the_best(run_folder, monkeypatch):
    workdir, _ = run_folder
    with contextlib.closing(Checkpoints(workdir, keep=10)) as saver:
        with monkeypatch.context() as patch:
            patch.setattr(jax, "process_index", lambda: 1)
            saver.keep_best({"step": 2, "fid": 3.0})
        assert saver.best == 2 and "best" not in checkpoints.read_about(workdir, 2)
        saver.keep_best({"step": 4, "fid": 2.0})
        assert saver.best == 4 and checkpoints.read_about(workdir, 4)["best"] == {"step": 4, "fid": 2.0}
        saver.keep_best({"step": 4, "fid": 1.0})  # evaluated again
        assert checkpoints.read_about(workdir, 4)["best"] == {"step": 4, "fid": 1.0}


def test_latest_is_the_largest_number(saved, tmp_path):
    assert checkpoints.latest(saved[0]) == 6
    for name in ("9", "10", "100.damaged", "200.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert checkpoints.latest(tmp_path) == 10  # not "9", which sorts last as text and is as new
    assert checkpoints.latest(tmp_path / "nothing") is None


def test_every_process_loads_the_checkpoint_that_process_0_sees(run_folder, monkeypatch):
    """A run that is still training may save one between the looks of two hosts, or a host see it later."""
    workdir, states = run_folder
    first = {"steps": "[2, 4]"}
    monkeypatch.setattr(checkpoints.agreement, "gather", lambda about, text, *_: [first.get(about, text), text])
    params, step = checkpoints.load_ema(workdir)
    assert step == 4 and toys.equal(params, states[4].ema)


@pytest.mark.parametrize("name", ["7.orbax-checkpoint-tmp", "7.orbax-checkpoint-tmp-1700000000"])
def test_unfinished_save_is_cleared(tmp_path, name):
    """Earlier versions of Orbax put a time behind the name."""
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    Checkpoints(tmp_path).close()
    assert os.listdir(tmp_path / "checkpoints") == []


def test_a_checkpoint_that_is_removed_in_part_is_none(run_folder, monkeypatch):
    """The process ends while the files go: what is left has no step."""
    workdir, _ = run_folder
    with contextlib.closing(Checkpoints(workdir, keep=1)) as saver, monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer.shutil, "rmtree", lambda *args, **options: None)
        saver.keep_best({"step": 6})
        assert checkpoints.steps(workdir) == [6]


def test_saving_the_same_step_again_changes_nothing(run_folder):
    workdir, states = run_folder
    saver = Checkpoints(workdir, keep=10)
    saver.save(jax.tree.map(jnp.asarray, states[4]), {"examples": -1})
    saver.close()
    assert checkpoints.read_about(workdir, 4)["examples"] == 64


def test_flagged_state_is_never_saved(tmp_path):
    saver = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=r"step 5 failed \(a non-finite loss or gradient\)"):
        saver.save(toys.make_state()._replace(failed_at=jnp.asarray(5, jnp.int32)))
    saver.close()
    assert checkpoints.steps(tmp_path) == []


@pytest.mark.parametrize("item", ["params", "ema", "training", "about"])
def test_truncated_file_is_named_and_the_step_before_is_taken(run_folder, item):
    workdir, states = run_folder
    if item == "about":
        path = workdir / "checkpoints/6/about/metadata"
    else:
        path = values_file(workdir, 6, item)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedCheckpoint, match=r"checkpoints/6"):
        checkpoints.restore(workdir, 6, toys.make_state())
    lines = []
    state, about = checkpoints.restore_latest(workdir, toys.make_state(), warn=lines.append)
    assert toys.equal(state, states[4]) and about["step"] == 4
    assert len(lines) == 1 and "FALLING BACK to step 4" in lines[0]
    assert checkpoints.steps(workdir) == [2, 4]  # so that step 6 can be saved again
    assert (workdir / "checkpoints/6.damaged").is_dir()


def test_missing_file_is_an_error(run_folder):
    workdir, _ = run_folder
    shutil.rmtree(workdir / "checkpoints/6/ema")
    with pytest.raises(DamagedCheckpoint, match="checkpoints/6"):
        checkpoints.restore(workdir, 6, toys.make_state())


def test_altered_values_are_named_by_leaf(run_folder, monkeypatch):
    """Where the files themselves are sound, the checksum speaks, and says which leaf."""
    workdir, _ = run_folder
    path = workdir / "checkpoints/6/about/metadata"
    written = json.loads(path.read_text())
    written["about"]["leaves"]["ema/out/kernel"]["checksum"] = "0" * 8
    written["sha256"] = checkpoints.digest(written["about"])
    path.write_text(json.dumps(written))
    with pytest.raises(DamagedCheckpoint, match="'ema/out/kernel'"):
        checkpoints.restore(workdir, 6, toys.make_state())


@pytest.mark.parametrize("field", ["step", "examples"])
def test_altered_position_is_found(run_folder, field):
    workdir, _ = run_folder
    path = workdir / "checkpoints/6/about/metadata"
    written = json.loads(path.read_text())
    written["about"][field] += 1
    path.write_text(json.dumps(written))
    with pytest.raises(DamagedCheckpoint, match="altered"):
        checkpoints.restore(workdir, 6, toys.make_state())


def test_renamed_step_is_found(run_folder):
    workdir, _ = run_folder
    (workdir / "checkpoints/6").rename(workdir / "checkpoints/8")
    with pytest.raises(DamagedCheckpoint, match="checkpoints/8"):
        checkpoints.restore(workdir, 8, toys.make_state())


def test_newer_format_is_refused(run_folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 0)
    with pytest.raises(MismatchedCheckpoint, match="update"):
        checkpoints.restore_latest(run_folder[0], toys.make_state())


def test_other_architecture_names_the_first_leaf_and_both_shapes(run_folder, monkeypatch):
    workdir, _ = run_folder
    state = toys.make_state()
    wider = {**state.params, "hidden": {**state.params["hidden"], "kernel": jnp.zeros((3, 9))}}
    with pytest.raises(MismatchedCheckpoint) as error:
        checkpoints.restore_latest(workdir, state._replace(params=wider))
    for words in ("params/hidden/kernel", "(3, 8)", "(3, 9)", "init_from"):
        assert words in str(error.value)
    assert checkpoints.steps(workdir) == [2, 4, 6]  # a mismatch damages nothing


@pytest.mark.parametrize("more", [True, False])
def test_missing_and_additional_leaves_are_named(run_folder, more):
    state = toys.make_state()
    params = dict(state.params)
    if more:
        params["extra"] = jnp.zeros(2)
    else:
        del params["out"]
    name = "params/extra" if more else "params/out/kernel"
    with pytest.raises(MismatchedCheckpoint, match=f"'{name}'.*absent"):
        checkpoints.restore(run_folder[0], 6, state._replace(params=params))


def test_nothing_sound_left_is_an_error(run_folder):
    workdir, _ = run_folder
    for step in (2, 4, 6):
        shutil.rmtree(workdir / f"checkpoints/{step}/params")
    with pytest.raises(DamagedCheckpoint, match=r"No intact checkpoint .* in another --workdir, or remove /.* there"):
        checkpoints.restore_latest(workdir, toys.make_state(), warn=lambda line: None)


MACHINE = {
    **{
        name: OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
        for name in ("EACCES", "EIO", "ESTALE", "ENOMEM")
    },
    "TensorStore": ValueError("UNKNOWN: Error reading local file: Input/output error [os_error_code='5']"),
    "device": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2 bytes."),
    "host": MemoryError(),
}


def fail(monkeypatch, part, error, steps):
    """Makes a part of the reading fail at some steps, as a disk, a server or a device would."""
    owner, name = {
        "about": (checkpoints.opener, "read_json"),
        "validation": (checkpoints.validation, "check_item"),
        "restore": (ocp.Checkpointer, "restore"),
    }[part]
    real = getattr(owner, name)

    def read(*args, **kwargs):
        path = next(arg for arg in args if isinstance(arg, os.PathLike))
        if any(f"checkpoints/{step}" in str(path) for step in steps):
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, read)


@pytest.mark.extended
@pytest.mark.parametrize("part", ["about", "validation", "restore"])
@pytest.mark.parametrize("error", MACHINE.values(), ids=MACHINE)
def test_a_failure_to_read_is_no_damage_and_touches_nothing(run_folder, monkeypatch, part, error):
    workdir, states = run_folder
    fail(monkeypatch, part, error, [6])
    before = sorted((workdir / "checkpoints").rglob("*"))
    with pytest.raises(checkpoints.UnreadableCheckpoint, match=r"checkpoints/6.* could not be read.*same command"):
        checkpoints.restore_latest(workdir, toys.make_state(), warn=pytest.fail)
    with pytest.raises(checkpoints.UnreadableCheckpoint):
        checkpoints.load_ema(workdir)
    assert sorted((workdir / "checkpoints").rglob("*")) == before
    monkeypatch.undo()
    assert toys.equal(checkpoints.restore_latest(workdir, toys.make_state())[0], states[6])


@pytest.mark.parametrize("others", ["damaged", "unreadable"])
def test_nothing_is_renamed_before_a_sound_one_is_known(run_folder, monkeypatch, others):
    workdir, _ = run_folder
    steps = (2, 4, 6) if others == "damaged" else (6,)
    for step in steps:
        shutil.rmtree(workdir / f"checkpoints/{step}/params")
    if others == "unreadable":
        fail(monkeypatch, "restore", MACHINE["EIO"], [4])
    before = sorted((workdir / "checkpoints").rglob("*"))
    with pytest.raises(CheckpointError, match="No intact" if others == "damaged" else "could not be read"):
        checkpoints.restore_latest(workdir, toys.make_state(), warn=pytest.fail)
    assert sorted((workdir / "checkpoints").rglob("*")) == before


def test_a_folder_of_checkpoints_that_may_not_be_listed_is_not_an_empty_one(run_folder):
    workdir, _ = run_folder
    with (
        rights.unreadable(workdir / "checkpoints"),
        pytest.raises(checkpoints.UnreadableCheckpoint, match="Permission denied"),
    ):
        checkpoints.restore_latest(workdir, toys.make_state())


def test_no_checkpoint_yet(tmp_path):
    assert checkpoints.restore_latest(tmp_path, toys.make_state()) is None
    with pytest.raises(CheckpointError, match=rf"^There is no checkpoint in {tmp_path}/checkpoints\.$"):
        checkpoints.load_ema(tmp_path)
    with pytest.raises(CheckpointError, match=rf"no checkpoint in {tmp_path}/checkpoints, and step 3 was asked for"):
        checkpoints.load_ema(tmp_path, step=3)


def test_sampling_reads_the_average_without_an_optimizer(saved):
    workdir, states = saved
    params, step = checkpoints.load_ema(workdir)
    assert step == 6 and toys.equal(params, states[6].ema)
    params, step = checkpoints.load_ema(workdir, step=2)
    assert step == 2 and toys.equal(params, states[2].ema)
    assert toys.equal(checkpoints.load_params(workdir)[0], states[6].params)
    with pytest.raises(CheckpointError, match="there are: 2, 4, 6"):
        checkpoints.load_ema(workdir, step=3)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Cannot write checkpoints"):
        Checkpoints(tmp_path / "file")


@pytest.mark.parametrize("fails", ["wait_until_finished", "close"])
def test_a_save_that_fails_at_the_end_raises_a_readable_error(tmp_path, monkeypatch, fails):
    """Orbax writes in the background: what went wrong there shows when it is waited for, or when it is closed."""
    saver = Checkpoints(tmp_path, keep=1)

    def refuse():
        raise FileNotFoundError(2, "No such file or directory", "4.orbax-checkpoint-tmp/_CHECKPOINT_METADATA")

    monkeypatch.setattr(saver._writer, fails, refuse)
    with pytest.raises(CheckpointError, match=r"Could not write the checkpoint .*_CHECKPOINT_METADATA.*no older one"):
        saver.close()
    monkeypatch.undo()
    saver.close()


def test_failed_save_says_so_and_leaves_the_older_ones(run_folder, monkeypatch):
    """A disk that fills up while the files are written: every write of values fails."""
    workdir, states = run_folder
    saver = Checkpoints(workdir, keep=1)
    full = OSError(28, "No space left on device")

    def refuse(*args, **kwargs):
        raise full

    monkeypatch.setattr(saver._writer, "save", refuse)
    state = train(jax.tree.map(jnp.asarray, states[6]), 6, 7)
    with pytest.raises(CheckpointError, match=r"No space left on device.*intact: 2, 4, 6"):
        saver.save(state)
    monkeypatch.undo()
    assert toys.equal(checkpoints.restore_latest(workdir, toys.make_state())[0], states[6])
    saver.save(state)  # the disk has room again
    saver.close()
    assert checkpoints.steps(workdir) == [7]


def test_keep_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="keep = 0"):
        Checkpoints(tmp_path, keep=0)


@pytest.mark.extended
def test_full_disk(tmp_path):
    """Writes beyond a size fail, as on a full disk; the run's older checkpoint stays, and saving works again later."""
    resource = pytest.importorskip("resource")
    state = toys.make_state()._replace(density={"big": jax.random.normal(jax.random.key(0), (2_000_000,))})
    saver = Checkpoints(tmp_path)
    saver.save(state)
    saver.wait()
    later = state._replace(step=jnp.asarray(1, jnp.int32))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))
    try:
        with pytest.raises(CheckpointError, match="Older checkpoints are intact: 0"):
            saver.save(later)
            saver.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path / "checkpoints") == ["0"]
    saver.save(later)
    saver.close()
    assert toys.equal(checkpoints.restore(tmp_path, 1, state)[0], host(later))


@pytest.mark.extended
def test_what_a_file_gives_again_is_in_no_checkpoint_and_is_read_from_those_that_hold_it(tmp_path):
    """An encoder among the unsaved networks; checkpoints of before had it among the frozen ones, beside a teacher."""
    encoder = {"encoder": {"kernel": jnp.arange(3.0)}}
    teacher = {"teacher": jnp.ones(2)}
    state = toys.make_state()._replace(frozen=teacher, unsaved=encoder)
    earlier = toys.make_state()._replace(frozen={**teacher, **encoder}, step=jnp.asarray(1, jnp.int32))
    saver = Checkpoints(tmp_path)
    saver.save(state)
    saver.save(earlier)
    saver.close()
    assert not any("encoder" in name for name in checkpoints.read_about(tmp_path, 0)["leaves"])
    assert toys.equal(checkpoints.restore(tmp_path, 0, state)[0], host(state._replace(unsaved=None)))
    assert toys.equal(checkpoints.restore(tmp_path, 1, state)[0], host(state._replace(step=earlier.step)))


def test_the_digest_of_a_record_does_not_depend_on_the_order_of_its_entries():
    expected = hashlib.sha256(b'{"a": 2, "b": {"c": 1}}').hexdigest()
    assert checkpoints.digest({"b": {"c": 1}, "a": 2}) == checkpoints.digest({"a": 2, "b": {"c": 1}}) == expected


def test_a_state_is_made_of_its_items_again():
    """With and without what only some runs have."""
    parts = {name: name for name in ("step", "params", "ema", "opt_state", "density", "failed_at")}
    for more in ({}, {"frozen": {"teacher": 1}}, {"second_players": {"fake": 2}}):
        whole = state.TrainState(**parts, **more)
        assert checkpoints._state(checkpoints.items_of(whole)) == whole
