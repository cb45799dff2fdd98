//! Tests which libnccl is loaded, and which error is returned if none can be loaded.

use crate::common;

use std::path::{Path, PathBuf};

use c10d_core::{Error, ErrorKind, ReduceOp};
use common::{SECOND, builder, command, fake, folder, on, output, with_library};

const PROBE: &str = "C10D_NCCL_TEST_PROBE";

/// Runs the test `probe` in a new process, whose environment `set` can change before the start. Returns the output of
/// the process, which says which libnccl was loaded or why none was.
fn says(set: impl FnOnce(&mut std::process::Command)) -> String {
    let empty = folder("nothing");
    let _ = std::fs::remove_file(empty.join("libnccl.so.2"));
    let mut command = command(&empty, "");
    command.env(PROBE, "1").args(["loader::probe", "--exact", "--nocapture"]);
    set(&mut command);
    let output = output(command);
    let _ = std::fs::remove_dir_all(empty);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The part of the tests below that runs in the separate processes.
#[test]
fn probe() {
    if std::env::var(PROBE).is_ok() {
        match c10d_nccl::library() {
            Ok((path, version)) => println!("loaded {version} from {}", path.display()),
            Err(e) => println!("refused {:?}: {e}", e.kind()),
        }
    }
}

/// Copies the fake to the path `to`. Each occurrence of the first text of `change` is replaced by the second. Returns
/// the path.
fn copy(to: &Path, change: Option<(&[u8], &[u8])>) -> PathBuf {
    let mut bytes = std::fs::read(fake()).unwrap();
    if let Some((from, to)) = change {
        assert_eq!(from.len(), to.len());
        let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from)).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    }
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::write(to, bytes).unwrap();
    to.to_owned()
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("c10d-nccl-loader-{}-{name}", std::process::id()))
}

#[test]
fn a_missing_library_lists_what_was_tried() {
    let said = says(|c| {
        c.env("VIRTUAL_ENV", "/nowhere");
    });
    for word in ["refused Unsupported", "libnccl.so.2", "libnccl.so:", "/nowhere/lib/", "C10D_NCCL_LIB"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn only_the_file_in_the_variable_is_tried() {
    let said = says(|c| {
        c.env("C10D_NCCL_LIB", fake());
    });
    assert!(said.contains(&format!("loaded 2.28.9 from {}", fake().canonicalize().unwrap().display())), "{said}");
    // Without the variable, the dynamic linker would find the fake in this folder.
    let other = folder("variable");
    let said = says(|c| {
        c.env("C10D_NCCL_LIB", "/nowhere/libnccl.so.2").env("LD_LIBRARY_PATH", &other);
    });
    let _ = std::fs::remove_dir_all(other);
    assert!(said.contains("refused") && said.contains("/nowhere/libnccl.so.2"), "{said}");
    let said = says(|c| {
        c.env("C10D_NCCL_LIB", "libnccl.so.2");
    });
    assert!(said.contains("absolute"), "{said}");
}

#[test]
fn the_wheel_of_the_active_environment_is_found() {
    let root = scratch("venv");
    let wheel = copy(&root.join("lib/python3.12/site-packages/nvidia/nccl/lib/libnccl.so.2"), None);
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let said = says(|c| {
            c.env(variable, &root);
        });
        assert!(said.contains(&format!("from {}", wheel.display())), "{said}");
    }
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn an_old_library_is_refused() {
    let said = says(|c| {
        c.env("C10D_NCCL_LIB", fake()).env("C10D_FAKE_NCCL", "version=21708");
    });
    assert!(said.contains("refused Unsupported") && said.contains("2.17.8") && said.contains("2.18.0"), "{said}");
}

#[test]
fn a_missing_function_is_named() {
    let root = scratch("missing");
    let lacking = copy(&root.join("libfake.so"), Some((b"ncclCommSplit\0", b"ncclCommSplat\0")));
    let said = says(|c| {
        c.env("C10D_NCCL_LIB", &lacking);
    });
    assert!(said.contains("refused Unsupported") && said.contains("lacks ncclCommSplit"), "{said}");
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_file_that_is_no_libnccl_is_rejected() {
    let said = says(|c| {
        c.env("C10D_NCCL_LIB", "/proc/self/exe");
    });
    assert!(said.contains("refused Unsupported") && said.contains("/proc/self/exe: "), "{said}");
    let root = scratch("other");
    let other = copy(&root.join("libother.so"), Some((b"ncclGetVersion\0", b"otherGetAnswer\0")));
    let said = says(|c| {
        c.env("C10D_NCCL_LIB", &other);
    });
    assert!(said.contains("refused Unsupported") && said.contains("is no libnccl"), "{said}");
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_second_libnccl_in_the_process_is_refused() {
    let root = scratch("second");
    let first = copy(&root.join("a/libnccl.so.2"), None);
    let second = copy(&root.join("b/libnccl.so.2"), None);
    let said = says(|c| {
        c.env("LD_PRELOAD", &first).env("C10D_NCCL_LIB", &second);
    });
    assert!(said.contains("refused") && said.contains(&first.display().to_string()), "{said}");
    let said = says(|c| {
        c.env("LD_PRELOAD", &first).env("C10D_NCCL_LIB", &first);
    });
    assert!(said.contains(&format!("from {}", first.display())), "the same file is not a second libnccl: {said}");
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn the_hint_has_precedence_and_a_process_has_one_libnccl() {
    let test = "the_hint_has_precedence_and_a_process_has_one_libnccl";
    with_library(
        test,
        || copy(&scratch("argument").join("mine.so"), None),
        |named| {
            let with = |path: &Path| builder().hint("nccl.lib", &path.display().to_string());
            with(named).build().unwrap().shutdown().unwrap();
            let (loaded, _) = c10d_nccl::library().unwrap();
            assert_eq!(loaded, named, "the file in the hint, not one that the linker would find");
            let e = with(&fake()).build().expect_err("another file");
            assert!(e.to_string().contains("mine.so") && *e.kind() == ErrorKind::Unsupported, "{e}");
        },
    );
}

#[test]
fn an_optional_function_may_be_missing() {
    let lacking = || copy(&scratch("optional").join("lacking.so"), Some((b"ncclAlltoAll\0", b"ncclAlltoNil\0")));
    with_library("an_optional_function_may_be_missing", lacking, |lacking| {
        let builder = builder().hint("nccl.lib", &lacking.display().to_string());
        let got = builder.run_ranks(2, |pg| {
            let me = pg.rank() as i32;
            let (mut x, mut y) = (on(pg.rank(), &[me, 10 + me]), on(pg.rank(), &[0i32; 2]));
            pg.all_to_all_single(&mut x, &mut y)?;
            y.to_vec::<i32>(60 * SECOND)
        });
        assert_eq!(got.unwrap(), [[0, 1], [10, 11]]);
    });
}

#[test]
fn without_cuda_the_backend_is_an_error_and_the_cpu_works() {
    let said = |e: &Error| e.to_string();
    if c10d_nccl::available().is_ok() {
        println!("skipped: this machine has CUDA");
        return;
    }
    let e = c10d_nccl::available().expect_err("looked at above");
    assert!(said(&e).contains("libcuda.so.1") && *e.kind() == ErrorKind::Unsupported, "{e}");
    let e = builder().build().expect_err("no driver");
    assert!(said(&e).contains("libcuda.so.1"), "{e}");
    let both = c10d_core::Builder::new().providers(&[&c10d_nccl::PROVIDER, &c10d_gloo_like::PROVIDER]);
    let sums = both.run_ranks(2, |pg| {
        let mut x = [pg.rank()];
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        Ok(x[0])
    });
    assert_eq!(sums.unwrap(), [1, 1]);
}

/// Tests the real library, if there is one: the file that `C10D_NCCL_LIB` names, or an installed library, or the
/// library of the active Python environment.
#[test]
fn the_real_library() {
    let (path, version) = match c10d_nccl::library() {
        Ok(found) => found,
        Err(e) => return println!("skipped: {e}"),
    };
    println!("{version} from {}", path.display());
    assert!(path.is_file() && version.starts_with("2."), "{version}");
    if c10d_nccl::available().is_err() {
        let e = builder().build().expect_err("no driver");
        assert!(e.to_string().contains("libcuda"), "{e}");
    }
}
