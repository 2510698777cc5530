"""The settings of one fit: the parameters of a deep learner, resolved and checked."""

import inspect
from numbers import Integral, Real
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils import check_scalar
from skorch.callbacks import Callback

from skdml.deep.data.samplers import GROUP_BATCHES
from skdml.deep.parameters import NetParams
from skdml.deep.scores import SCORINGS
from skdml.distances import check_distance

if TYPE_CHECKING:
    from skdml.deep.base import DeepEmbedder

HOLD_OUT = ("auto", "rows", "classes")
LEAST = {"batch_size": 2, "n_per_class": 2, "max_epochs": 1, "memory_size": 0}
FLAGS = ("normalize", "balance_classes", "early_stopping", "refit", "amp", "compile", "warm_start")
COUNTS_OR_NONE = ("n_components", "chunk_size", "patience")


class Settings(SimpleNamespace):
    """The parameters of a learner as one fit uses them; a default None is what it means.

    Each parameter of the constructor is an attribute, and so are:

    Attributes
    ----------
    net_params : NetParams
        ``module__*`` and the like.
    known_losses : tuple of str
        The names of the losses of this package that the learner accepts.
    known_supervisions : tuple of str
        The values that `supervision` may have.
    learner_name : str
        The class of the learner.
    """

    @classmethod
    def of(cls, learner: "DeepEmbedder") -> Self:
        """Return the settings of a learner."""
        signature = inspect.signature(type(learner)).parameters.values()
        names = tuple(one.name for one in signature if one.kind is not one.VAR_KEYWORD)
        params = {name: getattr(learner, name) for name in names}
        params |= {name: v for name, v in learner._defaults.items() if params[name] is None}
        learner_name = type(learner).__name__
        return cls(
            **params,
            net_params=NetParams(learner._net_params, learner_name, names),
            known_losses=learner._losses,
            known_supervisions=learner._supervisions,
            learner_name=learner_name,
        )


def check_settings(settings: Settings) -> None:
    """Raise unless each parameter has a value that it may have.

    Parameters
    ----------
    settings : Settings
        The parameters of the learner.

    Raises
    ------
    ValueError
        If a parameter is out of range or unknown.
    TypeError
        If a parameter is of another type.
    """
    check_numbers(settings)
    check_freeze(settings)
    check_choices(settings)
    check_callbacks(settings.callbacks)
    if settings.augment is not None and not callable(settings.augment):
        raise ValueError(
            f"augment={settings.augment!r} is no callable. Pass one that gets a batch of points "
            "and returns as many of the same shape."
        )
    if not callable(settings.optimizer):
        raise ValueError(
            f"optimizer={settings.optimizer!r} is no optimizer. Pass a class, like "
            "torch.optim.AdamW."
        )
    check_distance(settings.distance)


def check_numbers(settings: Settings) -> None:
    """Raise unless numbers and flags are in their ranges."""
    for name, least in LEAST.items():
        check_scalar(getattr(settings, name), name, Integral, min_val=least)
    for name in FLAGS:
        check_scalar(getattr(settings, name), name, (bool, np.bool_))
    for name in COUNTS_OR_NONE:
        if getattr(settings, name) is not None:
            check_scalar(getattr(settings, name), name, Integral, min_val=1)
    check_scalar(settings.verbose, "verbose", Integral)
    for name, high in [("lr", None), ("proxy_lr", None), ("validation_fraction", 1)]:
        value = getattr(settings, name)
        bounds = {"min_val": 0, "max_val": high, "include_boundaries": "neither"}
        check_scalar(value, name, Real, **bounds)
        if not np.isfinite(value):  # check_scalar lets NaN pass
            raise ValueError(f"{name} has to be a finite number; got {value}.")
    if settings.margin is not None:
        check_scalar(settings.margin, "margin", Real)


def check_choices(settings: Settings) -> None:
    """Raise unless parameters that take one of several names have one of them."""
    if settings.supervision not in settings.known_supervisions:
        raise ValueError(
            f"supervision={settings.supervision!r} is unknown to {settings.learner_name}; choose "
            f"one of {list(settings.known_supervisions)}."
        )
    if settings.group_batches not in GROUP_BATCHES:
        raise ValueError(
            f"group_batches={settings.group_batches!r} is unknown; choose one of "
            f"{list(GROUP_BATCHES)}."
        )
    if settings.hold_out not in HOLD_OUT:
        raise ValueError(
            f"hold_out={settings.hold_out!r} is unknown; choose one of {list(HOLD_OUT)}."
        )
    if not callable(settings.scoring) and settings.scoring not in SCORINGS:
        raise ValueError(
            f"scoring={settings.scoring!r} is unknown; choose one of {sorted(SCORINGS)}, or pass a "
            "callable."
        )


def check_callbacks(callbacks: Any) -> None:
    """Raise unless this is a list of skorch callbacks, or None."""
    if not isinstance(callbacks, (list, tuple, type(None))):
        raise ValueError(f"callbacks={callbacks!r} is no list. Pass a list of skorch callbacks.")
    for one in callbacks or ():
        one = one[-1] if isinstance(one, tuple) and len(one) == 2 else one
        is_class = isinstance(one, type) and issubclass(one, Callback)
        if not (one is None or is_class or isinstance(one, Callback)):
            raise ValueError(
                f"callbacks holds {one!r}, which is no callback. Pass callbacks of "
                "skorch.callbacks, or pairs (name, callback)."
            )


def check_freeze(settings: Settings) -> None:
    """Raise unless `freeze` goes with the parameters for the module and the head."""
    if settings.freeze not in (None, "module"):
        raise ValueError(f"freeze={settings.freeze!r} is unknown; choose None or 'module'.")
    if settings.freeze is not None and settings.module is None:
        raise ValueError(
            "freeze='module' with module=None would freeze random weights. Pass the trained module "
            "that is to stay as it is."
        )
    if settings.freeze is not None and settings.augment is not None:
        raise ValueError(
            "augment changes the points in each epoch, but with freeze='module' each point passes "
            "through the module only once. Use only one of the two."
        )
    for_head = ["head"] if settings.head is not None else []
    for_head += [name for name in settings.net_params.params if name.startswith("head__")]
    if settings.freeze is None and for_head and not settings.warm_start:
        raise ValueError(
            f"{for_head} were given, but only freeze='module' has a head. Without it the module is "
            "trained."
        )
