//! The files that the search for libnccl tries.

use std::path::{Path, PathBuf};

use c10d_core::library::{requested, variable};

/// The variable with the path of the library's file. If it is set, no other file is tried, unless the hint `nccl.lib`
/// names one.
pub(crate) const VARIABLE: &str = "C10D_NCCL_LIB";

/// The settings that the search uses, normally those of this process.
pub(super) struct Surroundings {
    /// The builder's hint `nccl.lib`.
    pub(super) argument: Option<String>,
    /// The value of `C10D_NCCL_LIB`.
    pub(super) variable: Option<String>,
    /// The active Python environments, from `$VIRTUAL_ENV` and `$CONDA_PREFIX`.
    pub(super) environments: Vec<PathBuf>,
}

impl Surroundings {
    pub(super) fn of_process(argument: Option<&str>) -> Surroundings {
        Surroundings {
            argument: argument.map(str::to_owned),
            variable: variable(VARIABLE),
            environments: ["VIRTUAL_ENV", "CONDA_PREFIX"]
                .iter()
                .filter_map(|name| variable(name))
                .map(PathBuf::from)
                .collect(),
        }
    }

    /// Returns the files to try, in order. Returns an error if `C10D_NCCL_LIB` is not an absolute path.
    pub(super) fn candidates(&self) -> Result<Vec<PathBuf>, String> {
        if let Some(path) = requested(self.argument.as_deref(), VARIABLE, self.variable.as_deref())? {
            return Ok(vec![path]);
        }
        let mut out = vec![PathBuf::from("libnccl.so.2"), PathBuf::from("libnccl.so")];
        out.extend(self.environments.iter().flat_map(|root| wheels(root)));
        Ok(out)
    }
}

/// Returns the possible paths of the library of a pip wheel, one for each Python version of this environment.
fn wheels(root: &Path) -> Vec<PathBuf> {
    let lib = root.join("lib");
    let entries = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    let mut pythons: Vec<PathBuf> = entries
        .filter(|e| e.file_name().to_str().is_some_and(|name| name.starts_with("python3")))
        .map(|e| e.path().join("site-packages/nvidia/nccl/lib/libnccl.so.2"))
        .collect();
    pythons.sort();
    if pythons.is_empty() {
        // With this name, the error shows that the environment was searched.
        pythons.push(lib.join("python3*/site-packages/nvidia/nccl/lib/libnccl.so.2"));
    }
    pythons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(argument: Option<&str>, variable: Option<&str>, environment: &Path) -> Surroundings {
        Surroundings {
            argument: argument.map(str::to_owned),
            variable: variable.map(str::to_owned),
            environments: vec![environment.to_owned()],
        }
    }

    #[test]
    fn the_files_are_tried_in_this_order() {
        let root = std::env::temp_dir().join(format!("c10d-nccl-search-{}", std::process::id()));
        let wheel = root.join("lib/python3.12/site-packages/nvidia/nccl/lib");
        std::fs::create_dir_all(&wheel).unwrap();
        let found = surroundings(None, None, &root).candidates().unwrap();
        assert_eq!(found, [Path::new("libnccl.so.2"), Path::new("libnccl.so"), &wheel.join("libnccl.so.2")]);
        std::fs::remove_dir_all(&root).unwrap();

        let variable = surroundings(None, Some("/opt/nccl/libnccl.so.2"), &root).candidates().unwrap();
        assert_eq!(variable, [Path::new("/opt/nccl/libnccl.so.2")], "nothing else is tried");
        let argument = surroundings(Some("./mine.so"), Some("/opt/other.so"), &root).candidates().unwrap();
        assert_eq!(argument, [Path::new("./mine.so")], "the argument has precedence over the variable");
        let relative = surroundings(None, Some("libnccl.so.2"), &root).candidates().unwrap_err();
        assert!(relative.contains(VARIABLE) && relative.contains("absolute"), "{relative}");
    }
}
