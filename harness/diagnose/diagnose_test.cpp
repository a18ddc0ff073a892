// Planted error shapes: each must be named first, and an error without a shape must not be given a name it
// does not deserve.
#include "harness/diagnose/diagnose.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "harness/layout/layout_fixture.h"
#include "harness/types/generator.h"

namespace meshparity::diagnose {
namespace {

using layout::LayoutMap;
namespace fixture = layout::fixture;

// A key's expected value, what is got (equal at first) and what each rank emitted, ready to be spoiled.
class Planted {
 public:
  Planted(const std::string& mesh, std::string key, bool sp = false)
      : key_(std::move(key)), map_(fixture::map(mesh, sp)) {
    want = HostTensor::zeros(DType::float64, map_.local(key_, 0).global_shape);
    const Generator generator(3, key_);
    for (std::int64_t i = 0; i < want.numel(); ++i) want.as<double>()[i] = generator.normal(i);
    got = want;
    parts = fixture::parts_of(map_, key_, want.view());
  }

  // What the harness would gather from the ranks.
  void gather() {
    views();
    got = layout::unshard(map_, key_, parts.views).global;
  }

  std::vector<Cause> diagnosed(const TensorView* previous = nullptr) {
    views();
    double norm = 0;
    for (std::int64_t i = 0; i < want.numel(); ++i) norm += want.as<double>()[i] * want.as<double>()[i];
    norm = std::sqrt(norm);
    Suspect suspect{key_, got.view(), want.view(), 1e-11 * norm, 1e-11 * norm, &map_, parts.views, previous};
    return causes(suspect);
  }

  std::string first(const TensorView* previous = nullptr) {
    const auto list = diagnosed(previous);
    return list.empty() ? "nothing" : list[0].name;
  }

  double& at(std::int64_t i) { return got.as<double>()[i]; }
  double* local(int rank) { return parts.tensors[rank].as<double>(); }
  std::int64_t local_size(int rank) const { return parts.tensors[rank].numel(); }

  HostTensor want, got;
  fixture::Parts parts;

 private:
  void views() {
    for (auto& v : parts.views) v.view = parts.tensors[v.rank].view();
  }
  std::string key_;
  LayoutMap map_;
};

bool named(const std::vector<Cause>& list, const std::string& name) {
  for (const auto& c : list)
    if (c.name == name) return true;
  return false;
}

const char* const kNorm = "grads/model.norm.weight";
const char* const kHead = "grads/lm_head.weight";
const char* const kQkv = "grads/model.layers.0.linear_attn.in_proj_qkv.weight";

}  // namespace

TEST_CASE("a right tensor has no cause") {
  Planted p("tp2", kHead);
  CHECK(p.diagnosed().empty());
}

TEST_CASE("an error without a shape gets no confident name") {
  Planted p("fsdp2.tp2", kHead);
  const Generator noise(9, "noise");
  for (std::int64_t i = 0; i < p.got.numel(); ++i) p.at(i) += 0.3 * noise.normal(i);
  for (const auto& cause : p.diagnosed()) {
    INFO(cause.name);
    CHECK(cause.confidence < 0.65);
  }
}

TEST_CASE("a constant factor is named by the count that gives it") {
  SECTION("summed once too often over tp") {
    Planted p("fsdp3.tp2", kHead);
    for (std::int64_t i = 0; i < p.got.numel(); ++i) p.at(i) *= 2;
    CHECK(p.first() == "multiplied by tp");
  }
  SECTION("a mean over fsdp") {
    Planted p("fsdp5.tp2", kHead);
    for (std::int64_t i = 0; i < p.got.numel(); ++i) p.at(i) /= 5;
    CHECK(p.first() == "divided by fsdp");
  }
  SECTION("two axes of one size cannot be told apart") {
    Planted p("fsdp2.tp2", kHead);
    for (std::int64_t i = 0; i < p.got.numel(); ++i) p.at(i) *= 2;
    CHECK(p.first() == "multiplied by fsdp or tp");
  }
  SECTION("not divided by the number of micro-batches") {
    Planted p("dp2", kHead);
    for (std::int64_t i = 0; i < p.got.numel(); ++i) p.at(i) *= 3;
    CHECK(p.first() == "multiplied by micro-batches");
  }
  SECTION("the sign") {
    Planted p("tp2", kHead);
    for (std::int64_t i = 0; i < p.got.numel(); ++i) p.at(i) *= -1;
    CHECK(p.first() == "sign flipped");
  }
  SECTION("a factor nobody counts") {
    Planted p("tp2", kHead);
    for (std::int64_t i = 0; i < p.got.numel(); ++i) p.at(i) *= 1.13;
    CHECK(p.first() == "constant factor 1.13");
    CHECK(p.diagnosed()[0].confidence < 0.8);
  }
  SECTION("a scalar needs a count, and is less sure") {
    Planted p("fsdp3.tp2", "loss/token_mean");
    p.at(0) *= 3;
    CHECK(p.first() == "multiplied by fsdp or micro-batches");
    CHECK(p.diagnosed()[0].confidence < 0.7);
    p.at(0) *= 1.1;
    CHECK(p.diagnosed().empty());
  }
}

TEST_CASE("logits gathered into a sharded log-sum-exp add a logarithm") {
  Planted p("tp4", "logprobs");
  p.want.as<double>()[3] = p.at(3) = 0;  // a token without a label
  for (std::int64_t i = 0; i < p.got.numel(); ++i)
    if (i != 3) p.at(i) -= std::log(4.0);
  CHECK(p.first() == "log(tp) added: the sum of exponentials counts everything so often");
}

TEST_CASE("a missing all-reduce is named with its axis") {
  const auto split = [](Planted& p, const std::vector<std::vector<int>>& groups) {
    // Unequal contributions that add up: the first rank of a group holds what the others lack.
    for (const auto& group : groups) {
      for (std::size_t k = 1; k < group.size(); ++k)
        for (std::int64_t i = 0; i < p.local_size(group[k]); ++i) {
          const double share =
              p.local(group[k])[i] * (0.1 * static_cast<double>(k) + 0.05 * static_cast<double>(i % 3));
          p.local(group[0])[i] -= share;
          p.local(group[k])[i] = share;
        }
    }
    p.gather();
  };
  SECTION("over tp") {
    Planted p("dp2.tp2", kNorm);
    split(p, {{0, 1}, {2, 3}});
    CHECK(p.first() == "all-reduce over tp missing");
    CHECK(!named(p.diagnosed(), "all-reduce over dp missing"));
  }
  SECTION("over dp, tensor sharded over fsdp") {
    Planted p("dp3.fsdp2", kNorm);
    split(p, {{0, 2, 4}, {1, 3, 5}});
    CHECK(p.first() == "all-reduce over dp missing");
  }
  SECTION("a tensor that tp cuts has no all-reduce over tp") {
    Planted p("tp2", kHead);
    for (std::int64_t i = 0; i < p.local_size(0); ++i) p.local(0)[i] *= 0.3 + 0.01 * static_cast<double>(i);
    p.gather();
    CHECK(!named(p.diagnosed(), "all-reduce over tp missing"));
  }
}

TEST_CASE("right numbers in wrong places are a permutation") {
  SECTION("blocks of rows exchanged") {
    Planted p("tp2", kQkv);  // [24, 6]
    for (std::int64_t row = 0; row < 24; ++row) {
      const std::int64_t block = row / 4, from = block == 1 ? 2 : block == 2 ? 1 : block;
      for (int c = 0; c < 6; ++c) p.at(row * 6 + c) = p.want.as<double>()[(from * 4 + row % 4) * 6 + c];
    }
    CHECK(p.first() == "rows permuted");
    CHECK(p.diagnosed()[0].evidence == "every one equals one of want's: blocks of 4 in order 0 2 1 3 4 5");
  }
  SECTION("columns") {
    Planted p("tp2", kQkv);
    for (std::int64_t row = 0; row < 24; ++row) std::swap(p.at(row * 6 + 1), p.at(row * 6 + 4));
    CHECK(p.first() == "columns permuted");
  }
  SECTION("another rank's rows: some twice, some nowhere") {
    Planted p("tp2", kQkv);
    for (int c = 0; c < 6; ++c) p.at(5 * 6 + c) = p.want.as<double>()[17 * 6 + c];
    CHECK(p.first() == "rows taken from the wrong place");
  }
  SECTION("elements of a vector") {
    Planted p("tp2", "grads/model.layers.0.linear_attn.A_log");
    std::swap(p.at(1), p.at(6));
    CHECK(p.first() == "elements permuted");
  }
  SECTION("a transposed matrix") {
    Planted p("tp2", "grads/model.layers.0.linear_attn.in_proj_b.weight");  // [8, 6]
    for (int r = 0; r < 8; ++r)
      for (int c = 0; c < 6; ++c) p.at(c * 8 + r) = p.want.as<double>()[r * 6 + c];
    CHECK(p.first() == "transposed");
  }
}

TEST_CASE("values that are not there") {
  SECTION("all zero") {
    Planted p("tp2", kHead);
    for (std::int64_t i = 0; i < p.got.numel(); ++i) p.at(i) = 0;
    CHECK(p.first() == "all zero");
  }
  SECTION("zero on one rank") {
    Planted p("tp2", kHead);
    for (std::int64_t i = 0; i < p.local_size(1); ++i) p.local(1)[i] = 0;
    p.gather();
    CHECK(p.first() == "part of it zero");
    CHECK(named(p.diagnosed(), "only tp index 1 is wrong"));
  }
  SECTION("not finite") {
    Planted p("tp2", kHead);
    p.at(7) = std::numeric_limits<double>::quiet_NaN();
    CHECK(p.first() == "not finite");
  }
  SECTION("something where nothing should be") {
    Planted p("tp2", "grads/model.layers.0.mlp.experts.down_proj");
    std::fill(p.want.bytes.begin(), p.want.bytes.end(), std::byte{0});
    CHECK(p.first() == "something reaches what nothing should reach");
  }
}

TEST_CASE("a value one step old is stale") {
  Planted p("tp2", "step2/weights/lm_head.weight");
  HostTensor before = p.want;
  const Generator generator(4, "step");
  for (std::int64_t i = 0; i < before.numel(); ++i) before.as<double>()[i] += 1e-3 * generator.normal(i);
  p.got = before;
  const TensorView previous = before.view();
  CHECK(p.first(&previous) == "stale");
  CHECK(p.first() != "stale");
}

TEST_CASE("a narrower number format leaves its grid") {
  Planted p("tp2", kHead);
  const auto keep_bits = [&](int low_bits) {
    for (std::int64_t i = 0; i < p.got.numel(); ++i) {
      std::uint64_t bits;
      std::memcpy(&bits, &p.want.as<double>()[i], 8);
      bits = (bits + (std::uint64_t{1} << (low_bits - 1))) >> low_bits << low_bits;
      std::memcpy(&p.at(i), &bits, 8);
    }
  };
  keep_bits(45);
  CHECK(p.first() == "rounded to bfloat16");
  keep_bits(29);
  CHECK(p.first() == "rounded to float32");
  const Generator noise(5, "noise");
  for (std::int64_t i = 0; i < p.got.numel(); ++i)
    p.at(i) = p.want.as<double>()[i] * (1 + 1e-7 * noise.normal(i));
  CHECK(p.first() == "computed in float32 somewhere");
}

TEST_CASE("the place of the wrong elements is named") {
  SECTION("one tensor-parallel rank") {
    Planted p("fsdp2.tp2", kHead);
    for (const int rank : {1, 3})
      for (std::int64_t i = 0; i < p.local_size(rank); ++i)
        p.local(rank)[i] += 0.1 * static_cast<double>(i % 5 + 1);
    p.gather();
    CHECK(named(p.diagnosed(), "only tp index 1 is wrong"));
  }
  SECTION("one replica") {
    Planted p("dp3", kNorm);
    p.local(2)[0] += 1;
    p.local(2)[3] -= 0.5;
    // The gathered tensor is rank 0's and right; the failing tensor is the replica's.
    p.got = p.parts.tensors[2];
    CHECK(named(p.diagnosed(), "only dp index 2 is wrong"));
  }
  SECTION("one head of one section") {
    Planted p("tp2", kQkv);  // key heads 2 wide: section 1 holds rows 8..15
    for (int c = 0; c < 6; ++c) p.at(10 * 6 + c) += 0.1 * (c + 1), p.at(11 * 6 + c) -= 0.07 * (c + 1);
    CHECK(named(p.diagnosed(), "only head 1 of section 1 is wrong"));
  }
  SECTION("one section") {
    Planted p("tp2", kQkv);
    for (int row = 16; row < 24; ++row)
      for (int c = 0; c < 6; ++c) p.at(row * 6 + c) += 0.1 * (row + c);
    CHECK(named(p.diagnosed(), "only section 2 of 3 is wrong"));
  }
}

TEST_CASE("tokens are placed in documents, rows and micro-batches") {
  // Documents {0,1 | 2..4}, {5}, {6..9}, {10..15}, {16,17 | 18 | 19}; micro-batches {0..5}, {6..9}, {10..19}.
  Planted p("dp2", "logprobs");
  SECTION("behind the first document") {
    for (const int t : {2, 3, 4, 18, 19}) p.at(t) += 0.1 * (t + 1);
    CHECK(p.first() == "boundaries between documents lost");
  }
  SECTION("one document") {
    for (const int t : {12, 15}) p.at(t) += 0.1 * t;
    CHECK(named(p.diagnosed(), "only document 4 is wrong"));
  }
  SECTION("one micro-batch") {
    for (const int t : {1, 5}) p.at(t) += 0.1 * (t + 1);
    CHECK(named(p.diagnosed(), "only micro-batch 0 is wrong"));
  }
  SECTION("all but the first micro-batch") {
    for (const int t : {7, 9, 14, 15, 16}) p.at(t) += 0.1 * (t + 1);
    CHECK(named(p.diagnosed(), "every micro-batch but the first is wrong"));
  }
  SECTION("document starts") {
    for (const int t : {0, 1, 2, 6, 8, 11, 16}) p.at(t) += 0.1 * (t + 1);
    CHECK(named(p.diagnosed(), "only the first 3 tokens of documents are wrong"));
  }
}

TEST_CASE("what cannot be compared gets no cause, and a cause reads as one line") {
  const HostTensor a = HostTensor::zeros(DType::float64, {2}), b = HostTensor::zeros(DType::float64, {3});
  CHECK(causes({"logits", a.view(), b.view(), 0, 0, nullptr, {}, nullptr}).empty());
  CHECK(cause_line({"stale", "equal", 0.97}) == "cause   stale (confidence 0.97: equal)");
}

TEST_CASE("global shapes are diagnosed without a mesh, as in somebody else's dump") {
  Planted p("tp2", kHead);
  for (std::int64_t i = 0; i < p.got.numel(); ++i) p.at(i) *= 0.5;
  const auto list = causes({kHead, p.got.view(), p.want.view(), 1e-11, 1e-11, nullptr, {}, nullptr});
  REQUIRE(!list.empty());
  CHECK(list[0].name == "constant factor 0.5");
}

}  // namespace meshparity::diagnose
