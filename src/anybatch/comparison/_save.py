"""Comparisons in files: JSON, JUnit XML and HTML."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from anybatch._whole_files import check_place, whole_file
from anybatch.comparison._document import as_json
from anybatch.comparison._junit import as_junit
from anybatch.comparison._page import as_page
from anybatch.comparison._results import Comparison

_FORMATS: Final[Mapping[str, Callable[[Comparison], str]]] = {".html": as_page, ".json": as_json, ".xml": as_junit}


def save(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write a comparison as its suffix says: ``.html`` a page, ``.json`` a document, ``.xml`` JUnit's; in UTF-8.

    The file is written completely, or not at all; one that exists is replaced.

    Raises:
        InputError: see `check_save`; or the file cannot be written.
    """
    target = check_save(path)
    text = _FORMATS[target.suffix.lower()](comparison)
    with whole_file(target) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def check_save(path: str | os.PathLike[str]) -> Path:
    """Return the path, after checking, before a comparison that may take minutes, that `save` can write it.

    Raises:
        InputError: the suffix is another one, there is no such folder, or the path is that of a folder.
    """
    return check_place(path, tuple(_FORMATS))
