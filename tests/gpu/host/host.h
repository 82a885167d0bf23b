// SPDX-License-Identifier: MIT
/* What the parts of the host's CUDA share. */
#ifndef HOST_HOST_H
#define HOST_HOST_H

/* Counts a call that may lack memory; true: this one does (see cuda_runtime.h). */
bool host_fails(void);
void host_count_launch(void); /* one more grid was enqueued */

/* Only between these two may the device's memory be touched. One thread at a time. */
void host_begin_work(void);
void host_end_work(void);

#endif
