// SPDX-License-Identifier: MIT
/* What the parts of the host's CUDA share. */
#ifndef HOST_HOST_H
#define HOST_HOST_H

/* Counts a call that may lack memory; true: this one does (see cuda_runtime.h). */
bool host_fails(void);

#endif
