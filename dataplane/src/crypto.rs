//! Decides at start which library seals and opens, and says why.

use adit_esp::aead::{self, Backend, Reason};
use adit_proto::stats::BACKENDS;
use anyhow::{Context, Result, bail};

use crate::config::CryptoChoice;
use crate::log;

/// The backend for all workers. What is known of intel-ipsec-mb goes to the log.
///
/// # Errors
/// The library that was asked for is not in the program, lacks something of this CPU, or fails its self-test; or AWS-LC fails it.
pub fn choose(choice: CryptoChoice) -> Result<Backend> {
    let backend = match choice {
        CryptoChoice::Auto => {
            let choice = aead::choose().context("packets cannot be sealed: the CPU or its memory is at fault")?;
            match &choice.reason {
                reason @ Reason::Failed(_) => log::warn(reason),
                reason => log::info(format_args!("crypto {}: {reason}", choice.backend)),
            }
            return Ok(choice.backend);
        }
        CryptoChoice::AwsLc => Backend::AwsLc,
        CryptoChoice::IpsecMb => Backend::IpsecMb,
        CryptoChoice::RustCrypto => Backend::RustCrypto,
    };
    if let Some(obstacle) = backend.obstacle() {
        bail!("{backend} was asked for but cannot be used: {obstacle}. To go on without it, set dataplane.crypto to auto");
    }
    aead::self_test(backend).context("the library that was asked for is not to be trusted here; set dataplane.crypto to auto")?;
    Ok(backend)
}

/// The backend as [`adit_proto::stats::Gauge::CryptoBackend`] tells it.
pub fn code(backend: Backend) -> i64 {
    BACKENDS.iter().position(|name| *name == backend.name()).map_or(0, |place| place as i64 + 1)
}

#[cfg(test)]
mod tests {
    use adit_proto::stats::Gauge;

    use super::*;

    #[test]
    fn the_gauge_tells_every_backend_by_its_name() {
        for backend in Backend::ALL {
            let reported = Gauge::CryptoBackend.label_of(code(backend));
            assert_eq!(reported, Some(("backend", Some(backend.name().to_owned()))), "{backend}");
        }
        assert_eq!(Gauge::CryptoBackend.label_of(0), Some(("backend", None)), "a worker that has not said it");
    }

    #[test]
    fn what_is_asked_for_is_taken_or_refused_with_a_remedy() {
        assert_eq!(choose(CryptoChoice::AwsLc).expect("everywhere"), Backend::AwsLc);
        assert_eq!(choose(CryptoChoice::RustCrypto).expect("everywhere"), Backend::RustCrypto);
        match (choose(CryptoChoice::IpsecMb), Backend::IpsecMb.obstacle()) {
            (Ok(backend), None) => assert_eq!(backend, Backend::IpsecMb),
            (Err(error), Some(obstacle)) => {
                let error = error.to_string();
                assert!(error.contains(&obstacle.to_string()) && error.contains("set dataplane.crypto to auto"), "{error}");
            }
            (other, obstacle) => panic!("{other:?} where {obstacle:?}"),
        }
    }

    #[test]
    fn auto_takes_what_can_be_used() {
        let backend = choose(CryptoChoice::Auto).expect("AWS-LC works");
        assert!(backend != Backend::RustCrypto && backend.obstacle().is_none());
    }
}
