//! `--plot`: draws time and bandwidth against size, with a line for each op.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{Row, size};

/// The size of the picture in pixels.
const SIZE: (u32, u32) = (1400, 560);

/// One line of a chart: the name of the op, and for each point the size in bytes and the value.
type Curve<'a> = (&'a str, Vec<(f64, f64)>);

/// Draws these rows into an SVG file. Ops without bytes, such as the barrier, are left out.
pub(super) fn write(file: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let times = lines(rows, |row| row.median_us);
    if times.is_empty() {
        return Err("--plot: no op has bytes, so there is nothing to draw".into());
    }
    let bandwidths = lines(rows, |row| row.busbw);
    let mut picture = String::new();
    {
        let area = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        chart(&left, "time of an op (µs, median)", &times)?;
        chart(&right, "bus bandwidth (GB/s)", &bandwidths)?;
        area.present()?;
    }
    std::fs::write(file, picture).map_err(|e| format!("--plot {}: {e}", file.display()))?;
    Ok(())
}

/// Returns the lines of a chart, in the order of the rows. Both axes are logarithmic, so rows with a size or value of 0
/// are left out.
fn lines(rows: &[Row], value: impl Fn(&Row) -> f64) -> Vec<Curve<'_>> {
    let mut lines: Vec<Curve<'_>> = Vec::new();
    for row in rows.iter().filter(|row| row.bytes > 0 && value(row) > 0.0) {
        let point = (row.bytes as f64, value(row));
        match lines.iter_mut().find(|(op, _)| *op == row.op) {
            Some((_, points)) => points.push(point),
            None => lines.push((&row.op, vec![point])),
        }
    }
    lines
}

fn chart(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, lines: &[Curve<'_>]) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let x = span(points().map(|(x, _)| *x));
    let y = span(points().map(|(_, y)| *y));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(x.log_scale().base(2.0), y.log_scale())?;
    chart
        .configure_mesh()
        .x_desc("bytes")
        .x_labels(12)
        .x_label_formatter(&|x| size(x.round() as usize))
        .y_label_formatter(&|y| super::report::number(*y))
        .light_line_style(WHITE)
        .draw()?;
    for (i, (op, points)) in lines.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(2);
        let drawn = chart.draw_series(line)?.label(*op);
        drawn.legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// Returns the range of an axis. The range is not empty, even for a single value.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(least, most), v| (least.min(v), most.max(v)));
    least / 1.2..most * 1.2
}
