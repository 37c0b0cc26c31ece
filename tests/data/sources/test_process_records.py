"""Worker processes: they read what the source reads, each its own rows, leave errors whole, and end when they must."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from diffusion.data import pipeline
from diffusion.data.sources import DamagedRecord, process_records, spec
from diffusion.io import failures

NUMBER = 2


class Rows:
    """Records that say who read them; row 7 is damaged."""

    spec = spec.DataSpec("rows", "train", (3,), 0, 20, dtype="float32")
    where = "memory"

    def __init__(self):
        self.times = dict.fromkeys(range(20), 0)

    def __len__(self):
        return 20

    def __getitem__(self, row):
        if row == 7:
            raise DamagedRecord("record 7 cannot be used: no reason.", "Mend it")
        self.times[row] += 1
        return {
            "x": np.array([row, os.getpid(), self.times[row]], np.float32),
            "threads": os.environ["OMP_NUM_THREADS"],
        }


@pytest.fixture(scope="module")
def read():
    return process_records.ProcessRecords(Rows(), Rows, NUMBER)


def test_a_row_is_read_by_the_worker_of_its_remainder_and_other_names_are_the_sources(monkeypatch):
    """With threads in place of processes, which take seconds to begin."""
    workers = [ThreadPoolExecutor(1, f"worker {number}") for number in range(3)]
    reader = lambda rows: [(row, threading.current_thread().name) for row in rows]
    monkeypatch.setattr(process_records, "_records", reader)
    source = process_records.ProcessRecords(Rows(), Rows, 3)
    source.__dict__["_workers"] = workers
    rows = [5, 2, 19, 2, 0]
    assert source.__getitems__(rows) == [(row, f"worker {row % 3}_0") for row in rows]
    assert source.times == dict.fromkeys(range(20), 0)
    with pytest.raises(AttributeError, match="_no_name"):
        source._no_name  # noqa: B018
    for worker in workers:
        worker.shutdown()


@pytest.mark.extended
def test_rows_come_in_their_order_each_from_its_own_process(read):
    rows = [5, 2, 19, 2, 0]
    records = read.__getitems__(rows)
    assert [record["x"][0] for record in records] == rows
    readers = {row: record["x"][1] for row, record in zip(rows, records)}
    assert readers[5] == readers[19] != readers[2] == readers[0]
    assert os.getpid() not in readers.values()
    assert {record["threads"] for record in records} == {"1"}
    assert read[2]["x"].tolist() == [2, readers[2], records[1]["x"][2] + 1]  # that process has opened its source once
    assert len(read) == 20 and read.spec is Rows.spec and read.where == "memory"


def test_the_environment_of_this_process_is_as_before(read, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with process_records._environment(process_records.ONE_THREAD):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "5" and "MKL_NUM_THREADS" not in os.environ


@pytest.mark.extended
def test_a_damaged_record_is_reported_and_skipped_as_in_this_process(read):
    with pytest.raises(DamagedRecord) as here:
        Rows()[7]
    with pytest.raises(DamagedRecord) as there:
        read.__getitems__([6, 7])
    assert (str(there.value), there.value.why, there.value.mend) == (str(here.value), here.value.why, here.value.mend)
    with pytest.warns(UserWarning, match="left out: record 7"):
        assert [record and record["x"][0] for record in pipeline.sound(read, [6, 7, 8])] == [6, None, 8]


@pytest.mark.extended
def test_a_process_that_has_ended_is_a_failure_of_this_machine(read):
    os.kill(int(read[1]["x"][1]), signal.SIGKILL)
    with pytest.raises(failures.Unreadable, match=r"a process that reads memory has ended.*processes = 2 can be"):
        read[1]


def test_a_process_waits_for_the_one_that_began_it_without_being_held_by_it(monkeypatch):
    """It ignores three signals; a thread that does not keep it alive ends it with the status 1."""
    ended, ignored, statuses, settings = threading.Event(), [], [], []
    parent = types.SimpleNamespace(join=ended.wait)
    monkeypatch.setattr(process_records.multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(process_records.signal, "signal", lambda *arguments: ignored.append(arguments))
    monkeypatch.setattr(process_records.os, "_exit", statuses.append)
    monkeypatch.setattr(process_records, "_reopen", None, raising=False)
    monkeypatch.setattr(jax.config, "update", lambda *arguments: settings.append(arguments))
    before = set(threading.enumerate())
    process_records._begin(Rows)
    (waiting,) = set(threading.enumerate()) - before
    early = list(statuses)
    ended.set()  # before any check, so that a failed one leaves no thread behind
    waiting.join(10)
    assert waiting.daemon and not early and statuses == [1]
    assert ignored == [(name, signal.SIG_IGN) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert settings == [("jax_platforms", "cpu")]


def test_each_worker_is_one_process_that_opens_the_source_anew(monkeypatch):
    begun = []
    pool = types.SimpleNamespace(submit=lambda task: None)
    monkeypatch.setattr(process_records, "ProcessPoolExecutor", lambda *arguments: begun.append(arguments) or pool)
    assert process_records.ProcessRecords(Rows(), Rows, 3)._workers == [pool] * 3
    for processes, context, begin, arguments in begun:
        assert (processes, begin, arguments) == (1, process_records._begin, (Rows,))
        assert context.get_start_method() == "spawn"
    assert len(begun) == 3


@pytest.mark.slow
def test_they_leave_signals_alone_and_end_with_the_process_that_began_them():
    program = """
        import sys
        from diffusion.data.sources import process_records
        from tests.data.sources.test_process_records import Rows
        if __name__ == "__main__":
            read = process_records.ProcessRecords(Rows(), Rows, 2)
            for _ in sys.stdin:
                print(*[int(read[row]["x"][1]) for row in (0, 1)], flush=True)
    """
    ends = select.poll()
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def readers():
            process.stdin.write("\n")
            process.stdin.flush()
            return [int(pid) for pid in process.stdout.readline().split()]

        workers = readers()
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
            os.kill(worker, signal.SIGINT)
        assert readers() == workers
        for worker in workers:
            ends.register(os.pidfd_open(worker), select.POLLIN)
        process.kill()
    for _ in workers:
        ((descriptor, _), *_) = ends.poll(60_000)  # empty after a minute in which none has ended
        ends.unregister(descriptor)
        os.close(descriptor)
