"""VICReg: variance, invariance and covariance of two views."""

import torch
from torch import Tensor

from skdml.deep._distances import full_precision
from skdml.deep.losses._checks import check_positive, check_views

_LARGEST_ENTRY = 1e8  # the fourth powers of larger entries would overflow


def variance_and_covariance(view: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return v(Z) and d c(Z) of :class:`VICRegLoss` for a view Z of shape (n, d)."""
    view = view - view.mean(0)
    covariance = view.T @ view / (len(view) - 1)
    variance = covariance.diagonal()
    std = (variance + eps).sqrt()
    off_diagonal = covariance - torch.diag(variance)
    return (1 - std).clamp(min=0).mean(), off_diagonal.square().sum()


class VICRegLoss(torch.nn.Module):
    r"""VICReg: two views are similar, each feature varies, and no two features are correlated.

    .. math:: L = \lambda \, \frac{1}{n d} \lVert Z - Z' \rVert_F^2 + \mu \, [v(Z) + v(Z')] +
        \nu \, [c(Z) + c(Z')]

        v(Z) = \frac{1}{d} \sum_j \max \bigl(0, 1 - \sqrt{\operatorname{var}(z_j) + \epsilon}\bigr),
        \quad c(Z) = \frac{1}{d} \sum_{i \ne j} \operatorname{cov}(Z)_{ij}^2

    Row i of the embeddings and row i of the references are two views of one thing. Z and Z' are
    the two sides, divided by `std`. The loss needs no labels and no negatives. It takes O(n d^2)
    time.

    Unlike the paper (eq. 5), the squared distance of two views is also divided by d, as in the code
    of its authors. The weights then do not depend on the width of the embedding.

    Parameters
    ----------
    invariance, variance, covariance : float, default=25.0, 25.0 and 1.0
        The weights lambda, mu and nu, >= 0.
    std : float or None, default=1.0
        The standard deviation that each feature should have, > 0. None means 1 / sqrt(2 d);
        the root mean square distance of two points is then 1.
    eps : float, default=1e-4
        Keeps the gradient of the square root finite, > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range. The message states the allowed values.

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

    def __init__(
        self,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        *,
        std: float | None = 1.0,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        self.invariance = check_positive("invariance", invariance, zero=True)
        self.variance = check_positive("variance", variance, zero=True)
        self.covariance = check_positive("covariance", covariance, zero=True)
        self.std = None if std is None else check_positive("std", std)
        self.eps = check_positive("eps", eps)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return (
            f"invariance={self.invariance:g}, variance={self.variance:g}, "
            f"covariance={self.covariance:g}, std={self.std}, eps={self.eps:g}"
        )

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of two views.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            One view, floating point.
        labels, ref_labels : ignored
            Not used. Accepted, because all losses have the same call.
        indices_tuple : None
            Must be None, because the rows define the pairs.
        ref_emb : Tensor of shape (n, d)
            The other view.

        Returns
        -------
        Tensor of shape ()
            The loss, >= 0; float64 for float64 embeddings, float32 otherwise. Fewer than two rows
            have no variance; the loss and its gradient are then zero.

        Raises
        ------
        ValueError
            If the views differ in shape, or indices are given.
        """
        ref_emb = check_views(embeddings, indices_tuple, ref_emb)
        x, y = full_precision(embeddings, ref_emb)
        std = (2 * max(1, x.shape[1])) ** -0.5 if self.std is None else self.std
        x, y = ((z / std).clamp(-_LARGEST_ENTRY, _LARGEST_ENTRY) for z in (x, y))
        if len(x) < 2:
            return 0 * (x.sum() + y.sum())
        with torch.autocast(x.device.type, enabled=False):
            value = self.invariance * (x - y).square().mean()
            for view in (x, y):
                variance, covariance = variance_and_covariance(view, self.eps)
                value = value + self.variance * variance
                value = value + self.covariance * covariance / view.shape[1]
        return value
