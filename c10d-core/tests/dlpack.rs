//! Tests which tensors of other libraries are accepted, and that each is released once.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use c10d_core::dlpack::{
    DataType, DlDevice, Flags, Imported, ManagedTensor, ManagedTensorVersioned, Tensor, Version, export, export_legacy,
    export_read_only,
};
use c10d_core::{Buf, DType, Device, Element, ErrorKind, Memory};

const CPU: DlDevice = DlDevice { kind: 1, index: 0 };
const F32: DataType = DataType { code: 2, bits: 32, lanes: 1 };

/// A tensor of six floats that belongs to another library.
struct Theirs {
    data: [f32; 6],
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    returned: Arc<AtomicUsize>,
}

/// Makes such a tensor, and a count of how often it is released.
fn theirs(shape: &[i64], strides: Option<&[i64]>) -> (Box<Theirs>, Arc<AtomicUsize>) {
    let returned = Arc::new(AtomicUsize::new(0));
    let (shape, strides) = (shape.to_vec(), strides.map(<[i64]>::to_vec));
    (Box::new(Theirs { data: [1., 2., 3., 4., 5., 6.], shape, strides, returned: returned.clone() }), returned)
}

impl Theirs {
    fn tensor(&mut self) -> Tensor {
        Tensor {
            data: self.data.as_mut_ptr().cast(),
            device: CPU,
            ndim: self.shape.len() as i32,
            dtype: F32,
            shape: self.shape.as_mut_ptr(),
            strides: self.strides.as_mut().map_or(std::ptr::null_mut(), |s| s.as_mut_ptr()),
            byte_offset: 0,
        }
    }

    fn versioned(
        mut self: Box<Self>,
        change: impl FnOnce(&mut ManagedTensorVersioned),
    ) -> NonNull<ManagedTensorVersioned> {
        let tensor = self.tensor();
        let context = Box::into_raw(self).cast();
        let version = Version { major: 1, minor: 0 };
        let mut managed =
            ManagedTensorVersioned { version, context, deleter: Some(give_back), flags: Flags(0), tensor };
        change(&mut managed);
        NonNull::from(Box::leak(Box::new(managed)))
    }

    fn legacy(mut self: Box<Self>) -> NonNull<ManagedTensor> {
        let tensor = self.tensor();
        let context = Box::into_raw(self).cast();
        NonNull::from(Box::leak(Box::new(ManagedTensor { tensor, context, deleter: Some(give_back_legacy) })))
    }
}

unsafe fn returned(context: *mut c_void) {
    // SAFETY: the context is a leaked box of this type.
    let theirs = unsafe { Box::from_raw(context.cast::<Theirs>()) };
    theirs.returned.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C" fn give_back(tensor: *mut ManagedTensorVersioned) {
    // SAFETY: the tensor is a leaked box of this type.
    unsafe { returned(Box::from_raw(tensor).context) };
}

unsafe extern "C" fn give_back_legacy(tensor: *mut ManagedTensor) {
    // SAFETY: the tensor is a leaked box of this type.
    unsafe { returned(Box::from_raw(tensor).context) };
}

fn take(tensor: NonNull<ManagedTensorVersioned>) -> c10d_core::Result<Imported> {
    // SAFETY: `Theirs` makes valid DLPack tensors.
    unsafe { Imported::versioned(tensor) }
}

#[test]
fn contiguous_tensors_are_taken_and_given_back_once() {
    type Case = (&'static [i64], Option<&'static [i64]>, usize);
    let shapes: [Case; 6] = [
        (&[6], None, 6),
        (&[2, 3], Some(&[3, 1]), 6),
        // Dimensions of size 1, and tensors without elements, may have any strides.
        (&[1, 3, 1], Some(&[77, 1, 5]), 3),
        (&[], None, 1),
        (&[0, 3], Some(&[9, 9]), 0),
        (&[i64::MAX, 0, i64::MAX], None, 0),
    ];
    for (shape, strides, count) in shapes {
        let (tensor, returned) = theirs(shape, strides);
        let mut taken = take(tensor.versioned(|_| ())).unwrap();
        assert_eq!((taken.count(), taken.dtype(), taken.device()), (count, DType::F32, Device::CPU));
        assert_eq!(taken.span().count(), count);
        assert_eq!(returned.load(Ordering::Relaxed), 0);
        drop(taken.writable().unwrap().read());
        assert_eq!(returned.load(Ordering::Relaxed), 1, "{shape:?}");
    }
    let (tensor, returned) = theirs(&[2, 2], None);
    let tensor = tensor.legacy();
    // SAFETY: as above.
    let mut taken = unsafe { Imported::legacy(tensor) }.unwrap();
    assert_eq!(taken.span().count(), 4);
    drop(taken);
    assert_eq!(returned.load(Ordering::Relaxed), 1);
}

#[test]
fn unsupported_tensors_are_rejected_and_released() {
    type Change = fn(&mut ManagedTensorVersioned);
    let changes: [(&str, Change); 12] = [
        ("DLPack version 2.0", |t| t.version.major = 2),
        ("4 lanes", |t| t.tensor.dtype.lanes = 4),
        ("code 14", |t| t.tensor.dtype.code = 14),
        ("device kind 4", |t| t.tensor.device.kind = 4),
        ("index -1", |t| t.tensor.device.index = -1),
        ("-1 dimensions", |t| t.tensor.ndim = -1),
        ("has no shape", |t| t.tensor.shape = std::ptr::null_mut()),
        ("no data", |t| t.tensor.data = std::ptr::null_mut()),
        ("not aligned", |t| t.tensor.byte_offset = 2),
        // SAFETY: there are two sizes and two strides.
        ("strides [1, 2]", |t| unsafe { t.tensor.strides.copy_from([1, 2].as_ptr(), 2) }),
        // SAFETY: as above.
        ("[-2, 3]", |t| unsafe { *t.tensor.shape = -2 }),
        // SAFETY: as above.
        ("has the invalid shape", |t| unsafe { *t.tensor.shape = i64::MAX }),
    ];
    for (words, change) in changes {
        let (tensor, returned) = theirs(&[2, 3], Some(&[3, 1]));
        let e = take(tensor.versioned(change)).expect_err(words);
        assert!(*e.kind() == ErrorKind::InvalidArgument && e.to_string().contains(words), "{words}: {e}");
        assert_eq!(returned.load(Ordering::Relaxed), 1, "{words}");
    }
    let (tensor, returned) = theirs(&[2, 3], None);
    let read_only = take(tensor.versioned(|t| t.flags = Flags::READ_ONLY)).unwrap();
    assert!(read_only.writable().expect_err("read-only").to_string().contains("read-only"));
    assert_eq!(returned.load(Ordering::Relaxed), 1);
}

#[test]
fn dlpack_devices_and_types_are_converted() {
    let placed = |kind: i32, index: i32| {
        let (tensor, _) = theirs(&[6], None);
        take(tensor.versioned(|t| t.tensor.device = DlDevice { kind, index })).unwrap()
    };
    assert_eq!(placed(2, 3).device(), Device::cuda(3));
    assert_eq!(placed(13, 1).device(), Device::cuda(1));
    assert_eq!(placed(3, 0).device(), Device::CPU, "page-locked memory is host memory");
    assert_eq!(placed(12, 1).device(), Device::private(0, 1));
    let mut of_vendor = placed(12, 1).of_vendor(7);
    assert!(matches!(of_vendor.span().memory(), Memory::Opaque { vendor: 7, .. }));
    assert_eq!(placed(1, 0).of_vendor(7).device(), Device::CPU);
    let codes: Vec<(u8, u8)> = DType::ALL.iter().map(|d| DataType::of(*d)).map(|t| (t.code, t.bits)).collect();
    let floats = [(2, 16), (4, 16), (2, 32), (2, 64), (6, 8), (5, 64), (5, 128), (10, 8), (12, 8)];
    assert_eq!(codes[..8], [(1, 8), (0, 8), (1, 16), (0, 16), (1, 32), (0, 32), (1, 64), (0, 64)]);
    assert_eq!(codes[8..], floats);
}

/// A buffer that counts how often it is freed.
struct Counted(Vec<i16>, Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: this is the vector's memory.
unsafe impl Buf for Counted {
    fn span(&mut self) -> c10d_core::Span {
        self.0.span()
    }
}
// SAFETY: as above.
unsafe impl c10d_core::BufMut for Counted {}

#[test]
fn an_exported_tensor_can_be_imported() {
    let freed = Arc::new(AtomicUsize::new(0));
    let tensor = export(Counted(vec![7; 6], freed.clone()), &[2, 1, 3]).unwrap();
    // SAFETY: the tensor was just made.
    let t = unsafe { &tensor.as_ref().tensor };
    assert_eq!((t.device, t.dtype, t.ndim, t.byte_offset), (CPU, DataType::of(i16::DTYPE), 3, 0));
    // SAFETY: the array has one item per dimension.
    let lists = unsafe { (std::slice::from_raw_parts(t.shape, 3), std::slice::from_raw_parts(t.strides, 3)) };
    assert_eq!(lists, (&[2, 1, 3][..], &[3, 3, 1][..]));
    let mut taken = take(tensor).unwrap();
    let at = taken.span().host_ptr().unwrap().cast::<i16>();
    // SAFETY: there are six elements, and nothing else uses them.
    assert_eq!(unsafe { std::slice::from_raw_parts(at, 6) }, [7; 6]);
    assert_eq!(freed.load(Ordering::Relaxed), 0);
    drop(taken);
    assert_eq!(freed.load(Ordering::Relaxed), 1);

    let tensor = export_legacy(Counted(vec![1; 2], freed.clone()), &[2]).unwrap();
    // SAFETY: as above.
    drop(unsafe { Imported::legacy(tensor) }.unwrap());
    assert_eq!(freed.load(Ordering::Relaxed), 2);

    let shared: Arc<[f32]> = Arc::new([1.0; 4]);
    assert!(take(export_read_only(shared, &[4]).unwrap()).unwrap().writable().is_err());
    let e = export(Counted(vec![1; 2], freed.clone()), &[3]).expect_err("another shape");
    assert!(e.to_string().contains("2 elements cannot be exported as a tensor of shape [3]"), "{e}");
    assert_eq!(freed.load(Ordering::Relaxed), 3, "a buffer that cannot be exported is freed");
    drop(take(export(Vec::<f64>::new(), &[0, 2]).unwrap()).unwrap());
}
