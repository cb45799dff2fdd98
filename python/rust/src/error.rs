//! Errors for C.

use std::ffi::{CString, c_char};

use c10d::{Error, ErrorKind, Status};

/// `c10drs_error` of the header. Its strings and lists are valid until it is freed.
#[derive(Debug)]
#[repr(C)]
pub struct CError {
    /// The text of the error.
    pub text: *const c_char,
    /// The kind's name.
    pub kind: *const c_char,
    /// The op's name, or an empty string.
    pub op: *const c_char,
    /// The phase's name, or an empty string.
    pub phase: *const c_char,
    /// The op's sequence number, or -1.
    pub seq: i64,
    /// The rank that reports the error, or -1.
    pub rank: i64,
    /// 1 if the group has failed, 0 if it can still be used.
    pub failed: u32,
    /// 1 if the deadline passed.
    pub timed_out: u32,
    /// The ranks at fault.
    pub guilty: *const u32,
    /// The number of these ranks.
    pub guilty_len: usize,
    _kept: ReportStorage,
}

#[derive(Debug)]
struct ReportStorage {
    _strings: [CString; 4],
    _guilty: Vec<u32>,
}

impl CError {
    /// Converts an error for C.
    pub fn new(error: &Error) -> Box<CError> {
        let report = error.report();
        let name = |text: Option<String>| string(text.unwrap_or_default());
        // The `Debug` text includes the causes.
        let strings = [
            string(format!("{error:?}")),
            string(report.kind.name().to_owned()),
            name(report.op.map(|op| op.name().to_owned())),
            name(report.phase.map(|phase| phase.to_string())),
        ];
        let guilty = report.guilty.clone();
        Box::new(CError {
            text: strings[0].as_ptr(),
            kind: strings[1].as_ptr(),
            op: strings[2].as_ptr(),
            phase: strings[3].as_ptr(),
            seq: report.seq.map_or(-1, |seq| seq as i64),
            rank: report.rank.map_or(-1, i64::from),
            failed: u32::from(error.status() == Status::Failed),
            timed_out: u32::from(report.kind == ErrorKind::Timeout),
            guilty: guilty.as_ptr(),
            guilty_len: guilty.len(),
            _kept: ReportStorage { _strings: strings, _guilty: guilty },
        })
    }
}

fn string(text: String) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}
