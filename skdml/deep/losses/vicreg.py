"""VICReg: variance, invariance and covariance of two views."""

import torch

from skdml.deep._distances import _full_precision
from skdml.deep.losses._checks import check_positive, check_views

_LARGEST = 1e8  # fourth powers of larger entries would overflow


class VICRegLoss(torch.nn.Module):
    r"""VICReg: two views of a thing alike, each feature spread out, and no two features alike.

    .. math:: L = \lambda \, \frac{1}{n d} \lVert Z - Z' \rVert_F^2 + \mu \, [v(Z) + v(Z')] +
        \nu \, [c(Z) + c(Z')]

        v(Z) = \frac{1}{d} \sum_j \max \bigl(0, 1 - \sqrt{\operatorname{var}(z_j) + \epsilon}\bigr),
        \quad c(Z) = \frac{1}{d} \sum_{i \ne j} \operatorname{cov}(Z)_{ij}^2

    Row i of the embeddings and row i of the references are views of one thing, in units of `std`.
    No labels and no negatives are needed. Time is O(n d^2).

    Parameters
    ----------
    invariance, variance, covariance : float, default=25.0, 25.0 and 1.0
        The weights lambda, mu and nu; >= 0.
    std : float or None, default=1.0
        The standard deviation that each feature is to have, by which Z and Z' are divided; > 0.
        None is 1 / sqrt(2 d), with which two points lie 1 apart (root mean square).
    eps : float, default=1e-4
        Keeps the root's slope finite; > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Bardes, Ponce, LeCun: VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
    Learning, ICLR 2022, eqs. 1 to 6.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]])
    >>> VICRegLoss()(x, ref_emb=x).item(), round(VICRegLoss()(0 * x, ref_emb=0 * x).item(), 2)
    (0.0, 49.5)
    """

    learns_from = "views"

    def __init__(self, invariance=25.0, variance=25.0, covariance=1.0, *, std=1.0, eps=1e-4):
        super().__init__()
        self.invariance = check_positive("invariance", invariance, zero=True)
        self.variance = check_positive("variance", variance, zero=True)
        self.covariance = check_positive("covariance", covariance, zero=True)
        self.std = None if std is None else check_positive("std", std)
        self.eps = check_positive("eps", eps)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return (
            f"invariance={self.invariance:g}, variance={self.variance:g}, "
            f"covariance={self.covariance:g}, std={self.std}, eps={self.eps:g}"
        )

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of two views.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            One view, floating point.
        labels, indices_tuple, ref_labels : None
            Part of the call that all losses share; labels are not read.
        ref_emb : Tensor of shape (n, d)
            The other view.

        Returns
        -------
        Tensor of shape ()
            The loss, >= 0; float64 for float64 embeddings, else float32. With fewer than two rows,
            which have no variance, it is zero, with a gradient of zero.

        Raises
        ------
        ValueError
            If the views differ in shape, or indices are given.
        """
        check_views(embeddings, indices_tuple, ref_emb)
        x, y = _full_precision(embeddings, ref_emb)
        std = (2 * max(1, x.shape[1])) ** -0.5 if self.std is None else self.std
        x, y = ((z / std).clamp(-_LARGEST, _LARGEST) for z in (x, y))
        if len(x) < 2:
            return 0 * (x.sum() + y.sum())
        with torch.autocast(x.device.type, enabled=False):
            value = self.invariance * (x - y).square().mean()
            for view in (x, y):
                view = view - view.mean(0)
                covariance = view.T @ view / (len(view) - 1)
                variance = covariance.diagonal()
                spread = (variance + self.eps).sqrt()
                value = value + self.variance * (1 - spread).clamp(min=0).mean()
                apart = covariance - torch.diag(variance)
                value = value + self.covariance * apart.square().sum() / len(variance)
        return value
