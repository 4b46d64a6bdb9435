"""``anybatch inspect``: what a model takes and gives, and in which batch sizes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from anybatch import _registry
from anybatch._batching import Batching
from anybatch._calibration import Calibration
from anybatch._cli._arguments import BackendName, BatchSizes, Device, Independent, Json, ModelFile, Options, Safety, open_runner
from anybatch._cli._output import counted, is_simulated, new_table, print_json, print_table, print_text
from anybatch._costs import AffineCosts
from anybatch._errors import InputError
from anybatch._runner import Runner
from anybatch._tensors import TensorSpec


def inspect(
    model: ModelFile,
    backend: BackendName = None,
    device: Device = 0,
    batch_sizes: BatchSizes = None,
    option: Options = None,
    safety: Safety = "auto",
    independent: Independent = None,
    as_json: Json = False,
) -> None:
    """Open a model and show its inputs, outputs and batch sizes, and whether launches were measured."""
    # With costs of its own, so that a calibration that does not fit is reported here and not warned about as well.
    with open_runner(
        model, backend, device, batch_sizes, option, costs=AffineCosts(), safety=safety, independent=independent or ()
    ) as runner:
        kept = _kept(runner)
        rows = runner.safety if independent or safety != "off" else ()
        spec, batching, name, concurrency = runner.spec, runner.batching, runner.backend, runner.concurrency
    runtime = _registry.registry().get(name).check_usable()
    if as_json:
        print_json(
            {
                "model": str(model),
                "backend": name,
                "simulated": is_simulated(name),
                "runtime": runtime,
                "batching": batching_as_json(batching),
                "concurrency": concurrency,
                "calibration": _calibration_as_json(kept),
                "rows": [asdict(each) for each in rows],
                "inputs": [_as_json(tensor) for tensor in spec.inputs],
                "outputs": [_as_json(tensor) | {"combine": tensor.combine} for tensor in spec.outputs],
            }
        )
        return
    print_text(f"{model} on {name}{', simulated' * is_simulated(name)} ({runtime})")
    print_text(f"batching: {batching}; launches at once: {concurrency or 'any number'}")
    print_text(f"calibration: {_in_words(kept)}")
    for each in rows:
        print_text(f"rows of {each.name}: {each.verdict}; {each.reason}")
    print_text()
    table = new_table("side", "name", "dtype", "shape", "batch axis", "per row", numbers=("batch axis", "per row"))
    for side, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for tensor in tensors:
            axis, per_row = ("none", "-") if tensor.batch_axis is None else (str(tensor.batch_axis), str(tensor.rows_per_row))
            table.add_row(side, tensor.name, str(tensor.dtype), str(tensor).partition(" ")[2], axis, per_row)
    print_table(table)


def batching_as_json(batching: Batching) -> dict[str, Any]:
    """Return a batching's kind and fields, such as ``{"kind": "Gears", "sizes": [1, 4], "pads": false}``."""
    return {"kind": type(batching).__name__, **asdict(batching)}


def _kept(runner: Runner) -> Calibration | InputError | None:
    try:
        return runner.kept_calibration()
    except InputError as error:
        return error


def _in_words(kept: Calibration | InputError | None) -> str:
    if kept is None:
        return "none; anybatch calibrate makes one"
    if isinstance(kept, InputError):
        return f"not used: {kept}"
    return f"measured {age(kept.made, datetime.now(timezone.utc))} on the {kept.setting.clock}, kept in {kept.path}"


def age(made: str, now: datetime) -> str:
    """Return how long ago something was made, such as ``"3 hours ago"``; both times with their zone."""
    seconds = (now - datetime.fromisoformat(made)).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{counted(int(seconds // length), unit)} ago"
    return "just now" if seconds >= 0 else f"in the future, by this machine's clock ({made})"


def _calibration_as_json(kept: Calibration | InputError | None) -> dict[str, Any] | None:
    if kept is None:
        return None
    if isinstance(kept, InputError):
        return {"fits": False, "why": str(kept)}
    sizes = [each.size for each in kept.measurements]
    return {"fits": True, "path": str(kept.path), "made": kept.made, "clock": kept.setting.clock, "sizes": sizes}


def _as_json(tensor: TensorSpec) -> dict[str, Any]:
    """Return a tensor as JSON; in its shape, null is the batch axis or a free dimension, a text a named free one."""
    return {
        "name": tensor.name,
        "dtype": str(tensor.dtype),
        "shape": list(tensor.shape),
        "batch_axis": tensor.batch_axis,
        "rows_per_row": tensor.rows_per_row,
    }
