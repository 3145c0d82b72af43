//! The unpacked peers: where they are, and how a program runs with one of them as its root directory.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;

/// What a program of a root directory finds the lab's folder under.
pub const LAB_INSIDE: &str = "/lab";

/// Makes the first argument the root directory, with the second as /lab, and runs the rest there. Call it in a mount namespace of its
/// own: the mounts then end with the program. The remount may be refused in a user namespace, and only guards the cache.
const ENTER: &str = r#"root=$1 lab=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root" 2>/dev/null || :
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs run "$root/run"
mount -t tmpfs tmp "$root/tmp"
mount --bind "$lab" "$root/lab"
exec chroot "$root" "$@""#;

/// A version of strongSwan that the lab can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 5.9.8 of Debian 12: what is in the field. No RFC 9370, no ML-KEM.
    Swan5,
    /// 6.1 or later of Debian's testing suite: RFC 9242, RFC 9370, and ML-KEM from OpenSSL.
    Swan6,
}

impl Release {
    pub const ALL: [Release; 2] = [Release::Swan5, Release::Swan6];

    fn folder(self) -> &'static str {
        match self {
            Release::Swan5 => "strongswan-5.9",
            Release::Swan6 => "strongswan-6",
        }
    }

    /// The unpacked root directory. An error says how to get it.
    pub fn root(self) -> Result<PathBuf> {
        peer(self.folder())
    }

    /// Version of the Debian package, such as `5.9.8-5+deb12u5`.
    pub fn version(self) -> Result<String> {
        package_version(&self.root()?, "charon-systemd")
    }

    /// A command that runs `program` in the namespace with this root directory; the folder `lab` is there as [`LAB_INSIDE`].
    pub fn command(self, netns: &Netns, lab: &Path, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = netns.command("unshare");
        command.args(["--mount", "sh", "-ec", ENTER, "sh"]).arg(self.root()?).arg(lab).arg(program);
        Ok(command)
    }
}

/// The kernel that runs as a program, and the folder of its modules (as `/lib/modules`).
pub fn kernel() -> Result<(PathBuf, PathBuf)> {
    let folder = peer("uml")?;
    Ok((folder.join("usr/bin/linux.uml"), folder.join("usr/lib/uml/modules")))
}

/// The parts of a machine: its root directory, with `vmlinuz` and `modules` in it.
pub fn machine() -> Result<PathBuf> {
    peer("machine")
}

/// Version of the Debian package of the kernel that runs as a program.
pub fn kernel_version() -> Result<String> {
    package_version(&peer("uml")?, "user-mode-linux")
}

/// The folder of a peer in $ADIT_INTEROP_PEERS, else in the user's cache: as deploy/interop-peers.sh does it.
fn peer(name: &str) -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).map(|cache| cache.join("adit/interop"));
    let peers = set("ADIT_INTEROP_PEERS").or_else(cache).context("neither ADIT_INTEROP_PEERS nor HOME is set")?;
    let folder = peers.join(name);
    ensure!(
        folder.join("packages").is_file(),
        "the peer {} is missing: run `deploy/interop-peers.sh` (make test and make interop do), or set ADIT_INTEROP_PEERS",
        folder.display()
    );
    folder.canonicalize().with_context(|| folder.display().to_string())
}

fn package_version(folder: &Path, package: &str) -> Result<String> {
    let file = folder.join("packages");
    let packages = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let version = packages.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix(' '));
    Ok(version.with_context(|| format!("{} does not name {package}", file.display()))?.to_owned())
}
