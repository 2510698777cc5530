"""SoftTriple: a softmax over classes with several proxies each, softly assigned."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skdml.deep._distances import CANCELLATION_SHARE, attach_gradient, directions, full_precision
from skdml.deep._pairs import row_blocks
from skdml.deep.losses._checks import check_count, check_positive
from skdml.deep.losses._limits import MAX_EXPONENT
from skdml.deep.losses._proxy import ProxyLoss, cosines


def soft_assignment(cosine: Tensor, gamma: float) -> Tensor:
    r"""Mean of the cosines with the proxies of a class, weighted by their softmax.

    .. math:: s_{ic} = \sum_k w_{ikc} s_{ikc}, \quad
        w_{ikc} = \frac{e^{s_{ikc} / \gamma}}{\sum_l e^{s_{ilc} / \gamma}}

    Parameters
    ----------
    cosine : Tensor of shape (n, k, c)
        Cosines.
    gamma : float
        Temperature of the softmax.

    Returns
    -------
    Tensor of shape (n, c)
        The means.
    """
    return ((cosine / gamma).softmax(1) * cosine).sum(1)


@torch.no_grad()
def soft_triple(
    x: Tensor, proxies: Tensor, labels: Tensor, margin: float, scale: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""SoftTriple loss without R, and its gradients, computed block by block.

    The gradient with respect to a cosine is the gradient with respect to the mean (see
    `soft_assignment`) times

    .. math:: \frac{\partial s_{ic}}{\partial s_{ikc}} =
        w_{ikc} \Bigl( 1 + \frac{s_{ikc} - s_{ic}}{\gamma} \Bigr)

    The cosines are many, so none of them is kept.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Embeddings of unit length.
    proxies : Tensor of shape (k, c, d)
        Proxies of unit length. The classes are the second axis: a softmax along the short axis of
        proxies would take twice as long.
    labels : int64 Tensor of shape (n,)
        Classes.
    margin, scale, gamma : float
        As in :class:`SoftTripleLoss`.

    Returns
    -------
    value : Tensor of shape ()
        Mean over the rows; zero if there are none.
    x_gradient, proxy_gradient : Tensors
        Gradients with respect to `x` and `proxies`.
    """
    k, c, _ = proxies.shape
    flat, scaled_x = proxies.flatten(0, 1), x / gamma
    x_gradient, flat_gradient = torch.empty_like(x), torch.zeros_like(flat)
    is_own = x.new_zeros(len(x), c).scatter_(1, labels[:, None], 1)
    log_odds = torch.empty_like(is_own)
    blocks = list(row_blocks(len(x), len(flat)))
    # All blocks share a buffer: allocating memory for each would cost more than the computation.
    buffer = x.new_empty(3, blocks[0].stop if blocks else 0, k, c)
    for rows in blocks:
        u, e, product = buffer[:, : rows.stop - rows.start].unbind()
        torch.mm(scaled_x[rows], flat.T, out=u.view(-1, len(flat)))
        peak: Tensor | float = 0.0
        if 1 / gamma > MAX_EXPONENT:  # otherwise the exponentials of cosines cannot overflow
            peak = u.amax(1)
            u -= peak[:, None]
        share = torch.exp(u, out=e).sum(1).reciprocal_()
        mean = torch.mul(u, e, out=product).sum(1).mul_(share)
        logit = ((mean + peak) * (gamma * scale)).add_(is_own[rows], alpha=-scale * margin)
        log_odds[rows] = logit.log_softmax(1)
        share *= log_odds[rows].exp().sub_(is_own[rows])
        product.mul_(share[:, None]).addcmul_(e, share.mul(1 - mean)[:, None])
        cosine_gradient = product.view(-1, len(flat))
        torch.mm(cosine_gradient, flat, out=x_gradient[rows])
        flat_gradient.addmm_(cosine_gradient.T, x[rows])
    n = max(1, len(x))
    value = log_odds.gather(1, labels[:, None]).sum() / -n
    return value, x_gradient.mul_(scale / n), flat_gradient.mul_(scale / n).view(proxies.shape)


class _MeanDistance(torch.autograd.Function):
    """Mean distance within each class, of unit points that are well separated.

    By d = sqrt(2 - 2 p.q), the gradient of p is a sum of -q / d. Its component along p has no
    effect, because the length of p is fixed.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, distance: Tensor) -> Tensor:
        ctx.save_for_backward(unit, distance)
        c, k, _ = unit.shape
        return distance.sum() / (c * k * (k - 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        unit, distance = ctx.saved_tensors
        c, k, _ = unit.shape
        inverse = distance.reciprocal()
        inverse.diagonal(dim1=1, dim2=2).zero_()
        return (inverse @ unit).mul_(grad * (-2 / (c * k * (k - 1)))), None


def proxy_spread(unit: Tensor) -> Tensor:
    """Mean distance of two proxies of the same class, for unit proxies of shape (c, k, d)."""
    c, k, _ = unit.shape
    if k < 2:
        return unit.new_zeros(())
    fixed = unit.detach()
    square = 2 - 2 * fixed @ fixed.mT
    square.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    if square.amin() > CANCELLATION_SHARE:
        square.diagonal(dim1=1, dim2=2).zero_()
        return _MeanDistance.apply(unit, square.sqrt_())
    # Computed from differences, so that equal proxies have distance 0 and a finite gradient.
    distance = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.sum() / (c * k * (k - 1))


class SoftTripleLoss(ProxyLoss):
    r"""SoftTriple: a softmax over classes that have several proxies each.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{\lambda (s_{i y_i} - \delta)}}
        {e^{\lambda (s_{i y_i} - \delta)} + \sum_{c \ne y_i} e^{\lambda s_{ic}}} + \tau R, \quad
        s_{ic} = \sum_k \frac{e^{x_i^T p_{ck} / \gamma}}{\sum_l e^{x_i^T p_{cl} / \gamma}}
        x_i^T p_{ck}

    Embeddings and proxies are scaled to length 1. R is half the mean distance of two proxies of a
    class; it merges the proxies that a class does not need.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    n_proxies : int, default=10
        Number of proxies of each class, >= 1.
    margin : float, default=0.01
        The margin delta of the cosine, >= 0 and < 2.
    scale : float, default=20.0
        The factor lambda, > 0.
    gamma : float, default=0.1
        Temperature of the choice among the proxies of a class, > 0. Larger values weight the
        proxies more evenly.
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
        n_classes: int,
        n_components: int,
        *,
        n_proxies: int = 10,
        margin: float = 0.01,
        scale: float = 20.0,
        gamma: float = 0.1,
        tau: float = 0.2,
    ) -> None:
        super().__init__(n_classes, n_components, check_count("n_proxies", n_proxies))
        self.margin = check_positive("margin", margin, zero=True, below=2)
        self.scale = check_positive("scale", scale)
        self.gamma = check_positive("gamma", gamma)
        self.tau = check_positive("tau", tau, zero=True)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return (
            f"{super().extra_repr()}, n_proxies={self.n_proxies}, margin={self.margin:g}, "
            f"scale={self.scale:g}, gamma={self.gamma:g}, tau={self.tau:g}"
        )

    def logits(self, embeddings: Tensor) -> Tensor:
        """Scaled cosines with the classes, of shape (n, n_classes)."""
        cosine = cosines(embeddings, self.proxies.transpose(0, 1))
        return self.scale * soft_assignment(cosine, self.gamma)

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean over the batch, plus the distances of the proxies."""
        (proxies,) = full_precision(self.proxies)
        x, units = directions(embeddings), directions(proxies.flatten(0, 1)).view(proxies.shape)
        x, units = full_precision(x, units)
        parameters = self.margin, self.scale, self.gamma
        value, x_gradient, unit_gradient = soft_triple(
            x, units.transpose(0, 1), labels, *parameters
        )
        unit_gradient = unit_gradient.transpose(0, 1)
        value = attach_gradient(value, x, x_gradient) + attach_gradient(
            0 * value, units, unit_gradient
        )
        return value + self.tau / 2 * proxy_spread(units) if self.tau else value
