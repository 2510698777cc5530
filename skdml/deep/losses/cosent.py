"""Losses without classes: CoSENT for graded similarity, VICReg for two views."""

import torch
from torch.nn import functional as F

from skdml.deep._distances import pairwise_distance
from skdml.deep.losses._base import _Weighted
from skdml.deep.losses._batch import sum_of_rows
from skdml.deep.losses._checks import check_flag, check_positive
from skdml.deep.losses._exponentials import _FARTHEST
from skdml.distances import check_distance

# Logits so far apart have exponentials, and sums of them, that the numbers can hold.
_WIDEST = {torch.float32: 150.0, torch.float64: 600.0}


_COPIES = 2  # numbers worked on for each distance


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


def different_rows(x):
    """Return the different rows of x, and which of them each row of x is."""
    if x.dim() == 2 and x.shape[1] == 1:
        x = x[:, 0]
    return x.unique(return_inverse=True) if x.dim() == 1 else x.unique(dim=0, return_inverse=True)


def ranks(distance):
    """Rank of each number in its row, from 0; equal numbers have the same."""
    if distance.device.type == "cpu":  # numpy sorts by vector instructions, four times as fast
        order = torch.from_numpy(distance.numpy().argsort(1))
    else:
        order = distance.argsort(1)
    ordered = distance.gather(1, order)
    rank = F.pad((ordered[:, 1:] > ordered[:, :-1]).cumsum(1), (1, 0))
    return torch.empty_like(order).scatter_(1, order, rank)


def cosent(logit, grade, kind, own):
    r"""Softplus of how much nearer the less alike lie than the more alike, for each row.

    .. math:: \log \Bigl( 1 + \sum_{g_{ij} < g_{ik}} e^{s_{ik} - s_{ij}} \Bigr)

    The exponentials are summed by kind, by grade, and from grade to grade: no triplet is listed
    and no row is sorted. Where the logits of a row are so far apart that the exponentials would
    leave the range of the numbers, it goes by their logarithms, and takes many times longer.

    Parameters
    ----------
    logit : Tensor of shape (n, m)
        Logits s, larger for nearer points.
    grade : int64 Tensor of shape (n, k)
        Grades g of the kinds of points, counted from 0, larger for what is less alike.
    kind : int64 Tensor of shape (m,)
        Kinds of the points.
    own : int64 Tensor of shape (n, 0) or (n, 1)
        The column of the row's own point, where it is among them; it does not count.

    Returns
    -------
    losses : Tensor of shape (n,)
        Losses.
    slope : Tensor of shape (n, m)
        Their gradient by the logits.
    """
    high, low = logit.amax(1, keepdim=True), logit.amin(1, keepdim=True)
    if not (high - low < _WIDEST[logit.dtype]).all():  # nor if there is a NaN
        return cosent_by_logarithms(logit, grade.index_select(1, kind), own)
    near = (logit - (high + low) / 2).exp_()
    far = near.reciprocal().scatter_(1, own, 0)  # as one nearer: none is more alike than itself
    nothing = torch.zeros_like(grade, dtype=logit.dtype)
    sums = (nothing.index_add(1, kind, part) for part in (far, near))
    ahead, here = (nothing.scatter_add(1, grade, part).double() for part in sums)
    ahead = F.pad(ahead.cumsum(1)[:, :-1], (1, 0))
    behind = F.pad(here.flip(1).cumsum(1)[:, :-1], (1, 0)).flip(1)
    total = torch.linalg.vecdot(ahead, here)
    odds = 1 / (1 + total)[:, None]
    of_near, of_far = (
        (part * odds).to(logit.dtype).gather(1, grade).index_select(1, kind)
        for part in (ahead, behind)
    )
    return total.log1p().to(logit.dtype), near.mul_(of_near).sub_(far.mul_(of_far))


def cosent_by_logarithms(logit, grade, own):
    """Losses and slopes of :func:`cosent`, for logits however far apart; grades are of points."""
    used = torch.ones_like(grade, dtype=torch.bool).scatter_(1, own, False)
    # What is not used is as far as can be from its row in the target, so no other has it behind.
    grade, order = torch.where(used, grade, grade.shape[1] + 1).sort(1)
    used = used.gather(1, order)
    with torch.enable_grad():
        leaf = logit.detach().requires_grad_()
        logit = leaf.clamp(-_FARTHEST, _FARTHEST).gather(1, order)
        behind = torch.where(used, logit, -_FARTHEST).flip(1).logcumsumexp(1).flip(1)
        behind = F.pad(behind, (0, 1), value=-_FARTHEST)
        first = torch.searchsorted(grade, grade, right=True)  # ties are not behind each other
        worse = torch.where(used, behind.gather(1, first) - logit, -_FARTHEST)
        losses = F.softplus(worse.clamp(-_FARTHEST, _FARTHEST).logsumexp(1))
        (slope,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), slope


class CoSENTLoss(torch.nn.Module):
    r"""CoSENT: of two points, the one more alike to the anchor by its target lies nearer.

    .. math:: L = \operatorname{mean}_i \; \log \Bigl( 1 + \sum_{j, k: t_{ij} < t_{ik}}
        e^{(d_{ij} - d_{ik}) / \tau} \Bigr)

    For targets that are graded, and not just classes. The distance t of two targets is that of
    Manhattan for numbers (an age, a rating), and that of Jaccard for bool rows (several labels at
    once), the share of the labels of either that only one has. Only the order of the t counts, and
    ties ask for nothing. The paper compares all pairs with all pairs; here pairs of one anchor are
    compared, as rankings are read.

    Numbers are not read as classes: of the classes 1, 2 and 7 the first two are more alike. With
    ``graded=False`` targets are alike if they are equal, and t is 0 or 1.

    Time and memory are O(B^2), and O(B U log U) more time for U different targets. Where the
    distances of a batch differ by more than 150 temperatures (600 in double precision), it takes
    ten times as long.

    Parameters
    ----------
    temperature : float, default=0.05
        The temperature tau; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings.
    graded : bool, default=True
        Whether targets are more or less alike, or classes.

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

    def __init__(self, temperature=0.05, *, distance="cosine", graded=True):
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.distance = check_distance(distance)
        self.graded = check_flag("graded", graded)
        self.learns_from = "targets" if self.graded else "labels"
        self.active_share = torch.tensor(0.0)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"temperature={self.temperature:g}, distance={self.distance!r}, graded={self.graded}"

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors, floating point; without references all pairs are inside the batch.
        labels : Tensor of shape (n,) or (n, k)
            Targets: numbers, or sets of labels as rows of bool; or classes.
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
            grades, code, kind = self._grades(*targets)
            own = torch.arange(len(matrix), device=matrix.device)[:, None]
            factor = -1 / self.temperature

            @torch.no_grad()
            def rows(distance, code, own):
                grade = grades.index_select(0, code)
                losses, slope = cosent(distance * factor, grade, kind, own)
                return losses, slope.mul_(factor)

            own = own if ref_emb is None else own[:, :0]
            total, active, slopes = sum_of_rows(rows, (matrix,), (code, own), _COPIES)
            share = 1 / max(1, len(matrix))
            value = total * share
            if slopes:
                value = _Weighted.apply(matrix, slopes[0].mul_(share), value)
        self.active_share = (active * share).to(value.dtype)
        return value

    def _grades(self, targets, ref_targets=None):
        """Grades of the kinds of targets, and of which kinds rows and columns are."""
        kinds, code = different_rows(targets)
        ref_kinds, kind = (kinds, code) if ref_targets is None else different_rows(ref_targets)
        distance = target_distance(kinds, ref_kinds)
        return ranks(distance if self.graded else (distance > 0).double()), code, kind

    @staticmethod
    def _check(x, y):
        if not isinstance(y, torch.Tensor) or y.dim() not in (1, 2) or len(y) != len(x):
            raise ValueError(
                f"targets must be a tensor of {len(x)} numbers, or rows of numbers; "
                f"got {tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__}"
            )
        return y.to(x.device)
