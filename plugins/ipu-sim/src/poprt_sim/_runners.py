"""The classes behind `poprt_sim.runtime`: runners, their descriptors and futures, and the device manager."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from poprt_sim._batching import Feed, Options, Request
from poprt_sim._compute import Program
from poprt_sim._configs import (
    OFF,
    DeviceWaitConfig,
    HostConcatRunnerConfig,
    LightRunnerConfig,
    PackRunnerConfig,
    ReplicaIdToDevice,
    RuntimeConfig,
    nanoseconds,
)
from poprt_sim._devices import Claim, Device
from poprt_sim._host_concat import Merge, described, merging, unmerged
from poprt_sim._ledger import caller_site
from poprt_sim._machine import IPU_VERSIONS, Machine, api, machine
from poprt_sim._popef import Popef, TensorInfo, read_popef
from poprt_sim._unsimulated import NotSimulated

F = TypeVar("F", bound=Callable[..., Any])


class _Spelling:
    """A method that only some versions of PopRT have: elsewhere the attribute does not exist."""

    def __init__(self, function: Callable[..., Any], since: str, before: str | None) -> None:
        self._function = function
        self._since = since
        self._before = before
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: type) -> Any:
        here = machine()
        if not here.speaks(self._since, self._before):
            gone = f", gone in {self._before}" if self._before else ""
            raise AttributeError(
                f"{owner.__name__!r} has no attribute {self._function.__name__!r} in PopRT {here.version}: "
                f"it came with {self._since}{gone}"
            )
        return self._function.__get__(instance, owner)


def spelling(since: str, before: str | None = None) -> Callable[[F], F]:
    """The method exists from one version on, and until another."""

    def decorate(function: F) -> F:
        return cast("F", _Spelling(function, since, before))

    return decorate


class DataDesc:
    """One tensor that a runner takes or gives.

    Attributes:
        name: of the tensor.
        shape: as compiled; a list of this descriptor's own, which may be changed.
        popef_contains_tensor_data: whether the PopEF holds its contents (a weight) and a caller need not send it.
        size_in_bytes: at the compiled shape. Decision: the name is the snake_case of the C++ one.
    """

    def __init__(
        self,
        name: str,
        size_in_bytes: int,
        shape: list[int],
        data_type: npt.DTypeLike,
        popef_contains_tensor_data: bool = False,
    ) -> None:
        self.name = name
        self.size_in_bytes = size_in_bytes
        self.shape = list(shape)
        self.data_type = np.dtype(data_type)
        self.popef_contains_tensor_data = popef_contains_tensor_data

    def numpy_data_type(self) -> np.dtype[Any]:
        """The element type: a `numpy.dtype`, which equals its own name ("float32") as published programs expect."""
        return self.data_type

    def __repr__(self) -> str:
        return f"DataDesc({self.name!r}, {self.shape}, {self.data_type})"


class InputMemoryView(dict[str, npt.NDArray[Any]]):
    """Inputs by name; a dictionary does as well."""


class OutputMemoryView(dict[str, npt.NDArray[Any]]):
    """Outputs by name; a dictionary does as well."""


class ExecuteFuture:
    """What `execute_async` returns: its results are in the caller's arrays when `wait` returns, and not before."""

    def __init__(self, feed: Feed, request: Request) -> None:
        self._feed = feed
        self._request = request

    @api("runtime.ExecuteFuture.wait")
    def wait(self) -> None:
        """Block until the results are there; any thread may, more than once. The GIL is free meanwhile.

        Raises:
            RuntimeError: the device failed.
            Violation: nothing will ever complete the request; or its inputs changed before their results were there.
        """
        _wait_done(self._feed, self._request, "wait()")


def _wait_done(feed: Feed, request: Request, what: str) -> None:
    here = feed.machine
    with here.lock:
        try:
            here.wait(lambda: request.done, what)
        except BaseException:
            feed.withdraw(request)
            raise
        if request.error is not None:
            raise RuntimeError(request.error)
        feed.check_unchanged(request)


def popef_of(source: Any) -> Popef:
    """The compiled model that a runner was given: by path, or as an `Executable`.

    Raises:
        TypeError: neither.
        PopefError: the file cannot be used.
    """
    if isinstance(source, str):
        return read_popef(source)
    popef = getattr(source, "popef", None)
    if not isinstance(popef, Popef):
        raise TypeError(f"popef: expected a path as str, or an Executable, got {type(source).__name__}")
    return popef


class _Loaded:
    """A model on its device: what a runner has between construction (or reload) and destruction (or stop)."""

    def __init__(
        self,
        here: Machine,
        popef: Popef,
        merges: Sequence[Merge],
        options: Options,
        pinned: Mapping[int, Any],
        wait: DeviceWaitConfig,
    ) -> None:
        self.machine = here
        what = f"the runner of {popef.name!r}"
        if popef.ipu_version != here.config.ipu_version:
            others = ", ".join(each for each in IPU_VERSIONS if each != here.config.ipu_version)
            raise RuntimeError(
                f"{what} was compiled for {popef.ipu_version}, but the IPUs here are {here.config.ipu_version}, not {others}: "
                "compile with ipu_version = runtime.DeviceManager().ipu_hardware_version()"
            )
        program = Program(popef)  # before any device is taken: it may find the file damaged
        with here.lock:
            here.collect()
            self.claims: list[Claim] = []
            if pinned:
                if sorted(pinned) != [0]:
                    raise RuntimeError(f"{what} has one replica: expected a device for replica 0, got {sorted(pinned)}")
                claim = pinned[0]._claim
                if len(claim.ids) != popef.num_ipus:
                    raise RuntimeError(f"{what} needs {popef.num_ipus} IPUs, the device for replica 0 has {len(claim.ids)}")
                self.claims.append(here.devices.load_on(claim, what))
            else:
                wait_s = (float(wait.timeout_sec), float(wait.sleep_time_sec))
                self.claims.append(here.devices.attach(popef.num_ipus, "runner", what, wait_s))
            thread = here.clock.thread()
            thread.cursor += here.profile.attach_us
            self.feed = Feed(here, unmerged(popef, merges), merging(program.run, merges), options, thread.cursor)
        self.program = program

    def close(self, how: str, moment: float, *, raises: bool) -> None:
        """Leave the device at a virtual time; with the machine's lock held."""
        if not self.claims:
            return
        flying = len(self.feed.in_flight)
        self.feed.close(f"the runner was {how} while this request was in flight")
        for claim in self.claims:
            self.machine.devices.give_back(claim, moment)
        self.claims = []
        if flying:
            self.machine.violate(
                "requests in flight",
                f"the runner of {self.feed.popef.name!r} was {how} with {flying} requests in flight; wait for them first",
                raises=raises,
            )


class _Runner:
    """What all runners share. The destructor gives the device back."""

    _loaded: _Loaded | None

    def _start(
        self,
        popef: Popef,
        options: Options,
        pinned: Mapping[int, Any],
        wait: DeviceWaitConfig,
        merges: Sequence[Merge] = (),
    ) -> None:
        self._machine = machine()
        self._popef, self._merges = popef, merges
        self._options, self._pinned, self._wait = options, dict(pinned), wait
        self._load()

    def _load(self) -> None:
        loaded = self._loaded = _Loaded(self._machine, self._popef, self._merges, self._options, self._pinned, self._wait)

        def gone() -> None:
            moment = loaded.machine.clock.cursor_here()
            loaded.machine.finalized.append(lambda: loaded.close("deleted", moment, raises=False))

        self._finalizer = weakref.finalize(self, gone)
        self._finalizer.atexit = False

    def _feed(self) -> Feed:
        if self._loaded is None:
            self._machine.violate("use after stop", "the runner was stopped and has no device: call reload() first")
            raise RuntimeError("the runner was stopped and has no device: call reload() first")
        if self._machine is not machine():
            raise RuntimeError("this runner belongs to a simulated machine that was replaced by testing.reset")
        return self._loaded.feed

    def _submit(self, input: Any, output: Any) -> tuple[Feed, Request]:  # noqa: A002 - the vendor's names
        for what, given in (("input", input), ("output", output)):
            if not isinstance(given, Mapping):
                raise TypeError(f"{what}: expected a dict of name and numpy.ndarray, got {type(given).__name__}")
        here = self._machine
        with here.lock:
            feed = self._feed()
            thread = here.clock.thread()
            if not feed.options.thread_safe and feed.inside - {thread.number}:
                here.violate("not thread safe", "two threads are in execute at once, and thread_safe is False")
            request = feed.request(input, output, caller_site())
            feed.submit(request)
            return feed, request

    @api("runtime.Runner.execute")
    def execute(self, input: Mapping[str, npt.NDArray[Any]], output: Mapping[str, npt.NDArray[Any]]) -> None:  # noqa: A002
        """Run a request and block until its results are in the caller's `output` arrays. The GIL is free meanwhile.

        Args:
            input: every input of the model, C-contiguous. With `batching_dim` of any number of rows on that axis, the same for
                all; else whole compiled batches. Not written.
            output: every output, C-contiguous and writable, of as many rows. Rows of padding and of others never reach them.

        Raises:
            TypeError: not dictionaries of arrays.
            RuntimeError: a name, element type or size that does not fit, and nothing was executed; or the device failed.
            Violation: arrays that another request uses, inputs that another thread changed, or a wait that nothing can end.
        """
        feed, request = self._submit(input, output)
        here = self._machine
        with here.lock:
            number = here.clock.thread().number
            feed.inside.add(number)
        try:
            _wait_done(feed, request, "execute()")
        finally:
            with here.lock:
                feed.inside.discard(number)

    def _execute_async(self, input: Any, output: Any) -> ExecuteFuture:  # noqa: A002
        feed, request = self._submit(input, output)
        with self._machine.lock:
            self._machine.wait(lambda: request.entered, "execute_async(), which waits for room in the ring buffer,")
        return ExecuteFuture(feed, request)

    @spelling("1.3.0")
    @api("runtime.Runner.execute_async")
    def execute_async(self, input: Mapping[str, npt.NDArray[Any]], output: Mapping[str, npt.NDArray[Any]]) -> ExecuteFuture:  # noqa: A002
        """Send a request; blocks only while the ring buffer is full. Both sides' arrays stay untouched until `wait` returns.

        Raises:
            As `execute`; what the device answers, `wait` raises.
        """
        return self._execute_async(input, output)

    @api("runtime.Runner.executeAsync")
    def executeAsync(self, input: Mapping[str, npt.NDArray[Any]], output: Mapping[str, npt.NDArray[Any]]) -> ExecuteFuture:  # noqa: A002, N802
        """`execute_async` as it was spelled before 1.3.0."""
        return self._execute_async(input, output)

    @spelling("1.1.0")
    @api("runtime.Runner.get_execute_inputs")
    def get_execute_inputs(self) -> list[DataDesc]:
        """What one call of execute needs, at the compiled shapes. New descriptors in each call."""
        return _describe(unmerged(self._popef, self._merges).inputs)

    @spelling("1.1.0")
    @api("runtime.Runner.get_execute_outputs")
    def get_execute_outputs(self) -> list[DataDesc]:
        """What one call of execute gives, at the compiled shapes."""
        return _describe(self._popef.outputs)

    @api("runtime.Runner.get_model_inputs")
    def get_model_inputs(self) -> list[DataDesc]:
        """What the model takes: `get_execute_inputs`, and the weights that may be updated."""
        return _describe(unmerged(self._popef, self._merges).inputs) + _describe(self._popef.anchors, stored=True)

    @api("runtime.Runner.get_model_outputs")
    def get_model_outputs(self) -> list[DataDesc]:
        """What the model gives."""
        return _describe(self._popef.outputs)


def _describe(infos: tuple[TensorInfo, ...], *, stored: bool = False) -> list[DataDesc]:
    return [
        DataDesc(info.name, math.prod(info.shape) * info.dtype.itemsize, list(info.shape), info.dtype, stored) for info in infos
    ]


def _options(config: RuntimeConfig) -> Options:
    values = vars(config)
    timeout_us = nanoseconds(values["timeout_ns"]) / 1e3 or math.inf
    partial_us = timeout_us
    if values.get("is_batch_size_timeout_enabled"):
        ns = nanoseconds(values["batch_size_timeout_ns"])
        partial_us = math.inf if ns == 0x7FFFFFFFFFFFFFFF else ns / 1e3
    return Options(
        axis=None if values["batching_dim"] == OFF else values["batching_dim"],
        timeout_us=timeout_us,
        partial_timeout_us=partial_us,
        ring_batches=values.get("ring_buffer_size_multiplier", 2),
        validate=values["validate_io_params"],
        thread_safe=values["thread_safe"],
        auto_reset=values.get("auto_reset", False),
    )


class Runner(_Runner):
    """A compiled model on a device, ready to run.

    Args:
        popef: a path, or an `Executable`.
        config: a `RuntimeConfig`; None: its defaults.

    Raises:
        TypeError: other arguments.
        PopefError: the file cannot be used.
        RuntimeError: no device, another hardware version.
        NotSimulated: a `PackRunnerConfig`.
    """

    @api("runtime.Runner")
    def __init__(self, popef: Any, config: RuntimeConfig | PackRunnerConfig | None = None) -> None:
        if isinstance(config, PackRunnerConfig):
            raise NotSimulated("running a pack (Runner with a PackRunnerConfig) is not simulated: use a RuntimeConfig")
        if config is None:
            config = RuntimeConfig()
        if not isinstance(config, RuntimeConfig):
            raise TypeError(f"config: expected a RuntimeConfig or PackRunnerConfig, got {type(config).__name__}")
        wait = vars(config)["device_wait_config"]
        self._start(popef_of(popef), _options(config), vars(config).get("replica_id_to_device") or {}, wait)


class ModelRunner(Runner):
    """`Runner`, under the name that it had before 1.1.0; published programs use it with later versions, too."""


class PackRunner:
    """A pack runner, as it was spelled before 1.3.0. Refused: not simulated."""

    def __init__(self, popef: Any, config: Any) -> None:  # noqa: ARG002
        raise NotSimulated("running a pack (PackRunner) is not simulated: use a Runner with a RuntimeConfig")


class LightRunner(_Runner):
    """A runner whose weights can be updated, and that can leave its device and come back.

    Decision: like a runner without dynamic batch size whose device waits for ever; nothing of a timeout is in its
    configuration.

    Raises:
        As `Runner`.
    """

    @api("runtime.LightRunner")
    def __init__(self, executable: Any, config: LightRunnerConfig | None = None) -> None:
        config = LightRunnerConfig() if config is None else config
        if not isinstance(config, LightRunnerConfig):
            raise TypeError(f"config: expected a LightRunnerConfig, got {type(config).__name__}")
        self._staged: dict[str, npt.NDArray[Any]] = {}
        self._start(popef_of(executable), Options(), config.replica_to_device, DeviceWaitConfig())

    @api("runtime.LightRunner.set_input_anchor")
    def set_input_anchor(self, name: str, value: npt.NDArray[Any]) -> None:
        """Keep a copy of a weight's new contents for `update_weights`.

        Raises:
            RuntimeError: it is no weight that may be updated, or of another type or shape.
        """
        info = {each.name: each for each in self._popef.anchors}.get(name)
        if info is None:
            may = ", ".join(repr(each.name) for each in self._popef.anchors) or "none: compile with constant_weights = False"
            raise RuntimeError(f"{name!r} is no weight that may be updated; these may: {may}")
        if not isinstance(value, np.ndarray) or value.dtype != info.dtype or value.shape != info.shape:
            got = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
            raise RuntimeError(f"weight {name!r}: expected {info.dtype} {list(info.shape)}, got {got}")
        self._staged[name] = value.copy()

    @api("runtime.LightRunner.update_weights")
    def update_weights(self) -> None:
        """Put what was set on the device; requests sent from now on see it.

        Decision: it waits for those in flight, and `reload` brings the file's own weights back.
        """
        with self._machine.lock:
            feed = self._feed()
            thread = self._machine.clock.thread()
            flying = list(feed.in_flight)
            self._machine.wait(
                lambda: (
                    max((each.done or 0.0 for each in flying), default=thread.cursor)
                    if all(each.done is not None for each in flying)
                    else None
                ),
                "update_weights(), which waits for requests in flight,",
            )
            assert self._loaded is not None
            self._loaded.program.update(self._staged)
            thread.cursor = max(thread.cursor, feed.free) + self._machine.profile.weights_us(
                sum(each.nbytes for each in self._staged.values())
            )
            feed.free = max(feed.free, thread.cursor)
            self._staged = {}

    @api("runtime.LightRunner.stop")
    def stop(self) -> None:
        """Leave the device, so that another runner can have it; once more is nothing.

        Raises:
            Violation: requests are in flight.
        """
        with self._machine.lock:
            loaded, self._loaded = self._loaded, None
            if loaded is not None:
                self._finalizer.detach()
                loaded.close("stopped", self._machine.clock.thread().cursor, raises=True)

    @api("runtime.LightRunner.reload")
    def reload(self) -> None:
        """Take the device again after `stop`.

        Raises:
            RuntimeError: the runner was not stopped, or its device is in use.
        """
        if self._loaded is not None:
            raise RuntimeError("the runner is on its device: call stop() before reload()")
        self._load()


class HostConcatRunner(_Runner):
    """A runner of a model whose small inputs were merged: a caller sends the small ones, and one goes to the device.

    Which ones were merged says the configuration, or where it says nothing, the PopEF; see `poprt_sim._host_concat`. Decision:
    otherwise like a `Runner` without dynamic batch size, since its configuration has no `batching_dim`.

    Raises:
        TypeError: other arguments, or a value in the configuration of another type.
        RuntimeError: as `Runner`; nothing says what was merged, what says so does not fit the model, or models are fused.
    """

    @api("runtime.HostConcatRunner")
    def __init__(self, executable: Any, config: HostConcatRunnerConfig | None = None) -> None:
        config = HostConcatRunnerConfig() if config is None else config
        if not isinstance(config, HostConcatRunnerConfig):
            raise TypeError(f"config: expected a HostConcatRunnerConfig, got {type(config).__name__}")
        config.check()
        popef = popef_of(executable)
        if popef.graphs:
            raise RuntimeError(f"{popef.name!r} holds fused models, which HostConcatRunner does not run: use a Runner")
        merges = _merges(popef, config) if config.host_concat_config else described(popef)
        options = Options(
            timeout_us=nanoseconds(config.timeout_ns) / 1e3 or math.inf,
            ring_batches=config.ring_buffer_size_multiplier,
        )
        self._start(popef, options, {}, DeviceWaitConfig(), merges)


def _merges(popef: Popef, config: HostConcatRunnerConfig) -> list[Merge]:
    merges = []
    for key, each in config.host_concat_config.items():
        try:
            merges.append(Merge.of(popef, each.tensor_name, each.input_tensor_names, each.shape, each.data_size_bytes))
        except ValueError as error:
            raise RuntimeError(f"host_concat_config[{key!r}]: {error}") from error
    return merges


class DeviceManager:
    """Finds and attaches IPUs."""

    @api("runtime.DeviceManager.ipu_hardware_version")
    def ipu_hardware_version(self) -> str:
        """Return "ipu21" for C600 cards, "ipu2" for IPU-M2000 and Bow."""
        return machine().config.ipu_version

    @api("runtime.DeviceManager.get_num_devices")
    def get_num_devices(self) -> int:
        """How many IPUs there are, in use or not."""
        return machine().config.devices

    @api("runtime.DeviceManager.get_device")
    def get_device(self, num_ipus: int) -> Device:
        """Attach so many IPUs; they are free again when the last reference to the device is gone.

        Raises:
            RuntimeError: there are not so many, or they are in use. It does not wait.
        """
        here = machine()
        with here.lock:
            return Device(here, here.devices.attach(num_ipus, "device", f"get_device({num_ipus})"))

    @spelling("1.3.0")
    @api("runtime.DeviceManager.get_specific_device")
    def get_specific_device(self, device_id: int) -> Device:
        """Attach one IPU by its number, from 0.

        Raises:
            RuntimeError: there is none of that number, or it is in use.
        """
        here = machine()
        with here.lock:
            return Device(here, here.devices.attach_specific(device_id, f"get_specific_device({device_id})"))


__all__ = [
    "DataDesc",
    "DeviceManager",
    "ExecuteFuture",
    "HostConcatRunner",
    "InputMemoryView",
    "LightRunner",
    "ModelRunner",
    "OutputMemoryView",
    "PackRunner",
    "ReplicaIdToDevice",
    "Runner",
]
