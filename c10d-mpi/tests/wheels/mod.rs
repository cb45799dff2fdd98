//! The MPI libraries for the tests.

use std::path::PathBuf;

/// A library and its transport.
pub(crate) struct Wheel {
    pub(crate) name: &'static str,
    /// The folder of its Python environment.
    folder: &'static str,
    /// The variables that disable its shared memory; if empty, the library decides.
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
    /// The path of the library, or why there is none.
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
