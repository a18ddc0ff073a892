#include "harness/cli/reference_routes.h"

#include <algorithm>

#include "harness/layout/padded_rows.h"
#include "harness/types/loss_sum.h"

namespace meshparity::cli {

layout::ExpertRoutes reference_routes(const ModelConfig& config, const reference::TensorMap& weights,
                                      const Batch& batch, const TrainSpec& train, const Mesh& mesh,
                                      const Flags& flags, const std::string& loss, int steps) {
  reference::RunOptions options;
  options.loss = loss, options.steps = steps, options.gradients = false, options.routes = true;
  const Batch padded = layout::padded_batch(batch, mesh, flags.pad, &options.padding);
  const auto results = reference::run(config, weights, padded, train, options);
  layout::ExpertRoutes routes;
  for (int pass = 1; pass <= std::max(1, steps); ++pass) {
    auto& layers = routes.emplace_back();
    const auto add = [&](const std::string& layer) {
      const at::Tensor experts = results.at("routes/pass" + std::to_string(pass) + "/" + layer).contiguous();
      const auto* data = experts.const_data_ptr<std::int64_t>();
      layers.emplace_back(data, data + experts.numel());
    };
    for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) add("layers." + std::to_string(i));
    if (parse_loss(loss).has("mtp")) add("mtp.layers.0");
  }
  return routes;
}

reference::TensorMap chosen_experts(const ModelConfig& config, const reference::TensorMap& weights,
                                    const Batch& batch, const TrainSpec& train) {
  reference::RunOptions options;
  options.gradients = false, options.routes = true;
  reference::TensorMap experts;
  const std::string pass = "routes/pass1/";
  for (const auto& [key, value] : reference::run(config, weights, batch, train, options))
    if (key.rfind(pass, 0) == 0) experts.emplace(key.substr(pass.size()), value);
  return experts;
}

}  // namespace meshparity::cli
