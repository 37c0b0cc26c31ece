"""The right to train in a store, by a clock of the test: who waits, for how long, and who is refused."""

import pytest

from diffusion.io import leases
from diffusion.io.snapshots import Holder
from tests.object_stores import DiskStore, store

HOLDER = Holder(2, "there", "process 7 on host")


class Clock:
    """A clock that goes on while someone waits; `during` is called with the time after each wait."""

    def __init__(self, during=lambda now: None):
        self.now, self.during = 1e6, during

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds
        self.during(self.now)


def waited(objects, holder=HOLDER, token="here", during=lambda now: None):
    clock = Clock(during)
    leases.require_over(objects, holder, token, clock, clock.wait)
    return clock.now - 1e6


def test_nobody_waits_for_no_holder_for_one_that_said_so_or_for_itself(tmp_path):
    objects = store(DiskStore(tmp_path))
    assert waited(objects, Holder()) == 0
    leases.say(objects, HOLDER, 3)
    assert waited(objects, token="there") == 0  # the lock of the local folder is this process's: the holder is dead
    leases.say(objects, HOLDER, 4, is_over=True)
    assert waited(objects) == 0


@pytest.mark.parametrize("has_spoken", [True, False])
def test_a_silent_holder_is_over_after_its_time(tmp_path, has_spoken):
    objects = store(DiskStore(tmp_path))
    if has_spoken:
        leases.say(objects, HOLDER, 3)
    assert waited(objects) == leases.ENDS


def test_a_heartbeat_that_is_none_counts_as_silence(tmp_path):
    objects = store(DiskStore(tmp_path))
    leases.say(objects, HOLDER, 3)
    assert objects.names("leases") == ["leases/000002.json"]
    objects.write("leases/000002.json", b'["is_over"]')
    assert waited(objects) == leases.ENDS


def test_a_holder_that_speaks_is_alive(tmp_path):
    objects = store(DiskStore(tmp_path))
    leases.say(objects, HOLDER, 3)
    beat = lambda now: leases.say(objects, HOLDER, 4) if now >= 1e6 + leases.ENDS - leases.BEAT else None
    with pytest.raises(leases.InUse, match=r"s3://bucket/run is in use: process 7 on host"):
        waited(objects, during=beat)


def test_a_holder_that_ends_meanwhile_is_over_at_once(tmp_path):
    objects = store(DiskStore(tmp_path))
    leases.say(objects, HOLDER, 3)
    assert waited(objects, during=lambda now: leases.say(objects, HOLDER, 4, is_over=True)) == leases.BEAT / 2


def test_a_heartbeat_of_an_earlier_holder_says_nothing_of_the_later_one(tmp_path):
    objects = store(DiskStore(tmp_path))
    leases.say(objects, HOLDER, 3)
    beats = iter(range(100))
    earlier = lambda now: leases.say(objects, Holder(1, "gone", ""), next(beats))
    assert waited(objects, during=earlier) >= leases.ENDS


def test_a_living_holder_speaks_several_times_before_it_is_held_to_be_dead():
    assert (leases.BEAT, leases.ENDS) == (10, 60)  # as docs/stores.md says it
