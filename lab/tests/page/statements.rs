//! The shell statements of a Markdown page.

/// What its code blocks contain, one statement each, in their order. A statement ends where the
/// shell ends it: not after `\` or `|`, and a here-document at its word.
pub fn of(page: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let (mut inside, mut goes_on) = (false, false);
    let mut here: Option<String> = None;
    for line in page.lines() {
        if line.starts_with("```") {
            (inside, goes_on) = (!inside, false);
            continue;
        }
        if !inside || (line.trim().is_empty() && !goes_on) {
            continue;
        }
        match found.last_mut().filter(|_| goes_on) {
            Some(statement) => *statement += &format!("\n{line}"),
            None => found.push(line.to_owned()),
        }
        if here.is_none() {
            here = line.split_once("<<").map(|(_, word)| word.to_owned());
            goes_on = here.is_some() || line.ends_with(['\\', '|']);
        } else if here.as_deref() == Some(line) {
            (here, goes_on) = (None, false);
        }
    }
    found
}

/// Whether a statement runs this program: first, in a pipe, or in `$(...)`.
pub fn runs(statement: &str, program: &str) -> bool {
    let mut words = statement.split(|c: char| c.is_whitespace() || "$(|;&\"".contains(c));
    words.any(|word| word == program)
}

#[test]
fn a_statement_ends_where_the_shell_ends_it() {
    let page = "text\n```sh\na=1 b=2\nc \\\n  d |\n  e\n\ncat > f <<END\n[g]\n\nh\nEND\ni\n```\nj\n```sh\nk\n```\n";
    let expected = [
        "a=1 b=2",
        "c \\\n  d |\n  e",
        "cat > f <<END\n[g]\n\nh\nEND",
        "i",
        "k",
    ];
    assert_eq!(of(page), expected);
}

#[test]
fn a_program_is_found_wherever_it_runs() {
    for yes in ["aws s3 ls", "x=$(aws sts y)", "a |\n  xargs aws b"] {
        assert!(runs(yes, "aws"), "{yes}");
    }
    assert!(!runs("cp s3://aws-agents/aws.zip .", "aws"));
}
