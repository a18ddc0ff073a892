#include "harness/weights/compare_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <set>

namespace meshparity::weights {
namespace {

constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";

// Published checkpoints keep these in float32 where all else is bfloat16.
bool kept_wide(const std::string& name) {
  return name.ends_with("A_log") || name.ends_with("linear_attn.norm.weight");
}

bool of_norm_or_decay(const std::string& name) {
  return kept_wide(name) || name.ends_with("norm.weight") || name.ends_with("layernorm.weight") ||
         name.ends_with("dt_bias");
}

// No infinity and no NaN: such have every bit of the exponent set. Integers are finite.
template <class Bits>
bool exponents_below(const TensorView& view, Bits exponent) {
  constexpr std::int64_t kBlock = 4096;  // without a way out inside, the compiler makes vectors of it
  const auto bad = [&](std::int64_t i) {
    Bits bits;
    std::memcpy(&bits, view.data + static_cast<std::size_t>(i) * sizeof bits, sizeof bits);
    return static_cast<Bits>((bits & exponent) == exponent);
  };
  const std::int64_t n = view.numel(), whole = n / kBlock * kBlock;
  for (std::int64_t begin = 0; begin < whole; begin += kBlock) {
    Bits found = 0;
    for (std::int64_t i = 0; i < kBlock; ++i) found |= bad(begin + i);
    if (found) return false;
  }
  for (std::int64_t i = whole; i < n; ++i)
    if (bad(i)) return false;
  return true;
}
bool all_finite(const TensorView& view) {
  switch (view.dtype) {
    case DType::float64:
      return exponents_below<std::uint64_t>(view, 0x7ff0000000000000u);
    case DType::float32:
      return exponents_below<std::uint32_t>(view, 0x7f800000u);
    case DType::bfloat16:
      return exponents_below<std::uint16_t>(view, 0x7f80);
    case DType::float16:
      return exponents_below<std::uint16_t>(view, 0x7c00);
    default:
      return true;
  }
}

// Most weights are equal byte by byte, which needs no arithmetic.
bool equal_and_finite(const TensorView& sent, const TensorView& got) {
  if (sent.dtype != got.dtype) return false;
  const std::size_t bytes = static_cast<std::size_t>(sent.numel()) * dtype_size(sent.dtype);
  return (bytes == 0 || std::memcmp(sent.data, got.data, bytes) == 0) && all_finite(got);
}

// Values of one shape, element by element.
WeightResult compare_values(const std::string& name, const TensorView& sent, const TensorView& got) {
  WeightResult result;
  result.name = name, result.elements = sent.numel();
  if (equal_and_finite(sent, got)) return result;
  const DType common = narrower(sent.dtype, got.dtype);
  const Matrix a(sent, common), b(got, common);
  bool finite = true;
  std::int64_t worst = -1;
  for (std::int64_t i = 0; i < result.elements; ++i) {
    const double want = a.at(i), there = b.at(i);
    finite = finite && std::isfinite(there);
    if (same(want, there)) continue;
    ++result.different;
    const double difference = std::fabs(want - there);
    if (worst < 0 || difference > result.max_abs || std::isnan(difference))
      result.max_abs = difference, worst = i;
  }
  if (worst >= 0) {
    result.where = index_text(sent.shape, worst);
    result.sent = sent.at(worst), result.got = got.at(worst);
  }
  // Of one dtype equal numbers are equal bits, but for a zero's sign.
  result.match = result.different ? Match::wrong : sent.dtype == got.dtype ? Match::bitwise : Match::rounded;
  if (!finite && result.match != Match::wrong) {
    result.match = Match::wrong, result.what = "holds values that are not finite, on both sides";
    result.cause = {"not finite when it was sent", 1};
  }
  return result;
}

class Comparison {
 public:
  Comparison(const WeightSet& sent, const WeightSet& got, const WeightSet* previous)
      : sent_(sent), got_(got), previous_(previous) {}

  WeightReport run() {
    std::int64_t both = 0;
    for (const auto& entry : sent_.entries()) both += got_.find(entry.name) >= 0;
    if (both == 0)
      throw InputError(sent_.origin() + " and " + got_.origin() + " have no weight in common; " +
                       sent_.entries().front().name + " is in the first, " + got_.entries().front().name +
                       " in the second");
    whole_set_narrowed();
    for (std::size_t i = 0; i < sent_.entries().size(); ++i) {
      const auto at = got_.find(sent_.entries()[i].name);
      if (at >= 0)
        judge(i, static_cast<std::size_t>(at));
      else
        missing_.push_back(i);
    }
    for (std::size_t i = 0; i < got_.entries().size(); ++i)
      if (sent_.find(got_.entries()[i].name) < 0) extra_.push_back(i);
    tied_head();
    unpaired();
    explain();
    std::stable_sort(report_.wrong.begin(), report_.wrong.end(),
                     [](const WeightResult& a, const WeightResult& b) { return a.name < b.name; });
    return std::move(report_);
  }

 private:
  // Is everything but norms and decays stored narrower by the receiver? Then a norm may be, too.
  void whole_set_narrowed() {
    for (const auto& entry : sent_.entries()) {
      const auto at = got_.find(entry.name);
      if (at < 0 || of_norm_or_decay(entry.name)) continue;
      const DType there = got_.entries()[static_cast<std::size_t>(at)].dtype;
      if (there == entry.dtype || narrower(entry.dtype, there) != there) return;
    }
    all_narrowed_ = true;
  }

  // Gives back the memory of mapped files now and then: for every weight it would cost more than reading it.
  void has_read(const WeightSet& set, std::size_t entry) {
    read_ += set.view(entry).bytes();
    if (read_ < kBytesKept) return;
    sent_.forget(), got_.forget();
    if (previous_) previous_->forget();
    read_ = 0;
  }

  void judge(std::size_t s, std::size_t g) {
    const WeightSet::Entry &from = sent_.entries()[s], &to = got_.entries()[g];
    WeightResult result;
    if (from.shape != to.shape) {
      result.name = from.name, result.match = Match::wrong, result.elements = shape_numel(from.shape);
      result.what = "shape " + shape_text(to.shape) + ", sent " + shape_text(from.shape);
      result.cause = cause_of_shape(from.name, sent_.view(s), got_.view(g));
    } else {
      result = compare_values(from.name, sent_.view(s), got_.view(g));
      const bool narrowed = from.dtype != to.dtype && narrower(from.dtype, to.dtype) == to.dtype;
      const bool watched = all_narrowed_ ? kept_wide(from.name) : of_norm_or_decay(from.name);
      if (result.match != Match::wrong && narrowed && watched) {
        result.match = Match::wrong;
        result.what =
            "is " + std::string(dtype_name(to.dtype)) + ", sent as " + std::string(dtype_name(from.dtype));
        result.cause = {"downcast: a decay or norm that is kept in " + std::string(dtype_name(from.dtype)),
                        1};
      }
    }
    has_read(sent_, s), has_read(got_, g);
    if (result.match == Match::wrong) {
      report_.wrong.push_back(std::move(result));
      return;
    }
    report_.elements += result.elements;
    ++(result.match == Match::bitwise ? report_.bitwise : report_.rounded);
  }

  // A head that only one side stores is the embedding of the other, or a fault of its own.
  void tied_head() {
    const auto alone = [](const WeightSet& set, std::vector<std::size_t>& list) -> std::ptrdiff_t {
      const auto at = set.find(kHead);
      const auto found =
          at < 0 ? list.end() : std::find(list.begin(), list.end(), static_cast<std::size_t>(at));
      if (found == list.end()) return -1;
      list.erase(found);
      return at;
    };
    const bool of_got = got_.find(kHead) >= 0;
    const WeightSet& holder = of_got ? got_ : sent_;
    const auto embedding = sent_.find(kEmbedding);
    const auto head = alone(holder, of_got ? extra_ : missing_);
    if (head < 0) return;
    if (embedding < 0) {
      (of_got ? extra_ : missing_).push_back(static_cast<std::size_t>(head));
      return;
    }
    const TensorView want = sent_.view(static_cast<std::size_t>(embedding));
    const TensorView there = holder.view(static_cast<std::size_t>(head));
    if (want.shape == there.shape && compare_values(kHead, want, there).match != Match::wrong) {
      report_.notes.push_back(std::string(kHead) + " is stored by " + holder.origin() +
                              " alone and equals the embedding: a tied head");
      return;
    }
    WeightResult result;
    result.name = kHead, result.match = Match::wrong, result.elements = want.numel();
    if (!of_got) {
      result.what = "is missing", result.cause = {"a head of its own was taken for a tied one", 0.9};
    } else {
      if (want.shape == there.shape) {
        result = compare_values(kHead, want, there);
        TensorView old;
        const auto before = previous_ ? previous_->find(kEmbedding) : -1;
        if (before >= 0) old = previous_->view(static_cast<std::size_t>(before));
        const DType common = narrower(want.dtype, there.dtype);
        if (before >= 0 && same(Matrix(old, common), Matrix(there, common)))
          result.cause = {"stale: the tied head is the embedding of the previous version", 1};
      }
      result.what = "is not the embedding that it is tied to";
      if (result.cause.text.empty()) result.cause = {"the tied head was not written with the embedding", 0.8};
    }
    report_.wrong.push_back(std::move(result));
  }

  // Missing and further weights: the same content under another name, or a whole part of the model.
  void unpaired() {
    std::map<std::uint64_t, std::size_t> by_content;
    const auto hash_of = [this](const WeightSet& set, std::size_t i) {
      const std::uint64_t hash = content_hash(Matrix(set.view(i), DType::bfloat16));
      has_read(set, i);
      return hash;
    };
    if (!missing_.empty() && missing_.size() <= kMostSearched)
      for (const std::size_t i : extra_) by_content.emplace(hash_of(got_, i), i);
    std::set<std::size_t> renamed;
    const auto add = [&](const WeightSet::Entry& entry, std::string what, Cause cause) {
      WeightResult result;
      result.name = entry.name, result.match = Match::wrong, result.elements = shape_numel(entry.shape);
      result.what = std::move(what), result.cause = std::move(cause);
      report_.wrong.push_back(std::move(result));
    };
    for (const std::size_t i : missing_) {
      const auto found = by_content.empty() ? by_content.end() : by_content.find(hash_of(sent_, i));
      if (found == by_content.end()) {
        add(sent_.entries()[i], "is missing", {"never sent, or dropped on the way", 0.9});
        continue;
      }
      renamed.insert(found->second);
      add(sent_.entries()[i], "is missing",
          {"arrived under the name " + got_.entries()[found->second].stored, 1});
    }
    for (const std::size_t i : extra_)
      if (!renamed.count(i))
        add(got_.entries()[i], "was never sent", {"left from another model or version", 0.5});
  }

  // Causes need the content of other weights; looked at only where something is wrong.
  void explain() {
    for (auto& result : report_.wrong) {
      if (!result.cause.text.empty()) continue;
      const auto s = sent_.find(result.name), g = got_.find(result.name);
      if (s < 0 || g < 0 || sent_.entries()[s].shape != got_.entries()[g].shape) continue;
      const TensorView from = sent_.view(static_cast<std::size_t>(s)),
                       to = got_.view(static_cast<std::size_t>(g));
      const auto& contents = contents_of(from.shape, narrower(from.dtype, to.dtype));
      result.cause = cause_of_values(result.name, from, to, {previous_, &contents});
      has_read(sent_, static_cast<std::size_t>(s)), has_read(got_, static_cast<std::size_t>(g));
    }
  }

  // Of the weights of one shape, rounded to a dtype.
  const std::map<std::uint64_t, std::vector<std::string>>& contents_of(const Shape& shape, DType dtype) {
    auto& known = contents_[shape_text(shape) + std::string(dtype_name(dtype))];
    if (known.empty())
      for (std::size_t i = 0; i < sent_.entries().size(); ++i) {
        if (sent_.entries()[i].shape != shape) continue;
        known[content_hash(Matrix(sent_.view(i), dtype))].push_back(sent_.entries()[i].name);
        has_read(sent_, i);
      }
    return known;
  }

  // Above this the search for renamed weights costs more than it tells.
  static constexpr std::size_t kMostSearched = 2000;
  static constexpr std::size_t kBytesKept = std::size_t{256} << 20;
  const WeightSet &sent_, &got_;
  const WeightSet* previous_;
  std::size_t read_ = 0;  // bytes since memory was given back
  bool all_narrowed_ = false;
  std::vector<std::size_t> missing_, extra_;
  std::map<std::string, std::map<std::uint64_t, std::vector<std::string>>> contents_;
  WeightReport report_;
};

}  // namespace

WeightReport compare_weights(const WeightSet& sent, const WeightSet& got, const WeightSet* previous) {
  return Comparison(sent, got, previous).run();
}

}  // namespace meshparity::weights
