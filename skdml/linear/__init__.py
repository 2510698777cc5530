"""Learners of a linear map f(x) = L x.

The learned distance is d(x, y) = |L x - L y|, a Mahalanobis distance with the matrix M = LᵀL.
"""

from skdml.linear.anmm import ANMM
from skdml.linear.base import LinearMap, LinearMetricLearner
from skdml.linear.dmleig import DMLEig
from skdml.linear.dmlmj import DMLMJ
from skdml.linear.gmml import GMML
from skdml.linear.itml import ITML
from skdml.linear.kissme import KISSME
from skdml.linear.ldml import LDML
from skdml.linear.lego import LEGO
from skdml.linear.lfda import LFDA
from skdml.linear.lmnn import LMNN
from skdml.linear.lsml import LSML
from skdml.linear.mahalanobis import MahalanobisMetric
from skdml.linear.mcml import MCML
from skdml.linear.mlkr import MLKR
from skdml.linear.mmc import MMC
from skdml.linear.nca import NCA
from skdml.linear.ncm import NCMC, NCMML
from skdml.linear.rca import RCA
from skdml.linear.scml import SCML
from skdml.linear.sdml import SDML

__all__ = [
    "ANMM",
    "DMLMJ",
    "GMML",
    "ITML",
    "KISSME",
    "LDML",
    "LEGO",
    "LFDA",
    "LMNN",
    "LSML",
    "MCML",
    "MLKR",
    "MMC",
    "NCA",
    "NCMC",
    "NCMML",
    "RCA",
    "SCML",
    "SDML",
    "DMLEig",
    "LinearMap",
    "LinearMetricLearner",
    "MahalanobisMetric",
]
