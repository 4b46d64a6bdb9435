"""Whether padding and splitting change a model's answers: proven on its graph, without running it."""

from anybatch.safety._analysis import analyse
from anybatch.safety._result import BatchAxis, Certainty, OutputSafety, Safety, Step, Verdict

__all__ = ["BatchAxis", "Certainty", "OutputSafety", "Safety", "Step", "Verdict", "analyse"]
