#include "harness/types/rollout.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <sstream>

#include "harness/types/error.h"

namespace meshparity {
namespace {

template <class Number>
Number rollout_number(std::string_view part, std::string_view value, Number least, Number most) {
  Number number{};
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || !(number >= least && number <= most)) {
    std::ostringstream range;
    range << least << " to " << most;
    throw InputError("--rollout " + std::string(part) + "=" + std::string(value) + ": a number from " +
                     range.str() + " is needed");
  }
  return number;
}

bool rollout_switch(std::string_view part, std::string_view value, std::string_view on,
                    std::string_view off) {
  if (value == on) return true;
  if (value == off) return false;
  throw InputError("--rollout " + std::string(part) + "=" + std::string(value) + ": " + std::string(off) +
                   " or " + std::string(on) + " is needed");
}

void read_rollout_part(RolloutSpec& spec, std::string_view name, std::string_view value) {
  constexpr std::int64_t most = std::int64_t{1} << 40;
  if (name == "prompt")
    spec.prompt = rollout_number<std::int64_t>(name, value, 1, most);
  else if (name == "chunk")
    spec.chunk = rollout_number<std::int64_t>(name, value, 1, most);
  else if (name == "batch")
    spec.batch = rollout_number<std::int64_t>(name, value, 1, most);
  else if (name == "pad")
    spec.left_pad = rollout_switch(name, value, "left", "none");
  else if (name == "prefix")
    spec.prefix = rollout_number<std::int64_t>(name, value, 1, most);
  else if (name == "replay")
    spec.replay = rollout_switch(name, value, "on", "off");
  else if (name == "temperature")
    spec.temperature = rollout_number<double>(name, value, 0.01, 100);
  else if (name == "top_p")
    spec.top_p = rollout_number<double>(name, value, 1e-6, 1);
  else
    throw InputError("--rollout '" + std::string(name) +
                     "': unknown; prompt, chunk, batch, pad, prefix, replay, temperature, top_p");
}

std::string rollout_text(double number) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number).ptr;
  return std::string(buffer, end);
}

}  // namespace

std::string RolloutSpec::text() const {
  std::string out;
  const auto add = [&](const char* name, const std::string& value, bool shown) {
    if (shown) out += (out.empty() ? "" : ":") + std::string(name) + "=" + value;
  };
  add("prompt", std::to_string(prompt), prompt > 0);
  add("chunk", std::to_string(chunk), chunk > 0);
  add("batch", std::to_string(batch), batch > 0);
  add("pad", "left", left_pad);
  add("prefix", std::to_string(prefix), prefix > 0);
  add("replay", "on", replay);
  add("temperature", rollout_text(temperature), temperature != 1);
  add("top_p", rollout_text(top_p), top_p != 1);
  return out.empty() ? "plain" : out;
}

RolloutSpec RolloutSpec::parse(std::string_view text) {
  RolloutSpec spec;
  if (text == "plain") return spec;
  std::set<std::string_view> seen;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(':', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    const auto equals = part.find('=');
    if (equals == std::string_view::npos)
      throw InputError("--rollout '" + std::string(text) + "': '" + std::string(part) +
                       "' is not NAME=VALUE");
    if (!seen.insert(part.substr(0, equals)).second)
      throw InputError("--rollout '" + std::string(text) + "': '" + std::string(part.substr(0, equals)) +
                       "' stands twice");
    read_rollout_part(spec, part.substr(0, equals), part.substr(equals + 1));
    begin = end + 1;
  }
  return spec;
}

std::int64_t RolloutSpec::prompt_of(std::int64_t length) const {
  return std::min(length, prompt > 0 ? prompt : (length + 1) / 2);
}

std::string rollout_refusal(const Mesh& mesh, const RolloutSpec& spec, const ModelConfig& config) {
  for (const auto& [axis, size] : {std::pair("fsdp", mesh.fsdp), {"ring", mesh.ring}, {"uly", mesh.uly}})
    if (size > 1)
      return std::string(axis) + std::to_string(size) + ": rollout has the axes pp, dp, tp, ep, etp";
  if (spec.replay && !config.is_moe()) return "replay=on: the model has no experts to replay";
  return refusal(mesh, Flags{}, config);
}

Batch rollout_batch(const Batch& batch) {
  Batch sequences = batch;
  sequences.row_offsets.clear();
  for (std::int64_t d = 0; d <= batch.documents(); ++d) sequences.row_offsets.push_back(d);
  sequences.micro_batch_offsets = {0, batch.documents()};
  return sequences;
}

}  // namespace meshparity
