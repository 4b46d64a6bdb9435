"""Keeps what backends compile: where, under which name, and safely when several processes want the same at once.

An artefact's file is named ``<key>-<digest of its content><suffix>``. The key says what it was made of; the digest says whether
it is whole, so that a truncated or damaged file is made again. It is built in a folder beside its place and moved there in
one step: what can be found is complete. Who builds holds a lock on ``.<key>.lock``, a file that stays: two could hold it if it
were ever removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final

from anybatch._backend import Model
from anybatch._errors import InputError, ModelError
from anybatch._onnx_spec import read_model

if TYPE_CHECKING:
    import onnx

_CHUNK: Final = 1 << 20
_DIGEST: Final = 16  # hexadecimal digits of it in a file name: against damage, not against forgery


def cache_folder() -> Path:
    """Return where compiled models are kept; the folder need not exist.

    ``$ANYBATCH_CACHE_DIR``, else ``$XDG_CACHE_HOME/anybatch``, else ``~/.cache/anybatch``.

    Raises:
        InputError: neither variable is set, and there is no home folder.
    """
    if own := os.environ.get("ANYBATCH_CACHE_DIR"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):  # the XDG specification wants relative paths ignored
        return Path(base) / "anybatch"
    try:
        return Path.home() / ".cache" / "anybatch"
    except RuntimeError as error:
        raise InputError("there is no home folder to keep compiled models in: set ANYBATCH_CACHE_DIR") from error


@dataclass(frozen=True, slots=True)
class Kept:
    """An artefact as `keep_artefact` leaves it.

    Attributes:
        path: its file.
        cached: whether it was there before.
        temporary: whether its folder could not be written, so that the file lies with the temporary ones and whoever asked
            for it has to delete it.
    """

    path: Path
    cached: bool
    temporary: bool = False


def keep_artefact(
    folder: Path, key: str, suffix: str, build: Callable[[Path], None], *, say: Callable[[str], None] | None = None
) -> Kept:
    """Return the artefact of a key, built now where it is not there yet, or damaged.

    Of several processes or threads that ask at once, one builds; the others wait and find its file. A folder that cannot be
    written is warned about (RuntimeWarning), and the artefact becomes a temporary file.

    Args:
        folder: where artefacts of this kind lie; made if it is missing.
        key: hexadecimal digits that depend on everything the artefact depends on.
        suffix: of the file, such as ``".bin"``.
        build: writes the artefact to the path it is handed, which lies in an empty folder of its own. What else it leaves there
            is deleted.
        say: is told a line when there is something to wait for.

    Raises:
        Exception: whatever `build` raises; nothing is left of the attempt.
    """
    if found := _find(folder, key, suffix):
        return Kept(found, cached=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".{key}.lock").open("ab")
        if not os.access(folder, os.W_OK):
            lock.close()
            raise PermissionError(f"{str(folder)!r} cannot be written")
    except OSError as error:
        warnings.warn(
            f"compiled into a temporary file, since the cache cannot be written: {error}", RuntimeWarning, stacklevel=2
        )
        return Kept(_build_temporary(suffix, build), cached=False, temporary=True)
    with lock:
        if _lock(lock, say):
            for stale in folder.glob(f".{key}.*.part"):  # of processes that were killed: alive ones hold the lock
                shutil.rmtree(stale, ignore_errors=True)
        if found := _find(folder, key, suffix):
            return Kept(found, cached=True)
        with tempfile.TemporaryDirectory(prefix=f".{key}.", suffix=".part", dir=folder) as part:
            fresh = Path(part) / f"{key}{suffix}"
            build(fresh)
            path = folder / f"{key}-{_sync(fresh)}{suffix}"
            for damaged in folder.glob(f"{key}-*{suffix}"):
                damaged.unlink(missing_ok=True)
            fresh.replace(path)
    return Kept(path, cached=False)


def _build_temporary(suffix: str, build: Callable[[Path], None]) -> Path:
    with tempfile.TemporaryDirectory(prefix="anybatch-") as folder:
        fresh = Path(folder) / f"model{suffix}"
        build(fresh)
        handle, path = tempfile.mkstemp(prefix="anybatch-", suffix=suffix)
        os.close(handle)
        return fresh.replace(path)


def _find(folder: Path, key: str, suffix: str) -> Path | None:
    for path in sorted(folder.glob(f"{key}-*{suffix}")):
        try:
            with path.open("rb") as file:
                if path.name == f"{key}-{_digest(file)}{suffix}":
                    return path
        except OSError:  # gone in between, or unreadable: as good as not there
            continue
    return None


def _lock(file: IO[bytes], say: Callable[[str], None] | None) -> bool:
    """Take the lock, waiting for it; return False where the file system has none, and only `replace` protects us."""
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say is not None:
                say("waiting for another process that compiles the same")
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _sync(path: Path) -> str:
    """Force a file to the disk and return its digest: after a crash, a name must not stand for a file without content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return _digest(file)


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    _feed(digest, file)
    return digest.hexdigest()[:_DIGEST]


def _feed(digest: hashlib._Hash, file: IO[bytes]) -> None:
    chunk = bytearray(_CHUNK)
    while length := file.readinto(chunk):  # type: ignore[attr-defined]  # files opened as "rb" have it
        digest.update(memoryview(chunk)[:length])


def model_digest(model: Model, proto: onnx.ModelProto | None = None) -> str:
    """Return a digest of all that a model consists of: its graph, and the content of each file of external data.

    Args:
        model: as `Backend.open` gets it.
        proto: what `read_model` made of it, where that is at hand.

    Raises:
        ModelError: it is no ONNX model, or a file of external data cannot be read.
    """
    digest = hashlib.sha256()
    if isinstance(model, Path):
        _update(digest, model)
    else:
        digest.update(model if isinstance(model, bytes) else _serialized(model))
    for location in external_files(read_model(model) if proto is None else proto):
        if not isinstance(model, Path):
            raise ModelError(f"weights of the model lie in the file {location!r}, but where? Hand over the model as a file")
        digest.update(location.encode())
        _update(digest, model.parent / location)
    return digest.hexdigest()


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        content: bytes = model.SerializeToString(deterministic=True)
    except ValueError as error:  # protobuf's limit of 2 GiB
        raise ModelError(f"the model cannot be serialized ({error}); save it to a file with external data") from error
    return content


def _update(digest: hashlib._Hash, path: Path) -> None:
    try:
        with path.open("rb") as file:
            digest.update(os.fstat(file.fileno()).st_size.to_bytes(8, "big"))
            _feed(digest, file)
    except OSError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error


def external_files(model: onnx.ModelProto) -> list[str]:
    """Return the files that hold external data of a model, relative to its folder, each once, in alphabetical order.

    Raises:
        ModelError: one has no name, or lies outside of that folder.
    """
    locations = set()
    for tensor in _tensors(model):
        if tensor.data_location != 1:  # TensorProto.EXTERNAL; onnx itself is not needed here
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        path = PurePosixPath(location)
        if not location or path.is_absolute() or ".." in path.parts:
            raise ModelError(
                f"weights of {tensor.name!r} lie in {location!r}: expected a file in the model's folder, or below it"
            )
        locations.add(location)
    return sorted(locations)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors_of_graph(attribute.g)
            for graph in attribute.graphs:
                yield from _tensors_of_graph(graph)
