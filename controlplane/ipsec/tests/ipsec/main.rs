//! The library: clients and servers over loopback, without a daemon or privileges.

mod examples;
mod faults;
mod hardship;
mod many_clients;
mod relay;
mod support;
mod tunnel;
