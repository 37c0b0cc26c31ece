"""What caches are where a request says nothing, and both ends of what they take."""

import inspect
import math

import pytest

from diffusion import caching

DEFAULTS = [
    (caching.deep_cache, {"branch": 0}),
    (caching.tea_cache, {"coefficients": (1.0, 0.0), "steps": None}),
    (caching.mag_cache, {"keep": 0.2, "longest": 3}),
    (caching.taylor_seer, {"order": 1, "first": 3}),
    (caching.fitted, {"degree": 4}),  # Liu et al. 2024, TeaCache: polynomials of fourth degree
]
RATIOS = (1.0, 0.9, 0.8, 0.7)
mag = lambda **one: caching.mag_cache(**{"threshold": 0.1, "ratios": RATIOS, **one})
# (function of a value, values that it takes, values that it refuses, words of the error)
RANGES = {
    "deep": (caching.deep_cache, [1], [0], "interval = 0"),
    "branch": (lambda branch: caching.deep_cache(2, branch), [0], [-1], "branch = -1"),
    "measured": (caching.measured, [1], [0], "steps = 0"),
    "tea threshold": (caching.tea_cache, [0.0, 0.5], [-1e-9, math.nan], "threshold = "),
    "coefficients": (lambda c: caching.tea_cache(0.1, c), [(1.0,), (1, 0)], [(), (1.0, math.inf)], "coefficients"),
    "tea steps": (lambda steps: caching.tea_cache(0.1, steps=steps), [None, 1], [0], "steps = 0"),
    "mag threshold": (lambda threshold: mag(threshold=threshold), [0.0], [-1e-9, math.nan], "threshold = "),
    "ratios": (lambda ratios: mag(ratios=ratios), [(1.0,), RATIOS], [(), (1.0, math.nan)], "ratios = "),
    "keep": (lambda keep: mag(keep=keep), [0.0, 1.0], [-0.01, 1.01], "keep = "),
    "longest": (lambda longest: mag(longest=longest), [0], [-1], "longest = -1"),
    "whole": (lambda whole: mag(whole=whole), [None, 1, 9], [0], "whole = 0"),
    "at": (lambda at: mag(at=[at]), [[0], [3], [0, 3]], [[], [-1], [4]], "at = "),
    "taylor interval": (caching.taylor_seer, [1], [0], "interval = 0"),
    "taylor order": (lambda order: caching.taylor_seer(2, order), [0], [-1], "order = -1"),
    "taylor first": (lambda first: caching.taylor_seer(2, first=first), [1], [0], "first = 0"),
}


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range(name):
    call, valid, refused, words = RANGES[name]
    for value in valid:
        call(value)
    for value in refused:
        with pytest.raises(ValueError, match=words):
            call(value)


def test_a_cache_of_ones_own_may_skip_and_begins_anew_after_noise():
    own = caching.Cache(lambda call: 0, lambda memory, call: (call(), memory, 0), "blocks")
    assert own.idle is False and own.again is None
    own.check(("blocks",))
    with pytest.raises(ValueError, match="needs a network that offers blocks"):
        own.check(("deep",))
    own._replace(idle=True).check(())


def test_a_named_cache_receives_what_it_takes_of_what_is_supplied(monkeypatch):
    """And the entry's value comes before it."""
    seen = []
    monkeypatch.setitem(caching.CACHES, "own", lambda threshold, steps=1: seen.append((threshold, steps)))
    caching.named({"name": "own", "threshold": 0.5}, steps=7, whole=9)
    caching.named({"name": "own", "threshold": 0.5, "steps": 3}, steps=7)
    caching.named({"name": "own"}, threshold=0.1)
    assert seen == [(0.5, 7), (0.5, 3), (0.1, 1)]
    with pytest.raises(ValueError, match="cache own: it needs threshold"):
        caching.named({"name": "own"}, steps=7)
    with pytest.raises(ValueError, match=r"cache own: it takes no whole\. Valid: threshold, steps"):
        caching.named({"name": "own", "threshold": 0.5, "whole": 9})
