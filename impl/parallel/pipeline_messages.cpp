#include "impl/parallel/pipeline_messages.h"

namespace meshparity::impl {
namespace {

// Names the stage that made the activation.
Site site_of(int stage, int micro_batch) {
  return "stages." + std::to_string(stage) + ".micro_batch." + std::to_string(micro_batch);
}

// The group that leads from this stage to the next one.
const Group& activations_after(const PipelineGroups& g, int stage) {
  return (stage + 1) % g.activations->size() == 0 ? *g.activations_around : *g.activations;
}
const Group& gradients_after(const PipelineGroups& g, int stage) {
  return (stage + 1) % g.gradients->size() == 0 ? *g.gradients_around : *g.gradients;
}

}  // namespace

PipelineGroups make_pipeline_groups(Engine& engine, const std::vector<int>& members) {
  PipelineGroups groups;
  groups.activations = engine.group("pp", members);
  groups.activations_around = engine.group("pp.around", members);
  groups.gradients = engine.group("pp.backward", members);
  groups.gradients_around = engine.group("pp.backward.around", members);
  return groups;
}

void send_activation(Collectives& c, const PipelineGroups& g, int stage, int m, const at::Tensor& x) {
  c.send(activations_after(g, stage), x, (stage + 1) % g.activations->size(), site_of(stage, m));
}

void receive_activation(Collectives& c, const PipelineGroups& g, int stage, int m, at::Tensor& x) {
  c.recv(activations_after(g, stage - 1), x, (stage - 1) % g.activations->size(), site_of(stage - 1, m));
}

void send_gradient(Collectives& c, const PipelineGroups& g, int stage, int m, const at::Tensor& x) {
  c.send(gradients_after(g, stage - 1), x, (stage - 1) % g.gradients->size(),
         site_of(stage - 1, m) + ":backward");
}

void receive_gradient(Collectives& c, const PipelineGroups& g, int stage, int m, at::Tensor& x) {
  c.recv(gradients_after(g, stage), x, (stage + 1) % g.gradients->size(), site_of(stage, m) + ":backward");
}

}  // namespace meshparity::impl
