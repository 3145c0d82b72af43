//! The library: clients and servers over loopback, without a daemon or privileges.

mod addresses;
mod beside;
mod examples;
mod faults;
mod flood;
mod hardship;
mod icmp;
mod many_clients;
mod relay;
mod support;
mod tunnel;
