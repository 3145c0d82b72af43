/* Glue between present.rs and intel-ipsec-mb.
 *
 * The library's interface is macros over the members of two large structures, whose places differ between its releases. This
 * file is compiled against the header of the library that is linked, so that Rust need not know them.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <intel-ipsec-mb.h>

/* 1.3 is the first release that tests itself before it is used. */
#if IMB_VERSION_NUM < IMB_VERSION(1, 3, 0)
#error "intel-ipsec-mb 1.3 or later is needed"
#endif

#define TAG_LEN 16
#define NONCE_LEN 12
#define CHACHA_KEY_LEN 32

/* What the Rust side keeps room for. */
_Static_assert(sizeof(struct gcm_key_data) <= 1024, "room for the key schedule");
_Static_assert(_Alignof(struct gcm_key_data) <= 64, "alignment of the key schedule");
_Static_assert(sizeof(struct gcm_context_data) <= 128, "room for the context");

/* What `auto` in the library would ask for before it takes the code with VAES. */
#define NEEDED IMB_CPUFLAGS_AVX512_T2

struct adit_mb_gcm {
        aes_gcm_pre_t expand;
        aes_gcm_enc_dec_t seal;
        aes_gcm_enc_dec_t open;
};

const char *adit_mb_version(void) { return IMB_VERSION_STR; }

size_t adit_mb_manager_size(void) { return imb_get_mb_mgr_size(); }

/* A manager for one thread; NULL without memory, on a CPU that lacks something, or when the library fails its own test. */
IMB_MGR *adit_mb_new(void)
{
        IMB_MGR *manager = alloc_mb_mgr(0);

        if (manager == NULL)
                return NULL;
        if ((manager->features & NEEDED) == NEEDED) {
                init_mb_mgr_avx512(manager);
                if (imb_get_errno(manager) == 0 && (manager->features & IMB_FEATURE_SELF_TEST_PASS))
                        return manager;
        }
        free_mb_mgr(manager);
        return NULL;
}

void adit_mb_free(IMB_MGR *manager) { free_mb_mgr(manager); }

/* The functions for AES-GCM with a key of 16 or 32 bytes. They belong to no manager, and any thread may call them. */
void adit_mb_gcm(const IMB_MGR *manager, size_t key_len, struct adit_mb_gcm *calls)
{
        if (key_len == IMB_KEY_128_BYTES) {
                calls->expand = manager->gcm128_pre;
                calls->seal = manager->gcm128_enc;
                calls->open = manager->gcm128_dec;
        } else {
                calls->expand = manager->gcm256_pre;
                calls->seal = manager->gcm256_enc;
                calls->open = manager->gcm256_dec;
        }
}

/* ChaCha20-Poly1305 (RFC 8439) from src to dst, which are the same or do not overlap. When opening, `tag` receives the one that
 * is right. Done on return: of this cipher no jobs are collected. False when the library refused, which it does for no packet. */
bool adit_mb_chacha20_poly1305(IMB_MGR *manager, bool open, const uint8_t *key, const uint8_t *nonce, const uint8_t *aad,
                               size_t aad_len, const uint8_t *src, uint8_t *dst, size_t len, uint8_t *tag)
{
        IMB_JOB *job = IMB_GET_NEXT_JOB(manager);

        job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
        job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
        job->cipher_direction = open ? IMB_DIR_DECRYPT : IMB_DIR_ENCRYPT;
        job->chain_order = open ? IMB_ORDER_HASH_CIPHER : IMB_ORDER_CIPHER_HASH;
        job->enc_keys = key;
        job->dec_keys = key;
        job->key_len_in_bytes = CHACHA_KEY_LEN;
        job->src = src;
        job->dst = dst;
        job->cipher_start_src_offset_in_bytes = 0;
        job->msg_len_to_cipher_in_bytes = len;
        job->hash_start_src_offset_in_bytes = 0;
        job->msg_len_to_hash_in_bytes = len;
        job->iv = nonce;
        job->iv_len_in_bytes = NONCE_LEN;
        job->auth_tag_output = tag;
        job->auth_tag_output_len_in_bytes = TAG_LEN;
        job->u.CHACHA20_POLY1305.aad = aad;
        job->u.CHACHA20_POLY1305.aad_len_in_bytes = aad_len;
        job = IMB_SUBMIT_JOB_NOCHECK(manager);
        return job != NULL && job->status == IMB_STATUS_COMPLETED;
}
