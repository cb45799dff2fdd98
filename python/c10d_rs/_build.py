"""Builds the C++ shim for the installed PyTorch, and finds a shim that was built before."""

import fcntl
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from ._locate import HERE

SHIM = os.path.join(HERE, "shim")
MODULE = "_c10d_rs_shim"


class CannotBuild(Exception):
    """The shim cannot be built. The text says why."""


def compiler():
    """The path of the C++ compiler, or None."""
    return shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++") or shutil.which("clang++")


def key():
    """The name of the folder of a shim. It contains a hash of all that the shim depends on."""
    import torch

    digest = hashlib.sha256()
    for path in (os.path.join(HERE, "c10d_rs.h"), *sorted(glob.glob(os.path.join(SHIM, "*")))):
        with open(path, "rb") as file:
            digest.update(file.read())
    # Two builds of one version of PyTorch may differ.
    for fact in (torch.__version__, torch.__config__.show(), sys.version, str(torch._C._GLIBCXX_USE_CXX11_ABI)):
        digest.update(fact.encode())
    version = torch.__version__.replace("+", "-")
    return f"{MODULE}-torch{version}-{sys.implementation.cache_tag}-{digest.hexdigest()[:16]}"


def folders():
    """The folders for shims, best first.

    If `C10D_RS_CACHE` is set, it is the only folder. Otherwise there is one in the user's cache, and one in the
    system's temporary directory.
    """
    told = os.environ.get("C10D_RS_CACHE")
    if told:
        return [told]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return [os.path.join(cache, "c10d_rs"), os.path.join(tempfile.gettempdir(), f"c10d_rs-{os.getuid()}")]


def _usable(folder):
    """Whether the folder belongs to the user, and only the user may write to it."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.stat(folder, follow_symlinks=True)
        return status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK)
    except OSError:
        return False


def _trusted(path):
    """Whether the file exists, belongs to the user or to root, and only its owner may write to it."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & 0o022


def existing():
    """The path of a shim that was built before, or None."""
    name = key()
    paths = (os.path.join(folder, name, MODULE + ".so") for folder in folders())
    return next((path for path in paths if _trusted(path)), None)


def command(source, output):
    """The command that builds a module against PyTorch, such as the shim."""
    import torch

    cxx = compiler()
    if cxx is None:
        raise CannotBuild("there is no C++ compiler (c++, g++, clang++ or $CXX)")
    root = os.path.dirname(os.path.abspath(torch.__file__))
    include, libraries = os.path.join(root, "include"), os.path.join(root, "lib")
    python = sysconfig.get_paths()["include"]
    if not os.path.exists(os.path.join(python, "Python.h")):
        raise CannotBuild(f"Python's headers are not in {python}")
    return [
        *(cxx, "-std=c++20", "-O2", "-fPIC", "-shared", "-w", f"-DC10DRS_MODULE={MODULE}"),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        *("-isystem", include, "-isystem", os.path.join(include, "torch", "csrc", "api", "include"), "-isystem", python),
        *(source, "-o", output),
        *(f"-L{libraries}", "-ltorch_python", "-ltorch_cpu", "-ltorch", "-lc10", f"-Wl,-rpath,{libraries}"),
    ]


def build(say=lambda words: None):
    """Builds the shim if it does not exist, and returns its path. Other processes wait for the one that builds it."""
    folder = next(filter(_usable, folders()), None)
    if folder is None:
        raise CannotBuild(f"none of {', '.join(folders())} is a folder that only this user may write to")
    own = os.path.join(folder, key())
    shim = os.path.join(own, MODULE + ".so")
    with open(os.path.join(folder, "lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # If this process ends, the system releases the lock.
        if _trusted(shim):
            return shim
        os.makedirs(own, mode=0o700, exist_ok=True)
        made = f"{shim}.{os.getpid()}"
        say(f"building the shim for this PyTorch, once: {shim}")
        try:
            done = subprocess.run(command(os.path.join(SHIM, "shim.cpp"), made), capture_output=True, text=True, timeout=1800)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise CannotBuild(f"the C++ compiler could not be run: {e}") from e
        if done.returncode != 0:
            raise CannotBuild(f"the C++ compiler failed:\n{done.stderr[-4000:]}")
        os.rename(made, shim)
    return shim
