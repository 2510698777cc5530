"""Losses that are a softmax over the batch: NT-Xent, SupCon, NCA and InfoNCE."""

from functools import partial

import torch
from torch.nn import functional as F

from skdml.deep._pairwise import pairwise_distance
from skdml.deep.miners import as_number
from skdml.distances import check_distance

from ._base import _Weighted
from ._matrix import (
    _FARTHEST,
    RowLoss,
    check_flag,
    check_positive,
    check_views,
    exponentials,
    logits,
    sum_of_rows,
)


def slope_of_logits(logit, temperature):
    """Gradient of -d / temperature by d; none where it was cut."""
    return (logit.abs() < _FARTHEST).to(logit.dtype).mul_(-1 / temperature)


@torch.no_grad()
def nt_xent(near, distance, taken, different, temperature):
    r"""Sum over the positives of each row of the cross-entropy against all negatives.

    .. math:: \sum_{p} -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n} e^{s_{in}}}
        = \sum_{p} \operatorname{softplus}\Bigl(\log \sum_{n} e^{s_{in}} - s_{ip}\Bigr), \quad
        s_{ij} = -d_{ij} / \tau

    Parameters
    ----------
    near : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    taken : bool Tensor of shape (n, p)
        Which places of `near` hold a positive.
    different : bool Tensor of shape (n, m)
        Which of the distances are those of negatives; each row has both kinds.
    temperature : float
        The temperature tau.

    Returns
    -------
    losses : Tensor of shape (n,)
        The sums.
    of_near, of_distance : Tensors of shape (n, p) and (n, m)
        Their gradient.
    """
    share, scale, negatives = exponentials(distance, different, -1 / temperature)
    logit, taken = logits(near, temperature), as_number(taken, near.dtype)
    gap = negatives[:, None] - logit
    odds = gap.sigmoid().mul_(taken)
    losses = torch.linalg.vecdot(F.softplus(gap), taken)
    of_distance = share.mul_((odds.sum(1) * scale)[:, None])
    return losses, odds.mul_(slope_of_logits(logit, -temperature)), of_distance


@torch.no_grad()
def sup_con(near, distance, taken, different, temperature):
    r"""Mean over the positives of each row of the cross-entropy against all others.

    .. math:: \frac{1}{|P(i)|} \sum_{p \in P(i)}
        -\log \frac{e^{s_{ip}}}{\sum_{a \ne i} e^{s_{ia}}}, \quad s_{ij} = -d_{ij} / \tau

    Parameters
    ----------
    near, distance, taken, different, temperature
        As in `nt_xent`; a row may have no negative.

    Returns
    -------
    losses : Tensor of shape (n,)
        The means.
    of_near, of_distance : Tensors of shape (n, p) and (n, m)
        Their gradient.
    """
    of_near, near_scale, positives = exponentials(near, taken, -1 / temperature)
    of_distance, scale, negatives = exponentials(distance, different, -1 / temperature)
    total = torch.logaddexp(positives, negatives)
    logit, weight = logits(near, temperature), as_number(taken, near.dtype)
    weight /= weight.sum(1, keepdim=True)
    losses = total - torch.linalg.vecdot(logit, weight)
    of_near.mul_((near_scale * (positives - total).exp_())[:, None])
    of_near.sub_(weight.mul_(slope_of_logits(logit, temperature)))
    return losses, of_near, of_distance.mul_((scale * (negatives - total).exp_())[:, None])


@torch.no_grad()
def nca(near, distance, taken, different, temperature):
    r"""Negative log probability that a neighbour of each row, drawn by softmax, is a positive.

    .. math:: -\log \frac{\sum_{p \in P(i)} e^{s_{ip}}}{\sum_{a \ne i} e^{s_{ia}}}
        = \operatorname{softplus} \Bigl( \log \sum_n e^{s_{in}} - \log \sum_p e^{s_{ip}} \Bigr),
        \quad s_{ij} = -d_{ij} / \tau

    Parameters
    ----------
    near, distance, taken, different, temperature
        As in `nt_xent`; a row may have no negative.

    Returns
    -------
    losses : Tensor of shape (n,)
        The negative logarithms.
    of_near, of_distance : Tensors of shape (n, p) and (n, m)
        Their gradient.
    """
    of_near, near_scale, positives = exponentials(near, taken, -1 / temperature)
    of_distance, scale, negatives = exponentials(distance, different, -1 / temperature)
    gap = negatives - positives
    odds = gap.sigmoid()
    of_near.mul_((near_scale * -odds)[:, None])
    return F.softplus(gap), of_near, of_distance.mul_((scale * odds)[:, None])


class _SoftmaxLoss(RowLoss):
    def __init__(self, temperature, distance):
        super().__init__(distance)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"temperature={self.temperature:g}, distance={self.distance!r}"


class NTXentLoss(_SoftmaxLoss):
    r"""Normalised temperature-scaled cross-entropy: each positive against all negatives.

    .. math:: L = \frac{1}{|P|} \sum_{(i, p) \in P} -\log
        \frac{e^{-d_{ip} / \tau}}{e^{-d_{ip} / \tau} + \sum_{n: y_n \ne y_i} e^{-d_{in} / \tau}}

    P are the positive pairs whose anchor has a negative. By cosine distance this is the loss of
    the paper, because 1 - d is the cosine. Other positives of the anchor are in no denominator.
    Time and memory are O(B^2).

    Parameters
    ----------
    temperature : float, default=0.07
        The temperature tau; > 0.
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

    See Also
    --------
    SupConLoss : Other positives are in the denominator too.

    References
    ----------
    Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016.
    Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual
    Representations, ICML 2020, eq. 1.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = NTXentLoss(temperature=1.0)(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    def __init__(self, temperature=0.07, *, distance="cosine"):
        super().__init__(temperature, distance)

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, and their slopes."""
        return nt_xent(near, distance, taken, different, self.temperature)

    def count(self, positives):
        """Divide the sum by the number of positive pairs."""
        return int(positives.count.sum())


class SupConLoss(_SoftmaxLoss):
    r"""Supervised contrastive loss: the positives of an anchor against all other points.

    .. math:: L = \operatorname{mean}_i \; \frac{1}{|P(i)|} \sum_{p \in P(i)} -\log
        \frac{e^{-d_{ip} / \tau}}{\sum_{a \ne i} e^{-d_{ia} / \tau}}

    The mean is over the anchors with a positive. By cosine distance this is the loss of the paper.

    Parameters
    ----------
    temperature : float, default=0.1
        The temperature tau; > 0.
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
    Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan: Supervised Contrastive
    Learning, NeurIPS 2020, eq. 2 ("out").

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = SupConLoss(temperature=1.0)(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    needs_different = False

    def __init__(self, temperature=0.1, *, distance="cosine"):
        super().__init__(temperature, distance)

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, and their slopes."""
        return sup_con(near, distance, taken, different, self.temperature)


class NCALoss(_SoftmaxLoss):
    r"""Neighbourhood component analysis: a neighbour drawn by softmax is of the same class.

    .. math:: L = \operatorname{mean}_i \; -\log
        \frac{\sum_{p \in P(i)} e^{-d_{ip} / \tau}}{\sum_{a \ne i} e^{-d_{ia} / \tau}}

    The mean is over the anchors with a positive.

    Parameters
    ----------
    temperature : float, default=1.0
        The temperature tau; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings; default "sqeuclidean", that of the paper.

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
    Goldberger, Roweis, Hinton, Salakhutdinov: Neighbourhood Components Analysis, NIPS 2004,
    section 2: the objective with the logarithm.

    Examples
    --------
    >>> import torch
    >>> loss = NCALoss()(torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    needs_different = False

    def __init__(self, temperature=1.0, *, distance="sqeuclidean"):
        super().__init__(temperature, distance)

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, and their slopes."""
        return nca(near, distance, taken, different, self.temperature)


class InfoNCELoss(torch.nn.Module):
    r"""InfoNCE for given pairs: row i of the embeddings belongs to row i of the references.

    .. math:: L = \frac{1}{n} \sum_i -\log \frac{e^{-d_{ii} / \tau}}{\sum_j e^{-d_{ij} / \tau}}

    Two views of one thing, a question and its answer, an image and its caption: no labels are
    needed. All other references are negatives.

    Parameters
    ----------
    temperature : float, default=0.07
        The temperature tau; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings and references.
    symmetric : bool, default=True
        The mean of both directions: references find their embeddings, too.

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
    van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, 2018,
    eq. 4.
    Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML
    2021, figure 3 (symmetric).

    Examples
    --------
    >>> import torch
    >>> x, y = torch.eye(2), torch.eye(2)
    >>> round(InfoNCELoss(temperature=1.0)(x, ref_emb=y).item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    learns_from = "views"

    def __init__(self, temperature=0.07, *, distance="cosine", symmetric=True):
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.distance = check_distance(distance)
        self.symmetric = check_flag("symmetric", symmetric)
        self.active_share = torch.tensor(0.0)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return (
            f"temperature={self.temperature:g}, distance={self.distance!r}, "
            f"symmetric={self.symmetric}"
        )

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of a batch of pairs.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            One side of the pairs, floating point.
        labels, indices_tuple, ref_labels : None
            Part of the call that all losses share; labels are not read, and there must be no
            indices, because the pairs are given by the rows.
        ref_emb : Tensor of shape (n, d)
            The other side of the pairs.

        Returns
        -------
        Tensor of shape ()
            The loss, >= 0; float64 for float64 embeddings, else float32.

        Raises
        ------
        ValueError
            If the two sides differ in shape, or indices are given.
        """
        check_views(embeddings, indices_tuple, ref_emb)
        with torch.autocast(embeddings.device.type, enabled=False):
            distance = pairwise_distance(embeddings, ref_emb, self.distance)
            value, active = self._one_way(distance)
            if self.symmetric:
                value = (value + self._one_way(distance.T)[0]) / 2
        self.active_share = (active / max(1, len(embeddings))).to(value.dtype)
        return value

    def _one_way(self, distance):
        n = len(distance)
        different = ~torch.eye(n, dtype=torch.bool, device=distance.device)
        total, active, slopes = sum_of_rows(
            partial(nca, temperature=self.temperature),
            (distance.diagonal()[:, None], distance),
            (torch.ones_like(different[:, :1]), different),
        )
        if slopes:
            own, weights = slopes
            weights.diagonal().add_(own[:, 0])
            total = _Weighted.apply(distance, weights, total)
        return total / max(1, n), active
