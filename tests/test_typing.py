"""Every public signature is annotated in full: each parameter, and what is returned."""

import importlib
import inspect
import pkgutil
from functools import cached_property

import pytest

import skdml

PUBLIC_MODULES = [
    "skdml",
    "skdml.base",
    "skdml.constraints",
    "skdml.distances",
    "skdml.gallery",
    "skdml.linear",
    "skdml.metrics",
    "skdml.model_selection",
    "skdml.plotting",
    "skdml.preprocessing",
    "skdml.verification",
    "skdml.deep",
    "skdml.deep.losses",
    "skdml.deep.miners",
]
COLLECTORS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def public_objects(module):
    """Return what `__all__` names, or else the public names that the module defines itself."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def as_function(member):
    """Return the plain function behind a method, property or decorated function, or None."""
    for kind, attribute in (
        ((staticmethod, classmethod), "__func__"),
        (property, "fget"),
        (cached_property, "func"),
    ):
        if isinstance(member, kind):
            member = getattr(member, attribute)
    if not inspect.isfunction(member):
        member = getattr(member, "fn", None)  # scikit-learn's available_if
    return inspect.unwrap(member) if inspect.isfunction(member) else None


def public_functions(value, package):
    """Return the functions of the package that make up a function or class, by their full names.

    Of a class these are `__init__`, `__call__` and the public methods and properties, its own and
    those that it inherits within the package.
    """
    if inspect.isclass(value):
        members = [
            member
            for base in inspect.getmro(value)
            for name, member in vars(base).items()
            if name in ("__init__", "__call__") or not name.startswith("_")
        ]
    else:
        members = [value]
    functions = [function for member in members if (function := as_function(member))]
    return {
        f"{function.__module__}.{function.__qualname__}": function
        for function in functions
        if function.__module__.split(".")[0] == package
    }


def missing_annotations(function):
    """Return the names of the parameters without annotation, and "return" if that has none."""
    signature = inspect.signature(function)
    is_method = "." in function.__qualname__.split("<locals>.")[-1]
    missing = [
        name
        for place, (name, parameter) in enumerate(signature.parameters.items())
        if parameter.annotation is inspect.Parameter.empty
        and parameter.kind not in COLLECTORS
        and not (is_method and place == 0 and name in ("self", "cls"))
    ]
    returns = signature.return_annotation is not inspect.Signature.empty
    return missing + ([] if returns or function.__name__ == "__init__" else ["return"])


def find_incomplete(values, package):
    """Return a line for each function that is not annotated in full."""
    functions = {}
    for value in values:
        functions |= public_functions(value, package)
    return [
        f"{name}: {', '.join(missing)}"
        for name, function in sorted(functions.items())
        if (missing := missing_annotations(function))
    ]


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_public_signatures_are_annotated(name):
    objects = public_objects(importlib.import_module(name))
    assert objects
    incomplete = find_incomplete(objects.values(), "skdml")
    assert not incomplete, "\n".join(["without annotation:", *incomplete])


def test_every_public_module_is_inspected():
    names = {name for _, name, _ in pkgutil.iter_modules(skdml.__path__) if name[0] != "_"}
    assert {f"skdml.{name}" for name in names} <= set(PUBLIC_MODULES)


class Annotated:
    def __init__(self, size: int = 3):
        self.size = size

    @property
    def double(self) -> int:
        return 2 * self.size

    @classmethod
    def make(cls, size: int, **options) -> "Annotated":
        return cls(size)

    @staticmethod
    def add(a: int, b: int) -> int:
        return a + b

    def _private(self, a):
        return a


class Incomplete(Annotated):
    def __init__(self, size):
        super().__init__(size)

    @property
    def double(self):
        return 2 * self.size

    @staticmethod
    def add(a, b: int) -> int:
        return a + b

    def __call__(self, a: int, *, b) -> int:
        return a + b


def test_the_inspection_finds_what_is_missing():
    package = __name__.split(".")[0]
    assert len(public_functions(Annotated, package)) == 4
    assert find_incomplete([Annotated], package) == []
    assert [line.split("Incomplete.")[1] for line in find_incomplete([Incomplete], package)] == [
        "__call__: b",
        "__init__: size",
        "add: a",
        "double: return",
    ]
