"""Whether a model fits: a model of the IPU's memory, never a measurement.

An IPU has 1472 tiles of 638976 bytes each (the figures that PopRT's auto-sharding tool reckons with) and nothing else;
POPRT_SIM_TILES and POPRT_SIM_TILE_MEMORY_BYTES, or `testing.reset`, make it another machine. Counted are weights, the most
that intermediate results take at one time, and the buffers of inputs and outputs. Code, exchange buffers and the temporary
memory of convolutions and matrix products are not: a model that just fits here may not fit there.

Decision: all of it lies evenly on the tiles that do not serve I/O, over all IPUs; with ``virtual_graph_mode`` "manual" the
weights and results of a node lie on the IPU that its sharding names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx

from poprt_sim import _graph
from poprt_sim._machine import machine

#: The attribute that PopART reads a node's IPU from.
IPU_ATTRIBUTE: Final = "__ipu_number"
STAGE_ATTRIBUTE: Final = "__pipeline_stage"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes.

    Attributes:
        weights, activations, streams: bytes.
        tile_bytes: on one tile of each IPU.
        first_tile: the first of an IPU's tiles that computes.
    """

    weights: int
    activations: int
    streams: int
    tile_bytes: tuple[int, ...]
    first_tile: int

    def check(self) -> None:
        """Refuse a model that does not fit.

        Raises:
            RuntimeError: in the words that PopRT's auto-sharding tool looks for.
        """
        config = machine().config
        limit = config.tile_memory_bytes
        for ipu, needed in enumerate(self.tile_bytes):
            if needed > limit:
                raise RuntimeError(
                    f"Out of memory on tile {ipu * config.tiles + self.first_tile}: {needed} bytes used "
                    f"but tiles only have {limit} bytes of memory. Use more IPUs, a smaller batch or half precision"
                )


def footprint(
    graph: onnx.GraphProto,
    known: Mapping[str, _graph.Value],
    *,
    num_ipus: int,
    num_io_tiles: int,
    buffering_depth: int,
    manual: bool,
) -> Footprint:
    """Return what a graph takes; see the module's docstring."""
    weights = {tensor.name: known[tensor.name].size_bytes for tensor in graph.initializer}
    activations = _graph.peak_bytes(graph, known)
    borders = [value.name for value in (*graph.input, *graph.output) if value.name not in weights]
    streams = max(1, buffering_depth) * sum(known[name].size_bytes for name in borders)
    shares = Counter({0: 1}) if num_ipus == 1 or not manual else _shares(graph, known, num_ipus)
    total = sum(weights.values()) + activations + streams
    if num_ipus > 1 and not manual:
        shares = Counter(dict.fromkeys(range(num_ipus), 1))
    tiles = max(1, machine().config.tiles - num_io_tiles)
    whole = sum(shares.values())
    per_ipu = tuple(math.ceil(total * shares[ipu] / whole / tiles) if whole else 0 for ipu in range(num_ipus))
    return Footprint(sum(weights.values()), activations, streams, per_ipu, num_io_tiles)


def _shares(graph: onnx.GraphProto, known: Mapping[str, _graph.Value], num_ipus: int) -> Counter[int]:
    """Return how much of the weights and results belongs to nodes of each IPU."""
    weights = {tensor.name for tensor in graph.initializer}
    shares: Counter[int] = Counter()
    for node in graph.node:
        ipu = next((attribute.i for attribute in node.attribute if attribute.name == IPU_ATTRIBUTE), 0)
        if not 0 <= ipu < num_ipus:
            raise RuntimeError(f"node {node.name!r} is on IPU {ipu}, but num_ipus is {num_ipus}")
        held = {name for name in node.input if name in weights} | {name for name in node.output if name in known}
        shares[ipu] += sum(known[name].size_bytes for name in held)
    return shares
