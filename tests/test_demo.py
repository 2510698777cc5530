"""``python -m skdml``: its tables, files and messages, with fast learners."""

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import skdml.__main__ as demo
from skdml import DeepTripletEmbedder
from skdml._command.comparison import Splits, compare
from skdml._command.progress import Progress
from skdml._command.tables import read_table
from skdml._command.tasks import Task


@pytest.fixture
def quick_learners(monkeypatch):
    def learners(seed):
        deep = DeepTripletEmbedder(max_epochs=2, random_state=seed)
        return {"Euclid": FunctionTransformer(), "DeepTripletEmbedder": deep}

    monkeypatch.setattr(demo, "learners", learners)


def write_table(path, n_classes=6, n_rows=20):
    rng = np.random.default_rng(0)
    lines = ["a,b,colour,kind"]
    for kind in range(n_classes):
        for _ in range(n_rows):
            a, b = rng.normal(kind, 0.2, size=2)
            empty = "" if rng.random() < 0.05 else f"{a:.4f}"
            lines.append(f"{empty},{b:.4f},{rng.choice(['red', 'blue'])},k{kind}")
    path.write_text("\n".join(lines) + "\n")


def test_a_table_gives_scores_a_model_and_a_plot(tmp_path, quick_learners, capsys):
    write_table(tmp_path / "mine.csv")
    demo.main(["--data", str(tmp_path / "mine.csv"), "--target", "kind", "--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert "mine.csv: 120 rows, 6 classes, 3 of them unseen" in printed.out
    for column in ("k-NN acc.", "AMI", "recall@1", "MAP@R", "AUC", "EER"):
        assert column in printed.out
    assert (tmp_path / "unseen.png").read_bytes().startswith(b"\x89PNG")
    model = joblib.load(tmp_path / "model.joblib")
    found = read_table(tmp_path / "mine.csv", "kind")
    assert model.score(found.X, found.y) > 0.9


def test_early_stopping_only_for_unseen_classes(quick_learners):
    X, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 6
    task = Task("points", X, y, StandardScaler())
    with Progress() as progress:
        found = compare(task, Splits.of(task, 0), demo.learners(0), progress)["DeepTripletEmbedder"]
    assert not found["rows"][0][-1].early_stopping
    assert found["unseen"][-1].early_stopping


def test_two_classes_leave_none_unseen(tmp_path, quick_learners, capsys):
    write_table(tmp_path / "two.csv", n_classes=2)
    demo.main(["--data", str(tmp_path / "two.csv"), "--target", "kind", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "too few classes to leave any unseen" in out
    assert "MAP@R" not in out


def test_file_and_target_come_together(tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        demo.main(["--data", str(tmp_path / "mine.csv")])
    assert refusal.value.code == 2
    assert "come together" in capsys.readouterr().err


def test_light_is_a_plane_over_each_image():
    X, y = demo.digits_in_uneven_light(0, n_samples=50)
    assert X.shape == (50, 64)
    assert {name.split(" at ")[1] for name in y} == {"0°", "90°", "180°", "270°"}
    side = np.linspace(-1, 1, 8)
    plane = np.stack([np.ones(64), *(axis.ravel() for axis in np.meshgrid(side, side))], axis=1)
    rest = X - X @ plane @ np.linalg.pinv(plane)
    images = load_digits().images
    rotated = np.concatenate([np.rot90(images, t, axes=(1, 2)) for t in range(4)])
    clean = rotated.reshape(-1, 64)
    clean = clean - clean @ plane @ np.linalg.pinv(plane)
    assert all(abs(clean - one).max(axis=1).min() < 1e-9 for one in rest)
