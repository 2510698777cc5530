"""Which samples share a batch: P classes x K samples, since a batch can only compare its own."""

import numpy as np


class ClassBalancedBatches:
    """Batches of about P classes x K samples, as a torch batch sampler.

    The rows of each class are shuffled and cut into groups of K. The groups of every class are
    spread evenly over the epoch and P groups in a row make a batch, so that a batch holds as many
    classes as there are, a rare class is not used up early, and every sample is seen once an
    epoch. A batch that would hold one class only, or no two samples of a class, is given a further
    group; classes of a single sample serve as strangers to the others.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each sample.
    batch_size : int
        P x K: samples a batch, give or take one group.
    n_per_class : int, default=4
        K: samples of a class that stay together, at least 2; half of a batch at most.
    rows : ndarray of int, default=None
        The samples to draw from; None stands for all.
    seed : int, default=0
        Decides, with the number of the epoch, every batch.

    Raises
    ------
    ValueError
        If all samples are of one class, or no class has two.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.samplers import ClassBalancedBatches
    >>> batches = ClassBalancedBatches(np.repeat([0, 1, 2], 6), batch_size=6, n_per_class=2)
    >>> [len(batch) for batch in batches]
    [6, 6, 6]
    """

    def __init__(self, codes, batch_size, n_per_class=4, *, rows=None, seed=0):
        self.rows = np.arange(len(codes)) if rows is None else np.asarray(rows)
        self.codes = np.asarray(codes)[self.rows]
        self.n_per_class = max(2, min(n_per_class, batch_size // 2))
        self.n_groups = max(2, batch_size // self.n_per_class)
        self.seed = seed
        self.epoch = 0
        check_labels_teach(self.codes)

    def __iter__(self):
        """Yield the batches of the next epoch, each an ndarray of row numbers."""
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        groups = self._groups(rng)
        for first in range(0, len(groups), self.n_groups):
            batch = groups[first : first + self.n_groups]
            yield self.rows[np.concatenate(self._complete(batch, groups, rng))]

    def __len__(self):
        """Return the number of batches in an epoch."""
        n_groups = np.maximum(1, np.bincount(self.codes) // self.n_per_class)
        n_groups = n_groups[np.bincount(self.codes) > 0].sum() + self._n_rests()
        return -(-int(n_groups) // self.n_groups)

    def _n_rests(self):
        # A rest of one sample joins the group before it: alone it could not teach its class.
        counts = np.bincount(self.codes)
        return int(((counts > self.n_per_class) & (counts % self.n_per_class > 1)).sum())

    def _groups(self, rng):
        """All groups of an epoch, in the order of the epoch."""
        order = rng.permutation(len(self.codes))
        order = order[np.argsort(self.codes[order], kind="stable")]
        groups, places = [], []
        for of_class in np.split(order, np.flatnonzero(np.diff(self.codes[order])) + 1):
            cuts = np.arange(self.n_per_class, len(of_class) - 1, self.n_per_class)
            of_class = np.split(of_class, cuts)
            groups += of_class
            places.append((np.arange(len(of_class)) + rng.random(len(of_class))) / len(of_class))
        return [groups[i] for i in np.argsort(np.concatenate(places))]

    def _complete(self, batch, groups, rng):
        """Add what a batch lacks: a pair of one class, or a second class."""
        if all(len(group) == 1 for group in batch):
            batch = [*batch, _draw([group for group in groups if len(group) > 1], rng)]
        first = self.codes[batch[0][0]]
        if all(self.codes[group[0]] == first for group in batch):
            batch = [*batch, _draw([g for g in groups if self.codes[g[0]] != first], rng)]
        return batch


class ShuffledBatches:
    """Batches in random order without regard to classes: for pairs and triplets.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        The tuples to draw from.
    batch_size : int
        Tuples a batch.
    seed : int, default=0
        Decides, with the number of the epoch, every batch.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.samplers import ShuffledBatches
    >>> [len(batch) for batch in ShuffledBatches(np.arange(10), batch_size=4)]
    [4, 4, 2]
    """

    def __init__(self, rows, batch_size, *, seed=0):
        self.rows = np.asarray(rows)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __iter__(self):
        """Yield the batches of the next epoch, each an ndarray of row numbers."""
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = rng.permutation(self.rows)
        for first in range(0, len(order), self.batch_size):
            yield order[first : first + self.batch_size]

    def __len__(self):
        """Return the number of batches in an epoch."""
        return -(-len(self.rows) // self.batch_size)


def check_labels_teach(codes):
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
    counts = np.bincount(codes)
    n_classes = np.count_nonzero(counts)
    if n_classes < 2:
        raise ValueError(
            f"A distance is learned from at least two classes; all {len(codes)} labels are of one "
            "class. Give samples of another."
        )
    if counts.max() < 2:
        raise ValueError(
            f"Each of the {n_classes} classes has a single sample, so no two samples are known to "
            "be alike. Give at least one class two samples; are these continuous targets?"
        )


def _draw(groups, rng):
    return groups[rng.integers(len(groups))]
