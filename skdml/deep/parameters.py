"""The parameters of the net inside a deep learner, as ordinary scikit-learn parameters."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import torch
from torch.utils.data import DataLoader

PREFIXES = (
    *("module", "head", "loss", "criterion", "miner", "optimizer"),
    *("iterator_train", "callbacks", "compile"),
)

# skorch reads one parameter that no optimizer has. The user does not set the second kind: the
# sampler makes the batches, and the net knows its weights.
MORE = {"optimizer": {"param_groups"}}
OURS = {
    "optimizer": {"params"},
    "iterator_train": {"dataset", "batch_size", "shuffle", "sampler", "drop_last", "in_order"},
    "compile": {"model"},
}


class NetParametersMixin:
    """``module__*``, ``optimizer__*`` and the like, beside the parameters of the estimator.

    The constructor catches them by ``**net_params`` and keeps them in `_net_params`. As in
    scikit-learn, the constructor and `set_params` accept all names, and `fit` checks them.
    """

    _net_params: dict[str, Any]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, ``module__*`` and the like included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the parameters of parameters that are estimators.

        Returns
        -------
        dict
            Names and values.
        """
        return super().get_params(deep=deep) | self._net_params  # type: ignore[misc]

    def set_params(self, **params: Any) -> Self:
        """Set parameters, ``module__*`` and the like included.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self
            The estimator.
        """
        own = super().get_params(deep=False)  # type: ignore[misc]
        super().set_params(  # type: ignore[misc]
            **{name: value for name, value in params.items() if name in own}
        )
        others = {name: value for name, value in params.items() if name not in own}
        self._net_params = self._net_params | others
        return self


class NetParams(NamedTuple):
    """``module__*`` and the like of one learner.

    Parameters
    ----------
    params : dict
        Names and values.
    learner_name : str
        The class of the learner, for messages.
    constructor_names : tuple of str
        The names of its other parameters, for messages.
    """

    params: dict[str, Any]
    learner_name: str
    constructor_names: tuple[str, ...]

    def of(self, prefix: str) -> dict[str, Any]:
        """Return the parameters with a prefix, without the prefix, as copies.

        Parameters
        ----------
        prefix : str
            For example ``"miner"``.

        Returns
        -------
        dict
            Names and values.
        """
        named = ((name.partition("__"), value) for name, value in self.params.items())
        return {rest: copy.deepcopy(v) for (first, _, rest), v in named if rest and first == prefix}

    def check(self, **targets: Any) -> None:
        """Raise if a parameter is taken by nothing; the error names those that exist.

        Parameters
        ----------
        **targets : class, callable, torch.nn.Module or None
            What takes the parameters of a prefix, under the name of the prefix. Parameters for
            None, and those of prefixes that are not given, are not checked.

        Raises
        ------
        ValueError
            If there is an unknown parameter, or one for an instance that is built already.
        """
        targets |= {"iterator_train": DataLoader, "compile": torch.compile}
        for name in self.params:
            prefix, _, rest = name.partition("__")
            if prefix not in PREFIXES or not rest:
                raise ValueError(
                    f"{self.learner_name} has no parameter {name!r}. Its parameters are "
                    f"{sorted(self.constructor_names)}, and those that begin with "
                    f"{[f'{prefix}__' for prefix in PREFIXES]}."
                )
            target = targets.get(prefix)
            if isinstance(target, torch.nn.Module):
                raise ValueError(
                    f"{name!r} needs a class to build the {prefix} from, but an instance of "
                    f"{type(target).__name__} was given. If it were built anew it would lose its "
                    "weights. Pass the class, or set the parameter on the instance."
                )
            if target is not None:
                valid, takes_any = accepted_names(target)
                if not takes_any:
                    known = {*valid, *MORE.get(prefix, ())} - OURS.get(prefix, set())
                    self.check_one(name, known)

    def check_one(self, name: str, valid: Iterable[str]) -> None:
        """Raise if a parameter is not one of those of its prefix.

        Parameters
        ----------
        name : str
            The parameter, with its prefix.
        valid : iterable of str
            The names that may follow the prefix.

        Raises
        ------
        ValueError
            If it is another.
        """
        prefix, _, rest = name.partition("__")
        if rest.partition("__")[0] not in valid:
            raise ValueError(
                f"{self.learner_name} has no parameter {name!r}. Those that begin with "
                f"{prefix}__ are {sorted(f'{prefix}__{one}' for one in valid)}."
            )


class Part(NamedTuple):
    """A network or a loss: a class or function to build it with, or an instance.

    Parameters
    ----------
    name : str
        The parameter of the learner that holds it.
    target : class, callable or torch.nn.Module
        The class, the function, or the instance.
    offered : dict
        Parameters that a class or function is given if it takes them.
    if_required : dict
        Parameters that it is given if they have no default.
    """

    name: str
    target: Any
    offered: Mapping[str, Any] = MappingProxyType({})
    if_required: Mapping[str, Any] = MappingProxyType({})

    @property
    def is_built(self) -> bool:
        """Whether it is an instance."""
        return isinstance(self.target, torch.nn.Module)

    def params(self, own: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters that it is built with; none for an instance.

        Parameters
        ----------
        own : dict
            Parameters that the user set for it. They replace those that are offered.

        Returns
        -------
        dict
            Names and values.

        Raises
        ------
        ValueError
            If a required parameter is missing.

        Examples
        --------
        >>> import torch
        >>> from skdml.deep.parameters import Part
        >>> Part("module", torch.nn.Linear, {"out_features": 2}).params({})
        Traceback (most recent call last):
            ...
        ValueError: module=Linear is built with ['in_features']. Give module__in_features.
        """
        if self.is_built:
            return {}
        name, target = self.name, self.target
        taken, required = accepted_names(target)[0], required_names(target)
        given = {key: value for key, value in self.offered.items() if key in taken}
        given |= {key: value for key, value in self.if_required.items() if key in required}
        given |= own
        if missing := [one for one in required if one not in given]:
            message = f"{name}={getattr(target, '__name__', target)} is built with {missing}. Give "
            message += ", ".join(f"{name}__{one}" for one in missing)
            if not inspect.isclass(target):
                message += f"; if this function does not return the {name} but is the {name} "
                message += "itself, pass a torch.nn.Module that calls it"
            raise ValueError(f"{message}.")
        return given

    def copy_if_built(self) -> Any:
        """Return what may be trained: the class, or a copy of the user's instance."""
        return copy.deepcopy(self.target) if self.is_built else self.target


def accepted_names(target: Callable[..., Any]) -> tuple[list[str], bool]:
    """Return the names of the keyword parameters of a class or function.

    Parameters
    ----------
    target : callable
        A class, or a function.

    Returns
    -------
    names : list of str
        The names.
    takes_any : bool
        Whether a ``**`` takes all other names.

    Examples
    --------
    >>> from skdml.deep.parameters import accepted_names
    >>> accepted_names(lambda margin, power=1: None)
    (['margin', 'power'], False)
    """
    parameters = inspect.signature(target).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [p.name for p in parameters if p.kind in kinds]
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def required_names(target: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters of a class or function that have no default.

    Parameters
    ----------
    target : callable
        A class, or a function.

    Returns
    -------
    list of str
        The names.

    Examples
    --------
    >>> from skdml.deep.parameters import required_names
    >>> required_names(lambda n_classes, margin=1: None)
    ['n_classes']
    """
    names = []
    for owner in inspect.getmro(target) if inspect.isclass(target) else [target]:
        if owner is object:
            break
        parameters = inspect.signature(owner).parameters.values()
        given, _ = accepted_names(owner)
        names += [p.name for p in parameters if p.name in given and p.default is p.empty]
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            break  # otherwise *args go to the next class, which names what is required
    return names


def own_params(part: Any) -> dict[str, Any]:
    """Return the parameters that an instance was built with, as it keeps them.

    Parameters
    ----------
    part : object
        An instance whose attributes are named like its parameters.

    Returns
    -------
    dict
        Names and values.

    Raises
    ------
    ValueError
        If it does not keep all of them, so that it cannot be built anew.

    Examples
    --------
    >>> from skdml.deep.losses import NCALoss
    >>> from skdml.deep.parameters import own_params
    >>> own_params(NCALoss(0.5))
    {'temperature': 0.5, 'distance': 'sqeuclidean'}
    """
    names, takes_any = accepted_names(type(part))
    lost = [name for name in names if not hasattr(part, name)]
    if takes_any or lost:
        raise ValueError(
            f"This {type(part).__name__} does not keep all the parameters it was built with, so it "
            "cannot be built anew with others. Pass the class."
        )
    return {name: getattr(part, name) for name in names}
