"""Losses without classes: CoSENT for graded similarity, VICReg for two views."""

import torch
from torch.nn import functional as F

from skdml.deep._pairwise import _full_precision, pairwise_distance
from skdml.distances import check_distance

from ._base import _Weighted
from ._matrix import _FARTHEST, check_positive, check_views, logits, sum_of_rows

_LARGEST = 1e8  # fourth powers of larger entries would overflow


def target_distance(x, y):
    r"""Distances of graded targets: Manhattan for numbers, Jaccard for sets of labels.

    .. math:: \sum_k |x_k - y_k|, \quad 1 - \frac{|x \cap y|}{|x \cup y|}

    Parameters
    ----------
    x : Tensor of shape (n,) or (n, k)
        Numbers; or sets, rows of bool. Two empty sets are alike.
    y : Tensor of shape (m,) or (m, k)
        As x.

    Returns
    -------
    Tensor of float64, shape (n, m)
        Distances.

    Examples
    --------
    >>> import torch
    >>> sets = torch.tensor([[True, True, False], [True, False, True]])
    >>> target_distance(sets, sets)  # one label of three in common
    tensor([[0.0000, 0.6667],
            [0.6667, 0.0000]], dtype=torch.float64)
    """
    sets = x.dtype == y.dtype == torch.bool
    x, y = ((z if z.dim() == 2 else z[:, None]).double() for z in (x, y))
    if not sets:
        return torch.cdist(x, y, p=1)
    common = x @ y.T
    either = x.sum(1, keepdim=True) + y.sum(1) - common
    return 1 - torch.where(either > 0, common, 1) / either.clamp(min=1)


def cosent(logit, target, used):
    r"""Softplus of how much nearer the less alike lie than the more alike, for each row.

    .. math:: \log \Bigl( 1 + \sum_{t_{ij} < t_{ik}} e^{s_{ik} - s_{ij}} \Bigr)

    The points of a row are sorted by their target; the sum over the k of each j is then the end of
    a cumulative sum, so no triplet is listed.

    Parameters
    ----------
    logit : Tensor of shape (n, m)
        Logits s, larger for nearer points.
    target : Tensor of shape (n, m)
        Target distances t.
    used : bool Tensor of shape (n, m)
        Which points each row has.

    Returns
    -------
    Tensor of shape (n,)
        Losses.
    """
    # What is not used is as far as can be from its row in the target, so no other has it behind.
    target, order = torch.where(used, target, torch.inf).sort(1)
    logit = logit.gather(1, order)
    used = used.gather(1, order)
    behind = torch.where(used, logit, -_FARTHEST).flip(1).logcumsumexp(1).flip(1)
    behind = F.pad(behind, (0, 1), value=-_FARTHEST)
    first = torch.searchsorted(target, target, right=True)  # ties are not behind each other
    worse = torch.where(used, behind.gather(1, first) - logit, -_FARTHEST)
    return F.softplus(worse.clamp(-_FARTHEST, _FARTHEST).logsumexp(1))


class CoSENTLoss(torch.nn.Module):
    r"""CoSENT: of two points, the one more alike to the anchor by its target lies nearer.

    .. math:: L = \operatorname{mean}_i \; \log \Bigl( 1 + \sum_{j, k: t_{ij} < t_{ik}}
        e^{(d_{ij} - d_{ik}) / \tau} \Bigr)

    For targets that are graded, and not just classes. The distance t of two targets is that of
    Manhattan for numbers (an age, a rating), and that of Jaccard for bool rows (several labels at
    once), the share of the labels of either that only one has. Only the order of the t counts, and
    ties ask for nothing. The paper compares all pairs with all pairs; here pairs of one anchor are
    compared, as rankings are read. Time is O(B^2 log B), memory O(B^2).

    Parameters
    ----------
    temperature : float, default=0.05
        The temperature tau; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Huang, Peng, Zou, Liu, Li, Liu, Wu, Su, Yu: CoSENT: Consistent Sentence Embedding via
    Similarity Ranking, IEEE/ACM Transactions on Audio, Speech and Language Processing, 2024.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [2.0], [1.0]])
    >>> loss = CoSENTLoss(temperature=1.0, distance="euclidean")
    >>> age = torch.tensor([20.0, 21.0, 60.0])
    >>> round(loss(x, age).item(), 4)  # log(1 + e), log(1 + e) and log(2)
    1.1066
    """

    learns_from = "targets"

    def __init__(self, temperature=0.05, *, distance="cosine"):
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.distance = check_distance(distance)
        self.active_share = torch.tensor(0.0)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"temperature={self.temperature:g}, distance={self.distance!r}"

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors, floating point; without references all pairs are inside the batch.
        labels : Tensor of shape (n,) or (n, k)
            Targets: numbers, or sets of labels as rows of bool.
        indices_tuple : None
            Part of the call that all losses share; there must be none.
        ref_emb : Tensor of shape (m, d), optional
            References.
        ref_labels : Tensor of shape (m,) or (m, k), optional
            Targets of the references.

        Returns
        -------
        Tensor of shape ()
            The loss, >= 0; float64 for float64 embeddings, else float32. Where all targets are
            equal it is zero, with a gradient of zero.

        Raises
        ------
        ValueError
            If indices are given, or shapes do not fit.
        """
        if indices_tuple is not None:
            raise ValueError("targets say all there is to say; indices_tuple must be None")
        if (ref_emb is None) != (ref_labels is None):
            raise ValueError("ref_emb and ref_labels must be given together; got only one")
        targets = [
            self._check(x, y)
            for x, y in ((embeddings, labels), (ref_emb, ref_labels))
            if x is not None
        ]
        with torch.autocast(embeddings.device.type, enabled=False):
            matrix = pairwise_distance(embeddings, ref_emb, self.distance)
            target = target_distance(targets[0], targets[-1])
            used = torch.ones_like(target, dtype=torch.bool)
            if ref_emb is None:
                used.fill_diagonal_(False)

            def rows(distance, target, used):
                return cosent(logits(distance, self.temperature), target, used)

            total, active, slopes = sum_of_rows(rows, (matrix,), (target, used))
            if slopes:
                total = _Weighted.apply(matrix, slopes[0], total)
        self.active_share = (active / max(1, len(embeddings))).to(total.dtype)
        return total / max(1, len(embeddings))

    @staticmethod
    def _check(x, y):
        if not isinstance(y, torch.Tensor) or y.dim() not in (1, 2) or len(y) != len(x):
            raise ValueError(
                f"targets must be a tensor of {len(x)} numbers, or rows of numbers; "
                f"got {tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__}"
            )
        return y.to(x.device)


class VICRegLoss(torch.nn.Module):
    r"""VICReg: two views of a thing alike, each feature spread out, and no two features alike.

    .. math:: L = \lambda \, \frac{1}{n d} \lVert Z - Z' \rVert_F^2 + \mu \, [v(Z) + v(Z')] +
        \nu \, [c(Z) + c(Z')]

        v(Z) = \frac{1}{d} \sum_j \max \bigl(0, 1 - \sqrt{\operatorname{var}(z_j) + \epsilon}\bigr),
        \quad c(Z) = \frac{1}{d} \sum_{i \ne j} \operatorname{cov}(Z)_{ij}^2

    Row i of the embeddings and row i of the references are views of one thing, in units of `std`. No
    labels and no negatives are needed. Time is O(n d^2).

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
