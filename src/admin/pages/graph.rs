//! Graphs of the history, drawn on the server: a line, an area below it, and in words what they show.

use std::time::{SystemTime, UNIX_EPOCH};

use maud::{Markup, html};

use super::{
    page::{UPLOT_SCRIPT, UPLOT_STYLESHEET},
    texts::text,
};

/// Points of a graph; more are not told apart on a phone.
const POINTS: usize = 144;

/// Moments that a script is given of a graph: five minutes each of a day.
const PLOTTED: usize = 288;

/// A line from the oldest to the newest value, between zero and the greatest. What it shows is said in words, too.
pub(super) fn graph(name: &str, values: &[f64], say: impl Fn(f64) -> String) -> Markup {
    let Some((svg, words)) = draw(name, values, say) else { return html! {} };
    html! { figure { (svg) figcaption { (words) } } }
}

/// The same with the moments of the values, from which the script of [`scripts`] draws it with axes. Values whose moment is not after the one
/// before are left out: the clock was set back.
pub(super) fn graph_with_axes(name: &str, values: &[(SystemTime, f64)]) -> Markup {
    let alone: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
    let Some((svg, words)) = draw(name, &alone, |value| format!("{value:.0}")) else { return html! {} };
    let size = values.len().div_ceil(PLOTTED).max(1);
    let (mut times, mut plotted, mut last) = (String::new(), String::new(), 0.0);
    for (at, value) in values.chunks(size).filter_map(<[_]>::last) {
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1e3);
        if seconds > last {
            let space = if times.is_empty() { "" } else { " " };
            times += &format!("{space}{seconds}");
            plotted += &format!("{space}{value:.0}");
            last = seconds;
        }
    }
    html! {
        figure data-name=(name) data-times=(times) data-values=(plotted) { (svg) figcaption { (words) } }
    }
}

/// What a page with [`graph_with_axes`] ends with.
pub(super) fn scripts() -> Markup {
    html! {
        link rel="stylesheet" href=(UPLOT_STYLESHEET);
        script src=(UPLOT_SCRIPT) {}
        script src="/assets/plot.js" {}
    }
}

/// A drawing and its words; nothing of less than two values.
fn draw(name: &str, values: &[f64], say: impl Fn(f64) -> String) -> Option<(Markup, Markup)> {
    let points = reduce(values);
    let most = points.iter().copied().fold(0.0, f64::max);
    let last = values.last().filter(|_| points.len() > 1)?;
    let step = 720.0 / (points.len() - 1) as f64;
    let at = |(index, value): (usize, &f64)| {
        format!("{:.1},{:.1}", index as f64 * step, 98.0 - 96.0 * value / most.max(f64::MIN_POSITIVE))
    };
    let line = points.iter().enumerate().map(at).collect::<Vec<_>>().join(" ");
    // A mean of several minutes hides their peak from the line, not from the words.
    let peak = values.iter().copied().fold(0.0, f64::max);
    let words = text!("at most {}, {} now", say(peak), say(*last));
    let svg = html! {
        svg class="graph" viewBox="0 0 720 100" preserveAspectRatio="none" role="img" aria-label={ (name) ": " (words) } {
            polygon points={ "0,98 " (line) " 720,98" } {}
            polyline points=(line) {}
        }
    };
    Some((svg, words))
}

/// At most [`POINTS`] values, each the mean of as many.
fn reduce(values: &[f64]) -> Vec<f64> {
    let size = values.len().div_ceil(POINTS).max(1);
    values.chunks(size).map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::history::{MINUTE, MINUTES};

    #[test]
    fn a_graph_has_few_points_and_says_what_it_shows() {
        let values: Vec<f64> = (0..MINUTES).map(|minute| minute as f64).collect();
        let html = graph("Requests", &values, |value| format!("{value:.0}")).into_string();
        assert!(html.contains("Requests: at most 1439, 1439 now"), "{html}");
        let line = html.split("polyline points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(line.split(' ').count(), POINTS);
        assert!(line.starts_with("0.0,") && line.ends_with("720.0,2.0"), "{line}");
        assert_eq!(graph("Requests", &[1.0], |_| String::new()).into_string(), "", "one point is no line");
        let flat = graph("Requests", &[0.0, 0.0], |value| format!("{value:.0}")).into_string();
        assert!(flat.contains("0.0,98.0 720.0,98.0"), "{flat}");
    }

    #[test]
    fn a_graph_with_axes_names_few_moments_and_none_twice() {
        let at = |minute: usize| UNIX_EPOCH + MINUTE * minute as u32;
        let values: Vec<_> = (1..=MINUTES).map(|minute| (at(minute), minute as f64)).collect();
        let html = graph_with_axes("Left", &values).into_string();
        let of = |html: &str, name: &str| {
            html.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        let (times, plotted) = (of(&html, "data-times"), of(&html, "data-values"));
        assert_eq!((times.split(' ').count(), plotted.split(' ').count()), (PLOTTED, PLOTTED));
        assert!(times.ends_with(" 86400") && plotted.starts_with("5 10 ") && plotted.ends_with(" 1440"), "{html}");
        let back = [(at(5), 9.0), (at(3), 8.0), (at(5), 7.0), (at(6), 6.0)];
        let html = graph_with_axes("Left", &back).into_string();
        assert_eq!((&*of(&html, "data-times"), &*of(&html, "data-values")), ("300 360", "9 6"));
        assert_eq!(graph_with_axes("Left", &back[..1]).into_string(), "", "one point is no line");
    }
}
