// A new axis or flag needs nothing here: axes are read from the mesh's text, flags from flag_options(). A new
// field of a shape or batch is a line in its list below and in size_of.
#include "harness/run/shrink_reductions.h"

#include <algorithm>
#include <utility>

namespace meshparity::run {
namespace {

using Reductions = std::vector<Reduction>;

// The axes of a mesh with their sizes, as its text names them: "fsdp2.tp4" is (fsdp, 2), (tp, 4).
std::vector<std::pair<std::string, int>> axes_of(const Mesh& mesh) {
  std::vector<std::pair<std::string, int>> axes;
  const std::string text = mesh.text();
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('.', at), text.size());
    const std::size_t digit = text.find_first_of("0123456789", at);
    axes.emplace_back(text.substr(at, digit - at), std::stoi(text.substr(digit, end - digit)));
    at = end + 1;
  }
  return axes;
}

Mesh mesh_of(const std::vector<std::pair<std::string, int>>& axes) {
  std::string text;
  for (const auto& [name, size] : axes) text += (text.empty() ? "" : ".") + name + std::to_string(size);
  return Mesh::parse(text.empty() ? "dp1" : text);
}

// This axis at this size, other axes as they are.
Reduction axis_at(const std::string& axis, int size) {
  return [=](Opened& o) {
    auto axes = axes_of(o.spec.mesh);
    for (auto& [name, now] : axes)
      if (name == axis && now > size) {
        now = size;
        o.spec.mesh = mesh_of(axes);
        return true;
      }
    return false;
  };
}

// Only this axis, at this size.
Reduction only_axis(const std::string& axis, int size) {
  return [=](Opened& o) {
    const auto axes = axes_of(o.spec.mesh);
    const auto at = std::find_if(axes.begin(), axes.end(), [&](const auto& a) { return a.first == axis; });
    if (at == axes.end() || at->second < size || (axes.size() == 1 && at->second == size)) return false;
    o.spec.mesh = mesh_of({{axis, size}});
    return true;
  };
}

template <class Owner, class T>
Reduction set_to(T Owner::*field, const T& value) {
  return [=](Opened& o) {
    if (o.spec.*field == value) return false;
    o.spec.*field = value;
    return true;
  };
}

Reductions of_mesh(const Opened& o) {
  Reductions list;
  const auto axes = axes_of(o.spec.mesh);
  for (const auto& [axis, size] : axes)
    if (axis != "etp") list.push_back(only_axis(axis, 2));
  for (const auto& [axis, size] : axes)
    for (int smaller = 1; smaller < size; ++smaller)
      if (size % smaller == 0 || smaller == size - 1) list.push_back(axis_at(axis, smaller));
  for (const auto& flag : flag_options())
    list.push_back([&flag](Opened& opened) {
      if (flag.get(opened.spec.flags) == flag.values.front()) return false;
      flag.set(opened.spec.flags, flag.values.front());
      return true;
    });
  const CaseSpec plain;
  list.push_back(set_to(&CaseSpec::loss, plain.loss));
  // One term less: their texts are joined by '+'.
  const std::string& loss = o.spec.loss;
  for (std::size_t begin = 0; loss.find('+') != std::string::npos && begin <= loss.size();) {
    const std::size_t end = std::min(loss.find('+', begin), loss.size());
    const std::string rest = begin == 0 ? loss.substr(end + 1) : loss.substr(0, begin - 1) + loss.substr(end);
    list.push_back([loss, rest](Opened& opened) {
      if (opened.spec.loss != loss) return false;
      opened.spec.loss = rest;
      return true;
    });
    begin = end + 1;
  }
  list.push_back(set_to(&CaseSpec::loss_form, plain.loss_form));
  for (int steps = 0; steps < o.spec.steps; ++steps) list.push_back(set_to(&CaseSpec::steps, steps));
  return list;
}

Reduction of_model(std::function<bool(ModelShape&)> change) {
  return [change](Opened& o) { return o.model && change(*o.model); };
}

// A size at its default, halfway there, and one nearer.
void add_size(const ModelShape& shape, std::int64_t ModelShape::*size, Reductions& list) {
  const std::int64_t now = shape.*size, plain = ModelShape{}.*size;
  std::vector<std::int64_t> values = {plain};
  for (const std::int64_t value : {plain + (now - plain) / 2, now + (now < plain ? 1 : -1)})
    if (value != now && std::find(values.begin(), values.end(), value) == values.end())
      values.push_back(value);
  if (now == plain) return;
  for (const std::int64_t value : values)
    list.push_back(of_model([=](ModelShape& s) { return std::exchange(s.*size, value) != value; }));
}

// Two sizes of which the second divides the first: their default, and all pairs below divisors of the first.
void add_pair(const ModelShape& shape, std::int64_t ModelShape::*many, std::int64_t ModelShape::*few,
              Reductions& list) {
  const ModelShape plain;
  const auto add = [&](std::int64_t n, std::int64_t k) {
    if (n < 1 || k < 1 || n % k) return;
    list.push_back(of_model([=](ModelShape& s) {
      const bool changes = s.*many != n || s.*few != k;
      s.*many = n, s.*few = k;
      return changes;
    }));
  };
  add(plain.*many, plain.*few);
  for (std::int64_t n = 1; n <= shape.*many; ++n)
    for (std::int64_t k = 1; k <= n && shape.*many % n == 0; ++k) add(n, k);
}

Reductions of_layers(const Opened& o) {
  Reductions list;
  if (!o.model) return list;
  const std::string& layers = o.model->layers;
  for (const char* one : {"g", "a"})
    list.push_back(of_model([one](ModelShape& s) {
      if (s.layers.size() < 2 || s.layers.find(one) == std::string::npos) return false;
      s.layers = one;
      return true;
    }));
  for (std::size_t i = layers.size(); i-- > 0;)
    list.push_back(of_model([i](ModelShape& s) {
      if (s.layers.size() < 2 || i >= s.layers.size()) return false;
      s.layers.erase(i, 1);
      return true;
    }));
  list.push_back(of_model([](ModelShape& s) {
    if (!s.is_moe()) return false;
    const ModelShape plain;
    s.experts = s.top_k = s.expert_width = 0, s.shared = plain.shared, s.ffn = plain.ffn;
    return true;
  }));
  list.push_back(of_model([](ModelShape& s) { return std::exchange(s.tied, false); }));
  list.push_back(of_model([](ModelShape& s) { return std::exchange(s.mtp, false); }));
  const auto without_tower = [](ModelShape& s) {
    if (!s.has_vision()) return false;
    const ModelShape plain;
    s.vision_depth = s.vision_heads = s.vision_head_dim = s.vision_ffn = 0, s.grid = plain.grid;
    return true;
  };
  list.push_back(of_model(without_tower));
  // Without a tower images are text.
  list.push_back([without_tower](Opened& opened) {
    if (!opened.model || !opened.batch || !without_tower(*opened.model)) return false;
    for (auto& rows : opened.batch->micro_batches)
      for (auto& row : rows)
        for (auto& document : row) document.images.clear();
    return true;
  });
  return list;
}

Reductions of_sizes(const Opened& o) {
  Reductions list;
  if (!o.model) return list;
  using M = ModelShape;
  add_pair(*o.model, &M::heads, &M::kv_heads, list);
  add_pair(*o.model, &M::gdn_value_heads, &M::gdn_key_heads, list);
  for (const auto size :
       {&M::hidden, &M::head_dim, &M::gdn_key_dim, &M::gdn_value_dim, &M::conv, &M::ffn, &M::vocab})
    add_size(*o.model, size, list);
  // The rotary width is even; where it is not the whole head it may stay.
  list.push_back(of_model([](ModelShape& s) { return std::exchange(s.rope, 2) > 2; }));
  if (o.model->is_moe()) {
    add_pair(*o.model, &M::experts, &M::top_k, list);
    add_size(*o.model, &M::shared, list);
    list.push_back(of_model([](ModelShape& s) { return std::exchange(s.expert_width, 1) > 1; }));
  }
  if (o.model->has_vision()) {
    list.push_back(of_model([](ModelShape& s) { return std::exchange(s.vision_depth, 1) > 1; }));
    list.push_back(of_model([](ModelShape& s) { return std::exchange(s.vision_head_dim, 4) > 4; }));
    list.push_back(of_model([](ModelShape& s) { return std::exchange(s.vision_ffn, 1) > 1; }));
    for (std::int64_t heads = 1; heads < o.model->vision_heads; ++heads)
      list.push_back(
          of_model([heads](ModelShape& s) { return std::exchange(s.vision_heads, heads) > heads; }));
    add_size(*o.model, &M::grid, list);
  }
  list.push_back(set_to(&CaseSpec::seed, 0LL));
  return list;
}

// Many reductions at once, which most failures survive: one axis of two ranks, plain flags, a model of
// default sizes, a handful of tokens. What they leave is soon searched.
Reductions of_everything(const Opened& o) {
  Reductions list;
  for (const auto& [axis, size] : axes_of(o.spec.mesh))
    if (axis != "etp") list.push_back(only_axis(axis, 2));
  for (const int steps : {0, 1})
    list.push_back([steps](Opened& opened) {
      const CaseSpec plain;
      CaseSpec& spec = opened.spec;
      const CaseSpec before = spec;
      spec.flags = plain.flags, spec.loss = plain.loss, spec.loss_form = plain.loss_form;
      spec.steps = std::min(spec.steps, steps);
      return !(spec == before);
    });
  for (const bool experts : {false, true})
    list.push_back(of_model([experts](ModelShape& s) {
      ModelShape small;
      small.layers =
          s.layers.find_first_not_of(s.layers.front()) == std::string::npos ? s.layers.substr(0, 1) : "ga";
      if (experts) small.experts = 4, small.top_k = 2, small.expert_width = 4;
      small.mtp = s.mtp;
      if (s.has_vision())
        small.vision_depth = 1, small.vision_heads = 2, small.vision_head_dim = small.vision_ffn = 4;
      if (experts && !s.is_moe()) return false;
      s = small;
      return true;
    }));
  for (const char* tokens :
       {"tokens:4", "tokens:5+3", "tokens:5+2/3", "tokens:5+2//3", "tokens:7i2x4", "tokens:9i2x4+2/7i2x4"})
    list.push_back(of_batch([tokens](BatchShape& b) {
      b = BatchShape::parse(tokens);
      return true;
    }));
  return list;
}

}  // namespace

Opened::Opened(const CaseSpec& case_spec) : spec(case_spec) {
  if (is_shape(spec.model)) model = ModelShape::parse(spec.model);
  if (is_batch_shape(spec.batch)) batch = BatchShape::parse(spec.batch);
}

CaseSpec Opened::closed() const {
  CaseSpec out = spec;
  if (model) out.model = model->text();
  if (batch) out.batch = batch->text();
  out.flags = canonical_flags(out.mesh, out.flags, nullptr);
  if (out.spawn) out.spawn = out.mesh.world();
  return out;
}

std::vector<std::vector<Reduction>> reductions_of(const Opened& opened) {
  return {of_everything(opened),           of_mesh(opened), reductions_of_rows(opened), of_layers(opened),
          reductions_of_documents(opened), of_sizes(opened)};
}

}  // namespace meshparity::run
