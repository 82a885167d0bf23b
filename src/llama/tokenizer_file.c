// SPDX-License-Identifier: MIT
/*
 * tokenizer.json, as Hugging Face's tokenizers write it. Its parts say how text is normalized, cut,
 * merged and decorated; each must be what moonscope does, or the file is refused. "truncation" and
 * "padding" are passed over: they tell how the file was last used for training, not what a text's
 * ids are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/bytes.h"
#include "io/json.h"
#include "llama/tokenizer_parts.h"

#define MAX_FILE_BYTES ((size_t)256 << 20) /* the largest published ones have 33 MB */

/* --- the byte alphabet: how vocab and merges write bytes as printable characters --- */

#define ALPHABET_END 0x144 /* code points from U+0021 to U+0143 */

static bool stands_for_itself(unsigned code) {
  return (code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xac) ||
         (code >= 0xae && code <= 0xff);
}

/* bytes[code point]: the byte that the character stands for, -1 for none. Bytes that are no
 * printable Latin-1 character are numbered from U+0100. */
static void fill_alphabet(int16_t bytes[ALPHABET_END]) {
  memset(bytes, 0xff, ALPHABET_END * sizeof *bytes);
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; byte++)
    bytes[stands_for_itself(byte) ? byte : next++] = (int16_t)byte;
}

/* Writes the bytes that `text` stands for to out (as long as text at most). -1: not all of it is in
 * the alphabet. */
static ptrdiff_t from_alphabet(const int16_t bytes[ALPHABET_END], const char *text, size_t size,
                               char *out) {
  const char *start = out;
  for (size_t i = 0, n; i < size; i += n) {
    n = (uint8_t)text[i] < 0x80 ? 1 : 2;
    unsigned code = n == 1 ? (uint8_t)text[i] : (text[i] & 0x1fu) << 6 | (text[i + 1] & 0x3fu);
    if ((uint8_t)text[i] >= 0xe0 || code >= ALPHABET_END || bytes[code] < 0)
      return -1;
    *out++ = (char)bytes[code];
  }
  return out - start;
}

/* --- small readings of JSON --- */

static const char *string_at(const json_t *object, const char *key) {
  return json_string_value(json_object_get(object, key));
}

static const char *type_of(const json_t *object) {
  const char *type = string_at(object, "type");
  return type ? type : json_is_null(object) || !object ? "null" : "without a type";
}

static bool has_type(const json_t *object, const char *type) {
  return strcmp(type_of(object), type) == 0;
}

/* Absent, null, false, 0 and "" all say: not used. */
static bool is_set(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return !(!value || json_is_null(value) || json_is_false(value) ||
           (json_is_number(value) && json_number_value(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0));
}

/* An id from the file. */
static bool get_id(const json_t *value, int32_t *id) {
  json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
  *id = n >= 0 && n < MOON_VOCAB_MAX ? (int32_t)n : -1;
  return *id >= 0;
}

/* --- the parts that only have to be what we do --- */

static moon_status unsupported(moon_err *err, const char *part, const char *found,
                               const char *expected) {
  return moon_fail(err, MOON_EUNSUPPORTED, "%s: %.40s, expected %s", part, found, expected);
}

static moon_status check_model_options(const json_t *model, moon_err *err) {
  static const char *const foreign[] = {"dropout", "continuing_subword_prefix",
                                        "end_of_word_suffix"};
  if (!has_type(model, "BPE"))
    return unsupported(err, "model", type_of(model), "BPE (as Llama has it)");
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
    if (is_set(model, foreign[i]))
      return unsupported(err, "model", foreign[i], "a BPE without it");
  return MOON_OK;
}

/* --- normalizer and decoder --- */

static bool is_absent(const json_t *part) {
  return !part || json_is_null(part);
}

/* Byte-level: none, or Qwen's NFC. */
static moon_status read_frame(moon_tokenizer *t, const json_t *root, moon_err *err) {
  const json_t *normalizer = json_object_get(root, "normalizer"),
               *decoder = json_object_get(root, "decoder");
  t->normalizes = has_type(normalizer, "NFC");
  if (!is_absent(normalizer) && !t->normalizes)
    return unsupported(err, "normalizer", type_of(normalizer), "none or NFC");
  if (!has_type(decoder, "ByteLevel"))
    return unsupported(err, "decoder", type_of(decoder), "ByteLevel");
  return MOON_OK;
}

/* --- characters: a space is written U+2581, which a normalizer or a Metaspace does --- */

static bool has_string(const json_t *object, const char *key, const char *value) {
  const char *found = string_at(object, key);
  return found && !strcmp(found, value);
}

/* {"type": "Replace", "pattern": {"String": from}, "content": to} */
static bool replaces(const json_t *part, const char *from, const char *to) {
  return has_type(part, "Replace") &&
         has_string(json_object_get(part, "pattern"), "String", from) &&
         has_string(part, "content", to);
}

/* Replace alone, or Prepend and Replace. */
static moon_status read_normalizer(moon_tokenizer *t, const json_t *part, moon_err *err) {
  const json_t *parts = json_object_get(part, "normalizers"), *last = part;
  if (has_type(part, "Sequence") && json_array_size(parts) == 2) {
    const json_t *prepend = json_array_get(parts, 0);
    if (!has_type(prepend, "Prepend") || !has_string(prepend, "prepend", MOON_BPE_SPACE))
      return unsupported(err, "normalizer", type_of(prepend), "Prepend of U+2581, then Replace");
    t->prefix = MOON_PREFIX_ANYHOW;
    last = json_array_get(parts, 1);
  }
  if (!replaces(last, " ", MOON_BPE_SPACE))
    return unsupported(err, "normalizer", type_of(last), "Replace of spaces by U+2581");
  return MOON_OK;
}

static moon_status read_metaspace(moon_tokenizer *t, const json_t *part, moon_err *err) {
  static const char *const schemes[] = {"never", "first", "always"};
  const char *scheme = string_at(part, "prepend_scheme");
  if (!has_type(part, "Metaspace") || !has_string(part, "replacement", MOON_BPE_SPACE))
    return unsupported(err, "pre_tokenizer", type_of(part), "Metaspace with U+2581");
  if (!json_is_false(json_object_get(part, "split")))
    return unsupported(err, "pre_tokenizer Metaspace", "split", "one that splits nothing");
  for (int i = 0; i < 3; i++)
    if (scheme && !strcmp(scheme, schemes[i]))
      return t->prefix = (moon_prefix)i, MOON_OK;
  return unsupported(err, "pre_tokenizer Metaspace", scheme ? scheme : "no prepend_scheme",
                     "never, first or always");
}

/* Replace, ByteFallback, Fuse, and a Strip of one space in front or none. */
static moon_status read_decoder(moon_tokenizer *t, const json_t *part, moon_err *err) {
  const json_t *parts = json_object_get(part, "decoders"), *strip = json_array_get(parts, 3);
  size_t n = json_array_size(parts);
  bool known = n >= 3 && n <= 4 && replaces(json_array_get(parts, 0), MOON_BPE_SPACE, " ") &&
               has_type(json_array_get(parts, 1), "ByteFallback") &&
               has_type(json_array_get(parts, 2), "Fuse");
  t->strips_space = n == 4;
  if (n == 4)
    known = known && has_type(strip, "Strip") && has_string(strip, "content", " ") &&
            json_integer_value(json_object_get(strip, "start")) == 1 &&
            json_integer_value(json_object_get(strip, "stop")) == 0;
  return known ? MOON_OK
               : unsupported(err, "decoder", type_of(part),
                             "Replace, ByteFallback, Fuse and a Strip of one space");
}

static moon_status read_characters(moon_tokenizer *t, const json_t *root, moon_err *err) {
  const json_t *normalizer = json_object_get(root, "normalizer"),
               *pre = json_object_get(root, "pre_tokenizer");
  moon_status status;
  if (is_absent(normalizer))
    status = read_metaspace(t, pre, err);
  else if (!is_absent(pre))
    status = unsupported(err, "pre_tokenizer", type_of(pre), "none beside a normalizer");
  else
    status = read_normalizer(t, normalizer, err);
  if (!status && t->ignore_merges)
    status = unsupported(err, "model", "ignore_merges", "a BPE with byte_fallback without it");
  return status ? status : read_decoder(t, json_object_get(root, "decoder"), err);
}

/* --- pre_tokenizer: a ByteLevel with its own pattern, or a Split and a ByteLevel without --- */

/* ByteLevel's own pattern is used unless the file says no. */
static moon_status check_byte_level(const json_t *part, bool with_regex, moon_err *err) {
  const json_t *use_regex = json_object_get(part, "use_regex");
  if (!has_type(part, "ByteLevel"))
    return unsupported(err, "pre_tokenizer", type_of(part), "ByteLevel, or Split and ByteLevel");
  if (is_set(part, "add_prefix_space"))
    return unsupported(err, "pre_tokenizer", "add_prefix_space", "a ByteLevel without it");
  if (!json_is_false(use_regex) != with_regex)
    return unsupported(err, "pre_tokenizer", with_regex ? "no pattern" : "two patterns", "one");
  return MOON_OK;
}

static moon_status read_split(const json_t *split, const char **pattern, moon_err *err) {
  const char *behavior = string_at(split, "behavior");
  *pattern = string_at(json_object_get(split, "pattern"), "Regex");
  if (!has_type(split, "Split"))
    return unsupported(err, "pre_tokenizer", type_of(split), "Split and ByteLevel");
  if (!*pattern)
    return unsupported(err, "pre_tokenizer Split", "no Regex pattern", "one");
  if (!behavior || strcmp(behavior, "Isolated") != 0 || is_set(split, "invert"))
    return unsupported(err, "pre_tokenizer Split",
                       is_set(split, "invert") ? "inverted"
                       : behavior              ? behavior
                                               : "none",
                       "behavior Isolated, not inverted");
  return MOON_OK;
}

static moon_status read_pre_tokenizer(moon_tokenizer *t, const json_t *part, moon_err *err) {
  const char *pattern = moon_split_gpt2;
  moon_status status;
  if (has_type(part, "Sequence")) {
    const json_t *parts = json_object_get(part, "pretokenizers");
    if (json_array_size(parts) != 2)
      return moon_fail(err, MOON_EUNSUPPORTED,
                       "pre_tokenizer: a sequence of %zu, expected Split and ByteLevel",
                       json_array_size(parts));
    status = read_split(json_array_get(parts, 0), &pattern, err);
    if (!status)
      status = check_byte_level(json_array_get(parts, 1), false, err);
  } else {
    status = check_byte_level(part, true, err);
  }
  return status ? status : moon_splitter_new(&t->splitter, pattern, err);
}

/* --- model.vocab and added_tokens --- */

typedef struct token_sizes {
  int32_t n_vocab; /* the highest id + 1 */
  size_t n_bytes, n_added_bytes, longest;
} token_sizes;

static moon_status measure_vocab(const json_t *vocab, token_sizes *sizes, moon_err *err) {
  const char *text;
  json_t *value;
  if (!json_is_object(vocab))
    return moon_fail(err, MOON_EFORMAT, "model.vocab: expected an object of ids");
  json_object_foreach((json_t *)vocab, text, value) {
    int32_t id;
    if (!get_id(value, &id))
      return moon_fail(err, MOON_EFORMAT,
                       "model.vocab: the id of \"%.40s\" is not a number from 0 to %d", text,
                       MOON_VOCAB_MAX - 1);
    size_t size = strlen(text);
    sizes->n_vocab = id >= sizes->n_vocab ? id + 1 : sizes->n_vocab;
    sizes->n_bytes += size;
    sizes->longest = size > sizes->longest ? size : sizes->longest;
  }
  return MOON_OK;
}

static moon_status measure_added(const json_t *added, token_sizes *sizes, moon_err *err) {
  if (added && !json_is_array(added))
    return moon_fail(err, MOON_EFORMAT, "added_tokens: expected an array");
  for (size_t i = 0; i < json_array_size(added); i++) {
    const json_t *token = json_array_get(added, i);
    const json_t *content = json_object_get(token, "content");
    size_t size = json_string_length(content);
    int32_t id;
    if (!get_id(json_object_get(token, "id"), &id))
      return moon_fail(err, MOON_EFORMAT, "added_tokens[%zu]: its id is not a number from 0 to %d",
                       i, MOON_VOCAB_MAX - 1);
    if (size == 0 || size > MOON_SPECIAL_MAX_BYTES)
      return moon_fail(err, MOON_EFORMAT,
                       "added_tokens[%zu]: content of %zu bytes, expected 1 to %d", i, size,
                       MOON_SPECIAL_MAX_BYTES);
    sizes->n_vocab = id >= sizes->n_vocab ? id + 1 : sizes->n_vocab;
    sizes->n_added_bytes += size;
  }
  return MOON_OK;
}

/* "<0x0A>": the byte; -1: another text. */
static int byte_of(const char *text) {
  static const char digits[] = "0123456789ABCDEF";
  if (strlen(text) != 6 || strncmp(text, "<0x", 3) || text[5] != '>' || !strchr(digits, text[3]) ||
      !strchr(digits, text[4]))
    return -1;
  return (int)((strchr(digits, text[3]) - digits) * 16 + (strchr(digits, text[4]) - digits));
}

/* Spaces as they are in a text. Writes as many bytes as text has at most. */
static size_t from_characters(const char *text, size_t size, char *out) {
  const char *start = out;
  for (size_t i = 0, n; i < size; i += n) {
    n = moon_bpe_space(text + i, size - i);
    *out++ = n ? ' ' : text[i];
    n = n ? n : 1;
  }
  return (size_t)(out - start);
}

static bool has_inner_space(const char *bytes, size_t size) {
  for (size_t i = 1; i < size; i++)
    if (bytes[i] == ' ' && bytes[i - 1] != ' ')
      return true;
  return false;
}

static moon_status check_bytes(const moon_tokenizer *t, moon_err *err) {
  for (int byte = 0; byte < 256; byte++)
    if (t->bpe.byte_ids[byte] < 0)
      return moon_fail(err, MOON_EUNSUPPORTED,
                       "model.vocab: no token for byte 0x%02x, expected one for each", byte);
  return MOON_OK;
}

static moon_status add_characters(moon_tokenizer *t, const json_t *vocab, char *buffer,
                                  moon_err *err) {
  const char *text;
  json_t *value;
  t->words_apart = true;
  memset(t->bpe.byte_ids, 0xff, sizeof t->bpe.byte_ids);
  json_object_foreach((json_t *)vocab, text, value) {
    int32_t id = (int32_t)json_integer_value(value);
    int byte = byte_of(text);
    size_t n = byte < 0 ? from_characters(text, strlen(text), buffer) : 1;
    if (byte >= 0) {
      buffer[0] = (char)byte;
      t->bpe.byte_ids[byte] = id;
    }
    if (!moon_vocab_add(&t->vocab, id, buffer, n))
      return moon_fail(err, MOON_EFORMAT, "model.vocab: two tokens have the id %d", id);
    if (byte < 0 && moon_vocab_find(&t->vocab, buffer, n) >= 0)
      return moon_fail(err, MOON_EUNSUPPORTED,
                       "model.vocab: \"%.40s\" is there with U+2581 and with a space", text);
    if (byte < 0)
      moon_vocab_index(&t->vocab, id);
    t->words_apart = t->words_apart && !has_inner_space(buffer, n);
  }
  if (moon_vocab_find(&t->vocab, " ", 1) < 0)
    return moon_fail(err, MOON_EUNSUPPORTED, "model.vocab: no token for U+2581, the space");
  return check_bytes(t, err);
}

/* A vocab entry that is not written in the alphabet is never made by merges: it only has a text. */
static moon_status add_vocab(moon_tokenizer *t, const int16_t alphabet[ALPHABET_END],
                             const json_t *vocab, char *buffer, moon_err *err) {
  const char *text;
  json_t *value;
  json_object_foreach((json_t *)vocab, text, value) {
    int32_t id = (int32_t)json_integer_value(value);
    ptrdiff_t n = from_alphabet(alphabet, text, strlen(text), buffer);
    if (!moon_vocab_add(&t->vocab, id, n < 0 ? text : buffer, n < 0 ? strlen(text) : (size_t)n))
      return moon_fail(err, MOON_EFORMAT, "model.vocab: two tokens have the id %d", id);
    if (n >= 0)
      moon_vocab_index(&t->vocab, id);
  }
  for (int byte = 0; byte < 256; byte++) {
    char c = (char)byte;
    t->bpe.byte_ids[byte] = moon_vocab_find(&t->vocab, &c, 1);
  }
  return check_bytes(t, err);
}

static moon_status add_special(moon_tokenizer *t, const json_t *token, const json_t *vocab,
                               moon_err *err) {
  const char *content = string_at(token, "content");
  size_t size = strlen(content);
  const json_t *in_vocab = json_object_get(vocab, content);
  int32_t id = (int32_t)json_integer_value(json_object_get(token, "id"));
  if (is_set(token, "lstrip") || is_set(token, "rstrip") || is_set(token, "single_word"))
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "lstrip, rstrip or single_word is set, expected none of them");
  if (moon_special_get(&t->special, content, size) >= 0)
    return moon_fail(err, MOON_EFORMAT, "its content was added before");
  if (in_vocab ? json_integer_value(in_vocab) != id : !moon_vocab_add(&t->vocab, id, content, size))
    return moon_fail(err, MOON_EFORMAT, "id %d disagrees with model.vocab or an earlier one", id);
  t->vocab.tokens[id].special = json_is_true(json_object_get(token, "special"));
  moon_special_add(&t->special, id, content, size);
  return MOON_OK;
}

static moon_status add_specials(moon_tokenizer *t, const json_t *added, const json_t *vocab,
                                moon_err *err) {
  for (size_t i = 0; i < json_array_size(added); i++) {
    moon_status status = add_special(t, json_array_get(added, i), vocab, err);
    if (status) {
      char where[48];
      snprintf(where, sizeof where, "added_tokens[%zu]", i);
      return moon_fail_in(err, status, where);
    }
  }
  return MOON_OK;
}

/* --- model.merges: "a b" or ["a", "b"], in the order of their ranks --- */

typedef struct merge_text {
  const char *left, *right;
  size_t n_left, n_right;
} merge_text;

static bool get_merge(const json_t *merge, merge_text *m) {
  if (json_is_array(merge) && json_array_size(merge) == 2) {
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    *m = (merge_text){json_string_value(left), json_string_value(right), json_string_length(left),
                      json_string_length(right)};
    return m->left && m->right;
  }
  const char *text = json_string_value(merge), *space = text ? strchr(text, ' ') : NULL;
  if (space)
    *m = (merge_text){text, space + 1, (size_t)(space - text), strlen(space + 1)};
  return space != NULL;
}

/* The bytes of a text that a token is written as; -1: it is none. */
static ptrdiff_t bytes_of(const moon_tokenizer *t, const int16_t alphabet[ALPHABET_END],
                          const char *text, size_t size, char *out) {
  return t->splitter ? from_alphabet(alphabet, text, size, out)
                     : (ptrdiff_t)from_characters(text, size, out);
}

/* buffer has room for two tokens of the longest size. false: not two tokens that join to a third.
 */
static bool add_merge(moon_tokenizer *t, const int16_t alphabet[ALPHABET_END], const merge_text *m,
                      size_t longest, char *buffer) {
  if (m->n_left > longest || m->n_right > longest)
    return false;
  ptrdiff_t n_left = bytes_of(t, alphabet, m->left, m->n_left, buffer);
  ptrdiff_t n_right =
      n_left < 0 ? -1 : bytes_of(t, alphabet, m->right, m->n_right, buffer + n_left);
  if (n_right < 0)
    return false;
  int32_t left = moon_vocab_find(&t->vocab, buffer, (size_t)n_left);
  int32_t right = moon_vocab_find(&t->vocab, buffer + n_left, (size_t)n_right);
  int32_t merged = moon_vocab_find(&t->vocab, buffer, (size_t)(n_left + n_right));
  return left >= 0 && right >= 0 && merged >= 0 && moon_bpe_add(&t->bpe, left, right, merged);
}

static moon_status add_merges(moon_tokenizer *t, const int16_t alphabet[ALPHABET_END],
                              const json_t *merges, size_t longest, char *buffer, moon_err *err) {
  for (size_t i = 0; i < json_array_size(merges); i++) {
    merge_text m;
    if (!get_merge(json_array_get(merges, i), &m))
      return moon_fail(err, MOON_EFORMAT, "model.merges[%zu]: expected \"a b\" or [\"a\", \"b\"]",
                       i);
    if (!add_merge(t, alphabet, &m, longest, buffer))
      return moon_fail(
          err, MOON_EFORMAT,
          "model.merges[%zu]: expected two tokens that join to a token, each pair once", i);
  }
  return MOON_OK;
}

/* --- post_processor: at most one token in front of the text --- */

static moon_status read_template(moon_tokenizer *t, const json_t *part, moon_err *err) {
  const json_t *single = json_object_get(part, "single");
  size_t n = json_array_size(single);
  if (n < 1 || n > 2 || !json_object_get(json_array_get(single, n - 1), "Sequence"))
    return unsupported(err, "post_processor", "another template", "one token and then the text");
  if (n == 1)
    return MOON_OK;
  const char *name = string_at(json_object_get(json_array_get(single, 0), "SpecialToken"), "id");
  const json_t *ids = json_object_get(
      json_object_get(json_object_get(part, "special_tokens"), name ? name : ""), "ids");
  int32_t id;
  moon_token token;
  if (json_array_size(ids) != 1 || !get_id(json_array_get(ids, 0), &id) ||
      moon_tokenizer_token(t, id, &token, NULL))
    return moon_fail(err, MOON_EFORMAT,
                     "post_processor: its first token is not one token of the vocabulary");
  t->bos = id;
  return MOON_OK;
}

/* A ByteLevel here only trims offsets in a way that ids do not see. */
static moon_status read_processor(moon_tokenizer *t, const json_t *part, moon_err *err) {
  if (has_type(part, "TemplateProcessing") && t->bos < 0)
    return read_template(t, part, err);
  if (!part || json_is_null(part) || has_type(part, "ByteLevel"))
    return MOON_OK;
  return unsupported(err, "post_processor", type_of(part), "ByteLevel and one TemplateProcessing");
}

static moon_status read_post_processor(moon_tokenizer *t, const json_t *part, moon_err *err) {
  if (!has_type(part, "Sequence"))
    return read_processor(t, part, err);
  const json_t *parts = json_object_get(part, "processors");
  moon_status status = MOON_OK;
  for (size_t i = 0; i < json_array_size(parts) && !status; i++)
    status = read_processor(t, json_array_get(parts, i), err);
  return status;
}

/* --- the whole --- */

static moon_status read_tokens(moon_tokenizer *t, const json_t *root, const token_sizes *sizes,
                               char *buffer, moon_err *err) {
  const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
  const json_t *merges = json_object_get(model, "merges");
  int16_t alphabet[ALPHABET_END];
  fill_alphabet(alphabet);
  if (!json_is_array(merges))
    return moon_fail(err, MOON_EFORMAT, "model.merges: expected an array");
  moon_status status =
      moon_vocab_init(&t->vocab, sizes->n_vocab, sizes->n_bytes + sizes->n_added_bytes, err);
  if (!status)
    status = moon_bpe_init(&t->bpe, (uint32_t)json_array_size(merges), t->vocab.seed, err);
  if (!status)
    status = t->splitter ? add_vocab(t, alphabet, vocab, buffer, err)
                         : add_characters(t, vocab, buffer, err);
  if (!status)
    status = add_merges(t, alphabet, merges, sizes->longest, buffer, err);
  if (!status)
    status = moon_special_init(&t->special, sizes->n_added_bytes, err);
  if (!status)
    status = add_specials(t, json_object_get(root, "added_tokens"), vocab, err);
  return status;
}

static moon_status read_root(moon_tokenizer *t, const json_t *root, moon_err *err) {
  const json_t *model = json_object_get(root, "model");
  t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
  token_sizes sizes = {0};
  moon_status status = check_model_options(model, err);
  bool characters = is_set(model, "byte_fallback");
  if (!status && characters)
    status = read_characters(t, root, err);
  else if (!status)
    status = read_frame(t, root, err);
  if (!status && !characters)
    status = read_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), err);
  if (!status)
    status = measure_vocab(json_object_get(model, "vocab"), &sizes, err);
  if (!status)
    status = measure_added(json_object_get(root, "added_tokens"), &sizes, err);
  if (status)
    return status;
  char *buffer = malloc(2 * sizes.longest + 1);
  status = buffer ? read_tokens(t, root, &sizes, buffer, err)
                  : moon_fail(err, MOON_ENOMEM, "no memory for the tokenizer");
  free(buffer);
  return status ? status : read_post_processor(t, json_object_get(root, "post_processor"), err);
}

static moon_status parse_json(json_t **root, const char *data, size_t size, moon_err *err) {
  json_error_t why;
  *root = NULL;
  if (size > MAX_FILE_BYTES)
    return moon_fail(err, MOON_EFORMAT, "%zu bytes, expected at most %zu", size, MAX_FILE_BYTES);
  moon_status status = moon_json_load(root, data ? data : "", size, &why);
  if (status == MOON_ENOMEM)
    return moon_fail(err, status, "no memory to read %zu bytes of JSON", size);
  if (status)
    return moon_fail(err, status, "not JSON: %.100s at byte %d", why.text, why.position);
  return MOON_OK;
}

moon_status moon_tokenizer_parse(moon_tokenizer **out, const char *data, size_t size,
                                 moon_err *err) {
  *out = NULL;
  json_t *root;
  moon_status status = parse_json(&root, data, size, err);
  if (status)
    return status;
  moon_tokenizer *t;
  status = moon_tokenizer_new(&t, err);
  if (!status)
    status = read_root(t, root, err);
  json_decref(root);
  if (status) {
    moon_tokenizer_release(t);
    return status;
  }
  *out = t;
  return MOON_OK;
}

moon_status moon_tokenizer_load(moon_tokenizer **out, const char *path, moon_err *err) {
  *out = NULL;
  moon_bytes *file;
  moon_status status = moon_bytes_open(&file, path, err);
  if (status)
    return status;
  status =
      moon_tokenizer_parse(out, (const char *)moon_bytes_data(file), moon_bytes_size(file), err);
  if (status)
    moon_fail_in(err, status, path);
  status = moon_bytes_check(file, status, err);
  moon_bytes_release(file);
  if (status)
    moon_tokenizer_release(*out), *out = NULL;
  return status;
}
