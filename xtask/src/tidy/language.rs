//! Plain technical English in comments and documents, as far as words can be counted.
//!
//! One table of phrases holds for comments in Rust files and for Markdown outside of code. Doc comments also
//! need an opening with a noun or a verb, and three words. Left out: strings, and everything that needs a
//! reader: a sentence can pass and still be unclear.

use std::ops::Range;

use super::{Finding, Source};

/// Folders and files that do not hold the rules yet. Remove an entry with its last breach; add none.
const NOT_YET: &[&str] = &["ipam/tests/"];

/// Phrases in lower case, and their replacement.
const PHRASES: &[(&str, &str)] = &[
    ("nobody", PERSON),
    ("somebody", PERSON),
    ("everybody", PERSON),
    ("anybody", PERSON),
    ("who", PERSON),
    ("whom", PERSON),
    ("whose", PERSON),
    ("whoever", PERSON),
    ("whosoever", PERSON),
    ("tell", "write `report`, `return` or `distinguish`"),
    ("tells", "write `reports`, `returns` or `distinguishes`"),
    ("told", "write `reported` or `passed`"),
    ("speak for", "write `claim`"),
    ("speaks for", "write `claims`"),
    ("spoken for", "write `claimed`"),
    ("meant to live", "write `wanted`"),
    ("needs a hand", "write `requires action`"),
    ("mend", "write `correct`"),
    ("mended", "write `corrected`"),
    ("anew", "write `again`"),
    ("any more", "write `no longer`"),
    ("story", "write `scenario`"),
    ("stories", "write `scenarios`"),
];
const PERSON: &str = "a thing is not a person: name the thing, or the role of the user";

/// Verbs that make `is no X`, which in English is `is not an X`.
const VERBS: &[&str] = &["is", "are", "was", "were", "be"];
/// Words after which `is no` is idiomatic.
const IDIOMS: &[&str] = &["longer", "more", "less", "later", "one", "match"];

/// Openings of a doc comment that make it a question.
const QUESTIONS: &[&str] =
    &["what", "who", "whose", "whom", "where", "when", "how", "why", "whether", "which"];
/// Minimum number of words of a doc comment; with fewer it repeats the name.
const DOC_WORDS_MIN: usize = 3;

/// Checks the language of one file.
pub fn check(source: &Source) -> Vec<Finding> {
    if NOT_YET.iter().any(|path| source.path.starts_with(path)) {
        return Vec::new();
    }
    let blocks = match source.path.extension().and_then(|extension| extension.to_str()) {
        Some("rs") => comments(&source.text),
        Some("md") => paragraphs(&source.text),
        _ => return Vec::new(),
    };
    let found = blocks.iter().flat_map(breaches);
    found.map(|(line, text)| Finding::new(format!("{}:{line}", source.name()), text)).collect()
}

/// Consecutive lines of one kind.
struct Block<'a> {
    /// Marker of the comment; empty in Markdown.
    marker: &'a str,
    /// Words in lower case, without punctuation, with their lines. A code span is one empty word.
    words: Vec<(usize, String)>,
}

impl<'a> Block<'a> {
    fn new(marker: &'a str) -> Self {
        Self { marker, words: Vec::new() }
    }

    fn push(&mut self, line: usize, text: &str) {
        for (position, part) in text.split('`').enumerate() {
            if position % 2 == 1 {
                self.words.push((line, String::new()));
                continue;
            }
            let words = part.split(|char: char| !char.is_alphanumeric() && char != '\'' && char != '-');
            let words = words.filter(|word| !word.is_empty());
            self.words.extend(words.map(|word| (line, word.to_lowercase())));
        }
    }

    fn is_doc(&self) -> bool {
        matches!(self.marker, "///" | "//!")
    }

    fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", |(_, word)| word.as_str())
    }

    fn has(&self, range: Range<usize>, phrase: &str) -> bool {
        range.clone().map(|at| self.word(at)).eq(phrase.split(' '))
    }
}

/// The comments of a Rust file that start their lines.
fn comments(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut open = "";
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let marker = ["///", "//!", "//"].into_iter().find(|marker| line.starts_with(marker)).unwrap_or("");
        if !marker.is_empty() && marker != open {
            blocks.push(Block::new(marker));
        }
        if let (false, Some(block)) = (marker.is_empty(), blocks.last_mut()) {
            block.push(index + 1, line.get(marker.len()..).unwrap_or(""));
        }
        open = marker;
    }
    blocks
}

/// The paragraphs of a Markdown file, without its fenced code.
fn paragraphs(text: &str) -> Vec<Block<'_>> {
    let mut blocks = vec![Block::new("")];
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if line.trim().is_empty() {
            blocks.push(Block::new(""));
        } else if let (false, false, Some(block)) = (fenced, fence, blocks.last_mut()) {
            block.push(index + 1, line);
        }
    }
    blocks
}

fn breaches(block: &Block<'_>) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, (line, word)) in block.words.iter().enumerate() {
        for (phrase, instead) in PHRASES {
            if block.has(at..at + phrase.split(' ').count(), phrase) {
                found.push((*line, format!("`{phrase}`: {instead}")));
            }
        }
        let (no, next) = (block.word(at + 1), block.word(at + 2));
        if VERBS.contains(&word.as_str()) && no == "no" && !IDIOMS.contains(&next) {
            found.push((*line, format!("`{word} no {next}`: write `{word} not`, or a positive sentence")));
        }
    }
    if let (true, Some((line, first))) = (block.is_doc(), block.words.first()) {
        if QUESTIONS.contains(&first.as_str()) {
            found.push((*line, format!("a doc comment opens with a noun or a verb, not with `{first}`")));
        }
        if block.words.len() < DOC_WORDS_MIN {
            found.push((*line, format!("a doc comment has {DOC_WORDS_MIN} words or more")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.into(), text: text.into() };
        check(&source).into_iter().map(|finding| format!("{}: {}", finding.place, finding.text)).collect()
    }

    fn only(path: &str, text: &str, place: &str, part: &str) {
        let found = found(path, text);
        assert!(found.len() == 1 && found[0].starts_with(place) && found[0].contains(part), "{found:?}");
    }

    #[test]
    fn every_phrase_is_found_in_comments_and_documents() {
        for (phrase, instead) in PHRASES {
            only("a.rs", &format!("fn a() {{}}\n// Then {phrase}, later.\n"), "a.rs:2: ", instead);
            only("a.md", &format!("# Head\n\n**{}** later", phrase.to_uppercase()), "a.md:3: ", instead);
        }
    }

    #[test]
    fn a_phrase_is_found_across_lines_of_one_block_only() {
        only("a.rs", "    // It is not any\n    // more there.\n", "a.rs:1: ", "any more");
        assert_eq!(found("a.rs", "// Not any\nfn a() {}\n// more of it.\n"), [""; 0]);
        assert_eq!(found("a.md", "Not any\n\nmore of it"), [""; 0]);
    }

    #[test]
    fn no_with_a_noun_is_found_and_idioms_are_not() {
        only("a.rs", "/// A port that is no device.\n", "a.rs:1: ", "is no device");
        only("a.md", "- There are no\n  rules.", "a.md:1: ", "are no rules");
        for good in ["is no longer up", "are no more than two", "is not a device", "has no device"] {
            assert_eq!(found("a.rs", &format!("/// A port that {good}.\n")), [""; 0]);
        }
    }

    #[test]
    fn a_doc_comment_opens_with_a_noun_or_a_verb() {
        for question in QUESTIONS.iter().filter(|word| !word.starts_with("who")) {
            only("a.rs", &format!("/// {question} it is there.\n"), "a.rs:1: ", "opens with");
            assert_eq!(found("a.rs", &format!("// {question} it is there.\n")), [""; 0]);
        }
        only("a.rs", "//! Which file is it.\n", "a.rs:1: ", "opens with");
        assert_eq!(found("a.rs", "/// The file\n/// which is it.\n"), [""; 0]);
    }

    #[test]
    fn a_doc_comment_has_three_words() {
        only("a.rs", "    /// The pool.\n    pub pool: u8,\n", "a.rs:1: ", "3 words");
        assert_eq!(found("a.rs", "/// Name of `pool`.\n// Fine.\n"), [""; 0]);
        assert_eq!(found("a.rs", "/// Name of\n/// it.\n"), [""; 0]);
    }

    #[test]
    fn code_and_strings_are_left_out() {
        assert_eq!(found("a.md", "A `who` and\n\n```text\nnobody\n```\n"), [""; 0]);
        assert_eq!(found("a.rs", "let told = \"nobody\"; // `told`\n/// Value of `told`.\n"), [""; 0]);
        assert_eq!(found("a.yaml", "# nobody"), [""; 0]);
    }

    #[test]
    fn only_listed_paths_are_exempt() {
        for path in NOT_YET {
            let file = if path.ends_with('/') { format!("{path}src/a.rs") } else { (*path).to_owned() };
            assert_eq!(found(&file, "// nobody\n"), [""; 0]);
        }
        only("agents/a.rs", "// nobody\n", "agents/a.rs:1: ", PERSON);
    }
}
