// NvInfer's headers include cuda_runtime_api.h for two opaque handles only; the CUDA toolkit is not needed to
// compile a plugin that reaches the GPU through the driver. Configure with -DCUDA_INCLUDE_DIR=... to use the
// toolkit's own header instead.
#pragma once

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
