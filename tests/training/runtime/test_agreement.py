"""Messages between processes: threads stand for processes, a dictionary for JAX's coordinator."""

import threading
import time

import jax
import pytest
from orbax.checkpoint import multihost

from diffusion.training.runtime import agreement


class Coordinator:
    """The part of JAX's client that is used; a message that does not come in a moment is past its deadline."""

    def __init__(self):
        self.texts = {}

    def key_value_set(self, name, text):
        assert name not in self.texts, "a message is sent once"
        self.texts[name] = text

    def blocking_key_value_get(self, name, milliseconds):
        for _ in range(20):
            if name in self.texts:
                return self.texts[name]
            time.sleep(0.001)
        raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: no {name} in {milliseconds} ms")


@pytest.fixture
def processes(monkeypatch):
    """(work) -> what work(index) returned or raised on each of three processes."""
    own = threading.local()
    coordinator = Coordinator()
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: own.index)
    monkeypatch.setattr(multihost, "get_jax_distributed_client", lambda: coordinator)

    class Calls(dict):  # each process counts its own calls
        def __missing__(self, about):
            return 0

        def __getitem__(self, about):
            return super().get((own.index, about), 0)

        def __setitem__(self, about, calls):
            super().__setitem__((own.index, about), calls)

    monkeypatch.setattr(agreement, "_calls", Calls())

    def run(work):
        results = [None] * 3

        def of(index):
            own.index = index
            try:
                results[index] = work(index)
            except BaseException as error:
                results[index] = error

        threads = [threading.Thread(target=of, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        return results

    return run


def test_all_receive_the_texts_of_all_in_their_order_call_by_call(processes):
    said = lambda index: [agreement.gather("name", f"{call}{index}" if index else "") for call in "ab"]
    assert processes(said) == [[["", "a1", "a2"], ["", "b1", "b2"]]] * 3


def test_one_process_alone_agrees_with_itself():
    assert agreement.gather("name", "mine") == ["mine"]


def test_a_process_that_sends_nothing_is_named(processes):
    silent = lambda index: index == 1 or agreement.gather("name", seconds=0.05)
    first, _, last = processes(silent)
    for error in (first, last):
        assert isinstance(error, TimeoutError) and "process 1 " in str(error)


def test_an_error_of_the_coordinator_is_not_a_wait(processes, monkeypatch):
    def lost(self, name, milliseconds):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: gone")

    monkeypatch.setattr(Coordinator, "blocking_key_value_get", lost)
    assert all("UNAVAILABLE" in str(error) for error in processes(lambda index: agreement.gather("name")))


def test_the_first_works_alone_and_the_others_wait_for_it(processes):
    done = []

    def work(index):
        agreement.first(lambda: (time.sleep(0.05), done.append(index)))
        return list(done)

    assert processes(work) == [[0]] * 3


def test_where_the_first_fails_the_others_fail_too(processes):
    def fail():
        raise OSError("no room")

    first, *others = processes(lambda index: agreement.first(fail))
    assert isinstance(first, OSError)
    assert all(isinstance(error, agreement.Abandoned) for error in others)


def test_none_leaves_before_all_have_come_to_the_end(processes):
    ended = []

    def work(index):
        with agreement.together():
            time.sleep(0.03 * index)
            ended.append(index)
        return len(ended)

    assert processes(work) == [3, 3, 3]
