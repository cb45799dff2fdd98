//! The op table: one row per op of PyTorch's c10d. Code that handles all ops reads this table.

use crate::types::{DispatchKey, KeySet};

/// Which tensors an op takes, as lists of inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One buffer, read (`send`).
    Source,
    /// One buffer, written (`recv`, `recv_any_source`).
    Target,
    /// One buffer, read and written.
    InPlace,
    /// Several buffers, read and written as one.
    InPlaceList,
    /// One input; one output per rank.
    GatherList,
    /// One input; one output, whose length is world size times that of the input.
    GatherFlat,
    /// Several inputs; for each input, one output per rank.
    GatherLists,
    /// Several inputs; for each input one output, whose length is world size times that of the input.
    GatherFlats,
    /// One input per rank; one output.
    ScatterList,
    /// One input and one output. The length of the input is world size times that of the output.
    ScatterFlat,
    /// Several inputs; for each input one output. The length of the input is world size times that of its output.
    ScatterFlats,
    /// The same as `GatherList` on the root; no output on the other ranks.
    RootGather,
    /// The same as `ScatterList` on the root; no input on the other ranks.
    RootScatter,
    /// One input and one output per rank.
    ExchangeList,
    /// One input and one output, cut into one piece per rank by split sizes.
    ExchangeFlat,
    /// No buffer.
    Nothing,
}

const REDUCES: u8 = 1;
const ROOTED: u8 = 2;
const P2P: u8 = 4;
const UNEVEN: u8 = 8;

/// A row of the op table.
pub struct OpRow {
    /// The op's name in PyTorch's dispatcher.
    pub schema: &'static str,
    /// The op's name in this library: the name of the method, which `c10d perf` and errors use as well.
    pub name: &'static str,
    /// The tensors that the op takes.
    pub shape: Shape,
    /// The dispatch keys for which the op is declared.
    pub keys: KeySet,
    flags: u8,
}

macro_rules! ops {
    ($($(#[$doc:meta])* $kind:ident $schema:literal $name:literal $shape:ident $keys:ident [$($flag:ident)*];)*) => {
        /// An op of c10d. The discriminant is its row in the table and its code on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum OpKind { $($(#[$doc])* $kind,)* }

        const ROWS: &[OpRow] = &[$(OpRow {
            schema: $schema, name: $name, shape: Shape::$shape, keys: KeySet::$keys, flags: 0 $(| $flag)*,
        },)*];

        impl OpKind {
            /// Every op, in table order.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$kind,)*];
        }
    };
}

ops! {
    /// Sends a buffer to one rank.
    Send "send" "send" Source DENSE [P2P];
    /// Receives a buffer from one rank.
    Recv "recv_" "recv" Target DENSE [P2P];
    /// Receives a buffer from any rank.
    RecvAnySource "recv_any_source_" "recv_any_source" Target DENSE [P2P];
    /// Copies the root's buffer to all ranks.
    Broadcast "broadcast_" "broadcast" InPlace DENSE [ROOTED];
    /// Reduces all buffers; all ranks get the result.
    AllReduce "allreduce_" "all_reduce" InPlace ALL [REDUCES];
    /// Reduces several buffers at once.
    AllReduceCoalesced "allreduce_coalesced_" "all_reduce_coalesced" InPlaceList DENSE [REDUCES];
    /// Reduces all buffers; the root gets the result.
    Reduce "reduce_" "reduce" InPlace DENSE [REDUCES ROOTED];
    /// Gathers one buffer per rank into a list, on all ranks.
    AllGather "allgather_" "all_gather" GatherList DENSE [UNEVEN];
    /// Gathers buffers of equal length into one buffer, on all ranks.
    AllGatherInto "_allgather_base_" "all_gather_into" GatherFlat DENSE [];
    /// `all_gather` of several buffers at once.
    AllGatherCoalesced "allgather_coalesced_" "all_gather_coalesced" GatherLists DENSE [UNEVEN];
    /// `all_gather_into` of several buffers at once.
    AllGatherIntoCoalesced "allgather_into_tensor_coalesced_" "all_gather_into_coalesced" GatherFlats DENSE [];
    /// Each rank passes a list of one buffer per rank; rank `r` gets the reduction of the `r`-th buffers of all ranks.
    ReduceScatter "reduce_scatter_" "reduce_scatter" ScatterList DENSE [REDUCES UNEVEN];
    /// Reduces one buffer; each rank gets an equal part of the result.
    ReduceScatterInto "_reduce_scatter_base_" "reduce_scatter_into" ScatterFlat DENSE [REDUCES];
    /// `reduce_scatter_into` of several buffers at once.
    ReduceScatterIntoCoalesced "reduce_scatter_tensor_coalesced_" "reduce_scatter_into_coalesced" ScatterFlats DENSE [REDUCES];
    /// Gathers one buffer per rank on the root.
    Gather "gather_" "gather" RootGather DENSE [ROOTED UNEVEN];
    /// Sends one of the root's buffers to each rank.
    Scatter "scatter_" "scatter" RootScatter DENSE [ROOTED UNEVEN];
    /// Each rank sends a buffer to each rank.
    AllToAll "alltoall_" "all_to_all" ExchangeList DENSE [UNEVEN];
    /// Each rank sends a part of its buffer to each rank.
    AllToAllSingle "alltoall_base_" "all_to_all_single" ExchangeFlat DENSE [UNEVEN];
    /// Waits for all ranks.
    Barrier "barrier" "barrier" Nothing DENSE [];
    /// Waits for all ranks and names those that do not make the call.
    MonitoredBarrier "monitored_barrier_" "monitored_barrier" Nothing CPU_ONLY [];
}

impl OpKind {
    /// Returns the op's row.
    #[inline]
    pub const fn row(self) -> &'static OpRow {
        &ROWS[self as usize]
    }

    /// Returns the op's name in this library, e.g. `all_reduce`.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns the op's name in PyTorch's dispatcher, e.g. `allreduce_`.
    pub const fn schema(self) -> &'static str {
        self.row().schema
    }

    /// Returns the op with this code, if there is one.
    pub fn from_code(code: u8) -> Option<OpKind> {
        Self::ALL.get(code as usize).copied()
    }

    /// Returns the op with this name (see [`OpKind::name`]), if there is one.
    pub fn from_name(name: &str) -> Option<OpKind> {
        Self::ALL.iter().copied().find(|op| op.name() == name)
    }

    /// Returns whether the op has a reduce operation.
    #[inline]
    pub const fn reduces(self) -> bool {
        self.row().flags & REDUCES != 0
    }

    /// Returns whether the op has a root.
    #[inline]
    pub const fn is_rooted(self) -> bool {
        self.row().flags & ROOTED != 0
    }

    /// Returns whether the op writes to the outputs of a rank. The buffer of an in-place op is an output on every rank,
    /// but a broadcast only reads the root's buffer, and a reduce only reads the buffers of the other ranks.
    #[inline]
    pub const fn writes_outputs(self, is_root: bool) -> bool {
        match self {
            OpKind::Broadcast => !is_root,
            OpKind::Reduce => is_root,
            _ => true,
        }
    }

    /// Returns whether the op is point-to-point. Such an op does not wait for a turn in its lane, and its number is not
    /// the same on all ranks.
    #[inline]
    pub const fn is_p2p(self) -> bool {
        self.row().flags & P2P != 0
    }

    /// Returns whether the lengths of the op's buffers may differ between ranks.
    #[inline]
    pub const fn is_uneven(self) -> bool {
        self.row().flags & UNEVEN != 0
    }
}

impl std::fmt::Display for OpKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the number of pairs of an op and a dispatch key that the table declares for these keys.
pub const fn declared(keys: KeySet) -> usize {
    let (mut n, mut op) = (0, 0);
    while op < ROWS.len() {
        let mut k = 0;
        while k < DispatchKey::ALL.len() {
            let key = DispatchKey::ALL[k];
            if ROWS[op].keys.contains(key) && keys.contains(key) {
                n += 1;
            }
            k += 1;
        }
        op += 1;
    }
    n
}

const _: () = assert!(ROWS.len() == 20);
const _: () = assert!(declared(KeySet::ALL) == 60);
const _: () = assert!(declared(KeySet::DENSE) == 58);

/// A set of ops, with which a backend declares the ops that it offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpSet(u32);

impl OpSet {
    /// Every op.
    pub const ALL: OpSet = OpSet((1 << ROWS.len()) - 1);
    /// No op.
    pub const NONE: OpSet = OpSet(0);

    /// Returns the set of the listed ops.
    pub const fn of(list: &[OpKind]) -> OpSet {
        let (mut bits, mut i) = (0, 0);
        while i < list.len() {
            bits |= 1 << list[i] as u32;
            i += 1;
        }
        OpSet(bits)
    }

    /// Returns whether the set has this op.
    #[inline]
    pub const fn contains(self, op: OpKind) -> bool {
        self.0 & (1 << op as u32) != 0
    }

    /// Returns this set without the listed ops.
    pub const fn without(self, list: &[OpKind]) -> OpSet {
        OpSet(self.0 & !OpSet::of(list).0)
    }
}
