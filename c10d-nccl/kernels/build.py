#!/usr/bin/env python3
"""Makes the PTX of the kernels' sources, or checks that it is up to date.

    build.py          writes generated/NAME.ptx for each NAME.cu
    build.py --check  fails if any generated/NAME.ptx differs from the PTX that NVRTC makes now

This needs NVRTC of CUDA 12.0, so that all drivers since CUDA 12.0 accept the PTX. It needs no GPU, and no other part of
CUDA:

    python3 -m venv DIR && DIR/bin/pip install --no-deps nvidia-cuda-nvrtc-cu12==12.0.140 && DIR/bin/python build.py
"""

import ctypes
import pathlib
import sys
import sysconfig

HERE = pathlib.Path(__file__).resolve().parent
GENERATED = HERE / "generated"
LIBRARY = "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
OPTIONS = ["--gpu-architecture=compute_70", "--fmad=false", f"--include-path={HERE}"]


def nvrtc():
    library = ctypes.CDLL(str(pathlib.Path(sysconfig.get_path("purelib")) / LIBRARY))
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    if (major.value, minor.value) != (12, 0):
        sys.exit(f"this is NVRTC {major.value}.{minor.value}; use 12.0, since older drivers reject newer PTX")
    return library


def text(library, program, what):
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()


def ptx(library, source):
    program = ctypes.c_void_p()
    options = (ctypes.c_char_p * len(OPTIONS))(*(option.encode() for option in OPTIONS))
    name = source.name.encode()
    if library.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), name, 0, None, None):
        sys.exit(f"{source.name}: NVRTC cannot create a program")
    if library.nvrtcCompileProgram(program, len(OPTIONS), options):
        sys.exit(text(library, program, "ProgramLog"))
    return text(library, program, "PTX")


def main():
    check = sys.argv[1:] == ["--check"]
    library, differ = nvrtc(), []
    for source in sorted(HERE.glob("*.cu")):
        target, made = GENERATED / f"{source.stem}.ptx", ptx(library, source)
        if not check:
            target.write_text(made)
        elif not target.exists() or target.read_text() != made:
            differ.append(target.name)
    if differ:
        sys.exit(f"these files differ from what the sources compile to: {', '.join(differ)}; run build.py")


main()
