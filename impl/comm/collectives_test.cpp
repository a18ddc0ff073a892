// The in-process engine passes the checks of collective_checks.h for every group size.
#include <catch2/catch.hpp>

#include "impl/comm/collective_checks.h"

namespace meshparity::impl::testing::collectives_test {
namespace {

const std::vector<int> kSizes{1, 2, 3, 4, 5, 8};

}  // namespace

TEST_CASE("reductions equal their closed forms for every dtype, shape and group size") {
  for (int world : kSizes) CHECK_NOTHROW(on_world(world, check_reductions));
}

TEST_CASE(
    "gathers and reduce-scatters equal their closed forms for uneven and empty parts along every dimension") {
  for (int world : kSizes) CHECK_NOTHROW(on_world(world, check_gathers));
}

TEST_CASE("exchanges of uneven and empty row counts put every row in its place") {
  for (int world : kSizes) CHECK_NOTHROW(on_world(world, check_exchange));
}

}  // namespace meshparity::impl::testing::collectives_test
