// SPDX-License-Identifier: MIT
/* A tokenizer.json; what is read encodes a text and gives it back. */
#include "fuzz.h"
#include "llama/tokenizer.h"

static const char text[] = "Hello, w\xc3\xb6rld! 123 \xff  \n<|begin_of_text|> it's";

static void round_trip(const moon_tokenizer *tokenizer) {
  moon_encoding ids = {0};
  moon_err err = {0};
  moon_status status =
      moon_tokenizer_encode(tokenizer, text, sizeof text - 1, MOON_ENCODE_BOS, &ids, &err);
  check_message(status, &err);
  for (size_t i = 0; i < ids.n; i++) {
    moon_token token;
    if (moon_tokenizer_token(tokenizer, ids.ids[i], &token, &err) != MOON_OK)
      __builtin_trap();
  }
  moon_encoding_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  moon_tokenizer *tokenizer;
  moon_err err = {0};
  moon_status status = moon_tokenizer_parse(&tokenizer, (const char *)data, size, &err);
  check_message(status, &err);
  if (status == MOON_OK)
    round_trip(tokenizer);
  moon_tokenizer_release(tokenizer);
  return 0;
}
