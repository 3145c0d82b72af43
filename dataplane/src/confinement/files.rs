//! Landlock: no file can be opened, made, changed or removed, no TCP used and nobody outside signalled. What is left concerns the socket
//! for the control plane: to make it again when somebody has removed it, and to remove it at the end.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};

/// The newest version whose rights are asked for; an older kernel takes those that it knows.
const NEWEST: ABI = ABI::V6;

/// Restricts the calling thread and those that it makes. The error is for people.
pub fn restrict(socket: &Path) -> Result<(), String> {
    match try_restrict(socket).map_err(|error| error.to_string())? {
        RulesetStatus::NotEnforced => Err("the kernel has none, or it is switched off (lsm= on its command line)".to_owned()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

fn try_restrict(socket: &Path) -> Result<RulesetStatus, landlock::RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let own = socket.parent();
    // The directory above, too: its own one may be removed and made again.
    let places = [(own, AccessFs::RemoveFile | AccessFs::MakeSock), (own.and_then(Path::parent), AccessFs::MakeSock.into())];
    let opened = places.into_iter().filter_map(|(place, access)| Some((PathFd::new(place?).ok()?, access)));
    let rules =
        rules.add_rules(opened.map(|(place, access)| Ok::<_, landlock::RulesetError>(PathBeneath::new(place, access))))?;
    Ok(rules.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn nothing_but_the_socket_can_be_made_where_the_kernel_has_landlock() {
        let dir = std::env::temp_dir().join(format!("adit-landlock-{}", std::process::id()));
        let run = dir.join("run");
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join("file"), "").unwrap();
        let socket = run.join("sock");
        let confined = thread::spawn(move || {
            if let Err(why) = restrict(&socket) {
                assert!(why.contains("the kernel has none"), "{why}");
                return;
            }
            let denied = |result: std::io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
            denied(fs::read("/proc/self/status").map(drop));
            denied(fs::read(run.join("file")).map(drop));
            denied(fs::write(run.join("other"), ""));
            denied(fs::create_dir(run.join("dir")));
            denied(std::net::TcpListener::bind("127.0.0.1:0").map(drop));
            drop(UnixListener::bind(&socket).unwrap());
            fs::remove_file(&socket).unwrap();
        });
        let ended = confined.join();
        fs::remove_dir_all(&dir).unwrap();
        ended.unwrap();
    }
}
