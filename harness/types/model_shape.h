// A small model described by one word of a command line, so that a case needs no file:
//   shape:layers=gag:hidden=8:heads=4/2:head_dim=8:rope=4:gdn=2/4:key=4:value=4:conv=4:ffn=12:vocab=23:tied=1
//   shape:experts=6/2/4:shared=4:mtp=1:vision=2/2/4/6:grid=4
// Fields are separated by ':' in any order; one that is left out has the default below, which never changes:
// the smallest model that a mesh of two ranks over any axis can take.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace meshparity {

inline constexpr std::string_view kShapePrefix = "shape:";
// "text:MODEL": the text model of a multimodal one, without its vision tower and multi-token prediction.
inline constexpr std::string_view kTextPrefix = "text:";

struct ModelShape {
  std::string layers = "ga";  // one letter a layer: g GatedDeltaNet, a full attention
  std::int64_t hidden = 4;
  std::int64_t heads = 2, kv_heads = 1;                 // heads=2/1
  std::int64_t head_dim = 4, rope = 2;                  // rope: rotary width, even, at most head_dim
  std::int64_t gdn_key_heads = 2, gdn_value_heads = 2;  // gdn=2/2
  std::int64_t gdn_key_dim = 2, gdn_value_dim = 2;      // key=2:value=2
  std::int64_t conv = 4;                                // taps of the depthwise convolution
  std::int64_t ffn = 4;                                 // dense models only
  std::int64_t vocab = 8;
  bool tied = false;                                      // the head is the embedding
  std::int64_t experts = 0, top_k = 0, expert_width = 0;  // experts=6/2/4; left out: a dense model
  std::int64_t shared = 4;                                // width of the shared expert, with experts only

  bool mtp = false;  // a layer of multi-token prediction
  // Tower: vision=1/2/4/6 is its blocks, heads, their width (a multiple of 4) and the width of its
  // feed-forward; left out: a text model. With it the last four ids of the vocabulary are vision_start,
  // vision_end, image and video.
  std::int64_t vision_depth = 0, vision_heads = 0, vision_head_dim = 0, vision_ffn = 0;
  std::int64_t grid = 4;  // rows, and columns, of its position table

  bool is_moe() const { return experts > 0; }
  bool has_vision() const { return vision_depth > 0; }
  bool operator==(const ModelShape&) const = default;

  // "shape:layers=gag:heads=4/2": the fields that are not the default. parse(text()) is the same shape.
  std::string text() const;
  // Reads text() and, for layers, also a count with a period: "layers=8:period=4" is gggaggga. Throws
  // InputError naming the text and the field for an unknown or repeated field, a number out of range and
  // heads that do not divide.
  static ModelShape parse(std::string_view text);
};

// Does a model's name mean a shape and no file?
inline bool is_shape(std::string_view text) {
  return text.rfind(kShapePrefix, 0) == 0;
}

// A model's name without the prefix "text:", where it has one.
inline std::string_view without_text_prefix(std::string_view text) {
  return text.rfind(kTextPrefix, 0) == 0 ? text.substr(kTextPrefix.size()) : text;
}

// The fields of "PREFIXa=1:b=2" as (name, value) in their order. Throws InputError for a field without '='
// and for one given twice. `text` is what the error names.
std::vector<std::pair<std::string, std::string>> named_fields(const std::string& text,
                                                              std::string_view fields);
// A whole number in [least, most], else InputError naming text and field.
std::int64_t field_number(const std::string& text, const std::string& field, std::string_view digits,
                          std::int64_t least, std::int64_t most);

}  // namespace meshparity
