//! The cause of a group's failure, as a message between ranks.

use c10d_core::backend::Fingerprint;
use c10d_core::{Error, ErrorKind, OpKind, Phase};

use super::wire::{Reader, fingerprint, option, put_option, put_text};

/// The longest text, in bytes.
const TEXT: usize = 1024;
/// The largest number of ranks that a report names.
const GUILTY: usize = 8192;

const PHASES: [Phase; 6] =
    [Phase::Validate, Phase::Rendezvous, Phase::Connect, Phase::Announce, Phase::Transfer, Phase::Complete];

/// The first cause of a group's failure, as the rank that found it reports it to the other ranks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Revoke {
    /// The rank that found the cause. Every rank forwards the first report that it gets, so a rank that leaves because
    /// of a failure has sent the cause to all ranks before its goodbye.
    pub(crate) by: u32,
    /// The first rank that forwarded the report, if any. A forwarded report is unverified.
    pub(crate) via: Option<u32>,
    pub(crate) kind: ErrorKind,
    pub(crate) what: String,
    pub(crate) guilty: Vec<u32>,
    /// Whether the cause lies between the guilty ranks (a deadlock, a broken connection). If so, all ranks name all
    /// guilty ranks, even themselves.
    pub(crate) between: bool,
    pub(crate) phase: Option<Phase>,
    pub(crate) seq: Option<u64>,
    pub(crate) op: Option<OpKind>,
    /// For a mismatch: the two ranks and their calls.
    pub(crate) fingerprints: Option<[(u32, Fingerprint); 2]>,
}

impl Revoke {
    pub(crate) fn of(by: u32, error: &Error, fingerprints: Option<[(u32, Fingerprint); 2]>) -> Revoke {
        let report = error.report();
        Revoke {
            by,
            via: None,
            kind: report.kind.clone(),
            what: report.what.clone(),
            guilty: report.guilty.clone(),
            between: false,
            phase: report.phase,
            seq: report.seq,
            op: report.op,
            fingerprints,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.by.to_le_bytes());
        put_option(out, self.via, |out, via| out.extend_from_slice(&via.to_le_bytes()));
        out.push(code(&self.kind));
        match &self.kind {
            ErrorKind::Mismatch { field, mine, theirs } => {
                out.push(ErrorKind::field_code(field));
                put_text(out, mine, TEXT);
                put_text(out, theirs, TEXT);
            }
            ErrorKind::PeerDead { how } => put_text(out, how, TEXT),
            _ => {}
        }
        put_text(out, &self.what, TEXT);
        let guilty = &self.guilty[..self.guilty.len().min(GUILTY)];
        out.extend_from_slice(&(guilty.len() as u32).to_le_bytes());
        guilty.iter().for_each(|rank| out.extend_from_slice(&rank.to_le_bytes()));
        out.push(self.between.into());
        let phase = self.phase.and_then(|p| PHASES.iter().position(|q| *q == p));
        out.push(phase.map_or(255, |p| p as u8));
        put_option(out, self.seq, |out, seq| out.extend_from_slice(&seq.to_le_bytes()));
        put_option(out, self.op, |out, op| out.push(op as u8));
        put_option(out, self.fingerprints, |out, fingerprints| {
            for (rank, fingerprint) in fingerprints {
                out.extend_from_slice(&rank.to_le_bytes());
                out.extend_from_slice(&fingerprint.to_bytes());
            }
        });
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Option<Revoke> {
        let (by, via) = (r.u32()?, option(r, Reader::u32)?);
        let kind = match r.u8()? {
            CODE_MISMATCH => ErrorKind::Mismatch {
                field: ErrorKind::FIELDS.get(usize::from(r.u8()?)).copied()?,
                mine: r.text(TEXT)?,
                theirs: r.text(TEXT)?,
            },
            CODE_DEAD => ErrorKind::PeerDead { how: r.text(TEXT)? },
            code => plain(code)?,
        };
        let what = r.text(TEXT)?;
        let n = r.u32()? as usize;
        if n > GUILTY {
            return None;
        }
        let guilty = (0..n).map(|_| r.u32()).collect::<Option<_>>()?;
        Some(Revoke {
            by,
            via,
            kind,
            what,
            guilty,
            between: r.u8()? != 0,
            phase: PHASES.get(usize::from(r.u8()?)).copied(),
            seq: option(r, Reader::u64)?,
            op: option(r, Reader::u8)?.and_then(OpKind::from_code),
            fingerprints: option(r, |r| Some([(r.u32()?, fingerprint(r)?), (r.u32()?, fingerprint(r)?)]))?,
        })
    }
}

const CODE_MISMATCH: u8 = 0;
const CODE_DEAD: u8 = 1;
/// The code of the first kind in [`ErrorKind::PLAIN`], the list of kinds without fields. The other kinds follow in the
/// order of the list.
const CODES_OF_PLAIN: u8 = 2;

fn code(kind: &ErrorKind) -> u8 {
    let place = |kind: &ErrorKind| ErrorKind::PLAIN.iter().position(|k| k == kind);
    match kind {
        ErrorKind::Mismatch { .. } => CODE_MISMATCH,
        ErrorKind::PeerDead { .. } => CODE_DEAD,
        // A kind that is missing in the list is sent as `Internal`.
        kind => place(kind).or(place(&ErrorKind::Internal)).unwrap_or(0) as u8 + CODES_OF_PLAIN,
    }
}

fn plain(code: u8) -> Option<ErrorKind> {
    ErrorKind::PLAIN.get(usize::from(code.checked_sub(CODES_OF_PLAIN)?)).cloned()
}
