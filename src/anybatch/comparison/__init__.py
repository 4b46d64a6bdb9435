"""The same rows to several backends: whether the answers agree, where they part, and how long they take."""

from anybatch.comparison._accuracy import compare_arrays
from anybatch.comparison._compare import Inputs, Progress, compare
from anybatch.comparison._divergence import find_divergence
from anybatch.comparison._document import as_document, as_json, schema
from anybatch.comparison._entries import Entry
from anybatch.comparison._junit import as_junit
from anybatch.comparison._page import as_page
from anybatch.comparison._results import (
    BINS,
    MODELLED,
    Accuracy,
    Case,
    Comparison,
    Divergence,
    EntryResult,
    Failure,
    Interval,
    Metrics,
    Provenance,
    SizeSpeed,
    Speed,
    Stage,
    StreamSpeed,
    Tolerance,
    Verdict,
    Worst,
)
from anybatch.comparison._save import check_save, save
from anybatch.comparison._speed import Rank, Ranking, ranking
from anybatch.comparison._tolerances import Tolerances, default_tolerance

__all__ = [
    "BINS",
    "MODELLED",
    "Accuracy",
    "Case",
    "Comparison",
    "Divergence",
    "Entry",
    "EntryResult",
    "Failure",
    "Inputs",
    "Interval",
    "Metrics",
    "Progress",
    "Provenance",
    "Rank",
    "Ranking",
    "SizeSpeed",
    "Speed",
    "Stage",
    "StreamSpeed",
    "Tolerance",
    "Tolerances",
    "Verdict",
    "Worst",
    "as_document",
    "as_json",
    "as_junit",
    "as_page",
    "check_save",
    "compare",
    "compare_arrays",
    "default_tolerance",
    "find_divergence",
    "ranking",
    "save",
    "schema",
]
