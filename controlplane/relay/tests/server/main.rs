//! A relay as it runs, met with real TLS and WebSockets on 127.0.0.1: by clients that do it right, and by all that comes along in
//! public.

mod client;
#[path = "../coturn/mod.rs"]
mod coturn;
mod door;
mod hostile;
mod login;
mod pages;
mod reach;
mod relay;
mod reload;
mod sessions;
