//! What the planes say over the channel's socket once they know each other: that the data plane is to end, that here are devices which
//! were opened for it, and whether it has taken them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use adit_proto::codec::{DecodeError, Reader, Writer};
use adit_proto::control::Offloads;

use crate::fd::{receive_with_fds, send_with_fds};
use crate::limits::{ANSWER_LEN_MAX, MESSAGES_MAX};

/// Devices that the control plane has opened for a data plane that may open none any more, one for each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// A group of UDP sockets that is bound to this address.
    Sockets { listen: SocketAddr },
    /// The queues of the interface with this index in the kernel.
    Queues { offloads: Offloads, index: u32 },
}

/// Of all releases alike: a data plane of another one is asked to end as well.
const END: &[u8] = b"end";
const DEVICES: &[u8; 3] = b"dev";
const ANSWER: &[u8; 3] = b"ans";
const SOCKETS: u8 = 1;
const QUEUES: u8 = 2;
const TAKEN: u8 = 1;
const REFUSED: u8 = 2;

/// Room for the longest message.
const MESSAGE_LEN_MAX: usize = ANSWER_LEN_MAX + 12;

impl Devices {
    /// With the number by which they are answered.
    fn encode(&self, number: u32, out: &mut [u8]) -> usize {
        let mut writer = Writer::new(out);
        writer.bytes(DEVICES).u32(number);
        match self {
            Devices::Sockets { listen } => writer.u8(SOCKETS).addr(*listen),
            Devices::Queues { offloads: Offloads { tso, uso }, index } => {
                writer.u8(QUEUES).u8((*tso).into()).u8((*uso).into()).u32(*index)
            }
        };
        writer.finish().expect("MESSAGE_LEN_MAX holds every message")
    }

    fn decode(bytes: &[u8]) -> Result<(u32, Devices), DecodeError> {
        let mut reader = Reader::new(bytes);
        if &reader.array()? != DEVICES {
            return Err(DecodeError::BadValue("message"));
        }
        let number = reader.u32()?;
        let flag = |reader: &mut Reader<'_>| match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::BadValue("offload")),
        };
        let devices = match reader.u8()? {
            SOCKETS => Devices::Sockets { listen: reader.addr()? },
            QUEUES => {
                let offloads = Offloads { tso: flag(&mut reader)?, uso: flag(&mut reader)? };
                Devices::Queues { offloads, index: reader.u32()? }
            }
            _ => return Err(DecodeError::BadValue("devices")),
        };
        reader.finish()?;
        Ok((number, devices))
    }
}

/// What the data plane says of devices, by their number: why it has not taken them, for people.
type Answer = (u32, Result<(), String>);

fn encode_answer(number: u32, answer: Result<(), &str>, out: &mut [u8]) -> usize {
    let mut writer = Writer::new(out);
    writer.bytes(ANSWER).u32(number);
    match answer {
        Ok(()) => writer.u8(TAKEN),
        Err(why) => writer.u8(REFUSED).text(&why[..why.floor_char_boundary(ANSWER_LEN_MAX)]),
    };
    writer.finish().expect("MESSAGE_LEN_MAX holds every message")
}

fn decode_answer(bytes: &[u8]) -> Result<Answer, DecodeError> {
    let mut reader = Reader::new(bytes);
    if &reader.array()? != ANSWER {
        return Err(DecodeError::BadValue("message"));
    }
    let number = reader.u32()?;
    let answer = match reader.u8()? {
        TAKEN => Ok(()),
        REFUSED => Err(reader.text("reason")?.to_owned()),
        _ => return Err(DecodeError::BadValue("answer")),
    };
    reader.finish()?;
    Ok((number, answer))
}

/// What was heard over a connection since it was listened to last.
#[derive(Debug)]
pub(crate) enum Heard<T> {
    Nothing,
    Message(T),
    /// The other end is gone.
    Closed,
}

/// What a master says.
#[derive(Debug)]
pub(crate) enum FromMaster {
    /// The data plane is to end.
    End,
    /// These are for it, and answered by this number.
    Devices(u32, Devices, Vec<OwnedFd>),
}

/// The next message that `read` makes sense of; never waits. What is no message is thrown away, a bounded number of times.
fn hear<T>(socket: BorrowedFd, read: impl Fn(&[u8], Vec<OwnedFd>) -> Option<T>) -> Heard<T> {
    let mut bytes = [0u8; MESSAGE_LEN_MAX];
    for _ in 0..MESSAGES_MAX {
        match receive_with_fds(socket, &mut bytes, libc::MSG_DONTWAIT) {
            Ok((0, _)) => return Heard::Closed,
            Ok((len, fds)) => {
                if let Some(message) = read(&bytes[..len], fds) {
                    return Heard::Message(message);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => break,
            Err(_) => return Heard::Closed,
        }
    }
    Heard::Nothing
}

/// What a master has said.
pub(crate) fn hear_master(socket: BorrowedFd) -> Heard<FromMaster> {
    hear(socket, |bytes, fds| {
        if bytes == END {
            return Some(FromMaster::End);
        }
        Devices::decode(bytes).ok().map(|(number, devices)| FromMaster::Devices(number, devices, fds))
    })
}

/// What the data plane has answered.
pub(crate) fn hear_answer(socket: BorrowedFd) -> Heard<Answer> {
    hear(socket, |bytes, _| decode_answer(bytes).ok())
}

/// Whether the other end of a connection is gone; what it says is thrown away.
pub(crate) fn is_closed(socket: BorrowedFd) -> bool {
    matches!(hear(socket, |_, _| None::<()>), Heard::Closed)
}

/// Asks the data plane at the other end of a master's connection to end. It may not be ours to send signals to.
///
/// # Errors
/// It is gone, or hears nothing.
pub fn ask_to_end(socket: BorrowedFd) -> io::Result<()> {
    send_with_fds(socket, END, &[])
}

/// Sends devices to the data plane at the other end.
pub(crate) fn hand_over(socket: BorrowedFd, number: u32, devices: &Devices, fds: &[BorrowedFd]) -> io::Result<()> {
    let mut out = [0; MESSAGE_LEN_MAX];
    let len = devices.encode(number, &mut out);
    send_with_fds(socket, &out[..len], fds)
}

/// Tells the master at the other end what has become of the devices.
pub(crate) fn answer(socket: BorrowedFd, number: u32, answer: Result<(), &str>) -> io::Result<()> {
    let mut out = [0; MESSAGE_LEN_MAX];
    let len = encode_answer(number, answer, &mut out);
    send_with_fds(socket, &out[..len], &[])
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use socket2::{Domain, Socket, Type};

    use super::*;

    fn devices() -> impl Strategy<Value = Devices> {
        let sockets = any::<SocketAddr>().prop_map(|listen| Devices::Sockets { listen });
        let queues =
            any::<(bool, bool, u32)>().prop_map(|(tso, uso, index)| Devices::Queues { offloads: Offloads { tso, uso }, index });
        prop_oneof![sockets, queues]
    }

    proptest! {
        #[test]
        fn messages_come_back_and_any_bytes_are_survived(number: u32, devices in devices(), why in ".{0,300}", bytes: Vec<u8>) {
            let mut out = [0; MESSAGE_LEN_MAX];
            let len = devices.encode(number, &mut out);
            prop_assert_eq!(Devices::decode(&out[..len]), Ok((number, devices)));
            prop_assert!(Devices::decode(&out[..len - 1]).is_err());
            let len = encode_answer(number, Err(&why), &mut out);
            let (to, back) = decode_answer(&out[..len]).unwrap();
            let back = back.unwrap_err();
            prop_assert!(to == number && why.starts_with(&back) && (back == why || back.len() > ANSWER_LEN_MAX - 4));
            let len = encode_answer(number, Ok(()), &mut out);
            prop_assert_eq!(decode_answer(&out[..len]), Ok((number, Ok(()))));
            let _ = (Devices::decode(&bytes), decode_answer(&bytes));
        }
    }

    #[test]
    fn devices_arrive_with_their_descriptors_and_are_answered() {
        let (master, plane) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        assert!(matches!(hear_master(plane.as_fd()), Heard::Nothing));
        let (one, other) = std::io::pipe().unwrap();
        let sent = Devices::Sockets { listen: "[fe80::1%3]:4500".parse().unwrap() };
        send_with_fds(master.as_fd(), b"what no release says", &[one.as_fd()]).unwrap();
        hand_over(master.as_fd(), 7, &sent, &[one.as_fd(), other.as_fd()]).unwrap();
        let Heard::Message(FromMaster::Devices(number, devices, fds)) = hear_master(plane.as_fd()) else { panic!("no devices") };
        assert_eq!((number, devices, fds.len()), (7, sent, 2));
        answer(plane.as_fd(), number, Err("one of them is a pipe")).unwrap();
        let Heard::Message(said) = hear_answer(master.as_fd()) else { panic!("no answer") };
        assert_eq!(said, (7, Err("one of them is a pipe".to_owned())));
        ask_to_end(master.as_fd()).unwrap();
        assert!(matches!(hear_master(plane.as_fd()), Heard::Message(FromMaster::End)));
        drop(master);
        assert!(matches!(hear_master(plane.as_fd()), Heard::Closed) && is_closed(plane.as_fd()));
    }
}
