//! Sub-groups: groups of some of a group's ranks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ProcessGroup;
use super::builder::{GroupSpec, foreign};
use super::join::key_prefix;
use super::other_backends::{Parent, lost};
use crate::host::{self, HostId};
use crate::store::deadline_after;
use crate::waiting::{Reminder, ranks_are};
use crate::{Error, ErrorKind, Phase, Result};

impl ProcessGroup {
    /// Makes a sub-group of the listed ranks, which get new numbers in the order of the list. Every rank of this group
    /// must call `new_group`, even a rank that is not in the list. All ranks must pass the same list, and must make
    /// their calls of `new_group` and `split` in the same order. Ranks that are not in the list get `None` at once.
    ///
    /// # Errors
    /// The errors of [`Builder::build`](crate::Builder::build). `Mismatch` of `members` if the lists differ.
    /// `InvalidArgument` if the list is empty, or has a number twice or one that is not a rank.
    pub fn new_group(&self, ranks: &[u32]) -> Result<Option<ProcessGroup>> {
        self.new_group_within(ranks, self.0.timeout)
    }

    /// Like [`new_group`](ProcessGroup::new_group), but `timeout` becomes the timeout of the sub-group, instead of this
    /// group's timeout. `timeout` is also the time limit for making the sub-group.
    ///
    /// # Errors
    /// The same as for [`new_group`](ProcessGroup::new_group).
    pub fn new_group_within(&self, ranks: &[u32], timeout: Duration) -> Result<Option<ProcessGroup>> {
        let number = self.0.next_subgroup.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}/{number}", self.0.name);
        self.subgroup(ranks, name, false, timeout).map_err(|e| self.0.described(e))
    }

    /// Divides the group: ranks that give the same `color` form a group, ordered by `key`, then by rank. A rank that
    /// gives `None` is in no group. Every rank must call `split`. All ranks must make their calls of `new_group` and
    /// `split` in the same order.
    ///
    /// # Errors
    /// The errors of [`Builder::build`](crate::Builder::build).
    pub fn split(&self, color: Option<u32>, key: u32) -> Result<Option<ProcessGroup>> {
        let number = self.0.next_subgroup.fetch_add(1, Ordering::Relaxed);
        self.divide(number, color, key).map_err(|e| self.0.described(e))
    }

    /// Makes a group of this group's ranks without those in `lost`, in their old order. All survivors must pass the
    /// same `lost`. If the survivors may know different lost ranks, use
    /// [`shrink_to_survivors`](ProcessGroup::shrink_to_survivors), in which they agree. Unlike
    /// [`new_group`](ProcessGroup::new_group), `shrink` works on a failed group, and the lost ranks need not call it.
    /// All survivors must make their calls of `shrink` and `shrink_to_survivors` in the same order. Operations that
    /// were in flight in the old group are not repeated.
    ///
    /// The store must still be reachable. If a lost rank served the store, the call fails.
    ///
    /// ```no_run
    /// # use c10d_core::{ProcessGroup, ReduceOp, Result};
    /// # fn f(pg: ProcessGroup, x: &mut Vec<f32>) -> Result<()> {
    /// if let Err(e) = pg.all_reduce(&mut *x, ReduceOp::Sum) {
    ///     let survivors = pg.shrink(&e.report().guilty)?;
    ///     survivors.barrier()?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The errors of [`Builder::build`](crate::Builder::build). `PeerDead` at once if this rank knows of
    /// [lost](ProcessGroup::lost) ranks that are not in `lost`; the error names these ranks by their numbers in this
    /// group. `Mismatch` of `members` if the lists differ. `InvalidArgument` on a rank that is in `lost` itself, or if
    /// `lost` has no rank of this group.
    pub fn shrink(&self, lost: &[u32]) -> Result<ProcessGroup> {
        self.survivors(lost).map_err(|e| self.0.described(e))
    }

    /// Returns the ranks that this rank knows to have died or left the group. Other ranks may know of more or fewer
    /// lost ranks.
    pub fn lost(&self) -> Vec<u32> {
        if !self.0.is_home() {
            return Vec::new();
        }
        lost(self.0.lanes.iter().map(|lane| &lane.backend))
    }

    fn survivors(&self, lost: &[u32]) -> Result<ProcessGroup> {
        let ranks: Vec<u32> = (0..self.0.size).filter(|r| !lost.contains(r)).collect();
        if ranks.len() as u32 == self.0.size || !ranks.contains(&self.0.rank) {
            let what = format!(
                "rank {} of {} cannot make a group without the ranks {lost:?}: the list must name at least one rank \
                    of the group, and not this rank",
                self.0.rank, self.0.size
            );
            return Err(Error::invalid(what));
        }
        let number = self.0.next_shrink.fetch_add(1, Ordering::Relaxed);
        let group = self.subgroup(&ranks, format!("{}/shrunk/{number}", self.0.name), true, self.0.timeout)?;
        group.ok_or_else(|| Error::new(ErrorKind::Internal, "a survivor is in no group"))
    }

    /// Returns the number of each rank's host; hosts are numbered in the order of their first ranks. Containers on one
    /// host count as one host, even if they cannot share memory. Every rank must call `hosts`. All ranks must make
    /// their calls of `hosts`, `new_group` and `split` in the same order.
    ///
    /// # Errors
    /// The same as for [`split`](ProcessGroup::split).
    pub fn hosts(&self) -> Result<Vec<u32>> {
        let number = self.0.next_subgroup.fetch_add(1, Ordering::Relaxed);
        let hosts = self.all_hosts(number).map_err(|e| self.0.described(e))?;
        Ok(host::number(&hosts, |a, b| a.is_same_host(b) == Some(true)))
    }

    /// Makes a group of the ranks on this rank's host, in their old order; see [`hosts`](ProcessGroup::hosts). Every
    /// rank must call `split_by_host`. With a further `split`, the first ranks of all hosts form a group:
    ///
    /// ```no_run
    /// # fn f(pg: c10d_core::ProcessGroup) -> c10d_core::Result<()> {
    /// let local = pg.split_by_host()?;
    /// let leaders = pg.split((local.rank() == 0).then_some(0), pg.rank())?;
    /// # let _ = leaders;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The same as for [`split`](ProcessGroup::split).
    pub fn split_by_host(&self) -> Result<ProcessGroup> {
        self.split_by(|a, b| a.is_same_host(b) == Some(true)).map_err(|e| self.0.described(e))
    }

    /// Makes a group of the ranks that can share memory with this rank, in their old order. These ranks run on the same
    /// host, as the same user, in the same network namespace and in the same user namespace. Every rank must call
    /// `split_by_memory`.
    ///
    /// # Errors
    /// The same as for [`split`](ProcessGroup::split).
    pub fn split_by_memory(&self) -> Result<ProcessGroup> {
        self.split_by(HostId::can_share_memory).map_err(|e| self.0.described(e))
    }

    fn split_by(&self, together: impl Fn(&HostId, &HostId) -> bool) -> Result<ProcessGroup> {
        let number = self.0.next_subgroup.fetch_add(1, Ordering::Relaxed);
        let hosts = host::number(&self.all_hosts(number)?, together);
        let mine = hosts[self.0.rank as usize];
        let ranks: Vec<u32> = (0u32..).zip(&hosts).filter(|(_, host)| **host == mine).map(|(rank, _)| rank).collect();
        let group = self.subgroup(&ranks, format!("{}/{number}.{mine}", self.0.name), false, self.0.timeout)?;
        group.ok_or_else(|| Error::new(ErrorKind::Internal, "a rank is not on its own host"))
    }

    fn all_hosts(&self, number: u64) -> Result<Vec<HostId>> {
        if let Some(cause) = self.failure() {
            return Err(self.0.again(cause));
        }
        self.is_ours()?;
        let all = self.exchange(number, &HostId::here().to_bytes())?;
        let host = |(rank, bytes): (u32, &Vec<u8>)| {
            let bytes: &[u8; HostId::SIZE] = bytes.as_slice().try_into().map_err(|_| {
                let what = format!(
                    "rank {rank} called a different function than this rank; all ranks must call new_group, split, \
                    hosts, split_by_host and split_by_memory in the same order"
                );
                Error::new(ErrorKind::Rendezvous, what).guilty([rank])
            })?;
            Ok(HostId::from_bytes(bytes))
        };
        (0u32..).zip(&all).map(host).collect()
    }

    fn divide(&self, number: u64, color: Option<u32>, key: u32) -> Result<Option<ProcessGroup>> {
        if let Some(cause) = self.failure() {
            return Err(self.0.again(cause));
        }
        self.is_ours()?;
        let mine = color.map_or(String::new(), |c| format!("{c} {key}"));
        let all = self.exchange(number, mine.as_bytes())?;
        let Some(color) = color else { return Ok(self.no_part()) };
        let mut members: Vec<(u32, u32)> = Vec::new();
        for (rank, text) in all.iter().enumerate() {
            let text = String::from_utf8_lossy(text);
            if let Some((c, k)) = text.split_once(' ')
                && c.parse() == Ok(color)
                && let Ok(k) = k.parse()
            {
                members.push((k, rank as u32));
            }
        }
        members.sort_unstable();
        let ranks: Vec<u32> = members.into_iter().map(|(_, rank)| rank).collect();
        self.subgroup(&ranks, format!("{}/{number}.{color}", self.0.name), false, self.0.timeout)
    }

    /// Writes this rank's message into the store, and returns the messages of all ranks in rank order. For
    /// [`Self::divide`] and [`Self::all_hosts`].
    fn exchange(&self, number: u64, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        const SLICE: Duration = Duration::from_millis(100);
        const NAMING: Duration = Duration::from_millis(500);
        let (store, size) = (&self.0.store, self.0.size);
        let deadline = deadline_after(self.0.timeout);
        let entry = |r: u32| format!("split/{number}/{r}");
        store.set(&entry(self.0.rank), mine, deadline)?;
        let keys: Vec<String> = (0..size).map(entry).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut reminder = Reminder::new(self.0.warn_after);
        let all = loop {
            // `lost` is called before the store is read, so the read finds all that lost ranks have written.
            let lost = self.lost();
            let slice = deadline.min(Instant::now() + SLICE);
            let e = match store.multi_get(&keys, slice) {
                Ok(all) => break all,
                Err(e) => e,
            };
            let soon = Instant::now() + NAMING;
            let absent = |r: &u32| !matches!(store.check(&[keys[*r as usize]], soon), Ok(true));
            if lost.iter().any(absent) {
                let how = "died or left before the split was complete".to_owned();
                let e = Error::new(
                    ErrorKind::PeerDead { how },
                    "call shrink or shrink_to_survivors to make a group without the guilty ranks",
                );
                return Err(e.guilty(lost).phase(Phase::Rendezvous));
            }
            if reminder.is_due() {
                let missing: Vec<u32> = (0..size).filter(absent).collect();
                let (rank, name) = (self.0.rank, &self.0.name);
                reminder.say(&format!("rank {rank} splits group {name:?}: {} missing", ranks_are(&missing)));
            }
            if slice == deadline || Instant::now() < slice {
                let e = Error::new(ErrorKind::Rendezvous, format!("not all ranks called the split in time: {e}"));
                return Err(e.guilty((0..size).filter(absent)).phase(Phase::Rendezvous));
            }
        };
        // The last rank to read the messages deletes them.
        let (done, soon) = (format!("split/{number}/done"), Instant::now() + NAMING);
        if store.add(&done, 1, soon).is_ok_and(|n| n == i64::from(size)) {
            keys.iter().chain([&done.as_str()]).for_each(|key| drop(store.delete(key, soon)));
        }
        Ok(all)
    }

    fn is_ours(&self) -> Result {
        if foreign(&self.0.hints) {
            let what = "a group that includes ranks of another library cannot have sub-groups; make a separate group \
                as that library does";
            return Err(Error::unsupported(what));
        }
        Ok(())
    }

    pub(super) fn subgroup(
        &self,
        ranks: &[u32],
        name: String,
        shrinks: bool,
        timeout: Duration,
    ) -> Result<Option<ProcessGroup>> {
        self.0.is_here()?;
        match self.failure() {
            Some(cause) if !shrinks || *cause.kind() == ErrorKind::Shutdown => return Err(self.0.again(cause)),
            _ => self.is_ours()?,
        }
        let size = self.0.size;
        if ranks.is_empty() || ranks.iter().any(|r| *r >= size) {
            return Err(Error::invalid(format!("{ranks:?} are not ranks of a group of {size}")));
        }
        if ranks.iter().enumerate().any(|(i, r)| ranks[..i].contains(r)) {
            return Err(Error::invalid(format!("{ranks:?} names a rank twice")));
        }
        let Some(rank) = ranks.iter().position(|r| *r == self.0.rank) else { return Ok(self.no_part()) };
        let global: Arc<[u32]> = ranks.iter().filter_map(|r| self.global_rank(*r)).collect();
        let group = &self.0;
        let backends = group.lanes.iter().map(|lane| (lane.info.backend, lane.backend.clone())).collect();
        // The sub-group's name begins with this group's name. The prefix of its keys in the store leaves this part out.
        let key_prefix =
            key_prefix(Some(&group.session), name.strip_prefix(&*group.name).unwrap_or(&name).trim_start_matches('/'));
        let spec = GroupSpec {
            name: name.into(),
            rank: rank as u32,
            size: ranks.len() as u32,
            timeout,
            drop_within: group.drop_within,
            bound: group.bound,
            global: Some(global),
            store: group.root.clone(),
            key_prefix,
            registry: group.registry.clone(),
            map: group.map.clone(),
            hints: group.hints.clone(),
            parent: Some(Arc::new(Parent { backends, ranks: ranks.to_vec(), shrinks })),
        };
        let name = spec.name.clone();
        spec.assemble().map(Some).map_err(|mut e| {
            // The caller knows only this group, so the error has this group's rank numbers.
            let report = e.report_mut();
            report.guilty = report.guilty.iter().filter_map(|r| ranks.get(*r as usize).copied()).collect();
            report.guilty.sort_unstable();
            report.guilty_global = report.guilty.iter().filter_map(|r| self.global_rank(*r)).collect();
            report.rank = Some(group.rank);
            report.group = Some(group.name.clone());
            report.what =
                format!("making group {name:?}{}{}", if report.what.is_empty() { "" } else { ": " }, report.what);
            e
        })
    }

    /// Tells this rank's backends that this rank is not a member of the sub-group of this call. Returns `None`.
    fn no_part(&self) -> Option<ProcessGroup> {
        self.0.lanes.iter().for_each(|lane| lane.backend.no_split());
        None
    }
}
