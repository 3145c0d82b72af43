pub mod aead;
