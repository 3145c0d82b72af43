//! Every number that a worker counts: one list, from which come the enum, the index in shared memory and the metric.

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $label:literal $help:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $(#[doc = $help] $variant,)* }

        impl $name {
            /// All of them, in the order of their index.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = $name::ALL.len();

            /// The name in metrics.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }

            /// One sentence for people.
            pub const fn help(self) -> &'static str {
                match self { $($name::$variant => $help,)* }
            }
        }
    };
}

numbers! {
    /// What went through.
    Count {
        TapReads "tap_reads" "Reads from the TAP or TUN, each a frame or a super-frame.",
        TapReadBytes "tap_read_bytes" "Bytes read from the TAP, without the virtio-net header.",
        TapWrites "tap_writes" "Writes that the TAP took, each a frame or a super-frame.",
        TapWrittenFrames "tap_written_frames" "Frames in the writes that the TAP took, counted before coalescing.",
        TapWrittenBytes "tap_written_bytes" "Bytes that the TAP took, without the virtio-net header.",
        SplitSegments "split_segments" "Segments cut out of super-frames from the TAP.",
        RecutSegments "recut_segments" "TCP segments that were too long for the path and were cut into shorter ones.",
        Fragmented "fragmented_packets" "IPv4 packets that were too long for the path, allowed it, and were fragmented inside the tunnel.",
        Halved "halved_frames" "Frames too long for the path, which could not be cut and went as two sealed packets (oversize: split).",
        Joined "joined_frames" "Frames that came as two sealed packets and were put together (oversize: split).",
        MssClamped "mss_clamped" "SYNs of either direction whose MSS was more than the path to the peer takes, and was brought down (IP mode).",
        TooBigAnswers "too_big_answers" "ICMP messages that told a sender how much the path to a peer takes.",
        ChecksumsFilled "checksums_filled" "Checksums that the kernel left open and the data plane filled in.",
        ChecksumsDeferred "checksums_deferred" "Checksums that the kernel left open and that were sent on open, marked so.",
        Sealed "sealed_packets" "ESP packets sealed.",
        SealedBytes "sealed_bytes" "Bytes of frames sealed.",
        Opened "opened_packets" "ESP packets opened and accepted.",
        OpenedBytes "opened_bytes" "Bytes of frames opened.",
        CeMarks "ce_marks" "Packets that got a mark of ECN which a queue of the underlay had put onto the outer header, or its ECT(1) (RFC 6040).",
        DummyPackets "dummy_packets" "ESP packets with next header 59, discarded as RFC 4303 section 2.6 says.",
        EchoesSent "echoes_sent" "Sealed echo requests sent for the control plane.",
        EchoesAnswered "echoes_answered" "Sealed echo requests of peers that were answered.",
        EchoReplies "echo_replies" "Answers to sealed echo requests.",
        UdpSends "udp_sends" "Trains and single datagrams given to the kernel, whether in one call or, once refused, in parts.",
        UdpSentDatagrams "udp_sent_datagrams" "Datagrams sent.",
        UdpSentBytes "udp_sent_bytes" "UDP payload bytes sent.",
        UdpReceives "udp_receives" "Receive calls that returned a datagram or a train.",
        UdpReceivedDatagrams "udp_received_datagrams" "Datagrams received.",
        UdpReceivedBytes "udp_received_bytes" "UDP payload bytes received.",
        TrainsUp "trains_up" "Trains of stream paths given to the control plane, which sends them.",
        TrainsUpPackets "trains_up_packets" "ESP packets in them.",
        TrainsUpBytes "trains_up_bytes" "Bytes of these ESP packets.",
        TrainsDown "trains_down" "Trains of stream paths that came from the control plane.",
        TrainsDownPackets "trains_down_packets" "ESP packets in them.",
        TrainsDownBytes "trains_down_bytes" "Bytes of these ESP packets.",
        Keepalives "keepalives" "NAT keepalives received and dropped (RFC 3948 section 4).",
        Punted "punted_datagrams" "Datagrams handed up to the control plane.",
        Injected "injected_datagrams" "Datagrams sent for the control plane.",
        HandedOver "handed_over" "Frames and datagrams given to the worker that owns them.",
        TakenOver "taken_over" "Frames and datagrams taken from another worker.",
        FloodedFrames "flooded_frames" "Frames sent to all peers: broadcast, multicast, unknown unicast.",
        Relayed "relayed_frames" "Frames of one peer given on to another, or once to all others (forwarding.forward).",
        FdbLearned "fdb_learned" "Addresses learned.",
        FdbMoved "fdb_moved" "Addresses that moved to another peer.",
        FdbAged "fdb_aged" "Addresses forgotten because nothing came from them.",
        FdbFull "fdb_full" "Times an address was not learned because the table, or the half of it that one of several peers may fill, was full; frames for it go to all peers.",
        PathChanges "path_changes" "Times a peer was found to send from elsewhere, or to another address of ours, by an authentic packet.",
        Resyncs "resyncs" "Inbound SAs that followed a peer's jump in sequence numbers.",
        CommandsApplied "commands_applied" "Commands of the control plane applied.",
        Turns "turns" "Turns of the worker's loop.",
        Sleeps "sleeps" "Turns in which the worker waited in the kernel.",
        BusyNs "worker_busy_ns" "Nanoseconds in which the worker did not wait in the kernel, looking for packets included.",
    }
}

numbers! {
    /// Why a packet was dropped. Every drop has one of these names.
    Drop {
        BadTag "bad_tag" "The integrity check failed.",
        Replay "replay" "The sequence number was seen before.",
        ReplayOld "replay_old" "The sequence number is left of the replay window.",
        UnknownSpi "unknown_spi" "No SA has this SPI: the other end has another key, name or number of lanes, or keys of before.",
        TooShort "too_short" "The datagram is too short for what it claims to be.",
        TooLong "too_long" "The datagram or frame is longer than the buffers.",
        BadPadding "bad_padding" "The ESP padding is not 1, 2, 3 and so on (RFC 4303 section 2.4).",
        BadNextHeader "bad_next_header" "The opened packet carries neither what this gateway's mode carries (EtherIP, or IP) nor a dummy.",
        BadEtherIp "bad_etherip" "The EtherIP header is not version 3 or has unknown bits set (RFC 3378).",
        BadFrame "bad_frame" "The inner frame is shorter than an Ethernet header.",
        BadPacket "bad_packet" "The IP packet contradicts its next header or its own lengths.",
        BadOffload "bad_offload" "The virtio-net header of a frame does not fit the frame.",
        HalfBad "half_bad" "Half a frame that is malformed, contradicts the other half, or is of more than the interface takes (oversize: split).",
        HalfExpired "half_expired" "Half a frame whose other half did not come in time (oversize: split).",
        HalfLost "half_lost" "Half a frame that was given up because more of them waited, or came in one turn, than there is room for (oversize: split).",
        CeNotEct "ce_not_ect" "A queue of the underlay marked the packet (ECN), and its sender does not understand marks (RFC 6040 section 4.2).",
        NoPolicy "no_policy" "No selector of a peer matches the packet.",
        NoChildSa "no_child_sa" "The packet belongs to a peer, and none of its Child SAs that are there carries it: not agreed, narrowed by the peer, or not made yet.",
        PolicyMismatch "policy_mismatch" "The opened packet is of an address that the peer does not have, or outside the selectors of the Child SA by which it came (RFC 4301 section 5.2).",
        NoPeer "no_peer" "The frame has no peer to go to.",
        NoPath "no_path" "The peer has no path in use yet.",
        NoSa "no_sa" "The peer has no outbound SA yet.",
        SeqExhausted "seq_exhausted" "The outbound SA has used up its sequence numbers.",
        PathMtu "path_mtu" "The frame is too long for the path to the peer, and cannot be cut nor answered: it is no IP, for a group, an ICMP error or a later fragment; or underlay_mtu says more than the path takes.",
        TooBig "too_big" "The packet is too long for the path to the peer and may not be cut; its sender was told by ICMP what fits.",
        TooBigUnreported "too_big_unreported" "As too_big, but more of them than a worker answers in a second.",
        FloodLimit "flood_limit" "More frames for several peers than the limit allows.",
        SameSide "same_side" "The frame is for a station on the side that it came from (forwarding.forward).",
        MacDisputed "mac_disputed" "A frame for all whose source address comes from several sides by turns, as it does in a loop, or is that of a group (forwarding.forward).",
        Circling "circling" "The same frame for all came again and again within a second, as it does when it circles in a loop (forwarding.forward).",
        MacElsewhere "mac_elsewhere" "The source address is pinned to another peer (forwarding.forward).",
        HandoverFull "handover_full" "No buffer was free to give the frame or datagram to the worker that owns it.",
        BadIke "bad_ike" "Behind the marker of IKE stands no message, one of another length than it says, or one too short for the protection that it claims.",
        NoMarker "no_marker" "IKE from port 500 to another port without the marker that belongs there (RFC 7296 section 2.23): the peer has to begin at its port 4500, with strongSwan by local_port = 4500 beside remote_port.",
        PuntKnownLimit "punt_known_limit" "More messages of IKE SAs that there are than are let through.",
        IkeV1 "ike_v1" "IKE of version 1: the peer has to be set to IKEv2.",
        PuntAddressLimit "punt_address_limit" "More messages of IKE from a known address, or from all of them, than are let through.",
        PuntNetworkLimit "punt_network_limit" "More messages of IKE strangers in one network (/24, or /48 of IPv6) than its share.",
        PuntLimit "punt_limit" "More messages of IKE strangers than are let through.",
        PuntStunLimit "punt_stun_limit" "More STUN messages than a worker hands up.",
        PuntFull "punt_full" "The ring to the control plane, or the queue of port 500 in it, was full.",
        PuntNoMaster "punt_no_master" "A datagram for the control plane came while none was attached.",
        Unclassified "unclassified" "The datagram is neither ESP, IKE, STUN nor keepalive.",
        TapFull "tap_full" "The TAP did not take the frame.",
        TapRefused "tap_refused" "The kernel refused the frame as malformed.",
        TapDown "tap_down" "The TAP is down.",
        UdpFull "udp_full" "The socket's send buffer was full.",
        UdpRefused "udp_refused" "The kernel refused to send (no route, unreachable, and so on).",
        StreamFull "stream_full" "The ring to the control plane, which sends what goes by a stream path, was full.",
        StreamNoMaster "stream_no_master" "The peer is reached by a stream path, which the control plane carries, and none is attached.",
        UdpOverflow "udp_overflow" "Datagrams, or whole trains, that the kernel dropped because the socket's receive buffer was full.",
        EchoLimit "echo_limit" "More sealed echoes of one peer than are looked at.",
        EchoUnsent "echo_unsent" "A sealed echo that the kernel did not send, for instance because it is longer than the device takes.",
        InjectBad "inject_bad" "A datagram of the control plane could not be sent as asked.",
        TrainBad "train_bad" "A train of the control plane makes no sense, or has more packets than a train can have.",
    }
}

numbers! {
    /// How things are now.
    Gauge {
        IoUring "io_uring" "1 when the worker runs on io_uring, 0 when on poll and plain system calls.",
        CryptoBackend "crypto_backend" "The library that the worker seals and opens with; the value is always 1.",
        UdpSegmentMax "udp_segment_max" "Segments per train that the kernel takes; 1 when UDP_SEGMENT is off.",
        UdpGro "udp_gro" "1 when UDP_GRO is on.",
        TapUso "tap_uso" "1 when the TAP takes UDP super-frames.",
        TapTso "tap_tso" "1 when the TAP takes TCP super-frames.",
        TapIndex "tap_index" "The TAP or TUN of the worker by its index in the kernel, none while it is deleted; the value is always 1.",
        FdbEntries "fdb_entries" "Addresses in the forwarding table of this worker.",
        InboundSas "inbound_sas" "Inbound SAs installed.",
        OutboundSas "outbound_sas" "Outbound SAs installed.",
        Peers "peers" "Peers set.",
        Selectors "selectors" "Selectors in the policy table of this worker.",
        Core "core" "The CPU that the worker is pinned to while it has much to do, none without; the value is always 1.",
        SocketReceiveBuffer "socket_receive_buffer_bytes" "UDP receive buffer that the kernel granted, counted as dataplane.socket_buffer asks for it.",
        PoolBytes "pool_bytes" "Memory of the worker's frame pool.",
        HalvesBytes "halves_bytes" "Memory in which halves of frames of peers wait, which is made with the peer (oversize: split).",
    }
}

/// The libraries that seal and open, by their names: in shared memory [`Gauge::CryptoBackend`] is a place in this list, counted from 1.
pub const BACKENDS: [&str; 3] = ["aws-lc", "rustcrypto", "ipsec-mb"];

impl Gauge {
    /// What a value of this gauge means where it is no number to reckon with: the name of a label, and the value that it has there.
    /// `None` of a number; `Some` without a text where the value says that there is nothing.
    pub fn label_of(self, value: i64) -> Option<(&'static str, Option<String>)> {
        let place = usize::try_from(value);
        match self {
            Gauge::CryptoBackend => {
                let name = place.ok().and_then(|place| BACKENDS.get(place.checked_sub(1)?)).map(|name| (*name).to_owned());
                Some(("backend", name))
            }
            Gauge::Core => Some(("core", place.ok().map(|core| core.to_string()))),
            Gauge::TapIndex => Some(("index", place.ok().filter(|index| *index > 0).map(|index| index.to_string()))),
            _ => None,
        }
    }
}

numbers! {
    /// Latency histograms of a worker, in nanoseconds.
    Latency {
        Outbound "outbound" "From the read of a batch at the TAP until its last datagram was given to the kernel.",
        Inbound "inbound" "From the receipt of a batch at the socket until its last frame was written to the TAP (poll) or queued for the call that ends the turn (io_uring).",
    }
}
