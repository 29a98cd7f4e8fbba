//! Graphs of the history, drawn on the server: a line, an area below it, and in words what they show.

use maud::{Markup, html};

use super::texts::text;

/// Points of a graph; more are not told apart on a phone.
const POINTS: usize = 144;

/// A line from the oldest to the newest value, between zero and the greatest. What it shows is said in words, too.
pub(super) fn graph(name: &str, values: &[f64], say: impl Fn(f64) -> String) -> Markup {
    let points = reduce(values);
    let most = points.iter().copied().fold(0.0, f64::max);
    let Some(last) = values.last().filter(|_| points.len() > 1) else { return html! {} };
    let step = 720.0 / (points.len() - 1) as f64;
    let at = |(index, value): (usize, &f64)| {
        format!("{:.1},{:.1}", index as f64 * step, 98.0 - 96.0 * value / most.max(f64::MIN_POSITIVE))
    };
    let line = points.iter().enumerate().map(at).collect::<Vec<_>>().join(" ");
    // A mean of several minutes hides their peak from the line, not from the words.
    let peak = values.iter().copied().fold(0.0, f64::max);
    let words = text!("at most {}, {} now", say(peak), say(*last));
    html! {
        figure {
            svg class="graph" viewBox="0 0 720 100" preserveAspectRatio="none" role="img" aria-label={ (name) ": " (words) } {
                polygon points={ "0,98 " (line) " 720,98" } {}
                polyline points=(line) {}
            }
            figcaption { (words) }
        }
    }
}

/// At most [`POINTS`] values, each the mean of as many.
fn reduce(values: &[f64]) -> Vec<f64> {
    let size = values.len().div_ceil(POINTS).max(1);
    values.chunks(size).map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::history::MINUTES;

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
}
