"""CosFace: a softmax over cosines with a margin subtracted from the cosine."""

from torch import Tensor

from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._margin_softmax import MarginSoftmaxLoss


class CosFaceLoss(MarginSoftmaxLoss):
    r"""CosFace: a softmax over scaled cosines, with a margin subtracted for the own class.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{a (s_{i y_i} - m)}}
        {e^{a (s_{i y_i} - m)} + \sum_{c \ne y_i} e^{a s_{ic}}}

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    margin : float, default=0.35
        The margin m of the cosine, >= 0 and < 2.
    scale : float, default=64.0
        The factor a, > 0.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components)
        The proxies, which are the weights of the classifier.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    Wang, Wang, Zhou, Ji, Gong, Zhou, Li, Liu: CosFace: Large Margin Cosine Loss for Deep Face
    Recognition, CVPR 2018, eq. 4.

    Examples
    --------
    >>> import torch
    >>> loss = CosFaceLoss(2, 2, margin=1, scale=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(0))
    0.6931
    """

    def __init__(
        self, n_classes: int, n_components: int, *, margin: float = 0.35, scale: float = 64.0
    ) -> None:
        super().__init__(n_classes, n_components, scale=scale)
        self.margin = check_positive("margin", margin, zero=True, below=2)

    def apply_margin(self, cosine: Tensor) -> Tensor:
        """Subtract the margin from the cosine."""
        return cosine - self.margin
