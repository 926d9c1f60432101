#pragma once

// RFSEG_API marks what librfseg.so exports. RFSEG_STATIC is defined when linking the static stages.
#if defined(RFSEG_STATIC)
#define RFSEG_API
#else
#define RFSEG_API __attribute__((visibility("default")))
#endif
