#define RFSEG_KERNEL_ISA plain
#define RFSEG_KERNEL_TARGET
#define RFSEG_KERNEL_NAME "plain"
#include "postprocess/kernels.inc"
