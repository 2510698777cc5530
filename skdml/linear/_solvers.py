"""L-BFGS for the objectives of the linear learners, and the warning when it does not converge."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from skdml._threads import one_thread

Objective: TypeAlias = Callable[[NDArray[np.floating]], tuple[float, NDArray[np.floating]]]
"""``objective(L)`` -> (value, gradient), the gradient an array of the shape of L."""

Monitor: TypeAlias = Callable[[NDArray[np.floating], float], object]
"""``monitor(L, value)``, called after each iteration; it ends the search by returning True."""

# With at most this many entries of L, products are faster on one thread than on several.
_SMALL = 2**14

# How many past steps L-BFGS keeps. More than the usual 10 saves evaluations, which cost far more
# here than the memory.
_MEMORY = 20


def minimize_lbfgs(
    objective: Objective,
    start: ArrayLike,
    *,
    max_iter: int,
    tol: float,
    name: str,
    bounds: Sequence[tuple[float | None, float | None]] | None = None,
    monitor: Monitor | None = None,
    verbose: int = 0,
) -> tuple[NDArray[np.floating], NDArray[np.floating], int]:
    """Minimise a smooth function of an array by L-BFGS.

    The search ends when the objective falls by less than `tol` of its magnitude (of that at the
    start if this is larger), or when the largest entry of the gradient is below `tol` of what it
    was at the start.

    Parameters
    ----------
    objective : callable
        ``objective(L)`` -> (value, gradient), a float and an array of the shape of `start`.
    start : ndarray
        The array to begin with, of any shape.
    max_iter : int
        Maximum number of iterations.
    tol : float
        Relative tolerance, >= 0.
    name : str
        Name of the learner, for messages.
    bounds : sequence of (low, high), default=None
        Bounds of each entry of the flattened array.
    monitor : callable, default=None
        ``monitor(L, value)`` is called after each iteration with a copy of L. It ends the search,
        without a warning, by returning True.
    verbose : int, default=0
        1 prints a line for each iteration.

    Returns
    -------
    L : ndarray
        The array found, float64.
    loss_curve : ndarray of float64, shape (n_iter + 1,)
        The objective at the start and after each iteration; it never rises.
    n_iter : int
        Number of iterations.

    Warns
    -----
    ConvergenceWarning
        If the search did not converge in `max_iter` iterations.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._solvers import minimize_lbfgs
    >>> L, curve, n_iter = minimize_lbfgs(
    ...     lambda L: (((L - 3) ** 2).sum(), 2 * (L - 3)),
    ...     np.zeros((2, 2)),
    ...     max_iter=50,
    ...     tol=1e-9,
    ...     name="NCA",
    ... )
    >>> L.round(6)
    array([[3., 3.],
           [3., 3.]])
    """
    start = np.asarray(start, dtype=np.float64)
    search = _Search(objective, start, name, monitor, verbose)
    limits = {"maxiter": max_iter, "maxfun": 20 * max_iter, "maxcor": _MEMORY}
    tolerances = {"ftol": tol, "gtol": tol * search.steepest}
    try:
        with one_thread("blas") if start.size <= _SMALL else nullcontext():
            found = minimize(
                search.scaled,
                start.ravel(),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                callback=search.after_iteration,
                options=limits | tolerances,
            )
        x, converged = found.x, found.status != 1
    except StopIteration:  # older versions of scipy do not catch it
        x, converged = search.stopped_at, True
    if not converged and search.stopped_at is None:
        warn_not_converged(name, max_iter)
    curve = search.curve
    if len(curve) == 1:
        curve.append(curve[0])  # one iteration showed that the start is the minimum
    return x.reshape(start.shape), np.array(curve), len(curve) - 1


class _Search:
    """The objective in units of its value at the start, and its value after each iteration.

    The tolerances of scipy are partly absolute. In these units they are relative.
    """

    def __init__(
        self,
        objective: Objective,
        start: NDArray[np.floating],
        name: str,
        monitor: Monitor | None,
        verbose: int,
    ) -> None:
        value, gradient = objective(start)
        self.objective, self.shape = objective, start.shape
        self.name, self.monitor, self.verbose = name, monitor, verbose
        self.unit = abs(float(value)) or 1.0
        self.steepest = float(abs(gradient).max(initial=0)) / self.unit
        self.curve = [float(value)]
        self.stopped_at: NDArray[np.floating] | None = None
        self._last_x, self._last_value = start.ravel(), float(value)

    def scaled(self, x: NDArray[np.floating]) -> tuple[float, NDArray[np.floating]]:
        value, gradient = self.objective(x.reshape(self.shape))
        self._last_x, self._last_value = x.copy(), float(value)
        return float(value) / self.unit, np.asarray(gradient, dtype=np.float64).ravel() / self.unit

    def after_iteration(self, x: NDArray[np.floating]) -> None:
        if not np.array_equal(x, self._last_x):  # the line search returned an earlier point
            self.scaled(x)
        self.curve.append(self._last_value)
        if self.verbose:
            n_iter = len(self.curve) - 1
            print(f"[{self.name}] iteration {n_iter}: {self.curve[-1]:.6g}", flush=True)
        if self.monitor is not None and self.monitor(x.reshape(self.shape).copy(), self.curve[-1]):
            self.stopped_at = x.copy()
            raise StopIteration


def warn_not_converged(name: str, max_iter: int) -> None:
    """Warn that a learner ran out of iterations.

    Parameters
    ----------
    name : str
        Name of the learner.
    max_iter : int
        The iterations it had.
    """
    warnings.warn(
        f"{name} did not converge in max_iter={max_iter} iterations. Increase max_iter or tol, or "
        "scale the columns of X alike (StandardScaler).",
        ConvergenceWarning,
        stacklevel=4,
    )
