//! Transform types, the transforms of each type, and their attributes (RFC 7296 §3.3.2 to §3.3.5).

use super::registry;

registry! {
    /// Types of transforms (RFC 7296 §3.3.2, RFC 9370 §2.2.1).
    TransformType(u8) {
        ENCR = 1,
        PRF = 2,
        INTEG = 3,
        /// Key exchange method; "Diffie-Hellman group" before RFC 9370.
        KE = 4,
        /// Extended sequence numbers; "sequence numbers" since RFC 9827.
        ESN = 5,
        ADDKE1 = 6,
        ADDKE2 = 7,
        ADDKE3 = 8,
        ADDKE4 = 9,
        ADDKE5 = 10,
        ADDKE6 = 11,
        ADDKE7 = 12,
    }
}

impl TransformType {
    /// The additional key exchanges, in their order (RFC 9370 §2.2.1).
    pub const ADDITIONAL_KE: [TransformType; 7] = [
        TransformType::ADDKE1,
        TransformType::ADDKE2,
        TransformType::ADDKE3,
        TransformType::ADDKE4,
        TransformType::ADDKE5,
        TransformType::ADDKE6,
        TransformType::ADDKE7,
    ];

    /// Whether the transforms of this type are key exchange methods.
    pub const fn is_key_exchange(self) -> bool {
        matches!(self.0, 4 | 6..=12)
    }
}

registry! {
    /// Encryption algorithms: transforms of type 1.
    EncrId(u16) {
        DES_IV64 = 1,
        DES = 2,
        TRIPLE_DES = 3 as "3DES",
        RC5 = 4,
        IDEA = 5,
        CAST = 6,
        BLOWFISH = 7,
        TRIPLE_IDEA = 8 as "3IDEA",
        DES_IV32 = 9,
        NULL = 11,
        AES_CBC = 12,
        AES_CTR = 13,
        AES_CCM_8 = 14,
        AES_CCM_12 = 15,
        AES_CCM_16 = 16,
        AES_GCM_8 = 18,
        AES_GCM_12 = 19,
        /// RFC 4106 and RFC 5282.
        AES_GCM_16 = 20,
        NULL_AUTH_AES_GMAC = 21,
        CAMELLIA_CBC = 23,
        CAMELLIA_CTR = 24,
        CAMELLIA_CCM_8 = 25,
        CAMELLIA_CCM_12 = 26,
        CAMELLIA_CCM_16 = 27,
        /// RFC 7634.
        CHACHA20_POLY1305 = 28,
        /// RFC 8750.
        AES_CCM_8_IIV = 29,
        /// RFC 8750.
        AES_GCM_16_IIV = 30,
        /// RFC 8750.
        CHACHA20_POLY1305_IIV = 31,
        /// RFC 9227, as are the three that follow.
        KUZNYECHIK_MGM_KTREE = 32,
        MAGMA_MGM_KTREE = 33,
        KUZNYECHIK_MGM_MAC_KTREE = 34,
        MAGMA_MGM_MAC_KTREE = 35,
    }
}

registry! {
    /// Pseudorandom functions: transforms of type 2.
    PrfId(u16) {
        HMAC_MD5 = 1 as "PRF_HMAC_MD5",
        HMAC_SHA1 = 2 as "PRF_HMAC_SHA1",
        HMAC_TIGER = 3 as "PRF_HMAC_TIGER",
        AES128_XCBC = 4 as "PRF_AES128_XCBC",
        /// RFC 4868, as are the two that follow.
        HMAC_SHA2_256 = 5 as "PRF_HMAC_SHA2_256",
        HMAC_SHA2_384 = 6 as "PRF_HMAC_SHA2_384",
        HMAC_SHA2_512 = 7 as "PRF_HMAC_SHA2_512",
        AES128_CMAC = 8 as "PRF_AES128_CMAC",
        /// RFC 9385.
        HMAC_STREEBOG_512 = 9 as "PRF_HMAC_STREEBOG_512",
    }
}

registry! {
    /// Integrity algorithms: transforms of type 3.
    IntegId(u16) {
        NONE = 0 as "INTEG_NONE",
        HMAC_MD5_96 = 1,
        HMAC_SHA1_96 = 2,
        DES_MAC = 3,
        KPDK_MD5 = 4,
        AES_XCBC_96 = 5,
        HMAC_MD5_128 = 6,
        HMAC_SHA1_160 = 7,
        AES_CMAC_96 = 8,
        AES_128_GMAC = 9,
        AES_192_GMAC = 10,
        AES_256_GMAC = 11,
        HMAC_SHA2_256_128 = 12,
        HMAC_SHA2_384_192 = 13,
        HMAC_SHA2_512_256 = 14,
    }
}

registry! {
    /// Key exchange methods: transforms of types 4 and 6 to 12, and the method of a KE payload (RFC 7296 §3.4).
    KeId(u16) {
        NONE = 0 as "KE_NONE",
        MODP_768 = 1,
        MODP_1024 = 2,
        MODP_1536 = 5,
        MODP_2048 = 14,
        MODP_3072 = 15,
        MODP_4096 = 16,
        MODP_6144 = 17,
        MODP_8192 = 18,
        /// P-256 (RFC 5903).
        ECP_256 = 19,
        /// P-384 (RFC 5903).
        ECP_384 = 20,
        /// P-521 (RFC 5903).
        ECP_521 = 21,
        MODP_1024_160 = 22,
        MODP_2048_224 = 23,
        MODP_2048_256 = 24,
        ECP_192 = 25,
        ECP_224 = 26,
        BRAINPOOL_P224R1 = 27,
        BRAINPOOL_P256R1 = 28,
        BRAINPOOL_P384R1 = 29,
        BRAINPOOL_P512R1 = 30,
        /// X25519 (RFC 8031).
        CURVE_25519 = 31,
        /// X448 (RFC 8031).
        CURVE_448 = 32,
        /// RFC 9385.
        GOST3410_2012_256 = 33,
        /// RFC 9385.
        GOST3410_2012_512 = 34,
        ML_KEM_512 = 35,
        ML_KEM_768 = 36,
        ML_KEM_1024 = 37,
    }
}

registry! {
    /// Sequence numbers of ESP: transforms of type 5.
    EsnId(u16) {
        /// 32 bits.
        NO_ESN = 0,
        /// 64 bits, of which the low half is sent.
        ESN = 1,
        /// 32 bits without an order: several senders share the SA.
        UNSPECIFIED_32 = 2,
    }
}

registry! {
    /// Types of the attributes of a transform (RFC 7296 §3.3.5). Fifteen bits.
    AttributeType(u16) {
        KEY_LENGTH = 14,
    }
}
