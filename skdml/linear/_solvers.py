"""How the objectives of the linear learners are minimised; the one place that warns of no end."""

import warnings
from contextlib import nullcontext

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from skdml._threads import one_thread

# Up to so many entries of L products are small enough for one thread: handing them out to several
# takes longer than they do.
_SMALL = 2**14

# How many past steps L-BFGS remembers. More than the usual 10 saves evaluations, which cost far
# more here than the memory of L.
_MEMORY = 20


def minimize_lbfgs(objective, start, *, max_iter, tol, name, bounds=None, monitor=None, verbose=0):
    """Minimise a smooth function of an array by L-BFGS.

    Iteration ends when the objective falls by less than `tol` of its scale, or the largest entry
    of the gradient is below `tol` of what it was at the start.

    Parameters
    ----------
    objective : callable
        ``objective(L)`` -> (value, gradient), a float and an array of the shape of `start`.
    start : ndarray
        Where to begin, of any shape.
    max_iter : int
        Iterations at most. Where they do not suffice a ConvergenceWarning says so.
    tol : float
        Relative tolerance, >= 0.
    name : str
        Of the learner, for messages.
    bounds : sequence of (low, high), default=None
        Of each entry of the flattened array.
    monitor : callable, default=None
        Called ``monitor(L, value)`` after each iteration, with a copy of L; it ends the search,
        without a warning, by returning True.
    verbose : int, default=0
        1 prints a line for each iteration.

    Returns
    -------
    L : ndarray
        The best array seen, float64.
    loss_curve : ndarray of float64, shape (n_iter + 1,)
        The objective at the start and after each iteration; it never rises.
    n_iter : int
        Number of iterations.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` iterations did not suffice.

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
    value, gradient = objective(start)
    # scipy's tolerances are partly absolute: in units of the start they are relative.
    unit = abs(float(value)) or 1.0
    steepest = float(abs(gradient).max(initial=0)) / unit
    curve, last = [float(value)], {}

    def scaled(x):
        value, gradient = objective(x.reshape(start.shape))
        last["x"], last["value"] = x.copy(), float(value)
        return float(value) / unit, np.asarray(gradient, dtype=np.float64).ravel() / unit

    def after_iteration(x):
        if not np.array_equal(x, last["x"]):  # the line search ended on an earlier point
            scaled(x)
        curve.append(last["value"])
        if verbose:
            print(f"[{name}] iteration {len(curve) - 1}: {curve[-1]:.6g}", flush=True)
        if monitor is not None and monitor(x.reshape(start.shape).copy(), curve[-1]):
            stopped.append(x.copy())
            raise StopIteration

    stopped = []
    options = {"maxiter": max_iter, "maxfun": 20 * max_iter, "maxcor": _MEMORY}
    options |= {"ftol": tol, "gtol": tol * steepest}
    try:
        with one_thread("blas") if start.size <= _SMALL else nullcontext():
            found = minimize(
                scaled,
                start.ravel(),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                callback=after_iteration,
                options=options,
            )
        x, ended = found.x, found.status != 1
    except StopIteration:  # older versions of scipy let it through
        x, ended = stopped[-1], True
    if not (ended or stopped):
        warn_not_converged(name, max_iter)
    if len(curve) == 1:
        curve.append(curve[0])  # it took one iteration to see that the start is the minimum
    return x.reshape(start.shape), np.array(curve), len(curve) - 1


def warn_not_converged(name, max_iter):
    """Warn that a learner ran out of iterations.

    Parameters
    ----------
    name : str
        Of the learner.
    max_iter : int
        The iterations it had.
    """
    warnings.warn(
        f"{name} did not converge in max_iter={max_iter} iterations. Give it more, a larger tol, "
        "or data on a like scale (StandardScaler).",
        ConvergenceWarning,
        stacklevel=4,
    )
