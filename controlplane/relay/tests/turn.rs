//! STUN and TURN with real sockets on 127.0.0.1, against the clients of coturn where they are installed.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use adit_engine::crypto::Secret;
use adit_engine::stun::codec::{BINDING, BindingAnswer, BindingRequest, Change, Class, Key, Message, Writer, kind};
use adit_engine::stun::server::{Places, Token, token_name};
use adit_engine::turn::{self, credentials};
use adit_relay::reach::{self, Reach, Settings, StartError, TurnSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECRET: &[u8] = b"what relay and TURN share";
const TOKEN: Token = [7; 16];
/// Longer than anything here may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A server on free ports, and who was told to be where.
struct Bench {
    reach: Reach,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
}

fn certificate() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let config = builder.expect("TLS 1.3").with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    Arc::new(config.expect("a certificate with its key"))
}

fn settings(open: bool, seen: &Arc<Mutex<Vec<SocketAddr>>>) -> Settings {
    let second = SocketAddr::from(([127, 0, 0, 2], 0));
    let mut config = turn::Config::new(Secret::copy_of(SECRET), vec![local(0).ip()]);
    // Everything is on loopback here, the peers too.
    config.allowed = turn::allowed::Allowed { networks: vec!["127.0.0.0/8".parse().expect("a network")], own: Vec::new() };
    let turn = TurnSettings { config, tcp: vec![local(0)], tls: vec![local(0)], certificate: Some(certificate()) };
    let seen = seen.clone();
    let knows = Arc::new(move |token: &Token, from: SocketAddr| {
        let is_known = *token == TOKEN;
        if is_known {
            seen.lock().expect("nobody panicked").push(from);
        }
        is_known
    });
    Settings {
        bind: [[Some(local(0)), Some(local(0))], [Some(second), Some(second)]],
        shown: None,
        open,
        knows,
        turn: Some(turn),
    }
}

async fn start(open: bool) -> Bench {
    let seen = Arc::default();
    let reach = reach::start(settings(open, &seen)).await.expect("a server");
    Bench { reach, seen }
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

/// A program of coturn, or a word that says why there is no test.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("{name} is not installed (deploy/install-deps.sh test brings it): nothing is tested here");
    }
    found
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// turnutils_peer, which sends back what it gets, once it does.
fn echo_peer(program: &Path) -> (Running, u16) {
    let port = UdpSocket::bind(local(0)).and_then(|socket| socket.local_addr()).expect("a free port").port();
    let mut command = Command::new(program);
    command.args(["-L", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().expect("it starts"));
    let probe = UdpSocket::bind(local(0)).expect("a socket");
    probe.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let began = Instant::now();
    loop {
        // Until it listens, the kernel answers for it.
        let _ = probe.send_to(b"there?", local(port));
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
    command.args(["-c", "-v", "-u", name, "-w", password, "-p", &port.to_string(), "-e", "127.0.0.1", "-r", &peer.to_string()]);
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
    assert_eq!((bench.count("send", "failed"), bench.count("turn", "forbidden")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_its_packets_through_by_udp() {
    let bench = start(false).await;
    let port = bench.reach.udp()[0].port();
    passes(&bench, port, &[]).await;
    // Its first question may be shorter than the challenge: then it is answered when it comes again.
    if tool("turnutils_uclient").is_some() {
        assert!(bench.count("turn", "challenged") > 0, "{:?}", bench.reach.counters());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_its_packets_through_in_indications() {
    let bench = start(false).await;
    passes(&bench, bench.reach.udp()[1].port(), &["-s"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_its_packets_through_by_tcp() {
    let bench = start(false).await;
    passes(&bench, bench.reach.tcp()[0].port(), &["-t"]).await;
    bench.until("allocations end with their connections", |bench| bench.reach.allocations() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_its_packets_through_by_tls() {
    let bench = start(false).await;
    passes(&bench, bench.reach.tls()[0].port(), &["-t", "-S"]).await;
    bench.until("allocations end with their connections", |bench| bench.reach.allocations() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_gets_nothing_with_a_wrong_password() {
    let Some(client) = tool("turnutils_uclient") else { return };
    let bench = start(false).await;
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
    let bench = start(true).await;
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
async fn a_client_with_a_token_is_answered_from_all_four_sockets() {
    let bench = start(false).await;
    let at = bench.reach.udp();
    let socket = UdpSocket::bind(local(0)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let (name, key, own) = (token_name(&TOKEN), Key::new(&TOKEN), socket.local_addr().expect("an address"));
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
    assert!(bench.seen.lock().expect("nobody panicked").iter().all(|seen| *seen == own));
    assert!(bench.count("stun", "extras") >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_a_short_question_is_answered_at_the_second_try() {
    let bench = start(false).await;
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
async fn a_stream_that_is_no_turn_is_closed_and_others_live() {
    let bench = start(false).await;
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

async fn fails(change: impl FnOnce(&mut Settings)) -> StartError {
    let mut settings = settings(false, &Arc::default());
    change(&mut settings);
    reach::start(settings).await.err().expect("a fault")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why() {
    let bench = start(false).await;
    let taken = bench.reach.udp()[0];
    let error = fails(|settings| settings.bind[0][0] = Some(taken)).await;
    assert!(matches!(error, StartError::Bind { at, .. } if at == taken), "{error}");
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    assert!(matches!(fails(|settings| settings.bind[1][0] = Some(any)).await, StartError::Unspecified(_)));
    assert!(matches!(fails(|settings| settings.bind = Places::default()).await, StartError::NoFirst));
    let no_certificate = |settings: &mut Settings| settings.turn.as_mut().expect("TURN").certificate = None;
    assert!(matches!(fails(no_certificate).await, StartError::NoCertificate(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_dropped_gives_its_ports_back() {
    let bench = start(false).await;
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
