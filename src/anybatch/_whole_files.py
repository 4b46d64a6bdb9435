"""Files that are written completely, or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from anybatch._errors import InputError


def check_place(path: str | os.PathLike[str], suffixes: Sequence[str]) -> Path:
    """Return the path, after checking, before work that may take minutes, that a file can be written there.

    Args:
        suffixes: what the file may end in, in lower case, such as ``".json"``; upper case in the path will do.

    Raises:
        InputError: it ends in something else, there is no such folder, or the path is that of a folder.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: expected a file that ends in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise InputError(f"{path}: it is a folder")
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to. It becomes `path` at the end, replacing a file there, or vanishes after an error.

    Raises:
        InputError: the file cannot be written, neither inside nor at the end; one that was there is as before.
    """
    # In the same folder, since only there the rename at the end is atomic; by its own name, since what `tempfile` makes
    # is readable for its owner alone, and would stay so.
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is not there, or the error on its way says more
            part.unlink()
