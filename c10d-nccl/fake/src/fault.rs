//! Faults on request, by a script such as `C10D_FAKE_NCCL="init=hang,rank=1"`. A launch is one NCCL call, or all calls
//! on one communicator in an NCCL group.
//!
//! | word | what happens |
//! | --- | --- |
//! | `devices=N` | there are N devices (default: 8) |
//! | `driver=CODE` | `cuDriverGetVersion` returns this version |
//! | `version=CODE` | `ncclGetVersion` returns this version |
//! | `rank=R` | the faults below happen only on rank R, except `progress`, `locked`, `query`, `lost` and `freed`, which happen on every rank |
//! | `init=hang` | the call that begins a communicator does not return |
//! | `init=progress` | a communicator never becomes ready: its state is `ncclInProgress` for ever |
//! | `issue=N` | after the N-th launch (from 0) of a communicator, its state is `ncclInProgress` for ever |
//! | `progress=N` | each launch is put on the stream only when the caller has queried the communicator's state N times; until then, the state is `ncclInProgress` |
//! | `hang=N` | the N-th launch never ends on the device; when it is aborted, it sets all bits of its outputs |
//! | `error=N` | the N-th launch never ends, and the communicator reports an asynchronous error |
//! | `unregistered=N` | the N-th launch never ends, and the communicator reports that memory could not be registered |
//! | `locked=none` | `cuMemHostAlloc` finds no memory that it could lock |
//! | `behind=N` | the N-th launch ends only after each other rank in this process has made a later launch, or no longer exists |
//! | `garble=N` | all bits of the data that the N-th launch sends are set |
//! | `abort=hang` | `ncclCommAbort` does not return |
//! | `abort=slow` | `ncclCommAbort` waits for a second before it begins |
//! | `query=N` | `cuEventQuery` does not return on a thread that has made its N-th launch |
//! | `lost=N` | `cuEventQuery` reports that the device is lost, on a thread that has made its N-th launch |
//! | `kernel=N` | the N-th `cuLaunchKernel` and all later ones do not return (if `rank=R` is given, only on device R) |
//! | `freed=ends` | `cuMemFree` does not wait for the device; the process aborts if the host does not yet know, for example from an event, that the freed memory is unused |

/// Returns the value of a word in the script, or `None` if the script does not have the word.
pub fn word(name: &str) -> Option<String> {
    let script = std::env::var("C10D_FAKE_NCCL").ok()?;
    script.split(',').find_map(|pair| pair.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()))
}

/// Returns the value of a word as a number.
pub fn number(name: &str) -> Option<u64> {
    word(name)?.parse().ok()
}

/// Whether the script has this value for the word, and its faults happen on this rank.
pub(crate) fn is(name: &str, value: &str, rank: u32) -> bool {
    number("rank").is_none_or(|r| r == u64::from(rank)) && word(name).as_deref() == Some(value)
}

/// Never returns.
pub(crate) fn hang() -> ! {
    loop {
        std::thread::park();
    }
}
