from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

__all__ = ["BackendError", "Options", "register", "__version__"]
__version__: str

class BackendError(dist.DistBackendError):
    kind: str
    op: str
    phase: str
    seq: int | None
    rank: int | None
    group_failed: bool
    guilty_ranks: tuple[int, ...]
    guilty_global_ranks: tuple[int, ...]

def Options(
    hints: Mapping[str, object] | None = None, timeout: timedelta | None = None, backends: str = ""
) -> Any: ...
def register() -> None: ...
