// Two authors, one truth: the harness's place for every token and the implementation's lists.
#include "harness/layout/token_order.h"

#include <catch2/catch.hpp>

#include "harness/types/generator.h"
#include "impl/parallel/context_order.h"

namespace meshparity::cli {

TEST_CASE("harness and implementation put every token of a row on the same context rank, in the same order") {
  const Generator generator(7, "token order");
  std::uint64_t drawn = 0;
  const auto draw = [&](std::int64_t n) { return generator.below(drawn++, n); };
  for (int round = 0; round < 400; ++round) {
    std::vector<Range> documents;
    impl::ContextStream stream;
    std::int64_t end = 0;
    for (std::int64_t d = draw(6); d >= 0; --d) {
      const std::int64_t length = 1 + draw(round % 3 ? 40 : 4);
      documents.push_back({end, end + length});
      end += length;
      stream.documents.push_back(end);
    }
    stream.rows.push_back(end);
    const int ring = 1 + static_cast<int>(draw(7)), uly = 1 + static_cast<int>(draw(4));
    for (const char* layout : {"contiguous", "zigzag", "zigzag-document"}) {
      const auto order = ring > 1 ? impl::context_order_of(layout) : impl::ContextOrder::contiguous;
      INFO(layout << " ring" << ring << ".uly" << uly << ", " << end << " tokens");
      CHECK(layout::context_order(documents, layout, ring, uly) ==
            impl::all_orders(stream, order, {ring, uly}));
    }
  }
}

}  // namespace meshparity::cli
