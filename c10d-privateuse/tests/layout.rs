//! Checks that the header and its Rust mirror have the same layout.
#![allow(unsafe_code)]

use crate::common;

use std::process::Command;

use c10d_core::{DType, OpKind, ReduceOp};
use c10d_privateuse::abi::{self, codes};

macro_rules! rows {
    ($($type:ident $c:literal [$($field:ident)*];)*) => {{
        let mut rows: Vec<(String, usize)> = Vec::new();
        $(
            rows.push((format!("sizeof({})", $c), size_of::<abi::$type>()));
            $(rows.push((format!("offsetof({}, {})", $c, stringify!($field)), std::mem::offset_of!(abi::$type, $field)));)*
        )*
        rows
    }};
}

#[test]
fn the_rust_structs_have_the_layout_of_the_header() {
    let mut rows = rows! {
        Why "c10d_why" [struct_size len capacity text];
        Span "c10d_span" [struct_size dtype data offset count device_type device_id type_code type_bits type_lanes reserved];
        Request "c10d_request" [struct_size op dtype reduce factor root peer tag flags seq timeout_ns stream inputs input_count
            outputs output_count output_row input_splits output_splits fingerprint];
        Result "c10d_result" [struct_size status source guilty_count guilty message message_len fingerprint field field_len
            mine mine_len theirs theirs_len];
        Host "c10d_host" [struct_size abi_minor log store_set store_get store_wait store_add store_compare_set store_append store_check
            store_delete now];
        Device "c10d_device" [struct_size device_type count allocate free copy_in copy_out copy create_stream destroy_stream
            create_event destroy_event record wait query retain release allocate_host free_host reduces reduce identity];
        Capabilities "c10d_capabilities" [struct_size device_type ops moves reduces op_count by_op];
        GroupInit "c10d_group_init" [struct_size rank size reserved name name_len session store timeout_ns aborted];
        Collectives "c10d_collectives" [struct_size capability_count capabilities probe create_group destroy_group submit
            abort shutdown split submit_batch async_error];
        Plugin "c10d_plugin" [struct_size abi_minor name name_len version version_len device collectives];
        Note "c10d_note" [owner_size note_size owner struct_size abi_major abi_minor plugin_size name];
    };
    for dtype in DType::ALL {
        rows.push((format!("C10D_{}", dtype.name().to_uppercase()), *dtype as usize));
    }
    for op in OpKind::ALL {
        rows.push((format!("C10D_{}", op.name().to_uppercase()), *op as usize));
    }
    for code in 0..ReduceOp::COUNT as u8 {
        rows.push((format!("C10D_{}", ReduceOp::name_of(code).to_uppercase()), code.into()));
    }
    let codes = [
        ("C10D_OK", codes::OK),
        ("C10D_INVALID", codes::INVALID),
        ("C10D_UNSUPPORTED", codes::UNSUPPORTED),
        ("C10D_MISMATCH", codes::MISMATCH),
        ("C10D_PEER_DEAD", codes::PEER_DEAD),
        ("C10D_TIMEOUT", codes::TIMEOUT),
        ("C10D_ABORTED", codes::ABORTED),
        ("C10D_RESOURCE", codes::RESOURCE),
        ("C10D_DEVICE", codes::DEVICE),
        ("C10D_PROTOCOL", codes::PROTOCOL),
        ("C10D_STORE", codes::STORE),
        ("C10D_INTERNAL", codes::INTERNAL),
        ("C10D_DEVICE_CPU", codes::DEVICE_CPU),
        ("C10D_DEVICE_CUDA", codes::DEVICE_CUDA),
        ("C10D_DEVICE_PRIVATE", codes::DEVICE_PRIVATE),
        ("C10D_ABI_MAJOR", abi::MAJOR.into()),
        ("C10D_ABI_MINOR", abi::MINOR.into()),
        ("C10D_REDUCE_OPS", ReduceOp::COUNT as i32),
        ("C10D_OPS", OpKind::ALL.len() as i32),
        ("C10D_ALL_OPS", (1 << OpKind::ALL.len()) - 1),
        ("C10D_ALL_DTYPES", (1 << DType::ALL.len()) - 1),
    ];
    rows.extend(codes.map(|(name, code)| (name.to_owned(), code as usize)));

    let dir = common::directory();
    let (source, program) = (dir.path().join("layout.c"), dir.path().join("layout"));
    let prints: String = rows.iter().map(|(what, _)| format!("  printf(\"%zu\\n\", (size_t)({what}));\n")).collect();
    let text =
        format!("#include <stddef.h>\n#include <stdio.h>\n#include \"c10d_plugin.h\"\nint main(void) {{\n{prints}}}\n");
    std::fs::write(&source, text).unwrap();
    let include = format!("-I{}", common::include().display());
    common::cc([include.as_ref(), source.as_os_str(), "-o".as_ref(), program.as_os_str()]);
    let out = Command::new(&program).output().unwrap();
    let theirs: Vec<usize> = String::from_utf8_lossy(&out.stdout).lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(theirs.len(), rows.len());
    for ((what, ours), theirs) in rows.iter().zip(theirs) {
        assert_eq!(*ours, theirs, "{what}: the mirror has {ours}, the header {theirs}");
    }
}

#[test]
fn the_header_has_dlpacks_codes() {
    let header = std::fs::read_to_string(common::include().join("c10d_plugin.h")).unwrap();
    for dtype in DType::ALL {
        let (name, (code, bits)) = (dtype.name().to_uppercase(), dtype.dlpack());
        let line = header.lines().find(|line| line.starts_with(&format!("#define C10D_{name} "))).unwrap_or_default();
        assert!(line.contains(&format!("/* {{{code}, {bits}}}")), "{dtype}: {line}");
    }
}

#[test]
fn the_header_is_good_c_and_cpp() {
    let dir = common::directory();
    let include = format!("-I{}", common::include().display());
    for (compiler, file, std) in [("cc", "x.c", "-std=c11"), ("c++", "x.cc", "-std=c++11")] {
        let source = dir.path().join(file);
        std::fs::write(&source, "#include \"c10d_plugin.h\"\nC10D_PLUGIN_NOTE(\"x\");\n").unwrap();
        let out = Command::new(compiler)
            .args([std, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", &include, "-o", "/dev/null"])
            .arg(&source)
            .output();
        let Ok(out) = out else {
            eprintln!("skipped: there is no {compiler}");
            continue;
        };
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}
