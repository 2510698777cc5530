"""Sums of exponentials over masked entries, without overflow."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skdml.deep._pairs import as_number
from skdml.deep.losses._limits import MASKED_LOGIT, MAX_EXPONENT, MAX_LOGIT


def logits(distance: Tensor, temperature: float) -> Tensor:
    """Logits -d / temperature of a softmax over distances, clipped to finite values."""
    return (distance / -temperature).clamp(-MAX_LOGIT, MAX_LOGIT)


def logit_gradient(logit: Tensor, temperature: float) -> Tensor:
    """Gradient of -d / temperature with respect to d; 0 where the logit was clipped."""
    return (logit.abs() < MAX_LOGIT).to(logit.dtype).mul_(-1 / temperature)


def exponentials(value: Tensor, mask: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Exponentials over the true entries of each row, and the logarithm of their sum.

    .. math:: l_i = \log \sum_j m_{ij} e^{c v_{ij}}, \quad
        \frac{\partial l_i}{\partial v_{ij}} = a_i e_{ij}

    Parameters
    ----------
    value : Tensor of shape (n, m)
        The values v. Products c v beyond 1e30 are clipped and have no gradient.
    mask : bool Tensor of shape (n, m)
        The mask m.
    factor : float
        The factor c.

    Returns
    -------
    exps : Tensor of shape (n, m)
        The exponentials e, scaled so that the largest of each row is 1.
    scale : Tensor of shape (n,)
        The factors a that turn the exponentials into the gradient.
    log_sum : Tensor of shape (n,)
        The logarithms l; -1e32 for a row without a true entry.
    """
    if not value.shape[1]:
        nothing = value.new_zeros(len(value))
        return torch.empty_like(value), nothing, nothing - MASKED_LOGIT
    # Subtracting a large number from the masked entries is many times faster than torch.where.
    exps = as_number(~mask, value.dtype).mul_(-MASKED_LOGIT).add_(value, alpha=factor)
    peak = exps.amax(1)
    if (peak.abs() >= MAX_LOGIT).any():  # a row without a true entry, or a value to clip
        exps = (value * factor).clamp_(-MAX_LOGIT, MAX_LOGIT)
        exps.sub_(as_number(~mask, exps.dtype), alpha=MASKED_LOGIT)
        peak = exps.amax(1)
    total = exps.sub_(peak[:, None]).clamp_(min=-MAX_EXPONENT).exp_().sum(1)
    # Clipped values have no gradient. They contribute only if all values of the row are clipped.
    scale = torch.where(peak.abs() < MAX_LOGIT, factor / total, 0)
    return exps, scale, peak + total.log()


class _LogSumExp(torch.autograd.Function):
    """:func:`log_sum_exp`; the exponentials of the forward pass serve the backward pass."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, mask: Tensor, factor: float) -> Tensor:
        exps, scale, log_sum = exponentials(value, mask, factor)
        ctx.save_for_backward(exps, scale)
        return log_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        exps, scale = ctx.saved_tensors
        return exps * (grad * scale)[:, None], None, None


def log_sum_exp(value: Tensor, mask: Tensor, factor: float = 1.0) -> Tensor:
    r"""Logarithm of a sum of exponentials over the true entries of each row.

    .. math:: \log \sum_j m_{ij} e^{c v_{ij}}

    Parameters
    ----------
    value : Tensor of shape (n, m)
        The values v. Products c v beyond 1e30 are clipped and have no gradient.
    mask : bool Tensor of shape (n, m)
        The mask m.
    factor : float, default=1.0
        The factor c.

    Returns
    -------
    Tensor of shape (n,)
        The logarithms; -1e32 for a row without a true entry.
    """
    return _LogSumExp.apply(value, mask, factor)
