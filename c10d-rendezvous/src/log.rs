//! The records of a [`FileStore`](crate::FileStore)'s file: length, checksum, kind, length of
//! the key, key, value.

use std::io;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Set(String, Vec<u8>),
    Append(String, Vec<u8>),
    Delete(String),
}

/// The first bytes of the file.
pub(crate) const MAGIC: &[u8] = b"c10dlog1";

const HEAD: usize = 8;

pub(crate) fn put(out: &mut Vec<u8>, change: &Change) -> io::Result<()> {
    let (kind, key, value): (u8, _, &[u8]) = match change {
        Change::Set(key, value) => (b'S', key, value),
        Change::Append(key, value) => (b'A', key, value),
        Change::Delete(key) => (b'D', key, &[]),
    };
    let len = 1 + 4 + key.len() + value.len();
    let (Ok(len), Ok(key_len)) = (u32::try_from(len), u32::try_from(key.len())) else {
        return Err(io::Error::other("a record above 4 GiB"));
    };
    let start = out.len();
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    out.extend_from_slice(&key_len.to_le_bytes());
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(value);
    let sum = checksum(&out[start + HEAD..]);
    out[start + 4..start + HEAD].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

/// Takes the next record off `log`. Returns `None` at the end and at an incomplete or invalid record.
pub(crate) fn next(log: &mut &[u8]) -> Option<Change> {
    let (len, rest) = log.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    if checksum(record) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (kind, body) = record.split_first()?;
    let (key_len, body) = body.split_first_chunk::<4>()?;
    let (key, value) = body.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
    let key = String::from_utf8(key.to_vec()).ok()?;
    let change = match kind {
        b'S' => Change::Set(key, value.to_vec()),
        b'A' => Change::Append(key, value.to_vec()),
        b'D' => Change::Delete(key),
        _ => return None,
    };
    *log = rest;
    Some(change)
}

/// Returns the FNV-1a hash, by which an incomplete record is found.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_the_last_record_leaves_the_ones_before() {
        let changes =
            [Change::Set("a".into(), b"1".to_vec()), Change::Append("a".into(), vec![]), Change::Delete("é".into())];
        let mut log = Vec::new();
        let mut ends = vec![0];
        for change in &changes {
            put(&mut log, change).unwrap();
            ends.push(log.len());
        }
        for cut in 0..=log.len() {
            let mut rest = &log[..cut];
            let found: Vec<_> = std::iter::from_fn(|| next(&mut rest)).collect();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!(found, changes[..whole]);
            assert_eq!(rest.len(), cut - ends[whole]);
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_log() {
        let mut log = Vec::new();
        put(&mut log, &Change::Set("key".into(), b"value".to_vec())).unwrap();
        for byte in 4..log.len() {
            let mut bad = log.clone();
            bad[byte] ^= 1;
            assert_eq!(next(&mut bad.as_slice()), None, "byte {byte}");
        }
    }
}
