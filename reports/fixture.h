// Verdicts for the tests of every report: one failing case with two tensors, one passing, one skipped, one
// crashed.
#pragma once

#include "reports/report.h"

namespace meshparity::reports {

inline CheckResult failing_check() {
  CheckResult c;
  c.check = "grads", c.tensor = "model.layers.3.mlp.down_proj.weight", c.state = State::fail;
  c.bound_used = 2.95, c.max_abs = 1.8e-3, c.max_rel = 4.2e-4;
  c.where = "[17,402] on tp1 local [17,146]";
  c.against = "golden";
  c.elements = 524288, c.outside = 41, c.worst = 9106;
  c.got = -3.125e-2, c.want = -2.9419e-2, c.bound = 6.1e-4;
  c.detail = {"where   41 of 524288 (0.0078 %) outside, all in columns 384..511",
              "bound   tolerance row grads/bfloat16: 4 u sqrt(k) * absmag"};
  return c;
}

inline CheckResult passing_check(const char* check, const char* tensor, double bound_used) {
  CheckResult c;
  c.check = check, c.tensor = tensor, c.bound_used = bound_used;
  c.max_abs = 1e-16, c.elements = 10;
  return c;
}

inline CaseResult failing_case() {
  CaseResult c;
  c.case_line = "--model tiny-dense --batch packed-odd --mesh tp2 --sp on --dtype bfloat16";
  c.id = "5c1e9a2", c.state = State::fail, c.seconds = 0.5;
  CheckResult invalid;
  invalid.check = "grads", invalid.tensor = "lm_head.weight", invalid.state = State::invalid,
  invalid.reason = "missing";
  c.checks = {passing_check("logits", "logits", 0.02), failing_check(), invalid};
  return c;
}

inline Run mixed_run() {
  Run run;
  run.command = "meshparity gate --cases 'a & b'", run.version = "0.1.0", run.versions = {"LibTorch 2.11.0"};
  CaseResult pass;
  pass.case_line = "--model tiny-moe --batch rows --mesh fsdp2.tp2", pass.id = "0000001",
  pass.state = State::pass;
  pass.seconds = 1.25;
  pass.checks = {passing_check("logits", "logits", 0.0301),
                 passing_check("grads", "model.norm.weight", 0.12)};
  CaseResult skip;
  skip.case_line = "--model tiny-moe --batch rows --mesh tp8", skip.id = "0000002", skip.state = State::skip;
  skip.reason = "tp8: tp must divide linear_num_key_heads=6";
  CaseResult error;
  error.case_line = "--model tiny-dense --batch rows --mesh tp4", error.id = "0000003",
  error.state = State::error;
  error.reason = "killed by SIGSEGV; stderr ends: \x1b[31mred\x01\n<end>";
  run.cases = {pass, failing_case(), skip, error};
  run.listed = 4, run.seconds = 3.75;
  return run;
}

}  // namespace meshparity::reports
