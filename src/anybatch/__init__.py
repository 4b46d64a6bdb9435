"""Any number of rows through models compiled for a few batch sizes, whatever hardware runs them."""

from anybatch._advisor import Advice, GearChoice, GearUse, advise
from anybatch._artefacts import Kept, cache_folder, external_files, keep_artefact, model_digest
from anybatch._backend import Backend, Clock, Compiled, Compiler, Model, Session, check_launch, check_options, gear_limits
from anybatch._batching import AnyBatch, Batching, Gears, MultipleOf, check_batch_sizes
from anybatch._calibration import Calibration, Measurement, Setting
from anybatch._compiling import (
    COMMON_OPTIONS,
    CommonOptions,
    CompiledFiles,
    CompileJob,
    check_compiled_for,
    read_mapping,
    read_path,
)
from anybatch._costs import AffineCosts, Costs, CurveCosts, TableCosts, UncertainCosts
from anybatch._errors import (
    AnybatchError,
    BackendNotFoundError,
    BackendUnavailableError,
    ClosedError,
    ContractError,
    CoupledRowsError,
    DeviceError,
    InputError,
    MissingPackageError,
    ModelError,
    SafetyWarning,
)
from anybatch._freeing import free_batch
from anybatch._guard import RowSafety, SafetyMode
from anybatch._hookspecs import hookimpl
from anybatch._onnx_spec import DeclaredTensor, find_model_spec, read_model, read_model_spec
from anybatch._planner import POLICIES, Explanation, Launch, Plan, Planner, Policy, explain_rows
from anybatch._registry import PluginFailure, Registry, available_backends, registry
from anybatch._registry import compile_model as compile
from anybatch._registry import open_model as open
from anybatch._runner import Runner, Stats
from anybatch._staging import Padding
from anybatch._tensors import Array, Combine, Dim, ModelSpec, TensorSpec
from anybatch._trial import Experiment, OutputTrial, Trial, TrialExample, TrialLaunch, TrialVerdict
from anybatch.comparison import Comparison, Entry, compare

__all__ = [
    "COMMON_OPTIONS",
    "POLICIES",
    "Advice",
    "AffineCosts",
    "AnyBatch",
    "AnybatchError",
    "Array",
    "Backend",
    "BackendNotFoundError",
    "BackendUnavailableError",
    "Batching",
    "Calibration",
    "Clock",
    "ClosedError",
    "Combine",
    "CommonOptions",
    "Comparison",
    "CompileJob",
    "Compiled",
    "CompiledFiles",
    "Compiler",
    "ContractError",
    "Costs",
    "CoupledRowsError",
    "CurveCosts",
    "DeclaredTensor",
    "DeviceError",
    "Dim",
    "Entry",
    "Experiment",
    "Explanation",
    "GearChoice",
    "GearUse",
    "Gears",
    "InputError",
    "Kept",
    "Launch",
    "Measurement",
    "MissingPackageError",
    "Model",
    "ModelError",
    "ModelSpec",
    "MultipleOf",
    "OutputTrial",
    "Padding",
    "Plan",
    "Planner",
    "PluginFailure",
    "Policy",
    "Registry",
    "RowSafety",
    "Runner",
    "SafetyMode",
    "SafetyWarning",
    "Session",
    "Setting",
    "Stats",
    "TableCosts",
    "TensorSpec",
    "Trial",
    "TrialExample",
    "TrialLaunch",
    "TrialVerdict",
    "UncertainCosts",
    "advise",
    "available_backends",
    "cache_folder",
    "check_batch_sizes",
    "check_compiled_for",
    "check_launch",
    "check_options",
    "compare",
    "compile",
    "explain_rows",
    "external_files",
    "find_model_spec",
    "free_batch",
    "gear_limits",
    "hookimpl",
    "keep_artefact",
    "model_digest",
    "open",
    "read_mapping",
    "read_model",
    "read_model_spec",
    "read_path",
    "registry",
]
