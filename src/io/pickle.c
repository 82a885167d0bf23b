// SPDX-License-Identifier: MIT
#include "io/pickle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The first four values, made before the pickle is read. */
enum { REF_NONE = 1, REF_FALSE, REF_TRUE, REF_EMPTY_TUPLE };

#define MEMO_SLACK 256 /* indices that any pickle may use */

typedef struct refs {
  moon_pickle_ref *at;
  size_t n, room;
} refs;

/* The first failure stays in status and ends the run; until then err is untouched. */
typedef struct machine {
  moon_pickle *out;
  const uint8_t *data;
  size_t size, at, op_at; /* op_at: of the opcode in work */
  size_t values_room, n_cells, cells_room;
  refs stack, marks, memo; /* marks: heights of the stack; memo: 0 where nothing was put */
  const moon_pickle_global *globals;
  size_t n_globals;
  bool stopped;
  moon_status status;
  moon_err *err;
} machine;

#define FAIL(m, code, ...)                                  \
  do {                                                      \
    if (!(m)->status)                                       \
      (m)->status = moon_fail((m)->err, code, __VA_ARGS__); \
  } while (0)

static void fail_format(machine *m, const char *what) {
  FAIL(m, MOON_EFORMAT, "pickle byte %zu (opcode 0x%02x): %s", m->op_at, m->data[m->op_at], what);
}

/* ---- memory ---- */

static bool grow(machine *m, void **array, size_t *room, size_t n, size_t each) {
  if (n < *room)
    return true;
  size_t wanted = n < 32 ? 64 : 2 * n;
  void *larger = realloc(*array, wanted * each);
  if (!larger) {
    FAIL(m, MOON_ENOMEM, "pickle: no memory for %zu bytes", wanted * each);
    return false;
  }
  *array = larger;
  *room = wanted;
  return true;
}

static void push_to(machine *m, refs *list, moon_pickle_ref ref) {
  void *at = list->at;
  bool ok = grow(m, &at, &list->room, list->n, sizeof *list->at);
  list->at = at;
  if (ok)
    list->at[list->n++] = ref;
}

static void push(machine *m, moon_pickle_ref ref) {
  push_to(m, &m->stack, ref);
}

/* The new value's number; 0 after a failure. */
static moon_pickle_ref new_value(machine *m, moon_pickle_value value) {
  void *values = m->out->values;
  bool ok = grow(m, &values, &m->values_room, m->out->n_values + 1, sizeof value);
  m->out->values = values;
  if (!ok)
    return 0;
  m->out->values[++m->out->n_values] = value;
  return (moon_pickle_ref)m->out->n_values;
}

static void push_new(machine *m, moon_pickle_value value) {
  push(m, new_value(m, value));
}

static moon_pickle_value *value_of(machine *m, moon_pickle_ref ref) {
  return &m->out->values[ref];
}

static void append(machine *m, moon_pickle_ref container, moon_pickle_ref item) {
  void *cells = m->out->cells;
  bool ok = grow(m, &cells, &m->cells_room, m->n_cells + 1, sizeof *m->out->cells);
  m->out->cells = cells;
  if (!ok)
    return;
  moon_pickle_ref cell = (moon_pickle_ref)++m->n_cells;
  m->out->cells[cell] = (moon_pickle_cell){item, 0};
  moon_pickle_value *value = value_of(m, container);
  if (value->n_items++)
    m->out->cells[value->items.last].next = cell;
  else
    value->items.first = cell;
  value->items.last = cell;
}

/* ---- the stack ---- */

/* Height of the stack at the last mark: nothing below it may be taken. */
static size_t floor_of(const machine *m) {
  return m->marks.n ? m->marks.at[m->marks.n - 1] : 0;
}

static moon_pickle_ref top(machine *m) {
  if (m->stack.n > floor_of(m))
    return m->stack.at[m->stack.n - 1];
  fail_format(m, "the stack is empty");
  return REF_NONE;
}

static moon_pickle_ref pop(machine *m) {
  moon_pickle_ref ref = top(m);
  if (!m->status)
    m->stack.n--;
  return ref;
}

/* Removes the last mark and returns where its items begin; the top is stack.n. */
static size_t pop_mark(machine *m) {
  if (!m->marks.n) {
    fail_format(m, "no mark on the stack");
    return m->stack.n;
  }
  return m->marks.at[--m->marks.n];
}

/* A container of the stack's items from `first` on, in their place. */
static void collect(machine *m, moon_pickle_kind kind, size_t first) {
  if (kind == MOON_PICKLE_DICT && (m->stack.n - first) % 2)
    fail_format(m, "a key without a value");
  moon_pickle_ref container = new_value(m, (moon_pickle_value){.kind = kind});
  for (size_t i = first; i < m->stack.n && !m->status; i++)
    append(m, container, m->stack.at[i]);
  m->stack.n = first;
  push(m, container);
}

static void collect_tuple(machine *m, size_t n) {
  if (m->stack.n - floor_of(m) < n)
    fail_format(m, "the stack is empty");
  else
    collect(m, MOON_PICKLE_TUPLE, m->stack.n - n);
}

/* Adds the stack's items from `first` on to the container below them. */
static void extend(machine *m, moon_pickle_kind kind, size_t first) {
  size_t end = m->stack.n;
  m->stack.n = first;
  moon_pickle_ref container = top(m);
  if (!m->status && value_of(m, container)->kind != kind)
    fail_format(m, "the items are for a value of another kind");
  if (kind == MOON_PICKLE_DICT && (end - first) % 2)
    fail_format(m, "a key without a value");
  for (size_t i = first; i < end && !m->status; i++)
    append(m, container, m->stack.at[i]);
}

/* The last n items of the stack, without a mark. */
static void extend_by(machine *m, moon_pickle_kind kind, size_t n) {
  if (m->stack.n - floor_of(m) <= n)
    fail_format(m, "the stack is empty");
  else
    extend(m, kind, m->stack.n - n);
}

static void put(machine *m, size_t index) {
  moon_pickle_ref ref = top(m);
  if (index >= m->at + MEMO_SLACK) /* n bytes put n times at most: bounds the memo's memory */
    fail_format(m, "a memo index far beyond the bytes so far");
  while (m->memo.n <= index && !m->status)
    push_to(m, &m->memo, 0);
  if (!m->status)
    m->memo.at[index] = ref;
}

static void get(machine *m, size_t index) {
  if (index < m->memo.n && m->memo.at[index])
    push(m, m->memo.at[index]);
  else
    fail_format(m, "a memo index that was never put");
}

/* ---- operands ---- */

static const uint8_t *take(machine *m, size_t n) {
  static const uint8_t zeros[8] = {0};
  if (n > m->size - m->at) {
    FAIL(m, MOON_EFORMAT, "pickle byte %zu: %zu bytes expected, %zu are left", m->op_at, n,
         m->size - m->at);
    return zeros;
  }
  m->at += n;
  return m->data + m->at - n;
}

/* Little endian; n <= 8. */
static uint64_t take_uint(machine *m, size_t n) {
  const uint8_t *p = take(m, n);
  uint64_t value = 0;
  for (size_t i = n; i > 0 && !m->status; i--)
    value = value << 8 | p[i - 1];
  return value;
}

static void push_int(machine *m, int64_t integer) {
  push_new(m, (moon_pickle_value){.kind = MOON_PICKLE_INT, .integer = integer});
}

/* n bytes from m->at as text or bytes. */
static void push_span(machine *m, moon_pickle_kind kind, uint64_t n) {
  size_t start = m->at;
  if (n > m->size)
    n = m->size; /* fails in take with what is left */
  take(m, (size_t)n);
  push_new(m, (moon_pickle_value){.kind = kind, .text = {(uint32_t)start, (uint32_t)n}});
}

/* Two's complement, little endian, of n bytes; up to what int64_t or uint64_t holds. */
static void push_long(machine *m, uint64_t n) {
  if (n > 9) {
    FAIL(m, MOON_EUNSUPPORTED, "pickle byte %zu: a whole number of %llu bytes, at most 8", m->op_at,
         (unsigned long long)n);
    return;
  }
  const uint8_t *p = take(m, (size_t)n);
  if (m->status)
    return;
  uint64_t value = n && p[n - 1] & 0x80 ? UINT64_MAX : 0;
  for (size_t i = n < 8 ? (size_t)n : 8; i > 0; i--)
    value = value << 8 | p[i - 1];
  if (n == 9 && p[8])
    FAIL(m, MOON_EUNSUPPORTED, "pickle byte %zu: a whole number outside of 64 bits", m->op_at);
  bool large = n == 9 && value > INT64_MAX;
  push_new(m, (moon_pickle_value){.kind = large ? MOON_PICKLE_UINT : MOON_PICKLE_INT,
                                  .integer = (int64_t)value});
}

static void push_double(machine *m) {
  const uint8_t *p = take(m, 8);
  uint64_t bits = 0;
  for (int i = 0; i < 8; i++)
    bits = bits << 8 | p[i]; /* the one big-endian operand */
  moon_pickle_value value = {.kind = MOON_PICKLE_FLOAT};
  memcpy(&value.real, &bits, sizeof value.real);
  push_new(m, value);
}

/* The bytes up to the next newline, which is passed over. */
static const char *take_line(machine *m, size_t *size) {
  const uint8_t *start = m->data + m->at, *end = memchr(start, '\n', m->size - m->at);
  *size = 0;
  if (!end) {
    fail_format(m, "a line without an end");
    return "";
  }
  *size = (size_t)(end - start);
  m->at += *size + 1;
  return (const char *)start;
}

/* A number written out: I (01 and 00 are True and False), L (with an L behind), F, and the index of
 * p and g. */
static void take_number_text(machine *m, char text[40]) {
  size_t size;
  const char *line = take_line(m, &size);
  text[0] = 0;
  if (size == 0 || size >= 40 || memchr(line, 0, size)) {
    fail_format(m, "not a number");
    return;
  }
  memcpy(text, line, size);
  text[size] = 0;
}

static int64_t take_decimal(machine *m) {
  char text[40], *end;
  take_number_text(m, text);
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (*end == 'L')
    end++;
  if (errno || *end)
    fail_format(m, "not a whole number of 64 bits");
  return value;
}

static void push_decimal(machine *m) {
  const char *line = (const char *)m->data + m->at;
  bool is_bool = m->size - m->at >= 3 && line[0] == '0' && (line[1] == '0' || line[1] == '1') &&
                 line[2] == '\n';
  int64_t value = take_decimal(m);
  if (is_bool)
    push(m, value ? REF_TRUE : REF_FALSE);
  else
    push_int(m, value);
}

static void push_float_text(machine *m) {
  char text[40], *end;
  take_number_text(m, text);
  double value = strtod(text, &end);
  if (*end)
    fail_format(m, "not a number");
  push_new(m, (moon_pickle_value){.kind = MOON_PICKLE_FLOAT, .real = value});
}

/* S has quotes around the text, V has none. Escapes belong to protocol 0, which nobody writes
 * tensors in. */
static void push_text_line(machine *m, bool quoted) {
  size_t start = m->at, size;
  const char *line = take_line(m, &size);
  if (memchr(line, '\\', size))
    FAIL(m, MOON_EUNSUPPORTED, "pickle byte %zu: escaped text of protocol 0", m->op_at);
  if (quoted && (size < 2 || (line[0] != '\'' && line[0] != '"') || line[size - 1] != line[0]))
    fail_format(m, "text without quotes");
  if (quoted && !m->status) {
    start++;
    size -= 2;
  }
  push_new(
      m, (moon_pickle_value){.kind = MOON_PICKLE_TEXT, .text = {(uint32_t)start, (uint32_t)size}});
}

/* ---- names and calls ---- */

static bool is_text(const char *expected, const char *text, size_t size) {
  return strlen(expected) == size && !memcmp(expected, text, size);
}

/* Index of module.name in the caller's list; refused when it is not there. */
static uint32_t find_global(machine *m, const char *module, size_t module_size, const char *name,
                            size_t name_size) {
  for (size_t i = 0; i < m->n_globals && !m->status; i++)
    if (is_text(m->globals[i].module, module, module_size) &&
        is_text(m->globals[i].name, name, name_size))
      return (uint32_t)i;
  FAIL(m, MOON_EUNSUPPORTED,
       "the pickle asks for %.*s.%.*s, which is not one of the names that tensors need",
       (int)(module_size < 100 ? module_size : 100), module,
       (int)(name_size < 100 ? name_size : 100), name);
  return 0;
}

static uint32_t take_global(machine *m) {
  size_t module_size, name_size;
  const char *module = take_line(m, &module_size), *name = take_line(m, &name_size);
  return find_global(m, module, module_size, name, name_size);
}

static void push_global(machine *m, uint32_t global) {
  push_new(m, (moon_pickle_value){.kind = MOON_PICKLE_GLOBAL, .global = global});
}

static void stack_global(machine *m) {
  moon_pickle_value name = *value_of(m, pop(m)), module = *value_of(m, pop(m));
  if (name.kind != MOON_PICKLE_TEXT || module.kind != MOON_PICKLE_TEXT) {
    fail_format(m, "a global that is not named by text");
    return;
  }
  const char *data = (const char *)m->data;
  push_global(m, find_global(m, data + module.text.offset, module.text.size,
                             data + name.text.offset, name.text.size));
}

static void reduce(machine *m) {
  moon_pickle_ref arguments = pop(m), callee = pop(m);
  if (m->status)
    return;
  if (value_of(m, callee)->kind != MOON_PICKLE_GLOBAL ||
      value_of(m, arguments)->kind != MOON_PICKLE_TUPLE) {
    fail_format(m, "a call of something that is no name");
    return;
  }
  uint32_t index = value_of(m, callee)->global;
  const moon_pickle_global *global = &m->globals[index];
  if (global->use == MOON_PICKLE_USE_CALL)
    push_new(m, (moon_pickle_value){.kind = MOON_PICKLE_CALLED, .call = {index, arguments}});
  else if (global->use == MOON_PICKLE_USE_DICT && !value_of(m, arguments)->n_items)
    push_new(m, (moon_pickle_value){.kind = MOON_PICKLE_DICT});
  else
    FAIL(m, MOON_EUNSUPPORTED, "pickle byte %zu: a call of %s.%s that tensors do not need",
         m->op_at, global->module, global->name);
}

/* Attributes of an object. A state_dict has _metadata (versions of modules), of no use here;
 * nothing else may. */
static void build(machine *m) {
  pop(m);
  if (!m->status && value_of(m, top(m))->kind != MOON_PICKLE_DICT)
    FAIL(m, MOON_EUNSUPPORTED, "pickle byte %zu: attributes on something else than a dict",
         m->op_at);
}

static void push_external(machine *m) {
  moon_pickle_ref arguments = pop(m);
  if (!m->status && value_of(m, arguments)->kind != MOON_PICKLE_TUPLE)
    fail_format(m, "a persistent id that is not a tuple");
  push_new(m, (moon_pickle_value){.kind = MOON_PICKLE_EXTERNAL, .call = {0, arguments}});
}

static void refuse_class(machine *m) {
  FAIL(m, MOON_EUNSUPPORTED,
       "pickle byte %zu (opcode 0x%02x): it would make an object of a class; only data are read",
       m->op_at, m->data[m->op_at]);
}

/* ---- the machine ---- */

static void step(machine *m) {
  m->op_at = m->at;
  switch (*take(m, 1)) {
    case '.': /* STOP */
      m->out->root = pop(m);
      m->stopped = true;
      break;
    case 0x95: /* FRAME: a hint for streams */
      if (take_uint(m, 8) > m->size - m->at)
        fail_format(m, "a frame longer than the pickle");
      break;

    case 'N': /* NONE */
      push(m, REF_NONE);
      break;
    case 0x88: /* NEWTRUE */
      push(m, REF_TRUE);
      break;
    case 0x89: /* NEWFALSE */
      push(m, REF_FALSE);
      break;
    case 'J': /* BININT */
      push_int(m, (int32_t)take_uint(m, 4));
      break;
    case 'K': /* BININT1 */
      push_int(m, (int64_t)take_uint(m, 1));
      break;
    case 'M': /* BININT2 */
      push_int(m, (int64_t)take_uint(m, 2));
      break;
    case 0x8a: /* LONG1 */
      push_long(m, take_uint(m, 1));
      break;
    case 0x8b: /* LONG4 */
      push_long(m, take_uint(m, 4));
      break;
    case 'I': /* INT */
    case 'L': /* LONG */
      push_decimal(m);
      break;
    case 'G': /* BINFLOAT */
      push_double(m);
      break;
    case 'F': /* FLOAT */
      push_float_text(m);
      break;

    case 'U':  /* SHORT_BINSTRING: Python 2's text */
    case 0x8c: /* SHORT_BINUNICODE */
      push_span(m, MOON_PICKLE_TEXT, take_uint(m, 1));
      break;
    case 'T': /* BINSTRING */
    case 'X': /* BINUNICODE */
      push_span(m, MOON_PICKLE_TEXT, take_uint(m, 4));
      break;
    case 0x8d: /* BINUNICODE8 */
      push_span(m, MOON_PICKLE_TEXT, take_uint(m, 8));
      break;
    case 'S': /* STRING */
      push_text_line(m, true);
      break;
    case 'V': /* UNICODE */
      push_text_line(m, false);
      break;
    case 'C': /* SHORT_BINBYTES */
      push_span(m, MOON_PICKLE_BYTES, take_uint(m, 1));
      break;
    case 'B': /* BINBYTES */
      push_span(m, MOON_PICKLE_BYTES, take_uint(m, 4));
      break;
    case 0x8e: /* BINBYTES8 */
    case 0x96: /* BYTEARRAY8 */
      push_span(m, MOON_PICKLE_BYTES, take_uint(m, 8));
      break;

    case ')': /* EMPTY_TUPLE */
      push(m, REF_EMPTY_TUPLE);
      break;
    case ']': /* EMPTY_LIST */
      push_new(m, (moon_pickle_value){.kind = MOON_PICKLE_LIST});
      break;
    case '}': /* EMPTY_DICT */
      push_new(m, (moon_pickle_value){.kind = MOON_PICKLE_DICT});
      break;
    case 0x8f: /* EMPTY_SET */
      push_new(m, (moon_pickle_value){.kind = MOON_PICKLE_SET});
      break;
    case 0x85: /* TUPLE1 */
      collect_tuple(m, 1);
      break;
    case 0x86: /* TUPLE2 */
      collect_tuple(m, 2);
      break;
    case 0x87: /* TUPLE3 */
      collect_tuple(m, 3);
      break;
    case 't': /* TUPLE */
      collect(m, MOON_PICKLE_TUPLE, pop_mark(m));
      break;
    case 'l': /* LIST */
      collect(m, MOON_PICKLE_LIST, pop_mark(m));
      break;
    case 'd': /* DICT */
      collect(m, MOON_PICKLE_DICT, pop_mark(m));
      break;
    case 0x91: /* FROZENSET */
      collect(m, MOON_PICKLE_SET, pop_mark(m));
      break;
    case 'a': /* APPEND */
      extend_by(m, MOON_PICKLE_LIST, 1);
      break;
    case 's': /* SETITEM */
      extend_by(m, MOON_PICKLE_DICT, 2);
      break;
    case 'e': /* APPENDS */
      extend(m, MOON_PICKLE_LIST, pop_mark(m));
      break;
    case 'u': /* SETITEMS */
      extend(m, MOON_PICKLE_DICT, pop_mark(m));
      break;
    case 0x90: /* ADDITEMS */
      extend(m, MOON_PICKLE_SET, pop_mark(m));
      break;

    case '(': /* MARK */
      push_to(m, &m->marks, (moon_pickle_ref)m->stack.n);
      break;
    case '0': /* POP: takes a mark too, as Python does */
      if (m->marks.n && m->stack.n == floor_of(m))
        pop_mark(m);
      else
        pop(m);
      break;
    case '1': /* POP_MARK */
      m->stack.n = pop_mark(m);
      break;
    case '2': /* DUP */
      push(m, top(m));
      break;
    case 'q': /* BINPUT */
      put(m, (size_t)take_uint(m, 1));
      break;
    case 'r': /* LONG_BINPUT */
      put(m, (size_t)take_uint(m, 4));
      break;
    case 'p': /* PUT; a negative index becomes one larger than any pickle */
      put(m, (size_t)take_decimal(m));
      break;
    case 0x94: /* MEMOIZE */
      put(m, m->memo.n);
      break;
    case 'h': /* BINGET */
      get(m, (size_t)take_uint(m, 1));
      break;
    case 'j': /* LONG_BINGET */
      get(m, (size_t)take_uint(m, 4));
      break;
    case 'g': /* GET */
      get(m, (size_t)take_decimal(m));
      break;

    case 'c': /* GLOBAL */
      push_global(m, take_global(m));
      break;
    case 0x93: /* STACK_GLOBAL */
      stack_global(m);
      break;
    case 'Q': /* BINPERSID */
      push_external(m);
      break;
    case 'R': /* REDUCE */
      reduce(m);
      break;
    case 'b': /* BUILD */
      build(m);
      break;
    case 'i': /* INST: names its class first */
      take_global(m);
      refuse_class(m);
      break;
    case 'o':  /* OBJ */
    case 0x81: /* NEWOBJ */
    case 0x92: /* NEWOBJ_EX */
      refuse_class(m);
      break;
    default: /* EXT1, EXT2, EXT4, PERSID, NEXT_BUFFER, READONLY_BUFFER, a second PROTO, and what is
                no opcode */
      FAIL(m, MOON_EUNSUPPORTED, "pickle byte %zu: opcode 0x%02x is not one that tensors need",
           m->op_at, m->data[m->op_at]);
  }
}

static void check_protocol(machine *m) {
  const uint8_t *p = take(m, 2);
  if (!m->status && (p[0] != 0x80 || p[1] < 2 || p[1] > 5))
    FAIL(m, MOON_EUNSUPPORTED, "pickle: begins with %02x %02x, expected protocol 2 to 5", p[0],
         p[1]);
}

/* whole: nothing may follow the pickle. */
static void run(machine *m, bool whole) {
  check_protocol(m);
  new_value(m, (moon_pickle_value){.kind = MOON_PICKLE_NONE});
  new_value(m, (moon_pickle_value){.kind = MOON_PICKLE_BOOL, .integer = 0});
  new_value(m, (moon_pickle_value){.kind = MOON_PICKLE_BOOL, .integer = 1});
  new_value(m, (moon_pickle_value){.kind = MOON_PICKLE_TUPLE});
  while (!m->status && !m->stopped)
    step(m);
  if (!m->status && whole && m->at != m->size)
    FAIL(m, MOON_EFORMAT, "pickle: %zu bytes follow its end", m->size - m->at);
}

moon_status moon_pickle_parse(moon_pickle *out, const uint8_t *data, size_t size,
                              const moon_pickle_global *globals, size_t n_globals, size_t *used,
                              moon_err *err) {
  *out = (moon_pickle){.data = data};
  machine m = {.out = out,
               .data = data,
               .size = size,
               .globals = globals,
               .n_globals = n_globals,
               .err = err};
  run(&m, !used);
  if (used)
    *used = m.at;
  free(m.stack.at);
  free(m.marks.at);
  free(m.memo.at);
  return m.status;
}

void moon_pickle_free(moon_pickle *pickle) {
  free(pickle->values);
  free(pickle->cells);
  *pickle = (moon_pickle){.data = NULL};
}
