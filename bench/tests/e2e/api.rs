//! The HTTP API of a gateway as programs use it: `curl` over the Unix socket, and over TCP with a token.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, Turn, binary, copy_program, wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{edit, reaches};

const TOKEN: &str = "3f786850e387550fdab836ed7e6dc881de23001b";
const PORT: u16 = 9465;

/// What came back: status, header fields and body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }

    /// An error unless this is the status and the body contains `word`.
    fn expect(&self, status: u16, word: &str) -> Result<()> {
        ensure!(self.status == status && self.body.contains(word), "expected {status} and `{word}`, got {self:?}");
        Ok(())
    }
}

/// Runs `curl` in the gateway's namespace.
fn curl(gateway: &Gateway, words: &[&str], url: &str) -> Result<Answer> {
    let output = gateway.netns.command("curl").args(["-sS", "-i", "--max-time", "60"]).args(words).arg(url).output()?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout)?;
    let (head, body) = output.split_once("\r\n\r\n").context("the answer has no end of its header")?;
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

/// Over TCP with the right token.
fn with_token(gateway: &Gateway, method: &str, path: &str) -> Result<Answer> {
    let field = format!("Authorization: Bearer {TOKEN}");
    curl(gateway, &["-X", method, "-H", &field], &format!("http://127.0.0.1:{PORT}{path}"))
}

/// Over the Unix socket.
fn local(lab: &Lab, path: &str) -> Result<Answer> {
    let socket = lab.dir().join("run-site-a/api.sock");
    curl(lab.a(), &["--unix-socket", &socket.to_string_lossy()], &format!("http://adit{path}"))
}

/// Two gateways of which the first one has an API over TCP.
fn lab(ike: &[&str]) -> Result<Lab> {
    let mut lab = Lab::prepare(&LabOptions {
        ike: ike.iter().map(|more| (*more).to_owned()).collect(),
        turn: Turn::Shared,
        ..LabOptions::patient()
    })?;
    let token = lab.dir().join("api.token");
    fs::write(&token, format!("{TOKEN}\n"))?;
    fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    edit(lab.a(), "peers:\n", &format!("api: {{ listen: 127.0.0.1:{PORT}, token_file: {} }}\npeers:\n", token.display()))?;
    let (built, own) = (binary("adit-dataplane")?, lab.dir().join("adit-dataplane"));
    copy_program(&built, &own)?;
    edit(lab.a(), &built.to_string_lossy(), &own.to_string_lossy())?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    // Packets pass before the size of the path is known, and health is 200 when that is.
    wait_until("it is healthy", SOON, || Ok(local(&lab, "/v1/health")?.status == 200)).with_context(|| lab.logs())?;
    Ok(lab)
}

fn connect_from(address: Ipv4Addr) -> Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)).into())?;
    Ok(socket.into())
}

fn config_check(gateway: &Gateway) -> Result<String> {
    gateway.netns.run(&format!("{} config check {}", binary("adit")?.display(), gateway.config.display()))
}

fn state(lab: &Lab) -> Result<String> {
    let peers = with_token(lab.a(), "GET", "/v1/peers")?.json()?;
    Ok(peers[0]["state"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn who_has_no_token_gets_nothing_over_tcp() -> Result<()> {
    let lab = lab(&[])?;
    for field in [
        "X: ",
        "Authorization: Bearer 3f786850e387550fdab836ed7e6dc881de23001c",
        "Authorization: Basic dXNlcjpwYXNz",
        "Authorization: Bearer ",
    ] {
        for (method, path) in
            [("GET", "/v1/status"), ("POST", "/v1/peers/site-b/disconnect"), ("GET", "/metrics"), ("GET", "/v1/nothing")]
        {
            let answer = curl(lab.a(), &["-X", method, "-H", field], &format!("http://127.0.0.1:{PORT}{path}"))?;
            answer.expect(401, "api.token_file")?;
            ensure!(answer.head.contains("www-authenticate: bearer") && !answer.body.contains("site-b"), "{answer:?}");
        }
    }
    ensure!(!lab.logs().contains(TOKEN), "the token is in the log");
    ensure!(!config_check(lab.a())?.contains(TOKEN), "the token is shown");
    Ok(())
}

/// What a page in a browser can do whose name leads to this machine: it has no way to another Host header.
#[test]
fn who_asks_for_another_name_gets_nothing_over_tcp() -> Result<()> {
    let lab = lab(&[])?;
    let token = format!("Authorization: Bearer {TOKEN}");
    let ask = |host: &str, url: &str| curl(lab.a(), &["-H", &format!("Host: {host}"), "-H", &token], url);
    let urls = [format!("http://127.0.0.1:{PORT}/v1/status"), "http://127.0.0.1:9464/metrics".to_owned()];
    for url in &urls {
        for host in ["evil.example", "evil.example:9464", "localhost.evil.example"] {
            let answer = ask(host, url)?;
            answer.expect(421, "http_names")?;
            ensure!(!answer.body.contains("site-b"), "{answer:?}");
        }
        for host in ["localhost", "127.0.0.1:9464", "[::1]", "192.0.2.1"] {
            ask(host, url)?.expect(200, "site-b")?;
        }
        ask("gw1.example.org", url)?.expect(421, "http_names")?;
    }
    edit(lab.a(), "peers:\n", "http_names: [gw1.example.org]\npeers:\n")?;
    lab.a().adit("reload")?;
    for url in &urls {
        ask("gw1.example.org", url)?.expect(200, "site-b")?;
        ask("evil.example", url)?.expect(421, "http_names")?;
    }
    Ok(())
}

#[test]
fn the_same_is_told_over_tcp_and_over_the_socket() -> Result<()> {
    let lab = lab(&[])?;
    wait_until("all is up", SOON, || Ok(local(&lab, "/v1/health")?.status == 200))?;
    for path in ["/v1/health", "/v1/live", "/v1/status", "/v1/peers", "/v1/peers/site-b", "/v1/openapi.json"] {
        let (near, far) = (local(&lab, path)?, with_token(lab.a(), "GET", path)?);
        ensure!(
            near.status == 200 && far.status == 200 && far.head.contains("content-type: application/json"),
            "{near:?} {far:?}"
        );
        let keys = |value: &Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
        ensure!(keys(&near.json()?) == keys(&far.json()?), "{near:?} {far:?}");
    }
    let metrics = with_token(lab.a(), "GET", "/metrics")?;
    ensure!(metrics.status == 200 && metrics.body.contains("adit_dataplane_up 1"), "{metrics:?}");
    Ok(())
}

#[test]
fn every_error_is_json_and_in_the_document() -> Result<()> {
    let lab = lab(&[])?;
    let document = local(&lab, "/v1/openapi.json")?;
    ensure!(document.status == 200 && document.head.contains("content-type: application/json"), "{document:?}");
    let document = document.json()?;
    ensure!(document["components"]["securitySchemes"]["token"]["scheme"] == "bearer", "{document:#}");
    let wrong = [
        (400, "POST", "/v1/reload?dry_run=perhaps", "/v1/reload"),
        (404, "GET", "/v1/peers/nobody", "/v1/peers/{peer}"),
        (404, "POST", "/v1/peers/nobody/connect", "/v1/peers/{peer}/connect"),
        (404, "GET", "/v1/nothing", ""),
        (405, "POST", "/v1/status", "/v1/status"),
    ];
    for (status, method, path, described) in wrong {
        let answer = with_token(lab.a(), method, path)?;
        answer.expect(status, "\"ok\":false")?;
        let error = answer.json()?["error"].as_str().unwrap_or_default().len();
        ensure!(error > 20 && answer.head.contains("content-type: application/json"), "{answer:?}");
        let item = &document["paths"][described];
        let documented =
            item.as_object().is_none_or(|item| item.values().any(|one| !one["responses"][status.to_string()].is_null()));
        ensure!(documented, "{status} of {described} is not in the document: {item:#}");
    }
    Ok(())
}

#[test]
fn health_says_what_is_missing_and_life_needs_no_token() -> Result<()> {
    let mut lab = lab(&[""])?;
    let health = || with_token(lab.a(), "GET", "/v1/health");
    wait_until("all is up", SOON, || Ok(health()?.status == 200)).with_context(|| format!("{:?}", health()))?;
    let reported = health()?.json()?;
    ensure!(
        reported["ok"] == true
            && reported["name"] == "site-a"
            && reported["version"].is_string()
            && reported["lacks"] == Value::Array(vec![]),
        "{reported}"
    );
    ensure!(lab.a().adit("status --check")?.starts_with("site-a: the peer is up"), "{}", lab.a().adit("status")?);
    // Without its peer it lives, and is not well; and says so everywhere.
    lab.gateways[1].stop()?;
    let health = || with_token(lab.a(), "GET", "/v1/health");
    wait_until("it is not healthy", SOON, || Ok(health()?.status == 503))?;
    ensure!(health()?.json()?["lacks"][0]["peer"] == "site-b", "{:?}", health()?);
    let live = curl(lab.a(), &[], &format!("http://127.0.0.1:{PORT}/v1/live"))?;
    ensure!(live.status == 200 && !live.body.contains("site"), "{live:?}");
    let check = lab.a().netns.command(binary("adit")?).args(["status", "--check", "-c"]).arg(&lab.a().config).output()?;
    ensure!(check.status.code() == Some(3), "{check:?}");
    let report = lab.a().adit("status")?;
    ensure!(report.starts_with("site-a: the peer is NOT UP"), "{report}");
    ensure!(lab.a().metrics()?.sum("adit_peer_up", &[]) == Some(0.0), "the metric says something else");
    Ok(())
}

#[test]
fn health_says_who_answers_and_whether_packets_are_carried() -> Result<()> {
    let lab = lab(&[])?;
    wait_until("it is healthy", SOON, || Ok(with_token(lab.a(), "GET", "/v1/health")?.status == 200))?;
    // Until a program is there again, there is no data plane.
    let program = lab.dir().join("adit-dataplane");
    fs::remove_file(&program)?;
    lab.a().kill_data_plane()?;
    wait_until("it is not healthy", SOON, || Ok(with_token(lab.a(), "GET", "/v1/health")?.status == 503))?;
    ensure!(with_token(lab.a(), "GET", "/v1/health")?.json()?["ok"] == false, "what the body says");
    copy_program(&binary("adit-dataplane")?, &program)?;
    wait_until("it is healthy again", SOON, || Ok(with_token(lab.a(), "GET", "/v1/health")?.status == 200))
}

#[test]
fn peers_are_listed_with_their_sas_and_counters() -> Result<()> {
    let lab = lab(&[""])?;
    reaches(&lab.a().netns, lab.b().inner())?;
    let count = || -> Result<u64> {
        let peers = with_token(lab.a(), "GET", "/v1/peers")?.json()?;
        let peer = &peers[0];
        ensure!(peer["name"] == "site-b" && peer["children"][0]["suite"].is_string(), "{peers:#}");
        Ok(peer["received"]["packets"].as_u64().unwrap_or(0))
    };
    wait_until("what was sent is counted", SOON, || Ok(count()? > 50))
}

#[test]
fn a_peer_is_disconnected_and_connected_by_posts() -> Result<()> {
    let lab = lab(&["role: initiator", "role: responder"])?;
    with_token(lab.a(), "POST", "/v1/peers/site-b/disconnect")?.expect(200, "true")?;
    wait_until("it is idle", SOON, || Ok(state(&lab)? == "idle"))?;
    with_token(lab.a(), "POST", "/v1/peers/site-b/connect")?.expect(200, "true")?;
    wait_until("it is up", SOON, || Ok(state(&lab)? == "established"))?;
    reaches(&lab.a().netns, lab.b().inner())
}

#[test]
fn keys_are_replaced_by_posts() -> Result<()> {
    let lab = lab(&["role: initiator", "role: responder"])?;
    let spis = || -> Result<(Value, Value)> {
        let peer = with_token(lab.a(), "GET", "/v1/peers")?.json()?[0].take();
        Ok((peer["ike"]["sas"][0]["initiator_spi"].clone(), peer["children"][0]["inbound_spi"].clone()))
    };
    let before = spis()?;
    with_token(lab.a(), "POST", "/v1/peers/site-b/rekey")?.expect(200, "true")?;
    wait_until("the child is another", SOON, || Ok(spis()?.1 != before.1))?;
    ensure!(spis()?.0 == before.0, "the IKE SA is another");
    with_token(lab.a(), "POST", "/v1/peers/site-b/rekey-ike")?.expect(200, "true")?;
    wait_until("the IKE SA is another", SOON, || Ok(spis()?.0 != before.0))
}

#[test]
fn what_failed_is_explained_with_both_offers() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions {
        ike: ["proposals: [aes128gcm16-prfsha256-x25519], role: initiator", "proposals: [aes256gcm16-prfsha384-ecp384]"]
            .map(str::to_owned)
            .into(),
        ..LabOptions::patient()
    })?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    wait_until("it is explained", SOON, || {
        Ok(local(&lab, "/v1/peers/site-b/explain").is_ok_and(|answer| answer.body.contains("NO_PROPOSAL_CHOSEN")))
    })
    .with_context(|| lab.logs())
}

#[test]
fn a_peer_that_is_not_there_is_not_found() -> Result<()> {
    let lab = lab(&[""])?;
    for command in ["connect", "disconnect", "rekey", "rekey-ike"] {
        with_token(lab.a(), "POST", &format!("/v1/peers/nobody/{command}"))?.expect(404, "site-b")?;
    }
    with_token(lab.a(), "GET", "/v1/peers/nobody/explain")?.expect(404, "site-b")?;
    with_token(lab.a(), "GET", "/v1/peers/%00%2f..%2f/explain")?.expect(404, "no peer")
}

#[test]
fn a_peer_with_a_static_key_has_nothing_to_negotiate() -> Result<()> {
    let lab = lab(&[])?;
    with_token(lab.a(), "POST", "/v1/peers/site-b/rekey")?.expect(409, "static")?;
    with_token(lab.a(), "GET", "/v1/peers/site-b/explain")?.expect(200, "established")
}

#[test]
fn other_methods_and_paths_are_refused() -> Result<()> {
    let lab = lab(&[])?;
    for (method, path, status) in [
        ("POST", "/v1/status", 405),
        ("DELETE", "/v1/peers", 405),
        ("GET", "/v1/peers/site-b/connect", 405),
        ("GET", "/v2/status", 404),
        ("GET", "/", 404),
    ] {
        let answer = with_token(lab.a(), method, path)?;
        ensure!(answer.status == status, "{method} {path}: {answer:?}");
    }
    Ok(())
}

#[test]
fn every_path_of_the_document_exists() -> Result<()> {
    let lab = lab(&[""])?;
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json"))?;
    let document: Value = serde_json::from_str(&document)?;
    let paths = document["paths"].as_object().context("paths")?;
    ensure!(paths.len() >= 8, "{} paths", paths.len());
    for (path, methods) in paths {
        for method in methods.as_object().context("methods")?.keys() {
            let path = path.replace("{peer}", "site-b");
            let answer = with_token(lab.a(), &method.to_uppercase(), &path)?;
            // A command may find that one before it is still being carried out.
            ensure!(answer.status == 200 || (method == "post" && answer.status == 409), "{method} {path}: {answer:?}");
            if path != "/metrics" {
                answer.json()?;
            }
        }
    }
    Ok(())
}

#[test]
fn clients_that_say_nothing_do_not_keep_others_out() -> Result<()> {
    let lab = lab(&[])?;
    // One address gets no more than its share, and keeps nothing for ever.
    let silent = |host: u8| (0..80).map(move |_| connect_from(Ipv4Addr::new(127, 0, 0, host))).collect::<Result<Vec<_>>>();
    let first = lab.a().netns.enter(|| silent(2))?;
    let began = Instant::now();
    ensure!(with_token(lab.a(), "GET", "/v1/health")?.status == 200, "no answer");
    ensure!(began.elapsed() < Duration::from_secs(3), "an answer after {:?}", began.elapsed());
    let second = lab.a().netns.enter(|| silent(3))?;
    ensure!(with_token(lab.a(), "GET", "/v1/health")?.status == 200, "no answer with all places taken");
    ensure!(local(&lab, "/v1/health")?.status == 200, "the socket answers always");
    drop((first, second));
    Ok(())
}

#[test]
fn what_is_not_http_is_refused_and_harms_nothing() -> Result<()> {
    let lab = lab(&[])?;
    let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 1 << 20]].concat();
    let garbage: [&[u8]; 4] = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", &long, &[0; 4096]];
    for bytes in garbage {
        let mut stream = lab.a().netns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)))?;
        stream.set_read_timeout(Some(SOON))?;
        // It may be refused before all is sent.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        ensure!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    with_token(lab.a(), "GET", "/v1/health")?.expect(200, "true")
}

#[test]
fn commands_from_many_at_once_are_all_answered() -> Result<()> {
    let lab = lab(&["role: initiator", "role: responder"])?;
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..16)
            .map(|n| {
                scope.spawn({
                    let lab = &lab;
                    move || with_token(lab.a(), "POST", ["/v1/peers/site-b/rekey", "/v1/peers/site-b/connect"][n % 2])
                })
            })
            .collect();
        for asker in askers {
            let answer = asker.join().expect("no panic")?;
            ensure!(matches!(answer.status, 200 | 409) && answer.json()?["ok"].is_boolean(), "{answer:?}");
        }
        anyhow::Ok(())
    })?;
    reaches(&lab.a().netns, lab.b().inner())
}

#[test]
fn a_token_that_others_can_read_is_refused() -> Result<()> {
    let lab = Lab::prepare(&LabOptions::patient())?;
    let token = lab.dir().join("api.token");
    fs::write(&token, TOKEN)?;
    fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    edit(lab.a(), "peers:\n", &format!("api: {{ listen: 127.0.0.1:{PORT}, token_file: {} }}\npeers:\n", token.display()))?;
    let error = format!("{:#}", config_check(lab.a()).expect_err("others can read it"));
    ensure!(error.contains("api.token") && error.contains("chmod 600"), "{error}");
    Ok(())
}

#[test]
fn the_api_address_is_in_use() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let token = lab.dir().join("api.token");
    fs::write(&token, TOKEN)?;
    fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    edit(lab.a(), "peers:\n", &format!("api: {{ listen: 127.0.0.1:9464, token_file: {} }}\npeers:\n", token.display()))?;
    lab.gateways[0].start_control()?;
    lab.a().wait_for_log("api.listen", SOON)?;
    Ok(())
}
