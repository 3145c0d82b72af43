//! STUN and TURN with real sockets on 127.0.0.1, against the clients of coturn where they are installed.

mod coturn;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use adit_engine::crypto::Secret;
use adit_engine::stun::codec::{BINDING, BindingAnswer, BindingRequest, Change, Class, Key, Message, Writer, kind};
use adit_engine::stun::server::{Name, Places};
use adit_engine::turn::{self, credentials};
use adit_relay::reach::{self, Clients, Reach, Settings, Site, StartError, TurnSettings};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use coturn::{Running, tool};

const SECRET: &[u8] = b"what relay and TURN share";
const NAME: Name = [7; 8];
const KEY: [u8; 16] = [9; 16];
/// Longer than anything here may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the peers are: what the server itself has is closed to its clients.
const PEER: &str = "127.0.0.3";

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The one client that there is, and where it was said to be.
#[derive(Default)]
struct Known(Mutex<Vec<SocketAddr>>);

impl Clients for Known {
    fn key(&self, name: &Name) -> Option<Key> {
        (*name == NAME).then(|| Key::new(&KEY))
    }

    fn is_at(&self, name: &Name, at: SocketAddr) {
        assert_eq!(*name, NAME);
        self.0.lock().expect("nobody panicked").push(at);
    }
}

/// A server on free ports.
struct Bench {
    reach: Reach,
    known: Arc<Known>,
}

fn certificate() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let config = builder.expect("TLS 1.3").with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    Arc::new(config.expect("a certificate with its key"))
}

fn settings(open: bool, known: &Arc<Known>) -> Settings {
    let second = SocketAddr::from(([127, 0, 0, 2], 0));
    let mut config = turn::Config::new(Secret::copy_of(SECRET), vec![local(0).ip().into()]);
    // Everything is on loopback here, the peers too.
    config.allowed = turn::allowed::Allowed { networks: vec!["127.0.0.0/8".parse().expect("a network")], ..Default::default() };
    let turn = TurnSettings {
        config,
        tcp: vec![local(0)],
        tls: vec![local(0)],
        certificate: Some(certificate()),
        idle: Duration::from_secs(30),
    };
    let bind = [[Some(local(0)), Some(local(0))], [Some(second), Some(second)]];
    Settings { sites: vec![Site { bind, shown: [None; 2] }], open, clients: known.clone(), turn: Some(turn) }
}

fn start(open: bool) -> Bench {
    let known = Arc::default();
    let reach = reach::start(settings(open, &known)).expect("a server");
    Bench { reach, known }
}

impl Bench {
    fn count(&self, who: &str, what: &str) -> u64 {
        let counters = self.reach.counters();
        counters.iter().find(|one| (one.0, one.1) == (who, what)).unwrap_or_else(|| panic!("no {who} {what}")).2
    }

    async fn until(&self, what: &str, holds: impl Fn(&Bench) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "not in time: {what}; {:?}", self.reach.counters());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// turnutils_peer, which sends back what it gets, once it does.
fn echo_peer(program: &Path) -> (Running, u16) {
    let port = UdpSocket::bind((PEER, 0)).and_then(|socket| socket.local_addr()).expect("a free port").port();
    let mut command = Command::new(program);
    command.args(["-L", PEER, "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().expect("it starts"));
    let probe = UdpSocket::bind((PEER, 0)).expect("a socket");
    probe.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let began = Instant::now();
    loop {
        // Until it listens, the kernel answers for it.
        let _ = probe.send_to(b"there?", (PEER, port));
        if probe.recv(&mut [0; 100]).is_ok() {
            return (running, port);
        }
        assert!(began.elapsed() < PATIENCE, "turnutils_peer does not answer");
    }
}

fn credentials() -> (String, String) {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let name = credentials::name("gateway-7", unix + 3600);
    let password = credentials::password(&Secret::copy_of(SECRET), &name).to_string();
    (name, password)
}

/// Runs turnutils_uclient and gives what it says.
async fn uclient(program: &Path, port: u16, peer: u16, password: &str, name: &str, more: &[&str]) -> String {
    let mut command = tokio::process::Command::new(program);
    command.args(["-c", "-v", "-u", name, "-w", password, "-p", &port.to_string(), "-e", PEER, "-r", &peer.to_string()]);
    command.args(["-n", "40", "-l", "400"]).args(more).arg("127.0.0.1").kill_on_drop(true).stdin(Stdio::null());
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends in time").expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The number after a word, the last time that it is said.
fn said(text: &str, word: &str) -> u64 {
    let after = text.rsplit(word).next().unwrap_or_default();
    after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

/// The client of coturn sends forty messages to a peer that sends them back.
async fn passes(bench: &Bench, port: u16, more: &[&str]) {
    let (Some(client), Some(peer)) = (tool("turnutils_uclient"), tool("turnutils_peer")) else { return };
    let (_running, peer) = echo_peer(&peer);
    let (name, password) = credentials();
    let before = (bench.count("turn", "to_peers"), bench.count("turn", "to_clients"));
    let text = uclient(&client, port, peer, &password, &name, more).await;
    let received = said(&text, "tot_recv_msgs=");
    // A busy machine may make it give up on the last ones.
    assert!(received > 20, "{received} of 40 came back\n{text}\n{:?}", bench.reach.counters());
    let after = (bench.count("turn", "to_peers") - before.0, bench.count("turn", "to_clients") - before.1);
    assert!(after.0 >= 40 && after.1 >= received, "{after:?}");
    assert_eq!((bench.count("udp", "failed"), bench.count("turn", "forbidden")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_its_packets_through_by_udp() {
    let bench = start(false);
    let port = bench.reach.udp()[0].port();
    passes(&bench, port, &[]).await;
    // Its first question may be shorter than the challenge: then it is answered when it comes again.
    if tool("turnutils_uclient").is_some() {
        assert!(bench.count("turn", "challenged") > 0, "{:?}", bench.reach.counters());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_its_packets_through_in_indications() {
    let bench = start(false);
    passes(&bench, bench.reach.udp()[1].port(), &["-s"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_its_packets_through_by_tcp() {
    let bench = start(false);
    passes(&bench, bench.reach.tcp()[0].port(), &["-t"]).await;
    bench.until("allocations end with their connections", |bench| bench.reach.allocations() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_its_packets_through_by_tls() {
    let bench = start(false);
    passes(&bench, bench.reach.tls()[0].port(), &["-t", "-S"]).await;
    bench.until("allocations end with their connections", |bench| bench.reach.allocations() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_nothing_with_a_wrong_password() {
    let Some(client) = tool("turnutils_uclient") else { return };
    let bench = start(false);
    let (name, _) = credentials();
    let port = bench.reach.udp()[0].port();
    // It tries again and again.
    let trying = async { uclient(&client, port, 9, "wrong", &name, &[]).await };
    let refused = bench.until("it is refused with its credentials", |bench| bench.count("turn", "challenged") >= 2);
    tokio::select! {
        text = trying => assert!(bench.count("turn", "challenged") >= 2, "{text}"),
        () = refused => {}
    }
    assert_eq!((bench.count("turn", "made"), bench.reach.allocations()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_stun_client_learns_its_address_on_an_open_server() {
    let Some(client) = tool("turnutils_stunclient") else { return };
    let bench = start(true);
    let mut command = tokio::process::Command::new(client);
    command.args(["-p", &bench.reach.udp()[0].port().to_string(), "127.0.0.1"]).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends in time").expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("127.0.0.1:"), "{text}");
    assert!(bench.count("stun", "extras") > 0, "{:?}", bench.reach.counters());
}

/// Asks until there is an answer, or so many times.
fn ask(socket: &UdpSocket, to: SocketAddr, request: &[u8], times: usize) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2000];
    for _ in 0..times {
        socket.send_to(request, to).expect("it is sent");
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            return Some((buffer[..len].to_vec(), from));
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_key_is_answered_from_all_four_sockets() {
    let bench = start(false);
    let at = bench.reach.udp();
    let socket = UdpSocket::bind(local(0)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let (name, key, own) = (URL_SAFE_NO_PAD.encode(NAME), Key::new(&KEY), socket.local_addr().expect("an address"));
    for (index, (address, port)) in [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate() {
        let change = Change { address, port };
        let request = BindingRequest {
            transaction: *b"twelve bytes",
            change,
            len: 200,
            sealed: Some((&name, &key)),
            ..BindingRequest::default()
        };
        let asked = request.encode();
        let (bytes, from) = tokio::task::block_in_place(|| ask(&socket, at[0], &asked, 60)).expect("an answer");
        assert_eq!(from, at[index]);
        let message = Message::parse(&bytes).expect("a message");
        let answer = BindingAnswer::of(&message).expect("an answer");
        assert_eq!((answer.mapped, answer.origin, answer.other), (Some(own), Some(at[index]), Some(at[3])));
        assert!(message.sealed_by(&key).is_some() && bytes.len() <= asked.len());
    }
    assert!(bench.count("stun", "extras") >= 4 && bench.known.0.lock().expect("nobody panicked").is_empty());
    // Whoever wants to be found shows the nonce that he was given.
    let mut nonce = String::new();
    while bench.known.0.lock().expect("nobody panicked").is_empty() {
        let request =
            BindingRequest { register: Some(&nonce), len: 200, sealed: Some((&name, &key)), ..BindingRequest::default() };
        let asked = request.encode();
        let (bytes, _) = tokio::task::block_in_place(|| ask(&socket, at[0], &asked, 60)).expect("an answer");
        nonce = Message::parse(&bytes).expect("a message").text(kind::REGISTER).expect("a nonce").to_owned();
    }
    assert!(bench.known.0.lock().expect("nobody panicked").iter().all(|seen| *seen == own));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_a_short_question_is_answered_at_the_second_try() {
    let bench = start(false);
    let socket = UdpSocket::bind(local(0)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let short = Writer::new(Class::Request, BINDING, *b"twelve bytes").finish();
    let answer = tokio::task::block_in_place(|| ask(&socket, bench.reach.udp()[0], &short, 60)).expect("an answer");
    assert_eq!((short.len(), answer.0.len()), (20, 32));
    assert!(bench.count("stun", "longer") >= 1);
    // Whatever else comes is counted, and the socket lives.
    for garbage in [&b""[..], b"x", &[0xff; 1200], &[0; 28]] {
        socket.send_to(garbage, bench.reach.udp()[0]).expect("it is sent");
    }
    bench.until("garbage is counted", |bench| bench.count("turn", "malformed") >= 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_an_allocation_ends_whatever_it_sends() {
    let mut settings = settings(false, &Arc::default());
    settings.turn.as_mut().expect("TURN").idle = Duration::from_secs(1);
    let bench = Bench { reach: reach::start(settings).expect("a server"), known: Arc::default() };
    let mut stream = tokio::net::TcpStream::connect(bench.reach.tcp()[0]).await.expect("a connection");
    let request = Writer::new(Class::Request, BINDING, *b"twelve bytes").finish();
    let asks = async {
        // A reset while something is sent is an end as well.
        while stream.write_all(&request).await.is_ok() && matches!(stream.read(&mut [0; 100]).await, Ok(1..)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asks).await.expect("it is closed although it asks again and again");
    assert_eq!(bench.count("stream", "idle"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_message_of_a_stranger_is_not_waited_for() {
    let bench = start(false);
    let mut stream = tokio::net::TcpStream::connect(bench.reach.tcp()[0]).await.expect("a connection");
    // The head of a message of sixty thousand bytes.
    let head = [&[0, 3, 0xf0, 0x00, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12]].concat();
    stream.write_all(&head).await.expect("it is sent");
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 10])).await.expect("it is closed");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(bench.count("stream", "not_turn"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_no_turn_is_closed_and_others_live() {
    let bench = start(false);
    let connect = || tokio::net::TcpStream::connect(bench.reach.tcp()[0]);
    let (mut good, mut bad) = (connect().await.expect("a connection"), connect().await.expect("a connection"));
    bad.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("it is sent");
    // A reset is an end as well.
    let ended = tokio::time::timeout(PATIENCE, bad.read(&mut [0; 10])).await.expect("it is closed");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    // A message that comes in two pieces is one message.
    let request = Writer::new(Class::Request, BINDING, *b"twelve bytes").finish();
    good.write_all(&request[..7]).await.expect("it is sent");
    good.flush().await.expect("it is sent");
    tokio::time::sleep(Duration::from_millis(50)).await;
    good.write_all(&request[7..]).await.expect("it is sent");
    let mut answer = [0; 40];
    tokio::time::timeout(PATIENCE, good.read_exact(&mut answer)).await.expect("it comes").expect("an answer");
    let mapped = Message::parse(&answer).expect("a message").address(kind::XOR_MAPPED_ADDRESS);
    assert_eq!(mapped, good.local_addr().ok());
    assert_eq!((bench.count("stream", "not_turn"), bench.count("stream", "accepted")), (1, 2));
}

fn fails(change: impl FnOnce(&mut Settings)) -> StartError {
    let mut settings = settings(false, &Arc::default());
    change(&mut settings);
    reach::start(settings).err().expect("a fault")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why() {
    let bench = start(false);
    let taken = bench.reach.udp()[0];
    let error = fails(|settings| settings.sites[0].bind[0][0] = Some(taken));
    assert!(matches!(error, StartError::Bind { at, .. } if at == taken), "{error}");
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    assert!(matches!(fails(|settings| settings.sites[0].bind[1][0] = Some(any)), StartError::Unspecified(_)));
    assert!(matches!(fails(|settings| settings.sites[0].bind = Places::default()), StartError::NoFirst));
    let no_certificate = |settings: &mut Settings| settings.turn.as_mut().expect("TURN").certificate = None;
    assert!(matches!(fails(no_certificate), StartError::NoCertificate(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_dropped_gives_its_ports_back() {
    let bench = start(false);
    let (udp, tcp) = (bench.reach.udp()[0], bench.reach.tcp()[0]);
    let held = tokio::net::TcpStream::connect(tcp).await.expect("a connection");
    bench.until("the connection is there", |bench| bench.count("stream", "accepted") == 1).await;
    drop(bench);
    let (began, mut tries) = (Instant::now(), 0_u32);
    while UdpSocket::bind(udp).is_err() {
        tries += 1;
        assert!(began.elapsed() < PATIENCE, "{tries} times {udp} was taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut held = held;
    let ended = tokio::time::timeout(PATIENCE, held.read(&mut [0; 10])).await.expect("it is closed");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}
