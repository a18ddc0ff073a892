// Rules for counts that are wrong because the tokens are.
#include <cmath>

#include "harness/diagnose/case_view.h"

namespace meshparity::diagnose {

void input_rules(const CaseView& view, std::vector<Cause>& causes) {
  // Counts come before the first activation, but wrong tokens make both wrong.
  const CaseTensor* embedded = view.find("activations/embed");
  if (view.first->moment.phase != Phase::counts || !embedded || !embedded->wrong) return;
  for (auto cause : shape_causes(view, *embedded)) {
    if (!cause.name.starts_with("rows ")) continue;
    cause.name += " in the output of the embedding";
    cause.evidence = "the counts of labels are those of other tokens: " + cause.evidence;
    causes.push_back(std::move(cause));
  }
}

void row_rules(const CaseView& view, std::vector<Cause>& causes) {
  const CaseTensor* counts = view.find("denominators/sequence_mean");
  if (view.first->moment.phase != Phase::counts || !counts || !counts->wrong) return;
  // A document that two data ranks hold counts twice, one that none holds not at all.
  std::string several, none;
  for (std::int64_t d = 0; d < counts->want.numel(); ++d) {
    const double got = counts->got.at(d), want = counts->want.at(d);
    const double times = want > 0 ? got / want : 1;
    if (times != std::floor(times) || (want == 0 && got != 0)) return;
    if (times != 1) (times > 1 ? several : none) += " " + std::to_string(d);
  }
  if (!several.empty() && !none.empty())
    causes.push_back({"documents held by several data ranks, others by none",
                      "of every document all labels are counted or none, of document" + several +
                          " more than once, of" + none + " never",
                      0.97});
}

}  // namespace meshparity::diagnose
