"""As much of PyTorch as the programs touch: CPU tensors over NumPy arrays, at the arrays' real addresses."""

import types

import numpy as np

float32, int32, int64 = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.int64)


class Module:
    """`torch.nn.Module`: calling it calls forward."""

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


nn = types.SimpleNamespace(Module=Module)


class device:  # noqa: N801  PyTorch's name
    """A CPU device."""

    def __init__(self, name):
        self.type, _, index = name.partition(":")
        if self.type != "cpu":
            raise ValueError(f"expected 'cpu', got {name!r}")
        self.index = int(index) if index else None


class Size(tuple):
    """A shape, which prints as PyTorch's."""

    __slots__ = ()

    def __repr__(self):
        return f"torch.Size({list(self)})"


class Tensor:
    """A dense CPU tensor; `array` owns its memory."""

    def __init__(self, array):
        self.array = array
        self.device = device("cpu")

    @property
    def shape(self):
        return Size(self.array.shape)

    def to(self, target, dtype):
        if target.type != "cpu":
            raise ValueError(f"expected 'cpu', got {target.type!r}")
        return Tensor(self.array.astype(dtype, copy=False))

    def contiguous(self):
        return Tensor(np.ascontiguousarray(self.array))

    def data_ptr(self):
        return self.array.ctypes.data

    def element_size(self):
        return self.array.itemsize

    def numel(self):
        return self.array.size

    def numpy(self):
        return self.array


def from_numpy(array):
    return Tensor(array)


def empty(shape, dtype, device):
    if device.type != "cpu":
        raise ValueError(f"expected 'cpu', got {device.type!r}")
    return Tensor(np.empty(shape, dtype))
