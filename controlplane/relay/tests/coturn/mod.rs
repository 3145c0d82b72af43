//! The programs of coturn, which tests of TURN run against our server.

use std::path::PathBuf;
use std::process::Child;

/// A program of coturn, or a word that says why there is no test.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("{name} is not installed (deploy/install-deps.sh test brings it): nothing is tested here");
    }
    found
}

/// A process that ends with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
