"""`python -m c10d_rs build` and `python -m c10d_rs info`."""

import argparse
import sys

import torch

from . import BackendError, __version__, _backend, _build
from ._locate import library


def build():
    """Builds the shim before its first use."""
    try:
        print(_build.build(print))
    except _build.CannotBuild as e:
        print(f"c10d_rs: no shim: {e}", file=sys.stderr)
        return 1
    return 0


def info():
    """Prints versions, the shim in use, the backends and plugins, and which backend runs each op."""
    from ._interface import Library

    print(f"c10d_rs     {__version__}")
    print(f"torch       {torch.__version__}")
    print(f"library     {library()}")
    print(f"shim        {_build.existing() or 'not built yet; the first group builds it, or `python -m c10d_rs build`'}")
    print(f"compiler    {_build.compiler() or 'none: the fallback in Python is used'}")
    print()
    print(Library().info())
    return 0


def main():
    parser = argparse.ArgumentParser(prog="python -m c10d_rs", description=__doc__)
    parser.add_argument("command", choices=["build", "info"])
    return {"build": build, "info": info}[parser.parse_args().command]()


if __name__ == "__main__":
    sys.exit(main())
