//! Plots of lines over a logarithmic axis.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::chart::{LABEL, TICK, canvas};
use super::{COLOURS, Plot};
use crate::measure::Bar;
use crate::mode::{
    HMAC_TC, INTEGRITY_TC, LABEL_TC, Mode, NFTABLES, PASS_XDP, PLAIN, SIPHASH_TC, SIPHASH_XDP,
};
use crate::report::cells::grouped;
use crate::report::kernel::number;
use crate::report::scale::FILTERS;
use crate::samples::{Samples, float};

/// A plot of lines.
pub(super) struct Lines {
    pub(super) name: &'static str,
    title: &'static str,
    subtitle: &'static str,
    x: &'static str,
    y: &'static str,
    /// Whether y begins at zero.
    from_zero: bool,
    curves: Vec<(String, Vec<(f64, f64)>)>,
    /// Whether samples are marked.
    marks: bool,
}

pub(super) fn all(samples: &Samples, bars: &[Bar]) -> Vec<Lines> {
    let mut plots = vec![
        distribution(bars, "udp", "distribution-udp", "UDP round trips"),
        distribution(bars, "tcp", "distribution-tcp", "TCP round trips"),
        sizes(samples),
        flows(samples),
        rules(samples),
        programs(samples),
    ];
    for plot in &mut plots {
        plot.curves.retain(|(_, points)| !points.is_empty());
    }
    plots.retain(|plot| !plot.curves.is_empty());
    plots
}

const SHOWN: [Mode; 7] = [PLAIN, LABEL_TC, SIPHASH_TC, HMAC_TC, PASS_XDP, SIPHASH_XDP, NFTABLES];

/// The share of round trips that took at most so long, without the slowest percent.
fn distribution(bars: &[Bar], row: &str, name: &'static str, title: &'static str) -> Lines {
    let line = |mode: Mode| {
        let of = || bars.iter().filter(move |bar| bar.row == row && bar.mode == mode.id);
        let all: u64 = of().map(|bar| bar.count).sum();
        let mut sum = 0;
        let points = of().map(|bar| {
            sum += bar.count;
            (float(bar.ns) / 1e3, float(sum) / float(all) * 100.0)
        });
        (mode.title.to_owned(), points.take_while(|(_, share)| *share < 99.0).collect())
    };
    Lines {
        name,
        title,
        subtitle: "share of all round trips that took at most so long; both ends on one CPU; the slowest 1 % left out",
        x: "µs (logarithmic)",
        y: "% of round trips",
        from_zero: true,
        curves: SHOWN.map(line).into(),
        marks: false,
    }
}

/// A line of throughput for each mode over a number in the circumstances.
fn throughput(
    samples: &Samples,
    row: &str,
    of: &str,
    fits: fn(&str) -> bool,
    scale: f64,
) -> Vec<(String, Vec<(f64, f64)>)> {
    let modes = [PLAIN, LABEL_TC, SIPHASH_TC, INTEGRITY_TC, PASS_XDP, SIPHASH_XDP, NFTABLES];
    let line = |mode: Mode| {
        let mut points: Vec<(f64, f64)> = Vec::new();
        for at in crate::report::kernel::names(samples, "throughput", |sample| &sample.at) {
            let estimate = samples.estimate(["throughput", row, mode.id, &at]);
            if let (true, Some(x), Some(estimate)) = (fits(&at), number(&at, of), estimate) {
                points.push((x, estimate.median / scale));
            }
        }
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        (mode.title.to_owned(), points)
    };
    modes.map(line).into()
}

fn sizes(samples: &Samples) -> Lines {
    Lines {
        name: "throughput-by-size",
        title: "UDP packets delivered, by packet size",
        subtitle: "one flow, client and server on a CPU each; 8,900 bytes on jumbo frames, which XDP on veth does not take",
        x: "bytes of an IPv4 packet (logarithmic)",
        y: "1,000 packets a second",
        from_zero: true,
        curves: throughput(samples, "packets", "bytes", |at| at.starts_with("flows=1 "), 1e3),
        marks: true,
    }
}

fn flows(samples: &Samples) -> Lines {
    Lines {
        name: "throughput-by-flows",
        title: "TCP throughput, by number of streams",
        subtitle: "64 KiB writes, MTU 1500, client on CPU 0, server on CPU 1; XDP on veth cuts every frame into segments",
        x: "streams (logarithmic)",
        y: "Gbit/s of payload",
        from_zero: true,
        curves: throughput(samples, "stream", "flows", |at| at.ends_with("mtu=1500"), 1e9),
        marks: true,
    }
}

fn rules(samples: &Samples) -> Lines {
    let line = |(id, title): (&str, &str)| {
        let points = [10.0, 1e3, 1e5, 1e6].into_iter().filter_map(|rules| {
            let at = format!("rules={rules:.0}");
            let estimate = samples.estimate(["rules", "udp", id, &at])?;
            Some((rules, estimate.median / 1e3))
        });
        (title.to_owned(), points.collect())
    };
    Lines {
        name: "rules",
        title: "UDP round trips, by number of rules",
        subtitle: "established flow, both ends on one CPU; nftables filters by address and authenticates nobody",
        x: "rules (logarithmic)",
        y: "µs",
        from_zero: true,
        curves: FILTERS.map(line).into(),
        marks: true,
    }
}

fn programs(samples: &Samples) -> Lines {
    let mut lines = Vec::new();
    for (series, what) in [("program", "established"), ("first packet", "first packet")] {
        for program in ["tc_stamp", "tc_verify", "xdp_verify"] {
            let points = [10.0, 1e3, 1e5, 1e6].into_iter().filter_map(|rules| {
                let at = format!("rules={rules:.0}");
                let estimate = samples.estimate([series, program, "siphash-2-4-96", &at])?;
                Some((rules, estimate.median))
            });
            lines.push((format!("{program}, {what}"), points.collect()));
        }
    }
    Lines {
        name: "programs-by-rules",
        title: "Cost of one run in the kernel, by number of rules (SipHash)",
        subtitle: "established flows look nothing up; first packets are of another label, at random, every time",
        x: "rules (logarithmic)",
        y: "ns",
        from_zero: true,
        curves: lines,
        marks: true,
    }
}

impl Plot for Lines {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let below = canvas(area, self.title, self.subtitle)?;
        let points = || self.curves.iter().flat_map(|(_, points)| points);
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let (left, right) = (least(&mut points().map(|p| p.0)), most(&mut points().map(|p| p.0)));
        let (low, high) = (least(&mut points().map(|p| p.1)), most(&mut points().map(|p| p.1)));
        let bottom = if self.from_zero { 0.0 } else { low * 0.9 };
        let top = if high > 98.0 && self.y.starts_with('%') { 100.0 } else { high * 1.08 };
        let mut chart = ChartBuilder::on(&below)
            .margin(20)
            .margin_top(6)
            .x_label_area_size(60)
            .y_label_area_size(90)
            .build_cartesian_2d((left * 0.94..right * 1.06).log_scale(), bottom..top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_desc(self.x)
            .y_desc(self.y)
            .axis_desc_style(("sans-serif", LABEL))
            .label_style(("sans-serif", TICK))
            .x_labels(20)
            .x_label_formatter(&|x| grouped(*x))
            .y_label_formatter(&|y| if top < 10.0 { format!("{y:.1}") } else { grouped(*y) })
            .draw()?;
        for (index, (name, points)) in self.curves.iter().enumerate() {
            let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or(BLACK);
            let style = colour.stroke_width(3);
            // Half of the lines are dashed, so that colour is not all that tells them apart.
            let legend = move |(x, y)| PathElement::new([(x, y), (x + 26, y)], style);
            if index % 2 == 0 {
                let series = LineSeries::new(points.iter().copied(), style);
                chart.draw_series(series)?.label(name).legend(legend);
            } else {
                let series = DashedLineSeries::new(points.iter().copied(), 12, 6, style);
                chart
                    .draw_series(series)?
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 11, y)], style));
            }
            if self.marks {
                let mark = |point: &(f64, f64)| Circle::new(*point, 5, colour.filled());
                chart.draw_series(points.iter().map(mark))?;
            }
        }
        let rising = self.curves.iter().any(|(_, points)| {
            points.last().zip(points.first()).is_some_and(|(last, first)| last.1 > first.1)
        });
        chart
            .configure_series_labels()
            .position(if rising && !self.marks {
                SeriesLabelPosition::LowerRight
            } else if rising {
                SeriesLabelPosition::UpperLeft
            } else {
                SeriesLabelPosition::LowerLeft
            })
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", TICK))
            .draw()?;
        Ok(())
    }
}
