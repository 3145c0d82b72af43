//! Whether STUN and TURN of a relay work from here: asks where this machine is seen, has an address lent, and gives it back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit_engine::stun::codec::{BindingRequest, Class, Integrity, Key, Message, Transaction, Writer, kind};
use adit_engine::turn::{credentials::long_term_key, method};
use adit_proto::relay::Transport;
use adit_relay::client::TurnGrant;
use anyhow::Context;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::report::Report;

/// How often a question is asked, and how long each time an answer is waited for.
const TIMES: usize = 4;
const WAIT: Duration = Duration::from_millis(700);
/// What a question is filled up to, so that its answer is not the longer one.
const QUESTION_LEN: usize = 160;
/// Longest answer that is read.
const ANSWER_LEN: usize = 1500;
/// UDP, as TURN has it asked for (RFC 8656 §18.7).
const UDP: [u8; 4] = [17, 0, 0, 0];

/// Tries what a relay has told of itself.
pub(super) async fn try_reach(stun: &[SocketAddr], grant: Option<&TurnGrant>, report: &mut Report) {
    if stun.is_empty() && grant.is_none() {
        report.note("it serves neither STUN nor TURN (keys `stun` and `turn`)");
    }
    for server in stun {
        match seen(*server).await {
            Ok(Some(mapped)) => report.well(format_args!("STUN at {server} sees this machine as {mapped}")),
            Ok(None) => {
                report
                    .wrong(format_args!("no answer of STUN at {server}: is UDP port {} let through on the way?", server.port()));
            }
            // A machine without IPv6 is no fault of the relay.
            Err(error) => report.note(format_args!("STUN at {server} was not tried: {error:#}")),
        }
    }
    let Some(grant) = grant else { return };
    let at = grant.servers.iter().map(|(transport, at)| format!("{transport} {at}")).collect::<Vec<_>>().join(", ");
    report.note(format_args!("TURN at {at}, with credentials for {} s", grant.life.as_secs()));
    for (_, server) in grant.servers.iter().filter(|(transport, _)| *transport == Transport::UDP) {
        match lent(*server, grant).await {
            Ok(Ok(relayed)) => report.well(format_args!("TURN at {server} lends {relayed}")),
            Ok(Err(why)) => report.wrong(format_args!("TURN at {server} lends nothing: {why}")),
            Err(error) => report.note(format_args!("TURN at {server} was not tried: {error:#}")),
        }
    }
}

async fn socket(server: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.context("opening a UDP socket")?;
    socket.connect(server).await.with_context(|| format!("there is no way to {server}"))?;
    Ok(socket)
}

fn id() -> anyhow::Result<Transaction> {
    let mut id = Transaction::default();
    aws_lc_rs::rand::fill(&mut id).ok().context("the random number generator failed")?;
    Ok(id)
}

/// The answer to a question, which is asked some times.
async fn ask(socket: &UdpSocket, question: &[u8], id: Transaction) -> Option<Vec<u8>> {
    let mut buffer = vec![0; ANSWER_LEN];
    for _ in 0..TIMES {
        // Refused by ICMP, it is asked again as well: the next one may find somebody.
        let _ = socket.send(question).await;
        let answer = timeout(WAIT, async {
            loop {
                match socket.recv(&mut buffer).await {
                    Ok(len) if Message::parse(&buffer[..len]).is_ok_and(|message| message.transaction == id) => return len,
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(WAIT / 10).await,
                }
            }
        });
        if let Ok(len) = answer.await {
            buffer.truncate(len);
            return Some(buffer);
        }
    }
    None
}

/// Where a server sees this machine.
async fn seen(server: SocketAddr) -> anyhow::Result<Option<SocketAddr>> {
    let (socket, id) = (socket(server).await?, id()?);
    let question = BindingRequest { transaction: id, len: QUESTION_LEN, ..BindingRequest::default() }.encode();
    let answer = ask(&socket, &question, id).await;
    Ok(answer.and_then(|answer| Message::parse(&answer).ok()?.address(kind::XOR_MAPPED_ADDRESS)))
}

fn question(method: u16, id: Transaction, (grant, nonce, key): (&TurnGrant, &str, &Key), attribute: (u16, [u8; 4])) -> Vec<u8> {
    let mut out = Writer::new(Class::Request, method, id);
    out.put(attribute.0, &attribute.1);
    out.put(kind::USERNAME, grant.name.as_bytes()).put(kind::REALM, grant.realm.as_bytes()).put(kind::NONCE, nonce.as_bytes());
    out.fill_up_to(QUESTION_LEN).seal(Integrity::Sha256, key);
    out.finish()
}

/// The address that a server lends, or why it lends none. It is given back at once.
async fn lent(server: SocketAddr, grant: &TurnGrant) -> anyhow::Result<Result<SocketAddr, String>> {
    let socket = socket(server).await?;
    let key = long_term_key(&grant.name, &grant.realm, grant.password.expose());
    // The realm is known, and any nonce does at first: whoever has credentials gets the right one, whatever strangers do.
    let mut nonce = "AAAAAAAAAAAAAAAA".to_owned();
    for _ in 0..2 {
        let id = id()?;
        let question = question(method::ALLOCATE, id, (grant, &nonce, &key), (kind::REQUESTED_TRANSPORT, UDP));
        let Some(answer) = ask(&socket, &question, id).await else {
            return Ok(Err(format!("no answer; is UDP port {} let through on the way?", server.port())));
        };
        let Ok(message) = Message::parse(&answer) else { continue };
        match (message.class, message.address(kind::XOR_RELAYED_ADDRESS)) {
            (Class::Success, Some(relayed)) => {
                let id = self::id()?;
                let end = self::question(method::REFRESH, id, (grant, &nonce, &key), (kind::LIFETIME, [0; 4]));
                // If it is lost, the address ends by itself in ten minutes.
                let _ = ask(&socket, &end, id).await;
                return Ok(Ok(relayed));
            }
            _ if message.error() == 438 => nonce = message.text(kind::NONCE).unwrap_or_default().to_owned(),
            _ => return Ok(Err(format!("it answers with error {}", message.error()))),
        }
    }
    Ok(Err("it takes none of its own nonces".to_owned()))
}
