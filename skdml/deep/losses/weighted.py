"""Losses over pairs that weigh the pairs of an anchor, or of the batch, against each other."""

import torch
from torch.nn import functional as F

from skdml.deep._pairwise import _full_precision, pairwise_distance
from skdml.deep.miners import as_number

from ._base import _Weighted, check_margin
from ._matrix import _FARTHEST, MatrixLoss, RowLoss, check_flag, check_positive, log_sum_exp
from .pair import ContrastiveLoss

# A row whose variance is a smaller share of the batch's largest is taken to have this share.
_LEAST_VARIANCE = 1e-6

_LARGEST = 1e15  # squares of larger terms, and their gradients, would overflow


def multi_similarity(near, distance, taken, different, alpha, beta, base):
    r"""Soft maximum of how far the positives of each row lie, and of how near the negatives.

    .. math:: \frac{1}{\alpha} \log \Bigl(1 + \sum_p e^{\alpha (d_{ip} - b)}\Bigr) +
        \frac{1}{\beta} \log \Bigl(1 + \sum_n e^{-\beta (d_{in} - b)}\Bigr)

    Parameters
    ----------
    near : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    taken : bool Tensor of shape (n, p)
        Which places of `near` hold a positive.
    different : bool Tensor of shape (n, m)
        Which of the distances are those of negatives.
    alpha, beta, base : float
        As in the formula.

    Returns
    -------
    Tensor of shape (n,)
        Losses.
    """
    far = log_sum_exp(near, taken, alpha) - alpha * base
    close = log_sum_exp(distance, different, -beta) + beta * base
    return F.softplus(far) / alpha + F.softplus(close) / beta


def circle(near, distance, taken, different, margin, scale):
    r"""Circle loss of each row, by distances.

    .. math:: \log \Bigl(1 + \sum_p e^{\gamma \alpha_p (d_{ip} - m)}
        \sum_n e^{\gamma \alpha_n (1 - m - d_{in})} \Bigr), \quad
        \alpha_p = [d_{ip} + m]_+, \; \alpha_n = [1 + m - d_{in}]_+

    The weights alpha are constants to the gradient, as in the paper.

    Parameters
    ----------
    near : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    taken : bool Tensor of shape (n, p)
        Which places of `near` hold a positive.
    different : bool Tensor of shape (n, m)
        Which of the distances are those of negatives; each row has both.
    margin, scale : float
        The relaxation m and the scale gamma.

    Returns
    -------
    Tensor of shape (n,)
        Losses.
    """
    far, close = near.detach() + margin, 1 + margin - distance.detach()
    pull = far.clamp_(0, _LARGEST).mul_(scale) * (near - margin)
    push = close.clamp_(0, _LARGEST).mul_(scale) * (1 - margin - distance)
    return F.softplus(log_sum_exp(pull, taken) + log_sum_exp(push, different))


def lifted(distance, positives, different, margin):
    r"""Terms of the lifted structure loss, one for each positive pair.

    .. math:: \max \Bigl(0, \log \Bigl( \sum_{n \in N(i)} e^{m - d_{in}} +
        \sum_{n \in N(j)} e^{m - d_{nj}} \Bigr) + d_{ij} \Bigr)

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances.
    positives : Positives
        Positive pairs.
    different : bool Tensor of shape (n, m)
        Negative pairs.
    margin : float
        The margin m.

    Returns
    -------
    row : int64 Tensor of shape (p,)
        The anchor of each positive pair.
    term : Tensor of shape (p,)
        The term of each positive pair.
    """
    row, column = positives.pairs()
    distance = distance.clamp(max=_LARGEST)
    near = torch.where(different, margin - distance, -_FARTHEST)
    either = torch.logaddexp(near.logsumexp(1)[row], near.logsumexp(0)[column])
    return row, (either + distance[row, column]).clamp(min=0)


def variance_excess(distance, mask, share, far):
    r"""Mean square of how far pairs lie beyond a share of their mean, and its gradient.

    .. math:: \operatorname{mean} \, [\pm (d_{ij} - s \mu)]_+^2, \quad
        \mu = \operatorname{mean} \, d_{ij}

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances.
    mask : Tensor of shape (n, m)
        1 for the pairs, else 0.
    share : float
        The share s.
    far : bool
        Whether pairs farther than that count, or nearer ones.

    Returns
    -------
    value : Tensor of shape ()
        The mean.
    slope : Tensor of shape (n, m)
        Its gradient.
    excess : Tensor of shape (n,)
        Sum over each row of the excess.
    """
    weight = 1 / mask.sum().clamp(min=1)
    # Weighted before they are summed, because a sum of huge distances may overflow.
    mean = torch.linalg.vecdot(distance * weight, mask).sum()
    sign = 1 if far else -1
    excess = (distance - share * mean).mul_(sign).clamp_(0, _LARGEST).mul_(mask)
    rows = excess.sum(1)
    value = weight * torch.linalg.vecdot(excess, excess).sum()
    slope = torch.lt(excess, _LARGEST, out=torch.empty_like(excess))  # what is cut has none
    slope.mul_(excess).mul_(2 * sign * weight)
    # The mean moves with every pair.
    return value, slope.addcmul_(mask, share * weight * slope.sum(), value=-1), rows


class MultiSimilarityLoss(RowLoss):
    r"""Multi-similarity loss: pairs weighted by themselves and by the other pairs of the anchor.

    .. math:: L = \operatorname{mean}_i \;
        \frac{1}{\alpha} \log \Bigl(1 + \sum_{p} e^{\alpha (d_{ip} - b)}\Bigr) +
        \frac{1}{\beta} \log \Bigl(1 + \sum_{n} e^{-\beta (d_{in} - b)}\Bigr)

    The mean is over the anchors with a positive. By cosine distance this is the loss of the paper,
    with b = 1 - lambda.

    Parameters
    ----------
    alpha, beta : float, default=2.0 and 50.0
        Sharpness for positive and for negative pairs; > 0.
    base : float, default=0.5
        Distance b that should part positives from negatives; > 0, and at most 2 for cosine and 1
        for angular distances.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Wang, Han, Huang, Dong, Scott: Multi-Similarity Loss with General Pair Weighting for Deep
    Metric Learning, CVPR 2019.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = MultiSimilarityLoss()(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-1)) / 2, and next to nothing
    0.1566
    """

    needs_different = False

    def __init__(self, alpha=2.0, beta=50.0, base=0.5, *, distance="cosine"):
        super().__init__(distance)
        self.alpha = check_positive("alpha", alpha)
        self.beta = check_positive("beta", beta)
        self.base = check_margin(base, distance, zero=False, name="base")

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return (
            f"alpha={self.alpha:g}, beta={self.beta:g}, base={self.base:g}, "
            f"distance={self.distance!r}"
        )

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, of shape (rows,)."""
        sharpness = self.alpha, self.beta, self.base
        return multi_similarity(near, distance, taken, different, *sharpness)


class CircleLoss(RowLoss):
    r"""Circle loss: each pair pulled or pushed the harder, the farther it is from its optimum.

    .. math:: L = \operatorname{mean}_i \; \log \Bigl(1 +
        \sum_p e^{\gamma [d_{ip} + m]_+ (d_{ip} - m)} \;
        \sum_n e^{\gamma [1 + m - d_{in}]_+ (1 - m - d_{in})} \Bigr)

    The factors :math:`[\cdot]_+` are weights, constants to the gradient, as in the paper. The
    mean is over the anchors with a positive and a negative. By cosine distance, d = 1 - s, this is
    the loss of the paper.

    Parameters
    ----------
    margin : float, default=0.4
        The relaxation m; > 0 and < 1. Positives should lie within m, negatives beyond 1 - m.
    scale : float, default=80.0
        The scale gamma; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Sun, Cheng, Zhang, Zhang, Zheng, Wang, Wei: Circle Loss: A Unified Perspective of Pair
    Similarity Optimization, CVPR 2020, section 3.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = CircleLoss(margin=0.5, scale=2.0)(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-0.5) exp(-0.5))
    0.3133
    """

    def __init__(self, margin=0.4, scale=80.0, *, distance="cosine"):
        super().__init__(distance)
        self.margin = check_positive("margin", margin, below=1)
        self.scale = check_positive("scale", scale)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"margin={self.margin:g}, scale={self.scale:g}, distance={self.distance!r}"

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, of shape (rows,)."""
        return circle(near, distance, taken, different, self.margin, self.scale)


class LiftedStructureLoss(RowLoss):
    r"""Lifted structure loss: positives against a soft minimum over the negatives.

    The original form is over positive pairs, each against the negatives of both its points:

    .. math:: L = \frac{1}{2 |P|} \sum_{(i, j) \in P} \max \Bigl(0, \log \Bigl(
        \sum_{n \in N(i)} e^{m - d_{in}} + \sum_{n \in N(j)} e^{m - d_{nj}} \Bigr) + d_{ij}
        \Bigr)^2

    The smooth, generalised form takes a soft maximum over the positives as well:

    .. math:: L = \operatorname{mean}_i \max \Bigl(0, \log \sum_p e^{d_{ip}} +
        \log \sum_n e^{m - d_{in}} \Bigr)

    whose mean is over the anchors with a positive and a negative. Time and memory are O(B^2) for
    both. With references, the negatives of a reference are the embeddings of other classes.

    Parameters
    ----------
    margin : float, default=1.0
        The margin m; >= 0, and at most 2 for cosine and 1 for angular distances.
    smooth : bool, default=False
        Whether to take the generalised form.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Song, Xiang, Jegelka, Savarese: Deep Metric Learning via Lifted Structured Feature Embedding,
    CVPR 2016, eq. 4.
    Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017
    (generalised).

    Examples
    --------
    >>> import torch
    >>> x, labels = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([0, 0, 1])
    >>> round(LiftedStructureLoss()(x, labels).item(), 4)  # log(2)^2 / 2
    0.2402
    >>> LiftedStructureLoss(margin=1.5, smooth=True)(x, labels).item()
    0.5
    """

    def __init__(self, margin=1.0, *, smooth=False, distance="euclidean"):
        super().__init__(distance)
        self.margin = check_margin(margin, distance, zero=True)
        self.smooth = check_flag("smooth", smooth)
        # In the original form an anchor without positives still is a negative of references.
        self.needs_same = self.needs_different = self.smooth

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"margin={self.margin:g}, smooth={self.smooth}, distance={self.distance!r}"

    def rows(self, near, distance, taken, different):
        """Losses of some anchors in the smooth form, of shape (rows,)."""
        apart = self.margin + log_sum_exp(distance, different, -1.0)
        return (log_sum_exp(near, taken) + apart).clamp(min=0)

    def compute(self, distance, positives, different):
        """Mean over anchors, or over positive pairs."""
        if self.smooth:
            return super().compute(distance, positives, different)
        row, term = lifted(distance, positives, different, self.margin)
        return term.square().sum() / (2 * max(1, len(term))), len(row[term > 0].unique())


class IntraPairVarianceLoss(MatrixLoss):
    r"""Intra-pair variance: no positive much farther, no negative much nearer than their means.

    .. math:: L = \operatorname{mean}_{P} [d_{ij} - (1 + \epsilon_p) \mu_P]_+^2 +
        \operatorname{mean}_{N} [(1 - \epsilon_n) \mu_N - d_{ij}]_+^2

    with the means mu of the distances of all positive and of all negative pairs. It says nothing
    about the means themselves and is meant to be added to a loss that does. The paper says the
    same of cosines.

    Parameters
    ----------
    pos_eps, neg_eps : float, default=0.01
        Deviations that are free, as a share of the mean; >= 0 and < 1.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Yu, Tao: Deep Metric Learning with Tuplet Margin Loss, ICCV 2019 (intra-pair variance).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [10.0], [13.0]])
    >>> loss = IntraPairVarianceLoss(0.0, 0.5, distance="euclidean")
    >>> loss(x, torch.tensor([0, 0, 1, 1])).item()  # distances 1 and 3, of mean 2
    0.5
    """

    needs_same = needs_different = False

    def __init__(self, pos_eps=0.01, neg_eps=0.01, *, distance="cosine"):
        super().__init__(distance)
        self.pos_eps = check_positive("pos_eps", pos_eps, zero=True, below=1)
        self.neg_eps = check_positive("neg_eps", neg_eps, zero=True, below=1)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"pos_eps={self.pos_eps:g}, neg_eps={self.neg_eps:g}, distance={self.distance!r}"

    def compute(self, distance, positives, different):
        """Sum of the two means, and the number of anchors with a loss."""
        with torch.no_grad():
            near = distance.gather(1, positives.index)
            kept, lost = (as_number(m, distance.dtype) for m in (positives.taken, different))
            far = variance_excess(near, kept, 1 + self.pos_eps, far=True)
            close = variance_excess(distance, lost, 1 - self.neg_eps, far=False)
            weights = close[1].scatter_add_(1, positives.index, far[1])
            active = far[2] + close[2] > 0
        return _Weighted.apply(distance, weights, far[0] + close[0]), active.sum()


class SignalToNoiseRatioContrastiveLoss(MatrixLoss):
    r"""Contrastive loss by the signal-to-noise distance.

    .. math:: d_{ij} = \frac{\operatorname{var}(x_j - x_i)}{\operatorname{var}(x_i)}, \quad
        \ell(i, j) = z_{ij} \, d_{ij} + (1 - z_{ij}) \max(0, m - d_{ij})

    The variances are over the features of a row. The distance is not symmetric: the anchor is the
    signal. It does not see the mean of a row, so the paper's regulariser, which pulls that mean
    to zero, is left out. As in `ContrastiveLoss`, each kind of pairs is reduced on its own.

    Parameters
    ----------
    margin : float, default=1.0
        Distance from which on negative pairs cost nothing; > 0.
    reduction : {"active", "mean", "sum"}, default="active"
        Mean over the pairs with a loss > 0, mean over all pairs, or sum, for each kind.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the negative pairs with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Yuan, Deng, Tang, Tang, Chen: Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric
    Learning, CVPR 2019.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, -1.0], [2.0, -2.0], [0.5, -0.5]])
    >>> loss = SignalToNoiseRatioContrastiveLoss()
    >>> loss(x, torch.tensor([0, 0, 1])).item()  # (1 + 1/4) / 2 + (3/4 + 7/16) / 2
    1.21875
    """

    needs_same = needs_different = False

    def __init__(self, margin=1.0, *, reduction="active"):
        super().__init__("sqeuclidean")
        self.pairs = ContrastiveLoss(margin, distance="sqeuclidean", reduction=reduction)
        self.margin, self.reduction = self.pairs.margin, reduction

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"margin={self.margin:g}, reduction={self.reduction!r}"

    def measure(self, embeddings, labels, ref_emb):
        """Signal-to-noise distances."""
        given = [embeddings] if ref_emb is None else [embeddings, ref_emb]
        centred = [x - x.mean(1, keepdim=True) for x in _full_precision(*given)]
        # The ratio does not change with the scale, and squares of huge rows overflow.
        peak = max((x.detach().abs().max() for x in centred if x.numel()), default=1.0)
        centred = [x / (peak if peak > 0 else 1.0) for x in centred]
        power = centred[0].square().sum(1, keepdim=True)
        least = _LEAST_VARIANCE * power.detach().max() if power.numel() else 0.0
        power = power.clamp(min=least)
        distance = pairwise_distance(*centred, distance="sqeuclidean")
        return distance / torch.where(power > 0, power, 1)

    def compute(self, distance, positives, different):
        """Contrastive loss of the distances, and how many negatives have one."""
        with torch.no_grad():
            value, weights, active, used = self.pairs.compute_dense(distance, positives, different)
        value = _Weighted.apply(distance, weights, value)
        return value, len(distance) * active / used.clamp(min=1)
