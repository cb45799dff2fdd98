//! Which cores the ranks of a host may use together.
//!
//! A launcher may bind each rank to a core of its own. So a rank that may use only one core does not know whether the
//! ranks of its host share that core: the ranks must compare their cores.

use std::thread::available_parallelism;

use rustix::thread::{CpuSet, sched_getaffinity};

/// The cores that a thread may use: the cores to which it is bound, and how many of them it may use at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// A bit for each core of the host, which is 1 if the thread may use the core. Zero bytes at the end are left out.
    bound: Vec<u8>,
    /// The limit of the control group in whole cores; `u32::MAX` if it has no limit.
    quota: u32,
}

impl Cores {
    /// Returns the cores of the calling thread.
    pub fn here() -> Cores {
        let count = available_parallelism().map_or(1, usize::from);
        let Ok(set) = sched_getaffinity(None) else { return Cores { bound: Vec::new(), quota: count as u32 } };
        let mut bound = vec![0; CpuSet::MAX_CPU / 8];
        (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).for_each(|core| bound[core / 8] |= 1 << (core % 8));
        bound.truncate(bound.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        let quota = if count < set.count() as usize { count as u32 } else { u32::MAX };
        Cores { bound, quota }
    }

    /// Returns the number of cores, at least 1, that the threads with these values may use together. The function
    /// assumes that all limits are of the same control group.
    pub fn together<'a>(all: impl IntoIterator<Item = &'a Cores>) -> usize {
        let (mut bound, mut quota) = (Vec::<u8>::new(), u32::MAX);
        for cores in all {
            bound.resize(bound.len().max(cores.bound.len()), 0);
            bound.iter_mut().zip(&cores.bound).for_each(|(sum, byte)| *sum |= byte);
            quota = quota.min(cores.quota);
        }
        let bound: usize = bound.iter().map(|byte| byte.count_ones() as usize).sum();
        // If it is not known to which cores the threads are bound, `quota` is the number of cores that the standard
        // library reports.
        if bound == 0 { quota.max(1) as usize } else { bound.min(quota.max(1) as usize) }
    }

    /// Returns the wire form: the limit, then the bits.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::from(self.quota.to_le_bytes());
        out.extend_from_slice(&self.bound);
        out
    }

    /// Reads the wire form. Returns `None` if it is too short, or longer than the wire form of any host.
    pub fn from_bytes(bytes: &[u8]) -> Option<Cores> {
        let (quota, bound) = bytes.split_first_chunk::<4>()?;
        (bound.len() <= CpuSet::MAX_CPU / 8).then(|| Cores { bound: bound.into(), quota: u32::from_le_bytes(*quota) })
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_setaffinity;

    use super::*;

    fn bound(bound: &[u8], quota: u32) -> Cores {
        Cores { bound: bound.into(), quota }
    }

    #[test]
    fn ranks_that_are_bound_to_one_core_each_have_as_many_cores_as_ranks() {
        let none = u32::MAX;
        assert_eq!(Cores::together([&bound(&[1], none), &bound(&[2], none), &bound(&[0, 0, 128], none)]), 3);
        assert_eq!(Cores::together([&bound(&[1], none), &bound(&[1], none)]), 1);
        assert_eq!(Cores::together([&bound(&[15], none), &bound(&[15], none)]), 4);
        assert_eq!(Cores::together([&bound(&[255], 2), &bound(&[255], 2)]), 2);
        assert_eq!(Cores::together([&bound(&[], 3)]), 3);
    }

    #[test]
    fn a_thread_finds_the_cores_that_it_is_bound_to() {
        let all = Cores::here();
        assert_eq!(Cores::from_bytes(&all.to_bytes()), Some(all.clone()));
        assert!(Cores::from_bytes(&[0; 3]).is_none() && Cores::from_bytes(&[0; 133]).is_none());
        std::thread::spawn(move || {
            let allowed = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).unwrap();
            let mut one = CpuSet::new();
            one.set(first);
            sched_setaffinity(None, &one).unwrap();
            let here = Cores::here();
            assert_eq!(Cores::together([&here]), 1);
            assert_eq!(Cores::together([&here, &all]), Cores::together([&all]));
        })
        .join()
        .unwrap();
    }
}
