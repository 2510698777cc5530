"""SoftTriple: several proxies a class, softly assigned."""

import torch
from torch.autograd.function import once_differentiable

from skdml.deep._distances import _CANCELLED, _full_precision, directions, row_blocks
from skdml.deep.losses._base import _Weighted
from skdml.deep.losses._checks import check_count, check_positive
from skdml.deep.losses._exponentials import _NOTHING
from skdml.deep.losses._proxy import ProxyLoss, cosines


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
