import signal

import pytest

from diffusion.training.preemption import StopRequest


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_notices_stand_for_sigterm_however_often_they_come(number):
    before = signal.signal(number, signal.SIG_DFL)  # which would end this process
    try:
        with StopRequest() as stop:
            for _ in range(2):
                signal.raise_signal(number)
                assert stop.received(1) == signal.SIGTERM
        assert signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)
        with StopRequest() as stop:  # under nohup a lost terminal is no reason to stop
            signal.raise_signal(number)
            assert stop.received(1) is None
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_the_second_is_left_to_the_kernel(number):
    acted = []
    before = signal.signal(number, lambda *_: acted.append(number))
    try:
        with StopRequest() as stop:
            assert stop.received(1) is None
            signal.raise_signal(number)
            assert stop.received(1) == number == stop.received(2)
            assert acted == [] and signal.getsignal(number) == signal.SIG_DFL
        signal.raise_signal(number)
        assert acted == [number]  # handlers are as they were
    finally:
        signal.signal(number, before)
