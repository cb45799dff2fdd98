"""Passes tensors between PyTorch and Rust by DLPack, without a copy.

This module is for Rust programs that embed Python, and for extension modules in Rust. The two sides exchange the
address of a ``DLManagedTensorVersioned``: ``c10d::dlpack::Imported::versioned`` accepts one, and
``c10d::dlpack::export`` makes one. ``examples/embed`` does both.
"""

import ctypes

import torch

__all__ = ["from_address", "to_address"]

# A capsule keeps only a pointer to its name. So the names must outlive all capsules, and are constants of the module.
_FULL, _EMPTY = b"dltensor_versioned", b"used_dltensor_versioned"
# The offset of the deleter in the struct, in bytes.
_DELETER_AT = 16


def _of_python(name, result, *args):
    function = getattr(ctypes.pythonapi, name)
    function.restype, function.argtypes = result, args
    return function


_new = _of_python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_pointer = _of_python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_rename = _of_python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_is_valid = _of_python("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)


def to_address(tensor):
    """Passes the tensor to Rust, as the address of a ``DLManagedTensorVersioned``.

    The receiver owns the struct and must call its deleter. ``Imported::versioned`` takes ownership even on errors, and
    calls the deleter when the ``Imported`` is dropped. Until then the memory is valid, and each side sees what the other
    side writes. While an op in Rust uses the tensor, Python must not use the tensor. The tensor may be of any library
    that has ``__dlpack__``. A tensor of PyTorch must not require a gradient. Rust accepts contiguous tensors.
    """
    capsule = tensor.__dlpack__(max_version=(1, 0))
    if not _is_valid(capsule, _FULL):
        raise BufferError(f"c10d_rs: {type(tensor).__module__} exports tensors in an older form than DLPack 1.0")
    address = _pointer(capsule, _FULL)
    # With this name the capsule does not call the deleter.
    _rename(capsule, _EMPTY)
    return address


def from_address(address):
    """Makes a ``torch.Tensor`` of a buffer of Rust.

    ``address`` is the result of ``c10d::dlpack::export``. This function takes ownership even on errors. The buffer is
    freed when the last tensor that uses it is freed.
    """
    capsule = _new(address, _FULL, None)
    try:
        return torch.from_dlpack(capsule)
    except BaseException:
        if _is_valid(capsule, _FULL):
            deleter = ctypes.c_void_p.from_address(address + _DELETER_AT).value
            if deleter:
                ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deleter)(address)
        raise
