"""Tuples drawn from labels, against all there are; checks on those a user gives."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdml.constraints import (
    _keys,
    check_same,
    draw_pairs,
    draw_quadruplets,
    draw_triplets,
    encode_labels,
    neighbor_triplets,
)

CODES = np.array([0, 2, 1, 1, 0, 2, 1, 3, 0, 1])  # class 3 has a single row


def generator(seed=0):
    return np.random.RandomState(seed)


def all_pairs(codes):
    pairs = list(itertools.combinations(range(len(codes)), 2))
    alike = {(i, j) for i, j in pairs if codes[i] == codes[j]}
    return alike, set(pairs) - alike


def all_triplets(codes):
    return {
        (a, p, n)
        for a, p, n in itertools.permutations(range(len(codes)), 3)
        if codes[a] == codes[p] != codes[n]
    }


def rows_of(tuples):
    return list(map(tuple, np.asarray(tuples).tolist()))


# Pairs


@pytest.mark.parametrize("n_constraints", [1, 4, 7])
def test_pairs_are_distinct_and_of_their_kind(n_constraints):
    alike, apart = all_pairs(CODES)
    first, second, same = draw_pairs(CODES, n_constraints, generator())
    pairs = rows_of(np.column_stack([first, second]))
    assert len(set(pairs)) == len(pairs) == 2 * n_constraints
    assert same.tolist() == [True] * n_constraints + [False] * n_constraints
    assert set(pairs[:n_constraints]) <= alike
    assert set(pairs[n_constraints:]) <= apart


def test_all_pairs_are_there_when_more_are_asked_for():
    first, second, same = draw_pairs(CODES, 1000, generator())
    pairs = rows_of(np.column_stack([first, second]))
    alike, apart = all_pairs(CODES)
    assert set(itertools.compress(pairs, same)) == alike
    assert set(itertools.compress(pairs, ~same)) == apart
    assert len(pairs) == len(alike) + len(apart)


def test_every_row_is_in_about_as_many_pairs():
    codes = np.repeat([0, 1], 100)
    first, second, same = draw_pairs(codes, 1000, generator())
    for kind in (same, ~same):
        count = np.bincount(np.append(first[kind], second[kind]), minlength=200)
        assert count.min() >= 3
        assert count.max() <= 25


def test_every_pair_is_drawn_as_often_as_another():
    codes = np.repeat([0, 1], 4)
    drawn = [rows_of(np.column_stack(draw_pairs(codes, 3, generator(s))[:2])) for s in range(300)]
    count = {}
    for pair in itertools.chain(*drawn):
        count[pair] = count.get(pair, 0) + 1
    # Three of 12 and three of 16: about 75 and 56 times each.
    alike, apart = all_pairs(codes)
    assert all(40 < count[pair] < 115 for pair in alike)
    assert all(28 < count[pair] < 90 for pair in apart)


def test_pairs_are_drawn_by_the_generator_alone():
    for draw in (draw_pairs, draw_triplets, draw_quadruplets):
        one, again, other = (draw(CODES, 6, generator(seed)) for seed in (3, 3, 4))
        assert_array_equal(np.array(one, dtype=object), np.array(again, dtype=object))
        assert not np.array_equal(np.array(one, dtype=object), np.array(other, dtype=object))


def test_no_pair_is_alike_where_classes_have_single_rows():
    first, second, same = draw_pairs(np.arange(4), 5, generator())
    assert not same.any()
    assert len(first) == len(second) == 5
    assert draw_triplets(np.arange(4), 5, generator()).shape == (0, 3)
    assert draw_quadruplets(np.arange(4), 5, generator()).shape == (0, 4)


# Triplets and quadruplets


def test_triplets_are_distinct_and_of_their_kind():
    triplets = rows_of(draw_triplets(CODES, 20, generator()))
    assert len(set(triplets)) == len(triplets) == 20
    assert set(triplets) <= all_triplets(CODES)


def test_nearly_all_triplets_are_there_when_more_are_asked_for():
    found, there = rows_of(draw_triplets(CODES, 10_000, generator())), all_triplets(CODES)
    assert set(found) <= there
    assert len(found) > 0.9 * len(there)


def test_tuples_of_many_rows_are_told_apart():
    # The cube of the number of rows exceeds an int64.
    tuples = np.array([[i, 0, j] for i in (0, 1, 2**22) for j in (0, 1, 2**22)])
    assert len(np.unique(_keys(np.concatenate([tuples, tuples])))) == 9


def test_quadruplets_are_of_a_pair_of_either_kind():
    alike, apart = all_pairs(CODES)
    quadruplets = draw_quadruplets(CODES, 8, generator())
    near, far = rows_of(quadruplets[:, :2]), rows_of(quadruplets[:, 2:])
    assert len(set(near)) == len(set(far)) == 8
    assert set(near) <= alike
    assert set(far) <= apart


def test_neighbor_triplets_are_those_of_sorted_distances():
    X = np.random.default_rng(0).normal(size=(len(CODES), 2))
    expected = set()
    for a, x in enumerate(X):
        order = np.argsort(np.linalg.norm(X - x, axis=1))
        mates = [j for j in order if CODES[j] == CODES[a] and j != a][:2]
        strangers = [j for j in order if CODES[j] != CODES[a]][:3]
        expected |= {(a, int(p), int(n)) for p in mates for n in strangers}
    found = rows_of(neighbor_triplets(X, CODES, 2, 3))
    assert len(found) == len(expected)
    assert set(found) == expected


def test_a_row_is_no_neighbour_of_itself_among_equal_points():
    triplets = neighbor_triplets(np.zeros((6, 2)), np.array([0, 0, 0, 1, 1, 1]), 2, 2)
    assert len(triplets) == 6 * 2 * 2
    assert (triplets[:, 0] != triplets[:, 1]).all()


# Checks


@pytest.mark.parametrize("y", [[1, 0, 1], [1, -1, 1], [True, False, True], [1.0, 0.0, 1.0]])
def test_pairs_are_the_same_where_y_is_1(y):
    assert check_same(y, 3).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed"),
        ([1, 0], "each of the 3 pairs if it is one; got 2"),
        ([1, 2, 0], r"1 \(same\) and 0 \(different\)"),
        ([1, 0, -1], r"1 \(same\) and 0 \(different\)"),
        ([1, 1, 1], "all 3 are the same"),
        ([0, 0, 0], "all 3 are different"),
        ([1, np.nan, 0], "NaN"),
    ],
)
def test_y_of_pairs_that_tells_nothing_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        check_same(y, 3)


@pytest.mark.parametrize(
    "y", [["b", "a", "b"], [1, -1, 1], [True, False, True], np.array(["b", "a", "b"], dtype=object)]
)
def test_labels_become_codes(y):
    codes, classes = encode_labels(y)
    assert codes.tolist() == [1, 0, 1]
    assert classes.tolist() == sorted(set(y))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.5, 1.5, 2.5], "Unknown label type: continuous"),
        ([1, 1, 1], "all 3 labels are of one class"),
    ],
)
def test_what_are_no_classes_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        encode_labels(y)
