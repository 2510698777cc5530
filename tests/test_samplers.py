"""Batches of P classes x K: every sample once, always something alike and something different."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdml.deep.data import ArrayDataset
from skdml.deep.samplers import ClassBalancedBatches, ShuffledBatches


@st.composite
def class_counts(draw):
    counts = draw(st.lists(st.integers(0, 15), min_size=2, max_size=12))
    i, j = draw(st.permutations(range(len(counts))))[:2]
    counts[i], counts[j] = counts[i] + 2, counts[j] + 1  # two classes, one of them repeated
    return counts


@settings(max_examples=150, deadline=None)
@given(class_counts(), st.integers(2, 40), st.integers(2, 9), st.integers(0, 99))
def test_every_batch_can_compare_and_every_sample_is_seen(counts, batch_size, n_per_class, seed):
    codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    sampler = ClassBalancedBatches(codes, batch_size, n_per_class, seed=seed)
    for _ in range(2):
        batches = list(sampler)
        assert len(batches) == len(sampler)
        seen = Counter(np.concatenate(batches).tolist())
        assert set(seen) == set(range(len(codes)))
        repeats = sum(seen.values()) - len(seen)
        assert repeats <= (n_per_class + 1) * len(batches) * 2
        for batch in batches:
            assert len(set(batch.tolist())) == len(batch)
            of_class = np.bincount(codes[batch])
            assert np.count_nonzero(of_class) >= 2
            assert of_class.max() >= 2


def test_balanced_batches_are_p_classes_of_k():
    codes = np.repeat(np.arange(10), 40)
    sampler = ClassBalancedBatches(codes, batch_size=32, n_per_class=4, seed=0)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [32] * 12 + [16]
    for batch in batches:
        assert (np.bincount(codes[batch]) % 4 == 0).all()
    assert np.mean([len(np.unique(codes[batch])) for batch in batches[:-1]]) > 6
    assert Counter(np.concatenate(batches).tolist()) == Counter(range(400))


def test_rare_class_is_spread_over_the_epoch():
    codes = np.repeat([0, 1], [400, 40])
    sampler = ClassBalancedBatches(codes, batch_size=44, n_per_class=4, seed=0)
    with_rare = [1 in codes[batch] for batch in sampler]
    assert np.mean(with_rare) > 0.7


def test_epochs_differ_and_the_seed_decides_them():
    codes = np.repeat(np.arange(4), 10)
    one, two = (ClassBalancedBatches(codes, 8, seed=1) for _ in range(2))
    first, second = np.concatenate(list(one)), np.concatenate(list(one))
    assert not np.array_equal(first, second)
    two.epoch = 1  # as after a checkpoint
    assert_array_equal(np.concatenate(list(two)), second)
    other = ClassBalancedBatches(codes, 8, seed=2)
    assert not np.array_equal(np.concatenate(list(other)), first)


def test_only_the_rows_that_are_given():
    codes = np.repeat([0, 1, 2], 10)
    rows = np.arange(5, 25)
    batches = list(ClassBalancedBatches(codes, 8, 2, rows=rows))
    assert_array_equal(np.unique(np.concatenate(batches)), rows)


def test_k_is_half_of_a_batch_at_most():
    codes = np.repeat([0, 1, 2], 8)
    assert max(map(len, ClassBalancedBatches(codes, batch_size=4, n_per_class=8))) == 4


@pytest.mark.parametrize(
    ("codes", "message"),
    [([3, 3, 3], "all 3 labels are of one class"), ([0, 1, 2], "3 classes has a single sample")],
)
def test_labels_that_teach_nothing_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        ClassBalancedBatches(np.array(codes), 4)


def test_shuffled_batches_hold_every_row_once():
    sampler = ShuffledBatches(np.arange(5, 16), 4, seed=0)
    first, second = list(sampler), list(sampler)
    assert [len(batch) for batch in first] == [4, 4, 3]
    assert len(sampler) == 3
    assert_array_equal(np.sort(np.concatenate(first)), np.arange(5, 16))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_batches_of_an_array_are_slices():
    X = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    points, targets = ArrayDataset(X, np.arange(6)).__getitems__([4, 1])
    assert_array_equal(points, X[[4, 1]])
    assert_array_equal(targets, [4, 1])
    points, _ = ArrayDataset(X, np.arange(6), tuples=True).__getitems__([4, 1])
    assert_array_equal(points, X[[4, 1]].reshape(4, 2))
