#include "harness/types/mesh.h"

#include <charconv>

#include "harness/types/error.h"

namespace meshparity {
namespace {

struct Axis {
  const char* name;
  int Mesh::*size;
};
// Longest names first where one is a prefix of another: "etp" and "ep" never collide with "tp".
constexpr Axis kAxes[] = {{"pp", &Mesh::pp},     {"dp", &Mesh::dp},   {"fsdp", &Mesh::fsdp},
                          {"ring", &Mesh::ring}, {"uly", &Mesh::uly}, {"tp", &Mesh::tp},
                          {"ep", &Mesh::ep},     {"etp", &Mesh::etp}};

bool divides(std::int64_t a, std::int64_t b) {
  return a > 0 && b % a == 0;
}

}  // namespace

bool Mesh::operator==(const Mesh& o) const {
  return pp == o.pp && dp == o.dp && fsdp == o.fsdp && ring == o.ring && uly == o.uly && tp == o.tp &&
         ep == o.ep && expert_tp() == o.expert_tp();
}

std::string Mesh::text() const {
  std::string out;
  for (const auto& axis : kAxes) {
    int size = this->*axis.size;
    if (axis.size == &Mesh::etp) {
      Mesh plain = *this;
      plain.etp = 0;
      if (expert_tp() == plain.expert_tp()) continue;
      size = expert_tp();
    } else if (size == 1) {
      continue;
    }
    out += (out.empty() ? "" : ".") + std::string(axis.name) + std::to_string(size);
  }
  return out.empty() ? "dp1" : out;
}

Mesh Mesh::parse(std::string_view text) {
  Mesh mesh;
  std::vector<std::string> seen;
  const std::string whole(text);
  if (text.empty()) throw InputError("mesh '': empty; write for example tp2.fsdp2, or dp1 for one rank");
  while (!text.empty()) {
    const auto dot = text.find('.');
    const auto part = text.substr(0, dot);
    text = dot == std::string_view::npos ? std::string_view{} : text.substr(dot + 1);
    if (dot != std::string_view::npos && text.empty())
      throw InputError("mesh '" + whole + "': ends with '.'");
    const auto digit = part.find_first_of("0123456789");
    const std::string name(part.substr(0, digit));
    const Axis* axis = nullptr;
    for (const auto& a : kAxes)
      if (name == a.name) axis = &a;
    if (!axis)
      throw InputError("mesh '" + whole + "': unknown axis '" + name +
                       "'; axes are pp, dp, fsdp, ring, uly, tp, ep, etp");
    int size = 0;
    const auto digits = digit == std::string_view::npos ? std::string_view{} : part.substr(digit);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), size);
    if (error != std::errc() || end != digits.data() + digits.size() || size < 1 || size > 65536)
      throw InputError("mesh '" + whole + "': axis '" + name + "' needs a size from 1 to 65536, as in " +
                       name + "2");
    for (const auto& s : seen)
      if (s == name) throw InputError("mesh '" + whole + "': axis '" + name + "' is given twice");
    seen.push_back(name);
    mesh.*(axis->size) = size;
  }
  return mesh;
}

RankCoordinate coordinate_of(const Mesh& m, int rank) {
  RankCoordinate c;
  c.tp = rank % m.tp, rank /= m.tp;
  c.uly = rank % m.uly, rank /= m.uly;
  c.ring = rank % m.ring, rank /= m.ring;
  c.fsdp = rank % m.fsdp, rank /= m.fsdp;
  c.dp = rank % m.dp, rank /= m.dp;
  c.pp = rank;
  return c;
}

int rank_of(const Mesh& m, const RankCoordinate& c) {
  return ((((c.pp * m.dp + c.dp) * m.fsdp + c.fsdp) * m.ring + c.ring) * m.uly + c.uly) * m.tp + c.tp;
}

ExpertCoordinate expert_coordinate_of(const Mesh& m, const RankCoordinate& c) {
  const int inner = ((c.fsdp * m.ring + c.ring) * m.uly + c.uly) * m.tp + c.tp, etp = m.expert_tp();
  return {inner / (m.ep * etp), inner / etp % m.ep, inner % etp};
}

std::string rank_text(const Mesh& mesh, int rank) {
  const RankCoordinate c = coordinate_of(mesh, rank);
  std::string text;
  const auto add = [&](const char* axis, int size, int index) {
    if (size > 1) text += (text.empty() ? "" : ".") + std::string(axis) + std::to_string(index);
  };
  add("pp", mesh.pp, c.pp), add("dp", mesh.dp, c.dp), add("fsdp", mesh.fsdp, c.fsdp);
  add("ring", mesh.ring, c.ring), add("uly", mesh.uly, c.uly), add("tp", mesh.tp, c.tp);
  return text.empty() ? "rank 0" : text;
}

int data_rank(const Mesh& mesh, int rank) {
  const auto c = coordinate_of(mesh, rank);
  return c.dp * mesh.fsdp + c.fsdp;
}

int token_rank(const Mesh& mesh, int rank) {
  return data_rank(mesh, rank) * mesh.cp() + cp_index(mesh, coordinate_of(mesh, rank));
}

std::string refusal(const Mesh& m, const Flags& f, const ModelConfig& c) {
  const auto no = [&](const std::string& why) { return m.text() + ": " + why; };
  const auto value = [](const char* field, std::int64_t v) {
    return std::string(field) + "=" + std::to_string(v);
  };
  if (!c.is_moe() && (m.ep > 1 || m.etp > 0)) return no("ep and etp need a mixture-of-experts model");
  if (m.pp > c.num_hidden_layers)
    return no("pp must not exceed " + value("num_hidden_layers", c.num_hidden_layers));
  if (f.schedule == "interleaved" && 2 * m.pp > c.num_hidden_layers)
    return no("schedule=interleaved needs 2*pp not to exceed " +
              value("num_hidden_layers", c.num_hidden_layers));
  if (m.etp && m.etp != 1 && m.etp != m.tp) return no("etp must be 1 or tp");
  if (c.is_moe() && !divides(m.ep * m.expert_tp(), m.expert_group()))
    return no("ep*etp must divide fsdp*ring*uly*tp");
  if (c.is_moe() && !divides(m.ep, c.num_experts))
    return no("ep must divide " + value("num_experts", c.num_experts));
  const int t = m.tp * m.uly;
  if (!divides(t, c.num_attention_heads))
    return no("tp*uly must divide " + value("num_attention_heads", c.num_attention_heads));
  if (!divides(t, c.num_key_value_heads) && !divides(c.num_key_value_heads, t))
    return no("tp*uly must divide " + value("num_key_value_heads", c.num_key_value_heads) +
              " or be a multiple of it");
  // Else a tp rank's query heads read parts of two key-value heads (docs/decisions/0007).
  if (!divides(m.tp, c.num_key_value_heads) && !divides(c.num_key_value_heads, m.tp))
    return no("tp must divide " + value("num_key_value_heads", c.num_key_value_heads) +
              " or be a multiple of it");
  if (!divides(m.tp, c.linear_num_key_heads))
    return no("tp must divide " + value("linear_num_key_heads", c.linear_num_key_heads));
  const auto heads = [&](const std::string& gdn, const std::string& product) {
    return no("gdn=" + gdn + " needs " + product + " to divide " +
              value("linear_num_key_heads", c.linear_num_key_heads) + "; gdn=state works");
  };
  if (f.gdn == "heads" && !divides(m.tp * m.ring * m.uly, c.linear_num_key_heads))
    return heads("heads", "tp*ring*uly");
  if (f.gdn == "hybrid" && (m.ring == 1 || m.uly == 1)) return no("gdn=hybrid needs ring > 1 and uly > 1");
  if (f.gdn == "hybrid" && !divides(m.tp * m.uly, c.linear_num_key_heads)) return heads("hybrid", "tp*uly");
  if (f.sp && m.tp == 1) return no("sp needs tp > 1");
  if (c.has_vision() && f.vision == "tensor" && !divides(m.tp, c.vision.num_heads))
    return no("vision=tensor needs tp to divide vision_config.num_heads=" +
              std::to_string(c.vision.num_heads) + "; vision=images works");
  return "";
}

namespace {

// The mesh with every ep that its expert group can have, and with both values of etp where they differ.
void add_expert_axes(Mesh mesh, std::vector<Mesh>& list) {
  for (int ep = 1; ep <= mesh.expert_group(); ++ep) {
    if (mesh.expert_group() % ep != 0) continue;
    mesh.ep = ep, mesh.etp = 0;
    list.push_back(mesh);
    if (mesh.tp == 1) continue;
    mesh.etp = ep == 1 ? 1 : mesh.tp;
    list.push_back(mesh);
  }
}

}  // namespace

std::vector<Mesh> enumerate_meshes(int world) {
  std::vector<Mesh> list;
  const auto each_divisor = [](int n, const auto& visit) {
    for (int d = 1; d <= n; ++d)
      if (n % d == 0) visit(d, n / d);
  };
  each_divisor(world, [&](int pp, int of_dp) {
    each_divisor(of_dp, [&](int dp, int of_fsdp) {
      each_divisor(of_fsdp, [&](int fsdp, int of_ring) {
        each_divisor(of_ring, [&](int ring, int of_uly) {
          each_divisor(of_uly, [&](int uly, int tp) {
            Mesh m;
            m.pp = pp, m.dp = dp, m.fsdp = fsdp, m.ring = ring, m.uly = uly, m.tp = tp;
            add_expert_axes(m, list);
          });
        });
      });
    });
  });
  return list;
}

}  // namespace meshparity
