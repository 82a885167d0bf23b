// SPDX-License-Identifier: MIT
/* Lines from the terminal, edited by libedit. */
#include <histedit.h>
#include <locale.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "host/host.h"

enum { HISTORY_ENTRIES = 1000 };

static EditLine *editor;
static History *history_lines;
static const char *prompt;
static host_line_completer completer;
static void *completer_user;
static unsigned char completion; /* what libedit shall do after it */

/* SIGINT and SIGTERM are blocked while a line is edited, but for the wait for a key. There a signal
 * may jump: nothing but a system call is under way. (Waiting in ppoll and then reading would not
 * do: Ctrl-C takes back what poll has announced, and the read hangs.) */
static sigset_t signals, unblocked;
static sigjmp_buf waiting;
static volatile sig_atomic_t caught; /* the signal's number */

static void on_signal(int signal_number) {
  caught = signal_number;
  siglongjmp(waiting, 1);
}

/* As read, of one byte; -1 with `caught` set after a signal. */
static ssize_t read_byte(char *byte) {
  if (sigsetjmp(waiting, 1)) /* which restores the mask too */
    return -1;
  sigprocmask(SIG_SETMASK, &unblocked, NULL);
  ssize_t n = read(STDIN_FILENO, byte, 1);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  return n;
}

/* libedit's way to the next character: 1; 0 at the end of input; -1 after a signal. */
static int read_key(EditLine *el, wchar_t *key) {
  (void)el;
  const mbstate_t initial = {0};
  mbstate_t state = initial;
  for (;;) {
    char byte;
    if (read_byte(&byte) != 1)
      return caught ? -1 : 0;
    size_t n = mbrtowc(key, &byte, 1, &state);
    if (n == (size_t)-1) { /* no UTF-8 up to here: dropped; this byte may begin a character */
      state = initial;
      n = mbrtowc(key, &byte, 1, &state);
    }
    if (n == 0 || n == 1)
      return 1;
    if (n == (size_t)-1)
      state = initial;
  }
}

static char *current_prompt(EditLine *el) {
  (void)el;
  return (char *)prompt;
}

void host_line_insert(const char *text) {
  if (el_insertstr(editor, text) == 0)
    completion = CC_REFRESH;
}

void host_line_show(const char *text) {
  printf("\n%s\n", text);
  completion = CC_REDISPLAY;
}

static unsigned char on_tab(EditLine *el, wint_t key) {
  (void)key;
  const LineInfo *line = el_line(el);
  int columns = 80;
  el_get(el, EL_GETTC, "co", &columns);
  completion = CC_ERROR; /* a beep */
  completer(completer_user, line->buffer, (size_t)(line->cursor - line->buffer), columns);
  return completion;
}

static void bind_keys(void) {
  static const char *const keys[][2] = {
      {"^R", "em-inc-search-prev"}, {"\\e[1~", "ed-move-to-beg"}, {"\\e[4~", "ed-move-to-end"},
      {"\\e[H", "ed-move-to-beg"},  {"\\e[F", "ed-move-to-end"},  {"\\e[3~", "ed-delete-next-char"},
      {"^I", "complete"},
  };
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    el_set(editor, EL_BIND, keys[i][0], keys[i][1], NULL);
}

bool host_line_open(host_line_completer complete, void *user) {
  completer = complete;
  completer_user = user;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  setlocale(LC_CTYPE, "C.UTF-8"); /* for editing; numbers keep their point */
  editor = el_init("moonscope", stdin, stdout, stderr);
  history_lines = history_init();
  if (!editor || !history_lines)
    return false;
  HistEvent event;
  history(history_lines, &event, H_SETSIZE, HISTORY_ENTRIES);
  history(history_lines, &event, H_SETUNIQUE, 1);
  el_set(editor, EL_HIST, history, history_lines);
  el_set(editor, EL_EDITOR, "emacs");
  el_set(editor, EL_PROMPT, current_prompt);
  el_set(editor, EL_GETCFN, read_key);
  el_wset(editor, EL_ADDFN, L"complete", L"Offers what may stand here", on_tab); /* el_set leaks */
  bind_keys();
  return true;
}

void host_line_close(void) {
  history_end(history_lines);
  el_end(editor);
}

void host_line_remember(const char *text) {
  HistEvent event;
  history(history_lines, &event, H_ENTER, text);
}

/* el_gets with on_signal in place */
static const char *get_line(int *count) {
  struct sigaction action = {.sa_handler = on_signal}, old_int, old_term;
  sigprocmask(SIG_BLOCK, &signals, &unblocked);
  sigaction(SIGINT, &action, &old_int);
  sigaction(SIGTERM, &action, &old_term);
  caught = 0;
  el_set(editor, EL_PREP_TERM, 1); /* before the prompt invites to type; el_gets does it after */
  const char *line = el_gets(editor, count);
  sigaction(SIGINT, &old_int, NULL);
  sigaction(SIGTERM, &old_term, NULL);
  sigprocmask(SIG_SETMASK, &unblocked, NULL);
  return line;
}

host_line_result host_line_read(const char *with_prompt, const char **line, size_t *size) {
  prompt = with_prompt;
  el_resize(editor); /* the window may have another size now */
  int count = 0;
  *line = get_line(&count);
  if (caught == SIGTERM)
    raise(SIGTERM); /* now that the terminal is as it was */
  if (caught) {
    putchar('\n');
    return HOST_LINE_CANCELED;
  }
  if (!*line || count <= 0)
    return HOST_LINE_END;
  *size = (size_t)count - ((*line)[count - 1] == '\n');
  return HOST_LINE_READ;
}
