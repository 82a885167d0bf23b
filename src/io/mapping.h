// SPDX-License-Identifier: MIT
/*
 * Files mapped for reading, of which another program may cut off the end. Touching a page that is
 * gone raises SIGBUS, in whichever thread; here it reads as zeros instead, and whoever used the
 * file asks afterwards whether that happened:
 *
 *   a task of the compute thread   moon_mapping_settle, once it is done
 *   opening and parsing a file     moon_mapping_check of that file
 *
 * The handler is installed with the first mapping, for the process; addresses that are none of ours
 * go on to the handler that was there before. A thread that blocks SIGBUS dies of it all the same,
 * and so does the process where somebody else replaces the handler. What another program writes
 * into the file while it is mapped is not noticed.
 */
#ifndef MOON_IO_MAPPING_H
#define MOON_IO_MAPPING_H

#include "moon.h"

typedef struct moon_mapping moon_mapping;

/* Maps size > 0 bytes of fd, which may be closed afterwards; path is for messages. Closed by the
 * caller. MOON_ENOMEM, MOON_EIO. */
moon_status moon_mapping_open(moon_mapping **out, int fd, size_t size, const char *path,
                              moon_err *err);
void moon_mapping_close(moon_mapping *mapping);
const void *moon_mapping_data(const moon_mapping *mapping);
const char *moon_mapping_path(const moon_mapping *mapping); /* borrowed */

/* status, or MOON_EIO if the mapping had missing pages touched since it was opened. */
moon_status moon_mapping_check(const moon_mapping *mapping, moon_status status, moon_err *err);

/* status, or MOON_EIO if missing pages of any mapping were touched since the last call. After it
 * they count as missing again, so that the next task that touches them fails, too. One thread at a
 * time, while no other one uses what the tasks use. */
moon_status moon_mapping_settle(moon_status status, moon_err *err);

#endif
