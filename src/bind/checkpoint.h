// SPDX-License-Identifier: MIT
/* What the files of checkpoints share: checkpoint.c (reading), writer.c (writing), digest.c
 * (sha256). */
#ifndef MOON_BIND_CHECKPOINT_H
#define MOON_BIND_CHECKPOINT_H

#include "bind/bind.h"
#include "io/digest.h"

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

/* Borrowed; throws when it is another type, or closed. */
moon_digest *l_digest_check(lua_State *L, int index);

/* Bytes of a checkpoint's file, to be added to a digest by a job. */
typedef struct l_hashing {
  moon_digest *digest; /* one reference; NULL: nothing to hash */
  moon_bytes *bytes;   /* one reference */
  size_t first, size;
} l_hashing;

/* Arguments (checkpoint) at `checkpoint` and (first, size) from index on into hashing, which is
 * retained. Throws for a checkpoint of several files and for a range outside of its file. */
void l_hashing_take(lua_State *L, moon_digest *digest, int checkpoint, int index,
                    l_hashing *hashing);
void l_hashing_run(const l_hashing *hashing);
void l_hashing_drop(l_hashing *hashing);

/* Add their types and functions to the module table on top of the stack. */
void l_open_writer(lua_State *L);
void l_open_digest(lua_State *L);

#endif
