"""Loads the C++ shim."""

import importlib.machinery
import importlib.util
import os
import sys

from . import _build
from ._locate import library


def load():
    """Returns the shim as a module. Builds the shim if it does not exist. Raises `_build.CannotBuild`."""
    if os.environ.get("C10D_RS_SHIM", "1") in ("0", "off"):
        raise _build.CannotBuild("C10D_RS_SHIM turns the shim off")
    path = _build.existing() or _build.build(lambda words: print(f"c10d_rs: {words}", file=sys.stderr, flush=True))
    loader = importlib.machinery.ExtensionFileLoader(_build.MODULE, path)
    spec = importlib.util.spec_from_file_location(_build.MODULE, path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except ImportError as e:
        raise _build.CannotBuild(f"the shim {path} cannot be loaded: {e}") from e
    module.load(library())
    return module
