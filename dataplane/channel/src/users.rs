//! The users and the group that the two planes run as, where the machine has them. One that cannot say so, e.g. since its directory service
//! is away, counts as one that has none.

use nix::unistd::{Gid, Group, Uid, User};

/// The user of the control plane, and the group of both.
pub const CONTROL_PLANE: &str = "adit";
/// The user of the data plane.
pub const DATA_PLANE: &str = "adit-dataplane";

/// The id of the data plane's user, where the machine has one.
pub fn data_plane() -> Option<u32> {
    User::from_name(DATA_PLANE).ok().flatten().map(|user| user.uid.as_raw())
}

/// The id of the control plane's user, where the machine has one.
pub fn control_plane() -> Option<u32> {
    User::from_name(CONTROL_PLANE).ok().flatten().map(|user| user.uid.as_raw())
}

/// The name of a user for people, or the number of one without.
pub fn name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// The name of a group for people, or the number of one without.
pub fn group_name(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

/// The id of the group that both planes are in, where the machine has it.
pub fn group() -> Option<u32> {
    Group::from_name(CONTROL_PLANE).ok().flatten().map(|group| group.gid.as_raw())
}

/// Whether the files that this process makes belong to this group.
pub(crate) fn acts_as(group: u32) -> bool {
    Gid::effective().as_raw() == group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_name_is_told_by_it_and_who_has_none_by_the_number() {
        assert_eq!((name(0).as_str(), group_name(0).as_str()), ("root", "root"));
        assert_eq!((name(3_999_999_999), group_name(3_999_999_999)), ("3999999999".to_owned(), "3999999999".to_owned()));
        assert!(acts_as(Gid::effective().as_raw()) && !acts_as(3_999_999_999));
    }
}
