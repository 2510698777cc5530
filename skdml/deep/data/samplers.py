"""Which samples share a batch: P classes x K samples, since a batch can only compare its own."""

import numpy as np


class PKBatchSampler:
    """Batches of about P classes x K samples, as a torch batch sampler.

    The rows of each class are shuffled and cut into packs of K. The packs of every class are
    spread evenly over the epoch and P packs in a row make a batch, so that a batch holds as many
    classes as there are, a rare class is not used up early, and every sample is seen once an
    epoch. A batch that would hold one class only, or no two samples of a class, is given a further
    pack; classes of a single sample serve as strangers to the others.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each sample.
    batch_size : int
        P x K: samples a batch, give or take one pack.
    n_per_class : int, default=4
        K: samples of a class that stay together, at least 2; half of a batch at most.
    rows : ndarray of int, default=None
        The samples to draw from; None stands for all.
    groups : ndarray of int, shape (n,), default=None
        Each group of a class is spread over the packs of the class as evenly as can be, so that
        alike samples of a batch come from different groups.
    balanced : bool, default=False
        Whether every class makes equally many packs of an epoch that is as long as otherwise: of a
        frequent class some samples are left for other epochs, those of a rare one come again in
        later batches, but not twice in one. A class with less than K samples is a pack.
    seed : int, default=0
        Decides, with the number of the epoch, every batch.

    Raises
    ------
    ValueError
        If all samples are of one class, or no class has two.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.data.samplers import PKBatchSampler
    >>> batches = PKBatchSampler(np.repeat([0, 1, 2], 6), batch_size=6, n_per_class=2)
    >>> [len(batch) for batch in batches]
    [6, 6, 6]
    """

    def __init__(
        self, codes, batch_size, n_per_class=4, *, rows=None, groups=None, balanced=False, seed=0
    ):
        self.rows = np.arange(len(codes)) if rows is None else np.asarray(rows)
        self.codes = np.asarray(codes)[self.rows]
        self.groups = None if groups is None else np.asarray(groups)[self.rows]
        self.n_per_class = max(2, min(n_per_class, batch_size // 2))
        self.n_packs = max(2, batch_size // self.n_per_class)
        self.balanced = balanced
        self.seed = seed
        self.epoch = 0
        check_class_labels(self.codes)

    def __iter__(self):
        """Yield the batches of the next epoch, each an ndarray of row numbers."""
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        packs = self._packs(rng)
        for first in range(0, len(packs), self.n_packs):
            batch = packs[first : first + self.n_packs]
            batch = np.concatenate(self._complete(batch, packs, rng))
            if self.balanced:
                batch = batch[np.sort(np.unique(batch, return_index=True)[1])]
            yield self.rows[batch]

    def __len__(self):
        """Return the number of batches in an epoch."""
        counts = self._pack_counts()
        n_packs = counts.sum()
        if self.balanced:
            n_packs = len(counts) * self._packs_per_class(counts)
        return -(-int(n_packs) // self.n_packs)

    def _pack_counts(self):
        """How many packs of K each class is cut into."""
        counts = np.bincount(self.codes)
        counts = counts[counts > 0]
        # A rest of one sample joins the pack before it: alone it could not teach its class.
        rests = (counts > self.n_per_class) & (counts % self.n_per_class > 1)
        return np.maximum(1, counts // self.n_per_class) + rests

    @staticmethod
    def _packs_per_class(counts):
        return -(-int(counts.sum()) // len(counts))

    def _packs(self, rng):
        """All packs of an epoch, in the order of the epoch."""
        order = rng.permutation(len(self.codes))
        order = order[np.argsort(self.codes[order], kind="stable")]
        n_packs = self._packs_per_class(self._pack_counts()) if self.balanced else None
        packs, places = [], []
        for of_class in np.split(order, np.flatnonzero(np.diff(self.codes[order])) + 1):
            of_class = self._draw(of_class, n_packs, rng) if self.balanced else self._cut(of_class)
            packs += of_class
            places.append((np.arange(len(of_class)) + rng.random(len(of_class))) / len(of_class))
        return [packs[i] for i in np.argsort(np.concatenate(places))]

    def _draw(self, of_class, n_packs, rng):
        """Full packs of a class, as many as asked for: from its rows, shuffled anew each time."""
        drawn = []
        whole = max(len(of_class) // self.n_per_class, 1) * self.n_per_class
        while len(drawn) < n_packs:
            drawn += self._cut(rng.permutation(of_class)[:whole])
        return drawn[:n_packs]

    def _cut(self, of_class):
        """Packs of some rows of a class."""
        cuts = np.arange(self.n_per_class, len(of_class) - 1, self.n_per_class)
        if self.groups is None:
            return np.split(of_class, cuts)
        # Dealt like cards that are sorted by their group.
        of_class = of_class[np.argsort(self.groups[of_class], kind="stable")]
        return [of_class[i :: len(cuts) + 1] for i in range(len(cuts) + 1)]

    def _complete(self, batch, packs, rng):
        """Add what a batch lacks: a pair of one class, or a second class."""
        if all(len(pack) == 1 for pack in batch):
            batch = [*batch, _draw([pack for pack in packs if len(pack) > 1], rng)]
        first = self.codes[batch[0][0]]
        if all(self.codes[pack[0]] == first for pack in batch):
            batch = [*batch, _draw([p for p in packs if self.codes[p[0]] != first], rng)]
        return batch


class ShuffledBatchSampler:
    """Batches in random order without regard to classes: for tuples, views and graded targets.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        The rows to draw from.
    batch_size : int
        Rows a batch.
    least : int, default=1
        What is left at the end of an epoch joins the batch before it, if it is less than this.
    seed : int, default=0
        Decides, with the number of the epoch, every batch.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.data.samplers import ShuffledBatchSampler
    >>> [len(batch) for batch in ShuffledBatchSampler(np.arange(10), batch_size=4)]
    [4, 4, 2]
    """

    def __init__(self, rows, batch_size, *, least=1, seed=0):
        self.rows = np.asarray(rows)
        self.batch_size = max(batch_size, least)
        self.least = least
        self.seed = seed
        self.epoch = 0

    def __iter__(self):
        """Yield the batches of the next epoch, each an ndarray of row numbers."""
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        cuts = np.arange(self.batch_size, len(self.rows) - self.least + 1, self.batch_size)
        yield from np.split(rng.permutation(self.rows), cuts)

    def __len__(self):
        """Return the number of batches in an epoch."""
        return max(1, 1 + (len(self.rows) - self.least) // self.batch_size)


class SingleGroupBatchSampler:
    """Batches of several samplers in random order: each batch is of one of them.

    Parameters
    ----------
    samplers : list
        Batch samplers with a number of the `epoch`.
    seed : int, default=0
        Decides, with the number of the epoch, the order.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.data.samplers import SingleGroupBatchSampler, ShuffledBatchSampler
    >>> samplers = [
    ...     ShuffledBatchSampler(np.arange(4), 2),
    ...     ShuffledBatchSampler(np.arange(4, 10), 3),
    ... ]
    >>> sorted(sorted((batch >= 4).tolist()) for batch in SingleGroupBatchSampler(samplers))
    [[False, False], [False, False], [True, True, True], [True, True, True]]
    """

    def __init__(self, samplers, *, seed=0):
        self.samplers = samplers
        self.seed = seed
        self.epoch = 0

    def __iter__(self):
        """Yield the batches of the next epoch, each an ndarray of row numbers."""
        rng = np.random.default_rng([self.seed, self.epoch])
        batches = []
        for sampler in self.samplers:
            sampler.epoch = self.epoch
            batches += sampler
        self.epoch += 1
        yield from (batches[i] for i in rng.permutation(len(batches)))

    def __len__(self):
        """Return the number of batches in an epoch."""
        return sum(map(len, self.samplers))


# With fewer rows a batch has nothing to compare.
MIN_BATCH_SIZES = {"views": 2, "targets": 3}


GROUP_BATCHES = ("together", "apart", None)


def make_batch_sampler(data, rows, batch_size, *, n_per_class, balanced, group_batches, seed):
    """Return the batch sampler of a dataset, by what its targets are.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    rows : ndarray of int
        The rows to draw from.
    batch_size : int
        Rows a batch.
    n_per_class, balanced
        As in `PKBatchSampler`, for classes.
    group_batches : {"together", "apart", None}
        Whether alike rows of a batch come from different groups as far as can be, or all rows of a
        batch from one group; None pays groups no regard.
    seed : int
        Decides every batch.

    Returns
    -------
    PKBatchSampler, ShuffledBatchSampler or SingleGroupBatchSampler
        The sampler.

    Raises
    ------
    ValueError
        If no class is comparable with another, in all or in any group that is kept apart.
    """
    least = MIN_BATCH_SIZES.get(data.kind, 1)
    together = data.groups if group_batches == "together" else None

    def make(rows):
        if data.kind != "labels":
            return ShuffledBatchSampler(rows, batch_size, least=least, seed=seed)
        options = {"rows": rows, "groups": together, "balanced": balanced, "seed": seed}
        return PKBatchSampler(data.targets, batch_size, n_per_class, **options)

    if data.groups is None or group_batches != "apart":
        return make(rows)
    groups = data.groups[rows]
    by_group = [rows[groups == group] for group in np.unique(groups)]
    if data.kind == "labels":
        teach = [label_defect(data.targets[rows]) is None for rows in by_group]
    else:
        teach = [len(rows) >= least for rows in by_group]
    if not any(teach):
        lacking = "two classes, one of them twice" if data.kind == "labels" else f"{least} samples"
        raise ValueError(
            f"group_batches='apart' compares the samples of a group with each other, but none of "
            f"the {len(by_group)} groups to train on holds {lacking}. Take 'together' or no groups."
        )
    samplers = [make(rows) for rows, some in zip(by_group, teach, strict=True) if some]
    return SingleGroupBatchSampler(samplers, seed=seed)


def label_defect(codes):
    """Say why nothing is learned from labels, or return None.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each sample.

    Returns
    -------
    str or None
        What is lacking.
    """
    counts = np.bincount(codes)
    n_classes = np.count_nonzero(counts)
    if n_classes < 2:
        return (
            f"A distance is learned from at least two classes; all {len(codes)} labels are of one "
            "class. Give samples of another."
        )
    if counts.max() < 2:
        return (
            f"Each of the {n_classes} classes has a single sample, so no two samples are known to "
            "be alike. Give at least one class two samples; are these continuous targets?"
        )
    return None


def check_class_labels(codes):
    """Raise unless some samples are alike and some are not.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each sample.

    Raises
    ------
    ValueError
        If there is one class only, or every class has one sample only.
    """
    if lack := label_defect(codes):
        raise ValueError(lack)


def _draw(packs, rng):
    return packs[rng.integers(len(packs))]
