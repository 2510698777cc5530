"""Tuples drawn from labels, compared with all existing tuples; checks of labels."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdml.constraints import (
    _tuple_keys,
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
    same = {(i, j) for i, j in pairs if codes[i] == codes[j]}
    return same, set(pairs) - same


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
def test_pairs_are_distinct_and_of_the_right_kind(n_constraints):
    same_pairs, different_pairs = all_pairs(CODES)
    first, second, same = draw_pairs(CODES, n_constraints, generator())
    pairs = rows_of(np.column_stack([first, second]))
    assert len(set(pairs)) == len(pairs) == 2 * n_constraints
    assert same.tolist() == [True] * n_constraints + [False] * n_constraints
    assert set(pairs[:n_constraints]) <= same_pairs
    assert set(pairs[n_constraints:]) <= different_pairs


def test_all_pairs_are_returned_if_more_are_asked_for():
    first, second, same = draw_pairs(CODES, 1000, generator())
    pairs = rows_of(np.column_stack([first, second]))
    same_pairs, different_pairs = all_pairs(CODES)
    assert set(itertools.compress(pairs, same)) == same_pairs
    assert set(itertools.compress(pairs, ~same)) == different_pairs
    assert len(pairs) == len(same_pairs) + len(different_pairs)


def test_rows_are_in_similar_numbers_of_pairs():
    codes = np.repeat([0, 1], 100)
    first, second, same = draw_pairs(codes, 1000, generator())
    for kind in (same, ~same):
        count = np.bincount(np.append(first[kind], second[kind]), minlength=200)
        assert count.min() >= 3
        assert count.max() <= 25


def test_pairs_are_drawn_equally_often():
    codes = np.repeat([0, 1], 4)
    drawn = [rows_of(np.column_stack(draw_pairs(codes, 3, generator(s))[:2])) for s in range(300)]
    count = {}
    for pair in itertools.chain(*drawn):
        count[pair] = count.get(pair, 0) + 1
    # 300 draws of 3 of the 12 same pairs: about 75 times each. Of the 16 different pairs: 56.
    same_pairs, different_pairs = all_pairs(codes)
    assert all(40 < count[pair] < 115 for pair in same_pairs)
    assert all(28 < count[pair] < 90 for pair in different_pairs)


def test_draws_depend_only_on_the_generator():
    for draw in (draw_pairs, draw_triplets, draw_quadruplets):
        one, again, other = (draw(CODES, 6, generator(seed)) for seed in (3, 3, 4))
        assert_array_equal(np.array(one, dtype=object), np.array(again, dtype=object))
        assert not np.array_equal(np.array(one, dtype=object), np.array(other, dtype=object))


def test_classes_of_single_rows_give_no_same_pairs():
    first, second, same = draw_pairs(np.arange(4), 5, generator())
    assert not same.any()
    assert len(first) == len(second) == 5
    assert draw_triplets(np.arange(4), 5, generator()).shape == (0, 3)
    assert draw_quadruplets(np.arange(4), 5, generator()).shape == (0, 4)


# Triplets and quadruplets


def test_triplets_are_distinct_and_valid():
    triplets = rows_of(draw_triplets(CODES, 20, generator()))
    assert len(set(triplets)) == len(triplets) == 20
    assert set(triplets) <= all_triplets(CODES)


def test_nearly_all_triplets_are_returned_if_more_are_asked_for():
    found, existing = rows_of(draw_triplets(CODES, 10_000, generator())), all_triplets(CODES)
    assert set(found) <= existing
    assert len(found) > 0.9 * len(existing)


def test_keys_of_tuples_with_large_indices_are_distinct():
    # The cube of the number of rows exceeds an int64.
    tuples = np.array([[i, 0, j] for i in (0, 1, 2**22) for j in (0, 1, 2**22)])
    assert len(np.unique(_tuple_keys(np.concatenate([tuples, tuples])))) == 9


def test_quadruplets_join_a_same_and_a_different_pair():
    same_pairs, different_pairs = all_pairs(CODES)
    quadruplets = draw_quadruplets(CODES, 8, generator())
    first, second = rows_of(quadruplets[:, :2]), rows_of(quadruplets[:, 2:])
    assert len(set(first)) == len(set(second)) == 8
    assert set(first) <= same_pairs
    assert set(second) <= different_pairs


def test_neighbor_triplets_match_sorted_distances():
    X = np.random.default_rng(0).normal(size=(len(CODES), 2))
    expected = set()
    for a, x in enumerate(X):
        order = np.argsort(np.linalg.norm(X - x, axis=1))
        positives = [j for j in order if CODES[j] == CODES[a] and j != a][:2]
        negatives = [j for j in order if CODES[j] != CODES[a]][:3]
        expected |= {(a, int(p), int(n)) for p in positives for n in negatives}
    found = rows_of(neighbor_triplets(X, CODES, 2, 3))
    assert len(found) == len(expected)
    assert set(found) == expected


def test_a_row_is_not_its_own_neighbour_among_equal_points():
    triplets = neighbor_triplets(np.zeros((6, 2)), np.array([0, 0, 0, 1, 1, 1]), 2, 2)
    assert len(triplets) == 6 * 2 * 2
    assert (triplets[:, 0] != triplets[:, 1]).all()


# Checks


@pytest.mark.parametrize("y", [[1, 0, 1], [1, -1, 1], [True, False, True], [1.0, 0.0, 1.0]])
def test_1_means_same(y):
    assert check_same(y, 3).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed"),
        ([1, 0], "y needs one label for each of the 3 pairs; got 2 labels"),
        ([1, 2, 0], r"1 \(same\) and 0 \(different\)"),
        ([1, 0, -1], r"1 \(same\) and 0 \(different\)"),
        ([1, 1, 1], "all 3 are the same"),
        ([0, 0, 0], "all 3 are different"),
        ([1, np.nan, 0], "NaN"),
    ],
)
def test_invalid_labels_of_pairs_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        check_same(y, 3)


@pytest.mark.parametrize(
    "y", [["b", "a", "b"], [1, -1, 1], [True, False, True], np.array(["b", "a", "b"], dtype=object)]
)
def test_labels_are_encoded(y):
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
def test_invalid_class_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        encode_labels(y)
