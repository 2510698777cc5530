"""Displays: the plotted numbers, and drawing on given axes."""

import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits, load_wine
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import TSNE
from sklearn.metrics import det_curve, roc_curve
from sklearn.preprocessing import FunctionTransformer

from skdml import DeepTripletEmbedder, MahalanobisMetric
from skdml.model_selection import make_pairs
from skdml.plotting import (
    COLOURS,
    MARKERS,
    EmbeddingDisplay,
    MetricDisplay,
    RetrievalDisplay,
    TrainingHistoryDisplay,
    VerificationDisplay,
)
from skdml.verification import PairVerifier

mpl.use("agg")

X, Y = load_digits(return_X_y=True)
X, Y = X[:300], Y[:300]
METRIC = MahalanobisMetric("oas", within_class=True).fit(X, Y)
PAIRS, SAME = make_pairs(X, Y, 400, random_state=0)
VERIFIER = PairVerifier(FrozenEstimator(METRIC), threshold="eer").fit(PAIRS, SAME)
DISTANCE = METRIC.pair_distance(PAIRS)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# Verification


def test_histograms_of_both_kinds_of_pairs_with_a_marked_threshold():
    shown = VerificationDisplay.from_estimator(VERIFIER, PAIRS, SAME, bins=20)
    heights = np.histogram(DISTANCE[SAME == 1], 20, (0, DISTANCE.max()), density=True)[0]
    bars = [patch.get_height() for patch in shown.ax_.patches[:20]]
    assert_allclose(bars, heights)
    line = shown.ax_.lines[0].get_xdata()
    assert_allclose(line, VERIFIER.threshold_)
    far = (VERIFIER.predict(PAIRS)[SAME == 0] == 1).mean()
    assert f"false accepts {far:.2%}" in legend(shown.ax_)[-1]


@pytest.mark.parametrize("kind", ["roc", "det"])
def test_curves_match_scikit_learn(kind):
    shown = VerificationDisplay.from_predictions(SAME, DISTANCE, kind=kind, name="mine")
    line = shown.ax_.lines[0]
    if kind == "roc":
        far, tar, _ = roc_curve(SAME, -DISTANCE)
        assert_array_equal(line.get_ydata(), tar)
    else:
        far, frr, _ = det_curve(SAME, -DISTANCE)
        far, seen = far[(far > 0) & (frr > 0)], frr[(far > 0) & (frr > 0)]
        assert_array_equal(line.get_ydata(), seen)
    assert_array_equal(line.get_xdata(), far)
    assert legend(shown.ax_) == ["mine"]


def test_several_curves_on_given_axes():
    _, ax = plt.subplots()
    for learner in (METRIC, FunctionTransformer().fit(X)):
        shown = VerificationDisplay.from_estimator(learner, PAIRS, SAME, kind="roc", ax=ax)
        assert shown.ax_ is ax
    assert legend(ax) == ["MahalanobisMetric", "FunctionTransformer"]
    assert len(plt.get_fignums()) == 1


def test_the_threshold_is_marked_on_the_curve():
    shown = VerificationDisplay.from_estimator(VERIFIER, PAIRS, SAME, kind="roc")
    curve, mark = shown.ax_.lines
    points = np.column_stack([curve.get_xdata(), curve.get_ydata()])
    at = np.ravel([mark.get_xdata(), mark.get_ydata()])
    # By default, scikit-learn's curve drops points on straight lines.
    far, tar, _ = roc_curve(SAME, -DISTANCE, drop_intermediate=False)
    assert np.abs(np.column_stack([far, tar]) - at).sum(axis=1).min() < 1e-12
    assert len(points) > 10


def test_invalid_pairs_and_kinds_are_refused():
    with pytest.raises(ValueError, match="kind='pie' is unknown"):
        VerificationDisplay.from_predictions(SAME, DISTANCE, kind="pie")
    with pytest.raises(ValueError, match="one label for each of the 400 pairs"):
        VerificationDisplay.from_predictions(SAME[:3], DISTANCE)
    with pytest.raises(ValueError, match="threshold=nan is not a distance"):
        VerificationDisplay.from_predictions(SAME, DISTANCE, threshold=np.nan)
    with pytest.raises(ValueError, match="pairs need the shape"):
        VerificationDisplay.from_estimator(METRIC, X, Y)


# Embeddings


def test_embeddings_before_and_after_with_hollow_unseen_classes():
    shown = EmbeddingDisplay.from_estimator(METRIC, X, Y, unseen_labels=[8, 9])
    before, after = shown.axes_
    assert [ax.get_title() for ax in shown.axes_] == ["before", "after MahalanobisMetric"]
    assert legend(after) == [*map(str, range(8)), "8 (unseen)", "9 (unseen)"]
    for ax in (before, after):
        assert len(ax.collections) == 10
        hollow = [len(c.get_facecolors()) == 0 for c in ax.collections]
        assert hollow == [False] * 8 + [True] * 2
        sizes = [len(c.get_offsets()) for c in ax.collections]
        assert_array_equal(sizes, np.bincount(Y))


def test_classes_have_distinct_colours_and_markers():
    styles = {(COLOURS[i % 8], MARKERS[(i + i // 8) % 8]) for i in range(64)}
    assert len(styles) == 64


def test_projectors_and_embeddings_of_one_dimension():
    flat = EmbeddingDisplay.from_predictions(METRIC.transform(X)[:, :1], Y)
    assert len(flat.axes_) == 1
    tsne = TSNE(random_state=0, perplexity=5, init="pca", max_iter=250)
    assert len(EmbeddingDisplay.from_predictions(X[:60], Y[:60], projector=tsne).axes_) == 1


# Retrieval


@pytest.mark.parametrize("image_shape", [None, (8, 8), (1, 8, 8)])
def test_the_nearest_neighbours_are_shown_and_marked_by_class(image_shape):
    shown = RetrievalDisplay.from_estimator(
        METRIC, X, Y, n_queries=4, n_neighbors=3, image_shape=image_shape
    )
    D = METRIC.get_metric()(X[:4], X)
    D[range(4), range(4)] = np.inf
    nearest = np.argsort(D, axis=1)[:, :3]
    assert_array_equal(shown.neighbor_labels, Y[nearest])
    assert_allclose(shown.distance, np.take_along_axis(D, nearest, axis=1), rtol=1e-6)
    for row in range(4):
        for column in range(3):
            ax, correct = shown.axes_[row, column + 1], Y[nearest[row, column]] == Y[row]
            assert ax.get_title().startswith("✓" if correct else "✗")
            assert ax.spines["top"].get_linestyle() == ("-" if correct else ":")
            assert len(ax.images) == (image_shape is not None)


def test_retrieval_from_a_reference_and_with_duplicates():
    shown = RetrievalDisplay.from_estimator(METRIC, X[:5], Y[:5], X[100:], Y[100:], n_queries=2)
    assert shown.axes_.shape == (2, 7)
    duplicates = np.concatenate([X[:4], X[:4], X[:4]])
    shown = RetrievalDisplay.from_estimator(METRIC, duplicates, np.tile(Y[:4], 3), n_neighbors=2)
    assert_array_equal(shown.neighbor_labels, np.tile(Y[:4], 2)[:5, None].repeat(2, axis=1))
    with pytest.raises(ValueError, match="n_neighbors=6 is more than the 3 points"):
        RetrievalDisplay.from_estimator(METRIC, X[:4], Y[:4])


def test_given_neighbours_are_drawn():
    images = X[:6].reshape(2, 3, 8, 8)
    shown = RetrievalDisplay.from_predictions(
        images[:, 0], Y[[0, 3]], images[:, 1:], Y[[1, 2, 4, 5]].reshape(2, 2), np.ones((2, 2))
    )
    assert shown.axes_.shape == (2, 3)


# Histories and metrics


@pytest.mark.filterwarnings("ignore::skdml.deep.InitialWeightsWarning")  # a short fit
def test_history_has_a_panel_for_each_series():
    embedder = DeepTripletEmbedder(max_epochs=3, random_state=0).fit(X, Y)
    shown = TrainingHistoryDisplay.from_estimator(embedder)
    titles = [ax.get_title() for ax in shown.axes_]
    assert titles[:3] == ["loss", "active share", "spread"]
    assert "map at r" in titles
    assert_allclose(shown.axes_[0].lines[0].get_ydata(), embedder.history_["loss"])
    with pytest.raises(ValueError, match="MahalanobisMetric has no history_"):
        TrainingHistoryDisplay.from_estimator(METRIC)


def test_metric_shows_stretch_matrix_and_spectrum():
    frame, kinds = load_wine(return_X_y=True, as_frame=True)
    learner = MahalanobisMetric(within_class=True).fit(frame, kinds)
    shown = MetricDisplay.from_estimator(learner, max_features=5)
    M = learner.get_mahalanobis_matrix()
    lengths = [bar.get_width() for bar in shown.axes_[0].patches]
    assert_allclose(lengths, np.sort(np.sqrt(np.diag(M)))[-5:])
    names = [text.get_text() for text in shown.axes_[0].get_yticklabels()]
    assert names[-1] == frame.columns[np.argmax(np.diag(M))]
    assert_array_equal(shown.axes_[1].images[0].get_array(), M)
    values = shown.axes_[2].lines[0].get_ydata()
    assert_allclose(values, np.linalg.eigvalsh(M)[::-1], rtol=1e-6)
    with pytest.raises(ValueError, match="has no Mahalanobis matrix"):
        MetricDisplay.from_estimator(FunctionTransformer())


def test_only_drawing_needs_matplotlib():
    program = (
        "import sys, numpy as np\n"
        "sys.modules['matplotlib'] = sys.modules['matplotlib.pyplot'] = None\n"
        "from skdml.plotting import MetricDisplay\n"
        "display = MetricDisplay(np.eye(2))\n"
        "try: display.plot()\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "Install it with: pip install matplotlib" in done.stdout, done.stderr
