"""c10d for Rust as a backend of ``torch.distributed``.

``init_process_group("c10d_rs")``, or ``"cpu:c10d_rs,cuda:nccl"``, makes a group that sends CPU tensors through shared
memory inside a host and by TCP between hosts. If pip has installed the package, PyTorch 2.15 finds it without an
import.
"""

from ._backend import BackendError, Options, register
from ._version import __version__

__all__ = ["BackendError", "Options", "register", "__version__"]

register()
