// A model described by one word (harness/types/model_shape.h) as the config.json that Hugging Face would
// hold.
#pragma once

#include <string>

#include "harness/types/model_config.h"

namespace meshparity::scenarios {

// The model of "shape:layers=gag:heads=4/2". Throws InputError naming the text and the field.
ModelConfig parse_model_shape(const std::string& text);

}  // namespace meshparity::scenarios
