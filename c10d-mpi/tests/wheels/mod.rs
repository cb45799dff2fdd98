//! The MPI libraries that tests run over.

use std::path::PathBuf;

/// A library, and over what it runs.
pub(crate) struct Wheel {
    pub(crate) name: &'static str,
    /// The folder of its environment.
    folder: &'static str,
    /// The variables by which it leaves shared memory alone; none: it does as it likes.
    pub(crate) variables: &'static [(&'static str, &'static str)],
}

/// All of them.
pub(crate) const LIBRARIES: [Wheel; 4] = [
    Wheel { name: "mpich", folder: "mpich", variables: &[] },
    Wheel {
        name: "mpich_tcp",
        folder: "mpich",
        variables: &[("MPIR_CVAR_NOLOCAL", "1"), ("MPIR_CVAR_CH4_NETMOD", "ofi"), ("FI_PROVIDER", "tcp")],
    },
    Wheel { name: "intel", folder: "intel", variables: &[] },
    Wheel { name: "intel_tcp", folder: "intel", variables: &[("I_MPI_FABRICS", "ofi"), ("FI_PROVIDER", "tcp")] },
];

impl Wheel {
    /// The library's file, or why there is none.
    pub(crate) fn path(&self) -> Result<String, String> {
        let wheels =
            std::env::var("C10D_TEST_MPI").map_err(|_| "C10D_TEST_MPI names no folder of MPI wheels".to_owned())?;
        let path = PathBuf::from(wheels).join(self.folder).join("lib/libmpi_abi.so.1");
        if !path.exists() {
            return Err(format!("{} is not there", path.display()));
        }
        path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is no text", path.display()))
    }
}
