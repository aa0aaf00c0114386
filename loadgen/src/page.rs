//! A page that shows a run: one file that needs no other.
//!
//! Charts are drawn in the colours of the light scheme; the page's style replaces them one by one where it is dark.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;

use hdrhistogram::Histogram;
use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::{
    AreaSeries, ChartBuilder, Color, IntoDrawingArea, IntoFont, LineSeries, RGBColor, Ranged, SVGBackend, ShapeStyle,
};

use crate::args::RunArgs;
use crate::fleet::{Moment, Outcome, ServerOutcome};
use crate::report;

const CHART_PIXELS: (u32, u32) = (860, 300);
const FONT_PIXELS: u32 = 13;
const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
const CURVE: RGBColor = RGBColor(0x09, 0x69, 0xda);
/// Points of the latency curve for each halving of the distance to 100 %.
const STEPS_PER_HALVING: u32 = 10;

const STYLE: &str = "
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --grid: #d8dee4; --curve: #0969da;
  --wrong: #cf222e }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --ink: #e6edf3; --faint: #9198a1; --grid: #30363d; --curve: #58a6ff; --wrong: #ff7b72 }
}
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2em auto;
  max-width: 860px; padding: 0 1em }
h1 { font-size: 1.5em; margin: 0 }
h2 { border-bottom: 1px solid var(--grid); font-size: 1.1em; margin: 2em 0 .6em }
p { color: var(--faint); margin: .2em 0 1.5em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th { color: var(--faint); font-weight: normal; padding: .1em 1.5em .1em 0; text-align: left; vertical-align: top;
  white-space: nowrap }
td { overflow-wrap: anywhere; padding: .1em 0 }
.wrong td { color: var(--wrong) }
.bar { width: 24em; max-width: 40vw; padding-right: 1em }
.bar div { background: var(--curve); border-radius: 2px; height: .8em; min-width: 1px }
svg { display: block; height: auto; max-width: 100% }
svg text { fill: var(--ink); font-family: system-ui, sans-serif }
svg [stroke='#1F2328'] { stroke: var(--ink) }
svg [stroke='#D8DEE4'] { stroke: var(--grid) }
svg [stroke='#0969DA'] { stroke: var(--curve) }
svg [fill='#0969DA'] { fill: var(--curve) }
";

/// The page, as HTML.
pub(crate) fn page(args: &RunArgs, outcome: &Outcome) -> io::Result<String> {
    let title = escaped(&format!("Load on {}: {}", args.system_name(), args.scenario_name()));
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{}</p>\n{}",
        escaped(&args.essentials()),
        summary(outcome)
    );
    let latency = &outcome.report.latency.0;
    if !latency.is_empty() {
        section(&mut html, "Latency by percentile, in microseconds", &latency_chart(latency)?);
    }
    let mut over_time = |name: &str, of: fn(&Moment) -> f64| -> io::Result<()> {
        let points: Vec<(f64, f64)> = outcome.timeline.iter().map(|moment| (moment.seconds, of(moment))).collect();
        if points.iter().any(|point| point.1 > 0.0) {
            section(&mut html, &format!("{name} over time, in seconds"), &time_chart(&points)?);
        }
        Ok(())
    };
    over_time("Messages a second", |moment| moment.per_second)?;
    over_time("Logins a second", |moment| moment.logins_per_second)?;
    over_time("Users in", |moment| moment.online.into())?;
    if !outcome.servers.is_empty() {
        section(&mut html, "Processor time of the servers", &cpu_bars(&outcome.servers, outcome.report.seconds));
    }
    html.push_str("</body>\n</html>\n");
    Ok(html)
}

fn section(html: &mut String, heading: &str, content: &str) {
    write!(html, "<h2>{heading}</h2>\n{content}\n").expect("memory takes what is written");
}

/// The table that is also printed.
fn summary(outcome: &Outcome) -> String {
    let wrong = if outcome.report.violation_count > 0 { " class=\"wrong\"" } else { "" };
    let mut is_wrong = false;
    let mut html = "<table>\n".to_owned();
    for (name, value) in report::rows(outcome) {
        is_wrong |= name == report::VIOLATIONS;
        let class = if is_wrong { wrong } else { "" };
        writeln!(html, "<tr{class}><th>{}</th><td>{}</td></tr>", escaped(&name), escaped(&value))
            .expect("memory takes what is written");
    }
    html + "</table>"
}

/// Each server's share of one processor.
fn cpu_bars(servers: &[ServerOutcome], seconds: f64) -> String {
    let shares = || servers.iter().map(|server| 100.0 * server.cpu_seconds / seconds.max(1e-9));
    let full = shares().fold(100.0, f64::max);
    let mut html = "<table>\n".to_owned();
    for (server, share) in servers.iter().zip(shares()) {
        let (name, width) = (escaped(&server.name), 100.0 * share / full);
        writeln!(
            html,
            "<tr><th>{name}</th><td class=\"bar\"><div style=\"width:{width:.1}%\"></div></td>\
             <td>{share:.1} % of a processor</td></tr>"
        )
        .expect("memory takes what is written");
    }
    html + "</table>"
}

/// Latency over 1 / (1 - quantile), both on scales of powers, so that each further nine has the same room.
fn latency_chart(latency: &Histogram<u64>) -> io::Result<String> {
    let count = latency.len() as f64;
    let points: Vec<(f64, f64)> = latency
        .iter_quantiles(STEPS_PER_HALVING)
        .map(|step| (1.0 / (1.0 - step.quantile_iterated_to()), step.value_iterated_to() as f64 / 1e3))
        .map(|(inverse, micros)| (inverse.min(count), micros))
        .collect();
    let nines = count.log10().ceil().max(1.0) as i32;
    let inverses: Vec<f64> = (0..=nines).map(|nines| 10f64.powi(nines)).collect();
    let (least, most) = (latency.min() as f64 / 1e3, latency.max() as f64 / 1e3);
    let micros = least.max(1e-3) / 1.3..most.max(1e-3) * 1.3;
    chart(
        (1.0..10f64.powi(nines)).log_scale().with_key_points(inverses),
        micros.clone().log_scale().with_key_points(log_ticks(&micros)),
        &percentile,
        &points,
        micros.start,
    )
}

/// What 1 / (1 - quantile), a power of ten, is as a percentile.
fn percentile(inverse: &f64) -> String {
    let nines = inverse.log10().round() as usize;
    format!("{:.*} %", nines.saturating_sub(2), 100.0 - 100.0 / inverse)
}

/// Round numbers within a range of powers.
fn log_ticks(range: &Range<f64>) -> Vec<f64> {
    let decades = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
    let steps: &[f64] = if range.end / range.start > 1e4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let ticks = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
    ticks.filter(|tick| range.contains(tick)).collect()
}

/// Values over the seconds of a run.
fn time_chart(points: &[(f64, f64)]) -> io::Result<String> {
    let end = points.iter().fold(0.1, |end: f64, point| end.max(point.0));
    let most = points.iter().fold(1.0, |most: f64, point| most.max(point.1));
    chart(0.0..end, 0.0..most * 1.08, &|seconds| short(*seconds), points, 0.0)
}

fn chart<X, Y>(
    across: X,
    up: Y,
    across_label: &dyn Fn(&f64) -> String,
    points: &[(f64, f64)],
    floor: f64,
) -> io::Result<String>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, CHART_PIXELS).into_drawing_area();
        let mut builder = ChartBuilder::on(&area);
        builder.margin(8).margin_right(32).x_label_area_size(28).y_label_area_size(72);
        let mut chart = builder.build_cartesian_2d(across, up).map_err(io::Error::other)?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(("sans-serif", FONT_PIXELS).into_font().color(&INK))
            .x_label_formatter(across_label)
            .y_label_formatter(&|value| short(*value))
            .draw()
            .map_err(io::Error::other)?;
        let line = ShapeStyle::from(CURVE).stroke_width(2);
        chart.draw_series(AreaSeries::new(points.iter().copied(), floor, CURVE.mix(0.12))).map_err(io::Error::other)?;
        chart.draw_series(LineSeries::new(points.iter().copied(), line)).map_err(io::Error::other)?;
        area.present().map_err(io::Error::other)?;
    }
    Ok(svg)
}

/// A number as the label of an axis: without digits that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    let whole = text.find('.').unwrap_or(text.len());
    let mut grouped = text.to_owned();
    (1..=whole.saturating_sub(1) / 3).for_each(|group| grouped.insert(whole - 3 * group, '\u{202f}'));
    grouped
}

/// Text that stands for itself in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        assert_eq!(
            [0.0, 0.25, 12.0, 1200.0, 1_234_567.0].map(short).join(" "),
            "0 0.25 12 1\u{202f}200 1\u{202f}234\u{202f}567"
        );
        assert_eq!([1.0, 10.0, 100.0, 1e4].map(|inverse| percentile(&inverse)).join(" "), "0 % 90 % 99 % 99.99 %");
        assert_eq!(escaped("<b>&\""), "&lt;b&gt;&amp;&quot;");
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(log_ticks(&(30.0..700.0)), [50.0, 100.0, 200.0, 500.0]);
        assert_eq!(log_ticks(&(0.5..90_000.0)), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
    }
}
