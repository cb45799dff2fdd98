//! Dispatch keys, by which ops are routed.

/// The device kind and layout of a call's buffers. The key decides the backend of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DispatchKey {
    /// Dense host memory.
    Cpu,
    /// Dense CUDA memory.
    Cuda,
    /// Dense memory of a vendor's accelerator.
    PrivateUse1,
    /// A sparse tensor in host memory.
    SparseCpu,
    /// A sparse tensor in CUDA memory.
    SparseCuda,
}

impl DispatchKey {
    /// Every key.
    pub const ALL: [DispatchKey; 5] = [
        DispatchKey::Cpu,
        DispatchKey::Cuda,
        DispatchKey::PrivateUse1,
        DispatchKey::SparseCpu,
        DispatchKey::SparseCuda,
    ];

    /// Returns PyTorch's name of the key.
    pub const fn name(self) -> &'static str {
        match self {
            DispatchKey::Cpu => "CPU",
            DispatchKey::Cuda => "CUDA",
            DispatchKey::PrivateUse1 => "PrivateUse1",
            DispatchKey::SparseCpu => "SparseCPU",
            DispatchKey::SparseCuda => "SparseCUDA",
        }
    }

    /// Returns the key of a dense buffer on the same device.
    pub const fn dense(self) -> DispatchKey {
        match self {
            DispatchKey::SparseCpu => DispatchKey::Cpu,
            DispatchKey::SparseCuda => DispatchKey::Cuda,
            key => key,
        }
    }

    /// Returns whether the key is for sparse tensors.
    pub const fn is_sparse(self) -> bool {
        matches!(self, DispatchKey::SparseCpu | DispatchKey::SparseCuda)
    }

    /// Returns the word for the key's device in a backend map: `cpu` in `"cpu:gloo-like"`.
    pub const fn device_word(self) -> &'static str {
        match self.dense() {
            DispatchKey::Cpu => "cpu",
            DispatchKey::Cuda => "cuda",
            _ => "privateuse1",
        }
    }
}

impl std::fmt::Display for DispatchKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of dispatch keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySet(u8);

impl KeySet {
    /// Every key.
    pub const ALL: KeySet = KeySet(0b1_1111);
    /// The three dense keys.
    pub const DENSE: KeySet = KeySet(0b0_0111);
    /// Only the key of dense host memory.
    pub const CPU_ONLY: KeySet = KeySet(0b0_0001);

    /// Returns whether the set has this key.
    pub const fn contains(self, key: DispatchKey) -> bool {
        self.0 & (1 << key as u8) != 0
    }

    /// Returns the number of keys in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Returns whether the set has no key.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}
