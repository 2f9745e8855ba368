//! The pages. Only the visit's number changes after the process has started, so the rest is
//! rendered once, and an answer copies the parts with the number between them.

use askama::Template;

/// Placeholders in a template for the number: plain for programs, and with separated thousands for
/// people. No setting can contain them.
const NUMBER: char = '\u{1}';
const GROUPED: char = '\u{2}';

#[derive(Template)]
#[template(path = "index.html")]
struct Index<'a> {
    pod: &'a str,
    node: &'a str,
    version: &'a str,
    number: char,
    grouped: char,
    counted: bool,
}

#[derive(Template)]
#[template(path = "architecture.html")]
struct Architecture<'a> {
    pod: &'a str,
    node: &'a str,
    version: &'a str,
}

/// All pages of one process.
pub struct Pages {
    counted: Page,
    kept: Page,
    /// The drawing of the cluster.
    pub architecture: String,
}

/// A page with gaps.
struct Page {
    parts: Vec<Part>,
    length: usize,
}

enum Part {
    Fixed(String),
    Number,
    Grouped,
}

impl Pages {
    /// Renders the fixed parts.
    ///
    /// # Errors If a template fails, which cannot happen with these.
    pub fn new(pod: &str, node: &str) -> Result<Self, askama::Error> {
        let version = env!("CARGO_PKG_VERSION");
        let index = |counted| {
            let text = Index {
                pod,
                node,
                version,
                number: NUMBER,
                grouped: GROUPED,
                counted,
            }
            .render()?;
            Ok::<_, askama::Error>(Page::of(&text))
        };
        Ok(Self {
            counted: index(true)?,
            kept: index(false)?,
            architecture: Architecture { pod, node, version }.render()?,
        })
    }

    /// The index page for a visit with a number.
    pub fn counted(&self, number: u64) -> String {
        self.counted.with(number)
    }

    /// The index page while Redis is down and `kept` visits wait.
    pub fn kept(&self, kept: u64) -> String {
        self.kept.with(kept)
    }
}

impl Page {
    fn of(text: &str) -> Self {
        let mut parts = Vec::new();
        for piece in text.split_inclusive([NUMBER, GROUPED]) {
            let fixed = piece.trim_end_matches([NUMBER, GROUPED]);
            parts.push(Part::Fixed(fixed.to_owned()));
            match piece.chars().last() {
                Some(NUMBER) => parts.push(Part::Number),
                Some(GROUPED) => parts.push(Part::Grouped),
                _ => {}
            }
        }
        Self {
            parts,
            length: text.len(),
        }
    }

    fn with(&self, number: u64) -> String {
        let plain = number.to_string();
        let grouped = grouped(&plain);
        let mut text = String::with_capacity(self.length + 64);
        for part in &self.parts {
            text.push_str(match part {
                Part::Fixed(fixed) => fixed,
                Part::Number => &plain,
                Part::Grouped => &grouped,
            });
        }
        text
    }
}

fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn thousands_are_separated_by_commas() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(&u64::to_string(&number)), text);
        }
    }

    #[test]
    fn the_number_is_shown_once_for_programs_and_once_for_people() {
        let page = Pages::new("pod-a", "node-b").unwrap().counted(1_234_567);
        assert!(
            page.contains(r#"<data id="visits" value="1234567">1,234,567</data>"#),
            "{page}"
        );
        assert!(page.contains("pod-a") && page.contains("node-b"));
        assert!(!page.contains([NUMBER, GROUPED]));
    }

    #[test]
    fn a_page_without_a_number_shows_why_and_what_is_kept() {
        let page = Pages::new("pod-a", "node-b").unwrap().kept(1_042);
        assert!(!page.contains(r#"id="visits""#), "{page}");
        assert!(
            page.contains(r#"<data id="kept" value="1042">1,042</data>"#),
            "{page}"
        );
    }

    #[test]
    fn a_pods_name_cannot_inject_markup() {
        let page = Pages::new("<script>", "n").unwrap().counted(1);
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn the_page_is_as_long_as_the_one_that_it_is_benchmarked_against() {
        let length = Pages::new("backend-7d9c5b6f4-x2x9k", "ip-10-0-1-23")
            .unwrap()
            .counted(12_345)
            .len();
        assert!((6_900..=7_500).contains(&length), "{length} bytes");
    }
}
