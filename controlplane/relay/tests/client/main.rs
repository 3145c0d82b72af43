//! The client of relays against relays as they run, with real TLS and WebSockets on 127.0.0.1: what works, how it comes back, and what it
//! says of all that stands in its way.

mod explained;
mod proxies;
mod registered;
mod site;
