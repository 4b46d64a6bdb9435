"""AscendBackend: what anybatch sees of this plugin."""

from __future__ import annotations
