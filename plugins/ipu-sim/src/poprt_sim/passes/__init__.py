"""Passes over ONNX models: the registry, the base class, and those that PopRT registers.

A pass here either does what its name says, or is one that only makes an IPU faster and leaves the model as it is, or is refused
when it runs; `poprt_sim.passes._builtin` says which is which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import onnx

__all__ = [
    "Pass",
    "PassManager",
    "ShapeFunc",
    "get_dtype",
    "get_pass",
    "get_registered_passes",
    "get_shape",
    "override_register",
    "register",
    "register_shape_func",
]

_P = TypeVar("_P")


class Pass:
    """One change of a model. Subclasses override `run`."""

    _registered: dict[str, Any] = {}  # noqa: RUF012 - one registry for all, as in PopRT

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def __call__(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        """The same as `run`."""
        return self.run(onnx_model)

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the changed model; a pass may change the one it is given, too.

        Raises:
            NotImplementedError: a subclass has not overridden it.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.run: a pass overrides it; got a model of {len(onnx_model.graph.node)} nodes"
        )

    def traverse_graph(
        self,
        graph: onnx.GraphProto,
        transform: Callable[[onnx.GraphProto, bool], onnx.GraphProto],
        is_main_graph: bool = True,
    ) -> onnx.GraphProto:
        """Return the graph with `transform(graph, is_main_graph)` done to it and to every graph inside it, inner ones first."""
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    attribute.g.CopyFrom(self.traverse_graph(attribute.g, transform, False))
                for inner in attribute.graphs:
                    inner.CopyFrom(self.traverse_graph(inner, transform, False))
        return transform(graph, is_main_graph)

    @staticmethod
    def get_pass(name: str, *args: Any, **kwargs: Any) -> Pass:
        """Return a new pass by its registered name; arguments go to its constructor.

        Raises:
            KeyError: there is none.
        """
        found = Pass._registered.get(name)
        if found is None:
            raise KeyError(f"no pass is registered as {name!r}; get_registered_passes() lists them")
        made: Pass = found(*args, **kwargs)
        return made

    @staticmethod
    def get_registered_passes() -> dict[str, Any]:
        """Return the classes of all registered passes by name."""
        return dict(Pass._registered)

    @staticmethod
    def get_typed_registered_passes(pass_type: Any) -> dict[str, Any]:
        """Return those registered passes that are subclasses of a class."""
        return {name: each for name, each in Pass._registered.items() if isinstance(each, type) and issubclass(each, pass_type)}

    @staticmethod
    def register_pass(pass_name: str) -> Callable[[_P], _P]:
        """Return a decorator that registers a class under a name.

        Raises:
            ValueError: (the decorator) the name is taken; see `override_register_pass`.
        """

        def decorate(made: _P) -> _P:
            if pass_name in Pass._registered:
                raise ValueError(f"a pass is already registered as {pass_name!r}; override_register_pass replaces it")
            Pass._registered[pass_name] = made
            return made

        return decorate

    @staticmethod
    def override_register_pass(pass_name: str) -> Callable[[_P], _P]:
        """Return a decorator that registers a class under a name, in the place of another if need be."""

        def decorate(made: _P) -> _P:
            Pass._registered[pass_name] = made
            return made

        return decorate

    @staticmethod
    def property_register(k: str, v: Any) -> Callable[[_P], _P]:
        """Return a decorator that stores a property at a class; Decision: the simulator reads none of them."""

        def decorate(made: _P) -> _P:
            properties = {**getattr(made, "properties", {}), k: v}
            made.properties = properties  # type: ignore[attr-defined]
            return made

        return decorate

    @staticmethod
    def constraint_passes(constraint_name: str, pass_names: Sequence[str]) -> Callable[[_P], _P]:
        """Return a decorator that stores which passes this one is "against", must "depend" on, or runs "before"."""
        if constraint_name not in ("against", "depend", "before"):
            raise ValueError(f"constraint: expected against, depend or before, got {constraint_name!r}")
        return Pass.property_register(constraint_name, list(pass_names))

    @staticmethod
    def against_passes(pass_names: Sequence[str]) -> Callable[[_P], _P]:
        """Return a decorator that stores which passes this one cannot work with."""
        return Pass.constraint_passes("against", pass_names)


class PassManager:
    """Several passes, run one after another.

    Args:
        used_passes: names, or passes.
        gather_ir_passes: Decision: without effect, there is no other representation to gather them in.
    """

    def __init__(self, used_passes: Sequence[str | Pass] = (), gather_ir_passes: bool = False) -> None:
        self._passes: list[tuple[str, Pass]] = []
        self.add_passes(used_passes, gather_ir_passes)

    def add_passes(self, used_passes: Sequence[str | Pass] = (), gather_ir_passes: bool = False) -> None:  # noqa: ARG002
        """Add passes behind those that are there.

        Raises:
            KeyError: a name is not registered.
        """
        names = {made: name for name, made in Pass._registered.items()}
        for each in used_passes:
            if isinstance(each, str):
                self._passes.append((each, Pass.get_pass(each)))
            else:
                self._passes.append((names.get(type(each), type(each).__name__), each))

    def get_all_pass_names(self) -> list[str]:
        """Return the names, in the order in which the passes run."""
        return [name for name, _ in self._passes]

    def get_passes(self) -> list[Pass]:
        """Return the passes, in the order in which they run."""
        return [each for _, each in self._passes]

    def sort_passes(self) -> None:
        """Move each pass behind those it depends on and in front of those it says it runs before; the rest keep their order.

        Raises:
            RuntimeError: that is not possible, or two of them are against each other.
        """
        names = self.get_all_pass_names()
        behind: dict[int, set[int]] = {index: set() for index in range(len(names))}
        for index, (name, each) in enumerate(self._passes):
            properties: Mapping[str, Sequence[str]] = getattr(type(each), "properties", {})
            for other, other_name in enumerate(names):
                if other_name in properties.get("against", ()):
                    raise RuntimeError(f"the passes {name!r} and {other_name!r} cannot work together")
                if other_name in properties.get("depend", ()):
                    behind[index].add(other)
                if other_name in properties.get("before", ()):
                    behind[other].add(index)
        order: list[int] = []
        while len(order) < len(names):
            ready = [index for index in behind if index not in order and behind[index] <= set(order)]
            if not ready:
                raise RuntimeError(f"the passes {', '.join(names)} depend on each other in a circle")
            order.append(ready[0])
        self._passes = [self._passes[index] for index in order]

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model after all passes."""
        self.sort_passes()
        for _, each in self._passes:
            onnx_model = each.run(onnx_model)
        return onnx_model


def register(name: str) -> Callable[[_P], _P]:
    """Return a decorator that registers a pass under a name; see `Pass.register_pass`."""
    return Pass.register_pass(name)


def override_register(name: str) -> Callable[[_P], _P]:
    """Return a decorator that registers a pass, in the place of another if need be."""
    return Pass.override_register_pass(name)


def get_registered_passes() -> dict[str, Any]:
    """Return the classes of all registered passes by name."""
    return Pass.get_registered_passes()


def get_pass(name: str, *args: Any, **kwargs: Any) -> Pass:
    """Return a new pass by its registered name; see `Pass.get_pass`."""
    return Pass.get_pass(name, *args, **kwargs)


from poprt_sim.passes import _builtin  # noqa: E402, F401 - registers them
from poprt_sim.passes.onnx_helper import get_dtype, get_shape  # noqa: E402
from poprt_sim.passes.shape_inference import ShapeFunc, register_shape_func  # noqa: E402
