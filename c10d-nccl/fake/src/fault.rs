//! The script of faults, for example `C10D_FAKE_NCCL="init=hang,rank=1"`.
//!
//! | word | what happens |
//! | --- | --- |
//! | `devices=N` | there are N devices (8) |
//! | `driver=CODE` | `cuDriverGetVersion` says so |
//! | `version=CODE` | `ncclGetVersion` says so |
//! | `rank=R` | the faults below are rank R's alone |
//! | `init=hang` | the call that begins a communicator does not return |
//! | `init=progress` | a communicator is in progress for ever |
//! | `issue=N` | the N-th launch (from 0) is in progress for ever |
//! | `progress=N` | each launch is in progress until it was asked N times, and given to the stream only then |
//! | `hang=N` | the N-th launch never ends on the device; when it is aborted, it writes ones in all bits |
//! | `error=N` | the N-th launch never ends, and the communicator reports an asynchronous error |
//! | `behind=N` | the N-th launch ends on the device when the other ranks of this process have made a later one, or have gone |
//! | `garble=N` | the N-th launch sends ones in all bits |
//! | `abort=hang` | `ncclCommAbort` does not return |
//! | `abort=slow` | `ncclCommAbort` takes a second to begin |
//! | `query=N` | `cuEventQuery` does not return on a thread after its N-th launch |
//! | `lost=N` | the device is lost to a thread after its N-th launch |
//! | `kernel=N` | the N-th `cuLaunchKernel` does not return, nor those after it (those on device R, if a rank is named) |
//! | `freed=ends` | memory that is freed before an event has shown it to be out of use ends the process; no free waits |

/// The value of a word in the script.
pub fn word(name: &str) -> Option<String> {
    let script = std::env::var("C10D_FAKE_NCCL").ok()?;
    script.split(',').find_map(|pair| pair.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()))
}

/// The value as a number.
pub fn number(name: &str) -> Option<u64> {
    word(name)?.parse().ok()
}

/// Whether the script has this value for this rank.
pub(crate) fn is(name: &str, value: &str, rank: u32) -> bool {
    number("rank").is_none_or(|r| r == u64::from(rank)) && word(name).as_deref() == Some(value)
}

/// Never returns.
pub(crate) fn hang() -> ! {
    loop {
        std::thread::park();
    }
}
