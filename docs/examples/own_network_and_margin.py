"""A torch network of your own, and a search for the margin that is best for unseen classes.

The images are scikit-learn's digits, turned by 0, 90, 180 or 270 degrees and unevenly lit. Each
turn of a digit is a class of its own: 40 classes. Each candidate margin is trained on some classes
and scored by MAP@R on others. Accuracy on the training classes would prefer a margin that overfits.
"""

import torch
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import FunctionTransformer

from skdml import DeepEmbedder
from skdml.__main__ import digits_in_uneven_light
from skdml.metrics import map_at_r_scorer, retrieval_report
from skdml.model_selection import ClassDisjointKFold, ClassDisjointShuffleSplit


class Net(torch.nn.Module):
    """Two convolution layers for images of 8 x 8, and a linear layer."""

    def __init__(self, n_components, n_channels=16):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, 8, 8)),
            torch.nn.Conv2d(1, n_channels, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(n_channels, 2 * n_channels, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(32 * n_channels, n_components),
        )

    def forward(self, X):
        """Embed images."""
        return self.layers(X)


X, y = digits_in_uneven_light(seed=0)
X = (X / 16).astype("float32")
splitter = ClassDisjointShuffleSplit(1, test_size=0.5, random_state=0)
((seen, unseen),) = splitter.split(X, y)
embedder = DeepEmbedder(
    Net,
    module__n_channels=8,
    n_components=16,
    loss="triplet",
    max_epochs=6,
    lr=3e-3,
    early_stopping=False,
    random_state=0,
)
search = GridSearchCV(
    embedder, {"margin": [0.1, 1.0]}, cv=ClassDisjointKFold(2), scoring=map_at_r_scorer
)
search.fit(X[seen], y[seen])
for margin, score in zip(
    search.cv_results_["param_margin"], search.cv_results_["mean_test_score"], strict=True
):
    print(f"margin {margin}: MAP@R {score:.3f} on held-out classes")

for name, model in {"Euclid": FunctionTransformer(), "best": search.best_estimator_}.items():
    report = retrieval_report(model.transform(X[unseen]), y[unseen], k=1)
    print(
        f"{name:8}on unseen classes: recall@1 {report['recall_at_1']:.3f}, "
        f"MAP@R {report['map_at_r']:.3f}"
    )
