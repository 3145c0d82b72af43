//! Messages of the process, to standard error: for people, and for the control plane that reads them from there (its `dataplane/log.rs`);
//! where journald reads, each line with its priority (sd-daemon(3)); or as JSON for programs.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_channel::service::is_journal;

/// How much a message matters: the priority for journald, what stands before it for people, and its name for programs.
#[derive(Clone, Copy)]
struct Level(u8, &'static str, &'static str);

const ERROR: Level = Level(3, "adit-dataplane: ", "ERROR");
const WARNING: Level = Level(4, "WARNING: ", "WARN");
const INFO: Level = Level(6, "", "INFO");

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Journal,
    Json,
}

impl Format {
    /// `asked`: what ADIT_LOG_FORMAT says, in the words of `adit`. Without it, `journal` says whether journald reads; with another
    /// word, too, and then something is to be said of that.
    fn choose(asked: Option<&str>, journal: bool) -> (Format, Option<String>) {
        let usual = if journal { Format::Journal } else { Format::Text };
        match asked {
            None | Some("") => (usual, None),
            Some("text") => (Format::Text, None),
            Some("journal") => (Format::Journal, None),
            Some("json") => (Format::Json, None),
            Some(other) => {
                let what = format!("the environment variable ADIT_LOG_FORMAT is `{other}`: it can be text, journal or json");
                (usual, Some(what))
            }
        }
    }

    /// As the environment says, which is asked once.
    fn of_process() -> Format {
        static FORMAT: OnceLock<Format> = OnceLock::new();
        *FORMAT.get_or_init(|| {
            let asked = env::var_os("ADIT_LOG_FORMAT");
            let asked = asked.as_ref().map(|asked| asked.to_string_lossy());
            let (format, complaint) = Format::choose(asked.as_deref(), is_journal(io::stderr()));
            complaint.iter().for_each(|complaint| write(WARNING, complaint, format));
            format
        })
    }
}

/// Why the process ends.
pub fn error(message: impl Display) {
    say(ERROR, message);
}

/// What somebody should look at.
pub fn warn(message: impl Display) {
    say(WARNING, message);
}

/// What is good to know afterwards.
pub fn info(message: impl Display) {
    say(INFO, message);
}

fn say(level: Level, message: impl Display) {
    write(level, &message.to_string(), Format::of_process());
}

fn write(level: Level, message: &str, format: Format) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Nothing better can be done when nobody reads; one write, so that lines of several threads stay whole.
    let _ = io::stderr().write_all(text(level, message, format, now).as_bytes());
}

/// `now` is the time since 1970 UTC.
fn text(Level(priority, prefix, name): Level, message: &str, format: Format, now: Duration) -> String {
    match format {
        Format::Text => format!("{prefix}{message}\n"),
        // Each line is a message of its own there.
        Format::Journal => message.lines().map(|line| format!("<{priority}>{line}\n")).collect(),
        // With the keys that `adit` has.
        Format::Json => {
            let (time, message) = (timestamp(now), escaped(message));
            format!("{{\"timestamp\":\"{time}\",\"level\":\"{name}\",\"message\":\"{message}\"}}\n")
        }
    }
}

/// What stands for a text between the quotes of a string in JSON (RFC 8259 §7).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\0'..='\u{1f}' => out += &format!("\\u{:04x}", u32::from(letter)),
            _ => out.push(letter),
        }
    }
    out
}

/// A time in UTC, with microseconds (RFC 3339), given since 1970.
fn timestamp(since: Duration) -> String {
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day so many days after the first of 1970. It is counted in years that begin with March, so that the day of a
/// leap year is the last one; 400 of them always have as many days.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    const FROM_YEAR_0_TO_1970: u64 = 719_468;
    let (rounds, day) = ((days + FROM_YEAR_0_TO_1970) / DAYS_OF_400_YEARS, (days + FROM_YEAR_0_TO_1970) % DAYS_OF_400_YEARS);
    // Without the leap days before it, each year has 365.
    let year = (day - day / 1460 + day / 36_524 - day / (DAYS_OF_400_YEARS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months from March on, and again from August on, have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 400 * rounds + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_gets_priorities_and_everybody_else_words() {
        let (journal, people) = (Format::Journal, Format::Text);
        let text = |level, message, format| text(level, message, format, Duration::ZERO);
        assert_eq!(text(WARNING, "no io_uring", journal), "<4>no io_uring\n");
        assert_eq!(text(ERROR, "two\nlines", journal), "<3>two\n<3>lines\n");
        assert_eq!(text(INFO, "up", journal), "<6>up\n");
        assert_eq!(text(WARNING, "no io_uring", people), "WARNING: no io_uring\n");
        assert_eq!(text(ERROR, "no", people), "adit-dataplane: no\n");
        assert_eq!(text(INFO, "up", people), "up\n");
    }

    #[test]
    fn programs_get_an_object_a_line() {
        let text = |level, message| text(level, message, Format::Json, Duration::new(951_868_799, 1_234_999));
        let start = "{\"timestamp\":\"2000-02-29T23:59:59.001234Z\",\"level\":";
        assert_eq!(text(INFO, "up"), format!("{start}\"INFO\",\"message\":\"up\"}}\n"));
        assert_eq!(text(WARNING, "is `\"`"), format!("{start}\"WARN\",\"message\":\"is `\\\"`\"}}\n"));
        assert_eq!(text(ERROR, "two\nlines"), format!("{start}\"ERROR\",\"message\":\"two\\u000alines\"}}\n"));
    }

    #[test]
    fn the_format_is_the_one_asked_for_or_that_of_who_reads() {
        for (asked, journal, format) in [
            (None, true, Format::Journal),
            (None, false, Format::Text),
            (Some(""), true, Format::Journal),
            (Some("text"), true, Format::Text),
            (Some("journal"), false, Format::Journal),
            (Some("json"), true, Format::Json),
        ] {
            assert_eq!(Format::choose(asked, journal), (format, None), "{asked:?}");
        }
        let (format, complaint) = Format::choose(Some("xml"), true);
        assert!(format == Format::Journal && complaint.unwrap().contains("`xml`: it can be text, journal or json"));
    }

    /// Reads what stands between the quotes of a string in JSON, as strictly as RFC 8259 §7 says.
    fn unescaped(text: &str) -> Option<String> {
        let (mut out, mut letters) = (String::new(), text.chars());
        while let Some(letter) = letters.next() {
            let read = match letter {
                '\0'..='\u{1f}' | '"' => return None,
                '\\' => match letters.next()? {
                    same @ ('"' | '\\' | '/') => same,
                    'u' => {
                        let digits: String = letters.by_ref().take(4).collect();
                        char::from_u32(u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4)?)?
                    }
                    _ => return None,
                },
                other => other,
            };
            out.push(read);
        }
        Some(out)
    }

    #[test]
    fn every_character_comes_back_from_json_alone_and_among_others() {
        let all: String = ('\0'..=char::MAX).collect();
        assert!(unescaped(&escaped(&all)).is_some_and(|back| back == all));
        for letter in '\0'..='\u{2ff}' {
            let text = format!("{letter}\\{letter}u0041\"{letter}");
            assert_eq!(unescaped(&escaped(&text)), Some(text));
        }
    }

    #[test]
    fn every_day_of_five_centuries_has_its_date() {
        let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
        let mut days = 0;
        for year in 1970..2470 {
            for (month, length) in (1..).zip([31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
                for day in 1..=length {
                    assert_eq!(date(days), (year, month, day));
                    days += 1;
                }
            }
        }
    }
}
