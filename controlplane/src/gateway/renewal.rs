//! Files of keys and certificates that are renewed on disk are taken by themselves, together and as a whole; the configuration that names
//! them stays the one that runs, since a change of that is for people to ask for.
//!
//! A renewal is several files, one after the other. So they are taken once they have stood still between two looks, and where they do not
//! fit each other yet (a key without its certificate) that is said once and the next change is waited for. Nothing ends by it: peers are
//! authenticated anew beside the IKE SAs that there are. Static keys are not taken so: both ends must have the new one at one moment,
//! which only people know.

use super::{Gateway, Plane};
use crate::config::Machine;
use crate::desired::{Stamps, reload};

/// What was seen of the files.
#[derive(Default)]
pub(super) struct Renewal {
    /// At the last look.
    seen: Option<Stamps>,
    /// What was read last, and did not fit or was the same.
    judged: Option<Stamps>,
    /// What was said of files that do not fit.
    complaint: Option<String>,
}

impl Renewal {
    /// Whether the files are to be read again: they are others than when they were read, and have stood still since the last look, or a
    /// person wants them now.
    fn is_due(&mut self, running: &Stamps, now: Stamps, commanded: bool) -> bool {
        if now == *running {
            // What was judged may come again.
            self.judged = None;
        }
        let still = commanded || self.seen.as_ref() == Some(&now);
        let due = still && now != *running && self.judged.as_ref() != Some(&now);
        if due {
            self.judged = Some(now.clone());
        }
        self.seen = Some(now);
        due
    }

    /// The files do not fit. Says whether that is news.
    fn complain(&mut self, why: String) -> bool {
        let is_news = self.complaint.as_ref() != Some(&why);
        self.complaint = Some(why);
        is_news
    }

    /// All files that run were read by command: what did not fit before is over, and that was said.
    pub(super) fn reloaded(&mut self) {
        self.complaint = None;
    }

    /// The files are those that run, whatever they were in between. Says whether that is the end of what was said.
    fn is_over(&mut self) -> bool {
        self.complaint.take().is_some()
    }
}

impl Gateway {
    /// Takes files that were renewed. To be called every few seconds, and when a person has `commanded` to connect.
    pub(super) async fn take_renewed(&mut self, plane: &mut Plane, commanded: bool) {
        let running = self.desired.clone();
        let Some(source) = running.source.as_ref().filter(|_| !plane.incomplete) else { return };
        let now = source.stamps_now();
        if now == *source.stamps() {
            self.tell_old_files();
        }
        if !self.renewal.is_due(source.stamps(), now, commanded) {
            return;
        }
        let running = self.desired.clone();
        let read = tokio::task::spawn_blocking(move || running.renewed(&Machine::here()));
        let planned = match read.await {
            Ok(Ok(mut read)) => {
                read.config.service.clone_from(&self.desired.config.service);
                reload::renewal(&self.desired, read, &plane.arguments).map_err(|refused| refused.to_string())
            }
            Ok(Err(problems)) => Err(problems.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match planned {
            Ok(reload) if reload.changes.is_empty() => self.tell_old_files(),
            Ok(reload) => {
                self.renewal.complaint = None;
                tracing::info!("renewed on disk, and taken: {}", reload.changes.join("; "));
                let problems = self.put_in_place(Some(plane), reload).await;
                problems.iter().for_each(|problem| tracing::warn!("renewed on disk: {problem}"));
            }
            Err(why) => {
                let line = format!("files were changed on disk that do not fit, so what was read before is used on: {why}");
                if self.renewal.complain(why) {
                    tracing::warn!("{line}");
                }
            }
        }
    }

    /// What is on disk is what was read before.
    fn tell_old_files(&mut self) {
        if self.renewal.is_over() {
            tracing::info!("changed on disk once more, and all fits: the files are again those that run");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn files_are_read_once_they_stand_still_and_not_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.crt");
        fs::write(&file, "1").unwrap();
        let files: Vec<PathBuf> = vec![file.clone(), dir.path().join("not-there")];
        let look = || Stamps::of(files.iter().map(PathBuf::as_path));
        let running = look();
        let mut renewal = Renewal::default();
        assert!(![0; 3].iter().any(|_| renewal.is_due(&running, look(), false)), "nothing has changed");
        fs::write(&file, "22").unwrap();
        assert!(!renewal.is_due(&running, look(), false), "it may still be written");
        assert!(renewal.is_due(&running, look(), false));
        assert!(!renewal.is_due(&running, look(), false), "it did not fit");
        // Another file in its place, of the same length.
        fs::write(dir.path().join("new"), "33").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        assert_eq!([0; 3].map(|_| renewal.is_due(&running, look(), false)), [false, true, false]);
        fs::write(&file, "4444").unwrap();
        assert!(renewal.is_due(&running, look(), true), "a person wants it now");
        assert!(!renewal.is_due(&running, look(), true), "it did not fit");
        fs::remove_file(&file).unwrap();
        assert_eq!([0; 3].map(|_| renewal.is_due(&running, look(), false)), [false, true, false]);
    }

    #[test]
    fn what_came_and_went_is_read_when_it_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.crt"), "1").unwrap();
        let stamps = |name: &str| Stamps::of([dir.path().join(name)].iter().map(PathBuf::as_path));
        let (running, mut renewal) = (stamps("a.crt"), Renewal::default());
        // A file system that is unmounted, and there again as it was.
        for _ in 0..2 {
            let gone = [0; 3].map(|_| renewal.is_due(&running, stamps("not-there"), false));
            assert_eq!(gone, [false, true, false]);
            assert!(!renewal.is_due(&running, running.clone(), false));
        }
    }

    #[test]
    fn that_files_do_not_fit_is_said_once_and_so_is_its_end() {
        let mut renewal = Renewal::default();
        assert!(!renewal.is_over(), "nobody complained");
        for _ in 0..2 {
            assert!(renewal.complain("no key".to_owned()) && !renewal.complain("no key".to_owned()));
            assert!(renewal.complain("no certificate".to_owned()), "another reason");
            assert!(renewal.is_over() && !renewal.is_over());
        }
    }
}
