//! The MPI libraries that tests run over.

use std::path::PathBuf;

/// A library, and the variables by which it leaves shared memory alone.
pub(crate) struct Wheel {
    pub(crate) name: &'static str,
    pub(crate) tcp: &'static [(&'static str, &'static str)],
}

/// All of them.
pub(crate) const LIBRARIES: [Wheel; 2] = [
    Wheel {
        name: "mpich",
        tcp: &[("MPIR_CVAR_NOLOCAL", "1"), ("MPIR_CVAR_CH4_NETMOD", "ofi"), ("FI_PROVIDER", "tcp")],
    },
    Wheel { name: "intel", tcp: &[("I_MPI_FABRICS", "ofi"), ("FI_PROVIDER", "tcp")] },
];

impl Wheel {
    /// The library's file, or why there is none.
    pub(crate) fn path(&self) -> Result<String, String> {
        let folder =
            std::env::var("C10D_TEST_MPI").map_err(|_| "C10D_TEST_MPI names no folder of MPI wheels".to_owned())?;
        let path = PathBuf::from(folder).join(self.name).join("lib/libmpi_abi.so.1");
        if !path.exists() {
            return Err(format!("{} is not there", path.display()));
        }
        path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is no text", path.display()))
    }
}
