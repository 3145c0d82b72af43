//! The messages of the data plane: read from its file as they come, passed on to our own log.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::limits::{DATAPLANE_LINE_BYTES_MAX, DATAPLANE_LOG_BYTES_MAX};
use crate::private;

/// Follows the file from a position on.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    position: u64,
    partial: Vec<u8>,
    last: Option<String>,
}

impl Tail {
    /// Follows from the end of what is there now; the file need not exist yet.
    pub fn from_end(path: &Path) -> Tail {
        let position = path.metadata().map_or(0, |facts| facts.len());
        Tail { path: path.to_owned(), position, partial: Vec::new(), last: None }
    }

    /// The last line that had something to say.
    pub fn last_line(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Passes new lines on to the log.
    pub fn forward(&mut self) {
        // Nothing can be done about a log that cannot be read, and the data plane works without.
        let Ok(bytes) = self.read() else { return };
        self.partial.extend_from_slice(&bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.say(&line[..end]);
        }
        if self.partial.len() > DATAPLANE_LINE_BYTES_MAX {
            let line = std::mem::take(&mut self.partial);
            self.say(&line);
        }
    }

    fn say(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let (level, message) = parse(&text);
        if message.is_empty() {
            return;
        }
        match level {
            tracing::Level::ERROR => tracing::error!("dataplane: {message}"),
            tracing::Level::WARN => tracing::warn!("dataplane: {message}"),
            _ => tracing::info!("dataplane: {message}"),
        }
        self.last = Some(message);
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut file = private::file().read(true).write(true).open(&self.path)?;
        let length = file.metadata()?.len();
        if length < self.position {
            self.position = 0;
        }
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = Vec::new();
        self.position += (&file).take(DATAPLANE_LOG_BYTES_MAX).read_to_end(&mut bytes)? as u64;
        if self.position > DATAPLANE_LOG_BYTES_MAX {
            // The data plane appends, so it goes on at the new end. A line written at this very moment is lost.
            file.set_len(0)?;
            self.position = 0;
        }
        Ok(bytes)
    }
}

/// Level and message of a line, without the name of the program before it.
fn parse(line: &str) -> (tracing::Level, String) {
    let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = clean.trim();
    let prefixes =
        [("adit-dataplane: ", tracing::Level::ERROR), ("ERROR: ", tracing::Level::ERROR), ("WARNING: ", tracing::Level::WARN)];
    let found = prefixes.iter().find_map(|(prefix, level)| Some((*level, text.strip_prefix(prefix)?.trim().to_owned())));
    found.unwrap_or_else(|| (tracing::Level::INFO, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_are_parsed_whatever_writes_them() {
        assert_eq!(parse("WARNING: USO is off"), (tracing::Level::WARN, "USO is off".to_owned()));
        assert_eq!(parse("adit-dataplane: no /dev/net/tun: modprobe tun").1, "no /dev/net/tun: modprobe tun");
        assert_eq!(parse("thread main panicked"), (tracing::Level::INFO, "thread main panicked".to_owned()));
        assert_eq!(parse("error: bad \x1b[31mflag").1, "error: bad  [31mflag");
    }

    #[test]
    fn a_line_is_passed_on_once_it_is_whole_and_a_long_file_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut tail = Tail::from_end(&path);
        tail.forward();
        let mut writer = File::options().append(true).create(true).open(&path).unwrap();
        writer.write_all(b"first\nsec").unwrap();
        tail.forward();
        assert_eq!(tail.last_line(), Some("first"));
        writer.write_all(b"ond\n").unwrap();
        tail.forward();
        assert_eq!(tail.last_line(), Some("second"));
        for _ in 0..3 {
            writer.write_all(&b"x".repeat(DATAPLANE_LOG_BYTES_MAX as usize / 2)).unwrap();
            writer.write_all(b"\n").unwrap();
            tail.forward();
        }
        assert!(path.metadata().unwrap().len() < DATAPLANE_LOG_BYTES_MAX);
        writer.write_all(b"after\n").unwrap();
        tail.forward();
        assert_eq!(tail.last_line(), Some("after"));
    }
}
