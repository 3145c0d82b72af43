//! Words of our own for what the field has a word for: they were renamed, and stay out of code, messages and docs.

use std::fs;

use super::{complain, pages, root, sources};

/// Each with what is said instead (docs/GLOSSARY.md). Of the words that were renamed these are the ones that mean nothing else here.
const OLD: &[(&str, &str)] = &[
    ("bequeath", "hand over"),
    ("estate", "handover"),
    ("heir", "successor"),
    ("lesson", "MAC-learning update"),
    ("lingering", "draining, of what is inbound"),
    ("packer", "builder of a hand-off batch"),
    ("parcel", "hand-off batch"),
    ("parting", "draining, of what is outbound"),
    ("pulse", "liveness; watchdog"),
    ("rival", "collision"),
    ("sas of the traffic", "Child SAs"),
    ("setback", "install backoff"),
    ("sign of life", "DPD"),
    ("signs of life", "DPD"),
    ("untold", "unreported"),
    ("worn", "sequence soft limit"),
];
/// The file with the list.
const HERE: &str = "bench/tests/tidy/words.rs";

/// All words in small letters, those in names as well, with one space before, between and behind them.
fn words(text: &str) -> String {
    let (mut words, mut before) = (String::from(" "), ' ');
    for letter in text.chars() {
        let begins = letter.is_ascii_uppercase() && before.is_ascii_lowercase();
        if (begins || !letter.is_ascii_alphabetic()) && !words.ends_with(' ') {
            words.push(' ');
        }
        if letter.is_ascii_alphabetic() {
            words.push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    words + " "
}

/// What is old in a text, alone or with an `s`.
fn old(text: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let words = words(text);
    OLD.iter().copied().filter(move |(old, _)| [" ", "s "].iter().any(|end| words.contains(&format!(" {old}{end}"))))
}

#[test]
fn old_words_are_not_used() {
    let pages = pages().into_iter().map(|page| {
        let text = fs::read_to_string(&page).expect("UTF-8");
        (page.strip_prefix(root()).unwrap_or(&page).display().to_string(), text)
    });
    let mut faults = Vec::new();
    for (file, text) in sources().into_iter().chain(pages).filter(|(file, _)| file != HERE) {
        // Its name counts as well.
        let text = format!("{file} {text}");
        faults.extend(old(&text).map(|(old, new)| format!("{file}: {old}, for which the field has a word: {new}")));
    }
    complain(faults);
}

#[test]
fn an_old_word_is_found_in_every_spelling_and_not_within_others() {
    for text in ["the heir", "is_heir", "HeirTo", "heirs.len()", "fn Heir", "HEIR", "no signs\n/// of life", "signs_of_life"] {
        assert_eq!(old(text).count(), 1, "{text}");
    }
    for text in ["their", "an arrival", "departing", "restate", "impulse", "a sign of it", "no signs, of lifetimes"] {
        assert_eq!(old(text).count(), 0, "{text}");
    }
}
