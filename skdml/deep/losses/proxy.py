"""Losses that compare each point with a learned stand-in for each class: a proxy."""

import math
from abc import ABC, abstractmethod

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from skdml.deep._pairwise import _CANCELLED, _full_precision, directions, row_blocks

from ._base import PairwiseLoss, _Weighted
from ._matrix import _NOTHING, check_count, check_flag, check_positive


def cosines(x, proxies):
    r"""Cosines of embeddings and proxies, 0 where one of them is zero.

    .. math:: s_{ij} = x_i^T p_j / (\lVert x_i \rVert \, \lVert p_j \rVert)

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Embeddings.
    proxies : Tensor of shape (c, d) or (c, k, d)
        Proxies, one or k of each class.

    Returns
    -------
    Tensor of shape (n, c) or (n, c, k)
        The cosines.
    """
    x, proxies = _full_precision(x, proxies)
    units = directions(proxies.reshape(-1, proxies.shape[-1]))
    return (directions(x) @ units.T).reshape(len(x), *proxies.shape[:-1])


def mean_cross_entropy(logit, labels):
    """Mean of the cross entropy over a batch; zero for an empty one."""
    return cross_entropy(logit, labels, reduction="sum") / max(1, len(labels))


def cross_entropy_of_others(logit, labels):
    r"""Mean of -a_y + log of the sum of exp(a_j) over all j but y; zero for an empty batch."""
    own = logit.gather(1, labels[:, None])
    others = logit.scatter(1, labels[:, None], -torch.inf)
    return (others.logsumexp(1, keepdim=True) - own).sum() / max(1, len(labels))


def proxy_anchor(cosine, labels, margin, alpha):
    r"""Proxy anchor loss of cosines of shape (n, c); see :class:`ProxyAnchorLoss`."""
    same = labels[:, None] == torch.arange(cosine.shape[1], device=labels.device)
    pull = torch.where(same, -alpha * (cosine - margin), -torch.inf)
    push = torch.where(same, -torch.inf, alpha * (cosine + margin))
    one = cosine.new_zeros(1, cosine.shape[1])  # the 1 of log(1 + ...), as a logarithm
    pull, push = (torch.cat([one, part]).logsumexp(0) for part in (pull, push))
    return pull.sum() / same.any(0).sum().clamp(min=1) + push.mean()


def soft_assignment(cosine, gamma):
    r"""Mean of the cosines with the proxies of a class, weighted by their softmax.

    .. math:: s_{ic} = \sum_k w_{ikc} s_{ikc}, \quad
        w_{ikc} = \frac{e^{s_{ikc} / \gamma}}{\sum_l e^{s_{ilc} / \gamma}}

    Parameters
    ----------
    cosine : Tensor of shape (n, k, c)
        Cosines.
    gamma : float
        How soft the choice is.

    Returns
    -------
    Tensor of shape (n, c)
        The means.
    """
    return ((cosine / gamma).softmax(1) * cosine).sum(1)


@torch.no_grad()
def soft_triple(x, proxies, labels, margin, scale, gamma):
    r"""SoftTriple loss without R, and its gradient, a block of rows at a time.

    The gradient by the cosines is that by their means (see `soft_assignment`) times

    .. math:: \frac{\partial s_{ic}}{\partial s_{ikc}} =
        w_{ikc} \Bigl( 1 + \frac{s_{ikc} - s_{ic}}{\gamma} \Bigr)

    Nothing is kept of the cosines, of which there are many.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Embeddings at unit length.
    proxies : Tensor of shape (k, c, d)
        Proxies at unit length; the classes second, because along the few proxies of a class the
        softmax would take twice as long.
    labels : int64 Tensor of shape (n,)
        Classes.
    margin, scale, gamma : float
        As in :class:`SoftTripleLoss`.

    Returns
    -------
    value : Tensor of shape ()
        Mean over the rows; zero if there are none.
    of_x, of_proxies : Tensors
        Its gradient.
    """
    k, c, _ = proxies.shape
    flat, sharp = proxies.flatten(0, 1), x / gamma
    of_x, of_flat = torch.empty_like(x), torch.zeros_like(flat)
    is_own = x.new_zeros(len(x), c).scatter_(1, labels[:, None], 1)
    log_odds = torch.empty_like(is_own)
    blocks = list(row_blocks(len(x), len(flat)))
    # Memory of its own for each block would cost more than what is done with it.
    room = x.new_empty(3, blocks[0].stop if blocks else 0, k, c)
    for rows in blocks:
        u, e, product = room[:, : rows.stop - rows.start].unbind()
        torch.mm(sharp[rows], flat.T, out=u.view(-1, len(flat)))
        peak = 0.0
        if 1 / gamma > _NOTHING:  # else the exponentials of cosines have room enough
            peak = u.amax(1)
            u -= peak[:, None]
        share = torch.exp(u, out=e).sum(1).reciprocal_()
        mean = torch.mul(u, e, out=product).sum(1).mul_(share)
        logit = ((mean + peak) * (gamma * scale)).add_(is_own[rows], alpha=-scale * margin)
        log_odds[rows] = logit.log_softmax(1)
        share *= log_odds[rows].exp().sub_(is_own[rows])
        product.mul_(share[:, None]).addcmul_(e, share.mul(1 - mean)[:, None])
        of_cosine = product.view(-1, len(flat))
        torch.mm(of_cosine, flat, out=of_x[rows])
        of_flat.addmm_(of_cosine.T, x[rows])
    n = max(1, len(x))
    value = log_odds.gather(1, labels[:, None]).sum() / -n
    return value, of_x.mul_(scale / n), of_flat.mul_(scale / n).view(proxies.shape)


class _Spread(torch.autograd.Function):
    """Mean of the distances within each class, of points at unit length that lie apart.

    By sqrt(2 - 2 p.q) the gradient of p is a sum of -q / d; what is missing along p has no part in
    it at a fixed length.
    """

    @staticmethod
    def forward(ctx, unit, distance):
        ctx.save_for_backward(unit, distance)
        c, k, _ = unit.shape
        return distance.sum() / (c * k * (k - 1))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        unit, distance = ctx.saved_tensors
        c, k, _ = unit.shape
        inverse = distance.reciprocal()
        inverse.diagonal(dim1=1, dim2=2).zero_()
        return (inverse @ unit).mul_(grad * (-2 / (c * k * (k - 1)))), None


def proxy_spread(unit):
    """Mean distance of two proxies of the same class, of proxies (c, k, d) at unit length."""
    c, k, _ = unit.shape
    if k < 2:
        return unit.new_zeros(())
    fixed = unit.detach()
    square = 2 - 2 * fixed @ fixed.mT
    square.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    if square.amin() > _CANCELLED:
        square.diagonal(dim1=1, dim2=2).zero_()
        return _Spread.apply(unit, square.sqrt_())
    # By differences, so that proxies that met are 0 apart, and with a gradient that is finite.
    apart = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.sum() / (c * k * (k - 1))


class ProxyLoss(torch.nn.Module, ABC):
    """Base of the losses between embeddings and proxies.

    :meth:`forward` checks; a subclass says what the loss is (``compute``), and how near a point is
    to each class (``logits``).

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    n_proxies : int or None, default=None
        Proxies of each class; None is one, without an axis of its own.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components) or (n_classes, n_proxies, n_components)
        The proxies. They start in random directions.
    """

    def __init__(self, n_classes, n_components, n_proxies=None):
        super().__init__()
        self.n_classes = check_count("n_classes", n_classes, 2)
        self.n_components = check_count("n_components", n_components)
        self.n_proxies = None if n_proxies is None else check_count("n_proxies", n_proxies)
        each = () if n_proxies is None else (self.n_proxies,)
        self.proxies = self._start(self.n_classes, *each, self.n_components)

    def _start(self, *shape):
        """Return a parameter at random whose rows are of length 1 on average."""
        return torch.nn.Parameter(torch.randn(shape) / math.sqrt(self.n_components))

    @abstractmethod
    def compute(self, embeddings, labels):
        """Loss of checked embeddings, in full precision."""

    @abstractmethod
    def logits(self, embeddings):
        """Logits of the classes, of shape (n, n_classes), larger where a class is nearer."""

    def cosines(self, embeddings):
        """Cosines with the proxies, of shape (n, n_classes) or (n, n_classes, n_proxies)."""
        return cosines(embeddings, self.proxies)

    @torch.no_grad()
    def initialize_from(self, embeddings, labels):
        """Set the proxies of the classes that occur to the mean directions of their points.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Embeddings.
        labels : int Tensor of shape (n,)
            Their classes.
        """
        labels = self._check(embeddings, labels)
        unit = directions(*_full_precision(embeddings))
        means, found = class_means(unit, labels, self.n_classes)
        means = means.to(self.proxies.dtype)
        if self.n_proxies is not None:
            # A little apart, or the proxies of a class would all learn the same.
            noise = torch.randn(len(means), *self.proxies.shape[1:]).to(means)
            means = means[:, None] + 0.1 * noise / math.sqrt(self.n_components)
        self.proxies[found] = means

    @torch.no_grad()
    def grow(self, n_classes):
        """Make room for further classes; those that are there stay as they are.

        Parameters
        ----------
        n_classes : int
            Number of classes from now on, not less than before.
        """
        more = check_count("n_classes", n_classes, self.n_classes) - self.n_classes
        for name, old in list(self.named_parameters()):
            new = self._start(more, *old.shape[1:]).to(old)
            setattr(self, name, torch.nn.Parameter(torch.cat([old, new])))
        self.n_classes += more

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Embeddings, floating point.
        labels : int Tensor of shape (n,)
            Their classes, 0, ..., n_classes - 1.
        indices_tuple, ref_emb, ref_labels : None
            No other points are compared with.

        Returns
        -------
        Tensor of shape ()
            The loss; float64 for float64 embeddings, else float32. For an empty batch it is zero,
            with a gradient of zero, but for what concerns the proxies alone.

        Raises
        ------
        ValueError
            If shapes, types or labels do not fit, or tuples or references are given.
        """
        other = {"indices_tuple": indices_tuple, "ref_emb": ref_emb, "ref_labels": ref_labels}
        given = [name for name, value in other.items() if value is not None]
        if given:
            raise ValueError(
                f"{type(self).__name__} compares points with proxies, not with other points, and "
                f"takes no {' and no '.join(given)}. Leave the miner and the memory out, or take "
                "a loss over pairs or triplets."
            )
        labels = self._check(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(*_full_precision(embeddings), labels)

    def _check(self, embeddings, labels):
        labels, _ = PairwiseLoss._check(embeddings, labels, None, None)
        if embeddings.shape[1] != self.n_components:
            raise ValueError(
                f"embeddings must be of width {self.n_components}, that of the proxies; got shape "
                f"{tuple(embeddings.shape)}"
            )
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.n_classes):
            raise ValueError(
                f"labels must lie in 0, ..., {self.n_classes - 1}, because n_classes="
                f"{self.n_classes}; got {labels.min().item()} to {labels.max().item()}"
            )
        return labels.long()

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{self.n_classes}, {self.n_components}"


def class_means(x, labels, n_classes):
    """Means of the rows of each class that occurs, and a mask of these classes."""
    counts = torch.bincount(labels, minlength=n_classes)
    found = counts > 0
    sums = x.new_zeros(n_classes, x.shape[1]).index_add_(0, labels, x)
    return sums[found] / counts[found, None], found


class ProxyNCALoss(ProxyLoss):
    r"""Proxy NCA and proxy NCA++: a softmax over the distances to the proxies.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{-d(x_i, p_{y_i})}}{\sum_{j} e^{-d(x_i, p_j)}},
        \quad d(x, p) = \frac1T \Bigl\lVert \frac{x}{\lVert x \rVert} - \frac{p}{\lVert p \rVert}
        \Bigr\rVert^2

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    plus : bool, default=True
        Whether j runs over all proxies (proxy NCA++) or over those of other classes (proxy NCA,
        whose loss can fall below zero).
    temperature : float, default=1/9
        T, > 0. 1/9 is that of proxy NCA++, 1 that of proxy NCA.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components)
        The proxies.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    Movshovitz-Attias, Toshev, Leung, Ioffe, Singh: No Fuss Distance Metric Learning using Proxies,
    ICCV 2017.
    Teh, DeVries, Taylor: ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component
    Analysis, ECCV 2020.

    Examples
    --------
    >>> import torch
    >>> loss = ProxyNCALoss(2, 2, temperature=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(-2))
    0.1269
    """

    def __init__(self, n_classes, n_components, *, plus=True, temperature=1 / 9):
        super().__init__(n_classes, n_components)
        self.plus = check_flag("plus", plus)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{super().extra_repr()}, plus={self.plus}, temperature={self.temperature:g}"

    def logits(self, embeddings):
        """Minus the distances, of shape (n, n_classes)."""
        return (self.cosines(embeddings) - 1) * (2 / self.temperature)

    def compute(self, embeddings, labels):
        """Mean over the batch."""
        loss = mean_cross_entropy if self.plus else cross_entropy_of_others
        return loss(self.logits(embeddings), labels)


class ProxyAnchorLoss(ProxyLoss):
    r"""Proxy anchor loss: each proxy is an anchor that looks for its class in the batch.

    .. math:: L = \frac{1}{|P^+|} \sum_{p \in P^+} \log \Bigl( 1 + \sum_{x \in X_p}
        e^{-\alpha (s(x, p) - \delta)} \Bigr) + \frac{1}{|P|} \sum_{p \in P} \log \Bigl( 1 +
        \sum_{x \notin X_p} e^{\alpha (s(x, p) + \delta)} \Bigr)

    with cosines s, all proxies P, those P+ whose class is in the batch, and the points X_p of the
    class of p. The hardest points of a batch weigh most.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    margin : float, default=0.1
        The margin delta of the cosine, >= 0 and < 1.
    alpha : float, default=32.0
        How much the hardest points weigh, > 0.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components)
        The proxies.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    Kim, Kim, Cho, Kwak: Proxy Anchor Loss for Deep Metric Learning, CVPR 2020, eq. 4.

    Examples
    --------
    >>> import torch
    >>> loss = ProxyAnchorLoss(2, 2, margin=0, alpha=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> x = torch.tensor([[1.0, 0.0]])
    >>> round(loss(x, torch.tensor([0])).item(), 4)  # log(1 + exp(-1)) + log(1 + exp(0)) / 2
    0.6598
    """

    def __init__(self, n_classes, n_components, *, margin=0.1, alpha=32.0):
        super().__init__(n_classes, n_components)
        self.margin = check_positive("margin", margin, zero=True, below=1)
        self.alpha = check_positive("alpha", alpha)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{super().extra_repr()}, margin={self.margin:g}, alpha={self.alpha:g}"

    def logits(self, embeddings):
        """Scaled cosines, of shape (n, n_classes)."""
        return self.alpha * self.cosines(embeddings)

    def compute(self, embeddings, labels):
        """Sum of the two means over proxies; nothing for an empty batch."""
        return proxy_anchor(self.cosines(embeddings), labels, self.margin, self.alpha)


class SoftTripleLoss(ProxyLoss):
    r"""SoftTriple: a softmax over classes that have several proxies each.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{\lambda (s_{i y_i} - \delta)}}
        {e^{\lambda (s_{i y_i} - \delta)} + \sum_{c \ne y_i} e^{\lambda s_{ic}}} + \tau R, \quad
        s_{ic} = \sum_k \frac{e^{x_i^T p_{ck} / \gamma}}{\sum_l e^{x_i^T p_{cl} / \gamma}}
        x_i^T p_{ck}

    of embeddings and proxies scaled to length 1. R, half the mean distance of two proxies of a
    class, draws together the proxies that a class does not need.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    n_proxies : int, default=10
        Proxies of each class, >= 1.
    margin : float, default=0.01
        The margin delta of the cosine, >= 0 and < 2.
    scale : float, default=20.0
        The factor lambda, > 0.
    gamma : float, default=0.1
        How soft the choice among the proxies of a class is, > 0.
    tau : float, default=0.2
        Weight of R, >= 0.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_proxies, n_components)
        The proxies.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    Qian, Shang, Sun, Hu, Li, Jin: SoftTriple Loss: Deep Metric Learning Without Triplet Sampling,
    ICCV 2019.

    Examples
    --------
    >>> import torch
    >>> loss = SoftTripleLoss(2, 2, n_proxies=1, margin=0, scale=1)
    >>> loss.proxies.data = torch.eye(2)[:, None]
    >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    def __init__(
        self,
        n_classes,
        n_components,
        *,
        n_proxies=10,
        margin=0.01,
        scale=20.0,
        gamma=0.1,
        tau=0.2,
    ):
        super().__init__(n_classes, n_components, check_count("n_proxies", n_proxies))
        self.margin = check_positive("margin", margin, zero=True, below=2)
        self.scale = check_positive("scale", scale)
        self.gamma = check_positive("gamma", gamma)
        self.tau = check_positive("tau", tau, zero=True)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return (
            f"{super().extra_repr()}, n_proxies={self.n_proxies}, margin={self.margin:g}, "
            f"scale={self.scale:g}, gamma={self.gamma:g}, tau={self.tau:g}"
        )

    def logits(self, embeddings):
        """Scaled cosines with the classes, of shape (n, n_classes)."""
        cosine = cosines(embeddings, self.proxies.transpose(0, 1))
        return self.scale * soft_assignment(cosine, self.gamma)

    def compute(self, embeddings, labels):
        """Mean over the batch, and the distances among proxies."""
        (proxies,) = _full_precision(self.proxies)
        x, units = directions(embeddings), directions(proxies.flatten(0, 1)).view(proxies.shape)
        x, units = _full_precision(x, units)
        parameters = self.margin, self.scale, self.gamma
        value, of_x, of_units = soft_triple(x, units.transpose(0, 1), labels, *parameters)
        of_units = of_units.transpose(0, 1)
        value = _Weighted.apply(x, of_x, value) + _Weighted.apply(units, of_units, 0 * value)
        return value + self.tau / 2 * proxy_spread(units) if self.tau else value
