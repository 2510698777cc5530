"""The parameters of the net inside a deep learner, as ordinary scikit-learn parameters."""

import copy
import inspect

import torch
from torch.utils.data import DataLoader

PREFIXES = ("module", "head", "loss", "criterion", "miner", "optimizer")
PREFIXES += ("iterator_train", "callbacks", "compile")

# skorch reads one parameter that no optimizer has. The others are not for the user: the sampler
# makes the batches, and the net knows its weights.
MORE = {"optimizer": {"param_groups"}}
OURS = {
    "optimizer": {"params"},
    "iterator_train": {"dataset", "batch_size", "shuffle", "sampler", "drop_last", "in_order"},
    "compile": {"model"},
}


class NetParametersMixin:
    """``module__*``, ``optimizer__*`` and the like, kept beside the parameters of the estimator.

    They are what ``**net_params`` of the constructor caught. The constructor and `set_params`
    accept any, as scikit-learn wants it; `fit` calls `check_net_params`.
    """

    def get_params(self, deep=True):
        """Get the parameters, those for the net (``module__*`` etc.) included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the parameters of parameters that are estimators.

        Returns
        -------
        dict
            Names and values.
        """
        return super().get_params(deep=deep) | self._net_params

    def set_params(self, **params):
        """Set parameters; ``module__*`` etc. are accepted here and checked by `fit`.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self
            The estimator.
        """
        own = super().get_params(deep=False)
        super().set_params(**{name: value for name, value in params.items() if name in own})
        others = {name: value for name, value in params.items() if name not in own}
        self._net_params = self._net_params | others
        return self

    def params_of(self, prefix):
        """Return the parameters of a prefix, without it; ready-made parts among them are copied.

        Parameters
        ----------
        prefix : str
            As ``"miner"``.

        Returns
        -------
        dict
            Names and values.
        """
        named = ((name.partition("__"), value) for name, value in self._net_params.items())
        return {rest: copy.deepcopy(v) for (first, _, rest), v in named if rest and first == prefix}

    def check_net_params(self, *, module, head=None, criterion=None, optimizer=None):
        """Refuse parameters that nothing takes, naming those that exist.

        Parameters
        ----------
        module, head, criterion, optimizer : class, callable, torch.nn.Module or None
            What takes the parameters of these names; the criterion those of the loss, too. Those
            of what is None are not looked at.

        Raises
        ------
        ValueError
            If there is an unknown parameter, or one for an instance that is built already.
        """
        owner = type(self).__name__
        targets = {"module": module, "head": head, "criterion": criterion, "loss": criterion}
        targets |= {"optimizer": optimizer, "iterator_train": DataLoader, "compile": torch.compile}
        for name in self._net_params:
            prefix, _, rest = name.partition("__")
            if prefix not in PREFIXES or not rest:
                raise ValueError(
                    f"{owner} has no parameter {name!r}{self._who_has(name)}. Its parameters are "
                    f"{sorted(super().get_params(deep=False))}, and those that begin with "
                    f"{[f'{prefix}__' for prefix in PREFIXES]}."
                )
            target = targets.get(prefix)
            if isinstance(target, torch.nn.Module):
                raise ValueError(
                    f"{name!r} is for a {prefix} that is a class, but a ready instance of "
                    f"{type(target).__name__} was given: built anew with this parameter it would "
                    "lose its weights. Give the class, or set the parameter on the instance."
                )
            if target is not None:
                valid, takes_any = accepted_names(target)
                if not takes_any:
                    valid = {*valid, *MORE.get(prefix, ())} - OURS.get(prefix, set())
                    self._check_known(name, valid)

    def _who_has(self, name):
        """Say which more general learner has a parameter, if one has."""
        bases = [base for base in type(self).__mro__[1:] if issubclass(base, NetParametersMixin)]
        owners = [base.__name__ for base in bases if name in accepted_names(base)[0]]
        return f", which {owners[0]} has" if owners else ""

    def check_callback_params(self, names):
        """Refuse parameters for callbacks that are not there.

        Parameters
        ----------
        names : list of str
            The names of the callbacks.

        Raises
        ------
        ValueError
            If a parameter is for another.
        """
        for name in self._net_params:
            if name.startswith("callbacks__"):
                self._check_known(name, names)

    def _check_known(self, name, valid):
        prefix, _, rest = name.partition("__")
        if rest.partition("__")[0] not in valid:
            raise ValueError(
                f"{type(self).__name__} has no parameter {name!r}. Those that begin with "
                f"{prefix}__ are {sorted(f'{prefix}__{one}' for one in valid)}."
            )


def accepted_names(target):
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
        Whether there is a ``**`` that takes others, too.

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


def required_names(target):
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
            break  # otherwise what is required is told by the class that *args are passed to
    return names


def check_complete(name, target, given):
    """Raise if a class or function is not given all the parameters that it asks for.

    Parameters
    ----------
    name : str
        What the learner calls it.
    target : class, callable or torch.nn.Module
        What is to be built; an instance is already.
    given : set of str
        The names of the parameters that it is given.

    Raises
    ------
    ValueError
        If one is lacking.

    Examples
    --------
    >>> import torch
    >>> from skdml.deep.parameters import check_complete
    >>> check_complete("module", torch.nn.Linear, {"in_features"})
    Traceback (most recent call last):
        ...
    ValueError: module=Linear is built with ['out_features']. Give module__out_features.
    """
    if isinstance(target, torch.nn.Module):
        return
    if lacking := [one for one in required_names(target) if one not in given]:
        told = f"{name}={getattr(target, '__name__', target)} is built with {lacking}. Give "
        told += ", ".join(f"{name}__{one}" for one in lacking)
        if not inspect.isclass(target):
            told += f"; if it is no function that returns the {name}, but the {name} itself, "
            told += "give a torch.nn.Module that calls it"
        raise ValueError(f"{told}.")


def own_params(part):
    """Return the parameters that an instance was built with, as it keeps them.

    Parameters
    ----------
    part : object
        An instance whose attributes are named as its parameters.

    Returns
    -------
    dict
        Names and values.

    Raises
    ------
    ValueError
        If it does not keep them all, and so cannot be built anew.

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
            f"A ready {type(part).__name__} does not tell all the parameters it was built with, so "
            "it cannot be built anew with others. Give the class."
        )
    return {name: getattr(part, name) for name in names}
