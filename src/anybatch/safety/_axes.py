"""Which axes could carry rows, where the model does not say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anybatch._onnx_spec import BatchAxes, DeclaredTensor, names_batch, symbol_of
from anybatch._tensors import Dim, TensorSpec
from anybatch.safety._result import Certainty


def certainty_of(tensor: TensorSpec, declared: DeclaredTensor, inputs: Sequence[DeclaredTensor], told: BatchAxes) -> Certainty:
    """Return how the batch axis of an input is known."""
    if tensor.name in told.axis:
        return "told"
    if tensor.batch_axis is None:
        return "agreed" if len(inputs) > 1 else "guessed"
    dim = declared.dims[tensor.batch_axis]
    if not isinstance(dim, int) and names_batch(symbol_of(dim)):
        return "named"
    others = [each for each in inputs if each.name != tensor.name and each.dims]
    return "agreed" if any(_same(dim, each.dims) for each in others) else "guessed"


def _same(dim: Dim, dims: Sequence[Dim]) -> bool:
    if isinstance(dim, int):
        return dims[0] == dim and dim > 1
    return bool(symbol_of(dim)) and any(not isinstance(each, int) and symbol_of(each) == symbol_of(dim) for each in dims)


def other_assignments(
    inputs: Sequence[DeclaredTensor], outputs: Sequence[DeclaredTensor], told: BatchAxes
) -> Iterator[BatchAxes]:
    """Yield what the batch axes could be: by each free dimension and, where there is none, by each size of axis 0."""
    symbols = dict.fromkeys(
        symbol_of(dim) for rank in range(8) for each in inputs for dim in each.dims[rank : rank + 1] if not isinstance(dim, int)
    )
    for symbol in symbols:
        if symbol:
            yield _by_symbol([*inputs, *outputs], symbol, told)
    if not symbols:
        sizes = dict.fromkeys(each.dims[0] for each in inputs if each.dims and isinstance(each.dims[0], int))
        for size in sizes:
            if isinstance(size, int):
                yield _by_size([*inputs, *outputs], size, told, share=True)
                yield _by_size([*inputs, *outputs], size, told, share=False)


def _by_symbol(tensors: Sequence[DeclaredTensor], symbol: str, told: BatchAxes) -> BatchAxes:
    axes: dict[str, int | None] = {}
    for each in tensors:
        places = [axis for axis, dim in enumerate(each.dims) if not isinstance(dim, int) and symbol_of(dim) == symbol]
        axes[each.name] = places[0] if places else None
    return BatchAxes({**axes, **told.axis}, told.rows_per_row)


def _by_size(tensors: Sequence[DeclaredTensor], size: int, told: BatchAxes, *, share: bool) -> BatchAxes:
    """Return axis 0 wherever it has a size or, if `share`, a multiple of it: rows x heads, say."""
    axes: dict[str, int | None] = {}
    factors: dict[str, int] = {}
    for each in tensors:
        dim = each.dims[0] if each.dims else None
        carries = isinstance(dim, int) and size > 0 and (dim == size or (share and size > 1 and dim % size == 0 and dim > 0))
        axes[each.name] = 0 if carries else None
        if carries and isinstance(dim, int) and dim != size:
            factors[each.name] = dim // size
    return BatchAxes({**axes, **told.axis}, {**factors, **told.rows_per_row})
