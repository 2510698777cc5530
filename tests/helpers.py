"""What several test files share: the learners under contract, small data, literal references."""

import inspect
import math

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from torch.utils.data import Dataset

import skdml
import skdml.linear
from skdml import LearnedDistance, MetricLearner


def make_learners():
    """Return all learners, unfitted, with few iterations so that tests are fast."""
    return [
        skdml.MahalanobisMetric(),
        skdml.MahalanobisMetric(within_class=True),
        skdml.LMNN(n_impostors=5, tol=0.1),
        skdml.MCML(tol=0.01),
        skdml.NCA(tol=0.01),
        skdml.NCMC(),
        skdml.NCMML(),
        skdml.SDML(),
        skdml.ITML(),
        skdml.LSML(),
        skdml.RCA(),
        skdml.KISSME(),
        skdml.GMML(),
        skdml.LFDA(),
        skdml.DMLMJ(),
        skdml.ANMM(),
        skdml.LDML(),
        skdml.MMC(),
        skdml.SCML(n_basis=40, max_iter=20, tol=1e-3),
        skdml.DMLEig(),
        skdml.LEGO(),
        skdml.DeepEmbedder(max_epochs=2),
        skdml.DeepProxyEmbedder(max_epochs=2),
        skdml.DeepSiameseEmbedder(max_epochs=2),
        skdml.DeepTripletEmbedder(max_epochs=2),
    ]


REAL_TARGETS = {"MLKR"}  # learns from numbers; tests give it the codes of the classes


def linear_learners():
    """Return every public linear learner with its defaults, and a seed if it is random."""
    public = (getattr(skdml.linear, name) for name in skdml.linear.__all__)
    kinds = [
        kind
        for kind in public
        if inspect.isclass(kind)
        and issubclass(kind, skdml.linear.LinearMetricLearner)
        and hasattr(kind, "fit")
    ]
    return [seeded(kind(), 0) for kind in kinds]


def seeded(learner, seed):
    """Return a copy of a learner, with a seed if it takes one."""
    learner = clone(learner)
    return learner.set_params(random_state=seed) if hasattr(learner, "random_state") else learner


def name_of(learner):
    """Return the name of the class of a learner."""
    return type(learner).__name__


def supervise(learner, X, y):
    """Return arguments of `fit` for the supervision of a linear learner: points or tuples."""
    kind, rng = getattr(learner, "supervision", "labels"), np.random.default_rng(0)
    if kind == "labels":
        return X, y.astype(float) if name_of(learner) in REAL_TARGETS else y
    if kind == "chunks":
        return X, np.where(rng.random(len(y)) < 0.7, 5 * y + rng.integers(5, size=len(y)), -1)
    size = {"pairs": 2, "triplets": 3, "quadruplets": 4}[kind]
    rows = rng.integers(len(X), size=(300, size))
    same = y[rows[:, 0]] == y[rows[:, 1]]
    if kind == "pairs":
        return X[rows], same.astype(int)
    third = y[rows[:, 0]] if kind == "triplets" else y[rows[:, 2]]
    return (X[rows[same & (third != y[rows[:, -1]])]],)


class AngleOfSquares(MetricLearner):
    """A learner that squares each feature and measures by the angle."""

    def fit(self, X, y=None):
        self.n_features_in_ = np.shape(X)[1]
        return self

    def transform(self, X):
        return np.asarray(X, dtype=float) ** 2

    def get_metric(self):
        return LearnedDistance(self.transform, "angular")


# Thirty points of three classes and a map L, for learners that are sums of Gaussian kernels.
_RNG = np.random.RandomState(0)
SMALL_X = _RNG.normal(size=(30, 3))
SMALL_Y = np.arange(30) % 3
SMALL_X[:, 0] += 0.7 * SMALL_Y
SMALL_L = np.array([[1.0, 0.5, 0.0], [0.0, 0.8, -0.3]])
SMALL_WEIGHT = np.random.RandomState(1).randint(1, 4, size=30).astype(float)
SMALL_ONES = np.ones(30)

BLOBS, BLOB_CODES = make_blobs(200, 4, centers=4, cluster_std=3.0, random_state=0)


def central_differences(loss, L, step=1e-6):
    """Return the gradient of a loss by L from differences of its value."""
    gradient = np.zeros_like(L)
    for entry in np.ndindex(L.shape):
        shift = np.zeros_like(L)
        shift[entry] = step
        gradient[entry] = (loss(L + shift) - loss(L - shift)) / (2 * step)
    return gradient


def fitted_attributes(learner):
    """Return the names of the attributes that a fit has set."""
    return [name for name in vars(learner) if name.endswith("_")]


def global_random_states():
    """Return the states of the global generators of numpy and torch."""
    _, state, position, *_ = np.random.get_state()  # noqa: NPY002, it must not change
    return state.tolist(), position, torch.get_rng_state().tolist()


class Scale(torch.nn.Module):
    """A network with one parameter that starts as the identity."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, points):
        return self.factor * points


class CountingDataset(Dataset):
    """A Dataset of points that records which rows are read."""

    def __init__(self, X):
        self.X = torch.as_tensor(X, dtype=torch.float32)
        self.reads = []

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        self.reads.append(i)
        return self.X[i], "ignored"


# Miners of triplets that use only the order of distances.
TRIPLET_MINERS = ("all", "hard", "semihard", "easy_positive")

SIZES = (9, 6, 4, 3, 1, 1)  # uneven classes with singletons, 24 rows


def make_batch(seed=0, width=3, sizes=SIZES):
    """Random float64 embeddings and shuffled labels of classes of the given sizes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.full((s,), 10 * c) for c, s in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return torch.randn(len(labels), width, generator=generator, dtype=torch.float64), labels


def literal_distance(x, y, distance):
    """Distance of two points by its formula, in Python floats."""
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))
    if distance == "manhattan":
        return sum(abs(u - v) for u, v in pairs)
    if distance in ("euclidean", "sqeuclidean"):
        square = sum((u - v) ** 2 for u, v in pairs)
        return square if distance == "sqeuclidean" else math.sqrt(square)
    norm = math.sqrt(sum(u * u for u, _ in pairs)) * math.sqrt(sum(v * v for _, v in pairs))
    cos = sum(u * v for u, v in pairs) / norm if norm else 0.0
    cos = min(1.0, max(-1.0, cos))
    return 1 - cos if distance == "cosine" else math.acos(cos) / math.pi


def literal_matrix(x, y, distance):
    """All distances from rows of x to rows of y, as nested lists."""
    return [[literal_distance(u, v, distance) for v in y] for u in x]


def literal_triplets(name, d, labels, ref_labels=None):
    """Triplets by the definition of a miner; of equal distances, the lowest index counts."""
    ref = labels if ref_labels is None else ref_labels
    found = []
    for a in range(len(labels)):
        positives = [
            j for j in range(len(ref)) if ref[j] == labels[a] and (ref_labels is not None or j != a)
        ]
        negatives = [j for j in range(len(ref)) if ref[j] != labels[a]]
        if not positives or not negatives:
            continue
        if name == "all":
            found += [(a, p, n) for p in positives for n in negatives]
            continue
        if name == "hard":
            p = max(positives, key=lambda j: d[a][j])
            found.append((a, p, min(negatives, key=lambda j: d[a][j])))
            continue
        if name == "easy_positive":
            positives = [min(positives, key=lambda j: d[a][j])]
        for p in positives:
            farther = [n for n in negatives if d[a][n] > d[a][p]]
            if farther:
                found.append((a, p, min(farther, key=lambda j: d[a][j])))
    return found


def as_list(indices):
    """Convert a tuple of index tensors to a list of tuples."""
    return list(zip(*(i.tolist() for i in indices), strict=True))


REDUCTIONS = ("active", "mean", "sum")


def literal_reduce(terms, reduction):
    """Apply a reduction to the terms of a loss."""
    terms = list(terms)
    if reduction == "active":
        terms = [t for t in terms if t > 0]
    return sum(terms) if reduction == "sum" else sum(terms) / max(1, len(terms))


def literal_contrastive(d, positives, negatives, margin, power, reduction):
    """Contrastive loss of listed pairs, and the share of active negatives."""
    same = [d[i][j] ** power for i, j in positives]
    different = [max(0.0, margin - d[i][j]) ** power for i, j in negatives]
    share = sum(t > 0 for t in different) / max(1, len(different))
    return literal_reduce(same, reduction) + literal_reduce(different, reduction), share


def literal_triplet(d, triplets, margin, soft, reduction):
    """Triplet loss of listed triplets, and the share of active triplets."""
    terms = []
    for a, p, n in triplets:
        gap = d[a][p] - d[a][n] + margin
        terms.append(math.log1p(math.exp(gap)) if soft else max(0.0, gap))
    share = sum(t > 0 for t in terms) / max(1, len(terms))
    return literal_reduce(terms, reduction), share


def batch_and_reference(reference):
    """Embeddings and labels of a batch, and of references (None without)."""
    x, labels = make_batch(width=4)
    if not reference:
        return x, labels, None, None
    return x, labels, *make_batch(1, width=4, sizes=(5, 4, 0, 3, 2))


def literal_pairs(labels, ref_labels):
    """Positive pairs and negative pairs, as lists of index pairs."""
    rows, columns = labels.tolist(), (labels if ref_labels is None else ref_labels).tolist()
    every = [
        (i, j)
        for i in range(len(rows))
        for j in range(len(columns))
        if ref_labels is not None or i != j
    ]
    same = [(i, j) for i, j in every if rows[i] == columns[j]]
    return same, [(i, j) for i, j in every if rows[i] != columns[j]]


def literal_rows(labels, y_labels):
    """Lists of the positives and of the negatives of each anchor."""
    same, different = literal_pairs(labels, y_labels)
    return [
        ([p for a, p in same if a == i], [n for a, n in different if a == i])
        for i in range(len(labels))
    ]


def mean(values):
    """Mean of some numbers; 0 if there are none."""
    values = list(values)
    return sum(values) / max(1, len(values))
