"""What launches take, measured; how that is kept, and when it is trusted.

Sizes take turns, each round in an order of its own: in a loop over one size its weights stay in the caches and its threads stay
awake, and the same launch took up to 2.5 times as long once others came between. The estimate is the median, whose confidence
interval comes from order statistics, so no distribution is assumed and outliers do not count.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from anybatch._artefacts import cache_folder, model_digest
from anybatch._backend import Clock, Model
from anybatch._batching import AnyBatch, Batching, Gears, MultipleOf
from anybatch._costs import CurveCosts
from anybatch._errors import InputError, ModelError
from anybatch._version import __version__

_SCHEMA: Final = 1
_SUFFIX: Final = ".costs.json"
# Rounds that do not count, since the first launches of a size compile, allocate and page in; and the share of the time after
# which one has to do.
_WARM_UP: Final = 3
_FOR_WARM_UP: Final = 0.1
_FEW: Final = 6  # launches from which on the interval of order statistics reaches 95 %
_LEAST: Final = 3  # launches of each size, however long they take
# The times of fewer launches may lie close together by chance, so such an estimate counts as no surer than those of most sizes.
_MANY: Final = 30
_NORMAL: Final = 1.96  # half the width of a 95 % interval, in standard errors
# What the same launch differs by from process to process, or among other launches, is not in an interval: on a wall clock no
# estimate counts as surer than this share. A simulator's device clock has no such error.
_WALL_ERROR: Final = 0.01
_ROUNDING: Final = 1e-9  # differences of a clock's readings that differ by a smaller share are the same
_FEW_ERROR: Final = 0.05  # and none from a few launches as surer than this one
# Share of the time that is spent in any case on a wall clock. Of ten processes that stopped as soon as they were sure, after
# 0.03 to 1 s, one had met 0.3 s in which the machine was busy: its medians were 35 to 57 % above the others'.
AT_LEAST: Final = 0.1
_FOR_CLIFFS: Final = 0.5  # share of the time that may go into finding where the cost of a row rises
# Where the cost of a row rises by more than this share from one measured size to the next, sizes between are measured, too.
_CLIFF: Final = 0.08


@dataclass(frozen=True, slots=True)
class Measurement:
    """What launches of one size took, in seconds on the calibration's clock.

    Attributes:
        size: rows of a launch.
        median_s: of the launches.
        low_s, high_s: bounds of the median's 95 % confidence interval; of fewer than six launches, shortest and longest.
        launches: how many there were.
    """

    size: int
    median_s: float
    low_s: float
    high_s: float
    launches: int

    @property
    def half_width(self) -> float:
        """Half of the interval, in seconds."""
        return (self.high_s - self.low_s) / 2

    def is_tight(self, tolerance: float) -> bool:
        """Whether half of the interval is at most this share of the median; of fewer than six launches, never."""
        return self.launches >= _FEW and self.half_width <= tolerance * self.median_s


@dataclass(frozen=True, slots=True)
class Setting:
    """What a calibration is of. Figures are good for the same setting only.

    Attributes:
        model: digest of the model, with its external data; empty where nobody told.
        backend: its name.
        device: its index.
        batching: what launches there are, in words.
        options: the backend's options by name, as Python writes their values.
        runtime: name and version of what runs the model, as `Backend.check_usable` says it.
        anybatch: version of this library.
        clock: what tells the time: the wall clock, or that of a simulator.
        machine: processor and number of cores; empty with a simulator's clock, which no machine changes.
    """

    model: str
    backend: str
    device: int
    batching: str
    options: Mapping[str, str]
    runtime: str
    anybatch: str
    clock: str
    machine: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What launches of each size take on one device, measured.

    Attributes:
        measurements: by ascending size; at least one.
        setting: of what.
        made: when it ended, ISO 8601, UTC.
        seconds: how long it took.
        tolerance: the share of the median that half of an interval was to be; not all intervals need be as narrow.
        splitting_s: what each launch takes besides its execution where a request takes several: cutting out rows, joining
            results.
        path: the file it is saved in; None where in none.
    """

    measurements: tuple[Measurement, ...]
    setting: Setting
    made: str
    seconds: float
    tolerance: float
    splitting_s: float = 0.0
    path: Path | None = None

    @property
    def is_tight(self) -> bool:
        """Whether every interval became as narrow as was asked for, rather than the time being spent."""
        return all(each.is_tight(self.tolerance) for each in self.measurements)

    @property
    def batching(self) -> Batching:
        """What the session's launches were, of `Setting.batching` in words.

        Raises:
            InputError: these are no words of this version's.
        """
        sizes = tuple(each.size for each in self.measurements)
        for batching in (AnyBatch(), Gears(sizes), MultipleOf(sizes[0])):
            if str(batching) == self.setting.batching:
                return batching
        raise InputError(f"the calibration is of a session of {self.setting.batching!r}, but measured the sizes {list(sizes)}")

    def costs(self) -> CurveCosts:
        """Return what launches cost, in milliseconds, with standard errors."""
        least = _WALL_ERROR if self.setting.machine else 0.0
        errors = {each.size: _standard_error(each, least) for each in self.measurements}
        typical = statistics.median(errors[each.size] / each.median_s for each in self.measurements)
        for each in self.measurements:
            if each.launches < _MANY:
                errors[each.size] = max(errors[each.size], typical * each.median_s)
        return CurveCosts(
            {each.size: each.median_s * 1e3 for each in self.measurements},
            {size: 1e3 * error for size, error in errors.items()},
            source=f"measured {self.made[:16].replace('T', ' ')} UTC on the {self.setting.clock}, {self.setting.runtime}",
            unit="ms",
            splitting=self.splitting_s * 1e3,
        )

    def save(self, path: str | os.PathLike[str]) -> Calibration:
        """Write it to a file, complete or not at all, in the place of what is there; return it with that path.

        Raises:
            InputError: the file cannot be written.
        """
        target = Path(path)
        document = {"schema": _SCHEMA} | asdict(replace(self, path=None))
        del document["path"]
        try:
            with tempfile.NamedTemporaryFile("w", dir=target.parent, suffix=".part", delete=False, encoding="utf-8") as part:
                try:
                    part.write(json.dumps(document, indent=1) + "\n")
                    part.close()
                    Path(part.name).chmod(0o644)  # as any file; temporary ones are for their owner alone
                    Path(part.name).replace(target)
                finally:
                    Path(part.name).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"the calibration cannot be written to {str(target)!r}: {error.strerror or error}") from error
        return replace(self, path=target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote. Whether it fits a session is another question, which `anybatch.open` asks.

        Raises:
            InputError: it cannot be read, or is no calibration of this version of the format; the message says what is wrong.
        """
        source = Path(path)
        try:
            document = json.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"the calibration {str(source)!r} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:  # no JSON, or no text
            raise InputError(f"{str(source)!r} is no calibration: {error}") from error
        try:
            return _from_document(document, source)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{str(source)!r} is no calibration: {why}; make one with `anybatch calibrate`") from error


def _from_document(document: Any, path: Path) -> Calibration:
    if not isinstance(document, dict):
        raise TypeError(f"expected an object, got {type(document).__name__}")
    if document["schema"] != _SCHEMA:
        raise ValueError(f"expected schema {_SCHEMA}, got {document['schema']!r}")
    measurements = tuple(Measurement(**each) for each in document["measurements"])
    if not measurements:
        raise ValueError("it holds no measurement")
    for each in measurements:
        figures = (each.low_s, each.median_s, each.high_s)
        sound = all(type(figure) in (int, float) and math.isfinite(figure) and figure > 0 for figure in figures)
        whole = all(type(number) is int and number >= 1 for number in (each.size, each.launches))
        if not sound or not whole or not each.low_s <= each.median_s <= each.high_s:
            raise ValueError(f"expected times above 0, low_s <= median_s <= high_s, got {each}")
    sizes = [each.size for each in measurements]
    if sizes != sorted(set(sizes)):
        raise ValueError(f"expected ascending sizes, got {sizes}")
    setting = Setting(**document["setting"])
    if not isinstance(setting.options, dict):
        raise TypeError(f"expected options to be an object, got {setting.options!r}")
    for name in ("model", "backend", "batching", "runtime", "anybatch", "clock", "machine"):
        if not isinstance(getattr(setting, name), str):
            raise TypeError(f"expected {name} to be a text, got {getattr(setting, name)!r}")
    if type(setting.device) is not int:
        raise TypeError(f"expected device to be an index, got {setting.device!r}")
    made, seconds, tolerance = document["made"], float(document["seconds"]), float(document["tolerance"])
    if datetime.fromisoformat(made).tzinfo is None:
        raise ValueError(f"expected made to be a time with its zone, got {made!r}")
    if not 0 <= seconds < math.inf or not 0 < tolerance < math.inf:
        raise ValueError(f"expected seconds >= 0 and tolerance > 0, both finite, got {seconds} and {tolerance}")
    splitting = document["splitting_s"]
    if not isinstance(splitting, (int, float)) or not 0 <= splitting < math.inf:
        raise ValueError(f"expected splitting_s >= 0 and finite, got {splitting!r}")
    return Calibration(measurements, setting, made, seconds, tolerance, splitting, path)


def _standard_error(measurement: Measurement, least: float) -> float:
    if measurement.half_width <= _ROUNDING * measurement.median_s:
        return least * measurement.median_s
    if measurement.launches < _FEW:
        return max(2 * measurement.half_width, _FEW_ERROR * measurement.median_s if least else 0.0)
    return max(measurement.half_width / _NORMAL, least * measurement.median_s)


def summarize(size: int, ascending: Sequence[float]) -> Measurement:
    """Return median and interval of times in ascending order; at least one."""
    count = len(ascending)
    middle = count // 2
    median = ascending[middle] if count % 2 else (ascending[middle - 1] + ascending[middle]) / 2
    # The number of times below the true median is binomial: n/2 of n, with a deviation of sqrt(n)/2. The 1 is the correction
    # for whole numbers; without it an interval of 21 times held the median in 92 % of cases only.
    low = max(0, math.floor((count - 1 - _NORMAL * math.sqrt(count)) / 2))
    return Measurement(size, median, ascending[low], ascending[count - 1 - low], count)


def sizes_to_measure(batching: Batching, max_rows: int) -> list[int]:
    """Return the sizes to begin with: all gears; else powers of two and what is half-way between, up to `max_rows`.

    Raises:
        InputError: `max_rows` is below 1.
    """
    if max_rows < 1:
        raise InputError(f"expected max_rows >= 1, got {max_rows}")
    if isinstance(batching, Gears):
        return list(batching.sizes)
    unit = batching.size if isinstance(batching, MultipleOf) else 1
    powers = [unit << shift for shift in range(max(1, (max_rows // unit).bit_length()))]
    between = [3 * power // 2 for power in powers if power > unit] if unit == 1 else []
    last = max(unit, max_rows // unit * unit)
    return sorted({*powers, *(size for size in between if size < max_rows), last})


def measure(
    launch: Callable[[int], object],
    sizes: Sequence[int],
    *,
    clock: Callable[[], float],
    seconds: float,
    tolerance: float,
    refine: bool,
    progress: Callable[[float], None],
    at_least: float = 0.0,
    wall: Callable[[], float] = perf_counter,
) -> tuple[Measurement, ...]:
    """Measure launches of several sizes, in rounds, until every median is sure enough or the time is spent.

    Args:
        launch: makes one launch of a size.
        sizes: to begin with.
        clock: what tells the time of launches, in seconds.
        seconds: wall time to spend. In any case every size is warmed up with one launch and measured with three.
        tolerance: stop when half of each confidence interval is at most this share of its median.
        refine: whether sizes may be added where the cost of a row rises between two of them, until the cliff is found.
        progress: called after each round with the share of the time that is spent, and 1 at the end.
        at_least: share of the time to spend however sure all medians are.
        wall: what tells the time that is spent, in seconds.

    Raises:
        InputError: `seconds` or `tolerance` is not above 0 and finite, or launches take no time on the clock.
        Exception: whatever `launch` raises.
    """
    if not 0 < seconds < math.inf or not 0 < tolerance < math.inf:
        raise InputError(f"expected seconds > 0 and tolerance > 0, both finite, got {seconds} and {tolerance}")
    started = wall()

    def share_spent() -> float:
        share = (wall() - started) / seconds
        progress(min(share, 1.0))
        return share

    rounds = _Rounds(launch, clock, lambda: share_spent() >= _FOR_WARM_UP)
    rounds.add(sizes)
    while refine and rounds.fewest < _FEW:
        rounds.go()
        if share_spent() >= _FOR_CLIFFS:
            break
        if rounds.fewest >= _FEW:
            rounds.add(_between_cliffs(rounds.found()))
    while True:
        share = share_spent()
        if rounds.fewest >= _LEAST and (share >= 1 or (share >= at_least and rounds.are_tight(tolerance))):
            break
        rounds.go()
    progress(1.0)
    found = rounds.found()
    if not all(each.median_s > 0 for each in found):
        raise InputError("launches take no time on this clock, so there is nothing to measure: give a simulator a cost model")
    return found


class _Rounds:
    """Times of launches, taken in rounds over all sizes.

    Args:
        launch: makes one of a size.
        clock: tells their time.
        in_haste: whether one launch has to do to warm a size up.
    """

    def __init__(self, launch: Callable[[int], object], clock: Callable[[], float], in_haste: Callable[[], bool]) -> None:
        self._launch = launch
        self._clock = clock
        self._in_haste = in_haste
        self._times: dict[int, list[float]] = {}  # ascending
        self._order: list[int] = []
        self._shuffle = random.Random(0).shuffle

    @property
    def fewest(self) -> int:
        """Launches of the size that has the fewest."""
        return min(map(len, self._times.values()))

    def add(self, sizes: Sequence[int]) -> None:
        """Begin to measure these, too, after warming them up."""
        for turn in range(_WARM_UP):
            for size in sizes:
                if turn == 0 or not self._in_haste():
                    self._launch(size)
        self._times |= {size: [] for size in sizes}
        self._order = list(self._times)

    def go(self) -> None:
        """Make one launch of each size, in an order of its own."""
        self._shuffle(self._order)
        for size in self._order:
            begun = self._clock()
            self._launch(size)
            bisect.insort(self._times[size], self._clock() - begun)

    def found(self) -> tuple[Measurement, ...]:
        return tuple(summarize(size, self._times[size]) for size in sorted(self._times))

    def are_tight(self, tolerance: float) -> bool:
        return all(each.is_tight(tolerance) for each in self.found())


def _between_cliffs(found: Sequence[Measurement]) -> list[int]:
    """Return sizes half-way between neighbours from one to the other of which a row becomes dearer, beyond what chance does."""
    middles = []
    for left, right in itertools.pairwise(found):
        dearer = right.low_s / right.size > (1 + _CLIFF) * left.high_s / left.size
        if dearer and right.size - left.size > 1:
            middles.append((left.size + right.size) // 2)
    return middles


class Shelf:
    """Where the calibrations of one opened model lie, and which of them fit.

    Beside the model's file, where there is one and its folder can be written; else in the folder of what anybatch keeps.

    Args:
        model: as it was opened.
        setting: without the model's digest and the runtime, which cost time, so that they are found only when there is
            something to compare.
        runtime: tells the latter.
    """

    def __init__(self, model: Model, setting: Setting, runtime: Callable[[], str]) -> None:
        self._model = model
        self._setting = setting
        self._runtime = runtime
        self._opened = _stamp(model)
        what = json.dumps([setting.device, setting.batching, sorted(setting.options.items())])
        self._suffix = f".{setting.backend}-{hashlib.sha256(what.encode()).hexdigest()[:8]}{_SUFFIX}"

    @functools.cached_property
    def setting(self) -> Setting:
        """What a calibration made now is of.

        Raises:
            ModelError: the model's file, or one of its external data, cannot be read, or the file was replaced since.
            BackendUnavailableError: the runtime is gone.
        """
        digest = digest_of(self._model)
        if _stamp(self._model) != self._opened:
            raise ModelError(f"{str(self._model)!r} was changed since it was opened: open it again")
        return replace(self._setting, model=digest, runtime=self._runtime())

    def keep(self, calibration: Calibration) -> Calibration:
        """Save a calibration where `find` looks.

        Raises:
            InputError: nothing can be written.
        """
        if isinstance(self._model, Path):
            with contextlib.suppress(InputError):  # its folder is for reading only
                return calibration.save(self._beside(self._model))
        path = self._in_cache()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the calibration cannot be kept: {error}; name a file to save it in") from error
        return calibration.save(path)

    def find(self) -> Calibration | None:
        """Return the calibration that is kept for this setting; None where there is none.

        Raises:
            InputError: one is kept, but cannot be read or does not fit; the message says why.
            ModelError, BackendUnavailableError: see `setting`.
        """
        refused: list[InputError] = []
        for path in self._kept():
            try:
                calibration = Calibration.load(path)
                self.check(calibration)
            except InputError as error:
                refused.append(error)
            else:
                return calibration
        if refused:
            raise refused[0]
        return None

    def check(self, calibration: Calibration) -> None:
        """Check that a calibration is of this setting.

        Raises:
            InputError: it is not; the message says in what it differs.
        """
        name = "the calibration" if calibration.path is None else f"the calibration {str(calibration.path)!r}"
        for field, what in _DIFFERENCES.items():
            ours, theirs = getattr(self.setting, field), getattr(calibration.setting, field)
            if ours != theirs:
                detail = "" if field == "model" else f" {theirs!r}, this is {ours!r}"
                raise InputError(f"{name} {what}{detail}; make a new one with `anybatch calibrate`")

    def _kept(self) -> Iterator[Path]:
        """Yield the files there are, the likelier one first."""
        if isinstance(self._model, Path) and os.access(self._beside(self._model), os.F_OK):
            yield self._beside(self._model)
        try:
            folder = self._cache()
        except InputError:  # no home folder, so nothing is kept there
            return
        # Only where some model's is there is this one worth reading.
        if any(folder.glob(f"*{self._suffix}")) and os.access(self._in_cache(), os.F_OK):
            yield self._in_cache()

    def _beside(self, model: Path) -> Path:
        return model.with_name(model.name + self._suffix)

    def _in_cache(self) -> Path:
        return self._cache() / f"{self.setting.model[:16]}{self._suffix}"

    @staticmethod
    def _cache() -> Path:
        return cache_folder() / "costs"


# In the order in which differences are told.
_DIFFERENCES: Final[Mapping[str, str]] = {
    "model": "is of another model",
    "backend": "is of backend",
    "batching": "is of a session of",
    "device": "is of device",
    "options": "was made with the options",
    "clock": "was timed on the",
    "machine": "was made on another machine,",
    "runtime": "is out of date: it was made with",
    "anybatch": "is out of date: it was made by anybatch",
}


def describe_setting(
    *, backend: str, device: int, batching: Batching, options: Mapping[str, object], clock: Clock | None
) -> Setting:
    """Return the setting of an opened model, without model and runtime."""
    return Setting(
        model="",
        backend=backend,
        device=device,
        batching=str(batching),
        options={name: repr(value) for name, value in sorted(options.items())},
        runtime="",
        anybatch=__version__,
        clock="wall clock" if clock is None else clock.name,
        machine=machine() if clock is None else "",
    )


@functools.cache
def machine() -> str:
    """Return processor and number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:  # not Linux
        return f"{name}, {os.cpu_count()} cores"
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def _stamp(model: Model) -> tuple[int, int, int] | None:
    """Return what changes when a model's file is replaced or written to; None for models that have none."""
    if not isinstance(model, Path):
        return None
    try:
        status = model.stat()
    except OSError as error:
        raise ModelError(f"{str(model)!r} cannot be read: {error.strerror or error}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def digest_of(model: Model) -> str:
    try:
        return model_digest(model)
    except ModelError:
        if not isinstance(model, (Path, bytes)):
            raise
    # Compiled already, so no ONNX model; it is all in one file.
    try:
        content = model if isinstance(model, bytes) else model.read_bytes()
    except OSError as error:
        raise ModelError(f"{str(model)!r} cannot be read: {error.strerror or error}") from error
    return hashlib.sha256(content).hexdigest()


def now() -> str:
    """Return the time, as calibrations say it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
