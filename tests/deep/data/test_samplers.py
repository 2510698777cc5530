"""Batch samplers: every sample occurs, and every batch has same-class and different-class pairs."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdml.deep.data.datasets import ArrayDataset
from skdml.deep.data.samplers import ClassBalancedBatches, ShuffledBatchSampler, make_batch_sampler


@st.composite
def class_counts(draw):
    counts = draw(st.lists(st.integers(0, 15), min_size=2, max_size=12))
    i, j = draw(st.permutations(range(len(counts))))[:2]
    counts[i], counts[j] = counts[i] + 2, counts[j] + 1  # two classes, one of them repeated
    return counts


@settings(max_examples=150, deadline=None)
@given(class_counts(), st.integers(2, 40), st.integers(2, 9), st.integers(0, 99))
def test_every_batch_is_comparable_and_every_sample_occurs(counts, batch_size, n_per_class, seed):
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


def test_equal_classes_give_p_classes_of_k_samples():
    codes = np.repeat(np.arange(10), 40)
    sampler = ClassBalancedBatches(codes, batch_size=32, n_per_class=4, seed=0)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [32] * 12 + [16]
    for batch in batches:
        assert (np.bincount(codes[batch]) % 4 == 0).all()
    assert np.mean([len(np.unique(codes[batch])) for batch in batches[:-1]]) > 6
    assert Counter(np.concatenate(batches).tolist()) == Counter(range(400))


@pytest.mark.parametrize("balanced", [False, True])
def test_batches_of_small_classes_reach_their_size(balanced):
    codes = np.r_[np.repeat(np.arange(400), 2), 400 + np.arange(800)]
    sampler = ClassBalancedBatches(codes, batch_size=64, n_per_class=4, balanced=balanced)
    sizes = [len(batch) for batch in sampler]
    assert len(sizes) == len(sampler)
    assert 60 <= np.median(sizes) <= 66
    assert max(sizes) <= 66 or balanced


def test_rare_class_is_spread_over_the_epoch():
    codes = np.repeat([0, 1], [400, 40])
    sampler = ClassBalancedBatches(codes, batch_size=44, n_per_class=4, seed=0)
    with_rare = [1 in codes[batch] for batch in sampler]
    assert np.mean(with_rare) > 0.7


def test_epochs_differ_and_the_seed_determines_them():
    codes = np.repeat(np.arange(4), 10)
    one, two = (ClassBalancedBatches(codes, 8, seed=1) for _ in range(2))
    first, second = np.concatenate(list(one)), np.concatenate(list(one))
    assert not np.array_equal(first, second)
    two.epoch = 1  # as after a checkpoint
    assert_array_equal(np.concatenate(list(two)), second)
    other = ClassBalancedBatches(codes, 8, seed=2)
    assert not np.array_equal(np.concatenate(list(other)), first)


def test_only_the_given_rows_are_drawn():
    codes = np.repeat([0, 1, 2], 10)
    rows = np.arange(5, 25)
    batches = list(ClassBalancedBatches(codes, 8, 2, rows=rows))
    assert_array_equal(np.unique(np.concatenate(batches)), rows)


def test_k_is_at_most_half_of_a_batch():
    codes = np.repeat([0, 1, 2], 8)
    assert max(map(len, ClassBalancedBatches(codes, batch_size=4, n_per_class=8))) == 4


@pytest.mark.parametrize(
    ("codes", "message"),
    [([3, 3, 3], "all 3 labels are of one class"), ([0, 1, 2], "3 classes has a single sample")],
)
def test_labels_with_nothing_to_compare_raise(codes, message):
    with pytest.raises(ValueError, match=message):
        ClassBalancedBatches(np.array(codes), 4)


def test_shuffled_batches_hold_every_row_once():
    sampler = ShuffledBatchSampler(np.arange(5, 16), 4, seed=0)
    first, second = list(sampler), list(sampler)
    assert [len(batch) for batch in first] == [4, 4, 3]
    assert len(sampler) == 3
    assert_array_equal(np.sort(np.concatenate(first)), np.arange(5, 16))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_a_small_remainder_joins_the_last_full_batch():
    for n, sizes in ((9, [4, 5]), (10, [4, 4, 2]), (5, [5]), (4, [4]), (1, [1])):
        sampler = ShuffledBatchSampler(np.arange(n), 4, min_size=2)
        batches = list(sampler)
        assert [len(batch) for batch in batches] == sizes
        assert len(sampler) == len(sizes)
        assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n))


# Balanced classes


@settings(max_examples=150, deadline=None)
@given(class_counts(), st.integers(2, 40), st.integers(2, 9), st.integers(0, 99))
def test_balanced_batches_draw_every_class_equally_often(counts, batch_size, n_per_class, seed):
    codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    options = {"balanced": True, "seed": seed}
    sampler = ClassBalancedBatches(codes, batch_size, n_per_class, **options)
    packs = sampler._packs(np.random.default_rng(seed))
    drawn = np.bincount([codes[pack[0]] for pack in packs], minlength=len(counts))
    assert set(drawn[np.array(counts) > 0]) == {len(packs) // np.count_nonzero(counts)}
    for pack in packs:
        assert len(set(codes[pack])) == 1
        assert len(set(pack)) == len(pack) == min(sampler.n_per_class, counts[codes[pack[0]]])
    batches = list(sampler)
    assert len(batches) == len(sampler)
    plain = len(ClassBalancedBatches(codes, batch_size, n_per_class, seed=seed))
    assert plain <= len(sampler) <= plain + len(counts)
    for batch in batches:
        assert len(set(batch.tolist())) == len(batch)
        of_class = np.bincount(codes[batch])
        assert np.count_nonzero(of_class) >= 2
        assert of_class.max() >= 2


def test_balanced_batches_use_all_samples_over_many_epochs():
    codes = np.repeat([0, 1, 2], [300, 8, 8])
    sampler = ClassBalancedBatches(codes, 24, 4, balanced=True, seed=0)
    seen = Counter()
    for _ in range(20):
        seen.update(np.concatenate(list(sampler)).tolist())
    assert set(seen) == set(range(316))
    of_class = np.bincount(codes[list(seen)], weights=list(seen.values()))
    assert of_class.max() < 1.1 * of_class.min()


# Groups


@st.composite
def classes_and_groups(draw):
    counts = draw(class_counts())
    seed = draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return codes, rng.integers(draw(st.integers(1, 6)), size=len(codes)), seed


@settings(max_examples=150, deadline=None)
@given(classes_and_groups(), st.integers(2, 40), st.integers(2, 9), st.booleans())
def test_groups_of_a_class_are_spread_over_its_packs(drawn, batch_size, n_per_class, balanced):
    codes, groups, seed = drawn
    options = {"groups": groups, "balanced": balanced, "seed": seed}
    sampler = ClassBalancedBatches(codes, batch_size, n_per_class, **options)
    packs = sampler._packs(np.random.default_rng(seed))
    assert max(map(len, packs)) <= sampler.n_per_class + (not balanced)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    if not balanced:
        assert sorted(np.concatenate(packs)) == list(range(len(codes)))
        of_class = {}
        for pack in packs:
            of_class.setdefault(codes[pack[0]], []).append(np.bincount(groups[pack], minlength=6))
        for counts in of_class.values():
            assert (np.ptp(counts, axis=0) <= 1).all()
            assert np.ptp([c.sum() for c in counts]) <= 1
    for batch in batches:
        of_class = np.bincount(codes[batch])
        assert np.count_nonzero(of_class) >= 2
        assert of_class.max() >= 2


def test_samples_of_a_class_come_from_different_groups():
    codes, groups = np.repeat(np.arange(5), 40), np.tile(np.arange(4), 50)
    together = ClassBalancedBatches(codes, 20, 4, groups=groups)
    for batch in together:
        pairs = Counter(zip(codes[batch].tolist(), groups[batch].tolist(), strict=True))
        assert len(set(pairs.values())) == 1  # each class as often from each group
    mixed = next(iter(ClassBalancedBatches(codes, 20, 4)))
    assert len(set(zip(codes[mixed].tolist(), groups[mixed].tolist(), strict=True))) < len(mixed)


def labelled_data(codes, groups):
    data = ArrayDataset(np.zeros((len(codes), 1), np.float32), codes)
    data.groups = groups
    return data


DEFAULTS = {"n_per_class": 4, "balanced": False, "seed": 3}


@settings(max_examples=150, deadline=None)
@given(classes_and_groups(), st.integers(2, 40), st.booleans())
def test_batches_of_separate_groups_hold_one_group(drawn, batch_size, balanced):
    codes, groups, _ = drawn
    rows = np.arange(len(codes))
    options = {**DEFAULTS, "balanced": balanced, "group_batches": "apart"}
    usable = [
        group
        for group in np.unique(groups)
        if len(set(codes[groups == group])) >= 2 and np.bincount(codes[groups == group]).max() >= 2
    ]
    if not usable:
        with pytest.raises(ValueError, match=r"none of the \d+ groups .* holds two classes"):
            make_batch_sampler(labelled_data(codes, groups), rows, batch_size, **options)
        return
    sampler = make_batch_sampler(labelled_data(codes, groups), rows, batch_size, **options)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    seen = set(np.concatenate(batches).tolist())
    if not balanced:
        assert seen == set(np.flatnonzero(np.isin(groups, usable)).tolist())
    for batch in batches:
        assert len(set(groups[batch])) == 1
        of_class = np.bincount(codes[batch])
        assert np.count_nonzero(of_class) >= 2
        assert of_class.max() >= 2


def test_separate_groups_come_in_random_order_determined_by_the_epoch():
    codes, groups = np.tile([0, 1], 60), np.repeat([0, 1, 2], 40)
    options = {**DEFAULTS, "group_batches": "apart"}
    one, two = (
        make_batch_sampler(labelled_data(codes, groups), np.arange(120), 8, **options)
        for _ in range(2)
    )
    first, second = list(one), list(one)
    order = [groups[batch[0]] for batch in first]
    assert sorted(order) != order
    two.epoch = 1  # as after a checkpoint
    assert_array_equal(np.concatenate(list(two)), np.concatenate(second))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_ignored_groups_change_nothing():
    codes, groups = np.tile([0, 1], 30), np.repeat([0, 1, 2], 20)
    rows = np.arange(60)
    with_groups = make_batch_sampler(
        labelled_data(codes, groups), rows, 8, **DEFAULTS, group_batches=None
    )
    without = make_batch_sampler(
        labelled_data(codes, None), rows, 8, **DEFAULTS, group_batches="apart"
    )
    assert_array_equal(np.concatenate(list(with_groups)), np.concatenate(list(without)))


def test_array_dataset_returns_slices():
    X = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    points, targets = ArrayDataset(X, np.arange(6)).__getitems__([4, 1])
    assert_array_equal(points, X[[4, 1]])
    assert_array_equal(targets, [4, 1])
    points, _ = ArrayDataset(X, np.arange(6), tuples=True).__getitems__([4, 1])
    assert_array_equal(points, X[[4, 1]].reshape(4, 2))
