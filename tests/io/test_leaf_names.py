"""The names of a pytree's leaves, and the pytree of named leaves."""

from diffusion.io.leaf_names import leaves_of, nested


def test_leaves_are_nested_by_their_names_and_named_by_their_nests():
    tree = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4}
    names = {"a/b/c": 1, "a/b/d": 2, "a/e": 3, "f": 4}
    assert leaves_of(tree) == names
    assert nested(names) == tree
    assert nested({}) == {}
