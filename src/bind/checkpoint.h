// SPDX-License-Identifier: MIT
/* What the files of checkpoints share: checkpoint.c (reading), writer.c (writing), digest.c
 * (sha256). */
#ifndef MOON_BIND_CHECKPOINT_H
#define MOON_BIND_CHECKPOINT_H

#include "bind/bind.h"

/* Borrowed; throws when it is another type, or closed. */
moon_checkpoint *l_checkpoint_check(lua_State *L, int index);

/* A range of an entry's bytes in row-major order, held for a job. */
typedef struct l_range {
  moon_checkpoint *checkpoint; /* one reference */
  const moon_entry *entry;     /* of the checkpoint */
  size_t first, size;          /* bytes: multiples of the element size */
} l_range;

/* Arguments (checkpoint, name, first, size) from index on into range, which is retained. Throws for
 * a missing tensor and for a range outside of it. */
void l_range_take(lua_State *L, int index, l_range *range);
void l_range_drop(l_range *range);

/* Without a result but success: pushes true. */
int l_push_true(lua_State *L, moon_task *task);

/* Add their types and functions to the module table on top of the stack. */
void l_open_writer(lua_State *L);
void l_open_digest(lua_State *L);

#endif
