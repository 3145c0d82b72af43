//! A program that uses Adit as a library, without TAP and without a daemon, against strongSwan: it answers pings that come through
//! the tunnel, and pings itself.
//!
//! ```text
//!   10.1.0.1 in the program ── ipsec::Client or Server, UDP 4500 on host a ══ cable ══ host b: strongSwan (user-space ESP) ── 10.2.0.1
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::config::{LocalAuth, RemoteAuth};
use adit_bench::lab::interop::pki::KeyKind;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof, Site, Sites, pair};
use adit_bench::lab::interop::{Config, StrongSwan};
use adit_bench::lab::wait_until;
use adit_bench::rtt::Prober;
use adit_ipsec::{Client, Error, Options, Peer, PeerBuilder, Retransmission, Server, Session};
use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::SOON;

const PORT: u16 = 4500;
const ECHO_REQUEST: u8 = 8;

/// What the program is told to do, each with where the answer goes.
enum Command {
    Rekey(mpsc::Sender<Result<(), Error>>),
    RekeyIke(mpsc::Sender<Result<(), Error>>),
    Ping(mpsc::Sender<Result<(), Error>>),
    Connected(mpsc::Sender<Result<(), Error>>),
}

/// The program, seen from the test.
struct Program {
    commands: UnboundedSender<Command>,
}

impl Program {
    fn command(&self, what: &str, command: impl FnOnce(mpsc::Sender<Result<(), Error>>) -> Command) -> Result<()> {
        let (reply, answer) = mpsc::channel();
        self.commands.send(command(reply)).ok().context("the program has ended")?;
        Ok(answer.recv_timeout(SOON).with_context(|| format!("no answer to {what}"))??)
    }
}

/// Runs the program on host a while `test` runs; strongSwan begins where the program is the server.
fn with_program(
    release: Release,
    proof: Proof,
    client: bool,
    change: impl FnOnce(&mut Config),
    test: impl FnOnce(&Sites, &mut StrongSwan, &Program) -> Result<()>,
) -> Result<()> {
    let sites = Sites::new()?;
    let (a, mut b) = pair(proof)?;
    // From 500 to 4500 a message of 5.9 has no marker, and the program has no port 500.
    b.connections[0].extra.extend([format!("local_port = {PORT}"), format!("remote_port = {PORT}")]);
    change(&mut b);
    let peer = peer(&a)?.build()?;
    let mut swan = StrongSwan::start(&sites.b, release, &b)?;
    let (commands, inbox) = unbounded_channel();
    let (ready, started) = mpsc::channel();
    thread::scope(|scope| {
        let netns = &sites.a;
        let program = scope.spawn(move || {
            netns.enter(move || -> Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    if client { as_client(peer, ready, inbox).await } else { as_server(peer, ready, inbox).await }
                })
            })
        });
        let program_of_test = Program { commands };
        let tested = (|| {
            started.recv_timeout(SOON).context("the program has not come up")?;
            if !client {
                swan.initiate(CONNECTION, CHILD)?;
            }
            program_of_test.command("the connection", Command::Connected)?;
            test(&sites, &mut swan, &program_of_test)
        })();
        drop(program_of_test);
        let ended = program.join().expect("the program");
        tested.with_context(|| format!("the program: {ended:?}; strongSwan: {}", swan.log()))?;
        ended?;
        swan.wait_until_idle(SOON)
    })
}

/// The program's end of what strongSwan in its place would be told.
fn peer(mirror: &Config) -> Result<PeerBuilder> {
    let connection = &mirror.connections[0];
    let mut peer = Peer::builder()
        .local_id(&connection.local.id)
        .remote_id(&connection.remote.id)
        .local_traffic([Site::A.network().as_str()])
        .remote_traffic([Site::B.network().as_str()])
        .dpd(std::time::Duration::from_secs(1));
    if matches!(connection.local.auth, LocalAuth::Psk) {
        peer = peer.psk(std::str::from_utf8(&connection.secret)?);
    }
    if let LocalAuth::RawKey(key) = &connection.local.auth {
        peer = peer.key(&key.private_pem());
    }
    if let LocalAuth::Certificate(own) = &connection.local.auth {
        let chain: String = [&own.certificate].into_iter().chain(&own.chain).map(|one| one.pem()).collect();
        peer = peer.certificate(&own.key.private_pem(), &chain);
    }
    match &connection.remote.auth {
        RemoteAuth::Psk => {}
        RemoteAuth::RawKeys(keys) => peer = keys.iter().fold(peer, |peer, key| peer.remote_key(key)),
        RemoteAuth::Authorities(all) => peer = peer.authorities(&all.iter().map(|one| one.pem()).collect::<String>()),
    }
    Ok(peer)
}

/// Notices a dead peer within seconds.
fn options() -> Options {
    let retransmission = Retransmission { tries: 3, ..Retransmission::default() };
    Options { retransmission, ..Options::default() }
}

async fn as_client(peer: Peer, ready: mpsc::Sender<()>, inbox: UnboundedReceiver<Command>) -> Result<()> {
    ready.send(())?;
    let client = Client::connect_with(SocketAddr::from((Site::B.outer(), PORT)), peer, options()).await?;
    serve(&client, inbox).await?;
    client.shutdown().await;
    Ok(())
}

async fn as_server(peer: Peer, ready: mpsc::Sender<()>, inbox: UnboundedReceiver<Command>) -> Result<()> {
    let server = Server::bind_with(SocketAddr::from((Site::A.outer(), PORT)), [peer], options()).await?;
    ready.send(())?;
    let session = tokio::time::timeout(SOON, server.accept()).await??;
    serve(&Box::new(session), inbox).await?;
    server.shutdown().await;
    Ok(())
}

/// Answers pings and obeys commands, one after the other, until there are no more. What a command waits for keeps no ping waiting.
async fn serve(session: &impl Deref<Target = Session>, mut inbox: UnboundedReceiver<Command>) -> Result<()> {
    let session: &Session = session;
    let mut pinging: Option<mpsc::Sender<Result<(), Error>>> = None;
    let mut under_way: Option<Pin<Box<dyn Future<Output = ()> + '_>>> = None;
    loop {
        tokio::select! {
            packet = session.recv_packet() => {
                let mut packet = packet?;
                ensure!(packet.len() >= 28 && packet[9] == 1, "no ping: {packet:x?}");
                if packet[20] == ECHO_REQUEST {
                    answer(&mut packet);
                    // Not now: then the other end pings again.
                    let _ = session.send_packet(&packet).await;
                } else if let Some(reply) = pinging.take() {
                    let _ = reply.send(Ok(()));
                }
            }
            () = async { under_way.as_mut().expect("asked below").await }, if under_way.is_some() => under_way = None,
            command = inbox.recv(), if under_way.is_none() => match command {
                None => return Ok(()),
                Some(Command::Rekey(reply)) => {
                    under_way = Some(Box::pin(async move { drop(reply.send(session.rekey().await)) }));
                }
                Some(Command::RekeyIke(reply)) => {
                    under_way = Some(Box::pin(async move { drop(reply.send(session.rekey_ike().await)) }));
                }
                Some(Command::Connected(reply)) => {
                    under_way = Some(Box::pin(async move { drop(reply.send(session.connected().await)) }));
                }
                Some(Command::Ping(reply)) => match session.send_packet(&ping()).await {
                    Ok(()) => pinging = Some(reply),
                    error => drop(reply.send(error)),
                },
            },
        }
    }
}

/// Makes a request the answer to it; the checksum follows the change of the type from 8 to 0 (RFC 1624).
fn answer(packet: &mut [u8]) {
    packet[12..20].rotate_left(4);
    packet[20] = 0;
    let sum = u32::from(u16::from_be_bytes([packet[22], packet[23]])) + (u32::from(ECHO_REQUEST) << 8);
    packet[22..24].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
}

/// A ping from the program's address to one behind strongSwan.
fn ping() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0];
    packet.extend(Site::A.inner().octets());
    packet.extend(Site::B.inner().octets());
    let sum: u32 = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    packet[10..12].copy_from_slice(&(!((sum + (sum >> 16)) as u16)).to_be_bytes());
    packet.extend([ECHO_REQUEST, 0, 0xf7, 0xfe, 0, 0, 0, 1]);
    packet
}

/// Pings from host b while `work` goes on, and for four seconds at least; none may be lost. Late ones are waited for, as `ping` would not.
fn under_pings(sites: &Sites, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (from, to): (Ipv4Addr, Ipv4Addr) = (Site::B.inner(), Site::A.inner());
    let prober = sites.b.enter(|| Prober::start_from(Some(from.into()), to.into(), Duration::from_millis(10)))?;
    work()?;
    wait_until("so many pings were sent", SOON, || Ok(prober.so_far().0 >= 400))?;
    let pings = prober.stop(SOON)?;
    ensure!(pings.lost == 0, "{} of {} lost, {:?} long", pings.lost, pings.sent, pings.longest_outage);
    Ok(())
}

/// Packets both ways, and new keys of both kinds from both ends while pings go through.
fn check(sites: &Sites, swan: &mut StrongSwan, program: &Program) -> Result<()> {
    Site::B.reach(|line| sites.b.run(line))?;
    program.command("a ping", Command::Ping)?;
    under_pings(sites, || {
        for _ in 0..2 {
            program.command("a rekey", Command::Rekey)?;
            swan.rekey_child(CONNECTION, CHILD)?;
            program.command("a rekey of the IKE SA", Command::RekeyIke)?;
            swan.rekey_ike(CONNECTION)?;
        }
        Ok(())
    })?;
    program.command("a ping", Command::Ping)
}

#[test]
fn a_program_without_privileges_talks_to_strongswan_whoever_begins() -> Result<()> {
    for client in [true, false] {
        with_program(Swan5, Proof::Psk, client, |_| {}, check)?;
    }
    Ok(())
}

#[test]
fn certificates_and_pinned_keys_prove_a_program() -> Result<()> {
    with_program(Swan5, Proof::Certificates(KeyKind::EcdsaP256), true, |_| {}, check)?;
    with_program(Swan5, Proof::RawKeys(KeyKind::Ed25519), false, |_| {}, check)
}

#[test]
fn a_program_has_ml_kem_with_a_strongswan_that_has_it() -> Result<()> {
    for client in [true, false] {
        let ml_kem = |swan: &mut Config| swan.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ke1_mlkem768".into()];
        with_program(Swan6, Proof::Psk, client, ml_kem, |sites, swan, program| {
            let additional = swan.established(CONNECTION)?.algorithms.additional;
            ensure!(!additional.is_empty(), "not post-quantum");
            check(sites, swan, program)
        })?;
    }
    Ok(())
}

#[test]
fn a_program_is_connected_again_to_a_strongswan_that_crashed() -> Result<()> {
    with_program(
        Swan5,
        Proof::Psk,
        true,
        |_| {},
        |sites, swan, program| {
            Site::B.reach(|line| sites.b.run(line))?;
            swan.kill()?;
            swan.start_again()?;
            swan.wait_for("the program", SOON, |sas| sas.iter().any(|sa| sa.is_established()).then_some(()))?;
            program.command("the connection", Command::Connected)?;
            check(sites, swan, program)
        },
    )
}
