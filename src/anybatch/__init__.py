"""Any number of rows through models compiled for a few batch sizes, whatever hardware runs them."""

from anybatch._backend import Backend, Model, Session, check_launch, check_options
from anybatch._batching import AnyBatch, Batching, Gears, MultipleOf, check_batch_sizes
from anybatch._errors import (
    AnybatchError,
    BackendNotFoundError,
    BackendUnavailableError,
    ClosedError,
    ContractError,
    DeviceError,
    InputError,
    ModelError,
)
from anybatch._hookspecs import hookimpl
from anybatch._onnx_spec import DeclaredTensor, find_model_spec, read_model, read_model_spec
from anybatch._planner import (
    POLICIES,
    AffineCosts,
    Costs,
    Explanation,
    Launch,
    Plan,
    Planner,
    Policy,
    TableCosts,
    explain_rows,
)
from anybatch._registry import PluginFailure, Registry, available_backends, registry
from anybatch._registry import open_model as open
from anybatch._runner import Runner, Stats
from anybatch._staging import Padding
from anybatch._tensors import Array, Combine, Dim, ModelSpec, TensorSpec

__all__ = [
    "POLICIES",
    "AffineCosts",
    "AnyBatch",
    "AnybatchError",
    "Array",
    "Backend",
    "BackendNotFoundError",
    "BackendUnavailableError",
    "Batching",
    "ClosedError",
    "Combine",
    "ContractError",
    "Costs",
    "DeclaredTensor",
    "DeviceError",
    "Dim",
    "Explanation",
    "Gears",
    "InputError",
    "Launch",
    "Model",
    "ModelError",
    "ModelSpec",
    "MultipleOf",
    "Padding",
    "Plan",
    "Planner",
    "PluginFailure",
    "Policy",
    "Registry",
    "Runner",
    "Session",
    "Stats",
    "TableCosts",
    "TensorSpec",
    "available_backends",
    "check_batch_sizes",
    "check_launch",
    "check_options",
    "explain_rows",
    "find_model_spec",
    "hookimpl",
    "open",
    "read_model",
    "read_model_spec",
    "registry",
]
