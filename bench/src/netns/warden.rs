//! The process that ends what a killed holder leaves in a namespace.
//!
//! The signal that a child gets at its parent's end reaches no grandchild, is dropped when credentials change, and can be ignored:
//! a guest kernel has helper processes, a control plane has a data plane. So every namespace has a small shell inside that reads
//! from a pipe whose other end only the holder has. The pipe ends with the holder, however that comes about.
//!
//! ```text
//! holder ──── pipe ────▶ sh, in the namespace, in a process group of its own
//!    ╳ killed ──── end of file ──▶ a second for those that end by themselves ──▶ SIGKILL to all inside until nobody is left
//! ```

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Made of what the shell has built in, but for `sleep`. Both links are read anew each time: a process may change its namespace.
const SCRIPT: &str = r#"trap '' HUP INT TERM
read -r _
sleep 1
round=0
while [ $round -lt 100 ]; do
    left=
    for process in /proc/[0-9]*; do
        id=${process#/proc/}
        if [ "$id" != $$ ] && [ "$process/ns/net" -ef /proc/self/ns/net ]; then left="$left $id"; fi
    done
    [ -n "$left" ] || exit 0
    kill -KILL $left
    sleep 0.1
    round=$((round + 1))
done"#;

/// Ends with this value, without touching anybody.
#[derive(Debug)]
pub(super) struct Warden(Child);

impl Warden {
    /// `enter` moves the calling process into the namespace, with plain system calls only.
    pub(super) fn start(enter: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> io::Result<Warden> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "adit-warden"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C goes to the group of the holder.
        command.process_group(0);
        // SAFETY: between fork and exec the closure makes system calls and allocates nothing, as its contract here says.
        unsafe { command.pre_exec(enter) };
        command.spawn().map(Warden)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // Before the pipe is closed. It may have been killed by somebody else; nothing is to be done then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
