#pragma once

/// Marks what librfseg.so exports; everything else in it is hidden.
#define RFSEG_API __attribute__((visibility("default")))
