// For tests of case expansion: models of the shapes of the packaged ones, by name.
#pragma once

#include <string>

#include "harness/types/model_config.h"

namespace meshparity::run::fixture {

inline ModelConfig config_of(const std::string& model, const std::string&) {
  ModelConfig c;
  c.num_hidden_layers = 5, c.num_attention_heads = 8, c.num_key_value_heads = 2;
  c.linear_num_key_heads = 4, c.linear_num_value_heads = 12;
  if (model == "tiny-moe")
    c.num_attention_heads = 6, c.num_key_value_heads = 1, c.linear_num_key_heads = 6, c.num_experts = 12;
  return c;
}

}  // namespace meshparity::run::fixture
