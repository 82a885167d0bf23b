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
#include "llama/token_lists.h"
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
static moon_status read_byte_frame(moon_tokenizer *t, const json_t *root, moon_err *err) {
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

static moon_status measure_vocab(const moon_token_lists *lists, token_sizes *sizes, moon_err *err) {
  if (!lists->has_vocab)
    return moon_fail(err, MOON_EFORMAT, "model.vocab: expected an object of ids");
  for (size_t i = 0; i < lists->n_tokens; i++) {
    const moon_listed_token *token = &lists->tokens[i];
    if (token->id < 0)
      return moon_fail(err, MOON_EFORMAT,
                       "model.vocab: the id of \"%.40s\" is not a number from 0 to %d",
                       lists->arena + token->at, MOON_VOCAB_MAX - 1);
    sizes->n_vocab = token->id >= sizes->n_vocab ? token->id + 1 : sizes->n_vocab;
    sizes->n_bytes += token->size;
    sizes->longest = token->size > sizes->longest ? token->size : sizes->longest;
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

/* A token that merges never make: one not written in the alphabet, or of characters one that stands
 * for a byte or has a plain space. It only has a text. */
typedef struct foreign_token {
  const char *text;
  int32_t id;
} foreign_token;

/* What a tokenizer is made from. */
typedef struct source {
  const json_t *root; /* the file without its lists */
  const moon_token_lists *lists;
  token_sizes sizes;
  int16_t alphabet[ALPHABET_END];
  char *buffer; /* [2 * sizes.longest + 1] */
  foreign_token
      *foreign; /* [n_foreign], sorted by their texts; those of characters are the bytes */
  size_t n_foreign;
} source;

/* "<0x0A>": the byte; -1: another text. */
static int byte_of(const char *text, size_t size) {
  static const char digits[] = "0123456789ABCDEF";
  if (size != 6 || strncmp(text, "<0x", 3) || text[5] != '>' || !strchr(digits, text[3]) ||
      !strchr(digits, text[4]))
    return -1;
  return (int)((strchr(digits, text[3]) - digits) * 16 + (strchr(digits, text[4]) - digits));
}

/* Writes spaces as a text has them to out (as long as text at most). -1: a foreign token. */
static ptrdiff_t from_characters(const char *text, size_t size, char *out) {
  const char *start = out;
  if (byte_of(text, size) >= 0 || memchr(text, ' ', size))
    return -1;
  for (size_t i = 0, n; i < size; i += n) {
    n = moon_bpe_space(text + i, size - i);
    *out++ = n ? ' ' : text[i];
    n = n ? n : 1;
  }
  return out - start;
}

/* The bytes that merges make of what the file writes as text, to out, as long as text at most. -1:
 * a foreign token. */
static ptrdiff_t made_of(const moon_tokenizer *t, const source *from, const char *text, size_t size,
                         char *out) {
  return t->splitter ? from_alphabet(from->alphabet, text, size, out)
                     : from_characters(text, size, out);
}

static bool has_inner_space(const char *bytes, size_t size) {
  for (size_t i = 1; i < size; i++)
    if (bytes[i] == ' ' && bytes[i - 1] != ' ')
      return true;
  return false;
}

static moon_status fail_twice(const char *text, moon_err *err) {
  return moon_fail(err, MOON_EFORMAT, "model.vocab: \"%.40s\" is there twice", text);
}

static moon_status fail_same_id(int32_t id, moon_err *err) {
  return moon_fail(err, MOON_EFORMAT, "model.vocab: two tokens have the id %d", id);
}

static moon_status add_foreign(moon_tokenizer *t, source *from, const char *text, size_t size,
                               int32_t id, moon_err *err) {
  int byte = t->splitter ? -1 : byte_of(text, size);
  char c = (char)byte;
  from->foreign[from->n_foreign++] = (foreign_token){text, id};
  if (byte >= 0)
    t->bpe.byte_ids[byte] = id;
  return moon_vocab_add(&t->vocab, id, byte < 0 ? text : &c, byte < 0 ? size : 1)
             ? MOON_OK
             : fail_same_id(id, err);
}

static moon_status add_token(moon_tokenizer *t, source *from, const moon_listed_token *token,
                             moon_err *err) {
  const char *text = from->lists->arena + token->at;
  ptrdiff_t n = made_of(t, from, text, token->size, from->buffer);
  if (n < 0)
    return add_foreign(t, from, text, token->size, token->id, err);
  if (!moon_vocab_add(&t->vocab, token->id, from->buffer, (size_t)n))
    return fail_same_id(token->id, err);
  if (!moon_vocab_index(&t->vocab, token->id))
    return fail_twice(text, err);
  t->words_apart = t->words_apart && !has_inner_space(from->buffer, (size_t)n);
  return MOON_OK;
}

static int compare_foreign(const void *a, const void *b) {
  return strcmp(((const foreign_token *)a)->text, ((const foreign_token *)b)->text);
}

static moon_status sort_foreign(source *from, moon_err *err) {
  foreign_token *tokens = from->foreign;
  qsort(tokens, from->n_foreign, sizeof *tokens, compare_foreign);
  for (size_t i = 1; i < from->n_foreign; i++)
    if (compare_foreign(&tokens[i - 1], &tokens[i]) == 0)
      return fail_twice(tokens[i].text, err);
  return MOON_OK;
}

static moon_status check_vocab(const moon_tokenizer *t, moon_err *err) {
  for (int byte = 0; byte < 256; byte++)
    if (t->bpe.byte_ids[byte] < 0)
      return moon_fail(err, MOON_EUNSUPPORTED,
                       "model.vocab: no token for byte 0x%02x, expected one for each", byte);
  if (!t->splitter && moon_vocab_find(&t->vocab, " ", 1) < 0)
    return moon_fail(err, MOON_EUNSUPPORTED, "model.vocab: no token for U+2581, the space");
  return MOON_OK;
}

static moon_status add_vocab(moon_tokenizer *t, source *from, moon_err *err) {
  moon_status status = MOON_OK;
  t->words_apart = !t->splitter;
  memset(t->bpe.byte_ids, 0xff, sizeof t->bpe.byte_ids);
  for (size_t i = 0; i < from->lists->n_tokens && !status; i++)
    status = add_token(t, from, &from->lists->tokens[i], err);
  for (int byte = 0; t->splitter && byte < 256; byte++) {
    char c = (char)byte;
    t->bpe.byte_ids[byte] = moon_vocab_find(&t->vocab, &c, 1);
  }
  (void)(status || (status = check_vocab(t, err)) || (status = sort_foreign(from, err)));
  return status;
}

/* The id that model.vocab gives to what an added token is; -1: it is not there. */
static int32_t id_in_vocab(const moon_tokenizer *t, const source *from, const char *content,
                           size_t size) {
  char bytes[MOON_SPECIAL_MAX_BYTES];
  ptrdiff_t n = made_of(t, from, content, size, bytes);
  if (n >= 0)
    return moon_vocab_find(&t->vocab, bytes, (size_t)n);
  foreign_token key = {content, -1};
  const foreign_token *found =
      from->n_foreign ? bsearch(&key, from->foreign, from->n_foreign, sizeof key, compare_foreign)
                      : NULL;
  return found ? found->id : -1;
}

static moon_status add_special(moon_tokenizer *t, const source *from, const json_t *token,
                               moon_err *err) {
  const char *content = string_at(token, "content");
  size_t size = strlen(content);
  int32_t id = (int32_t)json_integer_value(json_object_get(token, "id"));
  int32_t in_vocab = id_in_vocab(t, from, content, size);
  if (is_set(token, "lstrip") || is_set(token, "rstrip") || is_set(token, "single_word"))
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "lstrip, rstrip or single_word is set, expected none of them");
  if (moon_special_get(&t->special, content, size) >= 0)
    return moon_fail(err, MOON_EFORMAT, "its content was added before");
  if (in_vocab >= 0 ? in_vocab != id : !moon_vocab_add(&t->vocab, id, content, size))
    return moon_fail(err, MOON_EFORMAT, "id %d disagrees with model.vocab or an earlier one", id);
  t->vocab.tokens[id].special = json_is_true(json_object_get(token, "special"));
  moon_special_add(&t->special, id, content, size);
  return MOON_OK;
}

static moon_status add_specials(moon_tokenizer *t, const source *from, moon_err *err) {
  const json_t *added = json_object_get(from->root, "added_tokens");
  for (size_t i = 0; i < json_array_size(added); i++) {
    moon_status status = add_special(t, from, json_array_get(added, i), err);
    if (status) {
      char where[48];
      snprintf(where, sizeof where, "added_tokens[%zu]", i);
      return moon_fail_in(err, status, where);
    }
  }
  return MOON_OK;
}

/* --- model.merges, in the order of their ranks --- */

/* false: not two tokens that join to a third. */
static bool add_merge(moon_tokenizer *t, const source *from, const moon_listed_merge *m) {
  const char *text = from->lists->arena + m->at;
  size_t longest = from->sizes.longest;
  char *left_bytes = from->buffer;
  if (m->n_left > longest || m->n_right > longest)
    return false;
  ptrdiff_t n_left = made_of(t, from, text, m->n_left, left_bytes);
  ptrdiff_t n_right =
      n_left < 0 ? -1 : made_of(t, from, text + m->n_left + 1, m->n_right, left_bytes + n_left);
  if (n_right < 0)
    return false;
  int32_t left = moon_vocab_find(&t->vocab, left_bytes, (size_t)n_left);
  int32_t right = moon_vocab_find(&t->vocab, left_bytes + n_left, (size_t)n_right);
  int32_t merged = moon_vocab_find(&t->vocab, left_bytes, (size_t)(n_left + n_right));
  return left >= 0 && right >= 0 && merged >= 0 && moon_bpe_add(&t->bpe, left, right, merged);
}

static moon_status add_merges(moon_tokenizer *t, const source *from, moon_err *err) {
  for (size_t i = 0; i < from->lists->n_merges; i++) {
    const moon_listed_merge *merge = &from->lists->merges[i];
    if (merge->n_left == MOON_NO_MERGE)
      return moon_fail(err, MOON_EFORMAT, "model.merges[%zu]: expected \"a b\" or [\"a\", \"b\"]",
                       i);
    if (!add_merge(t, from, merge))
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

static moon_status read_tokens(moon_tokenizer *t, source *from, moon_err *err) {
  const moon_token_lists *lists = from->lists;
  if (!lists->has_merges)
    return moon_fail(err, MOON_EFORMAT, "model.merges: expected an array");
  from->buffer = malloc(2 * from->sizes.longest + 1);
  from->foreign = malloc((lists->n_tokens + 1) * sizeof *from->foreign);
  if (!from->buffer || !from->foreign)
    return moon_fail(err, MOON_ENOMEM, "no memory for the tokenizer");
  moon_status status = moon_vocab_init(&t->vocab, from->sizes.n_vocab,
                                       from->sizes.n_bytes + from->sizes.n_added_bytes, err);
  (void)(status || (status = moon_bpe_init(&t->bpe, lists->n_merges, t->vocab.seed, err)) ||
         (status = add_vocab(t, from, err)) || (status = add_merges(t, from, err)) ||
         (status = moon_special_init(&t->special, from->sizes.n_added_bytes, err)) ||
         (status = add_specials(t, from, err)));
  return status;
}

/* How a text becomes what merges take, and back. */
static moon_status read_frame(moon_tokenizer *t, const json_t *root, moon_err *err) {
  if (is_set(json_object_get(root, "model"), "byte_fallback"))
    return read_characters(t, root, err);
  moon_status status = read_byte_frame(t, root, err);
  return status ? status : read_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), err);
}

static moon_status read_root(moon_tokenizer *t, source *from, moon_err *err) {
  const json_t *root = from->root, *model = json_object_get(root, "model");
  moon_status status;
  t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
  fill_alphabet(from->alphabet);
  (void)((status = check_model_options(model, err)) || (status = read_frame(t, root, err)) ||
         (status = measure_vocab(from->lists, &from->sizes, err)) ||
         (status = measure_added(json_object_get(root, "added_tokens"), &from->sizes, err)) ||
         (status = read_tokens(t, from, err)) ||
         (status = read_post_processor(t, json_object_get(root, "post_processor"), err)));
  free(from->buffer);
  free(from->foreign);
  return status;
}

static moon_status read_json(json_t **root, moon_token_lists *lists, const char *data, size_t size,
                             moon_err *err) {
  json_error_t why;
  *lists = (moon_token_lists){0};
  *root = NULL;
  if (size > MAX_FILE_BYTES)
    return moon_fail(err, MOON_EFORMAT, "%zu bytes, expected at most %zu", size, MAX_FILE_BYTES);
  moon_status status = moon_token_lists_read(lists, data ? data : "", size, err);
  if (status == MOON_EFORMAT)
    moon_fail_in(err, status, "not JSON");
  if (status)
    return status;
  status = moon_json_load(root, lists->rest, lists->rest_size, &why);
  if (status == MOON_ENOMEM)
    return moon_fail(err, status, "no memory to read %zu bytes of JSON", lists->rest_size);
  if (status)
    return moon_fail(err, status, "not JSON: %.100s", why.text);
  return MOON_OK;
}

moon_status moon_tokenizer_parse(moon_tokenizer **out, const char *data, size_t size,
                                 moon_err *err) {
  *out = NULL;
  json_t *root;
  moon_token_lists lists;
  moon_tokenizer *t = NULL;
  moon_status status = read_json(&root, &lists, data, size, err);
  if (!status)
    status = moon_tokenizer_new(&t, err);
  if (!status)
    status = read_root(t, &(source){.root = root, .lists = &lists}, err);
  json_decref(root);
  moon_token_lists_free(&lists);
  if (status)
    moon_tokenizer_release(t);
  else
    *out = t;
  return status;
}

moon_status moon_tokenizer_load(moon_tokenizer **out, const char *path, moon_err *err) {
  *out = NULL;
  moon_bytes *file;
  moon_status status = moon_bytes_read(&file, path, err);
  if (status)
    return status;
  status =
      moon_tokenizer_parse(out, (const char *)moon_bytes_data(file), moon_bytes_size(file), err);
  if (status)
    moon_fail_in(err, status, path);
  moon_bytes_release(file);
  return status;
}
