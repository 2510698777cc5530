"""What the command compares learners on: points, class labels, and a preprocessor."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.preprocessing import FunctionTransformer


@dataclass
class Task:
    """Points to compare learners on.

    Parameters
    ----------
    name : str
        Name of the data.
    X : ndarray of shape (n_samples, n_features)
        Points.
    y : ndarray of shape (n_samples,)
        Class labels.
    preprocessor : transformer
        First step before each learner.
    """

    name: str
    X: NDArray[Any]
    y: NDArray[Any]
    preprocessor: Any


def demonstration(seed: int) -> list[Task]:
    """Return the two tasks of the demonstration: digits, and digits in uneven light."""
    X, y = load_digits(return_X_y=True)
    X_lit, y_lit = digits_in_uneven_light(seed)
    as_is = FunctionTransformer()
    return [
        Task("digits", X, y, as_is),
        Task("digits, turned and unevenly lit", X_lit, y_lit, as_is),
    ]


def digits_in_uneven_light(seed: int, n_samples: int = 3000) -> tuple[NDArray[Any], NDArray[Any]]:
    """Make a task with 40 classes: scikit-learn's digits, rotated and with a gradient of light.

    Each digit is rotated by 0, 90, 180 and 270 degrees, and each rotation is a class of its own.
    A random linear gradient of brightness is added to each image. It says nothing about the class,
    like the light on photographs of faces.

    Parameters
    ----------
    seed : int
        Seed of the gradients and of the sample.
    n_samples : int, default=3000
        Number of images to draw from the 7188.

    Returns
    -------
    X : ndarray of shape (n_samples, 64)
        Images of 8 x 8 pixels.
    y : ndarray of str, shape (n_samples,)
        Digit and angle of rotation.
    """
    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    X = np.concatenate([np.rot90(images, turn, axes=(1, 2)) for turn in range(4)])
    y = np.concatenate([[f"{d} at {90 * turn}°" for d in digits] for turn in range(4)])
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(X), n_samples, replace=False)
    side = np.linspace(-1, 1, 8)
    plane = np.stack([np.ones((8, 8)), *np.meshgrid(side, side)])
    light = np.tensordot(rng.normal(scale=6, size=(n_samples, 3)), plane, axes=1)
    return (X[rows] + light).reshape(n_samples, -1), y[rows]
