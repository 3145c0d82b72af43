//! The code points of IKEv2, as IANA keeps them ("Internet Key Exchange Version 2 (IKEv2) Parameters").
//!
//! Every type is open: any number is a value, the numbers with a name are constants, and what has no name prints as its
//! number. So a peer from the future is still decoded, compared and explained.

mod notify;
mod transform;

pub use notify::NotifyType;
pub use transform::{AttributeType, EncrId, EsnId, IntegId, KeId, PrfId, TransformType};

/// Declares an open enumeration: a number, its named values, and how it prints.
macro_rules! registry {
    ($(#[$attribute:meta])* $type:ident($number:ty) {
        $($(#[$doc:meta])* $constant:ident = $value:literal $(as $name:literal)?,)*
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub $number);

        impl $type {
            $($(#[$doc])* pub const $constant: $type = $type($value);)*

            /// Every value that has a name, in ascending order.
            pub const ALL: &'static [$type] = &[$($type::$constant),*];

            /// The name, when the value has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($crate::ike::registry::name_of!($constant $($name)?)),)*
                    _ => None,
                }
            }
        }

        /// The name, or else the number.
        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => ::std::fmt::Display::fmt(&self.0, f),
                }
            }
        }

        /// The name and the number.
        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{name}({})", self.0),
                    None => write!(f, concat!(stringify!($type), "({})"), self.0),
                }
            }
        }
    };
}

/// The given name, or else the constant's own.
macro_rules! name_of {
    ($constant:ident) => {
        stringify!($constant)
    };
    ($constant:ident $name:literal) => {
        $name
    };
}

use {name_of, registry};

registry! {
    /// Exchange types (RFC 7296 §3.1).
    ExchangeType(u8) {
        IKE_SA_INIT = 34,
        IKE_AUTH = 35,
        CREATE_CHILD_SA = 36,
        INFORMATIONAL = 37,
        /// RFC 5723.
        IKE_SESSION_RESUME = 38,
        /// Group key management, as are the three that follow.
        GSA_AUTH = 39,
        GSA_REGISTRATION = 40,
        GSA_REKEY = 41,
        GSA_INBAND_REKEY = 42,
        /// RFC 9242.
        IKE_INTERMEDIATE = 43,
        /// RFC 9370.
        IKE_FOLLOWUP_KE = 44,
    }
}

registry! {
    /// Payload types (RFC 7296 §3.2). They print as logs and the RFC's diagrams write them: `SA`, `IDi`, `N`.
    PayloadType(u8) {
        /// "No Next Payload": the end of the chain.
        NONE = 0,
        SA = 33,
        KE = 34,
        ID_I = 35 as "IDi",
        ID_R = 36 as "IDr",
        CERT = 37,
        CERTREQ = 38,
        AUTH = 39,
        NONCE = 40 as "No",
        NOTIFY = 41 as "N",
        DELETE = 42 as "D",
        VENDOR = 43 as "V",
        TS_I = 44 as "TSi",
        TS_R = 45 as "TSr",
        SK = 46,
        CP = 47,
        EAP = 48,
        /// Generic secure password method (RFC 6467).
        GSPM = 49,
        /// Group key management, as are the two that follow.
        ID_G = 50 as "IDg",
        GSA = 51,
        KD = 52,
        /// Encrypted and authenticated fragment (RFC 7383).
        SKF = 53,
        /// Puzzle solution (RFC 8019).
        PS = 54,
    }
}

registry! {
    /// Security protocol identifiers (RFC 7296 §3.3.1).
    ProtocolId(u8) {
        /// In a Notify that concerns no SA (RFC 7296 §3.10).
        NONE = 0,
        IKE = 1,
        AH = 2,
        ESP = 3,
    }
}

registry! {
    /// Types of identities (RFC 7296 §3.5).
    IdType(u8) {
        IPV4_ADDR = 1,
        FQDN = 2,
        RFC822_ADDR = 3,
        IPV6_ADDR = 5,
        DER_ASN1_DN = 9,
        DER_ASN1_GN = 10,
        KEY_ID = 11,
        /// RFC 4595.
        FC_NAME = 12,
        /// RFC 7619.
        NULL = 13,
    }
}

registry! {
    /// Encodings of certificates (RFC 7296 §3.6).
    CertEncoding(u8) {
        PKCS7 = 1,
        PGP = 2,
        DNS_KEY = 3,
        X509_SIGNATURE = 4,
        KERBEROS = 6,
        CRL = 7,
        ARL = 8,
        SPKI = 9,
        X509_ATTRIBUTE = 10,
        HASH_AND_URL = 12,
        HASH_AND_URL_BUNDLE = 13,
        /// RFC 4806.
        OCSP = 14,
        /// A SubjectPublicKeyInfo (RFC 7670).
        RAW_PUBLIC_KEY = 15,
    }
}

registry! {
    /// Methods of authentication (RFC 7296 §3.8).
    AuthMethod(u8) {
        RSA_SIGNATURE = 1,
        SHARED_KEY = 2,
        DSS_SIGNATURE = 3,
        /// RFC 4754.
        ECDSA_SHA256_P256 = 9,
        /// RFC 4754.
        ECDSA_SHA384_P384 = 10,
        /// RFC 4754.
        ECDSA_SHA512_P521 = 11,
        /// RFC 6467.
        SECURE_PASSWORD = 12,
        /// RFC 7619.
        NULL = 13,
        /// RFC 7427.
        DIGITAL_SIGNATURE = 14,
    }
}

registry! {
    /// Types of traffic selectors (RFC 7296 §3.13.1).
    TsType(u8) {
        IPV4_ADDR_RANGE = 7,
        IPV6_ADDR_RANGE = 8,
        /// RFC 4595.
        FC_ADDR_RANGE = 9,
        /// RFC 9478.
        SECLABEL = 10,
    }
}

registry! {
    /// Hash algorithms for digital signatures (RFC 7427 §7, RFC 8420 §2).
    HashAlg(u16) {
        SHA1 = 1,
        SHA2_256 = 2,
        SHA2_384 = 3,
        SHA2_512 = 4,
        /// No hash before the signature: EdDSA (RFC 8420).
        IDENTITY = 5,
        /// RFC 9385.
        STREEBOG_256 = 6,
        /// RFC 9385.
        STREEBOG_512 = 7,
    }
}

registry! {
    /// Types of the identity of a post-quantum preshared key (RFC 8784 §5.1).
    PpkIdType(u8) {
        OPAQUE = 1 as "PPK_ID_OPAQUE",
        FIXED = 2 as "PPK_ID_FIXED",
    }
}

registry! {
    /// Types of the Configuration payload (RFC 7296 §3.15).
    CfgType(u8) {
        REQUEST = 1 as "CFG_REQUEST",
        REPLY = 2 as "CFG_REPLY",
        SET = 3 as "CFG_SET",
        ACK = 4 as "CFG_ACK",
    }
}

registry! {
    /// Types of the attributes in a Configuration payload (RFC 7296 §3.15.1). Fifteen bits.
    CfgAttributeType(u16) {
        INTERNAL_IP4_ADDRESS = 1,
        INTERNAL_IP4_NETMASK = 2,
        INTERNAL_IP4_DNS = 3,
        INTERNAL_IP4_NBNS = 4,
        INTERNAL_IP4_DHCP = 6,
        APPLICATION_VERSION = 7,
        INTERNAL_IP6_ADDRESS = 8,
        INTERNAL_IP6_DNS = 10,
        INTERNAL_IP6_DHCP = 12,
        INTERNAL_IP4_SUBNET = 13,
        SUPPORTED_ATTRIBUTES = 14,
        INTERNAL_IP6_SUBNET = 15,
        /// RFC 8598.
        INTERNAL_DNS_DOMAIN = 25,
        /// RFC 8598.
        INTERNAL_DNSSEC_TA = 26,
    }
}
