// SPDX-License-Identifier: MIT
#include "io/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct moon_digest {
  atomic_int refs;
  EVP_MD_CTX *context;
};

static moon_status fail_memory(moon_err *err) {
  return moon_fail(err, MOON_ENOMEM, "no memory for a hash");
}

/* A library context of our own: OpenSSL 3.0's default one, when memory runs out while it is set up,
 * stays half done, and what is fetched from it then dies. */
static OSSL_LIB_CTX *library;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static EVP_MD *fetch(const char *name) {
  pthread_mutex_lock(&lock);
  if (!library)
    library = OSSL_LIB_CTX_new();
  EVP_MD *kind = library ? EVP_MD_fetch(library, name, NULL) : NULL;
  pthread_mutex_unlock(&lock);
  return kind;
}

static moon_status new_digest(moon_digest **out, const char *name, moon_err *err) {
  moon_digest *digest = calloc(1, sizeof *digest);
  if (!digest)
    return fail_memory(err);
  EVP_MD *kind = fetch(name);
  digest->refs = 1;
  digest->context = kind ? EVP_MD_CTX_new() : NULL;
  bool ok = digest->context && EVP_DigestInit_ex(digest->context, kind, NULL);
  EVP_MD_free(kind); /* the context has a reference of its own */
  if (!ok) {
    moon_digest_release(digest);
    return fail_memory(err);
  }
  *out = digest;
  return MOON_OK;
}

moon_status moon_digest_new(moon_digest **out, moon_err *err) {
  return new_digest(out, "SHA256", err);
}

moon_status moon_digest_new_git(moon_digest **out, int64_t size_bytes, moon_err *err) {
  moon_status status = new_digest(out, "SHA1", err);
  char header[32];
  int n = snprintf(header, sizeof header, "blob %lld", (long long)size_bytes);
  if (status == MOON_OK)
    moon_digest_add(*out, header, (size_t)n + 1); /* with its closing 0 */
  return status;
}

moon_digest *moon_digest_retain(moon_digest *digest) {
  atomic_fetch_add(&digest->refs, 1);
  return digest;
}

void moon_digest_release(moon_digest *digest) {
  if (!digest || atomic_fetch_sub(&digest->refs, 1) > 1)
    return;
  EVP_MD_CTX_free(digest->context);
  free(digest);
}

void moon_digest_add(moon_digest *digest, const void *data, size_t size) {
  EVP_DigestUpdate(digest->context, data, size); /* cannot fail once it was initialised */
}

moon_status moon_digest_text(const moon_digest *digest, char text[MOON_SHA256_TEXT],
                             moon_err *err) {
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned size;
  EVP_MD_CTX *copy = EVP_MD_CTX_new();
  bool ok =
      copy && EVP_MD_CTX_copy_ex(copy, digest->context) && EVP_DigestFinal_ex(copy, hash, &size);
  EVP_MD_CTX_free(copy);
  if (!ok)
    return fail_memory(err);
  for (unsigned i = 0; i < size; i++)
    snprintf(text + 2 * i, 3, "%02x", hash[i]);
  return MOON_OK;
}
