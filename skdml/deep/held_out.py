"""What training stops on: classes it is not shown, or rows, or tuples, and their score."""

import numpy as np
from sklearn.metrics import roc_auc_score

from skdml.distances import paired_base_distance
from skdml.metrics import map_at_r, recall_at_k

SCORINGS = {"map_at_r": map_at_r, "recall_at_1": recall_at_k}

# Held-out points are compared all against all after every epoch: a few hundred tell as much as
# all of them.
MAX_QUERIES = 1000
MAX_GALLERY = 2000

# With fewer classes left to train on, nothing general can be learned about strangers.
MIN_CLASSES_LEFT = 3


def hold_out(data, fraction, rng, *, supervision, distance, scoring):
    """Split rows into those to train on and a score of the others.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    fraction : float
        The share of classes, rows or tuples to hold out, in (0, 1).
    rng : numpy.random.Generator
        Draws.
    supervision : {"labels", "pairs", "triplets"}
        What the rows are.
    distance : str
        The base distance.
    scoring : str or callable
        The score of labelled rows.

    Returns
    -------
    train : ndarray of int
        Rows to train on.
    score : callable or None
        ``score(embed)`` -> float, larger is better; None where too little was there to hold out.
    """
    codes = data.targets
    if supervision == "triplets":
        train, held = _split_rows(np.zeros(len(codes), int), fraction, rng)
        score = OrderScore(data.points(held), distance)
    elif supervision == "pairs":
        train, held = _split_rows(codes, fraction, rng)
        score = PairScore(data.points(held), codes[held], distance)
    else:
        train, held, gallery = split_labels(codes, fraction, rng)
        score = RetrievalScore(data, held, gallery, distance, scoring)
    if len(held) == 0 or (supervision == "pairs" and len(np.unique(codes[held])) < 2):
        return np.arange(len(codes)), None
    return train, score


class RetrievalScore:
    """Retrieval among held-out classes, or of held-out rows among the training rows."""

    def __init__(self, data, queries, gallery, distance, scoring):
        self.queries, self.labels = data.points(queries), data.targets[queries]
        self.gallery = None
        if gallery is not None:
            self.gallery, self.gallery_labels = data.points(gallery), data.targets[gallery]
        self.scoring = SCORINGS.get(scoring, scoring) if isinstance(scoring, str) else scoring
        self.options = {"metric": distance} if isinstance(scoring, str) else {}
        self.name = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")

    def __call__(self, embed):
        """Score an embedding."""
        sets = [embed(self.queries), self.labels]
        if self.gallery is not None:
            sets += [embed(self.gallery), self.gallery_labels]
        return float(self.scoring(*sets, **self.options))


class PairScore:
    """Area under the ROC curve of held-out pairs."""

    name = "roc_auc"

    def __init__(self, points, same, distance):
        self.points, self.same, self.distance = points, same, distance

    def __call__(self, embed):
        """Score an embedding."""
        Z = embed(self.points)
        return float(
            roc_auc_score(self.same, -paired_base_distance(Z[::2], Z[1::2], self.distance))
        )


class OrderScore:
    """Share of held-out triplets whose positive is nearer than their negative."""

    name = "in_order"

    def __init__(self, points, distance):
        self.points, self.distance = points, distance

    def __call__(self, embed):
        """Score an embedding."""
        Z = embed(self.points)
        positive = paired_base_distance(Z[::3], Z[1::3], self.distance)
        return float((positive < paired_base_distance(Z[::3], Z[2::3], self.distance)).mean())


def split_labels(codes, fraction, rng):
    """Choose what to hold out: strangers, or else rows of known classes.

    Whole classes are held out where enough remain to train on; two at least, for one class alone
    is always found. Where classes are few, a share of the rows of each class is, to be found
    among the others.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row.
    fraction : float
        The share to hold out, in (0, 1).
    rng : numpy.random.Generator
        Draws.

    Returns
    -------
    train, queries : ndarray of int
        Rows to train on, and rows to look for.
    gallery : ndarray of int or None
        Training rows to look among; None where the queries are looked for among themselves.
    """
    repeated = np.flatnonzero(np.bincount(codes) >= 2)
    n_held = max(2, round(fraction * len(repeated)))
    if len(repeated) >= n_held + MIN_CLASSES_LEFT:
        held = np.isin(codes, rng.choice(repeated, n_held, replace=False))
        queries = rng.permutation(np.flatnonzero(held))[:MAX_QUERIES]
        if np.bincount(codes[queries]).max() >= 2:
            return np.flatnonzero(~held), np.sort(queries), None
    train, queries = _split_rows(codes, fraction, rng)
    gallery = rng.permutation(train)[:MAX_GALLERY]
    found = np.isin(codes[queries], codes[gallery])
    return train, queries[found][:MAX_QUERIES], np.sort(gallery)


def _split_rows(codes, fraction, rng):
    """Hold out a share of the rows of each class, leaving two of each."""
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    counts = np.bincount(codes)
    place = np.arange(len(codes)) - (np.cumsum(counts) - counts)[codes[order]]
    n_held = np.minimum((counts * fraction).astype(int), np.maximum(counts - 2, 0))
    held = place < n_held[codes[order]]
    return np.sort(order[~held]), rng.permutation(order[held])
