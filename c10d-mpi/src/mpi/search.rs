//! The places where an MPI library with the standard ABI may be.

use std::path::{Path, PathBuf};

use c10d_core::library::{requested, variable};

use super::mapped::{has_standard_abi, mappings};

/// The variable that names the library's file. If it is set, the search tries only this file. The hint `mpi.lib` has
/// precedence.
pub(crate) const VARIABLE: &str = "C10D_MPI_LIB";
/// The library's name in MPI 5.0.
const SONAME: &str = "libmpi_abi.so.1";
/// The folders of the system's libraries.
const SYSTEM: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
/// The names of MPI libraries that do not have the standard ABI.
const OTHERS: [&str; 2] = ["libmpi.so.12", "libmpi.so.40"];

/// The inputs of the search. Outside of tests, they are those of the process.
pub(super) struct Surroundings {
    /// The value of the hint `mpi.lib`.
    pub(super) argument: Option<String>,
    /// The value of `C10D_MPI_LIB`.
    pub(super) variable: Option<String>,
    /// The library with the standard ABI that is already in the process.
    pub(super) mapped: Option<PathBuf>,
    /// The folders that may have a subfolder `lib`: `$I_MPI_ROOT` and the active Python environments.
    pub(super) roots: Vec<PathBuf>,
}

impl Surroundings {
    pub(super) fn of_process(argument: Option<&str>) -> Surroundings {
        let roots = ["I_MPI_ROOT", "VIRTUAL_ENV", "CONDA_PREFIX"];
        Surroundings {
            argument: argument.map(str::to_owned),
            variable: variable(VARIABLE),
            mapped: mappings().into_iter().find(has_standard_abi).map(|m| m.path),
            roots: roots.iter().filter_map(|name| variable(name)).map(PathBuf::from).collect(),
        }
    }

    /// Returns the files to open, in order. Returns an error if the variable has a relative path.
    pub(super) fn candidates(&self) -> Result<Vec<PathBuf>, String> {
        if let Some(path) = requested(self.argument.as_deref(), VARIABLE, self.variable.as_deref())? {
            return Ok(vec![path]);
        }
        let mut out: Vec<PathBuf> = self.mapped.iter().cloned().collect();
        // This name has no folder, so the dynamic linker searches its folders for it, including those in
        // LD_LIBRARY_PATH.
        out.push(PathBuf::from(SONAME));
        out.extend(self.roots.iter().map(|root| root.join("lib").join(SONAME)));
        Ok(out)
    }

    /// Returns an error if none of the [`candidates`](Self::candidates) seems to exist. Loads no library.
    pub(super) fn found(&self) -> Result<(), String> {
        let candidates = self.candidates()?;
        let folders = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let folders = folders.split(':').filter(|folder| !folder.is_empty()).chain(SYSTEM);
        let by_linker = folders.map(|folder| Path::new(folder).join(SONAME));
        let named = candidates.iter().filter(|path| path.is_absolute() || self.argument.is_some()).cloned();
        let places: Vec<PathBuf> = if self.argument.is_some() || self.variable.is_some() {
            named.collect()
        } else {
            named.chain(by_linker).collect()
        };
        if places.iter().any(|path| path.exists()) {
            return Ok(());
        }
        let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        Err(format!("none of these files exists: {}", places.join(", ")))
    }

    /// Returns existing MPI libraries without the standard ABI.
    pub(super) fn without_the_abi(&self) -> Vec<PathBuf> {
        let files = self.roots.iter().flat_map(|root| OTHERS.map(|name| root.join("lib").join(name)));
        let system = SYSTEM.iter().flat_map(|folder| OTHERS.map(|name| Path::new(folder).join(name)));
        files.chain(system).filter(|path| path.exists()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(argument: Option<&str>, variable: Option<&str>, mapped: Option<&str>) -> Surroundings {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let mapped = mapped.map(PathBuf::from);
        Surroundings { argument: owned(argument), variable: owned(variable), mapped, roots: vec!["/env".into()] }
    }

    #[test]
    fn the_files_are_tried_in_this_order() {
        let usual = surroundings(None, None, None).candidates().unwrap();
        assert_eq!(usual, [Path::new(SONAME), Path::new("/env/lib/libmpi_abi.so.1")]);
        let mapped = surroundings(None, None, Some("/opt/libmpi_abi.so.1.0")).candidates().unwrap();
        assert_eq!(mapped[0], Path::new("/opt/libmpi_abi.so.1.0"), "the library in the process comes first");
        let variable = surroundings(None, Some("/opt/libmpi_abi.so.1"), None).candidates().unwrap();
        assert_eq!(variable, [Path::new("/opt/libmpi_abi.so.1")], "nothing else is tried");
        let argument = surroundings(Some("./mine.so"), Some("/opt/other.so"), None).candidates().unwrap();
        assert_eq!(argument, [Path::new("./mine.so")], "the argument has precedence over the variable");
        let relative = surroundings(None, Some("libmpi_abi.so.1"), None).candidates().unwrap_err();
        assert!(relative.contains(VARIABLE) && relative.contains("absolute"), "{relative}");
    }

    #[test]
    fn a_file_is_found_without_loading_it() {
        let here = std::env::current_exe().unwrap();
        let here = here.to_str().unwrap();
        assert!(surroundings(Some(here), None, None).found().is_ok());
        assert!(surroundings(None, Some(here), None).found().is_ok());
        let missing = surroundings(None, Some("/nowhere/libmpi_abi.so.1"), None).found().unwrap_err();
        assert_eq!(
            missing, "none of these files exists: /nowhere/libmpi_abi.so.1",
            "no folder of the linker is listed"
        );
    }
}
