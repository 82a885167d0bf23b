// SPDX-License-Identifier: MIT
/* The tokenizer: golden ids, merges against a plain reference, any bytes, bad files. */
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "llama/tokenizer.h"

#define TINY   MOON_SOURCE_DIR "/examples/tiny/tokenizer.json"
#define GOLDEN MOON_SOURCE_DIR "/tests/fixtures/tiny/golden/tokenizer.json"

static moon_tokenizer *tiny;

static int load_tiny(void **state) {
  moon_err err;
  (void)state;
  if (moon_tokenizer_load(&tiny, TINY, &err))
    fail_msg("%s", err.text);
  return 0;
}

static int release_tiny(void **state) {
  (void)state;
  moon_tokenizer_release(tiny);
  return moon_tokenizer_live() == 0 ? 0 : -1;
}

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 33) % n;
}

static moon_encoding encode(const moon_tokenizer *t, const char *text, size_t size, int flags) {
  moon_encoding out = {0};
  moon_err err;
  if (moon_tokenizer_encode(t, text, size, flags, &out, &err))
    fail_msg("%s", err.text);
  return out;
}

/* The ids as "1 2 3", in a buffer that the next call reuses. */
static const char *ids_text(const moon_tokenizer *t, const char *text, int flags) {
  static char shown[1024];
  moon_encoding e = encode(t, text, strlen(text), flags);
  size_t used = 0;
  shown[0] = 0;
  for (size_t i = 0; i < e.n; i++)
    used += (size_t)snprintf(shown + used, sizeof shown - used, i ? " %d" : "%d", e.ids[i]);
  moon_encoding_free(&e);
  return shown;
}

/* Tokens put together are the text again, and each lies where its end says. */
static void assert_round_trip(const moon_tokenizer *t, const char *text, size_t size, int flags) {
  moon_encoding e = encode(t, text, size, flags);
  size_t at = 0;
  for (size_t i = 0; i < e.n; i++) {
    moon_token token;
    assert_int_equal(moon_tokenizer_token(t, e.ids[i], &token, NULL), MOON_OK);
    assert_int_equal(e.ends[i], at + token.size);
    assert_memory_equal(text + at, token.bytes, token.size);
    at = e.ends[i];
  }
  assert_int_equal(at, size);
  moon_encoding_free(&e);
}

static void golden_ids(void **state) {
  (void)state;
  json_t *cases = json_load_file(GOLDEN, JSON_ALLOW_NUL, NULL);
  assert_int_equal(json_array_size(cases), 137);
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *text = json_object_get(json_array_get(cases, i), "text");
    const json_t *ids = json_object_get(json_array_get(cases, i), "ids");
    moon_encoding e = encode(tiny, json_string_value(text), json_string_length(text), 0);
    if (e.n != json_array_size(ids))
      fail_msg("case %zu: %zu ids, expected %zu", i, e.n, json_array_size(ids));
    for (size_t k = 0; k < e.n; k++)
      if (e.ids[k] != json_integer_value(json_array_get(ids, k)))
        fail_msg("case %zu: ids[%zu] = %d", i, k, e.ids[k]);
    moon_encoding_free(&e);
    assert_round_trip(tiny, json_string_value(text), json_string_length(text), 0);
  }
  json_decref(cases);
}

static void bos_and_special_tokens(void **state) {
  (void)state;
  assert_int_equal(moon_tokenizer_bos(tiny), 1275);
  assert_string_equal(ids_text(tiny, "a", MOON_ENCODE_BOS), "1275 64");
  assert_string_equal(ids_text(tiny, "", MOON_ENCODE_BOS), "1275");
  assert_string_equal(ids_text(tiny, "<|eot_id|>", 0), "1279");
  assert_string_equal(ids_text(tiny, "<|eot_id|>", MOON_ENCODE_LITERAL),
                      "27 91 68 330 62 322 91 29");
  assert_string_equal(ids_text(tiny, "<|<|eot_id|><|eot_id", 0), "27 91 1279 27 91 68 330 62 322");
  assert_int_equal(moon_tokenizer_find(tiny, "<|eot_id|>", 10), 1279);
  assert_int_equal(moon_tokenizer_find(tiny, "<|eot_id", 8), -1);
  assert_int_equal(moon_tokenizer_find(tiny, " a", 2), 256);
}

static void token_ids_out_of_range(void **state) {
  (void)state;
  moon_token token;
  moon_err err;
  assert_int_equal(moon_tokenizer_token(tiny, 1280, &token, &err), MOON_ERANGE);
  assert_string_equal(err.text, "token id 1280: expected 0 to 1279");
  assert_int_equal(moon_tokenizer_token(tiny, -1, &token, &err), MOON_ERANGE);
  assert_string_equal(err.text, "token id -1: expected 0 to 1279");
}

static void any_bytes_round_trip(void **state) {
  (void)state;
  for (int n = 0; n < 3000; n++) {
    char text[64];
    size_t size = random_below(sizeof text);
    for (size_t i = 0; i < size;
         i++) { /* half of it such that sequences come whole, cut or wrong */
      static const uint8_t parts[] = {0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80,
                                      0xc3, 0xa9, 0xed, 0xa0, ' ',  '\n', 'a'};
      text[i] = (char)(random_below(2) ? random_below(256) : parts[random_below(sizeof parts)]);
    }
    assert_round_trip(tiny, text, size, 0);
    assert_round_trip(tiny, text, size, MOON_ENCODE_LITERAL);
  }
}

static void an_invalid_byte_is_a_piece_of_its_own(void **state) {
  (void)state;
  /* "é" is one token; its bytes apart are byte tokens, and the pattern starts anew behind each. */
  assert_string_equal(ids_text(tiny, "\xc3\xa9", 0), "1179");
  assert_string_equal(ids_text(tiny, "\xc3 \xa9", 0), "127 220 102");
  assert_string_equal(ids_text(tiny, "\xc3\xc3\xa9\xa9", 0), "127 1179 102");
}

/* ---- tokenizers made for a test ---- */

/* The tiny file with its vocabulary and merges replaced: single bytes, then what the merges make.
 */
static json_t *tiny_json(void) {
  json_t *root = json_load_file(TINY, 0, NULL);
  assert_non_null(root);
  return root;
}

static moon_status parse(moon_tokenizer **out, const json_t *root, moon_err *err) {
  char *text = json_dumps(root, JSON_COMPACT | JSON_ENCODE_ANY);
  assert_non_null(text);
  moon_status status = moon_tokenizer_parse(out, text, strlen(text), err);
  free(text);
  return status;
}

/* Only the tokens of single bytes, and no merges. */
static void keep_bytes_only(json_t *root) {
  json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab"),
         *bytes = json_object();
  const char *text;
  json_t *id;
  json_object_foreach(vocab, text, id) if (json_integer_value(id) < 256)
      json_object_set(bytes, text, id);
  assert_int_equal(json_object_size(bytes), 256);
  json_object_set_new(model, "vocab", bytes);
  json_object_set_new(model, "merges", json_array());
  json_object_set_new(model, "ignore_merges", json_false());
}

static void add_merge(json_t *root, const char *left, const char *right, bool as_pair) {
  json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
  char merged[128];
  snprintf(merged, sizeof merged, "%s%s", left, right);
  if (!json_object_get(vocab, merged))
    json_object_set_new(vocab, merged, json_integer(2000 + (json_int_t)json_object_size(vocab)));
  json_array_append_new(json_object_get(model, "merges"), as_pair
                                                              ? json_pack("[ss]", left, right)
                                                              : json_sprintf("%s %s", left, right));
}

#define N_MERGES 40

/* Merges of random tokens over a, b and c: a token may be made in several ways, and a merge may
 * come before those that make its halves. Harder than any trained file. */
static json_t *random_merges(void) {
  json_t *root = tiny_json();
  keep_bytes_only(root);
  char tokens[N_MERGES + 3][32] = {"a", "b", "c"}, pairs[N_MERGES][2][32];
  uint32_t n_tokens = 3;
  for (int n_pairs = 0; n_pairs < N_MERGES;) {
    const char *left = tokens[random_below(n_tokens)], *right = tokens[random_below(n_tokens)];
    bool is_new = strlen(left) + strlen(right) < 16;
    for (int i = 0; i < n_pairs; i++)
      is_new = is_new && (strcmp(pairs[i][0], left) != 0 || strcmp(pairs[i][1], right) != 0);
    if (!is_new)
      continue;
    strcpy(pairs[n_pairs][0], left);
    strcpy(pairs[n_pairs++][1], right);
    snprintf(tokens[n_tokens++], sizeof *tokens, "%.15s%.15s", pairs[n_pairs - 1][0],
             pairs[n_pairs - 1][1]);
  }
  for (uint32_t n = N_MERGES; n > 0; n--) {
    uint32_t i = random_below(n);
    add_merge(root, pairs[i][0], pairs[i][1], n % 2);
    memmove(pairs[i], pairs[n - 1], sizeof pairs[i]);
  }
  return root;
}

static bool is_merge(const json_t *merge, const char *left, const char *right) {
  char text[64];
  snprintf(text, sizeof text, "%.31s %.31s", left, right);
  if (json_is_string(merge))
    return strcmp(json_string_value(merge), text) == 0;
  return strcmp(json_string_value(json_array_get(merge, 0)), left) == 0 &&
         strcmp(json_string_value(json_array_get(merge, 1)), right) == 0;
}

/* What merging means: of all neighbours those of the lowest rank, of these the leftmost, one after
 * the other. Returns how many symbols are left. */
static size_t merge_plainly(const json_t *merges, char symbols[][32], size_t n) {
  for (size_t rank = 0; rank < json_array_size(merges); rank++)
    for (size_t i = 0; i + 1 < n; i++)
      if (is_merge(json_array_get(merges, rank), symbols[i], symbols[i + 1])) {
        strcat(symbols[i], symbols[i + 1]);
        memmove(symbols[i + 1], symbols[i + 2], (n - i - 2) * sizeof *symbols);
        return merge_plainly(merges, symbols, n - 1);
      }
  return n;
}

static void compare_with_plain_merges(const moon_tokenizer *t, const json_t *merges,
                                      uint32_t n_letters) {
  char text[64], symbols[64][32];
  size_t size = random_below(sizeof text);
  for (size_t i = 0; i < size; i++) {
    text[i] = (char)('a' + random_below(n_letters));
    snprintf(symbols[i], sizeof *symbols, "%c", text[i]);
  }
  size_t n = merge_plainly(merges, symbols, size);
  moon_encoding e = encode(t, text, size, 0);
  assert_int_equal(e.n, n);
  for (size_t i = 0; i < n; i++)
    assert_int_equal(e.ids[i], moon_tokenizer_find(t, symbols[i], strlen(symbols[i])));
  moon_encoding_free(&e);
}

static void merges_in_the_plain_order(void **state) {
  (void)state;
  for (int round = 0; round < 60; round++) {
    json_t *root = random_merges();
    moon_tokenizer *t;
    moon_err err;
    if (parse(&t, root, &err))
      fail_msg("%s", err.text);
    const json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    for (uint32_t i = 0; i < 60; i++)
      compare_with_plain_merges(t, merges, 1 + i % 3);
    moon_tokenizer_release(t);
    json_decref(root);
  }
}

static void ignore_merges_takes_a_whole_piece(void **state) {
  (void)state;
  json_t *root = tiny_json();
  json_object_set_new(json_object_get(root, "model"), "ignore_merges", json_false());
  moon_tokenizer *t;
  assert_int_equal(parse(&t, root, NULL), MOON_OK);
  json_decref(root);
  assert_string_equal(ids_text(tiny, " moonscope", 0), "1274");
  assert_string_not_equal(ids_text(t, " moonscope", 0), "1274");
  moon_tokenizer_release(t);
}

static void add_token(json_t *root, int id, const char *content, bool special) {
  json_array_append_new(
      json_object_get(root, "added_tokens"),
      json_pack("{s:i, s:s, s:b}", "id", id, "content", content, "special", special));
}

static void added_tokens_longest_and_leftmost(void **state) {
  (void)state;
  json_t *root = tiny_json();
  add_token(root, 1300, "<x>", false);
  add_token(root, 1301, "<x>y", true);
  add_token(root, 1302, "x>yz", false);
  moon_tokenizer *t;
  moon_err err;
  if (parse(&t, root, &err))
    fail_msg("%s", err.text);
  json_decref(root);
  assert_string_equal(ids_text(t, "<x><x>yz", 0), "1300 1301 89");
  assert_string_equal(ids_text(t, "<<x>yz", 0), "27 1301 89");
  assert_string_equal(ids_text(t, "x>yz", 0), "1302");
  assert_string_equal(ids_text(t, "<x>yz", MOON_ENCODE_LITERAL),
                      "1300 88 89"); /* only special ones are literal */
  moon_token token;
  assert_int_equal(moon_tokenizer_token(t, 1290, &token, &err), MOON_ERANGE);
  assert_string_equal(err.text, "token id 1290: the vocabulary has no such token");
  assert_int_equal(moon_tokenizer_n_vocab(t), 1303);
  moon_tokenizer_release(t);
}

static void byte_level_brings_its_own_pattern(void **state) {
  (void)state;
  json_t *root = tiny_json();
  json_object_set_new(root, "pre_tokenizer",
                      json_pack("{s:s, s:b}", "type", "ByteLevel", "add_prefix_space", 0));
  json_object_set_new(root, "post_processor", json_null());
  keep_bytes_only(root);
  add_merge(root, "1", "2", false);
  add_merge(root, "12", "34", false); /* 34 is no token */
  moon_tokenizer *t;
  moon_err err;
  assert_int_equal(parse(&t, root, &err), MOON_EFORMAT);
  json_array_remove(json_object_get(json_object_get(root, "model"), "merges"), 1);
  json_object_del(json_object_get(json_object_get(root, "model"), "vocab"), "1234");
  add_merge(root, "3", "4", false);
  add_merge(root, "12", "34", false);
  if (parse(&t, root, &err))
    fail_msg("%s", err.text);
  moon_encoding e =
      encode(t, "1234", 4, MOON_ENCODE_BOS); /* Llama 3's pattern would cut after 123 */
  assert_int_equal(e.n, 1);
  assert_int_equal(moon_tokenizer_bos(t), -1);
  moon_encoding_free(&e);
  moon_tokenizer_release(t);
  json_decref(root);
}

/* ---- bad files ---- */

/* Each: set `path` of the tiny file to `value` (JSON), or delete it for NULL. */
static const struct {
  const char *path, *value;
  moon_status status;
  const char *message;
} bad_fields[] = {
    {"model", NULL, MOON_EUNSUPPORTED, "model: null, expected BPE (as Llama has it)"},
    {"model.type", "\"Unigram\"", MOON_EUNSUPPORTED,
     "model: Unigram, expected BPE (as Llama has it)"},
    {"model.byte_fallback", "true", MOON_EUNSUPPORTED,
     "pre_tokenizer: Sequence, expected Metaspace with U+2581"},
    {"model.dropout", "0.1", MOON_EUNSUPPORTED, "model: dropout, expected a BPE without it"},
    {"model.end_of_word_suffix", "\"</w>\"", MOON_EUNSUPPORTED,
     "model: end_of_word_suffix, expected a BPE without it"},
    {"model.vocab", "[1]", MOON_EFORMAT, "model.vocab: expected an object of ids"},
    {"model.vocab", "{}", MOON_EUNSUPPORTED,
     "model.vocab: no token for byte 0x00, expected one for each"},
    {"model.vocab.a", "-1", MOON_EFORMAT,
     "model.vocab: the id of \"a\" is not a number from 0 to 1048575"},
    {"model.vocab.a", "1048576", MOON_EFORMAT,
     "model.vocab: the id of \"a\" is not a number from 0 to 1048575"},
    {"model.vocab.a", "1.5", MOON_EFORMAT,
     "model.vocab: the id of \"a\" is not a number from 0 to 1048575"},
    {"model.vocab.a", "\"64\"", MOON_EFORMAT,
     "model.vocab: the id of \"a\" is not a number from 0 to 1048575"},
    {"model.vocab.a", "65", MOON_EFORMAT, "model.vocab: two tokens have the id 65"},
    {"model.vocab.a", NULL, MOON_EUNSUPPORTED,
     "model.vocab: no token for byte 0x61, expected one for each"},
    {"model.merges", NULL, MOON_EFORMAT, "model.merges: expected an array"},
    {"model.merges", "{}", MOON_EFORMAT, "model.merges: expected an array"},
    {"model.merges", "[\"ab\"]", MOON_EFORMAT,
     "model.merges[0]: expected \"a b\" or [\"a\", \"b\"]"},
    {"model.merges", "[[\"a\"]]", MOON_EFORMAT,
     "model.merges[0]: expected \"a b\" or [\"a\", \"b\"]"},
    {"model.merges", "[[\"a\", 1]]", MOON_EFORMAT,
     "model.merges[0]: expected \"a b\" or [\"a\", \"b\"]"},
    {"model.merges", "[\"h e\", \"h Q\"]", MOON_EFORMAT,
     "model.merges[1]: expected two tokens that join to a token, each pair once"},
    {"model.merges", "[\"h e\", \"h e\"]", MOON_EFORMAT,
     "model.merges[1]: expected two tokens that join to a token, each pair once"},
    {"model.merges", "[\"h \\u6f22\"]", MOON_EFORMAT,
     "model.merges[0]: expected two tokens that join to a token, each pair once"},
    {"normalizer", "{\"type\": \"NFKC\"}", MOON_EUNSUPPORTED,
     "normalizer: NFKC, expected none or NFC"},
    {"decoder", "{\"type\": \"Metaspace\"}", MOON_EUNSUPPORTED,
     "decoder: Metaspace, expected ByteLevel"},
    {"pre_tokenizer", "null", MOON_EUNSUPPORTED,
     "pre_tokenizer: null, expected ByteLevel, or Split and ByteLevel"},
    {"pre_tokenizer", "{\"type\": \"Whitespace\"}", MOON_EUNSUPPORTED,
     "pre_tokenizer: Whitespace, expected ByteLevel, or Split and ByteLevel"},
    {"pre_tokenizer", "{\"type\": \"ByteLevel\", \"add_prefix_space\": true}", MOON_EUNSUPPORTED,
     "pre_tokenizer: add_prefix_space, expected a ByteLevel without it"},
    {"pre_tokenizer", "{\"type\": \"ByteLevel\", \"use_regex\": false}", MOON_EUNSUPPORTED,
     "pre_tokenizer: no pattern, expected one"},
    {"pre_tokenizer.pretokenizers", "[]", MOON_EUNSUPPORTED,
     "pre_tokenizer: a sequence of 0, expected Split and ByteLevel"},
    {"pre_tokenizer.pretokenizers.0.type", "\"Digits\"", MOON_EUNSUPPORTED,
     "pre_tokenizer: Digits, expected Split and ByteLevel"},
    {"pre_tokenizer.pretokenizers.0.behavior", "\"Removed\"", MOON_EUNSUPPORTED,
     "pre_tokenizer Split: Removed, expected behavior Isolated, not inverted"},
    {"pre_tokenizer.pretokenizers.0.invert", "true", MOON_EUNSUPPORTED,
     "pre_tokenizer Split: inverted, expected behavior Isolated, not inverted"},
    {"pre_tokenizer.pretokenizers.0.pattern", "{\"String\": \" \"}", MOON_EUNSUPPORTED,
     "pre_tokenizer Split: no Regex pattern, expected one"},
    {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"\\\\w+\"", MOON_EUNSUPPORTED,
     "split pattern: moonscope has no translation of \\w"},
    {"pre_tokenizer.pretokenizers.1.use_regex", "true", MOON_EUNSUPPORTED,
     "pre_tokenizer: two patterns, expected one"},
    {"post_processor", "{\"type\": \"BertProcessing\"}", MOON_EUNSUPPORTED,
     "post_processor: BertProcessing, expected ByteLevel and one TemplateProcessing"},
    {"post_processor.processors.1.single", "[]", MOON_EUNSUPPORTED,
     "post_processor: another template, expected one token and then the text"},
    {"post_processor.processors.1.special_tokens", "{}", MOON_EFORMAT,
     "post_processor: its first token is not one token of the vocabulary"},
    {"added_tokens", "{}", MOON_EFORMAT, "added_tokens: expected an array"},
    {"added_tokens.1", "7", MOON_EFORMAT,
     "added_tokens[1]: its id is not a number from 0 to 1048575"},
    {"added_tokens.1.id", "1275", MOON_EFORMAT,
     "added_tokens[1]: id 1275 disagrees with model.vocab or an earlier one"},
    {"added_tokens.1.id", "9999999999", MOON_EFORMAT,
     "added_tokens[1]: its id is not a number from 0 to 1048575"},
    {"added_tokens.1.content", "\"\"", MOON_EFORMAT,
     "added_tokens[1]: content of 0 bytes, expected 1 to 256"},
    {"added_tokens.1.content", "\"<|begin_of_text|>\"", MOON_EFORMAT,
     "added_tokens[1]: its content was added before"},
    {"added_tokens.1.content", "\"a\"", MOON_EFORMAT,
     "added_tokens[1]: id 1276 disagrees with model.vocab or an earlier one"},
    {"added_tokens.1.lstrip", "true", MOON_EUNSUPPORTED,
     "added_tokens[1]: lstrip, rstrip or single_word is set, expected none of them"},
};

static void set_field(json_t *at, const char *path, const char *value) {
  char name[64];
  size_t n = strcspn(path, ".");
  snprintf(name, sizeof name, "%.*s", (int)n, path);
  bool is_array = json_is_array(at), last = !path[n];
  if (!last) {
    set_field(is_array ? json_array_get(at, strtoul(name, NULL, 10)) : json_object_get(at, name),
              path + n + 1, value);
  } else if (!value) {
    assert_int_equal(json_object_del(at, name), 0);
  } else {
    json_t *new = json_loads(value, JSON_DECODE_ANY, NULL);
    assert_non_null(new);
    if (is_array)
      json_array_set_new(at, strtoul(name, NULL, 10), new);
    else
      json_object_set_new(at, name, new);
  }
}

static void files_with_a_bad_field(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad_fields / sizeof *bad_fields; i++) {
    json_t *root = tiny_json();
    set_field(root, bad_fields[i].path, bad_fields[i].value);
    moon_tokenizer *t;
    moon_err err;
    if (!parse(&t, root, &err))
      fail_msg("case %zu was accepted, expected: %s", i, bad_fields[i].message);
    assert_null(t);
    assert_string_equal(err.text, bad_fields[i].message);
    assert_int_equal(err.code, bad_fields[i].status);
    json_decref(root);
  }
}

static void files_that_are_cut(void **state) {
  (void)state;
  json_t *root = tiny_json();
  char *text = json_dumps(root, JSON_COMPACT);
  size_t size = strlen(text);
  json_decref(root);
  for (size_t cut = 0; cut < size; cut += cut < 500 ? 1 : 997) {
    moon_tokenizer *t;
    moon_err err;
    assert_int_equal(moon_tokenizer_parse(&t, text, cut, &err), MOON_EFORMAT);
    assert_null(t);
    assert_memory_equal(err.text, "not JSON: ", 10);
  }
  free(text);
}

/* text with `old` in the place of `new` once; freed by the caller. */
static char *with(const char *text, const char *old, const char *new) {
  const char *at = strstr(text, old);
  assert_non_null(at);
  char *out = malloc(strlen(text) + strlen(new) + 1);
  sprintf(out, "%.*s%s%s", (int)(at - text), text, new, at + strlen(old));
  return out;
}

static void assert_refused(char *text, const char *message) {
  moon_tokenizer *t;
  moon_err err;
  assert_int_equal(moon_tokenizer_parse(&t, text, strlen(text), &err), MOON_EFORMAT);
  assert_null(t);
  assert_string_equal(err.text, message);
  free(text);
}

/* One file, one meaning: no key may be there twice, the big lists and what they hold included. P7
 */
static void keys_that_are_there_twice(void **state) {
  (void)state;
  json_t *root = tiny_json();
  char *text = json_dumps(root, JSON_COMPACT);
  json_decref(root);
  assert_refused(with(text, "\"vocab\":{", "\"vocab\":{\"a\":3000,"),
                 "model.vocab: \"a\" is there twice");
  assert_refused(with(text, "\"vocab\":{", "\"vocab\":{\"\\u0061\":3000,"),
                 "model.vocab: \"a\" is there twice");
  assert_refused(
      with(text, "\"vocab\":{", "\"vocab\":{\"\u6f22\":3000,\"b\u6f22\":3001,\"\u6f22\":3002,"),
      "model.vocab: \"\u6f22\" is there twice");
  assert_refused(with(text, "\"vocab\":{", "\"vocab\":{},\"vocab\":{"),
                 "not JSON: duplicate object key near '\"vocab\"'");
  assert_refused(with(text, "\"merges\":[", "\"merges\":[],\"merges\":["),
                 "not JSON: duplicate object key near '\"merges\"'");
  assert_refused(with(text, "\"model\":{", "\"model\":{},\"model\":{"),
                 "not JSON: duplicate object key near '\"model\"'");
  free(text);
}

/* Such a token only has a text; an added one may name it, with its id. */
static void tokens_outside_of_the_alphabet(void **state) {
  (void)state;
  json_t *root = tiny_json();
  json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
  json_object_set_new(vocab, "\u6f22", json_integer(1300));
  json_object_set_new(vocab, "\u5b57", json_integer(1301));
  add_token(root, 1300, "\u6f22", false);
  moon_tokenizer *t;
  moon_err err;
  if (parse(&t, root, &err))
    fail_msg("%s", err.text);
  assert_string_equal(ids_text(t, "\u6f22", 0), "1300");
  moon_token token;
  assert_int_equal(moon_tokenizer_token(t, 1301, &token, &err), MOON_OK);
  assert_memory_equal(token.bytes, "\u5b57", 3);
  assert_int_equal(moon_tokenizer_find(t, "\u5b57", 3), -1);
  moon_tokenizer_release(t);
  add_token(root, 1400, "\u5b57", false);
  assert_int_equal(parse(&t, root, &err), MOON_EFORMAT);
  json_decref(root);
}

static void files_that_are_something_else(void **state) {
  static const char *const texts[] = {"[]", "{}", "{\"model\": 1}", "{\"a\": 1, \"a\": 2}",
                                      "\xff\xfe{}"};
  (void)state;
  moon_tokenizer *t;
  moon_err err;
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    assert_int_not_equal(moon_tokenizer_parse(&t, texts[i], strlen(texts[i]), &err), MOON_OK);
  assert_int_equal(moon_tokenizer_parse(&t, "[]", 2, &err), MOON_EFORMAT);
  assert_string_equal(err.text, "not JSON: byte 0: expected '{', found '['");
  static const char *const places[] = {
      "{\"a\":", "{\"model\":{\"vocab\":{\"a\":", "{\"model\":{\"merges\":["};
  char *deep = malloc(1000000);
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    memset(deep, '[', 1000000);
    memcpy(deep, places[i], strlen(places[i]));
    assert_int_equal(moon_tokenizer_parse(&t, deep, 1000000, &err), MOON_EFORMAT);
    assert_non_null(strstr(err.text, "expected no deeper nesting, found '['"));
  }
  free(deep);
  assert_int_equal(moon_tokenizer_parse(&t, NULL, 0, &err), MOON_EFORMAT);
  assert_int_equal(moon_tokenizer_load(&t, "/nowhere/tokenizer.json", &err), MOON_ENOENT);
  assert_string_equal(err.text, "/nowhere/tokenizer.json: No such file or directory");
  assert_int_equal(moon_tokenizer_load(&t, MOON_SOURCE_DIR "/LICENSE", &err), MOON_EFORMAT);
  assert_memory_equal(err.text,
                      MOON_SOURCE_DIR "/LICENSE: not JSON: ", strlen(MOON_SOURCE_DIR) + 20);
}

/* ---- size and threads ---- */

static double seconds_to_encode(const char *unit, size_t size) {
  size_t n = strlen(unit);
  char *text = malloc(size);
  for (size_t i = 0; i < size; i++)
    text[i] = unit[i % n];
  double best = 1e9;
  for (int repeat = 0; repeat < 3; repeat++) {
    struct timespec start, end;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    moon_encoding e = encode(tiny, text, size - size % n, 0);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    double seconds =
        (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    best = seconds < best ? seconds : best;
    moon_encoding_free(&e);
  }
  free(text);
  return best;
}

/* Ten times the text in about ten times the CPU time; a quadratic step anywhere would take a
 * hundred. P39 */
static void long_texts_take_linear_time(void **state) {
  static const char *const units[] = {"a",          " ",    "\n",  "\u0301", "<|",
                                      "<|eot_id|>", "ab1 ", " \t", "\xff",   "7"};
  (void)state;
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    double small = seconds_to_encode(units[i], 100000),
           large = seconds_to_encode(units[i], 1000000);
    if (large > 30 * small)
      fail_msg("unit %zu: 100 kB in %.4f s, 1 MB in %.4f s", i, small, large);
  }
}

static void *encode_often(void *text) {
  bool *same = calloc(1, sizeof *same);
  *same = true;
  moon_encoding first = {0};
  for (int i = 0; i < 200; i++) {
    moon_encoding e = {0};
    moon_tokenizer_encode(tiny, text, strlen(text), 0, i ? &e : &first, NULL);
    *same =
        *same && (i == 0 || (e.n == first.n && memcmp(e.ids, first.ids, e.n * sizeof *e.ids) == 0));
    moon_encoding_free(&e);
  }
  moon_encoding_free(&first);
  return same;
}

static void threads_share_one(void **state) {
  (void)state;
  pthread_t threads[4];
  char text[] = "The red fox isn't here; 12345 caf\xc3\xa9s <|eot_id|>";
  for (int i = 0; i < 4; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, encode_often, text), 0);
  for (int i = 0; i < 4; i++) {
    void *same;
    pthread_join(threads[i], &same);
    assert_true(*(bool *)same);
    free(same);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(golden_ids),
      cmocka_unit_test(bos_and_special_tokens),
      cmocka_unit_test(token_ids_out_of_range),
      cmocka_unit_test(any_bytes_round_trip),
      cmocka_unit_test(an_invalid_byte_is_a_piece_of_its_own),
      cmocka_unit_test(merges_in_the_plain_order),
      cmocka_unit_test(ignore_merges_takes_a_whole_piece),
      cmocka_unit_test(added_tokens_longest_and_leftmost),
      cmocka_unit_test(byte_level_brings_its_own_pattern),
      cmocka_unit_test(files_with_a_bad_field),
      cmocka_unit_test(files_that_are_cut),
      cmocka_unit_test(keys_that_are_there_twice),
      cmocka_unit_test(tokens_outside_of_the_alphabet),
      cmocka_unit_test(files_that_are_something_else),
      cmocka_unit_test(long_texts_take_linear_time),
      cmocka_unit_test(threads_share_one),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, load_tiny, release_tiny);
}
