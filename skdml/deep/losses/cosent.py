"""CoSENT: a ranking loss for graded targets."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from skdml.deep._distances import attach_gradient, pairwise_distance
from skdml.deep._pairs import check_reference
from skdml.deep.losses._checks import check_flag, check_positive
from skdml.deep.losses._gradient import sum_over_rows
from skdml.deep.losses._limits import MAX_LOGIT
from skdml.distances import check_distance

# If the logits of a row differ by less, their exponentials and the sums of these stay in range.
_MAX_LOGIT_RANGE = {torch.float32: 150.0, torch.float64: 600.0}

# Memory for each distance, in numbers.
_WORK_PER_DISTANCE = 2


def target_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Distances of graded targets: Manhattan for numbers, Jaccard for sets of labels.

    .. math:: \sum_k |x_k - y_k|, \quad 1 - \frac{|x \cap y|}{|x \cup y|}

    Parameters
    ----------
    x : Tensor of shape (n,) or (n, k)
        Numbers, or sets of labels as rows of bool. Two empty sets have distance 0.
    y : Tensor of shape (m,) or (m, k)
        Targets of the same kind as x.

    Returns
    -------
    Tensor of float64, shape (n, m)
        Distances.

    Examples
    --------
    >>> import torch
    >>> sets = torch.tensor([[True, True, False], [True, False, True]])
    >>> target_distance(sets, sets)  # the two sets share one of three labels
    tensor([[0.0000, 0.6667],
            [0.6667, 0.0000]], dtype=torch.float64)
    """
    sets = x.dtype == y.dtype == torch.bool
    x, y = ((z if z.dim() == 2 else z[:, None]).double() for z in (x, y))
    if not sets:
        return torch.cdist(x, y, p=1)
    intersection = x @ y.T
    union = x.sum(1, keepdim=True) + y.sum(1) - intersection
    return 1 - torch.where(union > 0, intersection, 1) / union.clamp(min=1)


def unique_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unique rows of x, and for each row of x the index of its unique row."""
    if x.dim() == 2 and x.shape[1] == 1:
        x = x[:, 0]
    return x.unique(return_inverse=True) if x.dim() == 1 else x.unique(dim=0, return_inverse=True)


def dense_ranks(distance: Tensor) -> Tensor:
    """Rank of each number in its row, from 0; equal numbers share a rank."""
    if distance.device.type == "cpu":  # numpy sorts with vector instructions, four times as fast
        order = torch.from_numpy(distance.numpy().argsort(1))
    else:
        order = distance.argsort(1)
    ordered = distance.gather(1, order)
    rank = F.pad((ordered[:, 1:] > ordered[:, :-1]).cumsum(1), (1, 0))
    return torch.empty_like(order).scatter_(1, order, rank)


def cosent(
    logit: Tensor, grade: Tensor, column_target: Tensor, self_column: Tensor
) -> tuple[Tensor, Tensor]:
    r"""CoSENT loss of each row: a penalty for each pair of points in the wrong order.

    .. math:: \log \Bigl( 1 + \sum_{g_{ij} < g_{ik}} e^{s_{ik} - s_{ij}} \Bigr)

    The exponentials are summed by target, then by grade, then over grades, so no triplet is listed
    and no row is sorted. If the logits of a row differ so much that the exponentials would leave
    the range of the numbers, `cosent_by_logarithms` replaces this and takes many times longer.

    Parameters
    ----------
    logit : Tensor of shape (n, m)
        Logits s; larger for nearer points.
    grade : int64 Tensor of shape (n, k)
        Grade g of each unique target, from 0; larger for less similar targets.
    column_target : int64 Tensor of shape (m,)
        Unique target of each column.
    self_column : int64 Tensor of shape (n, 0) or (n, 1)
        Column of the row's own point, if it is among the columns. It does not count.

    Returns
    -------
    losses : Tensor of shape (n,)
        Losses.
    gradient : Tensor of shape (n, m)
        Gradient with respect to the logits.
    """
    high, low = logit.amax(1, keepdim=True), logit.amin(1, keepdim=True)
    if not (high - low < _MAX_LOGIT_RANGE[logit.dtype]).all():  # a wide range, or a NaN
        grade_of_column = grade.index_select(1, column_target)
        return cosent_by_logarithms(logit, grade_of_column, self_column)
    plus = (logit - (high + low) / 2).exp_()
    # The 0 removes the own point as the more similar point j. It is never the less similar point k,
    # because its grade is the lowest.
    minus = plus.reciprocal().scatter_(1, self_column, 0)
    zeros = torch.zeros_like(grade, dtype=logit.dtype)
    by_target = (zeros.index_add(1, column_target, part) for part in (minus, plus))
    minus_of_grade, plus_of_grade = (
        zeros.scatter_add(1, grade, part).double() for part in by_target
    )
    minus_before = F.pad(minus_of_grade.cumsum(1)[:, :-1], (1, 0))
    plus_after = F.pad(plus_of_grade.flip(1).cumsum(1)[:, :-1], (1, 0)).flip(1)
    total = torch.linalg.vecdot(minus_before, plus_of_grade)
    share = 1 / (1 + total)[:, None]
    plus_factor, minus_factor = (
        (part * share).to(logit.dtype).gather(1, grade).index_select(1, column_target)
        for part in (minus_before, plus_after)
    )
    gradient = plus.mul_(plus_factor).sub_(minus.mul_(minus_factor))
    return total.log1p().to(logit.dtype), gradient


def cosent_by_logarithms(
    logit: Tensor, grade: Tensor, self_column: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses and gradients of :func:`cosent` for logits of any range.

    `grade` has shape (n, m) here: one grade for each column.
    """
    used = torch.ones_like(grade, dtype=torch.bool).scatter_(1, self_column, False)
    # A column that is not used gets the largest grade, so no other column is after it.
    grade, order = torch.where(used, grade, grade.shape[1] + 1).sort(1)
    used = used.gather(1, order)
    with torch.enable_grad():
        leaf = logit.detach().requires_grad_()
        logit = leaf.clamp(-MAX_LOGIT, MAX_LOGIT).gather(1, order)
        after = torch.where(used, logit, -MAX_LOGIT).flip(1).logcumsumexp(1).flip(1)
        after = F.pad(after, (0, 1), value=-MAX_LOGIT)
        next_grade = torch.searchsorted(grade, grade, right=True)  # equal grades are not compared
        excess = torch.where(used, after.gather(1, next_grade) - logit, -MAX_LOGIT)
        losses = F.softplus(excess.clamp(-MAX_LOGIT, MAX_LOGIT).logsumexp(1))
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient


class CoSENTLoss(torch.nn.Module):
    r"""CoSENT: of two points, the one with the more similar target should be nearer.

    .. math:: L = \operatorname{mean}_i \; \log \Bigl( 1 + \sum_{j, k: t_{ij} < t_{ik}}
        e^{(d_{ij} - d_{ik}) / \tau} \Bigr)

    t is the distance of two targets: Manhattan for numbers (an age, a rating), and Jaccard for
    rows of bool (several labels at once). Jaccard is the share of the labels of both sets that
    only one of them has. Only the order of the t counts, and ties are not compared.

    Numbers are not classes: of the numbers 1, 2 and 7, the first two are the most similar. With
    ``graded=False`` two targets are equal or different, and t is 0 or 1.

    Unlike the paper, which compares all pairs with all pairs, only pairs with the same anchor are
    compared, as in a ranking.

    For a batch of B points with U different targets, the loss takes O(B^2) time and memory, plus
    O(B U log U) time. It takes ten times as long if the distances of a batch differ by more than
    150 temperatures (600 in double precision).

    Parameters
    ----------
    temperature : float, default=0.05
        The temperature tau, > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings.
    graded : bool, default=True
        If True, targets are more or less similar. If False, they are classes.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the embeddings with a loss > 0 in the last call.

    Raises
    ------
    ValueError
        If a parameter is outside its range. The message states the allowed values.

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

    def __init__(
        self, temperature: float = 0.05, *, distance: str = "cosine", graded: bool = True
    ) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.distance = check_distance(distance)
        self.graded = check_flag("graded", graded)
        self.learns_from = "targets" if self.graded else "labels"
        self.active_share = torch.tensor(0.0)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"temperature={self.temperature:g}, distance={self.distance!r}, graded={self.graded}"

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors, floating point. Without references, all pairs are inside the batch.
        labels : Tensor of shape (n,) or (n, k)
            Targets: numbers, sets of labels as rows of bool, or classes.
        indices_tuple : None
            Must be None, because the targets decide which pairs are compared.
        ref_emb : Tensor of shape (m, d), default=None
            References.
        ref_labels : Tensor of shape (m,) or (m, k), default=None
            Targets of the references.

        Returns
        -------
        Tensor of shape ()
            The loss, >= 0; float64 for float64 embeddings, float32 otherwise. If all targets are
            equal, the loss and its gradient are zero.

        Raises
        ------
        ValueError
            If indices are given, or shapes do not fit.
        """
        if indices_tuple is not None:
            raise ValueError(
                "indices_tuple must be None, because CoSENTLoss compares all pairs of an anchor by "
                f"their targets; got {type(indices_tuple).__name__}. Leave out the miner."
            )
        check_reference(ref_emb, ref_labels)
        targets = [self._check_targets("labels", labels, embeddings)]
        if ref_emb is not None:
            targets.append(self._check_targets("ref_labels", ref_labels, ref_emb))
        with torch.autocast(embeddings.device.type, enabled=False):
            matrix = pairwise_distance(embeddings, ref_emb, self.distance)
            self_column = torch.arange(len(matrix), device=matrix.device)[:, None]
            self_column = self_column if ref_emb is None else self_column[:, :0]
            total, n_active, gradients = self._sum_over_anchors(matrix, targets, self_column)
            factor = 1 / max(1, len(matrix))
            value = total * factor
            if gradients:
                value = attach_gradient(value, matrix, gradients[0].mul_(factor))
        self.active_share = (n_active * factor).to(value.dtype)
        return value

    def _sum_over_anchors(
        self, matrix: Tensor, targets: list[Tensor], self_column: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return sum of the loss over anchors, number of active anchors, and gradients."""
        grades, row_target, column_target = self._grades(*targets)
        factor = -1 / self.temperature

        @torch.no_grad()
        def anchor_losses(
            distance: Tensor, row_target: Tensor, self_column: Tensor
        ) -> tuple[Tensor, Tensor]:
            grade = grades.index_select(0, row_target)
            losses, gradient = cosent(distance * factor, grade, column_target, self_column)
            return losses, gradient.mul_(factor)

        constants = row_target, self_column
        return sum_over_rows(anchor_losses, (matrix,), constants, _WORK_PER_DISTANCE)

    def _grades(
        self, targets: Tensor, ref_targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return grades of the unique targets, and the unique target of each row and column."""
        unique, row_target = unique_rows(targets)
        if ref_targets is None:
            ref_unique, column_target = unique, row_target
        else:
            ref_unique, column_target = unique_rows(ref_targets)
        distance = target_distance(unique, ref_unique)
        grades = dense_ranks(distance if self.graded else (distance > 0).double())
        return grades, row_target, column_target

    @staticmethod
    def _check_targets(name: str, targets: Any, embeddings: Tensor) -> Tensor:
        """Check the targets of some embeddings, and return them on the embeddings' device."""
        n = len(embeddings)
        if not isinstance(targets, Tensor) or targets.dim() not in (1, 2) or len(targets) != n:
            got = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise ValueError(
                f"{name} must be a tensor of {n} targets, each a number or a row of numbers; "
                f"got {got}"
            )
        return targets.to(embeddings.device)
