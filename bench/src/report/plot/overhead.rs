//! Overheads, groups of bars: of each loop beside the paper's, of each peer.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::chart::{LABEL, TICK, canvas};
use super::{COLOURS, Plot};
use crate::end::Placement;
use crate::measure::SIGIL;
use crate::mode::{HMAC_TC, LABEL_TC, PLAIN, SIPHASH_TC, SIPHASH_XDP};
use crate::report::latency::{PAPER, is_task, key};
use crate::samples::{Estimate, Samples};

const THEIRS: &str = "paper (2004, no authentication)";
/// A group's width, of 1.
const GROUP: f64 = 0.84;

/// The groups.
pub(super) struct Overheads {
    pub(super) title: &'static str,
    pub(super) subtitle: &'static str,
    /// Names of the bars, in the order of their colours.
    pub(super) names: &'static [&'static str],
    pub(super) groups: Vec<(&'static str, Vec<Bar>)>,
}

/// A bar: its place in the legend, percent, and the interval.
pub(super) struct Bar {
    style: usize,
    percent: f64,
    interval: Option<(f64, f64)>,
}

impl Bar {
    /// A bar for a ratio.
    pub(super) fn of(style: usize, ratio: Estimate) -> Self {
        let percent = |ratio: f64| (ratio - 1.0) * 100.0;
        let interval = ratio.interval.map(|(low, high)| (percent(low), percent(high)));
        Self { style, percent: percent(ratio.median), interval }
    }
}

/// Names of the bars, in the order of their colours.
const NAMES: [&str; 5] = [
    THEIRS,
    "Sigil, label only, TC",
    "Sigil, SipHash, TC",
    "Sigil, HMAC-SHA-256, TC",
    "Sigil, SipHash, XDP",
];

pub(super) fn of(samples: &Samples) -> Option<Overheads> {
    let mut groups = Vec::new();
    for paper in &PAPER {
        let name = paper.row.name();
        let mut bars = Vec::new();
        if let Some(theirs) = paper.overhead() {
            bars.push(Bar { style: 0, percent: theirs, interval: None });
        }
        let modes: &[(usize, &str)] = if is_task(paper.row) {
            &[(2, SIGIL)]
        } else {
            &[(1, LABEL_TC.id), (2, SIPHASH_TC.id), (3, HMAC_TC.id), (4, SIPHASH_XDP.id)]
        };
        let mut measured = false;
        for (style, mode) in modes {
            let ratio = samples.ratio(key(&name, mode, Placement::Pinned), PLAIN.id);
            measured |= ratio.is_some();
            bars.extend(ratio.map(|ratio| Bar::of(*style, ratio)));
        }
        if measured {
            groups.push((paper.title, bars));
        }
    }
    (!groups.is_empty()).then_some(Overheads {
        title: "Overhead of LMBench's loops, beside the paper's",
        subtitle: "median of the rounds' ratios to no programs; whiskers: 95 % interval, cut where it leaves the plot; both ends on one CPU",
        names: &NAMES,
        groups,
    })
}

impl Plot for Overheads {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let below = canvas(area, self.title, self.subtitle)?;
        let bars = || self.groups.iter().flat_map(|(_, bars)| bars);
        let ends = |bar: &Bar| bar.interval.map_or((bar.percent, bar.percent), |ends| ends);
        // A whisker may go further than any bar: then it is cut, and the table has its end.
        let top = bars().map(|bar| bar.percent * 1.4).fold(10.0, f64::max);
        let bottom = bars().map(|bar| bar.percent * 1.4).fold(-4.0, f64::min);
        let ends = |bar: &Bar| {
            let (low, high) = ends(bar);
            (low.max(bottom), high.min(top))
        };
        let count = self.groups.iter().fold(0.0, |count, _| count + 1.0);
        let mut chart = ChartBuilder::on(&below)
            .margin(20)
            .margin_top(6)
            .x_label_area_size(50)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..count, bottom..top)?;
        let names: Vec<_> = self.groups.iter().map(|(name, _)| *name).collect();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .y_desc("overhead, %")
            .axis_desc_style(("sans-serif", LABEL))
            .label_style(("sans-serif", TICK))
            .y_labels(10)
            .y_label_formatter(&|percent| format!("{percent:.0}"))
            .draw()?;
        let width = GROUP / self.names.iter().fold(0.0, |count, _| count + 1.0);
        for (style, name) in self.names.iter().copied().enumerate() {
            let colour = COLOURS.get(style).copied().unwrap_or(BLACK);
            let mut shapes = Vec::new();
            let mut whiskers = Vec::new();
            for ((_, bars), left) in self.groups.iter().zip(positions()) {
                let count = bars.iter().fold(0.0, |count, _| count + 1.0);
                let start = left + (1.0 - width * count) / 2.0;
                for (bar, offset) in bars.iter().zip(positions()) {
                    if bar.style != style {
                        continue;
                    }
                    let x = start + width * offset;
                    let corners = [(x + width * 0.06, 0.0), (x + width * 0.94, bar.percent)];
                    shapes.push(Rectangle::new(corners, colour.filled()));
                    if bar.interval.is_some() {
                        let (low, high) = ends(bar);
                        let middle = x + width / 2.0;
                        let grey = RGBColor(70, 70, 70).stroke_width(2);
                        whiskers.push(PathElement::new([(middle, low), (middle, high)], grey));
                    }
                }
            }
            chart.draw_series(shapes)?.label(name).legend(move |(x, y)| {
                Rectangle::new([(x, y - 7), (x + 18, y + 7)], colour.filled())
            });
            chart.draw_series(whiskers)?;
        }
        chart.draw_series([PathElement::new([(0.0, 0.0), (count, 0.0)], BLACK.stroke_width(1))])?;
        // Names below their groups.
        let plane = chart.plotting_area();
        for (name, left) in names.iter().zip(positions()) {
            let (x, y) = plane.map_coordinate(&(left + 0.5, bottom));
            let (base_x, base_y) = below.get_base_pixel();
            let style = ("sans-serif", TICK).into_text_style(&below).pos(
                plotters::style::text_anchor::Pos::new(
                    plotters::style::text_anchor::HPos::Center,
                    plotters::style::text_anchor::VPos::Top,
                ),
            );
            below.draw_text(name, &style, (x - base_x, y - base_y + 8))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .label_font(("sans-serif", TICK))
            .draw()?;
        Ok(())
    }
}

/// 0, 1, 2 …
fn positions() -> impl Iterator<Item = f64> {
    (0_u32..).map(f64::from)
}
