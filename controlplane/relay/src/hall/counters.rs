//! What the hall counts, in total.

use super::NotLetIn;
use crate::queue::Dropped;
use adit_proto::relay::{LeftReason, Quota};

macro_rules! counters {
    ($(#[doc = $help:literal] $field:ident,)*) => {
        /// Counts since the relay began.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl Counters {
            /// Every counter: its name, one sentence for people, and its value.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($field), $help.trim_ascii(), self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Clients that were let in.
    let_in,
    /// Clients that were not let in: the relay or one of the rooms is full.
    turned_away_full,
    /// Clients that were not let in: too many connections of their key.
    turned_away_replaced,
    /// Clients that were not let in: the relay is about to stop.
    turned_away_draining,
    /// Probes that were not let in: the client with their key is there.
    turned_away_in_use,
    /// Clients whose connection has ended.
    left_gone,
    /// Clients of whom nothing was heard for too long.
    left_idle,
    /// Clients whose place a newer connection with their key has taken.
    left_replaced,
    /// Clients that did not read what the relay said.
    left_slow,
    /// Clients that sent what is no record.
    left_fault,
    /// Clients that left because the relay stops.
    left_drained,
    /// Clients that may not be in one of their rooms any more.
    left_revoked,
    /// Clients that made room in a full room for one that it lists, or for one of a network that has fewer there.
    left_displaced,
    /// Records that clients sent, of any kind.
    records,
    /// Records of a type that is not known here: a newer client's.
    records_unknown,
    /// Records that could not be read.
    records_malformed,
    /// Trains that were taken to be passed on.
    trains,
    /// Bytes of these.
    train_bytes,
    /// Trains that were given to the connection of their receiver.
    trains_delivered,
    /// Trains of data that waited longer than they may.
    dropped_data_late,
    /// Trains of data that made room for newer ones.
    dropped_data_full,
    /// Messages of IKE that waited longer than they may.
    dropped_ike_late,
    /// Messages of IKE that made room for newer ones.
    dropped_ike_full,
    /// Trains that were dropped since too much waited for all clients together.
    dropped_memory,
    /// Trains that waited for a client when it left.
    dropped_left,
    /// Trains and requests to somebody who is in no common room.
    absent,
    /// Introductions: both peers were told.
    introductions,
    /// Requests for an introduction that both peers have just had.
    introductions_repeated,
    /// Peers that said that their data goes by another path now.
    went_direct,
    /// Peers that said that their data has come back to the relay.
    came_back,
    /// Clients that changed what others know of them.
    descriptions,
    /// Descriptions that were told to a room later, since it had too many at once.
    descriptions_deferred,
    /// Addresses for UDP that were learned.
    udp_learned,
    /// Records that were refused: too many of them.
    refused_records,
    /// Trains that were refused: too many bytes of one client.
    refused_bytes,
    /// Trains that were refused: too many bytes of IKE of one client.
    refused_ike,
    /// Trains that were refused: too many bytes of one room.
    refused_room,
    /// Trains that were refused: too many bytes of all clients.
    refused_total,
    /// Requests that concern others and were refused: too many of them.
    refused_requests,
    /// Descriptions that were refused: too many of them.
    refused_descriptions,
}

impl Counters {
    pub(super) fn count_dropped(&mut self, dropped: Dropped) {
        self.dropped_data_late += dropped.data_late;
        self.dropped_data_full += dropped.data_full;
        self.dropped_ike_late += dropped.ike_late;
        self.dropped_ike_full += dropped.ike_full;
    }

    pub(super) fn count_not_let_in(&mut self, why: NotLetIn) {
        match why {
            NotLetIn::Full => self.turned_away_full += 1,
            NotLetIn::Replaced => self.turned_away_replaced += 1,
            NotLetIn::Draining => self.turned_away_draining += 1,
            NotLetIn::InUse => self.turned_away_in_use += 1,
        }
    }

    pub(super) fn count_left(&mut self, reason: LeftReason) {
        match reason {
            LeftReason::IDLE => self.left_idle += 1,
            LeftReason::REPLACED => self.left_replaced += 1,
            LeftReason::SLOW => self.left_slow += 1,
            LeftReason::FAULT => self.left_fault += 1,
            LeftReason::DRAINED => self.left_drained += 1,
            LeftReason::REVOKED => self.left_revoked += 1,
            LeftReason::DISPLACED => self.left_displaced += 1,
            LeftReason(_) => self.left_gone += 1,
        }
    }

    pub(super) fn count_refused(&mut self, what: Quota) {
        match what {
            Quota::BYTES => self.refused_bytes += 1,
            Quota::IKE => self.refused_ike += 1,
            Quota::ROOM => self.refused_room += 1,
            Quota::TOTAL => self.refused_total += 1,
            Quota::REQUESTS => self.refused_requests += 1,
            Quota::DESCRIPTIONS => self.refused_descriptions += 1,
            Quota(_) => self.refused_records += 1,
        }
    }
}
