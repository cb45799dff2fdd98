//! The output of a run: a table for people, CSV or JSON for programs; and progress on a terminal.

use std::io::{self, Write};
use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::args::{Args, Format, word};
use super::ops::PerfOp;
use super::point::SparsePoint;

/// The result of one point (one op at one size). Times are in microseconds, bandwidths in 10⁹ bytes per second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) op: String,
    pub(super) dtype: String,
    pub(super) bytes: usize,
    pub(super) ranks: u32,
    pub(super) transport: String,
    pub(super) algorithm: Option<String>,
    pub(super) iters: u64,
    pub(super) median_us: f64,
    pub(super) min_us: f64,
    #[serde(rename = "algbw_GBps")]
    pub(super) algbw: f64,
    #[serde(rename = "busbw_GBps")]
    pub(super) busbw: f64,
    /// The number of wrong elements on all ranks together.
    pub(super) errors: u64,
    /// The share of the op's time that a computation hides, if ops are started: from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hidden: Option<f64>,
    /// How the ranks are connected (a name of gloo-like's `Fabric`), if algorithms are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fabric: Option<String>,
    #[serde(flatten)]
    pub(super) sparse: Option<SparsePoint>,
}

impl Row {
    /// Returns the name of the op. For a sparse op the name includes the shape of the tensors.
    fn name(&self) -> String {
        self.sparse.map_or_else(|| self.op.clone(), |point| format!("{} {}", self.op, point.words()))
    }
}

const CSV_HEADER: &str = "op,dtype,bytes,ranks,transport,median_us,min_us,algbw_GBps,busbw_GBps,errors";

/// Collects the rows of a run and prints them.
pub(super) struct PerfReport<'a> {
    args: &'a Args,
    rows: Vec<Row>,
    /// Whether rows have the columns of sparse tensors.
    is_sparse: bool,
    /// Drawn on a terminal only.
    progress: ProgressBar,
    started: Instant,
}

impl<'a> PerfReport<'a> {
    /// Starts a report. `points` is the number of rows if no size is left out.
    pub(super) fn new(args: &'a Args, points: usize) -> io::Result<PerfReport<'a>> {
        let is_sparse = args.ops().is_ok_and(|ops| ops.contains(&PerfOp::AllReduceSparse));
        if args.format == Format::Csv {
            let started = if args.started { ",hidden" } else { "" };
            writeln!(io::stdout(), "{CSV_HEADER}{started}{}", if is_sparse { ",nnz,row,overlap" } else { "" })?;
        }
        let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} {msg}").map_err(io::Error::other)?;
        let progress = ProgressBar::with_draw_target(Some(points as u64), ProgressDrawTarget::stderr());
        progress.set_style(style.progress_chars("# "));
        progress.set_message("starting");
        Ok(PerfReport { args, rows: Vec::new(), is_sparse, progress, started: Instant::now() })
    }

    pub(super) fn add(&mut self, row: Row) -> io::Result<()> {
        self.progress.set_message(format!("{} {}", row.name(), size(row.bytes)));
        self.progress.inc(1);
        if self.args.format == Format::Csv {
            let Row { op, dtype, bytes, ranks, transport, median_us, min_us, algbw, busbw, errors, .. } = &row;
            let (times, bandwidths) = (format!("{median_us:.3},{min_us:.3}"), format!("{algbw:.4},{busbw:.4}"));
            let mut out = io::stdout().lock();
            let sparse = match row.sparse {
                Some(SparsePoint { nnz, row, overlap }) => format!(",{nnz},{row},{overlap}"),
                None if self.is_sparse => ",,,".to_owned(),
                None => String::new(),
            };
            let hidden = match row.hidden {
                Some(share) => format!(",{share:.3}"),
                None if self.args.started => ",".to_owned(),
                None => String::new(),
            };
            writeln!(out, "{op},{dtype},{bytes},{ranks},{transport},{times},{bandwidths},{errors}{hidden}{sparse}")?;
            out.flush()?;
        }
        self.rows.push(row);
        Ok(())
    }

    /// Prints the end of the report, and returns the rows.
    pub(super) fn end(self) -> io::Result<Vec<Row>> {
        self.progress.finish_and_clear();
        let errors = wrong_elements(&self.rows);
        match self.args.format {
            Format::Csv => {}
            Format::Json => {
                let args = self.args;
                let json = serde_json::json!({
                    "ranks": args.ranks(),
                    "mode": word(args.mode),
                    "async": args.started,
                    "transport": args.transport_name(),
                    "reduce": args.reduce.name(),
                    "rows": self.rows,
                });
                writeln!(io::stdout(), "{json:#}")?;
            }
            Format::Table if self.rows.is_empty() => {}
            Format::Table => self.print_table(errors)?,
        }
        Ok(self.rows)
    }

    fn print_table(&self, errors: u64) -> io::Result<()> {
        let args = self.args;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let names = ["op", "dtype", "bytes", "algorithm", "median µs", "min µs", "algbw GB/s", "busbw GB/s", "errors"];
        table.set_header(names.into_iter().chain(args.started.then_some("hidden %")));
        for row in &self.rows {
            let cells = [
                row.name(),
                row.dtype.clone(),
                size(row.bytes),
                row.algorithm.clone().unwrap_or_else(|| "-".into()),
                number(row.median_us),
                number(row.min_us),
                number(row.algbw),
                number(row.busbw),
                row.errors.to_string(),
            ];
            let hidden = row.hidden.map_or_else(|| "-".into(), |share| format!("{:.0}", share * 100.0));
            table.add_row(cells.into_iter().chain(args.started.then_some(hidden)));
        }
        for column in table.column_iter_mut().enumerate().filter(|(i, _)| *i == 2 || *i > 3) {
            column.1.set_cell_alignment(CellAlignment::Right);
        }
        let started = if args.started { ", each op started and then waited for" } else { "" };
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "{} ranks ({}), transport {}, {} {}{started}\n",
            args.ranks(),
            word(args.mode),
            args.transport_name(),
            args.dtype,
            args.reduce,
        )?;
        writeln!(out, "{}\n", table.trim_fmt())?;
        writeln!(out, "{} rows, {errors} errors, {:.1} s", self.rows.len(), self.started.elapsed().as_secs_f64())
    }
}

pub(super) fn wrong_elements(rows: &[Row]) -> u64 {
    rows.iter().map(|row| row.errors).sum()
}

/// Returns a size in the largest unit of which it is a multiple.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        b if b > 0 && b.is_multiple_of(1 << 30) => format!("{}G", b >> 30),
        b if b > 0 && b.is_multiple_of(1 << 20) => format!("{}M", b >> 20),
        b if b > 0 && b.is_multiple_of(1 << 10) => format!("{}K", b >> 10),
        b => b.to_string(),
    }
}

/// Returns a number with about three significant digits.
pub(super) fn number(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 1.0 => format!("{x:.2}"),
        x => format!("{x:.3}"),
    }
}
