#pragma once

// The public API of librfseg. See README.md, "Use it from C++".

#include "rfseg/detections.h"
#include "rfseg/error.h"
#include "rfseg/image.h"
#include "rfseg/model.h"
#include "rfseg/options.h"
#include "rfseg/predictor.h"
#include "rfseg/version.h"
