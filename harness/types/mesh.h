// The mesh: its axes, text form, rank order and which meshes a model allows. Every folder uses this
// vocabulary. Axes, outermost first: pp, dp, fsdp, ring, uly, tp; then ep and etp, which re-read the inner
// ranks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/types/model_config.h"

namespace meshparity {

struct Mesh {
  int pp = 1, dp = 1, fsdp = 1, ring = 1, uly = 1, tp = 1, ep = 1;
  int etp = 0;  // 0 = default: tp where ep = 1, else 1

  int world() const { return pp * dp * fsdp * ring * uly * tp; }
  int cp() const { return ring * uly; }
  int expert_tp() const { return etp ? etp : (ep == 1 ? tp : 1); }
  int expert_group() const { return fsdp * ring * uly * tp; }  // G of the design
  int edp() const { return expert_group() / (ep * expert_tp()); }
  // Experts are whole on every tensor-parallel rank, which then takes a part of the tokens to them.
  bool expert_tokens_cut() const { return tp > 1 && expert_tp() == 1; }

  // "pp2.fsdp2.tp2": axes of size 1 left out, one rank is "dp1", etp only where it is not the default.
  std::string text() const;
  // Reads axes in any order. Throws InputError on an unknown axis, a size below 1 or an axis given twice.
  static Mesh parse(std::string_view text);
  bool operator==(const Mesh& other) const;
};

// Where a rank stands on the six outer axes. rank = index over (pp, dp, fsdp, ring, uly, tp), tp fastest.
struct RankCoordinate {
  int pp = 0, dp = 0, fsdp = 0, ring = 0, uly = 0, tp = 0;
};
RankCoordinate coordinate_of(const Mesh& mesh, int rank);
int rank_of(const Mesh& mesh, const RankCoordinate& coordinate);
// Where a rank stands among the experts: the ranks of one pp stage and one dp replica in axis order, re-read
// as edp x ep x etp, etp fastest.
struct ExpertCoordinate {
  int edp = 0, ep = 0, etp = 0;
};
ExpertCoordinate expert_coordinate_of(const Mesh& mesh, const RankCoordinate& at);
// Name of a rank by the axes on which it is not alone: "tp1", "fsdp0.tp1"; "rank 0" where it is the only one.
std::string rank_text(const Mesh& mesh, int rank);
// dp index * fsdp + fsdp index: row i of a micro-batch goes to data rank i mod (dp * fsdp).
int data_rank(const Mesh& mesh, int rank);
inline int data_ranks(const Mesh& mesh) {
  return mesh.dp * mesh.fsdp;
}
// Place on the context axes: ring index * uly + uly index.
inline int cp_index(const Mesh& mesh, const RankCoordinate& at) {
  return at.ring * mesh.uly + at.uly;
}
// data rank * cp + cp index: ranks with the same number hold the same tokens, others hold other tokens.
int token_rank(const Mesh& mesh, int rank);
inline int token_ranks(const Mesh& mesh) {
  return data_ranks(mesh) * mesh.cp();
}

// How a case runs on its mesh. Values are the command line's words.
struct Flags {
  bool sp = false;
  std::string gdn = "state";          // state | heads | gather | hybrid
  std::string attn = "ring";          // ring | gather
  std::string layout = "contiguous";  // contiguous | zigzag | zigzag-document
  std::string schedule = "1f1b";      // gpipe | 1f1b | interleaved
  bool recompute = false;
  std::string pad = "none";       // none | left | right | document
  std::string vision = "tensor";  // tensor | images: how the ranks of a tower share its work
  bool operator==(const Flags&) const = default;
};

// Why this model cannot run on this mesh with these flags ("tp8: tp must divide linear_num_key_heads=4"),
// or empty if it can.
std::string refusal(const Mesh& mesh, const Flags& flags, const ModelConfig& config);

// Every mesh of exactly `world` ranks, with both values of etp, valid or not, in printing order, none twice;
// `refusal` tells which are valid.
std::vector<Mesh> enumerate_meshes(int world);

}  // namespace meshparity
