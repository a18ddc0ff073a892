// Orders and routes of context parallelism: nothing lost, nothing doubled, any size and any lengths.
#include "impl/parallel/context_order.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>

#include "harness/types/error.h"

namespace meshparity::impl::context_order_test {
namespace {

ContextStream stream_of(const std::vector<std::vector<std::int64_t>>& rows) {
  ContextStream stream;
  for (const auto& row : rows) {
    for (const std::int64_t length : row) stream.documents.push_back(stream.documents.back() + length);
    stream.rows.push_back(stream.documents.back());
  }
  return stream;
}

const std::vector<ContextStream> kStreams = {stream_of({{37}}), stream_of({{5, 1, 2}, {1}, {13, 1, 1, 30}}),
                                             stream_of({{1}, {2}, {3}}), stream_of({}),
                                             stream_of({{64}, {8, 8}})};
const std::vector<ContextSize> kSizes = {{2, 1}, {3, 1}, {1, 3}, {2, 2}, {5, 1}, {7, 1}, {3, 2}, {2, 4}};
const std::vector<ContextOrder> kOrders = {ContextOrder::contiguous, ContextOrder::zigzag,
                                           ContextOrder::zigzag_document};

}  // namespace

TEST_CASE("every token of a stream is on one context rank, and joined lists are the ring index's list") {
  for (const auto& stream : kStreams)
    for (const auto& size : kSizes)
      for (const auto order : kOrders) {
        Tokens all;
        for (int r = 0; r < size.ring; ++r) {
          Tokens joined, ring = ring_order(stream, order, size, r);
          for (int u = 0; u < size.uly; ++u) {
            const Tokens part = rank_order(stream, order, size, r * size.uly + u);
            joined.insert(joined.end(), part.begin(), part.end());
          }
          all.insert(all.end(), ring.begin(), ring.end());
          std::sort(joined.begin(), joined.end());
          std::sort(ring.begin(), ring.end());
          CHECK(joined == ring);
        }
        std::sort(all.begin(), all.end());
        Tokens want(stream.tokens());
        std::iota(want.begin(), want.end(), 0);
        CHECK(all == want);
      }
}

TEST_CASE("zigzag gives a ring index one chunk from each end of the row") {
  const ContextStream stream = stream_of({{12}});
  CHECK(ring_order(stream, ContextOrder::zigzag, {3, 1}, 0) == Tokens{0, 1, 10, 11});
  CHECK(ring_order(stream, ContextOrder::zigzag, {3, 1}, 2) == Tokens{4, 5, 6, 7});
  CHECK(rank_order(stream, ContextOrder::contiguous, {3, 1}, 1) == Tokens{4, 5, 6, 7});
  const ContextStream two = stream_of({{4, 8}});
  CHECK(ring_order(two, ContextOrder::zigzag_document, {2, 1}, 0) == Tokens{0, 3, 4, 5, 10, 11});
}

TEST_CASE("a route takes every row to its new place, and back") {
  for (const auto& stream : kStreams)
    for (const auto& size : kSizes)
      for (const auto from_order : kOrders)
        for (const auto to_order : kOrders) {
          const auto from = all_orders(stream, from_order, size), to = all_orders(stream, to_order, size);
          std::vector<Route> routes;
          for (int r = 0; r < size.ranks(); ++r) routes.push_back(make_route(from, to, r));
          for (int r = 0; r < size.ranks(); ++r) {
            // What arrives at r: from every source its picked rows for r.
            Tokens arrived;
            for (int s = 0; s < size.ranks(); ++s) {
              REQUIRE(routes[s].send[r] == routes[r].recv[s]);
              const auto first =
                  std::accumulate(routes[s].send.begin(), routes[s].send.begin() + r, std::int64_t{0});
              for (std::int64_t i = 0; i < routes[s].send[r]; ++i)
                arrived.push_back(from[s][routes[s].pick[first + i]]);
            }
            Tokens placed;
            for (const std::int64_t i : routes[r].place) placed.push_back(arrived[i]);
            CHECK(placed == to[r]);
          }
        }
}

TEST_CASE("lists that do not hold the same tokens are refused") {
  CHECK_THROWS_AS(make_route({{0, 1}, {2}}, {{0}, {1}}, 1), RunError);
  CHECK_THROWS_AS(make_route({{0}, {1}}, {{0, 1}, {2}}, 1), RunError);
  CHECK_THROWS_AS(context_order_of("zig"), InputError);
}

}  // namespace meshparity::impl::context_order_test
