// Faults of a weight transfer, planted one by one in a small model: each is found, and what happened is
// named.
#include "harness/weights/compare_weights.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <map>

#include "harness/types/generator.h"
#include "harness/weights/order.h"

namespace meshparity::weights::compare_weights_test {
namespace {

using Tensors = std::map<std::string, HostTensor>;

class MemoryWeights : public WeightSet {
 public:
  explicit MemoryWeights(const Tensors& tensors, const std::string& origin = "memory") : WeightSet(origin) {
    std::vector<Entry> entries;
    for (const auto& [name, tensor] : tensors) {
      entries.push_back({name, name, tensor.dtype, tensor.shape});
      tensors_.push_back(tensor);
    }
    set_entries(std::move(entries));
  }
  TensorView view(std::size_t entry) const override { return tensors_[entry].view(); }

 private:
  std::vector<HostTensor> tensors_;
};

std::vector<double> values_of(const HostTensor& t) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < t.numel(); ++i) values.push_back(t.view().at(i));
  return values;
}

HostTensor tensor_of(DType dtype, const Shape& shape, const std::vector<double>& values) {
  HostTensor t = HostTensor::zeros(dtype, shape);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto single = static_cast<float>(values[i]);
    if (dtype == DType::float64)
      t.as<double>()[i] = values[i];
    else if (dtype == DType::float32)
      t.as<float>()[i] = single;
    else  // bfloat16 of a value that round_to made: the upper half
      t.as<std::uint16_t>()[i] = static_cast<std::uint16_t>(
          std::bit_cast<std::uint32_t>(static_cast<float>(round_to(DType::bfloat16, values[i]))) >> 16);
  }
  return t;
}

HostTensor as(DType dtype, const HostTensor& t) {
  return tensor_of(dtype, t.shape, values_of(t));
}

constexpr const char* kLinear = "model.layers.0.linear_attn.";
constexpr const char* kAttention = "model.layers.1.self_attn.";

// Two layers of one kind each, four experts; 4 numbers wide heads.
Tensors model(std::uint64_t seed = 1, DType dtype = DType::float32) {
  const std::string linear = kLinear, attention = kAttention, mlp = "model.layers.1.mlp.";
  std::map<std::string, Shape> shapes = {{"model.embed_tokens.weight", {16, 8}},
                                         {"lm_head.weight", {16, 8}},
                                         {"model.norm.weight", {8}},
                                         {"model.layers.0.input_layernorm.weight", {8}},
                                         {"model.layers.1.input_layernorm.weight", {8}},
                                         {linear + "in_proj_qkv.weight", {24, 8}},
                                         {linear + "conv1d.weight", {24, 1, 4}},
                                         {linear + "A_log", {4}},
                                         {linear + "dt_bias", {4}},
                                         {linear + "norm.weight", {4}},
                                         {linear + "out_proj.weight", {8, 16}},
                                         {attention + "q_proj.weight", {32, 8}},
                                         {attention + "k_proj.weight", {8, 8}},
                                         {attention + "v_proj.weight", {8, 8}},
                                         {attention + "o_proj.weight", {8, 16}},
                                         {attention + "q_norm.weight", {4}},
                                         {mlp + "gate.weight", {4, 8}}};
  for (int e = 0; e < 4; ++e) {
    const std::string expert = mlp + "experts." + std::to_string(e) + ".";
    shapes[expert + "gate_proj.weight"] = shapes[expert + "up_proj.weight"] = {6, 8};
    shapes[expert + "down_proj.weight"] = {8, 6};
  }
  Tensors tensors;
  for (const auto& [name, shape] : shapes) {
    const Generator generator(seed, name);
    std::vector<double> values;
    for (std::int64_t i = 0; i < shape_numel(shape); ++i)
      values.push_back(2 * generator.uniform(static_cast<std::uint64_t>(i)) - 1);
    tensors[name] = tensor_of(dtype, shape, values);
  }
  return tensors;
}

// Rows of `t` in another order.
HostTensor reordered(const HostTensor& t, const std::vector<std::int64_t>& order) {
  const std::int64_t width = t.numel() / t.shape[0];
  const std::vector<double> values = values_of(t);
  std::vector<double> out;
  for (const std::int64_t row : order)
    out.insert(out.end(), values.begin() + row * width, values.begin() + (row + 1) * width);
  Shape shape = t.shape;
  shape[0] = static_cast<std::int64_t>(order.size());
  return tensor_of(t.dtype, shape, out);
}

HostTensor transpose(const HostTensor& t) {
  std::vector<double> out;
  for (std::int64_t c = 0; c < t.shape[1]; ++c)
    for (std::int64_t r = 0; r < t.shape[0]; ++r) out.push_back(t.view().at(r * t.shape[1] + c));
  return tensor_of(t.dtype, {t.shape[1], t.shape[0]}, out);
}

HostTensor changed(const HostTensor& t, const std::function<double(double, std::int64_t)>& change) {
  std::vector<double> values = values_of(t);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = change(values[i], static_cast<std::int64_t>(i));
  return tensor_of(t.dtype, t.shape, values);
}

std::vector<std::int64_t> rows(std::initializer_list<std::pair<int, int>> ranges) {
  std::vector<std::int64_t> list;
  for (const auto& [begin, end] : ranges)
    for (int i = begin; i < end; ++i) list.push_back(i);
  return list;
}

// What is done to the receiver's side, the weight that shows it, and what must be said of it.
struct Planted {
  std::string weight, said;
  std::function<void(Tensors& got, const Tensors& previous)> plant;
};

std::vector<Planted> planted() {
  const std::string l = kLinear, a = kAttention, e = "model.layers.1.mlp.experts.";
  const std::string embed = "model.embed_tokens.weight", head = "lm_head.weight";
  std::vector<Planted> list;
  const auto add = [&](const std::string& weight, const std::string& said, auto plant) {
    list.push_back({weight, said, plant});
  };
  // One weight, changed by itself.
  const auto change = [&](const std::string& weight, const std::string& said,
                          std::function<HostTensor(const HostTensor&)> how) {
    add(weight, said, [weight, how](Tensors& got, const Tensors&) { got[weight] = how(got[weight]); });
  };
  add(l + "dt_bias", "never sent", [=](Tensors& got, const Tensors&) { got.erase(l + "dt_bias"); });
  add("model.layers.2.input_layernorm.weight", "left from another", [=](Tensors& got, const Tensors& old) {
    got["model.layers.2.input_layernorm.weight"] = old.at("model.norm.weight");
  });
  add(a + "q_norm.weight", "arrived under the name " + a + "q_layernorm.weight",
      [=](Tensors& got, const Tensors&) {
        got[a + "q_layernorm.weight"] = got.at(a + "q_norm.weight");
        got.erase(a + "q_norm.weight");
      });
  change(a + "o_proj.weight", "transposed", transpose);
  change(a + "v_proj.weight", "transposed", transpose);
  change(e + "3.down_proj.weight", "transposed", transpose);
  add(e + "1.gate_proj.weight", "holds what was sent as " + e + "1.up_proj.weight",
      [=](Tensors& got, const Tensors&) {
        std::swap(got[e + "1.gate_proj.weight"], got[e + "1.up_proj.weight"]);
      });
  add(e + "2.down_proj.weight", "holds what was sent as " + e + "0.down_proj.weight",
      [=](Tensors& got, const Tensors&) {
        std::swap(got[e + "2.down_proj.weight"], got[e + "0.down_proj.weight"]);
      });
  add("model.layers.0.input_layernorm.weight", "holds what was sent as model.layers.1.input_layernorm.weight",
      [=](Tensors& got, const Tensors&) {
        got["model.layers.0.input_layernorm.weight"] = got["model.layers.1.input_layernorm.weight"];
      });
  // [q | gate] of every head taken for all q, then all gates; 4 heads of 4 + 4 rows.
  change(a + "q_proj.weight", "4 groups of 2 taken apart", [](const HostTensor& t) {
    return reordered(t, rows({{0, 4}, {8, 12}, {16, 20}, {24, 28}, {4, 8}, {12, 16}, {20, 24}, {28, 32}}));
  });
  change(l + "in_proj_qkv.weight", "rotated by 1", [](const HostTensor& t) {
    return reordered(t, rows({{8, 24}, {0, 8}}));
  });
  // Every rank's q, k and v together: the slices of a plain cut.
  change(l + "conv1d.weight", "3 groups of 2 taken apart", [](const HostTensor& t) {
    return reordered(t, rows({{0, 4}, {8, 12}, {16, 20}, {4, 8}, {12, 16}, {20, 24}}));
  });
  change(embed, "4 blocks of 4 rows in the order 3 2 1 0 (reversed)", [](const HostTensor& t) {
    return reordered(t, rows({{12, 16}, {8, 12}, {4, 8}, {0, 4}}));
  });
  change(l + "out_proj.weight", "4 blocks of 4 columns in the order 0 2 1 3 (block 1 and block 2 swapped)",
         [](const HostTensor& t) {
           return transpose(reordered(transpose(t), rows({{0, 4}, {8, 12}, {4, 8}, {12, 16}})));
         });
  change(embed, "4 padded rows of the vocabulary, all zero", [](const HostTensor& t) {
    std::vector<double> values = values_of(t);
    values.resize(20 * 8);
    return tensor_of(t.dtype, {20, 8}, values);
  });
  change(head, "4 padded rows of the vocabulary, not zero", [](const HostTensor& t) {
    std::vector<double> values = values_of(t);
    values.resize(20 * 8, 0.5);
    return tensor_of(t.dtype, {20, 8}, values);
  });
  add(head, "a head of its own", [=](Tensors& got, const Tensors&) { got.erase(head); });
  add(l + "out_proj.weight", "stale: equal to the previous version",
      [=](Tensors& got, const Tensors& old) { got[l + "out_proj.weight"] = old.at(l + "out_proj.weight"); });
  add(embed, "only rows 8 to 15, part 1 of 2: stale", [=](Tensors& got, const Tensors& old) {
    got[embed] = changed(got[embed],
                         [&](double x, std::int64_t i) { return i < 64 ? x : old.at(embed).view().at(i); });
  });
  add(a + "o_proj.weight", "only columns 8 to 11, part 2 of 4: stale", [=](Tensors& got, const Tensors& old) {
    got[a + "o_proj.weight"] = changed(got[a + "o_proj.weight"], [&](double x, std::int64_t i) {
      return i % 16 / 4 == 2 ? old.at(a + "o_proj.weight").view().at(i) : x;
    });
  });
  change(a + "k_proj.weight", "only rows 4 to 7, part 1 of 2: zeros", [](const HostTensor& t) {
    return changed(t, [](double x, std::int64_t i) { return i < 32 ? x : 0; });
  });
  change(a + "q_proj.weight", "only rows 16 to 31, part 1 of 2: a copy of rows 0 to 15",
         [](const HostTensor& t) {
           return reordered(t, rows({{0, 16}, {0, 16}}));
         });
  change(a + "q_proj.weight", "not gathered: part 1 of 2 of the rows", [](const HostTensor& t) {
    return reordered(t, rows({{16, 32}}));
  });
  change(l + "out_proj.weight", "not gathered: part 0 of 4 of the columns", [](const HostTensor& t) {
    return transpose(reordered(transpose(t), rows({{0, 4}})));
  });
  change(a + "k_proj.weight", "every block of 4 rows stands there 2 times", [](const HostTensor& t) {
    return reordered(t, rows({{0, 4}, {0, 4}, {4, 8}, {4, 8}}));
  });
  change(l + "A_log", "rounded to bfloat16 on the way", [](const HostTensor& t) {
    return changed(t, [](double x, std::int64_t) { return round_to(DType::bfloat16, x); });
  });
  change(l + "A_log", "downcast", [](const HostTensor& t) { return as(DType::bfloat16, t); });
  change("model.norm.weight", "downcast", [](const HostTensor& t) { return as(DType::bfloat16, t); });
  change(l + "norm.weight", "minus 1: a zero-centred norm",
         [](const HostTensor& t) { return changed(t, [](double x, std::int64_t) { return x - 1; }); });
  change(l + "out_proj.weight", "multiplied by 0.5",
         [](const HostTensor& t) { return changed(t, [](double x, std::int64_t) { return x / 2; }); });
  change(a + "v_proj.weight", "nothing but NaN",
         [](const HostTensor& t) { return changed(t, [](double, std::int64_t) { return std::nan(""); }); });
  change("model.layers.1.mlp.gate.weight", "nothing but zeros",
         [](const HostTensor& t) { return changed(t, [](double, std::int64_t) { return 0.0; }); });
  change(l + "conv1d.weight", "the same elements in another shape", [](const HostTensor& t) {
    return tensor_of(t.dtype, {24, 4}, values_of(t));
  });
  change(a + "o_proj.weight", "cut off to bfloat16 instead of rounded", [](const HostTensor& t) {
    return tensor_of(
        DType::bfloat16, t.shape,
        values_of(changed(t, [](double x, std::int64_t) { return truncate_to(DType::bfloat16, x); })));
  });
  change(embed, "only rows 5 to 5, part 5 of 16 and columns 3 to 3, part 3 of 8 differ",
         [](const HostTensor& t) {
           return changed(t, [](double x, std::int64_t i) { return i == 43 ? -x : x; });
         });
  change(a + "k_proj.weight", "another step or a quantisation", [](const HostTensor& t) {
    return changed(t, [](double x, std::int64_t i) { return x + 1e-3 * std::sin(static_cast<double>(i)); });
  });
  return list;
}

const WeightResult* find(const WeightReport& report, const std::string& name) {
  for (const auto& result : report.wrong)
    if (result.name == name) return &result;
  return nullptr;
}

}  // namespace

TEST_CASE("every planted fault of a weight transfer is found, and what happened is named") {
  const Tensors sent = model(), previous = model(2);
  const MemoryWeights from(sent), old(previous);
  const auto faults = planted();
  REQUIRE(faults.size() >= 30);
  for (const auto& fault : faults) {
    Tensors got = sent;
    fault.plant(got, previous);
    const WeightReport report = compare_weights(from, MemoryWeights(got), &old);
    INFO(fault.weight << ": " << fault.said);
    REQUIRE(!report.equal());
    CHECK(report.wrong.size() <= 2);
    const WeightResult* result = find(report, fault.weight);
    REQUIRE(result);
    INFO(result->what << "; " << result->cause.text);
    CHECK(result->cause.text.find(fault.said) != std::string::npos);
  }
}

TEST_CASE("equal sets are equal, bit for bit or to one rounding of the narrower dtype") {
  const Tensors sent = model();
  WeightReport report = compare_weights(MemoryWeights(sent), MemoryWeights(sent), nullptr);
  CHECK((report.equal() && report.bitwise == static_cast<std::int64_t>(sent.size()) && report.rounded == 0));
  // As published: everything bfloat16 but for the decay and the delta rule's norm.
  Tensors got;
  for (const auto& [name, tensor] : sent) {
    const bool wide = name.ends_with("A_log") || name.ends_with("linear_attn.norm.weight");
    got[name] = wide ? tensor : as(DType::bfloat16, tensor);
  }
  report = compare_weights(MemoryWeights(sent), MemoryWeights(got), nullptr);
  CHECK((report.equal() && report.bitwise == 2 &&
         report.rounded == static_cast<std::int64_t>(sent.size()) - 2));
  // Either way round.
  CHECK(compare_weights(MemoryWeights(got), MemoryWeights(sent), nullptr).equal());
  // One step of bfloat16 beside the rounded value is no rounding.
  auto& q = got["model.layers.1.self_attn.q_proj.weight"];
  q.as<std::uint16_t>()[7] ^= 1;
  report = compare_weights(MemoryWeights(sent), MemoryWeights(got), nullptr);
  REQUIRE(report.wrong.size() == 1);
  CHECK((report.wrong[0].different == 1 && report.wrong[0].where == "[0,7]"));
  q.as<std::uint16_t>()[7] ^= 1;
  for (const char* kept : {"A_log", "norm.weight"}) {
    Tensors narrow = got;
    narrow[std::string(kLinear) + kept] = as(DType::bfloat16, sent.at(std::string(kLinear) + kept));
    report = compare_weights(MemoryWeights(sent), MemoryWeights(narrow), nullptr);
    REQUIRE(report.wrong.size() == 1);
    CHECK(report.wrong[0].cause.text.find("downcast") == 0);
  }
}

TEST_CASE("a tied head that one side stores is no fault, a stale one is") {
  Tensors sent = model(), previous = model(2);
  sent.erase("lm_head.weight");
  Tensors got = sent;
  got["lm_head.weight"] = sent.at("model.embed_tokens.weight");
  for (const bool swapped : {false, true}) {
    const WeightReport report =
        compare_weights(MemoryWeights(swapped ? got : sent), MemoryWeights(swapped ? sent : got), nullptr);
    CHECK(report.equal());
    REQUIRE(report.notes.size() == 1);
    CHECK(report.notes[0].find("a tied head") != std::string::npos);
  }
  got["lm_head.weight"] = previous.at("model.embed_tokens.weight");
  const MemoryWeights old(previous);
  WeightReport report = compare_weights(MemoryWeights(sent), MemoryWeights(got), &old);
  REQUIRE(report.wrong.size() == 1);
  CHECK(report.wrong[0].cause.text.find("the tied head is the embedding of the previous version") !=
        std::string::npos);
  report = compare_weights(MemoryWeights(sent), MemoryWeights(got), nullptr);
  REQUIRE(report.wrong.size() == 1);
  CHECK(report.wrong[0].cause.text.find("the tied head was not written") != std::string::npos);
}

TEST_CASE("values that are not finite are wrong on both sides too, and sets without a common name an error") {
  Tensors sent = model();
  sent["model.norm.weight"].as<float>()[3] = INFINITY;
  const WeightReport report = compare_weights(MemoryWeights(sent), MemoryWeights(sent), nullptr);
  REQUIRE(report.wrong.size() == 1);
  CHECK(report.wrong[0].what.find("not finite") != std::string::npos);
  // In every dtype, in a block of thousands and behind the last whole one.
  for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16})
    for (const std::size_t place : {std::size_t{0}, std::size_t{4095}, std::size_t{9000}}) {
      std::vector<double> values(9001, 1.5);
      const Tensors good = {{"w", tensor_of(dtype, {9001}, values)}};
      CHECK(compare_weights(MemoryWeights(good), MemoryWeights(good), nullptr).equal());
      values[place] = -INFINITY;
      const Tensors bad = {{"w", tensor_of(dtype, {9001}, values)}};
      CHECK(compare_weights(MemoryWeights(bad), MemoryWeights(bad), nullptr).wrong.size() == 1);
    }
  const Tensors other = {{"x", HostTensor::scalar(1)}};
  CHECK_THROWS_WITH(compare_weights(MemoryWeights(sent, "a"), MemoryWeights(other, "b"), nullptr),
                    Catch::Contains("a and b have no weight in common"));
}

TEST_CASE("a number is rounded as the hardware rounds it") {
  const Generator generator(1, "rounding");
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const double x =
        std::ldexp(2 * generator.uniform(2 * i) - 1, static_cast<int>(generator.below(2 * i + 1, 300)) - 150);
    REQUIRE(round_to(DType::float32, x) == static_cast<double>(static_cast<float>(x)));
    const auto single = static_cast<float>(x);
    // float32 to bfloat16, ties to even, by the classic integer formula.
    std::uint32_t bits = std::bit_cast<std::uint32_t>(single);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
    REQUIRE(round_to(DType::bfloat16, single) == static_cast<double>(std::bit_cast<float>(bits)));
    REQUIRE(std::fabs(truncate_to(DType::bfloat16, x)) <= std::fabs(x));
  }
  CHECK(round_to(DType::float16, 65519.9) == 65504);
  CHECK(round_to(DType::float16, 65520) == INFINITY);
  CHECK(round_to(DType::float16, 0x1p-25) == 0);
  CHECK(round_to(DType::float16, 0x1.8p-25) == 0x1p-24);
  CHECK(round_to(DType::bfloat16, -0.0) == 0);
  CHECK(std::isnan(round_to(DType::bfloat16, std::nan(""))));
}

TEST_CASE("orders are told in blocks, equal rows included") {
  CHECK(!order_of({1, 2, 3}, {1, 2, 4}));
  CHECK(!order_of({1, 2}, {1, 2, 3}));
  CHECK(!order_of({1, 1, 2}, {1, 2, 2}));
  CHECK(order_of({7, 7, 5}, {5, 7, 7}) == std::vector<std::int64_t>{1, 2, 0});
  CHECK(order_text({2, 3, 0, 1}, "rows") == "2 blocks of 2 rows in the order 1 0 (the two halves swapped)");
  CHECK(order_text({4, 5, 0, 1, 2, 3}, "rows") == "3 blocks of 2 rows in the order 2 0 1 (rotated by 2)");
  CHECK(order_text({0, 2, 4, 1, 3, 5}, "rows").find("3 groups of 2 taken apart") != std::string::npos);
  CHECK(order_text({0, 2, 3, 1}, "columns") == "4 blocks of 1 columns in the order 0 2 3 1");
}

}  // namespace meshparity::weights::compare_weights_test
