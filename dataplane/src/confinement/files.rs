//! Landlock: no file can be opened, made, changed or removed, no TCP used and nobody outside signalled. What is left concerns the socket
//! for the control plane: to make it again when somebody has removed it, and to remove it at the end.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest version whose rights are asked for; an older kernel takes those that it knows.
const NEWEST: ABI = ABI::V6;

/// The directories where something is left to be done.
pub struct Places {
    open: Vec<(PathFd, BitFlags<AccessFs>)>,
    /// Those that cannot be opened, with the reasons.
    pub closed: Vec<String>,
}

impl Places {
    /// Those of this socket: its directory; and the one above, since its own may be removed and made again.
    pub fn open(socket: &Path) -> Places {
        let mut places = Places { open: Vec::new(), closed: Vec::new() };
        let rights = [AccessFs::RemoveFile | AccessFs::MakeSock, AccessFs::MakeSock.into()];
        for (place, rights) in socket.ancestors().skip(1).filter(|place| !place.as_os_str().is_empty()).zip(rights) {
            match PathFd::new(place) {
                Ok(opened) => places.open.push((opened, rights)),
                Err(error) => places.closed.push(error.to_string()),
            }
        }
        places
    }
}

/// Restricts the calling thread and those that it makes, as far as the kernel can.
pub fn restrict(places: Places) -> Result<RulesetStatus, RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let places = places.open.into_iter().map(|(place, rights)| Ok::<_, RulesetError>(PathBeneath::new(place, rights)));
    Ok(rules.add_rules(places)?.restrict_self()?.ruleset)
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
            let places = Places::open(&socket);
            assert_eq!((places.open.len(), &places.closed), (2, &Vec::new()));
            let status = restrict(places).unwrap();
            if status == RulesetStatus::NotEnforced {
                return;
            }
            let denied = |result: std::io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
            denied(fs::read("/proc/self/status").map(drop));
            denied(fs::read(run.join("file")).map(drop));
            denied(fs::write(run.join("other"), ""));
            denied(fs::create_dir(run.join("dir")));
            if status == RulesetStatus::FullyEnforced {
                denied(std::net::TcpListener::bind("127.0.0.1:0").map(drop));
            }
            drop(UnixListener::bind(&socket).unwrap());
            fs::remove_file(&socket).unwrap();
        });
        let ended = confined.join();
        fs::remove_dir_all(&dir).unwrap();
        ended.unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_opened_is_told() {
        let places = Places::open(Path::new("/nowhere/at/all/sock"));
        assert_eq!((places.open.len(), places.closed.len()), (0, 2));
        assert!(places.closed[0].contains("/nowhere/at/all"), "{:?}", places.closed);
        assert!(Places::open(Path::new("sock")).closed.is_empty());
    }
}
