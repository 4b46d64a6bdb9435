"""Requests from ``.npz`` and ``.npy`` files, results into them. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.npyio import NpzFile

from anybatch._errors import InputError
from anybatch._tensors import Array, ModelSpec
from anybatch._whole_files import whole_file

_SUFFIXES: Final = (".npz", ".npy")
_FORMAT: Final[Any] = np.lib.format  # typed in NumPy since 2.3, and Python 3.10 has only 2.2


def read_inputs(path: Path, spec: ModelSpec, *, ignore_extra: bool = False) -> dict[str, Array]:
    """Read a model's inputs from a file that `check_input` accepted.

    An ``.npz`` has arrays by the inputs' names. An ``.npy`` is for a model with one input; it stays on disk and is read as it
    is used, so it may be larger than memory.

    Args:
        ignore_extra: leave out arrays that are no inputs, such as labels, instead of refusing them.

    Raises:
        InputError: the file cannot be read, holds Python objects, or holds other arrays than the model takes. Dtypes and
            shapes are not checked here.
    """
    names = [tensor.name for tensor in spec.inputs]
    if path.suffix == ".npz":
        arrays = _read_npz(path, names, ignore_extra=ignore_extra)
    elif len(names) == 1:
        with _reading(path):
            arrays = {names[0]: np.asarray(_FORMAT.open_memmap(path, "r"))}
    else:
        raise InputError(f"{path}: one array, but the model takes {len(names)} inputs, {names}: save an .npz with these names")
    dtypes = {tensor.name: tensor.dtype for tensor in spec.inputs}
    return {name: _as_written(array, dtypes[name]) for name, array in arrays.items()}


def check_input(path: Path) -> None:
    """Check, before a model is opened, which may take minutes, that there is a file to read.

    Raises:
        InputError: the suffix is wrong, or there is no such file.
    """
    _check_suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")


def check_output(path: Path, *, force: bool) -> None:
    """Check, before a model is opened, that results can be written there.

    Raises:
        InputError: the suffix is wrong, there is no such folder, or the file exists and `force` is False.
    """
    _check_suffix(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {str(path.parent)!r}")
    if path.is_dir() or (path.exists() and not force):
        raise InputError(f"{path}: it exists; --force overwrites files")


def check_output_fits(path: Path, spec: ModelSpec) -> None:
    """Check, before anything is run, that the file can hold the model's outputs.

    Raises:
        InputError: it is an ``.npy``, and there are several.
    """
    names = [tensor.name for tensor in spec.outputs]
    if path.suffix == ".npy" and len(names) > 1:
        raise InputError(f"{path}: one array, but the model has {len(names)} outputs, {names}: write an .npz")


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write results to a file that the checks above accepted; completely, or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_file(path) as part, part.open("xb") as file:
        if path.suffix == ".npy":
            _FORMAT.write_array(file, next(iter(outputs.values())), allow_pickle=False)
        else:
            _write_npz(file, outputs)


def _read_npz(path: Path, names: list[str], *, ignore_extra: bool) -> dict[str, Array]:
    with _reading(path), path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
        extra = [name for name in archive.files if name not in names]
        if extra and not ignore_extra:
            raise InputError(f"{path}: {extra} are no inputs of the model, which takes {names}; --ignore-extra leaves them out")
        arrays = {}
        for name in archive.files:
            if name in names:
                with _reading(path, name):
                    arrays[name] = archive[name]
        return arrays


def _write_npz(file: Any, arrays: Mapping[str, Array]) -> None:
    # Not numpy.savez: there names are keyword arguments, and an output may be called "file". A ZipInfo without a date makes
    # files of equal results equal.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                _FORMAT.write_array(entry, array, allow_pickle=False)


def _check_suffix(path: Path) -> None:
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path}: expected a file that ends in .npz or .npy")


@contextmanager
def _reading(path: Path, name: str | None = None) -> Iterator[None]:
    where = f"{path}" if name is None else f"{path}: {name!r}"
    try:
        yield
    except InputError:  # is a ValueError too
        raise
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        hint = ""
        if "object" in str(error).lower():  # NumPy has no exception of its own for this
            hint = "; Python objects are never loaded, since that can run code: save arrays of numbers"
        raise InputError(f"{where}: cannot be read: {error}{hint}") from error


def _as_written(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return the array as the dtype it was saved with: NumPy's files keep bfloat16 and its like as raw bytes."""
    raw = array.dtype.kind == "V" and array.dtype.names is None
    return array.view(dtype) if raw and dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize else array
