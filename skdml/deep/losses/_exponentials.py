"""Sums of exponentials over masked entries, without overflow."""

import torch
from torch.autograd.function import once_differentiable

from skdml.deep.miners import as_number

# Logits beyond this are cut: far outside of anything learned, and still safe to subtract.
_FARTHEST = 1e30


_BEYOND = 1e32  # what is masked lies beyond all logits


# exp(-60) is nothing beside 1, also in double precision. Exponentials that near the end of the
# range of single precision take up to a hundred times as long, and so does what is done with them.
_NOTHING = 60.0


def logits(distance, temperature):
    """Logits -d / temperature of a softmax over distances, finite whatever the distances."""
    return (distance / -temperature).clamp(-_FARTHEST, _FARTHEST)


def exponentials(value, mask, factor):
    r"""Exponentials over the true entries of each row, and the logarithm of their sum.

    .. math:: l_i = \log \sum_j m_{ij} e^{c v_{ij}}, \quad
        \frac{\partial l_i}{\partial v_{ij}} = a_i e_{ij}

    Parameters
    ----------
    value : Tensor of shape (n, m)
        The values v, m > 0; products c v beyond 1e30 are cut, and have no gradient.
    mask : bool Tensor of shape (n, m)
        The mask m.
    factor : float
        The factor c.

    Returns
    -------
    share : Tensor of shape (n, m)
        The exponentials e, the largest of each row 1.
    scale : Tensor of shape (n,)
        What makes the gradient of them, a.
    log_sum : Tensor of shape (n,)
        The logarithms l; -1e32 for a row without a true entry.
    """
    # Subtracted, and not chosen by torch.where, which takes many times longer.
    share = as_number(~mask, value.dtype).mul_(-_BEYOND).add_(value, alpha=factor)
    peak = share.amax(1)
    if (peak.abs() >= _FARTHEST).any():  # nothing to choose from, or something to cut
        share = (value * factor).clamp_(-_FARTHEST, _FARTHEST)
        share.sub_(as_number(~mask, share.dtype), alpha=_BEYOND)
        peak = share.amax(1)
    total = share.sub_(peak[:, None]).clamp_(min=-_NOTHING).exp_().sum(1)
    # What was cut has no gradient; only where nothing is nearer does it have a share.
    scale = torch.where(peak.abs() < _FARTHEST, factor / total, 0)
    return share, scale, peak + total.log()


class _LogSumExp(torch.autograd.Function):
    """As :func:`log_sum_exp`, with one exponential for each entry, kept for the gradient."""

    @staticmethod
    def forward(ctx, value, mask, factor):
        share, scale, log_sum = exponentials(value, mask, factor)
        ctx.save_for_backward(share, scale)
        return log_sum

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        share, scale = ctx.saved_tensors
        return share * (grad * scale)[:, None], None, None


def log_sum_exp(value, mask, factor=1.0):
    r"""Logarithm of a sum of exponentials over the true entries of each row.

    .. math:: \log \sum_j m_{ij} e^{c v_{ij}}

    Parameters
    ----------
    value : Tensor of shape (n, m)
        The values v, m > 0; products c v beyond 1e30 are cut, and have no gradient.
    mask : bool Tensor of shape (n, m)
        The mask m.
    factor : float
        The factor c.

    Returns
    -------
    Tensor of shape (n,)
        The logarithms; -1e32 for a row without a true entry.
    """
    return _LogSumExp.apply(value, mask, factor)
