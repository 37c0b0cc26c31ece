import os
import signal
import threading
import time

import pytest

from diffusion.training.runtime import preemption
from diffusion.training.runtime.preemption import Interrupted, StopRequest


def test_work_alone_is_interrupted_wherever_it_is(monkeypatch):
    """In a loop of Python and in a wait of the operating system; without a request it goes on to its end."""
    monkeypatch.setattr(preemption, "BEAT", 0.02)
    forever = [lambda: all(iter(lambda: 1, 0)), lambda: time.sleep(600)]
    for work in forever:
        with StopRequest() as stop:
            stop.check()
            with stop.interrupting():
                time.sleep(0.1)
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1]).start()
            began = time.monotonic()
            with pytest.raises(Interrupted), stop.interrupting():
                work()
            assert time.monotonic() - began < 300  # not the whole sleep
            with pytest.raises(Interrupted):
                stop.check()
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def test_a_wake_up_that_comes_too_early_is_repeated(monkeypatch):
    """The first one is lost, as one is that comes between the last bytecode and the wait."""
    monkeypatch.setattr(preemption, "BEAT", 0.02)
    sent, kill = [], signal.pthread_kill

    def lossy(thread, number):
        sent.append(number)
        if len(sent) > 1:
            kill(thread, number)

    monkeypatch.setattr(signal, "pthread_kill", lossy)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGUSR1)
        began = time.monotonic()
        with pytest.raises(Interrupted), stop.interrupting():
            time.sleep(60)
        assert time.monotonic() - began < 30
    assert len(sent) > 1 and set(sent) == {signal.SIGUSR2}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_notices_stand_for_sigterm_however_often_they_come(number):
    before = signal.signal(number, signal.SIG_DFL)  # which would end this process
    try:
        with StopRequest() as stop:
            for _ in range(2):
                signal.raise_signal(number)
                assert stop.received() == signal.SIGTERM
        assert signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)
        with StopRequest() as stop:  # under nohup a lost terminal is no reason to stop
            signal.raise_signal(number)
            assert stop.received() is None
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("lost", [True, False])
def test_output_to_a_terminal_that_is_gone_is_dropped(monkeypatch, lost):
    """Both kinds of output, and nothing else, once a notice comes; a terminal that is still there stays."""
    there, replaced = {1, 2}, []
    monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor in there)
    with StopRequest() as stop:
        there -= {1, 2} if lost else set()
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup2", lambda old, new: (replaced.append(new), os.close(old)))
            signal.raise_signal(signal.SIGUSR1)
            assert stop.received() == signal.SIGTERM
    assert replaced == ([1, 2] if lost else [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_the_second_is_left_to_the_kernel(number):
    acted = []
    before = signal.signal(number, lambda *_: acted.append(number))
    try:
        with StopRequest() as stop:
            assert stop.received() is None
            signal.raise_signal(number)
            assert stop.received() == number == stop.received()
            assert acted == [] and signal.getsignal(number) == signal.SIG_DFL
        signal.raise_signal(number)
        assert acted == [number]  # handlers are as they were
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("processes, handed_on", [(1, []), (2, [signal.SIGTERM]), (3, [signal.SIGTERM])])
def test_the_first_signal_alone_becomes_a_sigterm_that_jax_spreads(monkeypatch, processes, handed_on):
    killed = []
    monkeypatch.setattr(preemption.jax, "process_count", lambda: processes)
    monkeypatch.setattr(preemption.os, "kill", lambda process, number: killed.append((process, number)))
    stop = StopRequest()
    for _ in range(2):
        stop._note(signal.SIGUSR1, None)
        assert killed == [(os.getpid(), number) for number in handed_on]


@pytest.fixture
def three_processes(monkeypatch):
    """Three processes, of which this is one: the numbers of the checks that JAX is asked, and when it says yes."""
    asked = []
    at = {"reached": None}
    monkeypatch.setattr(preemption.jax, "process_count", lambda: 3)
    point = lambda number: (asked.append(number), number == at["reached"])[1]
    monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", point)
    return asked, at


def test_processes_come_to_the_same_number_of_checks(three_processes, monkeypatch):
    asked, _ = three_processes
    stop = StopRequest()
    assert stop.received() is None and asked == [1]
    monkeypatch.setattr(preemption.agreement, "gather", lambda about, text: ["4", text, "2"])
    stop.align()
    assert asked == [1, 2, 3, 4]
    stop.align()  # none is behind
    stop.check()
    assert asked == [1, 2, 3, 4, 5]


def test_a_request_that_was_reported_once_stays(three_processes):
    _, at = three_processes
    stop = StopRequest()
    at["reached"] = 2
    assert [stop.received() for _ in range(4)] == [None, *[signal.SIGTERM] * 3]


@pytest.mark.parametrize("initialized, process, slept", [(True, 0, [1]), (True, 1, []), (False, 0, [])])
def test_a_failed_process_leaves_at_once_and_the_first_of_several_after_a_second(
    monkeypatch, initialized, process, slept
):
    done = []
    monkeypatch.setattr(preemption.jax.distributed, "is_initialized", lambda: initialized)
    monkeypatch.setattr(preemption.jax, "process_index", lambda: process)
    monkeypatch.setattr(preemption.time, "sleep", done.append)
    monkeypatch.setattr(preemption.os, "_exit", lambda status: done.append(f"left with {status}"))
    preemption.leave(3)
    assert done == [*slept, "left with 3"]


def test_work_alone_is_interrupted_in_a_run_of_several_processes(three_processes, monkeypatch):
    """The watcher follows the clock from the checks before, one after the other, until JAX reports the request."""
    asked, at = three_processes
    monkeypatch.setattr(preemption, "BEAT", 0.02)
    monkeypatch.setattr(preemption.agreement, "gather", lambda about, text: [text, "6"])
    stop = StopRequest()
    stop.check()
    at["reached"] = 4
    began = time.monotonic()
    with pytest.raises(Interrupted), stop.interrupting():
        time.sleep(600)
    assert 0.05 < time.monotonic() - began < 300
    assert asked == list(range(1, len(asked) + 1)) and len(asked) >= 6
    assert stop.received() == signal.SIGTERM


def test_work_alone_is_interrupted_once():
    """A second wake-up, in what the block does after the first, changes nothing."""
    with StopRequest() as stop, stop.interrupting():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2)


def test_the_watcher_checks_once_a_beat_of_the_clock(three_processes, monkeypatch):
    """2.5 beats after the start it has made two checks, however many times it looked."""
    asked, _ = three_processes
    monkeypatch.setattr(preemption, "BEAT", 0.01)
    monkeypatch.setattr(preemption.agreement, "gather", lambda about, text: [text])
    looks, enough = [], threading.Event()

    def clock():
        looks.append(1)
        if len(looks) > 4:
            enough.set()
        return 100.0 + 0.025 * (len(looks) > 1)

    monkeypatch.setattr(preemption.time, "monotonic", clock)
    stop = StopRequest()
    stop.check()
    with stop.interrupting():
        assert enough.wait(60)
    assert asked == [1, 2, 3]
