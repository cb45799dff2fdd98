//! The MPI libraries for the tests.

use std::path::PathBuf;

/// A library, and the variables that select its transport.
pub(crate) struct Wheel {
    pub(crate) name: &'static str,
    /// The folder of the library's Python environment.
    folder: &'static str,
    /// Variables that disable the library's shared memory. If there are none, the library chooses the transport.
    pub(crate) variables: &'static [(&'static str, &'static str)],
}

/// All libraries and transports that are tested.
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
    /// Returns the path of the library, or why the tests with it are skipped.
    pub(crate) fn path(&self) -> Result<String, String> {
        let wheels = std::env::var("C10D_TEST_MPI")
            .map_err(|_| "C10D_TEST_MPI, the folder of MPI wheels, is not set".to_owned())?;
        let path = PathBuf::from(wheels).join(self.folder).join("lib/libmpi_abi.so.1");
        if !path.exists() {
            return Err(format!("{} does not exist", path.display()));
        }
        path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", path.display()))
    }
}
