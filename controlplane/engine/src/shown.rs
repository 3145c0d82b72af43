//! Text for people that others have a hand in: names, certificates, what was offered.
//!
//! It goes into logs, `adit explain`, `adit status`, the API and terminals. So it is one line without control characters, without what
//! turns or hides the characters beside it, and no longer than a few lines of a terminal: there is no other way to make a [`Shown`].

use std::borrow::Borrow;
use std::fmt::{self, Write};
use std::ops::{Deref, RangeInclusive};

use crate::limits::SHOWN_ITEMS_MAX;

pub use crate::limits::SHOWN_LEN_MAX;

/// Text that can be shown as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shown(String);

impl Shown {
    /// What does not show is written as `\u{a}`; what is too long ends in `…`. Text that is shown already stays as it is.
    pub fn of(text: impl fmt::Display) -> Shown {
        let mut line = Line { text: String::new(), left: SHOWN_LEN_MAX };
        // It stops only where enough was written.
        let _ = write!(line, "{text}");
        Shown(line.text)
    }

    /// The same, but what does not show is a space each: for a line below which a place in it is marked, and for what others have
    /// made lines of already.
    pub fn in_place(text: &str) -> Shown {
        Shown::of(text.chars().map(|character| if shows(character) { character } else { ' ' }).collect::<String>())
    }

    /// The first of several, and how many more there are.
    pub fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> Vec<Shown> {
        let mut items = items.into_iter();
        let mut shown: Vec<Shown> = items.by_ref().take(SHOWN_ITEMS_MAX).map(Shown::of).collect();
        match items.count() {
            0 => {}
            more => shown.push(Shown::of(format_args!("{more} more"))),
        }
        shown
    }

    /// Bytes that are text most of the time.
    pub fn bytes(bytes: &[u8]) -> Shown {
        Shown::of(bytes.escape_ascii())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether something was cut off: a short text may end in `…` by itself.
    pub fn is_cut(&self) -> bool {
        self.0.ends_with('…') && self.0.chars().count() > SHOWN_LEN_MAX
    }

    /// Whether both are of the same name, in letters of either case. Of what was cut off nobody knows.
    pub fn is_same_name(&self, other: &Shown) -> bool {
        !self.is_cut() && self.0.eq_ignore_ascii_case(&other.0)
    }
}

/// A line in the making, with room for so many characters.
struct Line {
    text: String,
    left: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.left == 0 {
                // Once, for whoever formats stops here.
                self.text.push('…');
                return Err(fmt::Error);
            }
            self.left -= 1;
            if shows(character) || character == ' ' {
                self.text.push(character);
            } else {
                write!(self.text, "{}", character.escape_unicode())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Deref for Shown {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Shown {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<Shown> for String {
    fn from(shown: Shown) -> String {
        shown.0
    }
}

impl PartialEq<str> for Shown {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for Shown {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// Whether a character shows as itself: no control character, and none of those that are not seen or turn the direction of
/// what follows, so that a name looks like another one.
pub fn shows(character: char) -> bool {
    if UNSEEN.iter().any(|range| range.contains(&character)) {
        return false;
    }
    // The standard library knows the categories, and escapes what has none that shows. Behind a letter, marks are let alone.
    let mut buffer = [b'a'; 5];
    let len = 1 + character.encode_utf8(&mut buffer[1..]).len();
    let shown = std::str::from_utf8(&buffer[..len]).is_ok_and(|text| text.escape_debug().count() == 2);
    shown || matches!(character, '"' | '\'' | '\\')
}

/// Letters, marks and symbols by their category of which nothing is seen (Unicode's Default_Ignorable_Code_Point, and the empty
/// pattern of Braille). What has a category that does not show is not among them.
const UNSEEN: [RangeInclusive<char>; 11] = [
    '\u{34f}'..='\u{34f}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_show_is_written_out() {
        let shown = |text: &str| Shown::of(text).to_string();
        assert_eq!(shown("gw\n\x1b[2J\u{7}\u{202e}"), "gw\\u{a}\\u{1b}[2J\\u{7}\\u{202e}");
        assert_eq!(shown("CN=Zürich \"Süd\" O'Hara, a\\,b"), "CN=Zürich \"Süd\" O'Hara, a\\,b");
        assert_eq!(shown(&"x".repeat(SHOWN_LEN_MAX)).chars().count(), SHOWN_LEN_MAX);
        assert_eq!(shown(&"x".repeat(SHOWN_LEN_MAX + 1)), "x".repeat(SHOWN_LEN_MAX) + "…");
        assert_eq!(Shown::bytes(b"a\n\xff"), "a\\n\\xff");
        let cut = |text: &str| Shown::of(text).is_cut();
        assert!(cut(&"x".repeat(SHOWN_LEN_MAX + 1)) && !cut(&"x".repeat(SHOWN_LEN_MAX)));
        assert!(!cut("CN=Acme…"), "whose name that is");
    }

    /// Unicode 16: control and format characters, what ends lines, what turns the direction, and what is not seen.
    const OBEYED: &[(u32, u32)] = &[
        (0, 0x1f),
        (0x7f, 0xa0),
        (0xad, 0xad),
        (0x34f, 0x34f),
        (0x600, 0x605),
        (0x61c, 0x61c),
        (0x6dd, 0x6dd),
        (0x70f, 0x70f),
        (0x890, 0x891),
        (0x8e2, 0x8e2),
        (0x115f, 0x1160),
        (0x1680, 0x1680),
        (0x17b4, 0x17b5),
        (0x180b, 0x180f),
        (0x2000, 0x200f),
        (0x2028, 0x202f),
        (0x205f, 0x206f),
        (0x2800, 0x2800),
        (0x3000, 0x3000),
        (0x3164, 0x3164),
        (0xe000, 0xf8ff),
        (0xfe00, 0xfe0f),
        (0xfeff, 0xfeff),
        (0xffa0, 0xffa0),
        (0xfff0, 0xfffb),
        (0x110bd, 0x110bd),
        (0x110cd, 0x110cd),
        (0x13430, 0x1343f),
        (0x1bca0, 0x1bca3),
        (0x1d173, 0x1d17a),
        (0xe0000, 0xe0fff),
        (0xf0000, 0x0010_ffff),
    ];

    #[test]
    fn nothing_that_is_obeyed_or_not_seen_shows() {
        for (first, last) in OBEYED {
            for character in (*first..=*last).filter_map(char::from_u32) {
                assert!(!shows(character), "{character:?}");
                let shown = Shown::of(format_args!("a{character}b"));
                assert!(shown.is_ascii() && shown.len() > 5, "{shown:?}");
                assert_eq!(Shown::in_place(&format!("a{character}b")), "a b");
            }
        }
        let people = "AZaz09 ~!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}§äßéñŁж中ひ한عब\u{301}€→😀";
        assert!(people.chars().all(|character| shows(character) || character == ' '));
    }

    #[test]
    fn of_a_long_list_a_few_are_shown() {
        assert_eq!(Shown::list(1..=3), ["1", "2", "3"]);
        let many = Shown::list(1..=1000);
        assert_eq!((many.len(), many.last().unwrap().as_str()), (SHOWN_ITEMS_MAX + 1, "992 more"));
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_that_shows(text: String) {
            let shown = Shown::of(&text);
            prop_assert!(shown.chars().all(|character| shows(character) || character == ' '), "{:?}", shown);
            prop_assert_eq!(Shown::of(&shown), shown.clone(), "it is there already");
            if text.chars().all(|character| shows(character) || character == ' ') && text.chars().count() <= SHOWN_LEN_MAX {
                prop_assert_eq!(shown.as_str(), text);
            }
        }
    }
}
