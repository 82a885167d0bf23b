// SPDX-License-Identifier: MIT
/* What text is cut into before it is merged: characters, pieces, and the patterns that are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "llama/split.h"
#include "utf8.h"

static void utf8_characters(void **state) {
  static const struct {
    const char *text;
    size_t length, whole;
  } cases[] = {
      {"", 0, 0},
      {"a", 1, 1},
      {"\xc3\xa9", 2, 2},
      {"\xc3", 0, 0},
      {"\xe2\x82\xac", 3, 3},
      {"\xe2\x82", 0, 0},
      {"\xe2", 0, 0},
      {"\xf0\x9f\x98\x80", 4, 4},
      {"\xf0\x9f\x98", 0, 0},
      {"\xf0\x9f", 0, 0},
      {"a\xf0\x9f\x98", 1, 1},
      {"\xc0\xaf", 0, 2},
      {"\xc1", 0, 1},
      {"\xe0\x80", 0, 2},
      {"\xe0\xa0", 0, 0},
      {"\xed\xa0", 0, 2},
      {"\xed\x9f", 0, 0},
      {"\xf4\x90", 0, 2},
      {"\xf4\x8f", 0, 0},
      {"\xf0\x8f", 0, 2},
      {"\xf0\x90", 0, 0},
      {"\xf5", 0, 1},
      {"\x80", 0, 1},
      {"\xc3\xa9\xa9", 2, 3},
      {"\xe2\x82x", 0, 3},
      {"\xf0\x9f\x98x", 0, 4},
  };
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t size = strlen(cases[i].text);
    if (moon_utf8_char(cases[i].text, size) != cases[i].length ||
        moon_utf8_whole(cases[i].text, size) != cases[i].whole)
      fail_msg("case %zu: char %zu, whole %zu", i, moon_utf8_char(cases[i].text, size),
               moon_utf8_whole(cases[i].text, size));
  }
}

#define LLAMA3                                                               \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| " \
  "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"                                            \
  "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static void assert_pieces(const char *pattern, const char *text, const char *expected) {
  moon_splitter *splitter;
  moon_split *split;
  moon_err err;
  if (moon_splitter_new(&splitter, pattern, &err) || moon_split_new(&split, splitter, &err))
    fail_msg("%s", err.text);
  char shown[256] = "";
  for (size_t start = 0, end, size = strlen(text); start < size; start = end) {
    assert_int_equal(moon_split_next(split, text, size, start, &end, &err), MOON_OK);
    assert_true(end > start);
    strncat(strcat(shown, start ? "|" : ""), text + start, end - start);
  }
  assert_string_equal(shown, expected);
  moon_split_free(split);
  moon_splitter_free(splitter);
}

static void pieces_of_llama3(void **state) {
  (void)state;
  assert_pieces(LLAMA3, "I'm  here 12345\n\n x", "I|'m| | here| |123|45|\n\n| x");
  assert_pieces(LLAMA3, "don'T'LLx", "don|'T|'LL|x");
  assert_pieces(LLAMA3, "'\u017fa", "'\u017f|a");          /* long s is an s to caseless */
  assert_pieces(LLAMA3, "\u180e\u180e!", "\u180e\u180e!"); /* no white space, whatever PCRE2 says */
  assert_pieces(LLAMA3, "\xc2\x85\xc2\x85!", "\xc2\x85|\xc2\x85|!"); /* white space */
  assert_pieces(LLAMA3, "\ufeff\ufeff!", "\ufeff\ufeff!");           /* none */
  assert_pieces(LLAMA3, "\u3000\u00a0x", "\u3000|\u00a0x");
}

static void gaps_are_pieces(void **state) {
  (void)state;
  assert_pieces("b+", "aabba", "aa|bb|a");
  assert_pieces("[\\s,]\\p{L}", "a b,c", "a| b|,c");
}

static void refused_patterns(void **state) {
  static const struct {
    const char *pattern, *message;
  } cases[] = {
      {"\\w+", "split pattern: moonscope has no translation of \\w"},
      {"\\h", "split pattern: moonscope has no translation of \\h"},
      {"[\\S]", "split pattern: moonscope has no translation of \\S"},
      {"[\\s-x]", "split pattern: moonscope has no translation of \\s"},
      {"[a[b]]", "split pattern: moonscope has no translation of [b"},
      {"[a&&b]", "split pattern: moonscope has no translation of &&"},
      {"[]a]", "split pattern: moonscope has no translation of []"},
      {"a(?<=b)", "split pattern: moonscope has no translation of (?<="},
      {"(*UTF)a", "split pattern: moonscope has no translation of (*UT"},
      {"^a", "split pattern: moonscope has no translation of ^"},
      {"a{1,2}+", "split pattern: moonscope has no translation of }+"},
      {"a{,2}", "split pattern: moonscope has no translation of {,"},
      {"a\\", "split pattern: moonscope has no translation of \\"},
      {"\\pL", "split pattern: moonscope has no translation of \\p"},
      {"\\s*", "split pattern: it can match an empty text"},
      {"(a", "split pattern: missing closing parenthesis"},
      {"[a", "split pattern: missing terminating ] for character class"},
      {"\\p{Nonsense}", "split pattern: unknown property after \\P or \\p"},
  };
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    moon_splitter *splitter;
    moon_err err;
    if (!moon_splitter_new(&splitter, cases[i].pattern, &err))
      fail_msg("%s was not refused", cases[i].pattern);
    assert_null(splitter);
    assert_string_equal(err.text, cases[i].message);
  }
}

static void a_pattern_that_explodes_ends(void **state) {
  (void)state;
  moon_splitter *splitter;
  moon_split *split;
  moon_err err;
  assert_int_equal(moon_splitter_new(&splitter, "(a+)+[bc]", &err), MOON_OK);
  assert_int_equal(moon_split_new(&split, splitter, &err), MOON_OK);
  size_t end;
  assert_int_equal(moon_split_next(split, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 50,
                                   0, &end, &err),
                   MOON_EUNSUPPORTED);
  assert_string_equal(err.text, "split pattern: match limit exceeded at byte 0 of the text");
  moon_split_free(split);
  moon_splitter_free(splitter);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(utf8_characters),
      cmocka_unit_test(pieces_of_llama3),
      cmocka_unit_test(gaps_are_pieces),
      cmocka_unit_test(refused_patterns),
      cmocka_unit_test(a_pattern_that_explodes_ends),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
