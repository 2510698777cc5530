"""Batch samplers: they decide which samples share a batch.

A loss compares only samples of the same batch. Each batch therefore needs two samples of the same
class, and samples of at least two classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdml.deep.data.reading import check_class_labels, label_defect

if TYPE_CHECKING:
    from skdml.deep.data.datasets import ArrayDataset, LabelledDataset

GROUP_BATCHES = ("together", "apart", None)

# With fewer rows a batch has nothing to compare: two points with two views each, or three graded
# targets. Other batches may hold a single row.
MIN_BATCH_SIZES = {"views": 2, "targets": 3}


class ClassBalancedBatches:
    """Batches of about P classes with K samples each (PK batches), as a torch batch sampler.

    An epoch is drawn in three steps:

    1. The samples of each class are shuffled and cut into packs of K samples.
    2. The packs of each class are spread evenly over the epoch, with random offsets.
    3. Consecutive packs make a batch until it holds `batch_size` samples. Small classes make small
       packs, so a batch then holds more than P classes.

    A batch thus mixes many classes, a rare class is spread over the whole epoch, and every sample
    occurs at least once in an epoch. A batch with one class only, or without two samples of any
    class, gets a further random pack. Samples of a class with a single sample only serve as
    negatives.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each sample.
    batch_size : int
        P x K. The number of samples in a batch may differ from it by about half a pack. The last
        batch of an epoch may be smaller.
    n_per_class : int, default=4
        K, the number of samples of a class in a pack. It is raised to 2 at least, and limited to
        half of `batch_size`.
    rows : ndarray of int, default=None
        The samples to draw from. None draws from all.
    groups : ndarray of int, shape (n,), default=None
        The group of each sample. The samples of each group of a class are spread evenly over the
        packs of the class, so that a pack mixes groups.
    balanced : bool, default=False
        Whether every class makes the same number of packs. The epoch is about as long as without
        balancing: only a part of a frequent class is used in each epoch, and samples of a rare
        class occur in several batches, but at most once in each batch. A class with less than K
        samples makes packs of all its samples.
    seed : int, default=0
        The seed. Seed and epoch number determine every batch.

    Raises
    ------
    ValueError
        If all samples are of one class, or every class has a single sample.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.data.samplers import ClassBalancedBatches
    >>> batches = ClassBalancedBatches(np.repeat([0, 1, 2], 6), batch_size=6, n_per_class=2)
    >>> [len(batch) for batch in batches]
    [6, 6, 6]
    """

    def __init__(
        self,
        codes: ArrayLike,
        batch_size: int,
        n_per_class: int = 4,
        *,
        rows: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        balanced: bool = False,
        seed: int = 0,
    ) -> None:
        codes = np.asarray(codes)
        self.rows = np.arange(len(codes)) if rows is None else np.asarray(rows)
        self.codes = codes[self.rows]
        self.groups = None if groups is None else np.asarray(groups)[self.rows]
        self.n_per_class = max(2, min(n_per_class, batch_size // 2))
        self.batch_size = max(batch_size, 2 * self.n_per_class)
        self.balanced = balanced
        self.seed = seed
        self.epoch = 0
        check_class_labels(self.codes)

    def __iter__(self) -> Iterator[NDArray[np.integer]]:
        """Yield the batches of the next epoch, each an ndarray of row numbers."""
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        packs = self._packs(rng)
        for first, end in pairwise(self._batch_limits(packs)):
            batch = np.concatenate(self._complete(packs[first:end], packs, rng))
            if self.balanced:  # drop repeated samples, keep the order
                batch = batch[np.sort(np.unique(batch, return_index=True)[1])]
            yield self.rows[batch]

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        n_samples = len(self.codes)
        if self.balanced:
            n_samples = self._packs_per_class() * self._full_pack_sizes().sum()
        # Half a pack can reach over the end of a full batch; it makes no batch of its own.
        return 1 + max(0, int((n_samples - (self.n_per_class + 1) / 2) // self.batch_size))

    def _batch_limits(self, packs: list[NDArray[np.integer]]) -> list[int]:
        """Return the number of the first pack of each batch, and the number of packs."""
        sizes = np.array([len(pack) for pack in packs])
        middles = sizes.cumsum() - sizes / 2
        n_batches = len(self)
        batch = np.minimum(middles // self.batch_size, n_batches - 1)
        return np.searchsorted(batch, np.arange(n_batches + 1)).tolist()

    def _full_pack_sizes(self) -> NDArray[np.integer]:
        """Return the number of samples in a full pack of each class, with balancing."""
        counts = np.bincount(self.codes)
        return np.minimum(counts[counts > 0], self.n_per_class)

    def _packs_per_class(self) -> int:
        """Return the number of packs of each class that make an epoch, with balancing."""
        return -(-len(self.codes) // int(self._full_pack_sizes().sum()))

    def _packs(self, rng: np.random.Generator) -> list[NDArray[np.integer]]:
        """Return all packs of an epoch, in the order of the epoch."""
        order = rng.permutation(len(self.codes))
        order = order[np.argsort(self.codes[order], kind="stable")]
        n_packs = self._packs_per_class() if self.balanced else None
        packs, positions = [], []
        for samples in np.split(order, np.flatnonzero(np.diff(self.codes[order])) + 1):
            of_class = self._cut(samples) if n_packs is None else self._draw(samples, n_packs, rng)
            packs += of_class
            offsets = rng.random(len(of_class))
            positions.append((np.arange(len(of_class)) + offsets) / len(of_class))
        return [packs[i] for i in np.argsort(np.concatenate(positions))]

    def _draw(
        self, samples: NDArray[np.integer], n_packs: int, rng: np.random.Generator
    ) -> list[NDArray[np.integer]]:
        """Return `n_packs` full packs of a class; its samples are shuffled again as needed."""
        packs: list[NDArray[np.integer]] = []
        n_in_full_packs = max(len(samples) // self.n_per_class, 1) * self.n_per_class
        while len(packs) < n_packs:
            packs += self._cut(rng.permutation(samples)[:n_in_full_packs])
        return packs[:n_packs]

    def _cut(self, samples: NDArray[np.integer]) -> list[NDArray[np.integer]]:
        """Cut samples of one class into packs."""
        cuts = np.arange(self.n_per_class, len(samples) - 1, self.n_per_class)
        if self.groups is None:
            return np.split(samples, cuts)
        # Sort by group and deal the samples out in turn: every pack gets a share of each group.
        samples = samples[np.argsort(self.groups[samples], kind="stable")]
        return [samples[i :: len(cuts) + 1] for i in range(len(cuts) + 1)]

    def _complete(
        self,
        batch: list[NDArray[np.integer]],
        packs: list[NDArray[np.integer]],
        rng: np.random.Generator,
    ) -> list[NDArray[np.integer]]:
        """Add a random pack where a batch has no two samples of a class, or only one class."""
        if all(len(pack) == 1 for pack in batch):
            batch = [*batch, _random_pack([pack for pack in packs if len(pack) > 1], rng)]
        first = self.codes[batch[0][0]]
        if all(self.codes[pack[0]] == first for pack in batch):
            others = [pack for pack in packs if self.codes[pack[0]] != first]
            batch = [*batch, _random_pack(others, rng)]
        return batch


def _random_pack(packs: list[NDArray[np.integer]], rng: np.random.Generator) -> NDArray[np.integer]:
    return packs[rng.integers(len(packs))]


class ShuffledBatchSampler:
    """Batches in random order that ignore classes: for tuples, views and graded targets.

    The rows are shuffled once for each epoch and cut into batches. Every row occurs once.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        The rows to draw from.
    batch_size : int
        The number of rows in a batch; it is raised to `min_size` at least.
    min_size : int, default=1
        The smallest batch. Fewer remaining rows join the last full batch.
    seed : int, default=0
        The seed. Seed and epoch number determine every batch.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.data.samplers import ShuffledBatchSampler
    >>> [len(batch) for batch in ShuffledBatchSampler(np.arange(10), batch_size=4)]
    [4, 4, 2]
    """

    def __init__(
        self, rows: ArrayLike, batch_size: int, *, min_size: int = 1, seed: int = 0
    ) -> None:
        self.rows = np.asarray(rows)
        self.batch_size = max(batch_size, min_size)
        self.min_size = min_size
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Iterator[NDArray[np.integer]]:
        """Yield the batches of the next epoch, each an ndarray of row numbers."""
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        cuts = np.arange(self.batch_size, len(self.rows) - self.min_size + 1, self.batch_size)
        yield from np.split(rng.permutation(self.rows), cuts)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return max(1, 1 + (len(self.rows) - self.min_size) // self.batch_size)


class SingleGroupBatchSampler:
    """Batches that each hold samples of one group only.

    There is one sampler for each group. Their batches are mixed in random order.

    Parameters
    ----------
    samplers : list of ClassBalancedBatches or ShuffledBatchSampler
        The batch sampler of each group.
    seed : int, default=0
        The seed. Seed and epoch number determine the order of the batches.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.data.samplers import ShuffledBatchSampler, SingleGroupBatchSampler
    >>> first = ShuffledBatchSampler(np.arange(4), 2)
    >>> second = ShuffledBatchSampler(np.arange(4, 10), 3)
    >>> batches = SingleGroupBatchSampler([first, second])
    >>> sorted(sorted((batch >= 4).tolist()) for batch in batches)
    [[False, False], [False, False], [True, True, True], [True, True, True]]
    """

    def __init__(
        self, samplers: Sequence[ClassBalancedBatches | ShuffledBatchSampler], *, seed: int = 0
    ) -> None:
        self.samplers = samplers
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Iterator[NDArray[np.integer]]:
        """Yield the batches of the next epoch, each an ndarray of row numbers."""
        rng = np.random.default_rng([self.seed, self.epoch])
        batches: list[NDArray[np.integer]] = []
        for sampler in self.samplers:
            sampler.epoch = self.epoch
            batches += sampler
        self.epoch += 1
        yield from (batches[i] for i in rng.permutation(len(batches)))

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return sum(map(len, self.samplers))


def make_batch_sampler(
    data: ArrayDataset | LabelledDataset,
    rows: NDArray[np.integer],
    batch_size: int,
    *,
    n_per_class: int,
    balanced: bool,
    group_batches: str | None,
    seed: int,
) -> ClassBalancedBatches | ShuffledBatchSampler | SingleGroupBatchSampler:
    """Return the batch sampler that fits the targets of a dataset.

    Class labels give PK batches; tuples, views and graded targets give shuffled batches.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    rows : ndarray of int
        The rows to draw from.
    batch_size : int
        The number of rows in a batch.
    n_per_class, balanced
        For class labels, as in `ClassBalancedBatches`.
    group_batches : {"together", "apart", None}
        How the groups of `data` are used. "together" mixes groups: samples of a class in a batch
        come from different groups where possible. "apart" draws each batch from a single group.
        None ignores groups.
    seed : int
        The seed of the sampler.

    Returns
    -------
    ClassBalancedBatches, ShuffledBatchSampler or SingleGroupBatchSampler
        The sampler.

    Raises
    ------
    ValueError
        If the labels give nothing to compare: in all rows or, with ``group_batches="apart"``, in
        any group.
    """
    min_size = MIN_BATCH_SIZES.get(data.kind, 1)
    mixed_groups = data.groups if group_batches == "together" else None

    def sampler_of(rows: NDArray[np.integer]) -> ClassBalancedBatches | ShuffledBatchSampler:
        if data.kind != "labels":
            return ShuffledBatchSampler(rows, batch_size, min_size=min_size, seed=seed)
        return ClassBalancedBatches(
            data.targets,
            batch_size,
            n_per_class,
            rows=rows,
            groups=mixed_groups,
            balanced=balanced,
            seed=seed,
        )

    if data.groups is None or group_batches != "apart":
        return sampler_of(rows)
    groups = data.groups[rows]
    rows_by_group = [rows[groups == group] for group in np.unique(groups)]
    usable = [part for part in rows_by_group if _is_comparable(data, part, min_size)]
    if not usable:
        needed = (
            "two classes, one of them with two samples"
            if data.kind == "labels"
            else f"{min_size} samples"
        )
        raise ValueError(
            "group_batches='apart' compares only samples of the same group, but none of the "
            f"{len(rows_by_group)} groups to train on holds {needed}. Use group_batches='together' "
            "or None, or leave groups out."
        )
    return SingleGroupBatchSampler([sampler_of(part) for part in usable], seed=seed)


def _is_comparable(
    data: ArrayDataset | LabelledDataset, rows: NDArray[np.integer], min_size: int
) -> bool:
    """Return whether a batch of these rows has something to compare."""
    if data.kind == "labels":
        return label_defect(data.targets[rows]) is None
    return len(rows) >= min_size


@dataclass
class RecordingBatchSampler:
    """Passes on the batches of a sampler and records their rows until they are trained on.

    A torch loader returns the points of a batch but not their row numbers, which the memory needs.

    Parameters
    ----------
    sampler : iterable
        Batches, as arrays of row numbers.

    Attributes
    ----------
    pending : deque of ndarray
        The rows of the batches that were drawn and not trained on yet, in order.
    """

    sampler: Iterable[NDArray]
    pending: deque[NDArray] = field(default_factory=deque, init=False)

    def __iter__(self) -> Iterator[NDArray]:
        """Yield the batches of the next epoch."""
        self.pending.clear()
        for rows in self.sampler:
            self.pending.append(rows)
            yield rows

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.sampler)  # type: ignore[arg-type]  # every batch sampler has a length
