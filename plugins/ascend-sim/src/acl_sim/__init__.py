"""A strict stand-in for Huawei's `acl` module (pyACL): `import acl_sim as acl`, or `python -m acl_sim PROGRAM`.

As in the original there are functions only, no constants and no classes. Tests want `acl_sim.testing`.
"""

from __future__ import annotations

from typing import Any

from acl_sim import _unsimulated
from acl_sim._root import (
    app_log,
    create_data_buffer,
    create_tensor_desc,
    data_type_size,
    destroy_data_buffer,
    destroy_tensor_desc,
    finalize,
    finalize_reference,
    float16_to_float,
    float_to_float16,
    get_data_buffer_addr,
    get_data_buffer_size,
    get_data_buffer_size_v2,
    get_recent_err_msg,
    get_soc_name,
    get_tensor_desc_dim,
    get_tensor_desc_dim_v2,
    get_tensor_desc_element_count,
    get_tensor_desc_format,
    get_tensor_desc_num_dims,
    get_tensor_desc_size,
    get_tensor_desc_type,
    get_version,
    init,
    set_tensor_desc_name,
    update_data_buffer,
)

media = _unsimulated.module("media")
op = _unsimulated.module("op")
blas = _unsimulated.module("blas")
prof = _unsimulated.module("prof")
himpi = _unsimulated.module("himpi")
fv = _unsimulated.module("fv")

from acl_sim import mdl, rt, util  # noqa: E402 - the tables above are complete before the rest is read

__all__ = [
    "app_log",
    "blas",
    "create_data_buffer",
    "create_tensor_desc",
    "data_type_size",
    "destroy_data_buffer",
    "destroy_tensor_desc",
    "finalize",
    "finalize_reference",
    "float16_to_float",
    "float_to_float16",
    "fv",
    "get_data_buffer_addr",
    "get_data_buffer_size",
    "get_data_buffer_size_v2",
    "get_recent_err_msg",
    "get_soc_name",
    "get_tensor_desc_dim",
    "get_tensor_desc_dim_v2",
    "get_tensor_desc_element_count",
    "get_tensor_desc_format",
    "get_tensor_desc_num_dims",
    "get_tensor_desc_size",
    "get_tensor_desc_type",
    "get_version",
    "himpi",
    "init",
    "mdl",
    "media",
    "op",
    "prof",
    "rt",
    "set_tensor_desc_name",
    "update_data_buffer",
    "util",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"acl.{name}: acl_sim does not have it; acl exports functions only, no constants")
