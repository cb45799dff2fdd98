"""Finds the Rust library."""

import glob
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def library():
    """The path of libc10d_rs."""
    told = os.environ.get("C10D_RS_LIBRARY")
    if told:
        return told
    # The library is installed with the package, or was built in a checkout by `cargo build --release -p c10d-python`.
    checkout = os.path.join(HERE, "..", "..", "target", "release", "libc10d_rs.so")
    found = sorted(glob.glob(os.path.join(HERE, "_library*.so"))) + glob.glob(checkout)
    if not found:
        raise ImportError(f"c10d_rs: there is no Rust library in {HERE}; install the package with `pip install ./python`")
    return found[0]
