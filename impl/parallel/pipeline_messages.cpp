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

void send_on(Collectives& c, const PipelineGroups& g, int stage, const Site& site, const at::Tensor& x) {
  c.send(activations_after(g, stage), x, (stage + 1) % g.activations->size(), site);
}
void receive_on(Collectives& c, const PipelineGroups& g, int stage, const Site& site, at::Tensor& x) {
  c.recv(activations_after(g, stage - 1), x, (stage - 1) % g.activations->size(), site);
}
void send_back(Collectives& c, const PipelineGroups& g, int stage, const Site& site, const at::Tensor& x) {
  c.send(gradients_after(g, stage - 1), x, (stage - 1) % g.gradients->size(), site + ":backward");
}
void receive_back(Collectives& c, const PipelineGroups& g, int stage, const Site& site, at::Tensor& x) {
  c.recv(gradients_after(g, stage), x, (stage + 1) % g.gradients->size(), site + ":backward");
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
  send_on(c, g, stage, site_of(stage, m), x);
}

void receive_activation(Collectives& c, const PipelineGroups& g, int stage, int m, at::Tensor& x) {
  receive_on(c, g, stage, site_of(stage - 1, m), x);
}

void send_gradient(Collectives& c, const PipelineGroups& g, int stage, int m, const at::Tensor& x) {
  send_back(c, g, stage, site_of(stage - 1, m), x);
}

void receive_gradient(Collectives& c, const PipelineGroups& g, int stage, int m, at::Tensor& x) {
  receive_back(c, g, stage, site_of(stage, m), x);
}

void send_router_sums(Collectives& c, const PipelineGroups& g, int stage, int m, const at::Tensor& sums) {
  send_on(c, g, stage, site_of(stage, m) + ".routers", sums);
}

void receive_router_sums(Collectives& c, const PipelineGroups& g, int stage, int m, at::Tensor& sums) {
  receive_on(c, g, stage, site_of(stage - 1, m) + ".routers", sums);
}

void send_router_shares(Collectives& c, const PipelineGroups& g, int stage, int m, const at::Tensor& shares) {
  send_back(c, g, stage, site_of(stage - 1, m) + ".routers", shares);
}

void receive_router_shares(Collectives& c, const PipelineGroups& g, int stage, int m, at::Tensor& shares) {
  receive_back(c, g, stage, site_of(stage, m) + ".routers", shares);
}

}  // namespace meshparity::impl
