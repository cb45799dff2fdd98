"""Tensors between PyTorch and Rust by DLPack, without a copy.

For Rust programs that embed Python, and for extension modules in Rust. What crosses is the address of a
``DLManagedTensorVersioned``: ``c10d::dlpack::Imported::versioned`` takes one, and ``c10d::dlpack::export`` gives one.
``examples/embed`` does both.
"""

import ctypes

import torch

__all__ = ["from_address", "to_address"]

# A capsule keeps a pointer to its name, so these stay.
_FULL, _EMPTY = b"dltensor_versioned", b"used_dltensor_versioned"
# Behind the version and the owner's context.
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
    """The tensor for Rust, as the address of a ``DLManagedTensorVersioned``.

    Whoever is given it must give it back: ``Imported::versioned`` takes it over in any case, and calls the deleter when it
    is dropped. Until then the memory stays, and both sides see what the other writes; while an op of Rust's uses it, Python
    must not. The tensor may be of any library that has ``__dlpack__``; of PyTorch's, one that requires no gradient. Rust
    takes contiguous ones.
    """
    capsule = tensor.__dlpack__(max_version=(1, 0))
    if not _is_valid(capsule, _FULL):
        raise BufferError(f"c10d_rs: {type(tensor).__module__} gives tensors in an older form than DLPack 1.0")
    address = _pointer(capsule, _FULL)
    # Emptied: the capsule does not give the tensor back.
    _rename(capsule, _EMPTY)
    return address


def from_address(address):
    """A tensor of Rust's as a ``torch.Tensor``; the other way round.

    ``address`` is what ``c10d::dlpack::export`` gave. It is taken over, on errors, too: the buffer is freed when the last
    tensor that uses it is gone.
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
