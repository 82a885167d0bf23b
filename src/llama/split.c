// SPDX-License-Identifier: MIT
#define PCRE2_CODE_UNIT_WIDTH 8

#include "llama/split.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PATTERN 4096 /* bytes; Llama 3's has 140 */

/* What one match may cost before a hostile pattern is given up. A run of whitespace backs up once
 * for every character, so the steps allow for long ones. */
#define MAX_STEPS    (64u << 20)
#define MAX_HEAP_KIB (256u << 10)

#define WHITE_SPACE                                                                  \
  "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
  "\\x{202f}\\x{205f}\\x{3000}"

const char moon_split_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Copies a pattern from `in` to `out` and rewrites it on the way. */
typedef struct rewriter {
  const char *in;
  char *out;
  bool in_class;
} rewriter;

static void copy(rewriter *r, size_t n) {
  r->out = (char *)memcpy(r->out, r->in, n) + n;
  r->in += n;
}

static void replace(rewriter *r, size_t n, const char *text) {
  r->out = stpcpy(r->out, text);
  r->in += n;
}

static moon_status refuse(const char *in, size_t n, moon_err *err) {
  return moon_fail(err, MOON_EUNSUPPORTED, "split pattern: moonscope has no translation of %.*s",
                   (int)n, in);
}

/* \p{L}, \P{Lu}, ... : the name is for PCRE2 to judge. */
static moon_status rewrite_property(rewriter *r, moon_err *err) {
  size_t n = strcspn(r->in, "}");
  if (r->in[2] != '{' || r->in[n] != '}')
    return refuse(r->in, 2, err);
  return copy(r, n + 1), MOON_OK;
}

static moon_status rewrite_escape(rewriter *r, moon_err *err) {
  char c = r->in[1];
  if (c == 's' && !(r->in_class && r->in[2] == '-'))
    return replace(r, 2, r->in_class ? WHITE_SPACE : "[" WHITE_SPACE "]"), MOON_OK;
  if (c == 'S' && !r->in_class)
    return replace(r, 2, "[^" WHITE_SPACE "]"), MOON_OK;
  if (c == 'p' || c == 'P')
    return rewrite_property(r, err);
  if (c && strchr("rnt!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c))
    return copy(r, 2), MOON_OK;
  return refuse(r->in, 2, err);
}

static moon_status rewrite_group(rewriter *r, moon_err *err) {
  static const char *const openings[] = {"(?:", "(?i:", "(?=", "(?!"};
  for (size_t i = 0; i < sizeof openings / sizeof *openings; i++)
    if (strncmp(r->in, openings[i], strlen(openings[i])) == 0)
      return copy(r, strlen(openings[i])), MOON_OK;
  if (r->in[1] == '?' || r->in[1] == '*')
    return refuse(r->in, strnlen(r->in, 4), err);
  return copy(r, 1), MOON_OK;
}

static moon_status rewrite_in_class(rewriter *r, moon_err *err) {
  if (*r->in == '[' || strncmp(r->in, "&&", 2) == 0)  // Oniguruma's nested and intersected classes
    return refuse(r->in, 2, err);
  r->in_class = *r->in != ']';
  return copy(r, 1), MOON_OK;
}

static moon_status rewrite_class_start(rewriter *r, moon_err *err) {
  size_t n = r->in[1] == '^' ? 2 : 1;
  if (r->in[n] == ']')
    return refuse(r->in, n + 1, err);
  r->in_class = true;
  return copy(r, n), MOON_OK;
}

static moon_status rewrite_one(rewriter *r, moon_err *err) {
  static const char *const differ[] = {".", "^", "$", "{,", "}+", "}?"};
  if (*r->in == '\\')
    return rewrite_escape(r, err);
  if (r->in_class)
    return rewrite_in_class(r, err);
  if (*r->in == '[')
    return rewrite_class_start(r, err);
  if (*r->in == '(')
    return rewrite_group(r, err);
  for (size_t i = 0; i < sizeof differ / sizeof *differ; i++)
    if (strncmp(r->in, differ[i], strlen(differ[i])) == 0)
      return refuse(r->in, strlen(differ[i]), err);
  return copy(r, 1), MOON_OK;
}

/* *out: the pattern for PCRE2, owned by the caller. */
static moon_status rewrite(char **out, const char *pattern, moon_err *err) {
  if (strlen(pattern) > MAX_PATTERN)
    return moon_fail(err, MOON_EUNSUPPORTED, "split pattern: %zu bytes, expected at most %d",
                     strlen(pattern), MAX_PATTERN);
  char *text = malloc(strlen(pattern) * sizeof "[^" WHITE_SPACE "]" + 1);
  if (!text)
    return moon_fail(err, MOON_ENOMEM, "no memory for the split pattern");
  rewriter r = {.in = pattern, .out = text};
  moon_status status = MOON_OK;
  while (*r.in && !status)
    status = rewrite_one(&r, err);
  *r.out = 0;
  *out = text;
  if (status) {
    free(text);
    *out = NULL;
  }
  return status;
}

struct moon_splitter {
  pcre2_code *code;
};

static moon_status compile(pcre2_code **out, const char *pattern, moon_err *err) {
  int code;
  PCRE2_SIZE at;
  *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
  if (!*out) {
    PCRE2_UCHAR text[128];
    pcre2_get_error_message(code, text, sizeof text);
    return moon_fail(err, MOON_EFORMAT, "split pattern: %s", (const char *)text);
  }
  uint32_t matches_nothing;
  pcre2_pattern_info(*out, PCRE2_INFO_MATCHEMPTY, &matches_nothing);
  if (matches_nothing)
    return moon_fail(err, MOON_EUNSUPPORTED, "split pattern: it can match an empty text");
  pcre2_jit_compile(*out,
                    PCRE2_JIT_COMPLETE);  // where the system allows none, pcre2_match interprets
  return MOON_OK;
}

moon_status moon_splitter_new(moon_splitter **out, const char *pattern, moon_err *err) {
  *out = NULL;
  char *rewritten;
  moon_status status = rewrite(&rewritten, pattern, err);
  if (status)
    return status;
  moon_splitter *splitter = calloc(1, sizeof *splitter);
  status = splitter ? compile(&splitter->code, rewritten, err)
                    : moon_fail(err, MOON_ENOMEM, "no memory for the split pattern");
  free(rewritten);
  if (status) {
    moon_splitter_free(splitter);
    return status;
  }
  *out = splitter;
  return MOON_OK;
}

void moon_splitter_free(moon_splitter *splitter) {
  if (splitter)
    pcre2_code_free(splitter->code);
  free(splitter);
}

struct moon_split {
  const pcre2_code *code;
  pcre2_match_data *match;
  pcre2_match_context *limits;
};

moon_status moon_split_new(moon_split **out, const moon_splitter *splitter, moon_err *err) {
  moon_split *split = calloc(1, sizeof *split);
  *out = split;
  if (split) {
    split->code = splitter->code;
    split->match = pcre2_match_data_create(1, NULL);
    split->limits = pcre2_match_context_create(NULL);
  }
  if (!split || !split->match || !split->limits) {
    moon_split_free(split);
    *out = NULL;
    return moon_fail(err, MOON_ENOMEM, "no memory to split text");
  }
  pcre2_set_match_limit(split->limits, MAX_STEPS);
  pcre2_set_heap_limit(split->limits, MAX_HEAP_KIB);
  return MOON_OK;
}

void moon_split_free(moon_split *split) {
  if (!split)
    return;
  pcre2_match_data_free(split->match);
  pcre2_match_context_free(split->limits);
  free(split);
}

moon_status moon_split_next(moon_split *split, const char *text, size_t size, size_t start,
                            size_t *end, moon_err *err) {
  int n = pcre2_match(split->code, (PCRE2_SPTR)text, size, start, PCRE2_NO_UTF_CHECK, split->match,
                      split->limits);
  if (n == PCRE2_ERROR_NOMATCH) {
    *end = size;
    return MOON_OK;
  }
  if (n < 0) {
    PCRE2_UCHAR why[128];
    pcre2_get_error_message(n, why, sizeof why);
    return moon_fail(err, MOON_EUNSUPPORTED, "split pattern: %s at byte %zu of the text",
                     (const char *)why, start);
  }
  const PCRE2_SIZE *found = pcre2_get_ovector_pointer(split->match);
  *end = found[0] > start ? found[0] : found[1];  // text between two matches is a piece as well
  return MOON_OK;
}
