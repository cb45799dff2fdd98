//! The command line of `perf`.

#[cfg(feature = "gloo-like")]
use std::path::PathBuf;
use std::time::Duration;

use c10d::launch::MOST_RANKS;
use c10d::{DType, ReduceOp};
use clap::ValueEnum;

use super::layout::Layout;
use super::measure::Budget;
use super::memory;
use super::ops::PerfOp;
use super::point::SparsePoint;

/// Time every collective over real ranks, and check every result.
///
/// Ops run back to back in batches. Each batch begins with a barrier, and its time is that of the slowest rank.
/// Bandwidths are computed as in nccl-tests. The size of a call is the size of its inputs or of its outputs on a rank,
/// whichever is larger.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// The number of ranks (2 unless set). Inside a job this must be the number of the job's ranks.
    #[arg(short = 'n', long = "ranks", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_RANKS)))]
    pub(super) ranks: Option<u32>,
    /// Start new ranks and time them, even if this process is a rank of a job.
    #[arg(long)]
    pub(super) alone: bool,
    /// The ops: `all`, or a list separated by commas.
    #[arg(long, value_name = "all|LIST", default_value = "all", value_parser = parse_ops)]
    ops: Ops,
    /// The sizes: a list separated by commas (`8,64K,1M`), or a range in which sizes double (`8:64M`) or grow by a
    /// factor (`8:64M:4`). A size is a whole number of elements, at most 16G. Default: 8 (or one element), 8K, 1M and
    /// 16M; with `--tune`: from 8 to 16M, growing by the factor 8.
    #[arg(long, value_name = "SIZES", value_parser = parse_sizes)]
    bytes: Option<Sizes>,
    /// For `all_reduce_sparse`: the number of entries of each rank. The tensor has room for ten times as many.
    #[arg(long, value_name = "LIST", default_value = "1K,100K", value_parser = parse_counts)]
    nnz: Sizes,
    /// For `all_reduce_sparse`: the number of elements of an entry.
    #[arg(long, value_name = "LIST", default_value = "1", value_parser = parse_counts)]
    row: Sizes,
    /// For `all_reduce_sparse`: the share of the entries that all ranks have in common, in percent.
    #[arg(long, value_name = "LIST", default_value = "50", value_parser = parse_shares)]
    overlap: Sizes,
    /// The element type.
    #[arg(long, default_value = "f32", value_parser = parse_dtype)]
    pub(super) dtype: DType,
    /// The reduce operation.
    #[arg(long, default_value = "sum", value_parser = parse_reduce)]
    pub(super) reduce: ReduceOp,
    /// The backend, as a map from devices to backends (`cpu:mpi`). Default: the backend that a group chooses by itself.
    #[arg(long, value_name = "MAP")]
    pub(super) backend: Option<String>,
    /// The transport between the ranks.
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub(super) transport: Transport,
    /// Whether ranks are processes or threads.
    #[arg(long, value_enum, default_value_t = Mode::Processes)]
    pub(super) mode: Mode,
    /// Start each op and then wait for it, instead of a blocking call. Each point (one op at one size) also shows which
    /// share of the op's time is hidden by a computation. The computation runs between the start and the wait, and
    /// takes as long as the op.
    #[arg(long = "async")]
    pub(super) started: bool,
    /// Bind each rank to one of the cores that it may use: rank r of a host to the core with index r, modulo the number
    /// of these cores.
    #[arg(long)]
    pub(super) pin: bool,
    /// Run exactly this many timed iterations per point, without calibration, however long they take.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iters: Option<u64>,
    /// The time for all batches of a point together, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=A_DAY_MS))]
    budget_ms: u64,
    /// Measure gloo-like's algorithms, and write rules to FILE that choose the fastest algorithm for each size. An
    /// existing FILE keeps its rules for ops, numbers of ranks and kinds of connections that are not measured. Groups
    /// use the file if the variable `C10D_TUNING` names it.
    #[cfg(feature = "gloo-like")]
    #[arg(long, value_name = "FILE")]
    pub(super) tune: Option<PathBuf>,
    /// Draw the time and the bus bandwidth of each op against the size into FILE, as SVG.
    #[arg(long, value_name = "FILE")]
    pub(super) plot: Option<PathBuf>,
    /// Simulate a cluster of HOSTS hosts with RANKS ranks each (`1024x8`, at most 65536 ranks), without starting any
    /// rank: a model computes the time of gloo-like's algorithms from latencies, bandwidths and the time of reductions.
    #[cfg(feature = "gloo-like")]
    #[arg(long, value_name = "HOSTSxRANKS", value_parser = parse_shape, conflicts_with_all = ["tune", "ranks", "plot"])]
    pub(super) simulate: Option<Shape>,
    /// With `--simulate`: show every algorithm of an op, not only the selected algorithm.
    #[cfg(feature = "gloo-like")]
    #[arg(long, requires = "simulate")]
    pub(super) compare: bool,
    /// With `--simulate`: the bandwidth of a host's network in each direction, in 10⁹ bytes per second.
    #[cfg(feature = "gloo-like")]
    #[arg(long, value_name = "GB/s", default_value_t = 12.5, value_parser = parse_positive)]
    pub(super) network: f64,
    /// With `--simulate`: the latency of a message between hosts, in µs.
    #[cfg(feature = "gloo-like")]
    #[arg(long, value_name = "µs", default_value_t = 5.0, value_parser = parse_positive)]
    pub(super) latency: f64,
    /// With `--simulate`: the number of cores of a host. Default: one per rank.
    #[cfg(feature = "gloo-like")]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(super) cores: Option<u32>,
    /// The format of the results.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
}

/// The shape of a cluster: the number of hosts, and of ranks on each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) hosts: u32,
    pub(super) each: u32,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(super) enum Transport {
    /// Shared memory within a host, TCP between hosts.
    Auto,
    /// Shared memory only.
    Shm,
    /// TCP only.
    Tcp,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each rank is a child process.
    Processes,
    /// Each rank is a thread of this process.
    Threads,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A table, printed at the end.
    Table,
    /// CSV, printed row by row.
    Csv,
    /// A JSON object, printed at the end.
    Json,
}

/// The largest value of `--budget-ms`.
const A_DAY_MS: u64 = 24 * 3600 * 1000;
/// The largest size in `--bytes`.
const MOST_BYTES: usize = 16 << 30;
/// The largest value of `--nnz` and of `--row`.
const MOST_ENTRIES: usize = 1_000_000_000;

#[derive(Clone, Debug)]
struct Ops {
    list: Vec<PerfOp>,
    /// Whether the user named each op, instead of `all`.
    named: bool,
}

#[derive(Clone, Debug)]
struct Sizes(Vec<usize>);

impl Args {
    /// Returns the transport as tables show it: the value of the option. If that value is `auto` and the environment
    /// variable is set, returns the variable's value.
    pub(super) fn transport_name(&self) -> String {
        let set = std::env::var("C10D_TRANSPORT").ok().map(|name| name.trim().to_owned());
        match (self.transport, set) {
            (Transport::Auto, Some(set)) if !set.is_empty() => set,
            (transport, _) => word(transport),
        }
    }

    /// Returns the ops to time. Returns an error if a named op cannot be timed.
    pub(super) fn ops(&self) -> Result<Vec<PerfOp>, String> {
        let mut ops = Vec::new();
        for op in &self.ops.list {
            match self.obstacle(*op) {
                None => ops.push(*op),
                Some(why) if self.ops.named => return Err(format!("{}: {why}", op.name())),
                Some(_) => {}
            }
        }
        Ok(ops)
    }

    pub(super) fn ranks(&self) -> u32 {
        self.ranks.unwrap_or(2)
    }

    /// Returns the arguments for the ranks of a running job.
    pub(super) fn joined(&self, ranks: u32) -> Result<Args, String> {
        match self.ranks {
            Some(n) if n != ranks => Err(format!(
                "this process is a rank of a job of {ranks} ranks, but -n is {n}: leave out -n to time the ranks of the \
                 job, or add --alone to start others"
            )),
            _ => Ok(Args { ranks: Some(ranks), ..self.clone() }),
        }
    }

    /// Rejects, before anything is allocated, sizes that are not whole elements, or whose buffers do not fit into this
    /// host's memory. `local` is the number of ranks on this host.
    pub(super) fn check_sizes(&self, local: u32) -> Result<(), String> {
        let element = self.dtype.size();
        for op in self.ops()? {
            if op == PerfOp::AllReduceSparse {
                for point in self.sparse_points() {
                    memory::check_room(point.bytes(self.ranks(), element), local, &point.words())?;
                }
                continue;
            }
            for bytes in self.sizes(op) {
                if bytes % element > 0 {
                    return Err(format!(
                        "--bytes {bytes} is not a whole number of {} elements of {element} bytes",
                        self.dtype
                    ));
                }
                let Layout { inputs, outputs } = Layout::of(op, bytes / element, self.ranks(), true);
                let needed = (inputs.elements() as u128 + outputs.elements() as u128) * element as u128;
                memory::check_room(needed, local, &format!("{} of {bytes} bytes", op.name()))?;
            }
        }
        Ok(())
    }

    fn obstacle(&self, op: PerfOp) -> Option<String> {
        if op == PerfOp::AllReduceSparse {
            if self.reduce != ReduceOp::Sum {
                return Some("only sums are supported".into());
            }
            if let Some(point) = self.sparse_points().find(|point| !point.fits(self.ranks())) {
                return Some(format!(
                    "{} ranks with {} have more entries than the tensor has room for",
                    self.ranks(),
                    point.words()
                ));
            }
        }
        #[cfg(feature = "gloo-like")]
        if self.simulate.is_some() && !matches!(op, PerfOp::Table(op) if c10d_gloo_like::model::OPS.contains(&op)) {
            return Some("it is not simulated".into());
        }
        #[cfg(feature = "gloo-like")]
        if self.tune.is_some() && !matches!(op, PerfOp::Table(op) if c10d_gloo_like::TUNED.contains(&op)) {
            return Some("it has only one algorithm".into());
        }
        let op = op.kind();
        if op.is_p2p() && self.ranks() < 2 {
            return Some("it needs two ranks".into());
        }
        if op.reduces() && !self.reduce.is_defined_on(self.dtype) {
            return Some(format!("{} is not defined on {}", self.reduce, self.dtype));
        }
        None
    }

    pub(super) fn points(&self, op: PerfOp) -> usize {
        if op == PerfOp::AllReduceSparse {
            return self.sparse_points().count();
        }
        #[cfg(feature = "gloo-like")]
        if self.tune.is_some() {
            return self.sizes(op).len()
                * super::ops::compared().filter(|algorithm| algorithm.ops().contains(&op.kind())).count();
        }
        self.sizes(op).len()
    }

    pub(super) fn sparse_points(&self) -> impl Iterator<Item = SparsePoint> {
        let rows = |nnz| self.row.0.iter().map(move |row| (nnz, *row));
        let overlaps =
            |(nnz, row)| self.overlap.0.iter().map(move |overlap| SparsePoint { nnz, row, overlap: *overlap });
        self.nnz.0.iter().copied().flat_map(rows).flat_map(overlaps)
    }

    /// Returns the sizes for this op, in bytes.
    pub(super) fn sizes(&self, op: PerfOp) -> Vec<usize> {
        match &self.bytes {
            _ if op.is_bare() => vec![0],
            Some(sizes) => sizes.0.clone(),
            #[cfg(feature = "gloo-like")]
            None if self.tune.is_some() => {
                (3..=24).step_by(3).map(|k| 1 << k).filter(|bytes| *bytes >= self.dtype.size()).collect()
            }
            None => vec![8.max(self.dtype.size()), 8 << 10, 1 << 20, 16 << 20],
        }
    }

    pub(super) fn budget(&self) -> Budget {
        self.iters.map_or(Budget::Time(Duration::from_millis(self.budget_ms)), Budget::Iterations)
    }
}

/// Returns the name of this value on the command line and in tables.
pub(super) fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

fn parse_ops(text: &str) -> Result<Ops, String> {
    if text == "all" {
        return Ok(Ops { list: PerfOp::all().collect(), named: false });
    }
    let known = || PerfOp::all().chain([PerfOp::AllReduceSparse]).map(PerfOp::name).collect::<Vec<_>>().join(" ");
    let list: Result<Vec<PerfOp>, String> = text
        .split(',')
        .map(|name| PerfOp::from_name(name.trim()).ok_or_else(|| format!("unknown op {name:?}; known: {}", known())))
        .collect();
    Ok(Ops { list: list?, named: true })
}

fn parse_sizes(text: &str) -> Result<Sizes, String> {
    let parts: Result<Vec<usize>, String> = text.split([',', ':']).map(parse_size).collect();
    let parts = parts?;
    if !text.contains(':') {
        return Ok(Sizes(parts));
    }
    let (first, last, factor) = match (parts.as_slice(), text.contains(',')) {
        ([first, last], false) => (*first, *last, 2),
        ([first, last, factor], false) => (*first, *last, *factor),
        _ => return Err(format!("{text:?} is not FIRST:LAST or FIRST:LAST:FACTOR")),
    };
    if first == 0 || factor < 2 || last < first {
        return Err(format!("{text:?}: the first size must be above 0 and not above the last, the factor at least 2"));
    }
    Ok(Sizes(std::iter::successors(Some(first), |s| s.checked_mul(factor)).take_while(|s| *s <= last).collect()))
}

/// Parses shares in percent.
fn parse_shares(text: &str) -> Result<Sizes, String> {
    let shares = parse_counts(text)?;
    match shares.0.iter().find(|share| **share > 100) {
        Some(share) => Err(format!("{share} is above 100, but a share is given in percent")),
        None => Ok(shares),
    }
}

/// Parses numbers in which K means a thousand and M a million.
fn parse_counts(text: &str) -> Result<Sizes, String> {
    let number = |text: &str| {
        let (digits, unit) = match text.trim().to_ascii_lowercase() {
            t if t.ends_with('k') => (t.trim_end_matches('k').to_owned(), 1_000),
            t if t.ends_with('m') => (t.trim_end_matches('m').to_owned(), 1_000_000),
            t => (t, 1),
        };
        let number: usize = digits.parse().map_err(|_| format!("{text:?} is not a number; write e.g. 8, 64K, 1M"))?;
        let number = number.checked_mul(unit).filter(|n| *n <= MOST_ENTRIES);
        number.ok_or_else(|| format!("{text:?} is too large; the limit is {MOST_ENTRIES}"))
    };
    text.split(',').map(number).collect::<Result<_, String>>().map(Sizes)
}

#[cfg(feature = "gloo-like")]
fn parse_shape(text: &str) -> Result<Shape, String> {
    let shape = text.split_once(['x', 'X']).and_then(|(hosts, each)| {
        let number = |text: &str| text.trim().parse().ok().filter(|n: &u32| *n > 0);
        Some(Shape { hosts: number(hosts)?, each: number(each)? })
    });
    let most = c10d_gloo_like::model::MOST_RANKS;
    match shape {
        Some(shape) if shape.hosts.checked_mul(shape.each).is_some_and(|ranks| ranks <= most) => Ok(shape),
        Some(_) => Err(format!("{text:?} is too large; the limit is {most} ranks")),
        None => Err(format!("{text:?} is not a cluster; write e.g. 1024x8")),
    }
}

#[cfg(feature = "gloo-like")]
fn parse_positive(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0);
    number.ok_or_else(|| format!("{text:?} is not a number above 0"))
}

fn parse_size(text: &str) -> Result<usize, String> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
    let digits = lower.trim_end_matches(['k', 'm', 'g']);
    let unit = match &lower[digits.len()..] {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(format!("{text:?} is not a size; write e.g. 8, 64K, 1M")),
    };
    let number: usize = digits.parse().map_err(|_| format!("{text:?} is not a size; write e.g. 8, 64K, 1M"))?;
    let bytes = number.checked_mul(unit).filter(|n| *n <= MOST_BYTES);
    bytes.ok_or_else(|| format!("{text:?} is too large; the limit is {}G", MOST_BYTES >> 30))
}

fn parse_dtype(name: &str) -> Result<DType, String> {
    let known = || DType::ALL.iter().map(|d| d.name()).collect::<Vec<_>>().join(" ");
    DType::from_name(name).ok_or_else(|| format!("unknown element type {name:?}; known: {}", known()))
}

fn parse_reduce(name: &str) -> Result<ReduceOp, String> {
    let all = || (0..ReduceOp::COUNT as u8).map(ReduceOp::name_of).collect::<Vec<_>>().join(" ");
    ReduceOp::from_name(name).ok_or_else(|| format!("unknown reduce operation {name:?}; known: {}", all()))
}

#[cfg(test)]
mod tests {
    use c10d::OpKind;

    use super::*;

    #[test]
    fn sizes_are_lists_or_ranges() {
        for (text, sizes) in [
            ("8", vec![8]),
            ("8,64,1K,2MiB", vec![8, 64, 1024, 2 << 20]),
            ("0", vec![0]),
            ("8:64", vec![8, 16, 32, 64]),
            ("1k:17K:4", vec![1 << 10, 4 << 10, 16 << 10]),
            ("16G", vec![16 << 30]),
        ] {
            assert_eq!(parse_sizes(text).unwrap().0, sizes, "{text}");
        }
        for text in [
            "",
            "x",
            "8:",
            "8,16:32",
            "0:8",
            "9:8",
            "1:2:1",
            "1:2:3:4",
            "K",
            "-1",
            "99999999999999999999",
            "9999999999G",
            "17179869185",
            "64G",
        ] {
            assert!(parse_sizes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_are_decimal() {
        assert_eq!(parse_counts("8,64K,1m").unwrap().0, [8, 64_000, 1_000_000]);
        assert!(["", "x", "1:2", "-1", "K"].iter().all(|text| parse_counts(text).is_err()));
        assert!(
            ["1001M", "18446744073709551615", "18446744073709551615K"]
                .iter()
                .all(|text| parse_counts(text).unwrap_err().contains("limit"))
        );
        assert_eq!(parse_shares("0,100").unwrap().0, [0, 100]);
        assert!(parse_shares("101").unwrap_err().contains("percent"));
    }

    #[test]
    fn ops_are_named_or_all() {
        assert_eq!(parse_ops("all").unwrap().list.len(), OpKind::ALL.len() + 2);
        let ops = parse_ops("broadcast_rotating,all_reduce").unwrap();
        assert_eq!(ops.list, [PerfOp::BroadcastRotating, PerfOp::Table(OpKind::AllReduce)]);
        assert!(parse_ops("allreduce").unwrap_err().contains("all_reduce"));
    }
}
