"""The algebra of combinators on lists of overrides, sampling, and names."""

import itertools
import math
import string

import pytest
from hypothesis import given, strategies as st

from diffusion.experiments.sweeps import distributions, naming
from diffusion.experiments.sweeps.combinators import SweepError, chain, each, product, sample, zip as together
from diffusion.recipe import ConfigError

values = st.lists(st.integers(-3, 3), min_size=1, max_size=4, unique=True)


def lists(field):
    return values.map(lambda some: each(field, some))


@given(lists("a"), lists("b"), lists("c"))
def test_product_is_associative_and_in_the_order_of_nested_loops(a, b, c):
    whole = product(a, b, c)
    assert whole == product(product(a, b), c) == product(a, product(b, c))
    assert len(whole) == len(a) * len(b) * len(c)
    assert whole == [{**x, **y, **z} for x in a for y in b for z in c]


@given(lists("a"), lists("b"))
def test_neutral_elements(a, b):
    assert product() == [{}]
    assert product(a, [{}]) == product([{}], a) == product(a) == a
    assert chain(a, []) == chain([], a) == chain(a) == a
    assert together(a) == a
    assert product(chain(a, b), [{}]) == chain(a, b)


@given(lists("a"), lists("b"), lists("c"))
def test_product_distributes_over_chain(a, b, c):
    assert product(chain(a, b), c) == chain(product(a, c), product(b, c))


@given(lists("a"), lists("b"), lists("c"))
def test_chain_is_associative(a, b, c):
    assert chain(a, b, c) == chain(chain(a, b), c) == chain(a, chain(b, c))
    assert len(chain(a, b, c)) == len(a) + len(b) + len(c)


def test_zip_pairs_runs_and_is_associative():
    a = each("a", (1, 2))
    b = each("b", (3, 4))
    c = each("c", (5, 6))
    assert together(a, b) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert together(a, b, c) == together(together(a, b), c) == together(a, together(b, c))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: product(each("a", (1, 2)), []), "factor 2 of 2 is empty"),
        (lambda: each("a", ()), "has no values"),
        (lambda: together(each("a", (1, 2)), each("b", (1,))), "lists of 2, 1 runs"),
        (lambda: together(), "no runs"),
        (lambda: sample(0, 0, {"a": distributions.uniform(0, 1)}), "n = 0"),
        (lambda: sample(True, 0, {"a": distributions.uniform(0, 1)}), "n = True"),
        (lambda: sample(3, True, {"a": distributions.uniform(0, 1)}), "seed = True"),
        (lambda: sample(3, -1, {"a": distributions.uniform(0, 1)}), "seed = -1"),
        (lambda: product(each("a", (1,)), each("a", (2,))), "a is set twice"),
        (lambda: together(each("a", (1,)), each("a", (2,))), "a is set twice"),
        (lambda: product(each("a.b", (1,)), each("a", ({},))), "a is set whole after a.b"),
        (lambda: product({"a": [1]}), "each(field, values)"),
        (lambda: distributions.uniform(1, 1), "low < high"),
        (lambda: distributions.log_uniform(0, 1), "0 < low"),
        (lambda: distributions.integers(0, 1.5), "integers"),
        (lambda: distributions.integers(False, 3), "integers(False, 3)"),
        (lambda: distributions.choice([]), "at least one value"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert words in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(each("lr", (0.1, 0.2)), each("lr", (0.2, 0.3))),
        lambda: each("lr", (0.2, 0.1, 0.2)),
        lambda: chain([{"lr": 0.2, "x": 1}], [{"x": 1.0, "lr": 0.2}]),  # 1 and 1.0 are one value of a config
        lambda: sample(9, 0, {"lr": distributions.choice([0.2])}),
    ],
)
def test_duplicates_are_errors_that_name_them(make):
    with pytest.raises(SweepError, match=r"more than once: \{.*'lr': 0\.2.*times\)") as error:
        make()
    assert "0.1" not in str(error.value) and "0.3" not in str(error.value)


def test_a_part_may_follow_its_whole():
    assert product([{"a": {"name": "x"}}], each("a.b", (1, 2))) == [
        {"a": {"name": "x"}, "a.b": 1},
        {"a": {"name": "x"}, "a.b": 2},
    ]


def test_samples_depend_on_the_seed_and_the_fields_name_alone():
    space = {"a": distributions.uniform(0, 1), "b": distributions.log_uniform(1e-4, 1e-2)}
    ten = sample(10, 3, space)
    assert ten == sample(10, 3, space) != sample(10, 4, space)
    assert ten[:4] == sample(4, 3, space)
    assert [run["a"] for run in ten] == [run["a"] for run in sample(10, 3, {"a": space["a"]})]
    assert len({run["a"] for run in ten}) == 10


@given(st.floats(0, 1, exclude_max=True))
def test_distributions_are_quantile_functions(u):
    assert math.isclose(distributions.uniform(-2, 6)(u), -2 + 8 * u, rel_tol=1e-3, abs_tol=1e-3)
    assert math.isclose(math.log10(distributions.log_uniform(1e-4, 1e-2)(u)), -4 + 2 * u, abs_tol=1e-3)
    assert distributions.integers(3, 5)(u) == 3 + math.floor(3 * u) and distributions.integers(4, 4)(u) == 4
    assert distributions.choice("xyzw")(u) == "xyzw"[math.floor(4 * u)]


def test_names_say_what_differs_and_nothing_else():
    runs = product(
        each("parameterization.name", ("epsilon", "v")),
        [{"train.steps": 100}],
        each("objective.weighting", ({"name": "min_snr", "gamma": 5.0}, {"name": "snr"})),
        each("seed", (0, 1)),
        each("sample.seed", (7, 8)),
    )
    names = naming.names(runs)
    assert naming.varying(runs) == ["parameterization.name", "objective.weighting", "seed", "sample.seed"]
    assert names[0] == "parameterization=epsilon,weighting=min_snr-gamma-5,seed=0,sample.seed=7"
    assert names[-1] == "parameterization=v,weighting=snr,seed=1,sample.seed=8"
    assert naming.names([{"a": 1}]) == ["base"]
    assert naming.names([{}, {"a": 1}, {"a": 1, "b.name": "x y/z"}]) == ["base", "a=1", "a=1,b=x-y-z"]


def test_labels_are_the_shortest_ends_that_no_other_field_has():
    fields = ["a.name", "x.rate", "y.rate", "rate", "z.z.deep", "a"]
    assert naming.labels(fields) == {
        "a.name": "a.name",
        "x.rate": "x.rate",
        "y.rate": "y.rate",
        "rate": "rate",
        "z.z.deep": "deep",
        "a": "a",
    }


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_lowercase, min_size=1), inner),
    max_leaves=3,
)


@pytest.mark.extended
@given(st.lists(st.fixed_dictionaries({}, optional={"a": anything, "b.a": anything, "A": anything}), max_size=6))
def test_names_never_collide_and_are_safe(runs):
    distinct = list({naming.identity(run): run for run in runs}.values())
    names = naming.names(distinct)
    assert len({name.casefold() for name in names}) == len(distinct)
    for name in names:
        assert set(name) <= set(string.ascii_letters + string.digits + "._=,+-")
        assert len(name.encode()) < 200 and name not in (".", "..") and not name.startswith("-")


def test_values_that_look_alike_have_names_of_their_own():
    for pair in itertools.combinations(["1", 1, True, "True", None, "none", "X", "x", "a b", "a/b"], 2):
        if naming.identity({"f": pair[0]}) != naming.identity({"f": pair[1]}):
            assert len({name.casefold() for name in naming.names(each("f", pair))}) == 2
