//! Compiles the sources of the CUDA kernels for the CPU, and makes a table of the functions in their PTX files.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let kernels = here.join("../kernels");
    let generated = kernels.join("generated");
    println!("cargo::rerun-if-changed=../kernels");
    println!("cargo::rerun-if-changed=host.h");
    println!("cargo::rerun-if-changed=host.c");
    let mut sources: Vec<PathBuf> = std::fs::read_dir(&kernels)
        .expect("the folder of the kernels")
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    let mut build = cc::Build::new();
    build.file("host.c").include(&here).include(&kernels).std("c11").flag_if_supported("-ffp-contract=off");
    let (mut externs, mut table) = (String::new(), String::new());
    for source in &sources {
        let file = out.join(source.with_extension("c").file_name().expect("a file"));
        let text = format!("#include \"host.h\"\n#include \"{}\"\n", source.display());
        std::fs::write(&file, text).expect("writing to OUT_DIR");
        build.file(file);
        for (name, parameters) in entries(&generated.join(source.with_extension("ptx").file_name().expect("a file"))) {
            writeln!(externs, "    fn {name}();").expect("writing text");
            writeln!(table, "    ({name:?}, {parameters}, {name}),").expect("writing text");
        }
    }
    build.compile("c10d_kernels");
    let text = format!(
        "unsafe extern \"C\" {{\n{externs}}}\n\
         /// Name, number of parameters, code.\n\
         static KERNELS: &[(&str, usize, unsafe extern \"C\" fn())] = &[\n{table}];\n"
    );
    std::fs::write(out.join("kernels.rs"), text).expect("writing to OUT_DIR");
}

/// Returns the functions of a PTX file, each with the number of its parameters.
fn entries(file: &Path) -> Vec<(String, usize)> {
    let text = std::fs::read_to_string(file).expect("each source has its PTX in the folder `generated`");
    let entry = |entry: &str| {
        let (name, rest) = entry.split_once('(').expect("a list of parameters");
        let parameters = rest.split_once(')').expect("the end of the list").0.matches(".param").count();
        (name.to_owned(), parameters)
    };
    text.split(".entry ").skip(1).map(entry).collect()
}
