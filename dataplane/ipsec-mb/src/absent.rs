//! What stands in place of the functions when the library was not there for the build: no key of it can be made.

use adit_proto::esp::NONCE_LEN;
use adit_proto::suite::TAG_LEN;

use crate::Obstacle;

pub fn version() -> Option<&'static str> {
    None
}

pub fn obstacle() -> Option<Obstacle> {
    Some(if cfg!(target_arch = "x86_64") { Obstacle::NotBuiltIn } else { Obstacle::Cpu("instructions of x86-64") })
}

pub fn prepare() {}

/// No value of it can be made.
pub enum Gcm {}

pub type ChaCha20Poly1305 = Gcm;

impl Gcm {
    pub fn new(_key: &[u8]) -> Box<Gcm> {
        unreachable!("who makes a key has asked for the obstacle")
    }

    pub fn seal(&self, _nonce: &[u8; NONCE_LEN], _aad: &[u8], _plain: &[u8], _sealed: &mut [u8], _tag: &mut [u8; TAG_LEN]) {
        match *self {}
    }

    pub fn open(&self, _nonce: &[u8; NONCE_LEN], _aad: &[u8], _buf: &mut [u8], _tag: &[u8; TAG_LEN]) -> bool {
        match *self {}
    }
}
