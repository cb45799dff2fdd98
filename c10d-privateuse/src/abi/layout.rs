//! Asserts the layout of the structs at compile time. The test `layout.rs` compares this layout with the C header.

use std::mem::offset_of;

use super::*;

macro_rules! layout {
    ($type:ty, $size:literal, $($field:ident $at:literal),*) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(offset_of!($type, struct_size) == 0);
            $(assert!(offset_of!($type, $field) == $at);)*
        };
    };
}

layout!(Why, 24, capacity 8, text 16);
layout!(Span, 48, dtype 4, data 8, offset 16, count 24, device_type 32, device_id 36, type_code 40, type_bits 41, type_lanes 42, reserved 44);
layout!(Request, 144, op 4, dtype 8, reduce 12, factor 16, root 24, peer 28, tag 32, flags 36, seq 40, timeout_ns 48, stream 56,
    inputs 64, input_count 72, outputs 80, output_count 88, output_row 96, input_splits 104, output_splits 112, fingerprint 120);
layout!(Result, 96, status 4, source 8, guilty_count 12, guilty 16, message 24, message_len 32, fingerprint 40,
    field 48, field_len 56, mine 64, mine_len 72, theirs 80, theirs_len 88);
layout!(Host, 88, abi_minor 4, log 8, store_set 16, store_get 24, store_wait 32, store_add 40, store_compare_set 48, store_append 56,
    store_check 64, store_delete 72, now 80);
layout!(Device, 168, device_type 4, count 8, allocate 16, free 24, copy_in 32, copy_out 40, copy 48, create_stream 56, destroy_stream 64,
    create_event 72, destroy_event 80, record 88, wait 96, query 104, retain 112, release 120, allocate_host 128,
    free_host 136, reduces 144, reduce 152, identity 160);
layout!(Capabilities, 64, device_type 4, ops 8, moves 12, reduces 16, op_count 52, by_op 56);
layout!(GroupInit, 72, rank 4, size 8, name 16, name_len 24, session 32, store 48, timeout_ns 56, aborted 64);
layout!(Collectives, 88, capability_count 4, capabilities 8, probe 16, create_group 24, destroy_group 32, submit 40, abort 48, shutdown 56,
    split 64, submit_batch 72, async_error 80);
layout!(Plugin, 56, abi_minor 4, name 8, name_len 16, version 24, version_len 32, device 40, collectives 48);

// From these offsets on, the fields are function pointers of 8 bytes each.
const _: () = assert!(Device::FUNCTIONS == 8 && Collectives::FUNCTIONS == 16);

const _: () = assert!(size_of::<Note>() == 84 && offset_of!(Note, struct_size) == 20 && offset_of!(Note, name) == 32);
