// SPDX-License-Identifier: MIT
/* The pickle machine: every opcode that data need, a message for everything else, bounded work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>

#include "io/pickle.h"
#include "io_files.h"

static const moon_pickle_global globals[] = {
    {"m", "name", MOON_PICKLE_USE_NAME, 0, 0},
    {"m", "call", MOON_PICKLE_USE_CALL, 0, 0},
    {"m", "dict", MOON_PICKLE_USE_DICT, 0, 0},
};

/* Parses "\x80\2" + text; the pickle's bytes live as long as `kept`. */
static moon_status parse(moon_pickle *out, buffer *kept, const char *text, size_t size,
                         moon_err *err) {
  *kept = (buffer){0};
  put(kept, "\x80\2", 2);
  put(kept, text, size);
  memset(err, 0, sizeof *err);
  return moon_pickle_parse(out, kept->data, kept->size, globals, 3, NULL, err);
}

/* A value as text, to compare with: (1, 'a', [None], {...}) and so on. */
static void show(const moon_pickle *p, moon_pickle_ref ref, char *out, size_t room) {
  const moon_pickle_value *v = &p->values[ref];
  size_t used = strlen(out);
  static const char *const names[] = {[MOON_PICKLE_TUPLE] = "tuple",
                                      [MOON_PICKLE_LIST] = "list",
                                      [MOON_PICKLE_SET] = "set",
                                      [MOON_PICKLE_DICT] = "dict"};
  switch (v->kind) {
    case MOON_PICKLE_NONE:
      snprintf(out + used, room - used, "None");
      break;
    case MOON_PICKLE_BOOL:
      snprintf(out + used, room - used, "%s", v->integer ? "True" : "False");
      break;
    case MOON_PICKLE_INT:
      snprintf(out + used, room - used, "%lld", (long long)v->integer);
      break;
    case MOON_PICKLE_UINT:
      snprintf(out + used, room - used, "%lluu", (unsigned long long)v->integer);
      break;
    case MOON_PICKLE_FLOAT:
      snprintf(out + used, room - used, "%g", v->real);
      break;
    case MOON_PICKLE_TEXT:
    case MOON_PICKLE_BYTES:
      snprintf(out + used, room - used, "%s'%.*s'", v->kind == MOON_PICKLE_BYTES ? "b" : "",
               (int)v->text.size, (const char *)p->data + v->text.offset);
      break;
    case MOON_PICKLE_GLOBAL:
      snprintf(out + used, room - used, "m.%s", globals[v->global].name);
      break;
    case MOON_PICKLE_CALLED:
      snprintf(out + used, room - used, "m.%s", globals[v->call.global].name);
      show(p, v->call.arguments, out, room);
      break;
    case MOON_PICKLE_EXTERNAL:
      snprintf(out + used, room - used, "external");
      show(p, v->call.arguments, out, room);
      break;
    default:
      snprintf(out + used, room - used, "%s(", names[v->kind]);
      for (moon_pickle_ref cell = v->n_items ? v->items.first : 0; cell;
           cell = p->cells[cell].next) {
        show(p, p->cells[cell].value, out, room);
        strcat(out, ",");
      }
      strcat(out, ")");
  }
}

#define CASE(pickle, text) \
  { pickle, sizeof pickle - 1, text }

static void reads_every_data_opcode(void **state) {
  (void)state;
  const struct {
    const char *pickle;
    size_t size;
    const char *text;
  } cases[] = {
      CASE("N.", "None"),
      CASE("\x88.", "True"),
      CASE("\x89.", "False"),
      CASE("J\xff\xff\xff\xff.", "-1"),
      CASE("K\xff.", "255"),
      CASE("M\xff\xff.", "65535"),
      CASE("\x8a\0.", "0"),
      CASE("\x8a\1\xff.", "-1"),
      CASE("\x8a\2\xff\0.", "255"),
      CASE("\x8a\6\0\0\0\0\0\1.", "1099511627776"),
      CASE("\x8a\10\0\0\0\0\0\0\0\x80.", "-9223372036854775808"),
      CASE("\x8a\11\0\0\0\0\0\0\0\x80\0.", "9223372036854775808u"),
      CASE("\x8b\2\0\0\0\1\1.", "257"),
      CASE("I-12\n.", "-12"),
      CASE("I01\n.", "True"),
      CASE("I00\n.", "False"),
      CASE("I0\n.", "0"),
      CASE("L99L\n.", "99"),
      CASE("G\x3f\xe0\0\0\0\0\0\0.", "0.5"),
      CASE("F-2.5\n.", "-2.5"),
      CASE("X\3\0\0\0abc.", "'abc'"),
      CASE("\x8c\3abc.", "'abc'"),
      CASE("\x8d\3\0\0\0\0\0\0\0abc.", "'abc'"),
      CASE("U\3abc.", "'abc'"),
      CASE("T\3\0\0\0abc.", "'abc'"),
      CASE("S'abc'\n.", "'abc'"),
      CASE("S\"\"\n.", "''"),
      CASE("Vabc\n.", "'abc'"),
      CASE("C\1a.", "b'a'"),
      CASE("B\1\0\0\0a.", "b'a'"),
      CASE("\x8e\1\0\0\0\0\0\0\0a.", "b'a'"),
      CASE("\x96\1\0\0\0\0\0\0\0a.", "b'a'"),
      CASE(").", "tuple()"),
      CASE("].", "list()"),
      CASE("}.", "dict()"),
      CASE("\x8f.", "set()"),
      CASE("K\1\x85.", "tuple(1,)"),
      CASE("K\1K\2\x86.", "tuple(1,2,)"),
      CASE("K\1K\2K\3\x87.", "tuple(1,2,3,)"),
      CASE("(K\1K\2t.", "tuple(1,2,)"),
      CASE("(K\1l.", "list(1,)"),
      CASE("(K\1Nd.", "dict(1,None,)"),
      CASE("(K\1\x91.", "set(1,)"),
      CASE("]K\1a(K\2K\3e.", "list(1,2,3,)"),
      CASE("}K\1Ns(K\2NK\3Nu.", "dict(1,None,2,None,3,None,)"),
      CASE("\x8f(K\1\x90.", "set(1,)"),
      CASE("K\1K\0020.", "1"),
      CASE("K\1(0.", "1"),
      CASE("K\1(K\2K\0031.", "1"),
      CASE("K\0012\x86.", "tuple(1,1,)"),
      CASE("]q\7K\1h\7\x86.", "tuple(1,list(),)"),
      CASE("]r\7\0\0\0K\1j\7\0\0\0\x86.", "tuple(1,list(),)"),
      CASE("]p7\nK\1g7\n\x86.", "tuple(1,list(),)"),
      CASE("]\x94K\1\x94h\1h\0\x86\x86.", "tuple(1,tuple(1,list(),),)"),
      CASE("\x95\2\0\0\0\0\0\0\0N.", "None"),
      CASE("cm\nname\n.", "m.name"),
      CASE("\x8c\1m\x8c\4name\x93.", "m.name"),
      CASE("cm\ncall\nK\1\x85R.", "m.calltuple(1,)"),
      CASE("cm\ndict\n)RK\1Ns.", "dict(1,None,)"),
      CASE("cm\ndict\n)R}b.", "dict()"),
      CASE("K\1\x85Q.", "externaltuple(1,)"),
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    moon_pickle pickle;
    buffer kept;
    moon_err err;
    char text[256] = "";
    if (parse(&pickle, &kept, cases[i].pickle, cases[i].size, &err) != MOON_OK)
      fail_msg("case %zu: %s", i, err.text);
    show(&pickle, pickle.root, text, sizeof text);
    assert_string_equal(text, cases[i].text);
    moon_pickle_free(&pickle);
    free(kept.data);
  }
}

#define NOT_NEEDED ", which is not one of the names that tensors need"
#define OF_A_CLASS ": it would make an object of a class; only data are read"

/* P6: nothing in a pickle is executed or imported. */
static void refuses_the_rest(void **state) {
  (void)state;
  const struct {
    const char *pickle;
    size_t size;
    const char *text;
  } cases[] = {
      /* what runs code in a pickle module */
      CASE("cposix\nsystem\nX\10\0\0\0touch /x\x85R.",
           "the pickle asks for posix.system" NOT_NEEDED),
      CASE("\x8c\5posix\x8c\6system\x93\x8c\1x\x85R.",
           "the pickle asks for posix.system" NOT_NEEDED),
      CASE("cbuiltins\neval\nX\1\0\0\0x\x85R.", "the pickle asks for builtins.eval" NOT_NEEDED),
      CASE("c__builtin__\nexec\nX\1\0\0\0x\x85R.",
           "the pickle asks for __builtin__.exec" NOT_NEEDED),
      CASE("(X\1\0\0\0xiposix\nsystem\n.", "the pickle asks for posix.system" NOT_NEEDED),
      CASE("(im\ncall\n.", "pickle byte 3 (opcode 0x69)" OF_A_CLASS),
      CASE("(cm\ncall\nK\1o.", "pickle byte 13 (opcode 0x6f)" OF_A_CLASS),
      CASE("(cposix\nsystem\nK\1o.", "the pickle asks for posix.system" NOT_NEEDED),
      CASE("cm\ncall\n)\x81.", "pickle byte 11 (opcode 0x81)" OF_A_CLASS),
      CASE("cm\ncall\n)}\x92.", "pickle byte 12 (opcode 0x92)" OF_A_CLASS),
      CASE("\x82\1.", "pickle byte 2: opcode 0x82 is not one that tensors need"),
      CASE("\x83\1\0.", "pickle byte 2: opcode 0x83 is not one that tensors need"),
      CASE("\x84\1\0\0\0.", "pickle byte 2: opcode 0x84 is not one that tensors need"),
      CASE("P0\n.", "pickle byte 2: opcode 0x50 is not one that tensors need"),
      CASE("\x97.", "pickle byte 2: opcode 0x97 is not one that tensors need"),
      CASE("N\x98.", "pickle byte 3: opcode 0x98 is not one that tensors need"),
      CASE("\x80\2N.", "pickle byte 2: opcode 0x80 is not one that tensors need"),
      CASE("\0.", "pickle byte 2: opcode 0x00 is not one that tensors need"),
      CASE("cm\nname\n)R.", "pickle byte 11: a call of m.name that tensors do not need"),
      CASE("cm\ndict\nK\1\x85R.", "pickle byte 13: a call of m.dict that tensors do not need"),
      CASE("K\1)R.", "pickle byte 5 (opcode 0x52): a call of something that is no name"),
      CASE("cm\ncall\n]R.", "pickle byte 11 (opcode 0x52): a call of something that is no name"),
      CASE("cm\ncall\n)R}b.", "pickle byte 13: attributes on something else than a dict"),
      CASE("K\1K\2\x93.", "pickle byte 6 (opcode 0x93): a global that is not named by text"),
      CASE("cm\nn\0me\n.", "the pickle asks for m.n" NOT_NEEDED),
      CASE("cm\nname", "pickle byte 2 (opcode 0x63): a line without an end"),
      CASE("cm.name\nname\n.", "the pickle asks for m.name.name" NOT_NEEDED),
      /* what is broken */
      CASE("", "pickle byte 2: 1 bytes expected, 0 are left"),
      CASE(".", "pickle byte 2 (opcode 0x2e): the stack is empty"),
      CASE("N.N", "pickle: 1 bytes follow its end"),
      CASE("N", "pickle byte 3: 1 bytes expected, 0 are left"),
      CASE("J\1\1", "pickle byte 2: 4 bytes expected, 2 are left"),
      CASE("X\4\0\0\0abc", "pickle byte 2: 4 bytes expected, 3 are left"),
      CASE("X\xff\xff\xff\xff", "pickle byte 2: 7 bytes expected, 0 are left"),
      CASE("\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "pickle byte 2: 11 bytes expected, 0 are left"),
      CASE("\x8b\xff\xff\xff\xff.", "pickle byte 2: a whole number of 4294967295 bytes, at most 8"),
      CASE("\x8a\11\0\0\0\0\0\0\0\0\1.", "pickle byte 2: a whole number outside of 64 bits"),
      CASE("I1x\n.", "pickle byte 2 (opcode 0x49): not a whole number of 64 bits"),
      CASE("I99999999999999999999\n.",
           "pickle byte 2 (opcode 0x49): not a whole number of 64 bits"),
      CASE("I\n.", "pickle byte 2 (opcode 0x49): not a number"),
      CASE("F1e\n.", "pickle byte 2 (opcode 0x46): not a number"),
      CASE("S'a\n.", "pickle byte 2 (opcode 0x53): text without quotes"),
      CASE("S'\n.", "pickle byte 2 (opcode 0x53): text without quotes"),
      CASE("V\\u0041\n.", "pickle byte 2: escaped text of protocol 0"),
      CASE("t.", "pickle byte 2 (opcode 0x74): no mark on the stack"),
      CASE("1.", "pickle byte 2 (opcode 0x31): no mark on the stack"),
      CASE("0.", "pickle byte 2 (opcode 0x30): the stack is empty"),
      CASE("N(\x85.", "pickle byte 4 (opcode 0x85): the stack is empty"),
      CASE("(.", "pickle byte 3 (opcode 0x2e): the stack is empty"),
      CASE("](K\1a.", "pickle byte 6 (opcode 0x61): the stack is empty"),
      CASE("(Nd.", "pickle byte 4 (opcode 0x64): a key without a value"),
      CASE("}(Nu.", "pickle byte 5 (opcode 0x75): a key without a value"),
      CASE(")Na.", "pickle byte 4 (opcode 0x61): the items are for a value of another kind"),
      CASE("]NNs.", "pickle byte 5 (opcode 0x73): the items are for a value of another kind"),
      CASE("](N\x90.", "pickle byte 5 (opcode 0x90): the items are for a value of another kind"),
      CASE("h\0.", "pickle byte 2 (opcode 0x68): a memo index that was never put"),
      CASE("Nq\3h\2.", "pickle byte 5 (opcode 0x68): a memo index that was never put"),
      CASE("Nr\xff\xff\xff\x7f.",
           "pickle byte 3 (opcode 0x72): a memo index far beyond the bytes so far"),
      CASE("Np-1\n.", "pickle byte 3 (opcode 0x70): a memo index far beyond the bytes so far"),
      CASE("q\0.", "pickle byte 2 (opcode 0x71): the stack is empty"),
      CASE("NQ.", "pickle byte 3 (opcode 0x51): a persistent id that is not a tuple"),
      CASE("\x95\3\0\0\0\0\0\0\0N.", "pickle byte 2 (opcode 0x95): a frame longer than the pickle"),
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    moon_pickle pickle;
    buffer kept;
    moon_err err;
    assert_int_not_equal(parse(&pickle, &kept, cases[i].pickle, cases[i].size, &err), MOON_OK);
    if (strcmp(err.text, cases[i].text))
      print_error("case %zu\n", i);
    assert_string_equal(err.text, cases[i].text);
    moon_pickle_free(&pickle);
    free(kept.data);
  }
}

static void refuses_other_protocols(void **state) {
  (void)state;
  const char *const starts[] = {"", "\x80", "\x80\1N.", "\x80\6N.", "(dp0\n."};
  const size_t sizes[] = {0, 1, 4, 4, 6};
  for (size_t i = 0; i < 5; i++) {
    moon_pickle pickle;
    assert_int_not_equal(
        moon_pickle_parse(&pickle, (const uint8_t *)starts[i], sizes[i], globals, 3, NULL, NULL),
        MOON_OK);
    moon_pickle_free(&pickle);
  }
}

/* n opening opcodes, then n closing ones: deep, but nothing recurses. */
static void *parse_deep(void *argument) {
  enum { N = 1000000 };
  const char *ops = argument;
  buffer b = {0};
  put(&b, "\x80\2", 2);
  for (int i = 0; i < N; i++)
    put(&b, ops, 1);
  put_line(&b, ops[1] == '(' ? "N" : "");
  for (int i = 0; i < N - (ops[1] == 'a'); i++)
    put(&b, ops + 1, 1);
  put_line(&b, ".");
  moon_pickle pickle;
  moon_err err = {0};
  moon_status status = moon_pickle_parse(&pickle, b.data, b.size, globals, 3, NULL, &err);
  moon_pickle_free(&pickle);
  free(b.data);
  return (void *)(intptr_t)status;
}

/* P8 */
static void nests_a_million_deep_on_a_small_stack(void **state) {
  (void)state;
  const char *const ops[] = {"(t", "(l", "]a"};
  for (size_t i = 0; i < 3; i++) {
    pthread_t thread;
    pthread_attr_t small;
    void *result;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 << 10);
    assert_int_equal(pthread_create(&thread, &small, parse_deep, (void *)(intptr_t)ops[i]), 0);
    pthread_join(thread, &result);
    pthread_attr_destroy(&small);
    assert_int_equal((intptr_t)result, MOON_OK);
  }
}

/* Any bytes: no crash, no endless loop. A fixed generator, so that a failure comes again. P1 */
static void survives_random_bytes(void **state) {
  (void)state;
  static const char ops[] =
      "(.0123FIJKLMNPQRSTUVXabcdeghijlopqrstu}])"
      "GBC\n\x80\x81\x85\x86\x87\x88\x8a\x8c\x8f\x90\x91\x93\x94";
  uint32_t seed = 1;
  for (int round = 0; round < 100000; round++) {
    uint8_t data[64] = {0x80, 2};
    for (size_t i = 2; i < sizeof data; i++) {
      seed = seed * 1664525 + 1013904223;
      data[i] =
          seed >> 31 ? (uint8_t)ops[(seed >> 16) % (sizeof ops - 1)] : (uint8_t)(seed >> 24 & 7);
    }
    moon_pickle pickle;
    moon_err err;
    moon_pickle_parse(&pickle, data, sizeof data, globals, 3, NULL, &err);
    moon_pickle_free(&pickle);
  }
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_every_data_opcode),
      cmocka_unit_test(refuses_the_rest),
      cmocka_unit_test(refuses_other_protocols),
      cmocka_unit_test(nests_a_million_deep_on_a_small_stack),
      cmocka_unit_test(survives_random_bytes),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
