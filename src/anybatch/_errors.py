"""Every error anybatch raises, by whose move it is.

AnybatchError
├── InputError (ValueError)             the caller: an argument or a request does not fit
├── ModelError                          the file: it cannot be read, or not run the way it was asked to
│   └── CoupledRowsError                its rows influence one another, and the request would have to be split or padded
├── BackendNotFoundError (LookupError)  the installation: no such backend, or two of the same name
├── BackendUnavailableError             the installation: the backend is there, what it needs is not
├── MissingPackageError (ImportError)   the installation: a package that only some functions need is not there
├── DeviceError                         the runtime failed; carries backend, operation and status
├── ClosedError                         the runner or session was used after close()
└── ContractError                       a plugin broke the contract of Session or Backend: a bug in the plugin

Messages say what was expected, what came, and what to do.
"""

from __future__ import annotations

__all__ = [
    "AnybatchError",
    "BackendNotFoundError",
    "BackendUnavailableError",
    "ClosedError",
    "ContractError",
    "CoupledRowsError",
    "DeviceError",
    "InputError",
    "MissingPackageError",
    "ModelError",
    "SafetyWarning",
]


class AnybatchError(Exception):
    """Base class of everything this library raises on purpose."""


class InputError(AnybatchError, ValueError):
    """An argument or a request does not fit. Nothing was executed; the runner stays usable."""


class ModelError(AnybatchError):
    """The model cannot be read, or cannot be run the way it was asked to."""


class CoupledRowsError(ModelError):
    """Rows of the model influence one another, so this request would come out wrong. Nothing was executed.

    Attributes:
        node: the node of the graph that couples them; None where that is not known.
    """

    def __init__(self, message: str, *, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


class SafetyWarning(RuntimeWarning):
    """A model is split and padded though nobody has proven that its rows do not influence one another."""


class BackendNotFoundError(AnybatchError, LookupError):
    """No backend of that name is installed, or more than one claims it."""


class BackendUnavailableError(AnybatchError):
    """The backend is installed, but what it needs (an SDK, a driver, a device) is missing."""


class MissingPackageError(AnybatchError, ImportError):
    """A package is missing that only some functions need; the message says which extra of anybatch brings it."""


class ClosedError(AnybatchError):
    """A runner or session was used after close()."""


class ContractError(AnybatchError):
    """A plugin returned or did what its contract rules out. Report it to the plugin's authors."""


class DeviceError(AnybatchError):
    """The runtime failed while it executed, loaded or freed something.

    Attributes:
        backend: name of the backend, such as ``"onnxruntime"``.
        operation: the runtime's function or step that failed, in the vendor's spelling.
        status: the runtime's own status code or name; None where it has none.
    """

    def __init__(self, message: str, *, backend: str, operation: str, status: int | str | None = None) -> None:
        code = "" if status is None else f" (status {status})"
        super().__init__(f"{backend}: {operation} failed{code}: {message}")
        self.backend = backend
        self.operation = operation
        self.status = status
