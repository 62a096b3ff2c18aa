"""Permutations computed where they are used: complete, and as random as drawn ones."""

import numpy as np
import pytest
from fiber_data import Permutation
from fiber_data.permutation import LONGEST_TABLE

LONG = LONGEST_TABLE + 1  # the shortest that is computed


@pytest.mark.parametrize(
    "length", [1, 2, 3, 7, 64, 1000, LONGEST_TABLE, LONG, 256 * 257, 257**2 + 1, 99_991, 1_000_000]
)
def test_every_number_stands_at_one_place(length):
    order = Permutation(length, 3, 1)(np.arange(length))
    assert order.dtype == np.int64 and (np.sort(order) == np.arange(length)).all()


def test_places_are_asked_for_in_any_portion():
    permutation = Permutation(40_000_000, 0, 5)
    places = np.array([39_999_999, 0, 17, 20_000_000])
    assert permutation(places).tolist() == [int(permutation(places[i : i + 1])[0]) for i in range(4)]
    assert Permutation(40_000_000, 0, 5)(places).tolist() == permutation(places).tolist()


@pytest.mark.parametrize("length", [5, 1000, LONG])
def test_what_stands_first_is_uniform_over_keys(length):
    firsts = np.array([int(Permutation(length, seed, 0)(np.zeros(1, dtype=np.int64))[0]) for seed in range(2000)])
    counts = np.bincount(firsts * 5 // length, minlength=5)
    assert ((counts - 400) ** 2 / 400).sum() < 18.5  # chi-squared of four degrees of freedom, p = 0.001


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (2**40, 0)])
def test_orders_of_other_keys_have_nothing_in_common(other):
    places = np.arange(LONG)
    one, two = Permutation(LONG, 0, 0)(places), Permutation(LONG, *other)(places)
    assert (one == two).sum() < 10  # one is expected
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02  # five standard deviations
    assert abs(np.corrcoef(one, places)[0, 1]) < 0.02
    after = np.empty(LONG, dtype=np.int64)
    after[two[:-1]] = two[1:]
    assert (after[one[:-1]] == one[1:]).sum() < 10, "what follows upon what is other too"


def test_an_order_has_no_structure():
    order = Permutation(300_000, 0, 0)(np.arange(300_000))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.01
    table = np.histogram2d(np.arange(300_000), order, bins=20)[0]
    assert abs(((table - 750) ** 2 / 750).sum() - 361) < 5 * (2 * 361) ** 0.5
    steps = np.bincount(np.diff(order) % 64, minlength=64)
    assert ((steps - len(order) / 64) ** 2 / (len(order) / 64)).sum() < 63 + 5 * (2 * 63) ** 0.5
